"""What every event must be, said once: bounds, the faults that break them, and what a vocabulary knows.

Owns the words and bounds of validation. Never looks at a frame or a row: `runtime.validation` tests whole columns,
`runtime.validation_singly` one event after another, both by these rules and in the order in which they stand here.
"""

from datetime import date
from typing import NamedTuple

import xxhash

from runtime import limits
from runtime.schema import COLUMNS, SCHEMA_VERSION, TEXT_COLUMNS, Vocabulary

TEXT_WIDTHS = dict.fromkeys(TEXT_COLUMNS, limits.TEXT_CHARS_MAX) | {
    "event_id": limits.EVENT_ID_CHARS_MAX,
    "attributes": limits.ATTRIBUTES_CHARS_MAX,
}
CONTROL = r"[\x00-\x1f\x7f]"  # in no text but attributes
DAY_MS = 86_400_000
OLDEST_DAY = (date(limits.OCCURRED_YEAR_MIN, 1, 1) - date(1970, 1, 1)).days

SEPARATOR = "\x1f"  # between source and event_id, in the text whose xxHash64 is an event's identity

# An event's digest is its identity plus, for each other column, a number times the column's factor, modulo 2**64. The
# number of an integer, time or date is itself, that of a text its xxHash64, that of nothing NOTHING. So columns are
# hashed apart, and a word that many rows hold once.
NOTHING = xxhash.xxh64_intdigest(b"")  # no text is empty
DIGEST_FACTORS = {
    name: xxhash.xxh64_intdigest(name.encode()) | 1 for name in COLUMNS if name not in ("source", "event_id")
}


class Broken(NamedTuple):
    """A rule that an event breaks, said without its value."""

    code: str
    column: str
    message: str


def missing(name: str) -> Broken:
    """A column that every event needs."""
    return Broken("missing_value", name, "must be filled")


def too_long(name: str) -> Broken:
    """A text beyond its width."""
    return Broken("too_long", name, f"at most {TEXT_WIDTHS[name]} characters")


def control_character(name: str) -> Broken:
    """A text with a control character."""
    return Broken("control_character", name, "control characters are not allowed")


UNKNOWN_KIND = Broken("unknown_kind", "kind", "not in the rulebook")
UNKNOWN_ENTITY = Broken("unknown_entity", "entity", "not configured")
UNKNOWN_CURRENCY = Broken("unknown_currency", "currency", "not a currency of this entity")
UNKNOWN_FACILITY = Broken("unknown_facility", "facility", "not a facility of this entity")
AMOUNT_BEYOND = Broken("out_of_range", "amount_minor", f"beyond {limits.AMOUNT_MINOR_MAX} minor units")
QUANTITY_BEYOND = Broken("out_of_range", "quantity", f"beyond {limits.QUANTITY_MAX} thousandths")
AMOUNT_NEGATIVE = Broken("negative_amount", "amount_minor", "this kind takes no negative amount")
UNKNOWN_VERSION = Broken("unknown_version", "schema_version", f"this runtime reads version {SCHEMA_VERSION}")


def too_early(name: str) -> Broken:
    """A time or date before the oldest one."""
    return Broken("out_of_range", name, f"before {limits.OCCURRED_YEAR_MIN}")


def too_late(name: str) -> Broken:
    """A time or date too far ahead."""
    return Broken("out_of_range", name, f"more than {limits.FUTURE_DAYS_MAX} days ahead")


def missing_for_kind(name: str) -> Broken:
    """A column that events of this kind need."""
    return Broken("missing_value", name, "this kind needs this column")


def newest_ms(received_at_ms: int) -> int:
    """The latest time that an event received now may be of."""
    return received_at_ms + limits.FUTURE_DAYS_MAX * DAY_MS


def needs(vocabulary: Vocabulary, kind: str | None) -> tuple[str, ...]:
    """The columns that this kind needs."""
    return vocabulary.kinds[kind].requires if kind in vocabulary.kinds else ()


def is_positive(vocabulary: Vocabulary, kind: str | None) -> bool:
    """Whether this kind takes no negative amount."""
    return kind in vocabulary.kinds and vocabulary.kinds[kind].sign == "positive"


def has_currency(vocabulary: Vocabulary, entity: str | None, currency: str | None) -> bool:
    """Whether this entity knows the currency; nothing is asked of an unknown entity."""
    return entity not in vocabulary.entities or currency in vocabulary.entities[entity].currencies


def has_facility(vocabulary: Vocabulary, entity: str | None, facility: str | None) -> bool:
    """Whether this entity knows the facility: one that declares none leaves it open."""
    declared = vocabulary.entities[entity].facilities if entity in vocabulary.entities else ()
    return not facility or not declared or facility in declared


def identity(source: str, event_id: str) -> int:
    """The hash that stands for an event, whatever it says."""
    return xxhash.xxh64_intdigest(f"{source}{SEPARATOR}{event_id}".encode())
