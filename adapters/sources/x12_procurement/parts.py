"""What sets of purchasing have in common: lines with their own segments, parties, amounts, counts.

Owns how such a part is read. Never decides what a line becomes.
"""

from datetime import date, timedelta
from decimal import Decimal
from typing import NamedTuple

from adapters.sources.purchasing import (
    KEY_CHARS_MAX,
    QUANTITY_PLACES,
    Price,
    Unfit,
    currency_digits,
    identifier,
    scaled,
)
from adapters.sources.x12.values import day
from adapters.sources.x12_procurement.sets import Segment, TransactionSet

_SUMMARY = ("TDS", "CTT")
_SUPPLIERS = ("SE", "SU", "VN", "II", "SF", "RE", "RI")  # N101: who sells, before who ships and who is to be paid
_BASES = {"PN": Decimal(10), "HP": Decimal(100), "TP": Decimal(1000)}  # data element 639: price per so many
_EPOCH = date(1970, 1, 1)


class Parts(NamedTuple):
    """A set's segments before its lines, those of each line with the line's own first, and those after them."""

    header: list[Segment]
    lines: list[list[Segment]]
    summary: list[Segment]

    @property
    def outside_lines(self) -> list[Segment]:
        """All segments that speak of the whole document."""
        return self.header + self.summary


def parts_of(transaction: TransactionSet, opener: str) -> Parts:
    """The set parted, where each line begins with a segment `opener`. Raises Unfit for a set without lines."""
    parts = Parts([], [], [])
    into = parts.header
    for segment in transaction.segments:
        if segment.tag in _SUMMARY:
            into = parts.summary
        elif segment.tag == opener and into is not parts.summary:
            into = []
            parts.lines.append(into)
        into.append(segment)
    if not parts.lines:
        raise Unfit("no_lines", 1, 0)
    return parts


def first(segments: list[Segment], tag: str, qualifier: str = "") -> Segment | None:
    """The first segment of that tag, and of that first element when one is given."""
    found = (s for s in segments if s.tag == tag and (not qualifier or s.at(1) == qualifier))
    return next(found, None)


def key_part(segment: Segment, index: int) -> str:
    """An identifier that becomes a part of a key. Raises Unfit when it is too long for one."""
    found = identifier(segment.at(index))
    if len(found) > KEY_CHARS_MAX:
        raise segment.unfit("too_long", index)
    return found


def document_number(segment: Segment, index: int) -> str:
    """A document's own number. Raises Unfit."""
    segment.required(index)
    return key_part(segment, index)


def day_at(segment: Segment, index: int) -> date:
    """A date. Raises Unfit."""
    days = day(segment.at(index))
    if days is None:
        raise segment.unfit("missing_date", index)
    return _EPOCH + timedelta(days=days)


def supplier_of(header: list[Segment], fallback: str) -> str:
    """The seller's id, or its name where it has none; the trading partner of the group where nobody is named."""
    for role in _SUPPLIERS:
        party = first(header, "N1", role)
        if party is not None and (found := key_part(party, 4) or key_part(party, 2)):
            return found
    return identifier(fallback)[:KEY_CHARS_MAX]


def currency_of(header: list[Segment], otherwise: str) -> str:
    """The currency that CUR names, or the one of the settings."""
    named = first(header, "CUR")
    return (named.at(2) if named else "") or otherwise


def minor_at(segment: Segment, index: int, currency: str) -> int:
    """An amount with its decimal point, in minor units. Raises Unfit for more places than the currency has."""
    amount_minor = scaled(segment.decimal(index), currency_digits(currency))
    if amount_minor is None:
        raise segment.unfit("bad_amount", index)
    return amount_minor


def implied_minor_at(segment: Segment, index: int, currency: str) -> int:
    """An amount of type N2: two decimals without their point, whatever the currency. Raises Unfit."""
    hundredths = segment.decimal(index)
    amount_minor = scaled(hundredths.scaleb(-2), currency_digits(currency))
    if amount_minor is None or "." in segment.at(index):
        raise segment.unfit("bad_amount", index)
    return amount_minor


def price_at(segment: Segment, index: int) -> Price:
    """A unit price with the basis behind it. Raises Unfit without one."""
    if not segment.at(index):
        raise segment.unfit("missing_price", index)
    return Price(segment.decimal(index), _BASES.get(segment.at(index + 1), Decimal(1)))


def extended_minor(line: Segment, each: Price, currency: str) -> int:
    """A line's quantity, its second element, times its price, rounded to minor units. Raises Unfit."""
    amount_minor = each.minor_for(line.decimal(2), currency_digits(currency))
    if amount_minor is None:
        raise line.unfit("bad_amount", 4)
    return amount_minor


def numbered(lines: list[list[Segment]]) -> list[tuple[str, list[Segment]]]:
    """Each line with the number in its first element, or its place. Raises Unfit for one that comes twice."""
    named: dict[str, list[Segment]] = {}
    for place, line in enumerate(lines, start=1):
        number = key_part(line[0], 1) or str(place)
        if number in named:
            raise line[0].unfit("duplicate_line", 1)
        named[number] = line
    return list(named.items())


def check_counts(parts: Parts, counts: tuple[int, ...], quantities: list[int]) -> None:
    """CTT01 is one of those counts, and CTT02 the sum of the lines' quantities. Raises Unfit.

    Of broken quantities CTT02 is no sum but a hash that ignores the points, and senders differ: it is passed over.
    """
    stated = first(parts.summary, "CTT")
    if stated is None:
        return
    if stated.decimal(1) not in counts:
        raise stated.unfit("wrong_line_count", 1)
    are_whole = not any(quantity % 10**QUANTITY_PLACES for quantity in quantities)
    if stated.at(2) and are_whole and stated.quantity(2) != sum(quantities):
        raise stated.unfit("wrong_hash_total", 2)
