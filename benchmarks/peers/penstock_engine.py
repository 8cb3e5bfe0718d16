"""Penstock without its log and its books: Arrow frames → validated and hashed as in a gateway → one engine → effects.

One Polars thread, frames of 65,536 events, the task's rulebook. Beyond the task it keeps control totals and every
event's outcome, and proves in each step that all of it balances. Not durable.
"""

import tempfile
import time
from pathlib import Path

import polars as pl

from adapters import wire
from benchmarks import prepared
from benchmarks.peers.penstock_rules import configuration, found
from benchmarks.peers.task import Outcome, measure
from runtime.flow import frames
from runtime.limits import Limits
from runtime.ports import LogRecord
from runtime.validation import check


def run(folder: Path) -> Outcome:
    """The task over a folder of events."""
    with tempfile.TemporaryDirectory() as place:
        config = configuration(Path(place))
        engine, vocabulary = prepared.engine(config), prepared.vocabulary(config)
    limits, effects, events = Limits(), [], []
    for number, path in enumerate(sorted(folder.glob("*.arrow")), 1):
        checked = check(wire.from_arrow(path.read_bytes(), limits), vocabulary, time.time_ns() // 1_000_000)
        assert checked.rejected.is_empty()
        record = LogRecord(f"{number}-0", "events", len(checked.rows), frames.encode_arrow(checked.accepted))
        effects.append(engine.step([record]))
        events.append(pl.DataFrame(checked.accepted))
    lines = pl.concat(step.deltas for step in effects)
    outcomes = pl.concat(step.outcomes for step in effects)
    conflicts = pl.concat(step.exceptions for step in effects).filter(pl.col("type") == "event_conflict")
    return found(sum(step.counts.duplicate for step in effects), conflicts, outcomes, events, lines)


if __name__ == "__main__":
    measure(run)
