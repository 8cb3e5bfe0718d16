"""What a door remembers of the events it acknowledged last, to answer a repeat without asking further.

Owns a table of fixed size. It may forget any event at any time, so only "known" means something: a shard's own memory
decides about everything else.
"""

import numpy as np

_WAYS = 8  # places that an id may take; with fewer, ids crowd each other out long before the table is full


class RecentIds:
    """A table of (id hash, digest) in sets of eight; in each set the newest event takes the oldest one's place.

    An id with another digest is not known: whether that is a conflict is the shard's to say.
    """

    def __init__(self, ids_max: int) -> None:
        sets = 1 << max((ids_max // _WAYS).bit_length() - 1, 0)
        self._mask = np.uint64(sets - 1)
        self._ids = np.zeros((sets, _WAYS), np.uint64)
        self._digests = np.zeros((sets, _WAYS), np.uint64)
        self._oldest = np.zeros(sets, np.intp)

    def known(self, ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """For each row whether the same event was remembered before."""
        sets = ids & self._mask
        found = self._ids[sets] == ids[:, None]
        rows = np.flatnonzero(found.any(axis=1))  # most often none: their digests need no look
        known = np.zeros(len(ids), bool)
        known[rows] = (found[rows] & (self._digests[sets[rows]] == digests[rows, None])).any(axis=1)
        return known

    def remember(self, ids: np.ndarray, digests: np.ndarray) -> None:
        """Note events that are durable now and were not known."""
        order = np.argsort(ids & self._mask, kind="stable")
        sets = (ids & self._mask)[order]
        rows = np.arange(len(sets))
        starts = np.concatenate([[True], sets[1:] != sets[:-1]])[: len(sets)]
        nth_of_set = rows - np.maximum.accumulate(np.where(starts, rows, 0))
        ways = (self._oldest[sets] + nth_of_set) % _WAYS
        self._ids[sets, ways] = ids[order]
        self._digests[sets, ways] = digests[order]
        self._oldest[sets] = (ways + 1) % _WAYS
