"""What a running Penstock says of itself: rows committed, rows waiting, CPU time, and when a request is in the books.

Owns these readings, each by a connection of its own. Never sends events.
"""

import asyncio
import contextlib
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
import psutil
from penstock.v1 import events_pb2 as v1

from actors.cli.installation import Installation
from actors.cli.reports import status
from adapters.books.sql import SqlBooks
from adapters.log.redis_streams import RedisLogWriter
from benchmarks import prepared
from runtime.ports import position_key

PROCESSES = {"ray::AsyncShell": "gateways", "ray::ThreadShell": "workers", "valkey-server": "log"}
POLL_S = 0.02


class Watch:
    """The books and the log of an installation."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        wiring = installation.wiring()
        self.books, self._log = SqlBooks(wiring.books_url), RedisLogWriter(wiring.log_url)
        self._derived = [name for name, kind in prepared.rulebook(wiring.config).kind.items() if kind.derived]

    async def shards(self) -> dict[int, tuple[str, int]]:
        """Of each shard its worker, and its rows in the books, with those that steps have derived."""
        rows = await asyncio.to_thread(self.books.shard_rows)
        return {
            shard: (holder.partition("/")[0], total)
            for shard, holder, total in rows.select("shard", "holder", "rows_total").iter_rows()
        }

    async def committed(self) -> int:
        """Rows in the books, of all shards."""
        return sum(rows for _, rows in (await self.shards()).values())

    async def waiting(self) -> int:
        """Rows in the log that are not committed."""
        return sum(lag.waiting for lag in (await self._log.lag()).values())

    def submitted(self) -> dict[str, int]:
        """Events of producers in the books, by state; what steps have derived is not counted."""
        totals = self.books.totals().filter(~pl.col("kind").is_in(self._derived))
        return dict(totals.group_by("state").agg(pl.col("events").sum()).rows())

    def cpu_s(self) -> dict[str, float]:
        """CPU time used until now, by kind of process."""
        record = self._installation.record()
        roots = [psutil.Process(part.pid) for part in (*record.parts, record.ray)]
        return cpu_s(
            [child for root in roots for child in (root, *root.children(recursive=True))], PROCESSES, "ray itself"
        )

    async def close(self) -> None:
        """Give the connections back."""
        self.books.close()
        await self._log.close()


def cpu_s(processes: Iterable[psutil.Process], kinds: Mapping[str, str], other: str) -> dict[str, float]:
    """CPU time used until now by this process, the producer, and by these. `kinds`: by what a command line holds."""
    used = Counter(producer=sum(psutil.Process().cpu_times()[:2]))
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends meanwhile
            title = " ".join(process.cmdline())
            used[next((kind for part, kind in kinds.items() if part in title), other)] += sum(process.cpu_times()[:2])
    return dict(used)


def pids(installation: Installation) -> dict[str, int]:
    """The processes of the actors and of the servers beside them, by their names."""
    ending = signal.getsignal(signal.SIGTERM)
    actors = {part["name"]: part["pid"] for part in status(installation)["parts"] if part["pid"]}
    signal.signal(signal.SIGTERM, ending)  # asking the actors, Ray has set its own
    return actors | {part.name: part.pid for part in installation.record().parts}


class Commits:
    """How long requests take from the moment they were due until the books have all their rows."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._pending: deque[tuple[float, dict[int, tuple]]] = deque()
        self._none_pending = asyncio.Event()
        self.latencies_s: list[float] = []

    def answered(self, answer: v1.SubmitResponse, due: float) -> None:
        """Wait for what this answer names."""
        wanted = {at.shard: position_key(at.position) for at in answer.durability.positions}
        if wanted:
            self._pending.append((due, wanted))
            self._none_pending.clear()

    async def follow(self) -> None:
        """Read the books again and again, until cancelled."""
        while True:
            rows = await asyncio.to_thread(self._watch.books.shard_rows)
            now = time.monotonic()
            at = {shard: position_key(position) for shard, position in rows.select("shard", "position").iter_rows()}
            there = [entry for entry in self._pending if _reached(entry[1], at)]
            self.latencies_s += [now - due for due, _ in there]
            done = {id(entry) for entry in there}
            self._pending = deque(entry for entry in self._pending if id(entry) not in done)
            if not self._pending:
                self._none_pending.set()
            await asyncio.sleep(POLL_S)

    async def all_there(self, seconds: float) -> None:
        """Wait until nothing is missing; TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._none_pending.wait()


def _reached(wanted: dict[int, tuple], at: dict[int, tuple]) -> bool:
    return all(shard in at and at[shard] >= position for shard, position in wanted.items())


def percentile_ms(seconds: list[float], percent: float) -> float:
    """One percentile of some durations."""
    return round(float(np.percentile(np.asarray(seconds) * 1000, percent)), 1) if seconds else float("nan")
