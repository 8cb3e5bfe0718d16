"""One order line against everything that answers it: what it is worth, and which of its bills are too much.

Owns the cumulative match in two, three and four ways as a function of the line's state alone, so that it never depends
on the order of arrival. Quantities are in thousandths, prices in minor units for one unit. Never posts, and asks
nobody: what is let pass is an argument.
"""

import re
from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec

from runtime.currencies import currency_digits
from runtime.ledger.tolerances import Tolerance
from runtime.limits import AMOUNT_MINOR_MAX

UNIT = 1000  # thousandths
FRACTIONS_MAX = 65_536  # prices whose reading is remembered

_DECIMAL = re.compile(r"[+-]?\d{1,18}(\.\d{1,12})?", re.ASCII)


class Entry(msgspec.Struct, array_like=True):
    """One line of a bill or a credit memo (negative where it gives back), or one use.

    `part`: "billed", "credited" or "used"; bills and credit memos may bear the same number. `faults`: the exceptions
    last told of it, `told`: what of each.
    """

    part: str
    effective_on: date
    document: str
    bill: str  # key of the bill, "" for a use
    source: str
    event_id: str
    quantity: int
    amount_minor: int
    faults: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def place_in_line(self) -> tuple[date, str, str, str]:
        """Where it stands among its like, whenever it came."""
        return self.effective_on, self.document, self.source, self.event_id

    @property
    def gives_back(self) -> bool:
        return self.quantity < 0 or self.amount_minor < 0


class Standing(NamedTuple):
    """What a line is worth now, in minor units at the order's price. Open receipts are `received - cleared`."""

    received: int
    billed: int
    cleared: int  # received and billed
    used: int


class Due(NamedTuple):
    """A quantity that may be billed, the check that it belongs to (a field of Allowed), and its word."""

    check: str  # or "usage", of which nothing more is let pass
    word: str
    quantity: int


class Touched(msgspec.Struct, array_like=True):
    """What is asked of every order line there is."""

    touched_ms: int


class OrderLine(Touched, array_like=True):
    """An order line, and sums and entries of what answers it.

    `price`: minor units for one unit, as the text of a fraction. `by_amount`: ordered without a quantity; then each
    minor unit counts as one unit. `inspected`: received by receipts that say which part was `rejected`. `accepted` is
    None until something is accepted separately. `bill_only`: a consignment, of which what is used is billed.
    """

    supplier: str
    currency: str
    facility: str
    department: str
    level: int
    price: str
    by_amount: bool
    ordered: int
    received: int = 0
    rejected: int = 0
    returned: int = 0
    accepted: int | None = None
    used: int = 0
    bills: list[Entry] = []
    uses: list[Entry] = []
    inspected: int = 0
    bill_only: bool = False

    def counted(self, quantity: int | None, amount_minor: int) -> int:
        """How much of the line something is."""
        return amount_minor * UNIT if self.by_amount else quantity or 0

    def add_bill(self, entry: Entry) -> None:
        """Keep a bill line where it stands among its like."""
        insort(self.bills, entry, key=lambda kept: kept.place_in_line)

    def add_use(self, entry: Entry) -> None:
        """Keep a use where it stands among its like."""
        self.used += entry.quantity
        insort(self.uses, entry, key=lambda kept: kept.place_in_line)

    @property
    def at_hand(self) -> int:
        """Received, and not returned."""
        return max(0, self.received - self.returned)

    @property
    def acceptable(self) -> int:
        """Accepted, of what is at hand. Without separate acceptance that is what receipts say was inspected and not
        rejected, none where they say nothing; what was returned is the rejected part first."""
        accepted = self.inspected - self.rejected if self.accepted is None else self.accepted
        return max(0, min(accepted, self.at_hand))

    def may_bill(self) -> tuple[int, ...]:
        """What may be billed: one quantity for the order, one for each further way of the match, one for the use."""
        matched = (self.ordered, self.at_hand, self.acceptable)[: self.level - 1]
        return (*matched, max(0, self.used)) if self.bill_only else matched

    def dues(self) -> Iterator[Due]:
        """The same with the check that each belongs to."""
        ways = (*_WAYS[: self.level - 1], *([_USE] if self.bill_only else []))
        return (Due(*way, quantity) for way, quantity in zip(ways, self.may_bill(), strict=True))

    def value(self, quantity: int) -> int:
        """So much at the order's price."""
        return _in_minor(quantity, *_rate(self.price))

    def standing(self) -> Standing:
        """What the line is worth now. A line of level 2 accrues nothing, and has no stock that could be used."""
        if self.level == 2:
            return Standing(0, 0, 0, 0)
        billed, at_hand = sum([entry.quantity for entry in self.bills]), self.at_hand
        cleared = max(0, min(billed, at_hand))
        return Standing(*map(self.value, (at_hand, billed, cleared, self.used)))

    def is_square(self) -> bool:
        """Whether everything received is billed, everything billed received, and nothing at fault."""
        now = self.standing()
        return now.received == now.billed == now.cleared and not any(e.faults for e in (*self.bills, *self.uses))


class Allowed(NamedTuple):
    """What is let pass, check by check."""

    price: Tolerance
    amount: Tolerance
    quantity: Tolerance
    receipt: Tolerance
    acceptance: Tolerance


class Failure(NamedTuple):
    """A check that an entry fails, the amount at fault, and why in words."""

    entry: Entry
    check: str  # a field of Allowed, "usage" or "used"
    amount_minor: int
    detail: str


_WAYS = (("quantity", "ordered"), ("receipt", "received"), ("acceptance", "accepted"))  # check and word of a Due
_USE = ("usage", "used")
AllowedOn = Callable[[date], Allowed]


@lru_cache(FRACTIONS_MAX)
def fraction(text: str) -> Fraction:
    """A price as lines keep it."""
    return Fraction(text)


@lru_cache(FRACTIONS_MAX)
def _rate(text: str) -> tuple[int, int]:
    """A price as minor units for so many thousandths."""
    price = Fraction(text)
    return price.numerator, UNIT * price.denominator


def worth(quantity: int, price: Fraction) -> int:
    """Thousandths at a price in minor units, rounded half up (away from zero), as invoices are."""
    return _in_minor(quantity, price.numerator, UNIT * price.denominator)


def _in_minor(quantity: int, numerator: int, denominator: int) -> int:
    exact = quantity * numerator
    minor = (2 * abs(exact) + denominator) // (2 * denominator)
    return minor if exact >= 0 else -minor


def price_of(amount_minor: int, quantity: int, currency: str, attributes: Mapping[str, object]) -> Fraction:
    """The price of one unit in minor units: as given exactly, else as given in whole ones, else amount by quantity."""
    exact, per, rounded = (attributes.get(name) for name in ("price", "price_per", "price_minor"))
    if _is_decimal(exact) and _is_decimal(per) and Fraction(per) > 0:
        return Fraction(exact) * 10 ** currency_digits(currency) / Fraction(per)
    if isinstance(rounded, int) and not isinstance(rounded, bool):
        return Fraction(rounded)
    return Fraction(amount_minor * UNIT, quantity)


def fits(quantity: int, price: Fraction) -> bool:
    """Whether so much at this price is an amount at all, and not an error of scale."""
    return abs(quantity) <= AMOUNT_MINOR_MAX * UNIT and abs(worth(quantity, price)) <= AMOUNT_MINOR_MAX


def _is_decimal(value: object) -> bool:
    return isinstance(value, str) and bool(_DECIMAL.fullmatch(value))


def failures(line: OrderLine, allowed_on: AllowedOn) -> Iterator[Failure]:
    """Everything that is too much now. Bills count by date and number; what was given back counts before them all."""
    back = [bill for bill in line.bills if bill.gives_back]
    billed = sum(bill.quantity for bill in back)
    refunded_minor = max(0, -sum(bill.amount_minor for bill in back) + line.value(billed))
    least = min(line.may_bill())
    for bill in line.bills:
        if bill.gives_back:
            continue
        billed += bill.quantity
        over_minor = bill.amount_minor - line.value(bill.quantity)
        if billed <= least and over_minor <= 0:
            continue
        allowed = allowed_on(bill.effective_on)
        yield from _quantity_failures(line, bill, billed, allowed)
        if next(_price_failures(line, bill, 0, allowed), None):
            covered_minor = min(refunded_minor, over_minor)
            refunded_minor -= covered_minor
            yield from _price_failures(line, bill, covered_minor, allowed)
    yield from _use_failures(line)


def _quantity_failures(line: OrderLine, bill: Entry, billed: int, allowed: Allowed) -> Iterator[Failure]:
    """Checks of the quantity billed up to this bill."""
    for check, word, due in line.dues():
        ceiling = due if check == _USE[0] else getattr(allowed, check).ceiling(due)
        if bill.quantity and ceiling is not None and billed > ceiling:
            over_minor = line.value(min(billed - due, bill.quantity))
            detail = f"billed {plain(billed)}, {word} {plain(due)}: {plain(billed - due)} too many"
            yield Failure(bill, check, over_minor, detail)


def _price_failures(line: OrderLine, bill: Entry, covered_minor: int, allowed: Allowed) -> Iterator[Failure]:
    """Checks of a bill line's amount against the order's price for its quantity, less what was given back of it.

    Amounts are compared and not prices, so that rounding a line is no difference in price.
    """
    due_minor, left_minor = line.value(bill.quantity), bill.amount_minor - covered_minor
    price = allowed.price.ceiling(fraction(line.price))
    ceilings = {
        "price": None if price is None else worth(bill.quantity, price),
        "amount": allowed.amount.ceiling(due_minor),
    }
    for check, ceiling in ceilings.items():
        if ceiling is not None and left_minor > ceiling:
            over_minor = left_minor - due_minor
            detail = f"billed {left_minor}, ordered at {due_minor}: {over_minor} minor units too much"
            yield Failure(bill, check, over_minor, detail)


def _use_failures(line: OrderLine) -> Iterator[Failure]:
    used = 0
    for use in line.uses:
        used += use.quantity
        if use.quantity > 0 and used > line.at_hand:
            over = used - line.at_hand
            detail = f"used {plain(used)}, received {plain(line.at_hand)}: {plain(over)} too many"
            yield Failure(use, "used", line.value(min(over, use.quantity)), detail)


def plain(quantity: int) -> str:
    """Thousandths as a plain decimal: 90000 is "90", -500 is "-0.5"."""
    whole, part = divmod(abs(quantity), UNIT)
    text = f"{whole}.{part:03}".rstrip("0").rstrip(".")
    return f"-{text}" if quantity < 0 else text
