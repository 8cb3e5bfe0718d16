"""The log alone: appends of whole frames to a real Valkey with fsync on every write, and reads of them.

The limit is the disk: the same bytes written to a file in the same place, with a sync after each append.
"""

import asyncio
import os
import time
from collections.abc import Iterator

from adapters.log.redis_streams import RedisLogReader, RedisLogWriter
from benchmarks import parts, prepared, workload
from benchmarks.measure import Options, Result, percentiles_ms
from runtime.ports import START, LogEntry

EVENTS = 600_000
FRAME_ROWS = (4_096, 16_384, 65_536)
APPENDS_AT_ONCE = 2  # as many as a gateway keeps under way
ROWS_MAX = 8_000_000  # the log keeps all of them in memory


def results(options: Options) -> Iterator[Result]:
    """Append and read for each frame size."""
    load, config = workload.month_end(EVENTS, options.seed, options.mix), workload.configuration()
    rows = prepared.stamped(load.rows, config)
    for frame_rows in FRAME_ROWS:
        entries = prepared.entries(rows, frame_rows)
        yield from appends(entries, options.seconds / len(FRAME_ROWS), load)


def appends(entries: list[LogEntry], seconds: float, load: workload.Workload) -> Iterator[Result]:
    """Appends of these entries in turn, then reads of what was appended."""
    limit = _disk_events_per_s(entries, seconds / 4)
    with parts.log() as url:
        began = time.monotonic()
        latencies = asyncio.run(_append(url, entries, seconds / 2))
        appended_s, rows = time.monotonic() - began, len(latencies) * entries[0].rows
        read_s = _read_s(url, rows)
    common = {"name": "log", "frame_rows": entries[0].rows, "composition": load.composition}
    size = round(sum(len(entry.body) for entry in entries) / sum(entry.rows for entry in entries))
    yield Result(
        case="append",
        events_per_s=round(rows / appended_s),
        **percentiles_ms(latencies),
        fsync=parts.FSYNC,
        limit="the same bytes to a file, synced after each",
        limit_events_per_s=limit,
        note=f"{size} bytes an event",
        **common,
    )
    yield Result(case="read", events_per_s=round(rows / read_s), fsync="none", **common)


async def _append(url: str, entries: list[LogEntry], seconds: float) -> list[float]:
    writer, latencies, until = RedisLogWriter(url), [], time.monotonic() + seconds
    rows_each = entries[0].rows

    async def appender(first: int) -> None:
        number = first
        while time.monotonic() < until and len(latencies) * rows_each < ROWS_MAX:
            began = time.perf_counter()
            await writer.append([entries[number % len(entries)]])
            latencies.append(time.perf_counter() - began)
            number += APPENDS_AT_ONCE

    await asyncio.gather(*(appender(i) for i in range(APPENDS_AT_ONCE)))
    await writer.close()
    return latencies


def _read_s(url: str, rows: int) -> float:
    reader, began, found = RedisLogReader(url), time.monotonic(), 0
    after = dict.fromkeys(range(prepared.SHARDS), START)
    while found < rows:
        for shard, records in reader.read(after, 65_536, 100).items():
            after[shard] = records[-1].position
            found += sum(record.rows for record in records)
    reader.close()
    return time.monotonic() - began


def _disk_events_per_s(entries: list[LogEntry], seconds: float) -> float:
    with parts.folder() as place, (place / "raw").open("wb", buffering=0) as file:
        began, rows = time.monotonic(), 0
        while time.monotonic() < began + seconds and rows < ROWS_MAX:
            entry = entries[rows // entries[0].rows % len(entries)]
            file.write(entry.body)
            os.fdatasync(file.fileno())
            rows += entry.rows
        return round(rows / (time.monotonic() - began))
