"""Validation of few events, one after another.

A call on whole columns costs as much as judging dozens of events, so for a handful this is many times faster. Owns
nothing but the loop: the rules are those of `runtime.event_rules`, and the verdicts and stamps are the same, bit for
bit, as those of `runtime.validation`.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from runtime import event_rules, limits
from runtime.event_rules import NOTHING, SEPARATOR, TEXT_WIDTHS, Broken
from runtime.schema import COLUMNS, REQUIRED, SCHEMA_VERSION, TEXT_COLUMNS, WORD_COLUMNS, Event, Vocabulary

_NAMES = tuple(COLUMNS)
_PLACE = {name: place for place, name in enumerate(_NAMES)}
_REQUIRED = [(name, _PLACE[name]) for name in REQUIRED]
_TEXTS = [(name, _PLACE[name], TEXT_WIDTHS[name]) for name in TEXT_COLUMNS]
_WITHOUT_CONTROL = [_PLACE[name] for name in TEXT_COLUMNS if name != "attributes"]
_KIND, _ENTITY, _FACILITY, _CURRENCY = (_PLACE[name] for name in ("kind", "entity", "facility", "currency"))
_SOURCE, _EVENT_ID, _AMOUNT = (_PLACE[name] for name in ("source", "event_id", "amount_minor"))
_QUANTITY = _PLACE["quantity"]
_OCCURRED, _EFFECTIVE, _VERSION = (_PLACE[name] for name in ("occurred_at", "effective_on", "schema_version"))
_DIGEST_OF_NOTHING = NOTHING * sum(event_rules.DIGEST_FACTORS.values())
_UINT64 = 2**64
_WORDS_REMEMBERED = 2**14
_find_control = re.compile(event_rules.CONTROL).search


class Judged(NamedTuple):
    """For each event the first rule that it breaks, or None; the good ones, in order, stamped."""

    faults: list[Broken | None]
    accepted: list[Event]


def judge(events: Sequence[Event], vocabulary: Vocabulary, received_at_ms: int) -> Judged:
    """Judge and stamp each event."""
    faults = [_fault(event, vocabulary, received_at_ms) for event in events]
    good = [_filled(event) for event, fault in zip(events, faults, strict=True) if fault is None]
    return Judged(faults, [_stamped(event, received_at_ms) for event in good])


def events_of(batch: pa.RecordBatch) -> list[Event]:
    """The events of a conformed batch."""
    return list(zip(*(_values(column) for column in batch.columns), strict=True))


def _stamped(event: Event, received_at_ms: int) -> Event:
    id_hash = _hash(f"{event[_SOURCE]}{SEPARATOR}{event[_EVENT_ID]}")
    return (*event, received_at_ms, id_hash, _digest(id_hash, event))


def _values(column: pa.Array) -> list:
    if column.null_count == len(column):
        return [None] * len(column)
    if not pa.types.is_temporal(column.type):
        return column.to_pylist()
    return column.view(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_pylist()


def _filled(event: Event) -> Event:
    """With an accounting date: the UTC day, unless one is given."""
    if event[_EFFECTIVE] is not None:
        return event
    return (*event[:_EFFECTIVE], event[_OCCURRED] // event_rules.DAY_MS, *event[_EFFECTIVE + 1 :])


def _hash(text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode())


def _number_of(name: str) -> Callable[[Any], int]:
    """What makes the number of a value of this column that its digest takes."""
    if name not in TEXT_COLUMNS:
        return int
    return _word_hash if name in WORD_COLUMNS else _hash


_word_hash = lru_cache(_WORDS_REMEMBERED)(_hash)
_FACTORS = [(_PLACE[name], factor, _number_of(name)) for name, factor in event_rules.DIGEST_FACTORS.items()]


def _digest(id_hash: int, event: Event) -> int:
    """As `event_rules.DIGEST_FACTORS` tells."""
    digest = id_hash + _DIGEST_OF_NOTHING
    for place, factor, number_of in _FACTORS:
        value = event[place]
        if value is not None:
            digest += (number_of(value) - NOTHING) * factor
    return digest % _UINT64


def _fault(event: Event, vocabulary: Vocabulary, received_at_ms: int) -> Broken | None:
    """The first rule that the event breaks."""
    for name, place in _REQUIRED:
        if event[place] is None:
            return event_rules.missing(name)
    return (
        _unfit_text(event)
        or _unknown(event, vocabulary)
        or _out_of_range(event, vocabulary, received_at_ms)
        or _missing_for_kind(event, vocabulary)
    )


def _unfit_text(event: Event) -> Broken | None:
    if not _find_control("".join([event[place] or "" for place in _WITHOUT_CONTROL])):
        overlong = (name for name, place, width in _TEXTS if event[place] and len(event[place]) > width)
        name = next(overlong, None)
        return name and event_rules.too_long(name)
    for name, place, width in _TEXTS:
        if len(event[place] or "") > width:
            return event_rules.too_long(name)
        if name != "attributes" and _find_control(event[place] or ""):
            return event_rules.control_character(name)
    return None


def _unknown(event: Event, vocabulary: Vocabulary) -> Broken | None:
    entity = event[_ENTITY]
    if event[_KIND] not in vocabulary.kinds:
        return event_rules.UNKNOWN_KIND
    if entity not in vocabulary.entities:
        return event_rules.UNKNOWN_ENTITY
    if not event_rules.has_currency(vocabulary, entity, event[_CURRENCY]):
        return event_rules.UNKNOWN_CURRENCY
    return None if event_rules.has_facility(vocabulary, entity, event[_FACILITY]) else event_rules.UNKNOWN_FACILITY


def _out_of_range(event: Event, vocabulary: Vocabulary, received_at_ms: int) -> Broken | None:
    if abs(event[_AMOUNT]) > limits.AMOUNT_MINOR_MAX:
        return event_rules.AMOUNT_BEYOND
    if event[_AMOUNT] < 0 and event_rules.is_positive(vocabulary, event[_KIND]):
        return event_rules.AMOUNT_NEGATIVE
    if abs(event[_QUANTITY] or 0) > limits.QUANTITY_MAX:
        return event_rules.QUANTITY_BEYOND
    newest_ms = event_rules.newest_ms(received_at_ms)
    if event[_OCCURRED] < event_rules.OLDEST_DAY * event_rules.DAY_MS:
        return event_rules.too_early("occurred_at")
    if event[_OCCURRED] > newest_ms:
        return event_rules.too_late("occurred_at")
    if event[_EFFECTIVE] is not None and event[_EFFECTIVE] < event_rules.OLDEST_DAY:
        return event_rules.too_early("effective_on")
    if event[_EFFECTIVE] is not None and event[_EFFECTIVE] > newest_ms // event_rules.DAY_MS:
        return event_rules.too_late("effective_on")
    return None if event[_VERSION] == SCHEMA_VERSION else event_rules.UNKNOWN_VERSION


def _missing_for_kind(event: Event, vocabulary: Vocabulary) -> Broken | None:
    lacking = [name for name in event_rules.needs(vocabulary, event[_KIND]) if event[_PLACE[name]] is None]
    return event_rules.missing_for_kind(min(lacking)) if lacking else None
