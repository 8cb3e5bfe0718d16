"""Commits of real effects into the books: SQLite with a full sync for each, and PostgreSQL where it is installed.

The effects are those of the engine's steps, made before. The limit is SQLite by itself: as many rows of the same
values in one statement and one transaction a step, without keys, totals, exceptions or an owner's row.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from adapters import embedded
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from benchmarks import parts, prepared, raw, workload
from benchmarks.bench_engine import BUSIEST_SHARD
from benchmarks.measure import Options, Result, percentiles_ms
from runtime.effects import Effects
from runtime.errors import ConfigError
from runtime.ports import START, LogRecord

EVENTS = 1_500_000
STEP_ROWS = (16_384, 65_536, 262_144)


class Step(NamedTuple):
    """What one commit stores."""

    record: LogRecord
    effects: Effects


def results(options: Options) -> Iterator[Result]:
    """For each step size SQLite and, where there is one, PostgreSQL."""
    load, config = workload.month_end(EVENTS, options.seed, options.mix), workload.configuration()
    rows = prepared.shard_rows(load.rows, config, BUSIEST_SHARD)
    for step_rows in STEP_ROWS:
        engine = prepared.engine(config)
        steps = [Step(record, engine.step([record])) for record in prepared.records(rows, step_rows)]
        events = sum(step.record.rows for step in steps)
        limit = raw.sql_insert([step.effects.deltas for step in steps], events)
        for name, database in (("SQLite", parts.books), ("PostgreSQL", _postgres)):
            try:
                with database() as url:
                    times = _commit(url, steps, options.seconds / len(STEP_ROWS) / 2)
            except ConfigError:
                continue
            yield _result(name, steps, times, limit, load)


def _result(name: str, steps: list[Step], times: list[float], limit: raw.Raw, load: workload.Workload) -> Result:
    lines = sum(len(step.effects.deltas) for step in steps) / len(steps)
    return Result(
        name="commit",
        case=name,
        events_per_s=round(len(times) * steps[0].record.rows / sum(times)),
        **percentiles_ms(times),
        frame_rows=steps[0].record.rows,
        fsync="full",
        limit="bare SQLite, the same lines",
        limit_events_per_s=limit.events_per_s,
        note=f"{len(times) / sum(times):,.0f} commits/s, {lines:,.0f} posting lines a commit",
        composition=load.composition,
    )


@contextmanager
def _postgres() -> Iterator[str]:
    with parts.folder() as place:
        part = embedded.start_postgres(place)
        try:
            upgrade(part.url)
            yield part.url
        finally:
            embedded.stop(part)


def _commit(url: str, steps: Sequence[Step], seconds: float) -> list[float]:
    """The time of each commit. After the last step the next shard begins with the first."""
    books, times, until = SqlBooks(url), [], time.monotonic() + seconds
    shard = 0
    while time.monotonic() < until:
        shard, after = shard + 1, START
        epoch = books.take_epoch(f"shard:{shard}", "benchmark").epoch
        for record, effects in steps:
            began = time.perf_counter()
            books.commit(shard, epoch, after, record.position, record.rows, effects)
            times.append(time.perf_counter() - began)
            after = record.position
            if time.monotonic() > until:
                break
    books.close()
    return times
