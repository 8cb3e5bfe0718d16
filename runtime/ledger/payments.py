"""The register of payments: what was released, what the bank paid of it, and what came back.

Owns the one question that postings need answered: how much of what came back had left the bank before, so that it is
cash again. It hangs on the three sums alone, so any order of arrival ends alike. Never posts, bounds nothing (open
items do), reads no clock.
"""

from typing import ClassVar

import msgspec

from runtime.ledger import amounts
from runtime.ledger.registers import Fact, Finding, Marks, Policy

DAY_MS = 86_400_000


class PaymentTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="payments", forbid_unknown_fields=True
):
    """`released`: what a release pays, a sum of names (see `amounts`). `keep_days`: how long a payment is remembered
    after the last that came of it."""

    PARTS: ClassVar[frozenset[str]] = frozenset(("released", "cleared", "returned"))
    MEASURES: ClassVar[frozenset[str]] = frozenset(("recovered",))

    released: str
    keep_days: int

    def __post_init__(self) -> None:
        amounts.terms(self.released)

    def exceptions(self) -> set[str]:
        """It raises none."""
        return set()


class Payment(msgspec.Struct, array_like=True, gc=False):
    """The sums of one payment, in minor units."""

    touched_ms: int = 0
    released_minor: int = 0
    cleared_minor: int = 0
    returned_minor: int = 0

    @property
    def recovered_minor(self) -> int:
        """What left the bank and came back. While not all was released, no more than was both paid and returned."""
        over_minor = self.cleared_minor + self.returned_minor - self.released_minor
        return max(0, min(over_minor, self.cleared_minor, self.returned_minor))


class Payments:
    """All payments of one shard. A Register: see `registers` for the contract of its methods."""

    def __init__(self, terms: PaymentTerms, policy: Policy) -> None:
        self._terms, self._released = terms, amounts.terms(terms.released)
        self._payments: dict[tuple[str, str, str], Payment] = {}  # by entity, number, currency
        self._next_pass_ms = 0

    def __len__(self) -> int:
        return len(self._payments)

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Count a release, or what the bank says of it. Measure: `recovered`, how much more is cash again now."""
        payment = self._payments.setdefault((fact.entity, fact.key, fact.currency), Payment())
        before_minor, payment.touched_ms = payment.recovered_minor, now_ms
        if fact.part == "released":
            own = {"amount_minor": fact.amount_minor, "quantity": fact.quantity or 0}
            payment.released_minor += amounts.evaluate(self._released, own, fact.attributes)
        elif fact.part == "cleared":
            payment.cleared_minor += fact.amount_minor
        else:
            payment.returned_minor += fact.amount_minor
        return Finding({"recovered": payment.recovered_minor - before_minor})

    def age(self, now_ms: int) -> None:
        """Forget what has rested too long; looked for once a day."""
        if now_ms < self._next_pass_ms:
            return
        self._next_pass_ms, limit_ms = now_ms + DAY_MS, now_ms - self._terms.keep_days * DAY_MS
        self._payments = {key: one for key, one in self._payments.items() if one.touched_ms >= limit_ms}

    def drain(self) -> Marks:
        """Nothing is ever marked."""
        return Marks()

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return msgspec.msgpack.encode((self._next_pass_ms, list(self._payments.items())))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._next_pass_ms, payments = msgspec.msgpack.decode(state, type=_STATE)
        self._payments = dict(payments)


_STATE = tuple[int, list[tuple[tuple[str, str, str], Payment]]]
