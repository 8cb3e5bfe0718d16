"""A shard with much in it: how long a checkpoint stops it, and how long until it commits again after its end.

The worker, the log, the books and the archive are the real ones, in one process. The first worker is filled, steps and
checkpoints; then it is dropped as a kill drops it, and a second one takes over: it restores, replays what was committed
after the checkpoint, and goes on. Starting a process comes on top of that. The limit is reading the snapshot's bytes.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from actors.shard_worker import ShardWorker
from adapters.archive.parquet import ParquetArchive
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.log.redis_streams import RedisLogReader, RedisLogWriter
from benchmarks import parts, prefilled, prepared, workload
from benchmarks.bench_engine import BUSIEST_SHARD, FRAME_ROWS
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.timing import Place, timed
from runtime import shard
from runtime.config import Config
from runtime.ledger.account_balances import AccountBalances
from runtime.ledger.correlation import Correlation
from runtime.ledger.open_items import OpenItems
from runtime.limits import Limits
from runtime.parked import ParkedRows
from runtime.ports import LogEntry, LogRecord, NoMetrics
from runtime.shard import ShardEngine

IDS, ACCOUNTS, OPEN_ITEMS = 10_000_000, 1_000_000, 1_000_000
SHORT_S, SHORT_PART = 5.0, 20  # asked for less than this: a trial with a twentieth of it, not a measurement
EVENTS = 1_000_000
WAIT_S = 120.0
CHECKPOINTS, COMMITS_EACH = 2, 10
STEPS = CHECKPOINTS * COMMITS_EACH + 2  # the last two are replayed
LIMITS = Limits(step_rows_max=FRAME_ROWS, checkpoint_age_s_max=3_600.0, checkpoint_commits_max=COMMITS_EACH)
CHECKPOINT: dict[str, Place] = {
    "stop": (ShardWorker, "_checkpoint_when_due"),
    "freeze": (ShardEngine, "freeze"),
    "freeze.items": (OpenItems, "freeze"),
    "freeze.registers": (Correlation, "freeze"),
    "freeze.parked": (ParkedRows, "freeze"),
    "beside.segment": (ParquetArchive, "put_segment"),
    "beside.runs": (ParquetArchive, "put_run"),
    "beside.body": (shard, "_body"),
    "beside.snapshot": (ParquetArchive, "put_snapshot"),
    "record": (SqlBooks, "record_checkpoint"),
    "trim": (RedisLogReader, "trim"),
    "compact": (ParquetArchive, "compact"),
}
RECOVERY: dict[str, Place] = {
    "read": (ParquetArchive, "get_snapshot"),
    "restore": (ShardEngine, "restore"),
    "restore.runs": (ParquetArchive, "get_run"),
    "restore.items": (OpenItems, "load"),
    "restore.registers": (Correlation, "load"),
    "restore.accounts": (AccountBalances, "load"),
    "steps": (ShardEngine, "step"),
    "commit": (SqlBooks, "commit"),
}


class _Where(NamedTuple):
    """Where log, books and archive are."""

    log_url: str
    books_url: str
    archive: Path

    def worker(self, engine: Callable[[], ShardEngine]) -> ShardWorker:
        """A worker of the one shard."""
        return ShardWorker(
            lambda: [BUSIEST_SHARD],
            holder="benchmark",
            engine=engine,
            log=RedisLogReader(self.log_url),
            books=SqlBooks(self.books_url),
            archive=ParquetArchive(str(self.archive)),
            clock=WallClock(),
            limits=LIMITS,
            metrics=NoMetrics(),
        )

    def committed(self) -> int:
        """Rows of the shard in the books."""
        books = SqlBooks(self.books_url)
        rows = books.shard_rows()
        books.close()
        return int(rows["rows_total"].sum())


def results(options: Options) -> Iterator[Result]:
    """The checkpoint, then the recovery."""
    scale = 1 if options.seconds >= SHORT_S else SHORT_PART
    config = workload.configuration()
    size = {"ids": IDS // scale, "accounts": ACCOUNTS // scale, "open_items": OPEN_ITEMS // scale}
    load = workload.month_end(EVENTS, options.seed)
    entries = prepared.shard_records(prepared.stamped(load.rows, config), config, FRAME_ROWS, BUSIEST_SHARD)
    filled = prefilled.engine(config, **size)
    common = {
        "name": "recovery",
        "frame_rows": FRAME_ROWS,
        "fsync": parts.FSYNC,
        "note": ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in size.items()),
        "composition": load.composition,
    }
    with parts.log() as log_url, parts.books() as books_url, parts.folder() as archive:
        where = _Where(log_url, books_url, archive)
        asyncio.run(_append(log_url, entries))
        yield _checkpoint(where, filled, common)
        yield _recovery(where, config, size["ids"], common)


async def _append(url: str, records: list[LogRecord]) -> None:
    writer = RedisLogWriter(url)
    for record in records:
        await writer.append([LogEntry(BUSIEST_SHARD, "events", record.rows, record.body)])
    await writer.close()


def _checkpoint(where: _Where, filled: ShardEngine, common: dict) -> Result:
    """Steps with a checkpoint after every so many; the stop is the longest time that the shard's thread gave to one."""
    worker = where.worker(lambda: filled)
    with timed(CHECKPOINT) as spent:
        steps_s = [_step_s(worker) for _ in range(STEPS)]
    snapshot = max(where.archive.rglob("*.snap"), key=lambda path: path.stat().st_mtime, default=None)
    stop_ms = round(max(spent.pop("stop")) * 1000)
    return Result(
        case="a checkpoint stops the shard",
        events_per_s=round(where.committed() / sum(steps_s)),
        **percentiles_ms(steps_s),
        figures={
            "stop_ms": stop_ms,
            **_parts_ms(spent, CHECKPOINTS),
            "snapshot_mib": round(snapshot.stat().st_size / 2**20) if snapshot else 0,
        },
        **common,
    )


def _step_s(worker: ShardWorker) -> float:
    began = time.perf_counter()
    worker.step()
    return time.perf_counter() - began


def _recovery(where: _Where, config: Config, ids: int, common: dict) -> Result:
    """The first worker is gone: a second one takes over, until the books have moved."""
    read_s = _read_s(where.archive)
    before, opens_on = where.committed(), config.opens_on()
    rules, items_max = prepared.rulebook(config), config.bounds().open_items_max
    with timed(RECOVERY) as spent:
        began = time.perf_counter()
        worker = where.worker(lambda: ShardEngine(rules, opens_on, items_max))
        while where.committed() == before:
            worker.step()
            if time.perf_counter() - began > WAIT_S:
                raise TimeoutError("the shard did not go on")
        recovered_s = time.perf_counter() - began
    return Result(
        case="from an end to the next commit",
        events_per_s=round(ids / recovered_s),
        limit="read the snapshot's file",
        limit_events_per_s=round(ids / read_s),
        figures={"seconds": round(recovered_s, 2), **_parts_ms(spent, 1)},
        **common | {"note": common["note"] + "; events/s are remembered ids"},
    )


def _parts_ms(spent: dict[str, list[float]], times: int) -> dict[str, float]:
    return {f"{name}_ms": round(sum(calls_s) / times * 1000) for name, calls_s in spent.items()}


def _read_s(archive: Path) -> float:
    began = time.perf_counter()
    for path in archive.rglob("*.snap"):
        path.read_bytes()
    return max(time.perf_counter() - began, 1e-6)
