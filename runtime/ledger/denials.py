"""Denials: what a payer denies of a claim for one reason, over all its remittances, until it takes that back.

Owns the sum by claim, payer, reason and currency, so that a reversal ends the exception that the denial raised, and
raises none itself. Never decides what is a denial: code tables do; never posts.
"""

from typing import ClassVar

import msgspec

from runtime.ledger.registers import Fact, Finding, ItemFlag, Marks, Policy

DAY_MS = 86_400_000

_Key = tuple[str, str, str, str, str]  # entity, claim, payer, reason, currency


class DenialTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="denials", forbid_unknown_fields=True
):
    """The exception of what stands denied, and how long an untouched denial is remembered. A reversal that comes later
    ends nothing: somebody closes the exception."""

    PARTS: ClassVar[frozenset[str]] = frozenset(("adjusted",))
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    denied: str
    keep_days: int

    def exceptions(self) -> set[str]:
        """Exception types that it may raise."""
        return {self.denied}


class Denial(msgspec.Struct, array_like=True, gc=False):
    """What is denied of a claim for one reason: the sum, and source, event and facility of the least denial by name."""

    amount_minor: int = 0
    first: tuple[str, str, str] = ("", "", "")
    flagged: ItemFlag | None = None
    touched_ms: int = 0


class Denials:
    """Every denial of a shard's entities."""

    def __init__(self, terms: DenialTerms, policy: Policy) -> None:
        self._terms = terms
        self._denials: dict[_Key, Denial] = {}
        self._next_pass_ms = 0
        self._marks = Marks([], [], [], [])

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Count a denial, or its reversal, which is negative. It measures nothing."""
        key = (fact.entity, fact.key, fact.counterparty, fact.reason, fact.currency)
        denial = self._denials.setdefault(key, Denial())
        denial.touched_ms = now_ms
        denial.amount_minor += fact.amount_minor
        if fact.amount_minor > 0:
            named = (fact.source, fact.event_id, fact.facility)
            denial.first = min(denial.first, named) if denial.first[1] else named
        self._reflag(denial, fact.entity, fact.currency)
        return Finding()

    def _reflag(self, denial: Denial, entity: str, currency: str) -> None:
        """The exception lasts while more was denied than taken back. It names a denial that is always the same one, in
        whatever order they came."""
        source, event_id, facility = denial.first
        who = (self._terms.denied, entity, source, event_id, currency, denial.amount_minor)
        now = ItemFlag(*who, raised=True, detail="", facility=facility) if denial.amount_minor > 0 else None
        self._marks.reflag(denial.flagged, now)
        denial.flagged = now

    def age(self, now_ms: int) -> None:
        """Forget denials that nothing has touched for long; looked for once a day."""
        if now_ms < self._next_pass_ms:
            return
        self._next_pass_ms, old = now_ms + DAY_MS, now_ms - self._terms.keep_days * DAY_MS
        for key in [key for key, denial in self._denials.items() if denial.touched_ms < old]:
            del self._denials[key]

    def drain(self) -> Marks:
        """The marks since the last call."""
        marks, self._marks = self._marks, Marks([], [], [], [])
        return marks

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return msgspec.msgpack.encode((self._next_pass_ms, list(self._denials.items())))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._next_pass_ms, denials = msgspec.msgpack.decode(state, type=tuple[int, list[tuple[_Key, Denial]]])
        self._denials = dict(denials)

    def __len__(self) -> int:
        return len(self._denials)
