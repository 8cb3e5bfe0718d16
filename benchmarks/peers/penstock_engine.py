"""Penstock without its log and its books: Arrow frames → validated and hashed as in a gateway → one engine → effects.

One Polars thread, frames of 65,536 events, the task's rulebook. Beyond the task it keeps control totals and every
event's outcome, and proves in each step that all of it balances. Not durable.
"""

import tempfile
import time
from pathlib import Path

import polars as pl

from benchmarks import prepared
from benchmarks.peers.penstock_rules import configuration, found
from benchmarks.peers.task import Outcome, measure
from runtime.flow import frames
from runtime.ports import LogRecord
from runtime.validation import validate


def run(folder: Path) -> Outcome:
    """The task over a folder of events."""
    with tempfile.TemporaryDirectory() as place:
        config = configuration(Path(place))
        engine, vocabulary = prepared.engine(config), prepared.vocabulary(config)
    effects = []
    for number, path in enumerate(sorted(folder.glob("*.arrow")), 1):
        validated = validate(pl.read_ipc_stream(path), vocabulary, time.time_ns() // 1_000_000)
        assert validated.rejected.is_empty()
        body = frames.encode(validated.accepted.drop("row"))
        effects.append(engine.step([LogRecord(f"{number}-0", "events", len(validated.accepted), body)]))
    lines = pl.concat(step.deltas for step in effects)
    outcomes = pl.concat(step.outcomes for step in effects)
    conflicts = pl.concat(step.exceptions for step in effects).filter(pl.col("type") == "event_conflict")
    return found(sum(step.counts.duplicate for step in effects), conflicts, outcomes, lines)


if __name__ == "__main__":
    measure(run)
