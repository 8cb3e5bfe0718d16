"""One gateway in a process of its own, as the actors run it but without Ray: `python -m benchmarks.serve LOG_URL`.

Prints its port when it serves; ends at SIGTERM.
"""

import asyncio
import signal
import sys

import msgspec
import uvloop

from actors.event_service import GatewayServer
from actors.gateway import Gateway
from adapters import wire
from adapters.clock import WallClock
from adapters.log.redis_streams import RedisLogWriter
from benchmarks import prepared, workload
from benchmarks.parts import WITHOUT_LIMIT
from runtime.limits import Limits
from runtime.routing import splitter


async def serve(log_url: str) -> None:
    """Serve until told to end."""
    config = workload.configuration()
    limits = msgspec.structs.replace(
        Limits(),
        shard_lag_resume_at_rows=WITHOUT_LIMIT,
        shard_lag_pause_at_rows=WITHOUT_LIMIT + 1,
        log_rows_pause_at=WITHOUT_LIMIT + 1,
    )
    gateway = Gateway(
        RedisLogWriter(log_url),
        vocabulary=prepared.vocabulary(config),
        split=splitter(prepared.rulebook(config).scopes(), prepared.SHARDS),
        limits=limits,
        clock=WallClock(),
    )
    server = GatewayServer(gateway, wire, host="127.0.0.1", port=0)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(await server.start(), flush=True)
    await ended.wait()
    await server.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
