"""A gRPC server that parses a request and answers at once: what a call costs by itself. `python -m benchmarks.echo`.

Prints its port when it serves; ends at SIGTERM.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import uvloop
from penstock.v1 import events_pb2 as v1

from benchmarks.measure import ROOT
from benchmarks.producer import METHOD, OPTIONS


@contextmanager
def echo() -> Iterator[str]:
    """The server in a process of its own; its address."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.echo"], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(timeout=30)


async def serve() -> None:
    """Serve until told to end."""

    async def answer(_request: v1.SubmitRequest, _context: grpc.aio.ServicerContext) -> v1.SubmitResponse:
        return v1.SubmitResponse(accepted=1)

    submit = grpc.unary_unary_rpc_method_handler(
        answer, v1.SubmitRequest.FromString, v1.SubmitResponse.SerializeToString
    )
    _, service, method = METHOD.split("/")
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: submit}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(port, flush=True)
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve())
