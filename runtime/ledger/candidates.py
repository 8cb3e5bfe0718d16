"""Bank money that lost its trace, and the remittances it may belong to: paired when exactly one of each fits.

Owns the third step of the match order (domain 1.6): equal amount, the same payer (also under an alias, as of the
money's day), and dates within three business days. It decides only when the money has stood for a while, so that the
answer does not depend on who came first. Never posts: a pair becomes a derived event.
"""

from collections.abc import Iterable
from datetime import date
from typing import ClassVar, NamedTuple

import msgspec

from runtime.ledger.crosswalk import Place
from runtime.ledger.registers import Deriving, Fact, Finding, ItemFlag, Marks, Policy, usual_name
from runtime.ledger.weekdays import business_days

HOUR_MS, DAY_MS = 3_600_000, 86_400_000

_Key = tuple[str, str]  # entity, and a remittance's trace or a deposit
_Part = tuple[str, str]  # source and id of the event that told of it


class CandidateTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="candidates", forbid_unknown_fields=True
):
    """`derives`: the kind of event that a pair becomes. `several`: the exception of money that fits several
    remittances, or one that other money fits too, for as long as it does."""

    PARTS: ClassVar[frozenset[str]] = frozenset(("remit", "money", "paid", "applied"))
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    derives: str
    several: str
    decide_after_h: int
    business_days: int
    keep_days: int

    def exceptions(self) -> set[str]:
        """Exception types that it may raise."""
        return {self.several}


class Side(msgspec.Struct, array_like=True):
    """One half: a remittance that waits for its money (`key` is its trace), or money that names no trace (`key` is its
    deposit, of which there may be several parts)."""

    entity: str
    key: str
    amount_minor: int
    currency: str
    on: date
    occurred_ms: int
    since_ms: int
    counterparty: str
    source: str
    event_id: str
    contested: bool = False


class _Paid(msgspec.Struct, array_like=True, frozen=True):
    """Money of a trace: who sent it, its day, and when it came."""

    payer: str
    on: date
    since_ms: int


class _Pool(NamedTuple):
    entity: str
    currency: str
    amount_minor: int


class Candidates:
    """Both halves of a shard's entities."""

    def __init__(self, terms: CandidateTerms, policy: Policy) -> None:
        self._terms, self._policy = terms, policy
        self._remits: dict[_Key, dict[str, Side]] = {}  # by trace, each payer's
        self._money: dict[_Key, dict[_Part, Side]] = {}  # by deposit, each of its parts
        self._paid: dict[_Key, list[_Paid]] = {}  # traces whose money came
        self._next_pass_ms = 0
        self._marks = Marks([], [], [], [])

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Keep a "remit" or "money" half; "paid" says that a trace's money came, "applied" that a person has
        placed money, all of it or a part."""
        key, payer = (fact.entity, fact.key), fact.counterparty
        money = (fact.amount_minor, fact.currency, fact.effective_on, fact.occurred_ms)
        side = Side(fact.entity, fact.key, *money, now_ms, payer, fact.source, fact.event_id)
        if fact.part == "paid":
            paid = _Paid(payer, fact.effective_on, now_ms)
            self._paid.setdefault(key, []).append(paid)
            self._drop_remits(key, [one for one in self._remits.get(key, ()) if self._is_of(paid, one, key[0])])
        elif fact.part == "applied":
            for placed in self._money.pop(key, {}).values():
                self._contest(placed, on=False)
        elif fact.part == "money" and fact.amount_minor:
            self._money.setdefault(key, {})[side.source, side.event_id] = side
        elif fact.amount_minor and not self._is_paid(key, payer):
            self._remits.setdefault(key, {})[payer] = side
        return Finding()

    def _is_paid(self, key: _Key, payer: str) -> bool:
        """Whether the money of this payer's trace has come."""
        return any(self._is_of(paid, payer, key[0]) for paid in self._paid.get(key, ()))

    def _is_of(self, paid: _Paid, payer: str, entity: str) -> bool:
        """Whether money is of this payer. Who names no payer may be any."""
        return not payer or not paid.payer or self._alike(entity, paid.on, payer, paid.payer)

    def _alike(self, entity: str, on: date, *payers: str) -> bool:
        """Whether these are names of one payer on that day."""
        places = (Place(entity, "", "", on, name) for name in payers)
        return len({usual_name(self._policy, "PAYER_ALIAS", place) for place in places}) == 1

    def _drop_remits(self, key: _Key, payers: list[str]) -> None:
        for payer in payers:
            del self._remits[key][payer]
        if not self._remits.get(key, True):
            del self._remits[key]

    def _drop_money(self, side: Side) -> None:
        parts = self._money[side.entity, side.key]
        del parts[side.source, side.event_id]
        if not parts:
            del self._money[side.entity, side.key]

    def _every_money(self) -> list[Side]:
        return [side for parts in self._money.values() for side in parts.values()]

    def _contest(self, money: Side, *, on: bool) -> None:
        """Begin or end the exception of money that nobody but a person can place."""
        if money.contested != on:
            money.contested = on
            who = (money.entity, money.source, money.event_id, money.currency, money.amount_minor)
            detail = "several remittances and deposits fit each other"
            self._marks.flags.append(ItemFlag(self._terms.several, *who, raised=on, detail=detail))

    def age(self, now_ms: int) -> None:
        """Pair what has stood long enough and has exactly one counterpart, on both sides; once a day, forget."""
        ripe = [one for one in self._every_money() if now_ms - one.since_ms > self._terms.decide_after_h * HOUR_MS]
        if ripe:
            self._decide(ripe)
        if now_ms >= self._next_pass_ms:
            self._next_pass_ms = now_ms + DAY_MS
            self._forget(now_ms - self._terms.keep_days * DAY_MS)

    def _decide(self, ripe: list[Side]) -> None:
        remits = _pooled(side for sides in self._remits.values() for side in sides.values())
        money = _pooled(self._every_money())
        for side in ripe:
            fitting = [other for other in remits.get(_pool(side), []) if self._fits(side, other)]
            is_pair = len(fitting) == 1 and self._is_sole(fitting[0], money[_pool(side)])
            self._contest(side, on=bool(fitting) and not is_pair)
            if is_pair:
                self._pair(side, fitting[0])

    def _forget(self, old: int) -> None:
        for key, sides in list(self._remits.items()):
            self._drop_remits(key, [payer for payer, side in sides.items() if side.since_ms < old])
        for side in self._every_money():
            if side.since_ms < old:
                self._drop_money(side)
                self._contest(side, on=False)
        kept = {key: [one for one in paid if one.since_ms >= old] for key, paid in self._paid.items()}
        self._paid = {key: paid for key, paid in kept.items() if paid}

    def _is_sole(self, remit: Side, money: list[Side]) -> bool:
        return sum(self._fits(side, remit) for side in money) == 1

    def _fits(self, money: Side, remit: Side) -> bool:
        """Whether two of one amount may be a pair."""
        near = business_days(money.on, remit.on) <= self._terms.business_days
        return near and self._alike(money.entity, money.on, money.counterparty, remit.counterparty)

    def _pair(self, money: Side, remit: Side) -> None:
        self._drop_remits((remit.entity, remit.key), [remit.counterparty])
        self._drop_money(money)
        columns = {
            "entity": money.entity,
            "document": money.key,
            "reference": remit.key,
            "counterparty": remit.counterparty or None,
            "amount_minor": money.amount_minor,
            "currency": money.currency,
            "occurred_at": money.occurred_ms,
            "effective_on": money.on,
        }
        cause = "/".join((money.entity, money.key, money.source, money.event_id))
        self._marks.derived.append(Deriving(self._terms.derives, cause, columns))

    def drain(self) -> Marks:
        """The marks since the last call."""
        marks, self._marks = self._marks, Marks([], [], [], [])
        return marks

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        money = {key: list(parts.items()) for key, parts in self._money.items()}
        kept = [list(kept.items()) for kept in (self._remits, money, self._paid)]
        return msgspec.msgpack.encode((self._next_pass_ms, *kept))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._next_pass_ms, *kept = msgspec.msgpack.decode(state, type=_STATE)
        self._remits, money, self._paid = map(dict, kept)
        self._money = {key: dict(parts) for key, parts in money.items()}

    def __len__(self) -> int:
        return sum(map(len, (*self._remits.values(), *self._money.values())))


_STATE = tuple[
    int,
    list[tuple[_Key, dict[str, Side]]],
    list[tuple[_Key, list[tuple[_Part, Side]]]],
    list[tuple[_Key, list[_Paid]]],
]


def _pool(side: Side) -> _Pool:
    return _Pool(side.entity, side.currency, side.amount_minor)


def _pooled(sides: Iterable[Side]) -> dict[_Pool, list[Side]]:
    pools: dict[_Pool, list[Side]] = {}
    for side in sides:
        pools.setdefault(_pool(side), []).append(side)
    return pools
