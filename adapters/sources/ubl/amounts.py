"""Values of UBL elements, exactly: amounts, quantities, dates, identifiers.

Owns what of an element's text is refused. Never rounds: what has more places than its currency is a fault.
"""

import re
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from adapters.sources.purchasing import (
    KEY_CHARS_MAX,
    QUANTITY_PLACES,
    Price,
    currency_digits,
    decimal_of,
    identifier,
    scaled,
)
from adapters.sources.ubl.xml_documents import Node

_CURRENCY = re.compile(r"[A-Z]{3}")
_DAY = re.compile(r"(\d{4}-\d{2}-\d{2})(Z|[+-]\d{2}:\d{2})?")


class Money(NamedTuple):
    """The document's currency, in which its amounts are read."""

    currency: str
    digits: int

    def minor(self, node: Node) -> int:
        """An amount in minor units. Raises Unfit for another currency, or more places than the currency has."""
        if node.attributes.get("currencyID", self.currency) != self.currency:
            raise node.unfit("currency_mismatch")
        amount_minor = scaled(decimal(node), self.digits)
        if amount_minor is None:
            raise node.unfit("too_precise_or_large")
        return amount_minor

    def minor_at(self, node: Node, *path: str) -> int | None:
        """The amount there, or None when there is none."""
        found = node.first(*path)
        return None if found is None else self.minor(found)


def money_of(document: Node, priced: list[Node]) -> Money:
    """The document's currency: its own word, or that of the first of these amounts. Raises Unfit."""
    named = document.text_at("DocumentCurrencyCode") or next((n.attributes.get("currencyID", "") for n in priced), "")
    if not _CURRENCY.fullmatch(named):
        raise document.unfit("missing_currency")
    return Money(named, currency_digits(named))


def decimal(node: Node) -> Decimal:
    """An element's decimal. Raises Unfit."""
    value = decimal_of(node.text.strip())
    if value is None:
        raise node.unfit("not_a_number")
    return value


def quantity(node: Node | None) -> int | None:
    """An element's quantity in thousandths, None without one. Raises Unfit for more places."""
    if node is None:
        return None
    thousandths = scaled(decimal(node), QUANTITY_PLACES)
    if thousandths is None:
        raise node.unfit("too_precise_or_large")
    return thousandths


def price(line: Node) -> Price | None:
    """A line's price with the quantity that it is for. Raises Unfit."""
    amount, base = line.first("Price", "PriceAmount"), line.first("Price", "BaseQuantity")
    if amount is None:
        return None
    per = decimal(base) if base else Decimal(1)
    if per <= 0:
        raise base.unfit("not_positive")
    return Price(decimal(amount), per)


def day(node: Node, *path: str) -> date | None:
    """The date there, without its time zone; None when there is none. Raises Unfit."""
    found = node.first(*path)
    if found is None:
        return None
    match = _DAY.fullmatch(found.text.strip())
    try:
        return date.fromisoformat(match[1] if match else "")
    except ValueError:
        raise found.unfit("not_a_date") from None


def key_part(node: Node, *path: str) -> str:
    """An identifier that becomes a part of a key; "" when there is none. Raises Unfit when it is too long for one."""
    found = node.first(*path)
    text = identifier(found.text) if found else ""
    if found and len(text) > KEY_CHARS_MAX:
        raise found.unfit("too_long")
    return text


def required_day(document: Node, *path: str) -> date:
    """The date there. Raises Unfit."""
    found = day(document, *path)
    if found is None:
        raise document.unfit("missing_date")
    return found
