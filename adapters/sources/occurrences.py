"""Numbers that tell equal rows of one file apart, so that each keeps an id of its own in every reading.

A file may hold two different movements that look the same. Their ids need a number, and the number may not depend on
where the file is cut into frames. Owns eight bytes for each row of the file and the repeated keys. Never keeps a row.
"""

from array import array
from collections import Counter

import numpy as np
import xxhash


def key_hash(*parts: object) -> int:
    """A stable 64-bit hash of a row's identity."""
    return xxhash.xxh64_intdigest("\x1f".join(map(str, parts)).encode())


class Occurrences:
    """Told every key in a first reading, it numbers the equal ones in the second."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._repeated: frozenset[int] = frozenset()
        self._numbered: Counter[int] = Counter()

    def note(self, key: int) -> None:
        """First reading: one row's key."""
        self._keys.append(key)

    def note_all(self, keys: np.ndarray) -> None:
        """First reading: many rows' keys, of type uint64."""
        self._keys.frombytes(np.ascontiguousarray(keys, np.uint64).tobytes())

    def close(self) -> frozenset[int]:
        """End of the first reading: the keys that occur more than once."""
        keys, counts = np.unique(np.frombuffer(self._keys, np.uint64), return_counts=True)
        self._repeated, self._keys = frozenset(keys[counts > 1].tolist()), array("Q")
        return self._repeated

    def number(self, key: int) -> int:
        """Second reading: 1 for the first row of this key, 2 for the next, in file order."""
        if key not in self._repeated:
            return 1
        self._numbered[key] += 1
        return self._numbered[key]
