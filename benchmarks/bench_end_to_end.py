"""The whole way: Arrow frames over gRPC to committed books, on real Ray, with log, books, producer on the same cores.

First as fast as it goes, in the largest frames: counts what the books say was committed between two moments, after a
warm-up that lasts until no shard moves to another worker any more. Then half of that is offered at fixed moments, in
smaller frames, as who wants answers soon would: how long until the acknowledgement, and until the books have it.
Afterwards everything sent must be in the books, once. The limit is the slowest of what its machinery does alone with
the same rows: a gRPC echo, appends to the log and reads of it, a scan by Polars on one core, inserts into a bare table.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from actors.cli.installation import Installation
from actors.supervisor import RELIEF_EVERY_S
from benchmarks import parts, prepared, raw, workload
from benchmarks.bench_engine import BUSIEST_SHARD
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.producer import Producer, Sent
from benchmarks.watching import Commits, Watch, percentile_ms

EVENTS, FRAME_ROWS = 800_000, 65_536
HALF_FRAME_ROWS, HALF_FIRST_ROUND = 8_192, 500  # of a thousand rounds
UNDER_WAY, CONNECTIONS = 16, 8
RAW_S, RAW_STEP_ROWS, RAW_STEPS = 3.0, 65_536, 4
AHEAD_ROWS_MAX = 1_000_000  # the producer holds back while so many acknowledged events are not committed yet
# A shard moves at most once in RELIEF_EVERY_S; what it has moved to is busy with its replay for a while.
SETTLED_S, WARM_UP_S_MAX = 2 * RELIEF_EVERY_S + 5, 120.0
DRAIN_S, POLL_S = 240.0, 0.25
HALF_LOAD_PART = 0.5  # of the time that the full load is measured


class Moment(NamedTuple):
    """Each shard's worker and rows committed, and CPU seconds used until now by kind of process."""

    at_s: float
    shards: dict[int, tuple[str, int]]
    cpu_s: dict[str, float]


class Window(NamedTuple):
    """What was measured between two moments, all that was sent, and how long the rest took to be committed."""

    began: Moment
    ended: Moment
    sent: Sent
    drained_s: float
    own_share: float  # of the rows that were committed: the others were derived by steps

    @property
    def events_per_s(self) -> float:
        """Events of the producer that were committed, each second."""
        return self.events / (self.ended.at_s - self.began.at_s)

    @property
    def events(self) -> float:
        return sum(self._rows_by_worker().values()) * self.own_share

    @property
    def busiest_percent(self) -> float:
        """What the worker with the most rows had of them."""
        rows = self._rows_by_worker()
        return round(100 * max(rows.values()) / max(sum(rows.values()), 1), 1)

    def _rows_by_worker(self) -> Counter[str]:
        rows: Counter[str] = Counter()
        for shard, (worker, total) in self.ended.shards.items():
            rows[worker] += total - self.began.shards[shard][1]
        return rows

    def cpu_ns(self) -> dict[str, int]:
        """CPU time an event, by kind of process."""
        used = {name: total - self.began.cpu_s.get(name, 0.0) for name, total in self.ended.cpu_s.items()}
        return {name: round(seconds / max(self.events, 1) * 1e9) for name, seconds in used.items()}


class HalfLoad(NamedTuple):
    """Half of what was reached, offered at fixed moments: latencies from the moment that was meant."""

    sent: Sent
    committed_s: list[float]


def results(options: Options) -> Iterator[Result]:
    """Sustained for the given time, then half of it."""
    load = workload.month_end(EVENTS, options.seed, options.mix)
    requests = prepared.arrow_requests(load, FRAME_ROWS)
    limits = _limits(load, requests)
    slowest = raw.slowest(limits)
    with parts.penstock(options.workers, options.gateways, options.shards) as installation:
        smaller = prepared.arrow_requests(load, HALF_FRAME_ROWS)
        window, half = asyncio.run(_measure(installation, requests, smaller, options.seconds))
    common = {
        "name": "end_to_end",
        "fsync": parts.FSYNC,
        "cores": os.cpu_count() or 1,
        "composition": load.composition,
    }
    how = f"{options.gateways} gateways, {options.workers} workers, {options.shards} shards"
    yield Result(
        case=how,
        frame_rows=FRAME_ROWS,
        events_per_s=round(window.events_per_s),
        **percentiles_ms(window.sent.latencies_s),
        limit=f"the slowest raw step: {slowest.name}",
        limit_events_per_s=slowest.events_per_s,
        figures={**raw.figures(limits), "busiest_worker_percent": window.busiest_percent},
        ns_per_event=window.cpu_ns(),
        note=f"over {options.seconds:.0f} s after a warm-up; {window.sent.events:,} sent, {window.sent.refused} calls "
        f"refused, drained in {window.drained_s:.1f} s; latency is submit to acknowledgement; "
        "ns an event are CPU time",
        **common,
    )
    yield Result(
        case=f"{how}, half load",
        frame_rows=HALF_FRAME_ROWS,
        events_per_s=round(half.sent.events / half.sent.seconds),
        **percentiles_ms(half.sent.latencies_s),
        figures={f"submit_to_committed_p{p}_ms": percentile_ms(half.committed_s, p) for p in (50, 99)},
        note=f"{len(half.committed_s)} requests, {half.sent.refused} calls refused; "
        "latency is submit to acknowledgement, from the moment that was meant",
        **common,
    )


def _limits(load: workload.Workload, requests: list[bytes]) -> list[raw.Raw]:
    """What each piece of machinery does with these rows when nothing else runs."""
    config = workload.configuration()
    stamped = prepared.stamped(load.rows, config)
    share = prepared.shard_records(stamped, config, FRAME_ROWS, BUSIEST_SHARD)
    steps = prepared.in_steps(share, RAW_STEP_ROWS)[:RAW_STEPS]
    engine = prepared.engine(config)
    deltas = [engine.step(step).deltas for step in steps]
    return [
        raw.grpc_echo(requests, FRAME_ROWS, RAW_S),
        *raw.log_append_and_read([r.body for r in prepared.records(stamped, FRAME_ROWS)], FRAME_ROWS, RAW_S),
        raw.scan(steps),
        raw.sql_insert(deltas, sum(record.rows for step in steps for record in step)),
    ]


async def _measure(
    installation: Installation, requests: list[bytes], smaller: list[bytes], seconds: float
) -> tuple[Window, HalfLoad]:
    watch, target = Watch(installation), installation.record().gateway
    try:
        window = await full_load(watch, target, prepared.in_rounds(requests), seconds)
        rounds, calls_per_s = prepared.in_rounds(smaller, HALF_FIRST_ROUND), window.events_per_s / 2 / HALF_FRAME_ROWS
        half = await _half_load(watch, target, rounds, calls_per_s, seconds * HALF_LOAD_PART)
        await drain(watch, window.sent.accepted + half.sent.accepted)
        return window, half
    finally:
        await watch.close()


async def settled(watch: Watch) -> None:
    """Wait until shards have stayed where they are for a while, or for WARM_UP_S_MAX."""
    began = since = time.monotonic()
    before: list[str] = []
    while time.monotonic() < min(since + SETTLED_S, began + WARM_UP_S_MAX):
        workers = [worker for worker, _ in (await watch.shards()).values()]
        if workers != before:
            before, since = workers, time.monotonic()
        await asyncio.sleep(POLL_S)


async def full_load(
    watch: Watch,
    target: str,
    rounds: Iterator[bytes],
    seconds: float,
    warm_up: Callable[[Watch], Awaitable[None]] = settled,
) -> Window:
    """As fast as it goes, for so long after a warm-up, until all is committed."""
    producer = Producer(target, CONNECTIONS)
    sending = asyncio.create_task(producer.send(rounds, WARM_UP_S_MAX + seconds, UNDER_WAY))
    pacing = asyncio.create_task(_hold_back(producer, watch))
    await warm_up(watch)
    began = await _moment(watch)
    await asyncio.sleep(seconds)
    ended = await _moment(watch)
    pacing.cancel()
    producer.stop()
    sent = await sending
    await producer.close()
    drained_s = await drain(watch, sent.accepted)
    return Window(began, ended, sent, drained_s, sent.accepted / await watch.committed())


async def _half_load(
    watch: Watch, target: str, rounds: Iterator[bytes], calls_per_s: float, seconds: float
) -> HalfLoad:
    producer, commits = Producer(target, CONNECTIONS), Commits(watch)
    producer.on_answer = commits.answered
    following = asyncio.create_task(commits.follow())
    sent = await producer.offer(rounds, calls_per_s, seconds)
    await commits.all_there(DRAIN_S)
    following.cancel()
    await producer.close()
    return HalfLoad(sent, commits.latencies_s)


async def _hold_back(producer: Producer, watch: Watch) -> None:
    """Offer no more than can be committed: otherwise refusals would be measured, which cost the gateways dearly."""
    while True:
        ahead = await watch.waiting()
        producer.may_send.clear() if ahead > AHEAD_ROWS_MAX else producer.may_send.set()
        await asyncio.sleep(POLL_S)


async def _moment(watch: Watch) -> Moment:
    shards = await watch.shards()
    return Moment(time.monotonic(), shards, await asyncio.to_thread(watch.cpu_s))


async def drain(watch: Watch, accepted: int) -> float:
    """Wait until all that was accepted is in the books, once; how long that took.

    Distinct events are accepted there, repeats that no gateway knew are duplicates.
    """
    began = time.monotonic()
    while True:
        counted = await asyncio.to_thread(watch.submitted)
        found = counted.get("accepted", 0) + counted.get("duplicate", 0)
        assert found <= accepted, f"{accepted:,} events were accepted, the books count {found:,}: {counted}"
        if found == accepted:
            return time.monotonic() - began
        if time.monotonic() > began + DRAIN_S:
            raise TimeoutError(f"of {accepted:,} accepted events {found:,} are in the books")
        await asyncio.sleep(POLL_S)
