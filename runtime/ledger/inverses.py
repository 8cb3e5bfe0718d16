"""Inverses: which earlier event of the opposite amount an event takes back, so that it posts where that one did.

Owns days, versions and signs of events that are alike (same kind, key and named columns, same amount but for its sign).
Of these the later takes back the latest earlier one of the other sign; what is left of them all, by day, is a function
of their whole set, so the end does not depend on the order of arrival: one that comes late posts where the difference
lies. Never posts and never decides on accounts; the crosswalk answers as of a basis.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import lru_cache

import msgspec
import xxhash

from runtime.ledger.crosswalk import Basis
from runtime.ledger.fading import Fading, FadingTerms
from runtime.ledger.registers import Fact
from runtime.ledger.resting import blobs, of_blobs

_BASES_REMEMBERED = 1024  # there are few: a day's, and the last days'
_Numbers = tuple[int, int, int]  # effective day, posting day, version
_Counts = tuple[int, int, int]  # how many came positive, came negative, are posted net
_Alike = tuple[tuple[_Numbers, _Counts], ...]  # what came of events that are alike, by basis


class InverseTerms(FadingTerms, frozen=True, kw_only=True, tag_field="type", tag="inverses"):
    """How long it is remembered where something was posted: from so many days on, to twice as many."""


class Inverses(Fading[_Alike]):
    """What can be taken back, by a hash of all in which events are alike. A Register that no kind enters: it is asked
    for the basis of events before their own register takes them. Memory: a number and a place for each; that one came
    and where it stands is said once for all that came on its day."""

    def basis(self, fact: Fact, key: str, alike: Iterable[str], own: Basis) -> Basis | None:
        """Keep an event that would post as of `own`; the basis where it posts instead, None for its own."""
        if not fact.amount_minor:
            return None
        likeness, is_positive = _likeness(fact, key, alike), fact.amount_minor > 0
        kept = self._young.get(likeness) or self._old.pop(likeness, None)
        if not kept:  # by far the most
            self._young[likeness] = _first(own, is_positive)
            return None
        ones, here = {basis: list(counts) for basis, counts in kept}, _numbers(own)
        posted = _taken(ones, here, 1 if is_positive else -1)
        self._young[likeness] = tuple((basis, tuple(counts)) for basis, counts in ones.items())
        return None if posted == here else _basis(posted)

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What gives everything for a snapshot, whatever happens here meanwhile."""
        began_ms, kept = self._began_ms, (self._young.copy(), self._old.copy())
        return lambda: msgspec.msgpack.encode((began_ms, *map(blobs, kept)))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._began_ms, *kept = msgspec.msgpack.decode(state, type=_STATE)
        once: dict[_Alike, _Alike] = {}
        entries = (of_blobs(some, list[tuple[int, _Alike]]) for some in kept)
        self._young, self._old = ({of: once.setdefault(ones, ones) for of, ones in some} for some in entries)


_STATE = tuple[int, list[bytes], list[bytes]]


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


@lru_cache(_BASES_REMEMBERED)
def _first(own: Basis, is_positive: bool) -> _Alike:
    """One event alone."""
    counts = (1, 0, 1) if is_positive else (0, 1, -1)
    return ((_numbers(own), counts),)


def _basis(numbers: _Numbers) -> Basis:
    on, posted_on, version = numbers
    return Basis(date.fromordinal(on), date.fromordinal(posted_on), version)


def _likeness(fact: Fact, key: str, alike: Iterable[str]) -> int:
    """A stable number of all in which one event is like another. Of ten million two are taken for each other once in
    three hundred thousand times."""
    named = [getattr(fact, name) for name in alike]
    texts = (fact.entity, key, fact.kind, fact.currency, str(abs(fact.amount_minor)), *named)
    return xxhash.xxh64_intdigest("\x1f".join(texts).encode())
