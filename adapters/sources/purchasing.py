"""What orders, despatches, receipts, invoices and credit notes become, whichever format they came in.

Owns exact decimals, the keys of lines, the identity of a document, and its events. Never reads a file, and never
judges one document against another: matching is the ledger's.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Literal, NamedTuple

import msgspec
import polars as pl
import xxhash

from adapters.sources.source import Chunk, Quarantined, SourceSettings
from runtime.currencies import currency_digits
from runtime.limits import AMOUNT_MINOR_MAX
from runtime.schema import COLUMNS, SCHEMA_VERSION

KEY_CHARS_MAX = 80  # of each part of a key: three parts fit into a column
REFERENCE_CHARS_MAX = 128
QUANTITY_PLACES = 3

Form = Literal["order", "despatch", "receipt", "invoice", "credit"]

_KINDS: dict[Form, tuple[str, str]] = {  # the kind of the header's event, when it has one, and of its lines' events
    "order": ("", "po_line_approved"),
    "despatch": ("", "despatch_announced"),
    "receipt": ("", "goods_received"),
    "invoice": ("invoice_received", "invoice_line_billed"),
    "credit": ("credit_memo_received", "credit_memo_line_billed"),
}
_BY_SUPPLIER: frozenset[Form] = frozenset({"despatch", "invoice", "credit"})  # numbered by the supplier, not by us
_DECIMAL = re.compile(r"[+-]?(\d{1,18}(\.\d{0,12})?|\.\d{1,12})")
_EXACT = Context(prec=80)


class Unfit(Exception):
    """A document can't be taken as it is: why, and where it says so. Never holds a value."""

    def __init__(self, code: str, segment: int, element: int) -> None:
        super().__init__(f"{code} at segment {segment}, element {element}")
        self.code, self.segment, self.element = code, segment, element

    def aside(self, ordinal: int) -> tuple[Quarantined, ...]:
        """The document of that ordinal, set aside for this."""
        return (Quarantined(ordinal, self.segment, self.element, self.code),)


class Price(NamedTuple):
    """What one unit costs: `amount` of the currency for `per` units."""

    amount: Decimal
    per: Decimal = Decimal(1)

    def minor_for(self, units: Decimal, digits: int) -> int | None:
        """The price of so many units in minor units, rounded half up as invoices are; None beyond every amount."""
        amount = _EXACT.multiply(self.amount.scaleb(digits, _EXACT), units)
        amount_minor = int(_EXACT.divide(amount, self.per).quantize(Decimal(1), ROUND_HALF_UP, _EXACT))
        return amount_minor if abs(amount_minor) <= AMOUNT_MINOR_MAX else None


class Line(NamedTuple):
    """One line. `order_line` is the key of the order's line that it answers; `quantity` is in thousandths."""

    number: str
    quantity: int | None = None
    amount_minor: int = 0
    price: Price | None = None
    order_line: str = ""
    department: str = ""
    day: date | None = None
    attributes: Mapping[str, object] = {}


class Document(NamedTuple):
    """One document, checked and signed as its form says: what a credit note gives back is positive.

    Its currency is "" where it names none.
    """

    form: Form
    number: str
    supplier: str
    day: date
    currency: str
    lines: tuple[Line, ...]
    amount_minor: int = 0
    attributes: Mapping[str, object] = {}


class Reading(NamedTuple):
    """What one part of a file gave: a document, or what is set aside, or neither; and the part's own figures."""

    document: Document | None
    aside: tuple[Quarantined, ...] = ()
    figures: Mapping[str, int] = {}


def decimal_of(text: str) -> Decimal | None:
    """A plain decimal, exactly; None when the text is none or is too long to be an amount."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def scaled(value: Decimal, places: int) -> int | None:
    """The value as an integer of 10**-places; None when it has more places than that, or is beyond every amount."""
    shifted = value.scaleb(places, _EXACT)
    whole = int(shifted)
    return whole if whole == shifted and abs(whole) <= AMOUNT_MINOR_MAX else None


def identifier(text: str) -> str:
    """A number or name as it travels: blanks collapsed."""
    return " ".join(text.split())


def normalised_number(number: str) -> str:
    """An invoice's number as duplicates are sought by: upper case, only letters and digits, no leading zeros.

    A number of nothing else stays as it is, as no two of those are the same.
    """
    plain = "".join(char for char in number.upper() if char.isalnum()).lstrip("0")
    return plain or identifier(number)


def order_line_key(order: str, line: str) -> str:
    """The key of an order's line; "" when either is unknown."""
    return f"{order}/{line}" if order and line else ""


def bill_key(supplier: str, number: str) -> str:
    """The key of an invoice or credit note."""
    return f"{supplier}/{normalised_number(number)}"


def chunks(readings: Iterable[Reading], source: str, settings: SourceSettings) -> Iterator[Chunk]:
    """The documents' events in chunks of at most `rows_max`, with what was set aside and the figures."""
    rows, aside, figures = [], [], Counter()
    for document, unfit, counted in readings:
        aside += unfit
        figures.update(counted)
        for row in _rows(document, source, settings) if document else ():
            rows.append(row)
            if len(rows) == settings.rows_max:
                yield Chunk(_frame(rows), [], aside, figures)
                rows, aside, figures = [], [], Counter()
        if len(aside) >= settings.rows_max:
            yield Chunk(_frame(rows), [], aside, figures)
            rows, aside, figures = [], [], Counter()
    yield Chunk(_frame(rows), [], aside, figures)


def _frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    return pl.DataFrame(columns, schema=COLUMNS)


def _rows(document: Document, source: str, settings: SourceSettings) -> Iterator[dict[str, object]]:
    kind, line_kind = _KINDS[document.form]
    identity = _identity(document, settings.entity)
    common = {
        "source": source,
        "entity": settings.entity,
        "counterparty": document.supplier or None,
        "currency": document.currency or settings.currency,
        "schema_version": SCHEMA_VERSION,
    }
    if kind:
        yield common | {"event_id": f"{identity}:document", "kind": kind} | _header_columns(document)
    for ordinal, line in enumerate(document.lines, start=1):
        names = {"event_id": f"{identity}:line:{ordinal}", "kind": line_kind}
        yield common | names | _line_columns(document, line)


def _identity(document: Document, entity: str) -> str:
    """The same for the same document in another file or envelope."""
    issuer = document.supplier if document.form in _BY_SUPPLIER else ""
    return xxhash.xxh64_hexdigest("\x1f".join((entity, document.form, issuer, document.number)).encode())


def _header_columns(document: Document) -> dict[str, object]:
    return {
        "document": bill_key(document.supplier, document.number),
        "reference": document.attributes.get("billing") or None,
        "amount_minor": document.amount_minor,
        **_dated(document.day),
        "attributes": _json(document.attributes),
    }


def _line_columns(document: Document, line: Line) -> dict[str, object]:
    priced = _price_attributes(line.price, currency_digits(document.currency)) if line.price else {}
    attributes = {**priced, **line.attributes}
    return {
        "document": _line_key(document, line),
        "reference": line.order_line or None,
        "correlation_id": _line_owner(document),
        "department": line.department or None,
        "amount_minor": line.amount_minor,
        "quantity": line.quantity,
        **_dated(line.day or document.day),
        "attributes": _json(attributes) if attributes else None,
    }


def _line_key(document: Document, line: Line) -> str:
    return f"{_line_owner(document)}/{line.number}"


def _line_owner(document: Document) -> str:
    is_bill = document.form in ("invoice", "credit")
    return bill_key(document.supplier, document.number) if is_bill else document.number


def _price_attributes(price: Price, digits: int) -> dict[str, object]:
    """The unit price in minor units, and the price as given when that is a rounded one."""
    price_minor = price.minor_for(Decimal(1), digits)
    if price_minor is None:
        return {}
    if _EXACT.multiply(Decimal(price_minor), price.per) == price.amount.scaleb(digits, _EXACT):
        return {"price_minor": price_minor}
    return {"price_minor": price_minor, "price": f"{price.amount:f}", "price_per": f"{price.per:f}"}


def _dated(day: date) -> dict[str, object]:
    return {"occurred_at": datetime.combine(day, time(), UTC), "effective_on": day}


def _json(attributes: Mapping[str, object]) -> str:
    return msgspec.json.encode(attributes, order="sorted").decode()
