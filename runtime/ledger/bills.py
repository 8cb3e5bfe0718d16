"""The register of bills: which of them look like one that came before.

Owns the rules of likeness beyond an equal key, which open items refuse already. It is the later comer that is marked,
as the earlier one may be paid by then. Bills and credit memos are never compared with each other. What is said against
a bill holds its payment, whenever it comes. Answers no fault and no measures, never ends a mark (people do), reads no
clock.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar, Literal

import msgspec

from runtime.ledger.registers import Fact, Finding, Hold, ItemFlag, Marks, Policy, usual_name
from runtime.ledger.tolerances import is_percent

DAY_MS = 86_400_000
NUMBERS_MAX = 65_536  # numbers of bills whose reading is remembered
_HELD = "bill"  # the part whose documents are paid
_OBJECTIONS = frozenset(("rejection", "dispute"))  # parts that hold the payment of a bill, each by its own name

Shelf = tuple[str, str, str]  # entity, part, supplier


class BillTerms(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="bills", forbid_unknown_fields=True):
    """When a bill looks like another one of its supplier.

    `suspect`: the exception, and the hold on the item `payable`, of the same supplier, amount and date, of the same
    number written otherwise or under another name of the supplier, and of the same document. `review`: the exception,
    without a hold, of dates at most `days` apart and amounts at most `percent` apart, or numbers that differ in
    `number_edits` characters (0: numbers are not compared). `keep_days`: how long a bill is remembered.
    """

    PARTS: ClassVar[frozenset[str]] = frozenset(("bill", "credit", *_OBJECTIONS))
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    suspect: str
    review: str
    payable: str
    alias_policy: str
    days: int = 7
    percent: str = "1"
    number_edits: Literal[0, 1] = 1
    keep_days: int

    def __post_init__(self) -> None:
        if not is_percent(self.percent):
            raise ValueError("percent: expected a plain decimal such as '1' or '0.5'")

    def exceptions(self) -> set[str]:
        """Every exception type that the register may raise."""
        return {self.suspect, self.review}

    def policies(self) -> set[str]:
        """Every policy that the register asks for."""
        return {self.alias_policy}


class Seen(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A bill that came. `day`: its date as an ordinal; `body`: the hash of the whole document, "" when unknown."""

    day: int
    key: str
    amount_minor: int
    currency: str
    body: str
    since_ms: int

    @property
    def number(self) -> str:
        return normalised(self.key.rpartition("/")[2])


class Bills:
    """All bills of one shard. A Register: see `registers` for the contract of its methods."""

    def __init__(self, terms: BillTerms, policy: Policy) -> None:
        self._terms, self._policy = terms, policy
        self._percent = Fraction(terms.percent)
        self._shelves: dict[Shelf, list[Seen]] = {}  # by day and key
        self._first: dict[tuple[str, ...], tuple[int, str]] = {}  # sign of sameness -> day and key of the first
        self._next_pass_ms = 0
        self._flags: list[ItemFlag] = []
        self._holds: list[Hold] = []

    def __len__(self) -> int:
        return sum(map(len, self._shelves.values()))

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Compare a bill with those before it, and keep it; an objection to a bill holds it."""
        if fact.part in _OBJECTIONS:
            held = (self._terms.payable, fact.entity, fact.key, fact.part)
            self._holds.append(Hold(*held, on=True, source=fact.source, event_id=fact.event_id, tells=False))
            return Finding()
        supplier = usual_name(self._policy, self._terms.alias_policy, fact.place())
        shelf, body = (fact.entity, fact.part, supplier), fact.attributes.get("body", "")
        day = fact.effective_on.toordinal()
        body = body if isinstance(body, str) else ""
        bill = Seen(day, fact.key, fact.amount_minor, fact.currency, body, now_ms)
        why = self._same(shelf, bill)
        if why:
            self._mark(fact, self._terms.suspect, why)
        elif why := self._close(shelf, bill):
            self._mark(fact, self._terms.review, why)
        insort(self._shelves.setdefault(shelf, []), bill, key=_in_order)
        self._sign(shelf, bill)
        return Finding()

    def age(self, now_ms: int) -> None:
        """Forget what came too long ago; looked for once a day."""
        if now_ms < self._next_pass_ms:
            return
        self._next_pass_ms, limit_ms = now_ms + DAY_MS, now_ms - self._terms.keep_days * DAY_MS
        kept = {shelf: [bill for bill in bills if bill.since_ms >= limit_ms] for shelf, bills in self._shelves.items()}
        self._put({shelf: bills for shelf, bills in kept.items() if bills})

    def drain(self) -> Marks:
        """The marks since the last call."""
        marks = Marks(self._flags, self._holds)
        self._flags, self._holds = [], []
        return marks

    def dump(self) -> bytes:
        """Everything but the marks, which are drained before."""
        return msgspec.msgpack.encode((self._next_pass_ms, list(self._shelves.items())))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._next_pass_ms, shelves = msgspec.msgpack.decode(state, type=_STATE)
        self._flags, self._holds = [], []
        self._put(dict(shelves))

    def _put(self, shelves: dict[Shelf, list[Seen]]) -> None:
        self._shelves, self._first = shelves, {}
        for shelf, bills in shelves.items():
            for bill in bills:
                self._sign(shelf, bill)

    def _sign(self, shelf: Shelf, bill: Seen) -> None:
        """Remember the first bill of each sign of sameness: by date and key, so that it hangs on nothing else."""
        for sign in _signs(shelf, bill):
            self._first[sign] = min(_in_order(bill), self._first.get(sign, _in_order(bill)))

    def _same(self, shelf: Shelf, bill: Seen) -> str:
        """Why this is very likely a bill that came before, "" when it is not."""
        for sign in _signs(shelf, bill):
            _, other = self._first.get(sign, (0, bill.key))
            if other != bill.key:
                return f"same {'document' if sign[0] == 'body' else 'supplier and number'} as {other}"
        for other in self._within(shelf, bill, 0):
            if (other.amount_minor, other.currency) == (bill.amount_minor, bill.currency):
                return f"same supplier, amount and date as {other.key}"
        return ""

    def _close(self, shelf: Shelf, bill: Seen) -> str:
        """Why this may be a bill that came before, "" when it is not."""
        for other in self._within(shelf, bill, self._terms.days):
            if other.currency == bill.currency and self._near(other.amount_minor, bill.amount_minor):
                return f"nearly the amount and date of {other.key}"
            if self._terms.number_edits and one_edit_apart(other.number, bill.number):
                return f"nearly the number and date of {other.key}"
        return ""

    def _within(self, shelf: Shelf, bill: Seen, days: int) -> Iterator[Seen]:
        """Other bills of the supplier, at most so many days apart."""
        bills = self._shelves.get(shelf, [])
        begin = bisect_left(bills, bill.day - days, key=_day)
        for other in bills[begin : bisect_right(bills, bill.day + days, key=_day)]:
            if other.key != bill.key:
                yield other

    def _near(self, one_minor: int, other_minor: int) -> bool:
        return 100 * abs(one_minor - other_minor) <= self._percent * max(abs(one_minor), abs(other_minor))

    def _mark(self, fact: Fact, fault: str, why: str) -> None:
        cause = (fact.source, fact.event_id)
        self._flags.append(ItemFlag(fault, fact.entity, *cause, fact.currency, fact.amount_minor, True, why))
        if fault == self._terms.suspect and fact.part == _HELD:
            self._holds.append(Hold(self._terms.payable, fact.entity, fact.key, fault, True, *cause))


_STATE = tuple[int, list[tuple[Shelf, list[Seen]]]]


def _in_order(bill: Seen) -> tuple[int, str]:
    return bill.day, bill.key


def _day(bill: Seen) -> int:
    return bill.day


def _signs(shelf: Shelf, bill: Seen) -> Iterator[tuple[str, ...]]:
    """What only one bill can have: its number at its supplier, whichever name that goes by, and its document."""
    entity, part, supplier = shelf
    yield "number", entity, part, supplier, bill.number
    if bill.body:
        yield "body", entity, part, bill.body


@lru_cache(NUMBERS_MAX)
def normalised(number: str) -> str:
    """A number as duplicates are sought by (domain 4): upper case, letters and digits alone, no leading zeros. One of
    nothing else stays as it is. File sources write keys so; other producers may not."""
    return "".join(char for char in number.upper() if char.isalnum()).lstrip("0") or number


def one_edit_apart(one: str, other: str) -> bool:
    """Whether one character, put in, left out or changed, makes the one text the other."""
    shorter, longer = sorted((one, other), key=len)
    if len(longer) - len(shorter) > 1 or one == other:
        return False
    differs = next((at for at, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(shorter))
    rest = shorter[differs:] if len(longer) > len(shorter) else shorter[differs + 1 :]
    return rest == longer[differs + 1 :]
