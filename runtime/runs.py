"""Runs: sorted columns that never change once they are made. A merge makes another run.

Owns when runs are merged, what a run is as bytes, and the name that each keeps from one snapshot to the next, so that
it is stored once. Never looks for anything in a run.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from runtime.ports import Buffer

Run = tuple[np.ndarray, np.ndarray]  # sorted keys (uint64), and a number of 64 bits for each
RATIO = 2  # a run is merged into the one before it unless that one is this many times larger

_R = TypeVar("_R", bound=Run)
_LAST_BITS = np.uint64(48)  # of a hash, all but the first 16


def added(runs: Sequence[_R], run: _R, merged: Callable[[_R, _R], _R]) -> list[_R]:
    """Runs with another one, of which the last are merged while they are not much smaller than the ones before."""
    after = [*runs, run]
    while len(after) > 1 and len(after[-2][0]) < RATIO * len(after[-1][0]):
        after[-2:] = [merged(*after[-2:])]
    return after


def order_of(hashes: np.ndarray) -> np.ndarray:
    """The stable order of hashes (uint64), in a quarter of the time of an argsort: their first 16 bits NumPy sorts by
    radix, and what is nearly sorted then it puts right almost in one pass."""
    nearly = np.argsort((hashes >> _LAST_BITS).astype(np.uint16), kind="stable")
    return nearly[np.argsort(hashes[nearly], kind="stable")]


class RunNames:
    """The names of one store's runs."""

    def __init__(self) -> None:
        self._named: dict[int, tuple[str, Run]] = {}  # by the keys' own place in memory, which is theirs while kept

    def of(self, runs: Sequence[Run], fresh: Iterator[str]) -> dict[str, Run]:
        """Each run under its name, one that has none under a fresh one; those that are gone are forgotten."""
        named = [self._named.get(id(run[0])) or (next(fresh), run) for run in runs]
        self._named = {id(run[0]): (name, run) for name, run in named}
        return dict(named)


def parts_of(run: Run) -> list[memoryview]:
    """A run's keys and numbers as bytes, little-endian."""
    return [memoryview(column.astype(f"<{column.dtype.kind}8", copy=False)).cast("B") for column in run]


def run_of(content: Buffer, numbers: str) -> Run:
    """The run that these bytes are, without copying them; `numbers` is their type, "<u8" or "<i8"."""
    count = len(content) // 16
    return np.frombuffer(content, "<u8", count), np.frombuffer(content, numbers, count, count * 8)
