"""What rows name: the keys of items and groups, who signs, and how long ago something was.

Owns reading these from rows and rules. Keeps nothing.
"""

import unicodedata
from datetime import date
from typing import Any

from runtime.ledger.rules import Item
from simulation.auditor.amounts import attributes_of

Row = dict[str, Any]
Key = tuple[str, str, str]  # item or group, entity, key
APART = "\x1f"  # between a key and what a further column adds to it
DAY_MS = 24 * 60 * 60 * 1000
THURSDAY, SATURDAY = 3, 5  # the epoch was a Thursday


def key_of(row: Row, column: str) -> str:
    """A key, "" for none. Of columns joined by "_or_" the first counts that is not empty."""
    return next((row[name] for name in column.split("_or_") if row[name]), "")


def ago_ms(rule: Item, since_ms: int, now_ms: int) -> int:
    """How long ago that is; Saturdays and Sundays may not count."""
    whole = range(since_ms // DAY_MS, now_ms // DAY_MS + 1) if rule.business_days else ()
    off = [day for day in whole if (day + THURSDAY) % 7 >= SATURDAY]
    idle_ms = sum(min(now_ms, (day + 1) * DAY_MS) - max(since_ms, day * DAY_MS) for day in off)
    return now_ms - since_ms - idle_ms


def next_month(on: date) -> date:
    """The first day of the month after."""
    return date(on.year + on.month // 12, on.month % 12 + 1, 1)


def common(key: tuple[str, ...]) -> tuple[str, ...]:
    """A key without what a further column adds to it."""
    return *key[:-1], key[-1].partition(APART)[0]


def person(row: Row) -> str:
    """Who stands behind a row, "" for nobody."""
    named = attributes_of(row).get("person")
    return unicodedata.normalize("NFKC", " ".join(named.split())) if isinstance(named, str) else ""
