"""Inverses: which earlier event of the opposite amount an event takes back, so that it posts where that one did.

Owns days, versions and signs of events that are alike (same kind, key and named columns, same amount but for its sign).
Of these the later takes back the latest earlier one of the other sign; what is left of them all, by day, is a function
of their whole set, so the end does not depend on the order of arrival: one that comes late posts where the difference
lies. Never posts and never decides on accounts; the crosswalk answers as of a basis.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from struct import Struct
from typing import ClassVar

import msgspec
import xxhash

from runtime.ledger.crosswalk import Basis
from runtime.ledger.registers import Fact, Marks

DAY_MS = 86_400_000
_RECORD = Struct("<Qiiiiii")  # likeness; the basis as numbers; how many came positive, came negative, are posted net
_BASES_REMEMBERED = 1024  # there are few: a day's, and the last days'


class InverseTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="inverses", forbid_unknown_fields=True
):
    """How long it is remembered where something was posted: from so many days on, to twice as many."""

    PARTS: ClassVar[frozenset[str]] = frozenset()
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    keep_days: int

    def exceptions(self) -> set[str]:
        """It raises none."""
        return set()


class Inverses:
    """What can be taken back of every key. A Register that no kind enters: it is asked for the basis of events before
    their own register takes them. Memory: one entry a key, with 32 bytes for each basis of each amount."""

    def __init__(self, terms: InverseTerms, policy: object = None) -> None:
        self._keep_ms = terms.keep_days * DAY_MS
        self._young: dict[int, bytes] = {}  # by hashed key, what was touched since `_began_ms`
        self._old: dict[int, bytes] = {}  # what was touched in the time before
        self._began_ms = 0

    def basis(self, fact: Fact, key: str, alike: Iterable[str], own: Basis) -> Basis | None:
        """Keep an event that would post as of `own`; the basis where it posts instead, None for its own."""
        if not fact.amount_minor:
            return None
        place, sign, here = _hash(fact.entity, key), 1 if fact.amount_minor > 0 else -1, _numbers(own)
        named = [getattr(fact, name) for name in alike]
        likeness = _hash(fact.kind, fact.currency, str(abs(fact.amount_minor)), *named)
        kept = self._young.get(place) or self._old.pop(place, b"")
        if likeness.to_bytes(8, "little") not in kept:  # by far the most
            self._young[place] = kept + _RECORD.pack(likeness, *here, sign > 0, sign < 0, sign)
            return None
        records = list(_RECORD.iter_unpack(kept))
        ones = {record[1:4]: list(record[4:]) for record in records if record[0] == likeness}
        posted = _taken(ones, here, sign)
        others = (record for record in records if record[0] != likeness)
        these = ((likeness, *basis, *counts) for basis, counts in ones.items())
        self._young[place] = b"".join(_RECORD.pack(*record) for record in (*others, *these))
        return None if posted == here else _basis(posted)

    def age(self, now_ms: int) -> None:
        """What was not touched for one whole time is forgotten at the end of the next."""
        self._began_ms = self._began_ms or now_ms
        if now_ms - self._began_ms > self._keep_ms:
            self._young, self._old, self._began_ms = {}, self._young, now_ms

    def drain(self) -> Marks:
        """It marks nothing."""
        return Marks()

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return msgspec.msgpack.encode((self._began_ms, list(self._young.items()), list(self._old.items())))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._began_ms, young, old = msgspec.msgpack.decode(state, type=_STATE)
        self._young, self._old = dict(young), dict(old)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


_STATE = tuple[int, list[tuple[int, bytes]], list[tuple[int, bytes]]]
_Numbers = tuple[int, int, int]  # effective day, posting day, version


def _taken(ones: dict[_Numbers, list[int]], own: _Numbers, sign: int) -> _Numbers:
    """Add one event of that sign to those alike; the basis where it posts."""
    before = _left(ones)
    came = ones.setdefault(own, [0, 0, 0])
    came[sign < 0] += 1
    after = _left(ones)
    day = next(day for day in {*before, *after} if before.get(day, 0) != after.get(day, 0))
    there = [basis for basis in ones if basis[0] == day]
    standing = [basis for basis in there if ones[basis][2] * sign < 0]
    posted = max(standing) if standing else own if day == own[0] else max(there)
    ones[posted][2] += sign
    return posted


def _left(ones: Mapping[_Numbers, list[int]]) -> dict[int, int]:
    """By day, what is left when each event has taken back the latest of the other sign before it, and after that what
    came on its own day. One event more changes it in exactly one day, by one."""
    by_day: dict[int, tuple[int, int]] = {}
    for (day, *_), (positive, negative, _) in ones.items():
        was = by_day.get(day, (0, 0))
        by_day[day] = was[0] + positive, was[1] + negative
    left: dict[int, int] = {}  # of one sign at a time, the latest day last
    for day, (positive, negative) in sorted(by_day.items()):
        negative = _pop(left, negative)
        positive = -_pop(left, -positive)
        if positive != negative:
            left[day] = positive - negative
    return left


def _pop(left: dict[int, int], count: int) -> int:
    """Take back so many of what is left, latest first; how many find nothing. A negative count takes back negatives."""
    while left and count:
        day, there = left.popitem()
        if (there > 0) != (count > 0):
            left[day] = there
            break
        taken = min(there, count, key=abs)
        count -= taken
        if there != taken:
            left[day] = there - taken
    return count


@lru_cache(_BASES_REMEMBERED)
def _numbers(basis: Basis) -> _Numbers:
    return basis.on.toordinal(), basis.posted_on.toordinal(), basis.version


def _basis(numbers: _Numbers) -> Basis:
    on, posted_on, version = numbers
    return Basis(date.fromordinal(on), date.fromordinal(posted_on), version)


def _hash(*texts: str) -> int:
    return xxhash.xxh64_intdigest("\x1f".join(texts).encode())
