"""A checkpoint on its way: what a shard had at one position becomes durable while the shard goes on.

Owns the order in which the parts of the archive are written, and what is cleared away afterwards. Never touches the
shard, the log or the books: it runs in a thread of its own, on what never changes any more.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import polars as pl

from runtime.effects import OUTCOMES, empty
from runtime.ports import Archive, ArchivedStep
from runtime.runs import parts_of
from runtime.shard import Frozen


class Saver(Protocol):
    """Carries calls out one after another, in the order in which they came, beside whoever asks."""

    def submit(self, call: Callable, *args: Any) -> Future: ...

    def shutdown(self, wait: bool = True) -> None: ...


class Taken(NamedTuple):
    """What a shard had at `position`, and what it took and what became of it since `after`."""

    shard: int
    epoch: int
    after: str
    position: str
    steps: Sequence[ArchivedStep]
    outcomes: Sequence[pl.DataFrame]
    state: Frozen
    stored: frozenset[str]  # the runs that the archive holds already


class Saving(NamedTuple):
    """A checkpoint under way: `stored` will give the snapshot's name."""

    taken: Taken
    stored: Future
    began_ms: int


def store(archive: Archive, taken: Taken) -> str:
    """Make it durable; the snapshot's name. Whoever dies on the way leaves the checkpoint before as it was.

    1. Segment: dying after it leaves a file that the next segment from the same position replaces.
    2. Runs, each once: dying after some leaves files that nothing names.
    3. Snapshot: the same, until the books name it.
    """
    outcomes = pl.concat(taken.outcomes) if taken.outcomes else empty(OUTCOMES)
    archive.put_segment(taken.shard, taken.after, taken.position, outcomes, taken.steps)
    for name, run in taken.state.runs.items():
        if name not in taken.stored:
            archive.put_run(taken.shard, name, parts_of(run))
    body = taken.state.body()
    return archive.put_snapshot(taken.shard, taken.position, taken.epoch, body, list(taken.state.runs))


def clear(archive: Archive, shard: int, snapshot: str, position: str) -> None:
    """Once the books name this snapshot: forget what it replaces, and merge small segments. Dying before it leaves only
    what is cleared after the next checkpoint."""
    archive.forget_snapshots(shard, keep=snapshot)
    archive.compact(shard, through=position)
