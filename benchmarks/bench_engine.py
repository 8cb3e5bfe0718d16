"""The engine alone on one core: log records in, effects out, nothing durable.

Owns the split of a step's time. The engine takes one shard's share of the mix, as a worker's does; `whole mix` gives
all facilities to one engine, which makes more and smaller posting sets of the same rows.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import polars as pl

from benchmarks import prepared, workload
from benchmarks.measure import Options, Result, percentiles_ms
from runtime.config import Config
from runtime.flow import frames
from runtime.flow.dedupe import DedupeMemory
from runtime.ledger.posting import PostingRules
from runtime.ports import LogRecord
from runtime.shard import ShardEngine
from runtime.step import Step

EVENTS = 1_500_000
FRAME_ROWS = (4_096, 16_384, 65_536)
BUSIEST_SHARD, CORES = 2, 1
PARTS = {
    "decode": (frames, "decode_sealed"),
    "dedupe": (DedupeMemory, "judge"),
    "match": (ShardEngine, "_match"),
    "post": (PostingRules, "post"),
    "totals": (Step, "effects"),
}


def results(options: Options) -> Iterator[Result]:
    """One result for each frame size, then the whole mix in the largest frames."""
    load, config = workload.month_end(EVENTS, options.seed), workload.configuration()
    seconds = options.seconds / (len(FRAME_ROWS) + 1)
    share = prepared.shard_rows(load.rows, config, BUSIEST_SHARD)
    what = f"one shard of {prepared.SHARDS}, {share['facility'].n_unique()} facilities"
    for frame_rows in FRAME_ROWS:
        yield _measured(what, prepared.records(share, frame_rows), config, seconds, load)
    whole = prepared.shard_rows(load.rows, config, None)
    yield _measured("whole mix in one shard", prepared.records(whole, FRAME_ROWS[-1]), config, seconds, load)


def _measured(case: str, records: list[LogRecord], config: Config, seconds: float, load: workload.Workload) -> Result:
    rows = sum(record.rows for record in records)
    passes = list(_passes(records, config, seconds))
    best = min(passes, key=sum)
    with _timed_parts() as spent:
        split_s = sum(_steps(records, config))
    parts = spent | {"rest": split_s - sum(spent.values())}
    return Result(
        name="engine",
        case=case,
        events_per_s=round(rows / sum(best)),
        **percentiles_ms(best),
        frame_rows=records[0].rows,
        fsync="none",
        cores=CORES,
        limit="decode the records and sum one column by one key",
        limit_events_per_s=round(rows / min(_scan_s(records) for _ in range(2))),
        ns_per_event={name: round(value / rows * 1e9) for name, value in parts.items()},
        note=f"best of {len(passes)} passes over {rows:,} events; median {rows / np.median([*map(sum, passes)]):,.0f}",
        composition=load.composition,
    )


def _passes(records: Sequence[LogRecord], config: Config, seconds: float) -> Iterator[list[float]]:
    """The times of all steps of a pass, at least two passes, each with an engine that remembers nothing."""
    until_s, done = time.monotonic() + seconds, 0
    while done < 2 or time.monotonic() < until_s:
        yield _steps(records, config)
        done += 1


def _steps(records: Sequence[LogRecord], config: Config) -> list[float]:
    engine, times = prepared.engine(config), []
    for record in records:
        began = time.perf_counter()
        engine.step([record])
        times.append(time.perf_counter() - began)
    return times


def _scan_s(records: Sequence[LogRecord]) -> float:
    began = time.perf_counter()
    for record in records:
        frames.decode_sealed(record.body).group_by("facility").agg(pl.col("amount_minor").sum())
    return time.perf_counter() - began


@contextmanager
def _timed_parts() -> Iterator[dict[str, float]]:
    """The seconds spent in each of PARTS while the block runs."""
    spent = dict.fromkeys(PARTS, 0.0)
    originals = {name: getattr(*place) for name, place in PARTS.items()}
    for name, (owner, attribute) in PARTS.items():
        setattr(owner, attribute, _timed(originals[name], name, spent))
    try:
        yield spent
    finally:
        for name, (owner, attribute) in PARTS.items():
            setattr(owner, attribute, originals[name])


def _timed(call: Callable, name: str, spent: dict[str, float]) -> Callable:
    @functools.wraps(call)
    def timed(*arguments: object, **named: object) -> object:
        began = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            spent[name] += time.perf_counter() - began

    return timed
