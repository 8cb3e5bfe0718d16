"""The whole way: Arrow frames over gRPC to committed books, on real Ray, with log, books, producer on the same cores.

Counts what the books say was committed between two moments, after a warm-up; afterwards everything sent must be in the
books, once. The limit is the log's own append of the same rows.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import polars as pl
import psutil

from actors.cli.installation import Installation
from adapters.books.sql import SqlBooks
from benchmarks import bench_log, parts, prepared, workload
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.producer import Producer, Sent

EVENTS, FRAME_ROWS = 800_000, 16_384
WORKERS, GATEWAYS = 3, 2
UNDER_WAY, CONNECTIONS = 16, 8
AHEAD_ROWS_MAX = 1_000_000  # the producer holds back while so many acknowledged events are not committed yet
WARM_UP_S, DRAIN_S, POLL_S = 5.0, 120.0, 0.25


PROCESSES = {"ray::AsyncShell": "gateways", "ray::ThreadShell": "workers", "valkey-server": "log"}


class Moment(NamedTuple):
    """Rows committed and CPU seconds used until now, by kind of process."""

    at_s: float
    committed: int
    cpu_s: dict[str, float]


class Window(NamedTuple):
    """What was measured between two moments, all that was sent, and how long the rest took to be committed."""

    began: Moment
    ended: Moment
    sent: Sent
    drained_s: float

    @property
    def seconds(self) -> float:
        return self.ended.at_s - self.began.at_s

    @property
    def committed(self) -> int:
        return self.ended.committed - self.began.committed

    def cpu_ns(self) -> dict[str, int]:
        """CPU time an event, by kind of process."""
        used = {name: total - self.began.cpu_s.get(name, 0.0) for name, total in self.ended.cpu_s.items()}
        return {name: round(seconds / max(self.committed, 1) * 1e9) for name, seconds in used.items()}


def results(options: Options) -> Iterator[Result]:
    """One result: sustained for the given time."""
    load, config = workload.month_end(EVENTS, options.seed), workload.configuration()
    requests = prepared.arrow_requests(load, FRAME_ROWS)
    raw_entries = prepared.entries(prepared.stamped(load.rows, config), FRAME_ROWS)
    raw = next(bench_log.appends(raw_entries, 4.0, load))
    with parts.penstock(WORKERS, GATEWAYS) as installation:
        window = asyncio.run(_measure(installation, requests, options.seconds))
        _check(installation, window.sent)
    yield Result(
        name="end_to_end",
        case=f"{GATEWAYS} gateways, {WORKERS} workers",
        events_per_s=round(window.committed / window.seconds),
        **percentiles_ms(window.sent.latencies_s),
        frame_rows=FRAME_ROWS,
        fsync=parts.FSYNC,
        cores=os.cpu_count() or 1,
        limit="log append",
        limit_events_per_s=raw.events_per_s,
        ns_per_event=window.cpu_ns(),
        note=f"over {window.seconds:.0f} s after a warm-up; {window.sent.events:,} sent, {window.sent.refused} calls "
        f"refused, drained in {window.drained_s:.1f} s; latency is submit to acknowledgement; "
        "ns an event are CPU time",
        composition=load.composition,
    )


async def _measure(installation: Installation, requests: list[bytes], seconds: float) -> Window:
    producer = Producer(installation.record().gateway, CONNECTIONS)
    books = SqlBooks(installation.wiring().books_url)
    rounds = prepared.in_rounds(requests)
    sending = asyncio.create_task(producer.send(rounds, WARM_UP_S + seconds, UNDER_WAY))
    pacing = asyncio.create_task(_hold_back(producer, books))
    await asyncio.sleep(WARM_UP_S)
    began = await _moment(installation, books)
    await asyncio.sleep(seconds)
    ended = await _moment(installation, books)
    sent = await sending
    pacing.cancel()
    await producer.close()
    drained_s = await _drain(books, sent)
    books.close()
    return Window(began, ended, sent, drained_s)


async def _hold_back(producer: Producer, books: SqlBooks) -> None:
    """Offer no more than can be committed: otherwise refusals would be measured, which cost the gateways dearly."""
    while True:
        ahead = producer.answered - await _committed(books)
        producer.may_send.clear() if ahead > AHEAD_ROWS_MAX else producer.may_send.set()
        await asyncio.sleep(POLL_S)


async def _moment(installation: Installation, books: SqlBooks) -> Moment:
    committed = await _committed(books)
    return Moment(time.monotonic(), committed, await asyncio.to_thread(_cpu_s, installation))


def _cpu_s(installation: Installation) -> dict[str, float]:
    record, used = installation.record(), Counter(producer=sum(psutil.Process().cpu_times()[:2]))
    roots = [psutil.Process(part.pid) for part in (*record.parts, record.ray)]
    for process in [child for root in roots for child in (root, *root.children(recursive=True))]:
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            kind = next((kind for start, kind in PROCESSES.items() if start in title), "ray itself")
            used[kind] += sum(process.cpu_times()[:2])
    return dict(used)


async def _committed(books: SqlBooks) -> int:
    rows = await asyncio.to_thread(books.shard_rows)
    return int(rows["rows_total"].sum())


async def _drain(books: SqlBooks, sent: Sent) -> float:
    """Wait until all that was accepted is in the books; how long that took."""
    began = time.monotonic()
    while await _committed(books) < sent.accepted:
        if time.monotonic() > began + DRAIN_S:
            raise TimeoutError(f"of {sent.accepted:,} accepted rows {await _committed(books):,} are in the books")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began


def _check(installation: Installation, sent: Sent) -> None:
    """Every event is in the books once: distinct ones as accepted there, the others as duplicates."""
    books = SqlBooks(installation.wiring().books_url)
    totals = books.totals().group_by("state").agg(pl.col("events").sum())
    books.close()
    counted = dict(totals.rows())
    assert counted["accepted"] + counted.get("duplicate", 0) == sent.accepted, (counted, sent.accepted)
