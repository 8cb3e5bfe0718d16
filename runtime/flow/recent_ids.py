"""What a door remembers of the events it acknowledged last, to answer a repeat without asking further.

Owns a table of fixed size. It may forget any event at any time, so only "known" means something: a shard's own memory
decides about everything else.
"""

import numpy as np


class RecentIds:
    """A table of (id hash, digest) in which each id has one place, and a later event takes an earlier one's.

    So k ids later an id is known with a chance of exp(-k / size): good for the last seconds, which is when producers
    repeat. Several places for each id would remember longer, and cost nine times as much.
    An id with another digest is not known: whether that is a conflict is the shard's to say.
    """

    def __init__(self, ids_max: int) -> None:
        size = 1 << (ids_max.bit_length() - 1)
        self._mask = np.uint64(size - 1)
        self._ids = np.zeros(size, np.uint64)
        self._digests = np.zeros(size, np.uint64)

    def known(self, ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """For each row whether the same event was remembered before."""
        places = ids & self._mask
        known = self._ids[places] == ids
        rows = np.flatnonzero(known)  # most often none: their digests need no look
        known[rows] = self._digests[places[rows]] == digests[rows]
        return known

    def remember(self, ids: np.ndarray, digests: np.ndarray) -> None:
        """Note events that are durable now and were not known."""
        places = ids & self._mask
        self._ids[places] = ids
        self._digests[places] = digests
