"""The log alone: appends of whole frames to a real Valkey with fsync on every write, and reads of them.

The limit is the server by itself: bare XADD of the same bytes, and XREAD of them. As a figure, the disk by itself: the
same bytes written to a file in the same place, with a sync after each append.
"""

import asyncio
import time
from collections.abc import Iterator

from adapters.log.redis_streams import RedisLogReader, RedisLogWriter
from benchmarks import parts, prepared, raw, workload
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.raw import APPENDS_AT_ONCE, ROWS_MAX
from runtime.ports import START, LogEntry

EVENTS = 600_000
FRAME_ROWS = (4_096, 16_384, 65_536)


def results(options: Options) -> Iterator[Result]:
    """Append and read for each frame size."""
    load, config = workload.month_end(EVENTS, options.seed, options.mix), workload.configuration()
    rows = prepared.stamped(load.rows, config)
    for frame_rows in FRAME_ROWS:
        entries = prepared.entries(rows, frame_rows)
        yield from _appends(entries, options.seconds / len(FRAME_ROWS), load)


def _appends(entries: list[LogEntry], seconds: float, load: workload.Workload) -> Iterator[Result]:
    """Appends of these entries in turn, then reads of what was appended."""
    bodies, frame_rows = [entry.body for entry in entries], entries[0].rows
    disk = raw.file_append(bodies, frame_rows, seconds / 4)
    added, read = raw.log_append_and_read(bodies, frame_rows, seconds / 4)
    with parts.log() as url:
        began = time.monotonic()
        latencies = asyncio.run(_append(url, entries, seconds / 2))
        appended_s, rows = time.monotonic() - began, len(latencies) * entries[0].rows
        read_s = _read_s(url, rows)
    common = {"name": "log", "frame_rows": frame_rows, "composition": load.composition}
    size = round(sum(len(entry.body) for entry in entries) / sum(entry.rows for entry in entries))
    yield Result(
        case="append",
        events_per_s=round(rows / appended_s),
        **percentiles_ms(latencies),
        fsync=parts.FSYNC,
        limit="bare XADD of the same bytes",
        limit_events_per_s=added.events_per_s,
        figures=raw.figures([disk]),
        note=f"{size} bytes an event",
        **common,
    )
    yield Result(
        case="read",
        events_per_s=round(rows / read_s),
        fsync="none",
        limit="bare XREAD of the same bytes",
        limit_events_per_s=read.events_per_s,
        **common,
    )


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
