"""What the machinery does by itself with the same bytes: gRPC, the log's server, Polars, SQLite, the disk.

Owns these limits, which stand beside what Penstock makes of them. Each is measured alone, with nothing of Penstock's
but the coding of its entries. Rates are of the events that the bytes hold.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import polars as pl
import redis
import redis.asyncio
import uvloop

from benchmarks import parts
from benchmarks.echo import echo
from benchmarks.producer import Producer
from runtime.flow import frames
from runtime.ports import LogRecord

STREAM = "raw"
APPENDS_AT_ONCE = 2  # as many as a gateway keeps under way
ROWS_MAX = 8_000_000  # the log keeps all of them in memory
READ_ENTRIES = 64
SCANS = 2
Steps = Sequence[Sequence[LogRecord]]


class Raw(NamedTuple):
    """One limit."""

    name: str
    events_per_s: float


def slowest(raws: Iterable[Raw]) -> Raw:
    """The one that bounds the others."""
    return min(raws, key=lambda one: one.events_per_s)


def figures(raws: Iterable[Raw]) -> dict[str, float]:
    """Limits as figures of a result."""
    return {f"raw_{one.name.lower().replace(' ', '_')}_per_s": one.events_per_s for one in raws}


def grpc_echo(requests: Sequence[bytes], rows: int, seconds: float) -> Raw:
    """Requests of so many rows to a server that parses them and answers at once."""

    async def calls_per_s(target: str) -> float:
        producer = Producer(target)
        sent = await producer.send(cycle(requests), seconds)
        await producer.close()
        return len(sent.latencies_s) / sent.seconds

    with echo() as target:
        return Raw("gRPC echo", round(uvloop.run(calls_per_s(target)) * rows))


def log_append_and_read(bodies: Sequence[bytes], rows: int, seconds: float) -> tuple[Raw, Raw]:
    """Bare XADD of bodies of so many rows, with fsync on every write, and XREAD of what was added."""

    async def append(url: str) -> int:
        client, until = redis.asyncio.Redis.from_url(url, protocol=2), time.monotonic() + seconds
        left = islice(cycle(bodies), ROWS_MAX // rows)
        added = await asyncio.gather(*(_add(client, left, until) for _ in range(APPENDS_AT_ONCE)))
        await client.aclose()
        return sum(added) * rows

    with parts.log() as url:
        began = time.monotonic()
        added = asyncio.run(append(url))
        appended_s = time.monotonic() - began
        read_s = _read_s(url)
    return Raw("log append", round(added / appended_s)), Raw("log read", round(added / read_s))


async def _add(client: redis.asyncio.Redis, bodies: Iterable[bytes], until: float) -> int:
    added = 0
    for body in bodies:
        await client.xadd(STREAM, {"b": body})
        added += 1
        if time.monotonic() > until:
            break
    return added


def _read_s(url: str) -> float:
    client, after, began = redis.Redis.from_url(url, protocol=2), "0", time.monotonic()
    while found := client.xread({STREAM: after}, count=READ_ENTRIES):
        after = found[0][1][-1][0]
    client.close()
    return time.monotonic() - began


def file_append(bodies: Sequence[bytes], rows: int, seconds: float) -> Raw:
    """The same bytes to a file, synced after each body."""
    with parts.folder() as place, (place / "raw").open("wb", buffering=0) as file:
        began, written = time.monotonic(), 0
        for body in islice(cycle(bodies), ROWS_MAX // rows):
            file.write(body)
            os.fdatasync(file.fileno())
            written += rows
            if time.monotonic() > began + seconds:
                break
        return Raw("file append", round(written / (time.monotonic() - began)))


def scan(steps: Steps) -> Raw:
    """Decode the entries of each step, and sum one column by one key."""
    rows = sum(record.rows for step in steps for record in step)
    return Raw("Polars scan", round(rows / min(_scan_s(steps) for _ in range(SCANS))))


def _scan_s(steps: Steps) -> float:
    began = time.perf_counter()
    for step in steps:
        rows = frames.decode_sealed(*(record.body for record in step))
        rows.group_by("facility").agg(pl.col("amount_minor").sum())
    return time.perf_counter() - began


def sql_insert(deltas: Sequence[pl.DataFrame], events: int) -> Raw:
    """The posting lines of so many events into a bare SQLite table without keys, one synced transaction a frame."""
    columns = deltas[0].columns
    insert = f"INSERT INTO l VALUES ({', '.join('?' * len(columns))})"
    values = [[tuple(map(_plain, row)) for row in frame.iter_rows()] for frame in deltas]
    with parts.folder() as place:
        connection = sqlite3.connect(place / "raw.sqlite", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            f"CREATE TABLE l ({', '.join(columns)})",
        ):
            connection.execute(statement)
        began = time.perf_counter()
        for rows in values:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, rows)
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
        connection.close()
    return Raw("SQL insert", round(events / seconds))


def _plain(value: object) -> object:
    return value if isinstance(value, (int, str)) else str(value)
