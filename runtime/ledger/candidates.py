"""Bank money that lost its trace, and the remittances it may belong to: paired when exactly one of each fits.

Owns the third step of the match order (domain 1.6): equal amount, the same payer, and dates within three business
days. It decides only when the money has stood for a while, so that the answer does not depend on who came first.
Never posts: a pair becomes a derived event.
"""

from datetime import date, timedelta
from typing import ClassVar, NamedTuple

import msgspec

from runtime.ledger.registers import Deriving, Fact, Finding, Marks, Policy

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class CandidateTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="candidates", forbid_unknown_fields=True
):
    """`derives`: the kind of event that a pair becomes."""

    PARTS: ClassVar[frozenset[str]] = frozenset(("remit", "money", "paid"))
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    derives: str
    decide_after_h: int
    business_days: int
    keep_days: int

    def exceptions(self) -> set[str]:
        """Exception types that it may raise: none."""
        return set()


class Side(msgspec.Struct, array_like=True):
    """One half: a remittance that waits for its money (`key` is its trace), or money that names no trace."""

    entity: str
    key: str
    payer: str
    amount_minor: int
    currency: str
    on: date
    occurred_ms: int
    since_ms: int


class _Pool(NamedTuple):
    entity: str
    payer: str
    currency: str
    amount_minor: int


class Candidates:
    """Both halves of a shard's entities."""

    def __init__(self, terms: CandidateTerms, policy: Policy) -> None:
        self._terms, self._policy = terms, policy
        self._remits: dict[tuple[str, str], Side] = {}  # by entity and trace
        self._money: dict[tuple[str, str], Side] = {}  # by entity and deposit
        self._paid: dict[tuple[str, str], int] = {}  # traces whose money came, and when
        self._next_pass_ms = 0
        self._marks = Marks([], [], [], [])

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Keep a "remit" or "money" half; "paid" says that a trace's money came."""
        key = (fact.entity, fact.key)
        if fact.part == "paid":
            self._remits.pop(key, None)
            self._paid[key] = now_ms
        elif fact.amount_minor and not (fact.part == "remit" and key in self._paid):
            payer = self._policy("PAYER_ALIAS", fact.place()) or fact.counterparty
            money = (fact.amount_minor, fact.currency, fact.effective_on, fact.occurred_ms)
            halves = self._remits if fact.part == "remit" else self._money
            halves[key] = Side(fact.entity, fact.key, payer, *money, now_ms)
        return Finding()

    def age(self, now_ms: int) -> None:
        """Pair what has stood long enough and has exactly one counterpart, on both sides; once a day, forget."""
        ripe = [side for side in self._money.values() if now_ms - side.since_ms > self._terms.decide_after_h * HOUR_MS]
        if ripe:
            self._decide(ripe)
        if now_ms >= self._next_pass_ms:
            self._next_pass_ms = now_ms + DAY_MS
            self._forget(now_ms - self._terms.keep_days * DAY_MS)

    def _decide(self, ripe: list[Side]) -> None:
        remits, money = _pooled(self._remits), _pooled(self._money)
        for side in ripe:
            fitting = [other for other in remits.get(_pool(side), []) if self._near(side.on, other.on)]
            if len(fitting) == 1 and self._is_sole(fitting[0], money[_pool(side)]):
                self._pair(side, fitting[0])

    def _forget(self, old: int) -> None:
        self._remits = {key: side for key, side in self._remits.items() if side.since_ms >= old}
        self._money = {key: side for key, side in self._money.items() if side.since_ms >= old}
        self._paid = {key: since_ms for key, since_ms in self._paid.items() if since_ms >= old}

    def _is_sole(self, remit: Side, money: list[Side]) -> bool:
        return sum(self._near(side.on, remit.on) for side in money) == 1

    def _near(self, one: date, other: date) -> bool:
        return business_days(one, other) <= self._terms.business_days

    def _pair(self, money: Side, remit: Side) -> None:
        del self._remits[remit.entity, remit.key]
        del self._money[money.entity, money.key]
        columns = {
            "entity": money.entity,
            "document": money.key,
            "reference": remit.key,
            "counterparty": money.payer or None,
            "amount_minor": money.amount_minor,
            "currency": money.currency,
            "occurred_at": money.occurred_ms,
            "effective_on": money.on,
        }
        self._marks.derived.append(Deriving(self._terms.derives, f"{money.entity}/{money.key}", columns))

    def drain(self) -> Marks:
        """The marks since the last call."""
        marks, self._marks = self._marks, Marks([], [], [], [])
        return marks

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        kept = [list(kept.items()) for kept in (self._remits, self._money, self._paid)]
        return msgspec.msgpack.encode((self._next_pass_ms, *kept))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._next_pass_ms, *kept = msgspec.msgpack.decode(state, type=_STATE)
        self._remits, self._money, self._paid = map(dict, kept)

    def __len__(self) -> int:
        return len(self._remits) + len(self._money)


_HALVES = list[tuple[tuple[str, str], Side]]
_STATE = tuple[int, _HALVES, _HALVES, list[tuple[tuple[str, str], int]]]


def business_days(one: date, other: date) -> int:
    """Weekdays after the earlier date, up to the later one."""
    first, days = min(one, other), abs((one - other).days)
    return sum((first + timedelta(days=n)).weekday() < 5 for n in range(1, min(days, 366) + 1))


def _pool(side: Side) -> _Pool:
    return _Pool(side.entity, side.payer, side.currency, side.amount_minor)


def _pooled(halves: dict[tuple[str, str], Side]) -> dict[_Pool, list[Side]]:
    pools: dict[_Pool, list[Side]] = {}
    for side in halves.values():
        pools.setdefault(_pool(side), []).append(side)
    return pools
