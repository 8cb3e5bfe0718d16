"""Penstock the whole way: Arrow frames over gRPC → gateway → log with fsync → shard worker → SQL books.

The parts of a running Penstock as plain processes, without Ray: Valkey, one gateway, and here one worker beside the
producer, all on the same core. Durable when the clock stops: every event in the log (fsync before the answer),
every step in the books (one SQLite transaction, full sync), with checkpoints as they fall due. The figures come from
the books and the archive afterwards.
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import grpc
import polars as pl
from penstock.v1 import events_pb2 as v1

from actors.shard_worker import ShardWorker
from adapters.archive.parquet import ParquetArchive, in_commit_order
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.log.redis_streams import RedisLogReader
from benchmarks import parts, prepared
from benchmarks.measure import ROOT
from benchmarks.peers.penstock_rules import configuration, found
from benchmarks.peers.task import Outcome, measure_timed
from benchmarks.producer import ANSWER, METHOD, OPTIONS
from runtime.config import Config
from runtime.flow.frames import decode_sealed
from runtime.limits import Limits
from runtime.ports import NoMetrics

PAUSE_S = 0.02
STOP_S = 30.0
LINES = """
SELECT entity, line.value ->> 1, line.value ->> 2, period, kind, line.value ->> 5, line.value ->> 7, line.value ->> 8
FROM posting_sets, json_each(lines) AS line
"""
LINE_COLUMNS = ("entity", "facility", "department", "period", "kind", "account_code", "side", "amount_minor")
NAME_COLUMNS = ("source", "event_id")
CONFLICTS = "SELECT source, event_id FROM exceptions WHERE type = 'event_conflict'"


@contextmanager
def _gateway(log_url: str) -> Iterator[str]:
    """A gateway process; its address."""
    command = [sys.executable, "-m", "benchmarks.serve", log_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ), cwd=ROOT, text=True)
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(timeout=STOP_S)


class Books:
    """One worker with every shard, its books and its archive in a folder."""

    def __init__(self, config: Config, log_url: str, folder: Path) -> None:
        self.path, self.archive = folder / "books.sqlite", ParquetArchive(folder / "archive")
        self.sql = SqlBooks(f"sqlite:///{self.path}")
        self.worker = ShardWorker(
            lambda: range(prepared.SHARDS),
            holder="peers",
            engine=lambda: prepared.engine(config),
            log=RedisLogReader(log_url),
            books=self.sql,
            archive=self.archive,
            clock=WallClock(),
            limits=Limits(),
            metrics=NoMetrics(),
        )

    def run(self, ended: threading.Event) -> None:
        """Step until told to end."""
        while not ended.is_set():
            ended.wait(self.worker.step())

    def committed(self) -> int:
        """Events that are in the books."""
        return int(self.sql.shard_rows()["rows_total"].sum())

    def outcome(self, repeats: int) -> Outcome:
        """What the books and the archive hold, once the worker has been closed, and `repeats` that the gateway knew."""
        with closing(sqlite3.connect(self.path)) as books:
            lines = pl.DataFrame(books.execute(LINES).fetchall(), schema=list(LINE_COLUMNS), orient="row")
            conflicts = pl.DataFrame(books.execute(CONFLICTS).fetchall(), schema=list(NAME_COLUMNS), orient="row")
        repeats += self.sql.totals().filter(pl.col("state") == "duplicate")["events"].sum()
        steps = (step for shard in range(prepared.SHARDS) for step in self.archive.steps(shard))
        events = (decode_sealed(record.body) for step in steps for record in step.records if record.type == "events")
        return found(repeats, conflicts, in_commit_order(self.archive.scan().collect()), events, lines)


def _send(address: str, folder: Path) -> tuple[int, int]:
    """Submit the frames one after another, as a source does whose order counts: (logged, repeats)"""
    logged = repeats = 0
    with grpc.insecure_channel(address, OPTIONS) as channel:
        submit = channel.unary_unary(METHOD, response_deserializer=ANSWER)
        for path in sorted(folder.glob("*.arrow")):
            answer = submit(v1.SubmitRequest(arrow_frame=path.read_bytes()).SerializeToString())
            assert not answer.rejected
            logged, repeats = logged + answer.accepted, repeats + answer.duplicate
    return logged, repeats


def run_and_look(folder: Path) -> tuple[float, Outcome]:
    """The seconds from the first submit to the last commit, and then what is in the books."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upgrade(f"sqlite:///{place / 'books.sqlite'}")
        log_url = stack.enter_context(parts.log())
        address = stack.enter_context(_gateway(log_url))
        books, ended = Books(configuration(place), log_url, place), threading.Event()
        working = threading.Thread(target=books.run, args=(ended,))
        working.start()
        stack.callback(lambda: (ended.set(), working.join()))
        began = time.perf_counter()
        logged, repeats = _send(address, folder)
        while books.committed() < logged:
            time.sleep(PAUSE_S)
        seconds = time.perf_counter() - began
        ended.set()
        working.join()
        books.worker.close()
        return seconds, books.outcome(repeats)


if __name__ == "__main__":
    measure_timed(run_and_look)
