"""Fading: what a register remembers for a while, of which nothing tells that it is over.

Owns two generations of it, the young and the old, and when the one becomes the other. Never knows what is remembered.
"""

from typing import ClassVar, Generic, TypeVar

import msgspec

from runtime.ledger.registers import Marks

DAY_MS = 86_400_000
Value = TypeVar("Value")


class FadingTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long it is remembered: from so many days on, to twice as many."""

    PARTS: ClassVar[frozenset[str]] = frozenset()
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    keep_days: int

    def exceptions(self) -> set[str]:
        """It raises none."""
        return set()


class Fading(Generic[Value]):
    """Values by a number. A Register that no kind enters."""

    def __init__(self, terms: FadingTerms, policy: object = None) -> None:
        self._keep_ms = terms.keep_days * DAY_MS
        self._young: dict[int, Value] = {}  # touched since `_began_ms`
        self._old: dict[int, Value] = {}  # touched in the time before
        self._began_ms = 0

    def age(self, now_ms: int) -> None:
        """What was not touched for one whole time is forgotten at the end of the next."""
        self._began_ms = self._began_ms or now_ms
        if now_ms - self._began_ms > self._keep_ms:
            self._young, self._old, self._began_ms = {}, self._young, now_ms

    def drain(self) -> Marks:
        """It marks nothing."""
        return Marks()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
