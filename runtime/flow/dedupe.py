"""What a shard remembers of every event it has taken: 16 bytes an id, sorted, in a few runs.

Owns the answer to "new, repeat or conflict?". Never forgets: a repeat after a year is caught like one after a second.
"""

from enum import IntEnum

import numpy as np

_RUN_RATIO = 4  # a run is merged into the one before it unless that one is this many times larger


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
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._runs)

    def judge(self, ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """Verdict of each row (int8), the first of several equal ids judged first; remembers what is not a repeat."""
        order = np.argsort(ids, kind="stable")
        sorted_ids, sorted_digests = ids[order], digests[order]
        verdicts = self._against_runs(sorted_ids, sorted_digests)
        _within_batch(sorted_ids, sorted_digests, verdicts)
        kept = verdicts != Verdict.REPEAT
        self._remember(sorted_ids[kept], sorted_digests[kept])
        answer = np.empty(len(ids), np.int8)
        answer[order] = verdicts
        return answer

    def _against_runs(self, ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
        seen = np.zeros(len(ids), bool)
        same = np.zeros(len(ids), bool)
        for run_ids, run_digests in self._runs:
            at = np.searchsorted(run_ids, ids)
            inside = at < len(run_ids)
            hit = np.zeros(len(ids), bool)
            hit[inside] = run_ids[at[inside]] == ids[inside]
            while hit.any():  # usually once; more often only for ids with conflicts
                rows = np.flatnonzero(hit)
                seen[rows] = True
                same[rows] |= run_digests[at[rows]] == digests[rows]
                at[rows] += 1
                hit[rows] = (at[rows] < len(run_ids)) & (run_ids[np.minimum(at[rows], len(run_ids) - 1)] == ids[rows])
        return np.where(same, Verdict.REPEAT, np.where(seen, Verdict.CONFLICT, Verdict.NEW)).astype(np.int8)

    def _remember(self, ids: np.ndarray, digests: np.ndarray) -> None:
        if not len(ids):
            return
        self._runs.append((ids, digests))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < _RUN_RATIO * len(self._runs[-1][0]):
            (later_ids, later_digests), (earlier_ids, earlier_digests) = self._runs.pop(), self._runs.pop()
            merged = np.concatenate([earlier_ids, later_ids])
            order = np.argsort(merged, kind="stable")
            self._runs.append((merged[order], np.concatenate([earlier_digests, later_digests])[order]))

    def dump(self) -> tuple[bytes, bytes]:
        """All ids and digests as little-endian uint64, for a snapshot."""
        if not self._runs:
            return b"", b""
        ids = np.concatenate([run[0] for run in self._runs])
        digests = np.concatenate([run[1] for run in self._runs])
        order = np.argsort(ids, kind="stable")
        return ids[order].astype("<u8").tobytes(), digests[order].astype("<u8").tobytes()

    def load(self, ids: bytes, digests: bytes) -> None:
        """Start from a snapshot."""
        self._runs = [(np.frombuffer(ids, "<u8"), np.frombuffer(digests, "<u8"))] if ids else []


def _within_batch(ids: np.ndarray, digests: np.ndarray, verdicts: np.ndarray) -> None:
    """Judge rows whose id stands more than once in the batch against those before them. Rare, so row by row."""
    for row in np.flatnonzero(ids[1:] == ids[:-1]) + 1:
        if verdicts[row] == Verdict.REPEAT:
            continue
        first = row
        while first and ids[first - 1] == ids[row]:
            first -= 1
        repeated = (digests[first:row] == digests[row]).any()
        verdicts[row] = Verdict.REPEAT if repeated else Verdict.CONFLICT
