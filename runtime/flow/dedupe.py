"""What a shard remembers of every event it has taken: 16 bytes an id, sorted, in a few runs, and 4 to 16 for marks.

A new id mostly has no mark, and is not looked for in the runs. Owns the answer to "new, repeat or conflict?". Never
forgets: a repeat after a year is caught like one after a second.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from runtime.runs import Run, added, order_of

_MARKS_MIN = 65_536
_MARKS_AN_ID = 4  # at least: then a fifth of the new ids, at most, have to be looked for in the runs
Entries = Run  # ids, and the digest of each


class Verdict(IntEnum):
    """What an id and its content are to the memory."""

    NEW = 0
    REPEAT = 1
    CONFLICT = 2


class DedupeMemory:
    """Sorted runs of (id hash, content digest), merged geometrically, so look-ups touch few runs.

    An id may stand with several digests: its first content and the conflicting ones seen since, so that a repeated
    conflict is a repeat too.
    """

    def __init__(self) -> None:
        self._runs: list[Entries] = []
        self._marks = np.zeros(_MARKS_MIN, bool)  # by the first bits of an id

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._runs)

    def judge(self, ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """Verdict of each row (int8), the first of several equal ids judged first; remembers what is not a repeat."""
        order = order_of(ids)
        batch = ids[order], digests[order]
        verdicts = np.full(len(ids), Verdict.NEW, np.int8)
        known = self._known(batch[0])
        doubtful = _equal_to_neighbour(batch[0]) | _marked(batch[0], known[0])
        verdicts[doubtful] = _verdicts(known, (batch[0][doubtful], batch[1][doubtful]))
        kept = verdicts != Verdict.REPEAT
        self._remember(batch[0][kept], batch[1][kept])
        answer = np.empty(len(ids), np.int8)
        answer[order] = verdicts
        return answer

    def _known(self, ids: np.ndarray) -> Entries:
        """Every remembered entry of these ids, which come sorted."""
        maybe = ids[self._marks[self._marks_of(ids)]]
        wanted = maybe[np.append(True, maybe[1:] != maybe[:-1])] if len(maybe) else maybe
        found = [_entries_of(wanted, run) for run in self._runs]
        none = np.empty(0, np.uint64)
        return np.concatenate([none, *(ids for ids, _ in found)]), np.concatenate([none, *(d for _, d in found)])

    def _remember(self, ids: np.ndarray, digests: np.ndarray) -> None:
        if not len(ids):
            return
        self._runs = added(self._runs, (ids, digests), _merged)
        self._mark(ids)

    def _marks_of(self, ids: np.ndarray) -> np.ndarray:
        return (ids >> np.uint64(65 - len(self._marks).bit_length())).astype(np.intp)

    def _mark(self, *marked: np.ndarray) -> None:
        if len(self) * _MARKS_AN_ID > len(self._marks):
            self._marks = np.zeros(2 << (len(self) * _MARKS_AN_ID).bit_length(), bool)
            marked = tuple(ids for ids, _ in self._runs)
        for ids in marked:
            self._marks[self._marks_of(ids)] = True

    def dump(self) -> list[Entries]:
        """All that is remembered, in sorted runs that never change any more: a merge makes another one."""
        return list(self._runs)

    def load(self, runs: Sequence[Entries]) -> None:
        """Start from a snapshot."""
        self._runs = list(runs)
        self._mark(*(ids for ids, _ in runs))


def _merged(earlier: Entries, later: Entries) -> Entries:
    """Two runs as one; of equal ids the earlier first."""
    ids = np.concatenate([earlier[0], later[0]])
    order = np.argsort(ids, kind="stable")
    return ids[order], np.concatenate([earlier[1], later[1]])[order]


def _equal_to_neighbour(ids: np.ndarray) -> np.ndarray:
    """Which of sorted ids stand there more than once."""
    equal = np.zeros(len(ids) + 1, bool)
    equal[1:-1] = _equal_next(ids)
    return equal[1:] | equal[:-1]


def _marked(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of sorted ids are among the known ones, which are few."""
    marked = np.zeros(len(ids), bool)
    marked[np.searchsorted(ids, known)] = True  # the first of equal ids; the others are doubtful anyway
    return marked


def _entries_of(wanted: np.ndarray, run: Entries) -> Entries:
    """A run's entries of the wanted ids, which are sorted and distinct."""
    ids, digests = run
    first = np.searchsorted(ids, wanted)
    hit = first < len(ids)
    hit[hit] = ids[first[hit]] == wanted[hit]
    if not hit.any():
        return ids[:0], digests[:0]
    first = first[hit]
    count = np.searchsorted(ids, wanted[hit], side="right") - first
    before = np.cumsum(count) - count
    at = np.repeat(first - before, count) + np.arange(count.sum())
    return ids[at], digests[at]


def _verdicts(known: Entries, batch: Entries) -> np.ndarray:
    """Judge a batch, sorted by id, by what is known of its ids and by its own earlier rows."""
    verdicts = np.full(len(known[0]) + len(batch[0]), Verdict.NEW, np.int8)
    if not len(known[0]) and not _equal_next(batch[0]).any():
        return verdicts
    ids, digests = np.concatenate([known[0], batch[0]]), np.concatenate([known[1], batch[1]])
    by_id = np.argsort(ids, kind="stable")
    by_content = np.lexsort((digests, ids))
    verdicts[by_id[1:][_equal_next(ids[by_id])]] = Verdict.CONFLICT
    same = _equal_next(ids[by_content]) & _equal_next(digests[by_content])
    verdicts[by_content[1:][same]] = Verdict.REPEAT
    return verdicts[len(known[0]) :]


def _equal_next(values: np.ndarray) -> np.ndarray:
    return values[1:] == values[:-1]
