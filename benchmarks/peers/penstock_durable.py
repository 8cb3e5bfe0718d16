"""Penstock the whole way: Arrow frames over gRPC → gateway → log with fsync → shard worker → SQL books.

The parts of a running Penstock as plain processes, without Ray: Valkey, one gateway, and here one worker beside the
producer, all on the same core. Durable when the clock stops: every event in the log (fsync before the acknowledgement),
every step in the books (one SQLite transaction, full sync), with checkpoints as they fall due. The figures are read from
the books and the archive afterwards.
"""

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import polars as pl
from penstock.v1 import events_pb2 as v1

from actors.shard_worker import ShardWorker
from adapters.archive.parquet import ParquetArchive
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.log.redis_streams import RedisLogReader
from benchmarks import parts, prepared
from benchmarks.measure import ROOT
from benchmarks.peers.penstock_rules import configuration, found
from benchmarks.peers.task import Outcome, measure
from benchmarks.producer import Producer
from runtime.config import Config
from runtime.limits import Limits
from runtime.ports import NoMetrics

UNDER_WAY = 2
STOP_S = 30.0
LINES = """
SELECT s.entity, l.facility, l.department, s.period, s.kind, l.account_code, l.side, l.amount_minor
FROM posting_lines l JOIN posting_sets s USING (shard, position_ms, position_seq, set_no)
"""
CONFLICTS = "SELECT source, event_id FROM exceptions WHERE type = 'event_conflict'"
REPEATS = "SELECT sum(events) FROM totals WHERE state = 'duplicate'"


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
            range(prepared.SHARDS),
            holder="peers",
            engine=lambda: _unmapped_engine(config),
            log=RedisLogReader(log_url),
            books=self.sql,
            archive=self.archive,
            clock=WallClock(),
            limits=Limits(),
            metrics=NoMetrics(),
        )
"""

