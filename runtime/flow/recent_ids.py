"""What a door remembers of the events it acknowledged last, to answer a repeat without asking further.

Owns two tables of fixed size. It may forget any event at any time, so only "known" means something: a shard's own
memory decides about everything else.
"""

from collections.abc import Mapping

import numpy as np


class RecentIds:
    """(id hash, digest) of the last events, each in two tables, in which a later event takes an earlier one's place.

    An id is forgotten when both of its places were taken: k ids later with a chance of (1 - exp(-k / size))^2. Good for
    the last seconds, which is when producers repeat. Moving those that give way would remember longer, and cost six
    times as much.
    An id with another digest is not known: whether that is a conflict is the shard's to say.
    """

    def __init__(self, ids_max: int) -> None:
        self._bits = (ids_max - 1).bit_length()
        self._appended: Mapping[int, int] | None = None
        self._forget()

    def observe(self, appended: Mapping[int, int] | None) -> None:
        """Take note of the rows that each shard's log ever took; None when that can't be read.

        A server that comes back with fewer, or was away and may have, has lost what it acknowledged and had not yet on
        disk. Whoever sends that again must not hear that it is known.
        """
        before, self._appended = self._appended, appended
        if appended is not None and (before is None or any(appended.get(s, 0) < rows for s, rows in before.items())):
            self._forget()

    def _forget(self) -> None:
        self._tables = _Table(self._bits, shift=0), _Table(self._bits, shift=64 - self._bits)

    def known(self, ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """For each row whether the same event was remembered before."""
        one, other = (table.holds(ids, digests) for table in self._tables)
        return one | other

    def knows(self, id_hash: int, digest: int) -> bool:
        """`known` of one event, without the fixed cost of calls on arrays."""
        return any(table.holds_one(id_hash, digest) for table in self._tables)

    def remember(self, ids: np.ndarray, digests: np.ndarray) -> None:
        """Note events that are durable now and were not known."""
        for table in self._tables:
            table.put(ids, digests)

    def remember_one(self, id_hash: int, digest: int) -> None:
        """`remember` of one event."""
        for table in self._tables:
            table.put_one(id_hash, digest)


class _Table:
    """Ids with their digests, each at the place that some of its bits name."""

    def __init__(self, bits: int, shift: int) -> None:
        self._shift, self._mask = np.uint64(shift), np.uint64((1 << bits) - 1)
        self._ids = np.zeros(1 << bits, np.uint64)
        self._digests = np.zeros(1 << bits, np.uint64)

    def holds(self, ids: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """For each row whether it is there."""
        places = self._places(ids)
        held = self._ids[places] == ids
        rows = np.flatnonzero(held)  # most often none: their digests need no look
        held[rows] = self._digests[places[rows]] == digests[rows]
        return held

    def holds_one(self, id_hash: int, digest: int) -> bool:
        """`holds` of one event."""
        place = self._place(id_hash)
        return self._ids.item(place) == id_hash and self._digests.item(place) == digest

    def put_one(self, id_hash: int, digest: int) -> None:
        """`put` of one event."""
        place = self._place(id_hash)
        self._ids[place] = id_hash
        self._digests[place] = digest

    def put(self, ids: np.ndarray, digests: np.ndarray) -> None:
        """Take rows in, each in the place of whatever is there."""
        places = self._places(ids)
        self._ids[places] = ids
        self._digests[places] = digests

    def _place(self, id_hash: int) -> int:
        return (id_hash >> int(self._shift)) & int(self._mask)

    def _places(self, ids: np.ndarray) -> np.ndarray:
        return (ids >> self._shift) & self._mask
