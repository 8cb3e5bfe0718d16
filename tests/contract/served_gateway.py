"""A real gRPC server of a gateway, in a thread of its own, over a log in memory."""

import asyncio
import threading
from typing import Any

import grpc
import polars as pl

from actors.event_service import GatewayServer
from actors.gateway import Gateway
from adapters import wire
from adapters.log.memory import MemoryLog
from runtime.flow import frames
from runtime.limits import Limits
from runtime.ports import START
from runtime.routing import splitter
from runtime.schema import STAMPED, EntityTerms, KindTerms, Vocabulary

NOW_MS = 1_790_000_000_000
SHARDS = 3
VOCABULARY = Vocabulary(
    kinds={
        "charge_posted": KindTerms(requires=("facility", "account"), sign="positive"),
        "payout_paid": KindTerms(requires=("document",), sign="any"),
    },
    entities={"H1": EntityTerms(currencies=frozenset({"USD"}), facilities=frozenset(f"F{i}" for i in range(8)))},
)
SCOPES = {"charge_posted": "facility", "payout_paid": "entity"}
LIMITS = Limits(
    frame_rows_max=1_000,
    frame_bytes_max=300_000,
    shard_lag_pause_at_rows=2_000,
    shard_lag_resume_at_rows=1_000,
    log_rows_pause_at=100_000,
    retry_after_s=0.05,
)


class StoppedClock:
    """Always the same moment."""

    def now_ms(self) -> int:
        return NOW_MS

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


class SlowLog(MemoryLog):
    """Counts appends, each of which takes a moment, as a disk does. `behind`: rows that a shard seems to lag."""

    def __init__(self, shards: int) -> None:
        super().__init__(shards)
        self.appends = 0
        self.behind: dict[int, int] = {}

    async def append(self, entries):
        self.appends += 1
        await asyncio.sleep(0.02)
        return await super().append(entries)

    async def lag(self):
        lags = await super().lag()
        return {shard: lag._replace(appended=lag.appended + self.behind.get(shard, 0)) for shard, lag in lags.items()}


class Served:
    """A server in a thread of its own, on a free port."""

    def __init__(self, log: SlowLog, credentials: grpc.ServerCredentials | None = None) -> None:
        self.log, self._credentials = log, credentials
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: GatewayServer = self._run(self._make())
        self.target = f"127.0.0.1:{self._run(self._server.start())}"

    async def _make(self) -> GatewayServer:
        split = splitter(SCOPES, SHARDS)
        gateway = Gateway(self.log, vocabulary=VOCABULARY, split=split, limits=LIMITS, clock=StoppedClock())
        return GatewayServer(gateway, wire, host="127.0.0.1", port=0, credentials=self._credentials)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def events(self) -> pl.DataFrame:
        """Everything that the log holds, decoded."""
        records = self.log.read(dict.fromkeys(range(SHARDS), START), 10**9, 0).values()
        bodies = [frames.decode_sealed(record.body) for shard in records for record in shard]
        return pl.concat(bodies) if bodies else pl.DataFrame(schema=STAMPED)

    def lag_behind(self, shard: int, rows: int) -> None:
        """Make a shard look this many rows behind."""
        self.log.behind[shard] = rows

    def close(self) -> None:
        self._run(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
