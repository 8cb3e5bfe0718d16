"""810: an invoice or a credit memo, and what its total must add up to.

Owns the sum: TDS01 is every line at quantity times price, rounded a line at a time, with the allowances, charges and
taxes of lines and document. Never believes a total that is another one.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from adapters.sources.purchasing import (
    REFERENCE_CHARS_MAX,
    Document,
    Form,
    Line,
    Unfit,
    bill_key,
    order_line_key,
)
from adapters.sources.x12.segments import ELEMENT, SEGMENT
from adapters.sources.x12_procurement.parts import (
    Parts,
    check_counts,
    currency_of,
    day_at,
    document_number,
    extended_minor,
    first,
    implied_minor_at,
    key_part,
    minor_at,
    numbered,
    parts_of,
    price_at,
    supplier_of,
)
from adapters.sources.x12_procurement.sets import Segment, TransactionSet

LINE = "IT1"
_CREDITS = ("CR", "CN")  # BIG07
_FREIGHT = ("D240", "G821")  # SAC02
_TOLD_ONLY = ("O", "I")  # TXI07: for information, or within the prices
_ORDER_LINE = "PL"  # the buyer's line number, in the pairs that begin at IT106


class _Extras(NamedTuple):
    """What comes on top of prices. Allowances are to be taken off."""

    charge_minor: int = 0
    allowance_minor: int = 0
    freight_minor: int = 0
    tax_minor: int = 0

    def plus(self, name: str, amount_minor: int) -> "_Extras":
        return self._replace(**{name: getattr(self, name) + amount_minor})

    def net_minor(self) -> int:
        """Without the taxes."""
        return self.charge_minor + self.freight_minor - self.allowance_minor


def invoice(transaction: TransactionSet, otherwise: str) -> Document:
    """The 810 as a bill; `otherwise` is the currency where it names none. Raises Unfit where it does not add up.

    What it does to the debt decides: a negative invoice is a credit memo, and a credit memo's own sign, which some
    senders set and some don't, says nothing.
    """
    opening, parts = transaction.sole("BIG"), parts_of(transaction, LINE)
    currency = currency_of(parts.header, otherwise)
    lines = [_line(name, segments, opening, currency) for name, segments in numbered(parts.lines)]
    check_counts(parts, (len(lines),), [line.quantity for line in lines])
    extras = _extras(parts.outside_lines, currency)
    for segments in parts.lines:
        extras = extras.plus("tax_minor", _extras(segments, currency).tax_minor)
    total_minor = _checked_total(transaction, lines, extras, currency)
    bill = _heading(transaction, opening, parts, currency)
    return _signed(bill._replace(lines=tuple(lines), amount_minor=total_minor), extras)


def stated_figures(transaction: TransactionSet, currency: str) -> dict[str, int]:
    """The total and the taxes as the set states them, 0 where they can't be read."""
    figures = {"payable_minor": 0, "tax_minor": 0}
    try:
        figures["payable_minor"] = implied_minor_at(transaction.sole("TDS"), 1, currency)
        figures["tax_minor"] = _extras(transaction.segments, currency).tax_minor
    except Unfit:
        return figures
    return figures


def _line(name: str, segments: list[Segment], opening: Segment, currency: str) -> Line:
    own, extras = segments[0], _extras(segments, currency)
    each, thousandths = price_at(own, 4), own.quantity(2)
    amount_minor = extended_minor(own, each, currency) + extras.net_minor()
    named = first(segments, "REF", "PO")
    order = key_part(named, 2) if named else key_part(opening, 4)
    order_line = own.pair(6, _ORDER_LINE) or own.at(1)
    return Line(name, thousandths, amount_minor, each, order_line=order_line_key(order, order_line))


def _extras(segments: Iterable[Segment], currency: str) -> _Extras:
    extras = _Extras()
    for segment in segments:
        if segment.tag == "SAC":
            extras = _with_charge(extras, segment, currency)
        elif segment.tag == "TXI" and segment.at(2) and segment.at(7) not in _TOLD_ONLY:
            extras = extras.plus("tax_minor", minor_at(segment, 2, currency))
    return extras


def _with_charge(extras: _Extras, charge: Segment, currency: str) -> _Extras:
    match charge.at(1):
        case "N":
            return extras
        case "A":
            return extras.plus("allowance_minor", implied_minor_at(charge, 5, currency))
        case "C":
            name = "freight_minor" if charge.at(2) in _FREIGHT else "charge_minor"
            return extras.plus(name, implied_minor_at(charge, 5, currency))
    raise charge.unfit("bad_code", 1)


def _checked_total(transaction: TransactionSet, lines: list[Line], extras: _Extras, currency: str) -> int:
    stated = transaction.sole("TDS")
    total_minor = sum(line.amount_minor for line in lines) + extras.net_minor() + extras.tax_minor
    if implied_minor_at(stated, 1, currency) != total_minor:
        raise stated.unfit("sum_mismatch", 1)
    return total_minor


def _heading(transaction: TransactionSet, opening: Segment, parts: Parts, currency: str) -> Document:
    supplier = supplier_of(parts.header, transaction.sender)
    if not supplier:
        raise opening.unfit("missing_supplier", 0)
    number, issued = document_number(opening, 2), day_at(opening, 1)
    form: Form = "credit" if opening.at(7) in _CREDITS else "invoice"
    original = first(parts.header, "REF", "OI")
    references = {
        "order": key_part(opening, 4),
        "billing": bill_key(supplier, key_part(original, 2)) if original else "",
    }
    told = {name: text[:REFERENCE_CHARS_MAX] for name, text in references.items() if text}
    return Document(form, number, supplier, issued, currency, (), attributes={**told, "body": _body(transaction)})


def _signed(bill: Document, extras: _Extras) -> Document:
    """What a credit gives back is positive."""
    sign = -1 if bill.amount_minor < 0 else 1
    always = {"tax_minor": sign * extras.tax_minor, "freight_minor": sign * extras.freight_minor}
    rest = {name: sign * getattr(extras, name) for name in ("charge_minor", "allowance_minor") if getattr(extras, name)}
    form = {"form": "negative_invoice"} if sign < 0 and bill.form == "invoice" else {}
    return bill._replace(
        form="credit" if sign < 0 else bill.form,
        amount_minor=sign * bill.amount_minor,
        lines=tuple(_times(sign, line) for line in bill.lines),
        attributes={**always, **rest, **form, **bill.attributes},
    )


def _times(sign: int, line: Line) -> Line:
    return line._replace(amount_minor=sign * line.amount_minor, quantity=sign * line.quantity)


def _body(transaction: TransactionSet) -> str:
    """A hash of the content, the same in every envelope and under every separator."""
    texts = (ELEMENT.join(segment.elements) for segment in transaction.segments)
    return sha256(SEGMENT.join(texts).encode()).hexdigest()
