"""What payers may take back, and what they take: letters and announcements against recoveries, by payer.

Owns the comparison that domain 1.4 asks for: a recovery with no basis (no letter, no earlier announcement in a
remittance) stands in suspense until its basis comes. All names of a payer are one payer, as they are mapped when
something of him comes: what stood under another name until then becomes his with it. Never posts.
"""

from datetime import UTC, date, datetime
from typing import ClassVar

import msgspec

from runtime.ledger.crosswalk import Place
from runtime.ledger.registers import Fact, Finding, ItemFlag, Marks, Policy, usual_name

_Payer = tuple[str, str, str]  # entity, name, currency


class TakebackTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="takebacks", forbid_unknown_fields=True
):
    """`codes`: provider-level adjustments (PLB03-1) that announce or recover overpayments."""

    PARTS: ClassVar[frozenset[str]] = frozenset(("adjusted", "basis", "refunded"))
    MEASURES: ClassVar[frozenset[str]] = frozenset(("suspense", "based"))

    baseless: str
    codes: tuple[str, ...]

    def exceptions(self) -> set[str]:
        """Exception types that it may raise."""
        return {self.baseless}


class Account(msgspec.Struct, array_like=True):
    """One payer's: what it may still take back (negative: it took more than it said), and the exception it stands
    under."""

    balance_minor: int = 0
    recovery: tuple[int, str, str] = (0, "", "")  # milliseconds, source and event of the newest recovery
    flagged: ItemFlag | None = None


class Takebacks:
    """Every payer's account of a shard's entities."""

    def __init__(self, terms: TakebackTerms, policy: Policy) -> None:
        self._terms, self._policy = terms, policy
        self._accounts: dict[_Payer, Account] = {}
        self._marks = Marks([], [], [], [])

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Count a letter ("basis"), a refund to the payer ("refunded") or an adjustment in a remittance ("adjusted").

        Measures: `suspense`, how much more stands in suspense now, and `based`, its negative.
        """
        if fact.part == "adjusted" and fact.reason not in self._terms.codes:
            return Finding()
        payer = (fact.entity, fact.counterparty, fact.currency)
        account, before = self._account(payer, datetime.fromtimestamp(now_ms / 1000, UTC).date())
        account.balance_minor += fact.amount_minor if fact.part == "basis" else -fact.amount_minor
        if fact.part != "basis" and fact.amount_minor > 0:
            account.recovery = max(account.recovery, (fact.occurred_ms, fact.source, fact.event_id))
        change = _suspense(account) - before
        self._reflag(account, fact.entity, fact.currency)
        return Finding({"suspense": change, "based": -change})

    def _account(self, payer: _Payer, on: date) -> tuple[Account, int]:
        """A payer's account on a day, with all that stood under other names of his; how much of it is in suspense."""
        own = self._usual(payer, on)
        entity, _, currency = payer
        near = [name for name in self._accounts if name[0] == entity and name[2] == currency]  # most are elsewhere's
        names = [name for name in near if own in (name, self._usual(name, on))]
        found = [self._accounts.pop(name) for name in names]
        account = self._accounts[own] = found[0] if len(found) == 1 else self._merged(found)
        return account, sum(map(_suspense, found))

    def _merged(self, found: list[Account]) -> Account:
        """Several accounts as one, which stands under none of their exceptions."""
        for one in found:
            self._marks.reflag(one.flagged, None)
        recovery = max((one.recovery for one in found), default=Account().recovery)
        return Account(sum(one.balance_minor for one in found), recovery)

    def _usual(self, payer: _Payer, on: date) -> _Payer:
        entity, name, currency = payer
        return entity, usual_name(self._policy, "PAYER_ALIAS", Place(entity, "", "", on, name)), currency

    def _reflag(self, account: Account, entity: str, currency: str) -> None:
        """Raise what is in suspense as an exception of the newest recovery, whichever came last."""
        _, source, event_id = account.recovery
        detail = "the payer took back more than letters and remittances announced"
        who = (self._terms.baseless, entity, source, event_id, currency, _suspense(account))
        now = ItemFlag(*who, raised=True, detail=detail) if _suspense(account) else None
        self._marks.reflag(account.flagged, now)
        account.flagged = now

    def age(self, now_ms: int) -> None:
        """Accounts stay: there are as many as payers."""

    def drain(self) -> Marks:
        """The marks since the last call."""
        marks, self._marks = self._marks, Marks([], [], [], [])
        return marks

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return msgspec.msgpack.encode(list(self._accounts.items()))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._accounts = dict(msgspec.msgpack.decode(state, type=list[tuple[_Payer, Account]]))

    def __len__(self) -> int:
        return len(self._accounts)


def _suspense(account: Account) -> int:
    return max(0, -account.balance_minor)
