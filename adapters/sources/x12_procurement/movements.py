"""850, 855, 856 and 861: what was ordered, confirmed, sent and received.

Owns which order's line each of their lines speaks of. Never books a confirmation: an 855 is read, counted and changes
nothing, as only the buyer's own order says what was approved.
"""

from collections.abc import Iterator
from typing import NamedTuple

from adapters.sources.purchasing import Document, Line, order_line_key
from adapters.sources.x12_procurement.parts import (
    Parts,
    check_counts,
    currency_of,
    day_at,
    document_number,
    extended_minor,
    first,
    key_part,
    minor_at,
    numbered,
    parts_of,
    price_at,
    supplier_of,
)
from adapters.sources.x12_procurement.sets import Segment, TransactionSet

ORDER_LINE, LEVEL, ITEM, RECEIPT_LINE = "PO1", "HL", "SN1", "RCD"
_AS_IT_STANDS = ("", "00", "05", "06", "07")  # purposes: original, replacement, confirmation, duplicate
_BUYERS_LINE = "PL"  # the buyer's line number, in the pairs of a LIN


def order(transaction: TransactionSet, otherwise: str) -> Document:
    """An 850: each line as approved, at quantity times price. Raises Unfit for a line without a price."""
    opening, parts = transaction.sole("BEG"), parts_of(transaction, ORDER_LINE)
    _check_purpose(opening, 1)
    currency = currency_of(parts.header, otherwise)
    lines = [_order_line(name, segments[0], currency) for name, segments in numbered(parts.lines)]
    check_counts(parts, (len(lines),), [line.quantity for line in lines])
    _check_order_total(parts, lines, currency)
    supplier = supplier_of(parts.header, transaction.receiver)
    if not supplier:
        raise opening.unfit("missing_supplier", 0)
    number, issued = document_number(opening, 3), day_at(opening, 5)
    return Document("order", number, supplier, issued, currency, tuple(lines))


def _order_line(name: str, own: Segment, currency: str) -> Line:
    each, thousandths = price_at(own, 4), own.quantity(2)
    return Line(name, thousandths, extended_minor(own, each, currency), each)


def _check_order_total(parts: Parts, lines: list[Line], currency: str) -> None:
    """AMT*TT is the sum of the lines, unless allowances or charges come on top."""
    stated = first(parts.outside_lines, "AMT", "TT")
    if stated is None or first(parts.outside_lines, "SAC"):
        return
    if minor_at(stated, 2, currency) != sum(line.amount_minor for line in lines):
        raise stated.unfit("sum_mismatch", 2)


def confirmation(transaction: TransactionSet, otherwise: str) -> None:
    """An 855: read for what is wrong in it. Raises Unfit."""
    document_number(transaction.sole("BAK"), 3)
    if not transaction.all(ORDER_LINE):
        return
    parts = parts_of(transaction, ORDER_LINE)
    check_counts(parts, (len(parts.lines),), [segments[0].quantity(2) for _, segments in numbered(parts.lines)])


class _Level(NamedTuple):
    """One level of an 856 with the order it belongs to, its own or its parent's."""

    order: str
    segments: list[Segment]


def despatch(transaction: TransactionSet, otherwise: str) -> Document:
    """An 856: each item on its way, by the order of the levels above it. Raises Unfit."""
    opening, parts = transaction.sole("BSN"), parts_of(transaction, LEVEL)
    _check_purpose(opening, 1)
    items = [level for level in _levels(parts) if first(level.segments, ITEM)]
    lines = tuple(_item(str(place), level) for place, level in enumerate(items, start=1))
    if not lines:
        raise opening.unfit("no_lines", 0)
    # Senders count levels or items: the standard says levels, half of the guides say items.
    check_counts(parts, (len(parts.lines), len(lines)), [line.quantity for line in lines])
    supplier = supplier_of(parts.header + parts.lines[0], transaction.sender)
    return Document("despatch", document_number(opening, 2), supplier, day_at(opening, 3), "", lines)


def _levels(parts: Parts) -> Iterator[_Level]:
    orders: dict[str, str] = {}
    for segments in parts.lines:
        own, named = segments[0], first(segments, "PRF")
        order = key_part(named, 1) if named else orders.get(own.at(2), "")
        orders[own.required(1)] = order
        yield _Level(order, segments)


def _item(name: str, level: _Level) -> Line:
    sent, item = first(level.segments, ITEM), first(level.segments, "LIN")
    number = (item.pair(2, _BUYERS_LINE) or item.at(1) if item else "") or sent.at(1)
    answered = order_line_key(level.order, number)
    if not answered:
        raise sent.unfit("missing_order", 1)
    return Line(name, sent.quantity(2), order_line=answered)


def receipt(transaction: TransactionSet, otherwise: str) -> Document:
    """An 861: each line received, with what of it was returned or is in question. Raises Unfit."""
    opening, parts = transaction.sole("BRA"), parts_of(transaction, RECEIPT_LINE)
    _check_purpose(opening, 3)
    lines = tuple(_received(name, segments, parts.header) for name, segments in numbered(parts.lines))
    check_counts(parts, (len(lines),), [line.quantity for line in lines])
    supplier = supplier_of(parts.header, transaction.receiver)
    return Document("receipt", document_number(opening, 1), supplier, day_at(opening, 2), "", lines)


def _received(name: str, segments: list[Segment], header: list[Segment]) -> Line:
    own, item, named = segments[0], first(segments, "LIN"), first(segments, "PRF")
    number = (item.pair(2, _BUYERS_LINE) if item else "") or (named.at(5) if named else "")
    number = number or (item.at(1) if item else "") or own.at(1)
    answered = order_line_key(_order_of(segments) or _order_of(header), number)
    if not answered:
        raise own.unfit("missing_order", 1)
    notes = {"rejected": own.quantity(4) if own.at(4) else 0, "questioned": own.quantity(6) if own.at(6) else 0}
    return Line(
        name, own.quantity(2), order_line=answered, attributes={n: value for n, value in notes.items() if value}
    )


def _order_of(segments: list[Segment]) -> str:
    named, referred = first(segments, "PRF"), first(segments, "REF", "PO")
    return (key_part(named, 1) if named else "") or (key_part(referred, 2) if referred else "")


def _check_purpose(opening: Segment, index: int) -> None:
    """A cancellation or a change says what is no more; none of our kinds does."""
    if opening.at(index) not in _AS_IT_STANDS:
        raise opening.unfit("unread_purpose", index)
