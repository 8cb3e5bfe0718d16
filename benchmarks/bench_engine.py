"""The engine alone on one core: log records in, effects out, nothing durable.

Owns the split of a step's time. The engine takes one shard's share of the mix, in the entries that gateways write and
the steps that a worker takes; "all in one shard" gives all facilities to one engine, which makes more and smaller
posting sets of the same rows.
"""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks import prepared, raw, workload
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.raw import Steps
from benchmarks.timing import timed
from runtime import intake
from runtime.config import Config
from runtime.flow import frames
from runtime.flow.dedupe import DedupeMemory
from runtime.intake import Intake
from runtime.ledger.posting import PostingRules
from runtime.step import Step

EVENTS = 1_500_000
FRAME_ROWS = 16_384  # as producers send them: the shard gets its part of each
STEP_ROWS = (16_384, 65_536, 262_144)  # the last is the most that a worker takes at once when it is behind
BUSIEST_SHARD, CORES = 2, 1
PARTS = {
    "decode": (frames, "decode_sealed"),
    "dedupe": (DedupeMemory, "judge"),
    "match": (Intake, "_match"),
    "register": (Intake, "_enter"),
    "cells": (intake, "celled"),
    "post": (PostingRules, "post"),
    "follow": (Intake, "_follow"),
    "totals": (Step, "effects"),
}


def results(options: Options) -> Iterator[Result]:
    """One result for each size of step, then the whole mix in the largest."""
    load, config = workload.month_end(EVENTS, options.seed, options.mix), workload.configuration()
    rows = prepared.stamped(load.rows, config)
    share = prepared.shard_records(rows, config, FRAME_ROWS, BUSIEST_SHARD)
    cases = [(f"steps of {most:,} rows, one shard of {prepared.SHARDS}", share, most) for most in STEP_ROWS]
    whole = prepared.records(rows, FRAME_ROWS)
    cases.append((f"steps of {STEP_ROWS[-1]:,} rows, all in one shard", whole, STEP_ROWS[-1]))
    for case, entries, most in cases:
        yield _measured(case, prepared.in_steps(entries, most), config, options.seconds / len(cases), load)


def _measured(case: str, steps: Steps, config: Config, seconds: float, load: workload.Workload) -> Result:
    rows = sum(record.rows for step in steps for record in step)
    passes = list(_passes(steps, config, seconds))
    best = min(passes, key=sum)
    with timed(PARTS) as spent:
        split_s = sum(_steps(steps, config))
    parts = {name: sum(calls_s) for name, calls_s in spent.items()}
    parts["rest"] = split_s - sum(parts.values())
    return Result(
        name="engine",
        case=case,
        events_per_s=round(rows / sum(best)),
        **percentiles_ms(best),
        frame_rows=FRAME_ROWS,
        fsync="none",
        cores=CORES,
        limit="decode the records and sum one column by one key",
        limit_events_per_s=raw.scan(steps).events_per_s,
        ns_per_event={name: round(value / rows * 1e9) for name, value in parts.items()},
        note=f"best of {len(passes)} passes over {rows:,} events in {len(steps)} steps; "
        f"median {rows / np.median([*map(sum, passes)]):,.0f}",
        composition=load.composition,
    )


def _passes(steps: Steps, config: Config, seconds: float) -> Iterator[list[float]]:
    """The times of all steps of a pass, at least one, each with an engine that remembers nothing."""
    until_s, done = time.monotonic() + seconds, 0
    while done < 1 or time.monotonic() < until_s:
        yield _steps(steps, config)
        done += 1


def _steps(steps: Steps, config: Config) -> list[float]:
    engine, times = prepared.engine(config), []
    for step in steps:
        began = time.perf_counter()
        engine.step(step)
        times.append(time.perf_counter() - began)
    return times
