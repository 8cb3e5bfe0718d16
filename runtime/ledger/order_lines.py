"""The register of order lines: what was ordered, received, accepted, billed and used of each, matched cumulatively.

Owns the measures that receipts, bills and uses post, and which bills are held. Open receipts (GRNI) are always
`received - cleared` at the order's price. A hold blocks payment, not recording. Never posts, reads no clock; who
releases a hold, and what becomes of it then, is not known here.

Parts, by `Fact.part`, and their measures; all keys but "ordered" name a line that is there:
    ordered             {}                    quantity at a price (attributes), from a supplier
    received, returned  received, cleared     a receipt's attributes may tell the part of it that was `rejected` (0 for
                        none): the rest of it was accepted
    accepted            {}
    billed, credited    cleared, unreceived, variance, expense: their sum is the amount, negative when credited;
                        a credit without a quantity is one of the price. Without a key (no order) all is expense.
    used                cost, none of what was expense before
"""

from collections.abc import Callable
from datetime import date
from fractions import Fraction
from itertools import zip_longest
from typing import ClassVar, Literal

import msgspec

from runtime.ledger.crosswalk import Place
from runtime.ledger.line_matching import (
    UNIT,
    Allowed,
    Entry,
    Failure,
    OrderLine,
    Standing,
    Touched,
    failures,
    fits,
    fraction,
    price_of,
)
from runtime.ledger.registers import Fact, Finding, Hold, ItemFlag, Marks, Policy, usual_name
from runtime.ledger.resting import Resting
from runtime.ledger.tolerances import UNLIMITED, Check, most_fault, percent_fault, tolerance

DAY_MS = 86_400_000
LEVELS = ("2", "3", "4")
EXPENSE = "EXPENSE"
TWICE = "duplicate_open_item"
_BILLING = {"billed": 1, "credited": -1}
_FREE = (UNLIMITED, UNLIMITED)

Key = tuple[str, str]  # entity, key of the order line
FlagKey = tuple[str, str, str, str]  # exception, entity, source, event id


class OrderTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="order_lines", forbid_unknown_fields=True
):
    """How order lines are matched.

    `level`: the ways of the match where the policy gives none. `goods_policy`: says whether goods are EXPENSE when they
    are received, and then not once more when they are used. `payable`: the item that a bill opens, which is held.
    `usage`: the exception of a bill of more than was used, where the order says `bill_only` (a consignment).
    `supplier`: the exception of another supplier or currency than the order's. `used`: of a use of more than was
    received. `unordered`: of what answers a line that is not there, or no longer. `keep_days`: a line that is square
    is forgotten when nothing has come for it so long.
    """

    PARTS: ClassVar[frozenset[str]] = frozenset(
        ("ordered", "received", "returned", "accepted", "billed", "credited", "used")
    )
    MEASURES: ClassVar[frozenset[str]] = frozenset(("received", "cleared", "unreceived", "variance", "expense", "cost"))

    level: Literal["2", "3", "4"]
    level_policy: str
    goods_policy: str = ""
    alias_policy: str
    payable: str
    price: Check
    amount: Check
    quantity: Check
    receipt: Check
    acceptance: Check
    usage: str
    supplier: str
    used: str
    unordered: str
    keep_days: int

    @property
    def checks(self) -> tuple[Check, ...]:
        """In the order of the fields of Allowed."""
        return self.price, self.amount, self.quantity, self.receipt, self.acceptance

    def exceptions(self) -> set[str]:
        """Every exception type that the register may raise."""
        return {
            TWICE,
            self.usage,
            self.supplier,
            self.used,
            self.unordered,
            *(check.exception for check in self.checks),
        }

    def policies(self) -> set[str]:
        """Every policy that the register asks for."""
        tolerances = {name for check in self.checks for name in (check.percent, check.most)}
        return {self.level_policy, self.alias_policy, *tolerances, *filter(None, [self.goods_policy])}

    def check_policy(self, name: str, value: str) -> str:
        """What is wrong with a policy's value, "" when nothing is or the policy is none of these."""
        if name == self.level_policy:
            return "" if value in LEVELS else f"expected one of {', '.join(LEVELS)}"
        if any(name == check.percent for check in self.checks):
            return percent_fault(value)
        return most_fault(value) if any(name == check.most for check in self.checks) else ""


class OrderLines:
    """All order lines of one shard. A Register: see `registers` for the contract of its methods."""

    def __init__(self, terms: OrderTerms, policy: Policy) -> None:
        self._terms, self._policy = terms, policy
        self._lines: Resting[Key, OrderLine] = Resting(Key, OrderLine)
        self._next_pass_ms = 0
        self._flags: dict[FlagKey, ItemFlag] = {}
        self._holds: dict[tuple[str, ...], Hold] = {}
        self._retold: dict[FlagKey, tuple[ItemFlag, Hold | None]] = {}  # of what was told before the last drain

    def __len__(self) -> int:
        return len(self._lines)

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Keep a fact and answer its measures; or answer a fault and keep nothing."""
        if not fact.key and fact.part in _BILLING:
            return Finding(_without_order(fact))
        line = self._lines.get((fact.entity, fact.key))
        if fact.part == "ordered":
            return Finding(fault=TWICE) if line else self._order(fact, now_ms)
        fault = self._fault(fact, line)
        if fault:
            return Finding(fault=fault)
        before, is_expensed = line.standing(), fact.part == "used" and self._is_expensed(fact, line)
        _keep(line, fact)
        line.touched_ms = now_ms
        self._tell(fact.entity, line)
        return Finding(
            {"cost": 0} if is_expensed else _measures(fact, line.level, before, line.standing()),
            facility="" if fact.facility else line.facility,
            department="" if fact.department else line.department,
        )

    def age(self, now_ms: int) -> None:
        """Forget what is square and has rested long enough; looked for once a day."""
        if now_ms < self._next_pass_ms:
            return
        self._next_pass_ms, limit_ms = now_ms + DAY_MS, now_ms - self._terms.keep_days * DAY_MS
        for key in [key for key, line in self._lines.seen(Touched) if line.touched_ms < limit_ms]:
            if self._lines.get(key).is_square():
                self._lines.forget(key)

    def drain(self) -> Marks:
        """What began or ended since the last call, net: what did both is not told, or told anew."""
        retold = list(self._retold.values())
        marks = Marks(list(self._flags.values()), list(self._holds.values()), retold=retold)
        self._flags, self._holds, self._retold = {}, {}, {}
        return marks

    def dump(self) -> bytes:
        """Everything but the marks, which are drained before."""
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What gives the same as `dump` would now, whatever happens here meanwhile."""
        next_pass_ms, lines = self._next_pass_ms, self._lines.freeze()
        return lambda: msgspec.msgpack.encode((next_pass_ms, lines()))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._next_pass_ms, lines = msgspec.msgpack.decode(state, type=tuple[int, list[bytes]])
        self._lines.load(lines)
        self._flags, self._holds, self._retold = {}, {}, {}

    # ── what comes in ──────────────────────────────────────────────────────────────────────────────────────────────

    def _order(self, fact: Fact, now_ms: int) -> Finding:
        by_amount = not fact.quantity
        quantity = fact.amount_minor * UNIT if by_amount else fact.quantity
        price = Fraction(1) if by_amount else price_of(fact.amount_minor, quantity, fact.currency, fact.attributes)
        if not fits(quantity, price):
            return Finding(fault=self._terms.quantity.exception)
        line = OrderLine(
            now_ms,
            fact.counterparty,
            fact.currency,
            fact.facility,
            fact.department,
            self._level(fact.place()),
            str(price),
            by_amount,
            quantity,
            bill_only=fact.attributes.get("bill_only") is True,
        )
        self._lines.put((fact.entity, fact.key), line)
        return Finding()

    def _level(self, place: Place) -> int:
        """Fixed when the line is ordered, as what is accrued hangs on it. What can't be read is the strictest."""
        asked = self._policy(self._terms.level_policy, place) or self._terms.level
        return int(asked if asked in LEVELS else LEVELS[-1])

    def _is_expensed(self, fact: Fact, line: OrderLine) -> bool:
        """Whether what is used was expense when it was received, and has never been in stock."""
        place = Place(fact.entity, line.facility, line.department, fact.effective_on, line.supplier)
        return self._policy(self._terms.goods_policy, place) == EXPENSE

    def _fault(self, fact: Fact, line: OrderLine | None) -> str:
        """The exception that holds a fact, "" when it fits its line."""
        if line is None:
            return self._terms.unordered
        if fact.currency != line.currency or not self._is_supplier(fact, line):
            return self._terms.supplier
        if not fits(line.counted(fact.quantity, fact.amount_minor), fraction(line.price)):
            return self._terms.quantity.exception
        is_known = (fact.part, fact.document) in ((bill.part, bill.document) for bill in line.bills)
        return TWICE if is_known else ""

    def _is_supplier(self, fact: Fact, line: OrderLine) -> bool:
        if fact.counterparty in ("", line.supplier):
            return True
        here = fact.place()
        there = Place(here.entity, here.facility, here.department, here.on, line.supplier)
        named, meant = (usual_name(self._policy, self._terms.alias_policy, place) for place in (here, there))
        return named == meant

    # ── what is told ───────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, entity: str, line: OrderLine) -> None:
        """Mark what fails now and did not before, or by another amount, and the reverse."""
        failing: dict[tuple[str, str], dict[str, Failure]] = {}
        for failure in failures(line, lambda on: self._allowed(entity, line, on)):
            faults = failing.setdefault((failure.entry.source, failure.entry.event_id), {})
            faults.setdefault(self._exception(failure.check), failure)
        for entry in (*line.bills, *line.uses):
            faults = failing.get((entry.source, entry.event_id), {})
            for fault in entry.faults:
                if fault not in faults:
                    self._mark(entity, entry, ItemFlag(fault, entity, *_cause(entry, line), 0, False, ""))
            before = dict(zip_longest(entry.faults, entry.told))
            for fault, failure in faults.items():
                flag = ItemFlag(fault, entity, *_cause(entry, line), failure.amount_minor, True, failure.detail)
                if fault not in before:
                    self._mark(entity, entry, flag)
                elif before[fault] != failure.detail:
                    self._tell_anew(entity, entry, flag)
            entry.faults, entry.told = tuple(faults), tuple(failure.detail for failure in faults.values())

    def _allowed(self, entity: str, line: OrderLine, on: date) -> Allowed:
        """What is let pass in a bill of that day, by the policies of the line's place.

        Price and amount bound the same difference: where only one of them is set, it alone counts.
        """
        place = Place(entity, line.facility, line.department, on, line.supplier)
        asked = [(self._policy(c.percent, place), self._policy(c.most, place)) for c in self._terms.checks]
        price, amount, *others = asked
        price = price if any(price) or not any(amount) else _FREE
        amount = amount if any(amount) else _FREE
        return Allowed(*(tolerance(*answers) for answers in (price, amount, *others)))

    def _exception(self, check: str) -> str:
        named = getattr(self._terms, check)
        return named if isinstance(named, str) else named.exception

    def _mark(self, entity: str, entry: Entry, flag: ItemFlag) -> None:
        """Note that a flag begins or ends, and the hold that goes with it when it is a bill's."""
        self._retold.pop(_flag_key(flag), None)
        if _net(self._flags, _flag_key(flag), flag) and flag.raised:
            self._tell_anew(entity, entry, flag)
        if hold := self._hold(entity, entry, flag):
            _net(self._holds, (entity, hold.key, hold.hold, hold.source, hold.event_id), hold)

    def _tell_anew(self, entity: str, entry: Entry, flag: ItemFlag) -> None:
        """Note what is told now of a flag that stands."""
        if _flag_key(flag) in self._flags:
            self._flags[_flag_key(flag)] = flag
        else:
            self._retold[_flag_key(flag)] = (flag, self._hold(entity, entry, flag))

    def _hold(self, entity: str, entry: Entry, flag: ItemFlag) -> Hold | None:
        """The hold that goes with a flag, None where it is no bill's."""
        name = f"{flag.fault}:{entry.document.rpartition('/')[2]}"
        who = (flag.raised, entry.source, entry.event_id)
        return Hold(self._terms.payable, entity, entry.bill, name, *who) if entry.bill else None


def _flag_key(flag: ItemFlag) -> FlagKey:
    return flag[:4]


def _net(marks: dict, key: tuple, mark: ItemFlag | Hold) -> bool:
    """Marks of one thing alternate: a second one takes the first back; whether it did."""
    took_back = marks.pop(key, None) is not None
    if not took_back:
        marks[key] = mark
    return took_back


def _cause(entry: Entry, line: OrderLine) -> tuple[str, str, str]:
    return entry.source, entry.event_id, line.currency


def _keep(line: OrderLine, fact: Fact) -> None:
    """Add a fact to its line."""
    quantity = line.counted(fact.quantity, fact.amount_minor)
    if fact.part == "received":
        line.received += quantity
        if "rejected" in fact.attributes:
            line.inspected += quantity
            line.rejected += _rejected(fact.attributes["rejected"], quantity)
    elif fact.part == "returned":
        line.returned += quantity
    elif fact.part == "accepted":
        line.accepted = (line.accepted or 0) + quantity
    elif fact.part == "used":
        line.add_use(_entry(fact, quantity, 0, ""))
    else:
        sign = _BILLING[fact.part]
        line.add_bill(_entry(fact, sign * quantity, sign * fact.amount_minor, fact.correlation_id))


def _entry(fact: Fact, quantity: int, amount_minor: int, bill: str) -> Entry:
    return Entry(fact.part, fact.effective_on, fact.document, bill, fact.source, fact.event_id, quantity, amount_minor)


def _rejected(told: object, quantity: int) -> int:
    """The part of a receipt that was not accepted; all of it when what is said of it can't be true."""
    is_sound = isinstance(told, int) and not isinstance(told, bool) and 0 <= told <= quantity
    return told if is_sound else max(0, quantity)


def _measures(fact: Fact, level: int, before: Standing, after: Standing) -> dict[str, int]:
    cleared, billed = after.cleared - before.cleared, after.billed - before.billed
    if fact.part in ("received", "returned"):
        return {"received": after.received - before.received, "cleared": cleared}
    if fact.part == "used":
        return {"cost": after.used - before.used}
    if fact.part == "accepted":
        return {}
    if level == 2:
        return _without_order(fact)
    variance = _BILLING[fact.part] * fact.amount_minor - billed
    return {"cleared": cleared, "unreceived": billed - cleared, "variance": variance, "expense": 0}


def _without_order(fact: Fact) -> dict[str, int]:
    return {"cleared": 0, "unreceived": 0, "variance": 0, "expense": _BILLING[fact.part] * fact.amount_minor}
