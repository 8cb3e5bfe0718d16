"""Which rows are valid events, and the stable hashes that identify them.

Owns the vectorised validation that every door (gRPC, Redis stream, file) goes through: the first fault of each bad row,
named by code and column and never by value. Never decides what an event posts; that is the rulebook's.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import NamedTuple

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from runtime import limits
from runtime.errors import FrameError
from runtime.schema import (
    ARROW_STAMPED,
    COLUMNS,
    NUMBER_COLUMNS,
    REJECT_COLUMNS,
    REQUIRED,
    SCHEMA_VERSION,
    TEXT_COLUMNS,
    Checked,
    Validated,
    Vocabulary,
    to_arrow,
)
from runtime.words import Words, pairs_of, words_of

_NO_REJECTS = pl.DataFrame(schema=REJECT_COLUMNS)
_SEPARATOR = "\x1f"
_NULL = "\x00"
_TEXT_WIDTHS = dict.fromkeys(TEXT_COLUMNS, limits.TEXT_CHARS_MAX) | {
    "event_id": limits.EVENT_ID_CHARS_MAX,
    "attributes": limits.ATTRIBUTES_CHARS_MAX,
}
_DAY_MS = 86_400_000
_OLDEST_DAY = (date(limits.OCCURRED_YEAR_MIN, 1, 1) - date(1970, 1, 1)).days
_CONTROL = r"[\x00-\x1f\x7f]"
_HASHED_SINGLY_MAX = 256  # texts; a call of the vectorised hash costs as much as so many single ones


class _Rule(NamedTuple):
    """One rule, and which rows break it."""

    broken: np.ndarray
    code: str
    column: str
    message: str


def validate(frame: pl.DataFrame, vocabulary: Vocabulary, received_at_ms: int) -> Validated:
    """`check` for a conformed Polars frame."""
    checked = check(to_arrow(frame), vocabulary, received_at_ms)
    accepted = pl.DataFrame(checked.accepted).insert_column(0, pl.Series("row", checked.rows, pl.Int64()))
    return Validated(accepted, checked.rejected)


def check(events: pa.RecordBatch, vocabulary: Vocabulary, received_at_ms: int) -> Checked:
    """Check every row of a conformed batch, stamp the good ones, name the first fault of each bad one.

    Rules are tested row by row only where a column's extremes or distinct words leave a doubt.
    """
    if not events.num_rows:
        raise FrameError("empty_frame", "", "a frame needs at least one event")
    overlong = _overlong(events)
    stampable = _filled(_without(events, overlong))
    content = _content(stampable)
    kinds = words_of(events.column("kind"))
    candidates = (
        *_missing(events),
        *_unfit_texts(events, overlong, _has_control(content, stampable)),
        *_unknown(events, kinds, vocabulary),
        *_out_of_range(events, kinds, vocabulary, received_at_ms),
        *_missing_for_kind(events, kinds, vocabulary),
    )
    rules = [rule for rule in candidates if rule.broken.any()]
    stamped = _stamp(stampable, content, received_at_ms)
    if not rules:
        return Checked(stamped, np.arange(events.num_rows), _NO_REJECTS)
    fault = _first_faults(rules)
    good = fault < 0
    return Checked(stamped.filter(pa.array(good)), np.flatnonzero(good), _rejects(events, fault, rules))


def _overlong(events: pa.RecordBatch) -> dict[str, np.ndarray]:
    """Which rows hold too long a text, by column; only columns that have any."""
    found = {}
    for name, width in _TEXT_WIDTHS.items():
        texts = events.column(name)
        if np.diff(_offsets(texts)).max() > width:
            found[name] = _true(pc.greater(pc.utf8_length(texts), width))
    return found


def _offsets(texts: pa.LargeStringArray) -> np.ndarray:
    return np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * np.int64().nbytes)


def _true(mask: pa.BooleanArray) -> np.ndarray:
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)


def _null(column: pa.Array) -> np.ndarray:
    return pc.is_null(column).to_numpy(zero_copy_only=False)


def _without(events: pa.RecordBatch, overlong: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """Drop texts that are too long before anything is made of them."""
    for name, rows in overlong.items():
        place = events.schema.get_field_index(name)
        shortened = pc.if_else(rows, pa.scalar(None, pa.large_string()), events.column(place))
        events = events.set_column(place, name, shortened)
    return events


def _filled(events: pa.RecordBatch) -> pa.RecordBatch:
    """Fill effective_on. The filled events are what the digest means."""
    given = events.column("effective_on")
    if not given.null_count:
        return events
    # Times that are missing or beyond any date belong to rows that are rejected: any date will do for them.
    moments = pc.fill_null(events.column("occurred_at").view(pa.int64()), 0).to_numpy()
    days = np.clip(moments // _DAY_MS, -(2**31), 2**31 - 1).astype(np.int32)
    filled = pc.coalesce(given, pa.array(days).view(pa.date32()))
    return events.set_column(events.schema.get_field_index("effective_on"), "effective_on", filled)


def _content(events: pa.RecordBatch) -> pa.LargeStringArray:
    """Each row as one text, in column order."""
    texts = [_integers(events, n).cast(pa.large_string()) if n in NUMBER_COLUMNS else events.column(n) for n in COLUMNS]
    return _joined(texts, _NULL)


def _integers(events: pa.RecordBatch, name: str) -> pa.Array:
    """A number, time or date as the integers that it is stored as."""
    column = events.column(name)
    return column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())


def _joined(texts: list[pa.LargeStringArray], null: str) -> pa.LargeStringArray:
    separator = pa.scalar(_SEPARATOR, pa.large_string())
    return pc.binary_join_element_wise(*texts, separator, null_handling="replace", null_replacement=null)


def _has_control(content: pa.LargeStringArray, events: pa.RecordBatch) -> bool:
    """Whether a text may hold a control character: counts them all, less those that joining and attributes add."""
    attributes = events.column("attributes").drop_null()
    nulls = sum(column.null_count for column in events.columns)
    joined = (len(COLUMNS) - 1) * events.num_rows + nulls
    return _control_bytes(content) > joined + (_control_bytes(attributes) if len(attributes) else 0)


def _control_bytes(texts: pa.LargeStringArray) -> int:
    offsets = _offsets(texts)
    held = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return np.count_nonzero(held < 0x20) + np.count_nonzero(held == 0x7F)


def _missing(events: pa.RecordBatch) -> Iterator[_Rule]:
    for name in REQUIRED:
        if events.column(name).null_count:
            yield _Rule(_null(events.column(name)), "missing_value", name, "must be filled")


def _unfit_texts(events: pa.RecordBatch, overlong: Mapping[str, np.ndarray], has_control: bool) -> Iterator[_Rule]:
    for name, width in _TEXT_WIDTHS.items():
        if name in overlong:
            yield _Rule(overlong[name], "too_long", name, f"at most {width} characters")
        if has_control and name != "attributes":
            control = _true(pc.match_substring_regex(events.column(name), _CONTROL))
            yield _Rule(control, "control_character", name, "control characters are not allowed")


def _unknown(events: pa.RecordBatch, kinds: Words, vocabulary: Vocabulary) -> Iterator[_Rule]:
    known = vocabulary.entities
    entities = words_of(events.column("entity"))
    of_entity = {name: pairs_of(entities, words_of(events.column(name))) for name in ("currency", "facility")}

    def other_currency(pair: tuple[str, str]) -> bool:
        return pair[0] in known and pair[1] not in known[pair[0]].currencies

    def other_facility(pair: tuple[str, str | None]) -> bool:
        declared = known[pair[0]].facilities if pair[0] in known else ()
        return bool(pair[1] and declared) and pair[1] not in declared

    kind = kinds.map(lambda word: word not in vocabulary.kinds, bool)
    yield _Rule(kind, "unknown_kind", "kind", "not in the rulebook")
    entity = entities.map(lambda word: word not in known, bool)
    yield _Rule(entity, "unknown_entity", "entity", "not configured")
    currency = of_entity["currency"].map(other_currency, bool)
    yield _Rule(currency, "unknown_currency", "currency", "not a currency of this entity")
    facility = of_entity["facility"].map(other_facility, bool)
    yield _Rule(facility, "unknown_facility", "facility", "not a facility of this entity")


def _out_of_range(events: pa.RecordBatch, kinds: Words, vocabulary: Vocabulary, received_at_ms: int) -> Iterator[_Rule]:
    amounts, largest = events.column("amount_minor"), limits.AMOUNT_MINOR_MAX
    lowest, highest = _extremes(amounts)
    if lowest < -largest or highest > largest:
        beyond = _true(pc.or_(pc.less(amounts, -largest), pc.greater(amounts, largest)))
        yield _Rule(beyond, "out_of_range", "amount_minor", f"beyond {largest} minor units")
    if lowest < 0:
        positive = kinds.map(lambda kind: kind in vocabulary.kinds and vocabulary.kinds[kind].sign == "positive", bool)
        negative = positive & _true(pc.less(amounts, 0))
        yield _Rule(negative, "negative_amount", "amount_minor", "this kind takes no negative amount")
    newest_ms = received_at_ms + limits.FUTURE_DAYS_MAX * _DAY_MS
    yield from _out_of_days(events, "occurred_at", _OLDEST_DAY * _DAY_MS, newest_ms)
    yield from _out_of_days(events, "effective_on", _OLDEST_DAY, newest_ms // _DAY_MS)
    versions = events.column("schema_version")
    if versions.null_count or _extremes(versions) != (SCHEMA_VERSION, SCHEMA_VERSION):
        other = pc.fill_null(pc.not_equal(versions, SCHEMA_VERSION), True).to_numpy(zero_copy_only=False)
        yield _Rule(other, "unknown_version", "schema_version", f"this runtime reads version {SCHEMA_VERSION}")


def _extremes(numbers: pa.Array) -> tuple[int, int]:
    """The lowest and the highest; zeros where there are none."""
    found = pc.min_max(numbers).as_py()
    return found["min"] or 0, found["max"] or 0


def _out_of_days(events: pa.RecordBatch, name: str, oldest: int, newest: int) -> Iterator[_Rule]:
    given = _integers(events, name)
    lowest, highest = _extremes(given)
    if lowest < oldest:
        before = _true(pc.less(given, oldest))
        yield _Rule(before, "out_of_range", name, f"before {limits.OCCURRED_YEAR_MIN}")
    if highest > newest:
        after = _true(pc.greater(given, newest))
        yield _Rule(after, "out_of_range", name, f"more than {limits.FUTURE_DAYS_MAX} days ahead")


def _missing_for_kind(events: pa.RecordBatch, kinds: Words, vocabulary: Vocabulary) -> Iterator[_Rule]:
    required = {word: vocabulary.kinds[word].requires for word in kinds.words if word in vocabulary.kinds}
    for name in sorted({name for names in required.values() for name in names} - set(REQUIRED)):
        if events.column(name).null_count:
            demanded = kinds.map(lambda kind, name=name: name in required.get(kind, ()), bool)
            broken = demanded & _null(events.column(name))
            yield _Rule(broken, "missing_value", name, "this kind needs this column")


def _first_faults(rules: list[_Rule]) -> np.ndarray:
    """For each row the index of the first rule that it breaks, or -1."""
    fault = np.full(len(rules[0].broken), -1, np.int16)
    for i in reversed(range(len(rules))):
        fault[rules[i].broken] = i
    return fault


def _stamp(events: pa.RecordBatch, content: pa.LargeStringArray, received_at_ms: int) -> pa.RecordBatch:
    received_at = pa.repeat(pa.scalar(received_at_ms, ARROW_STAMPED.field("received_at").type), events.num_rows)
    identity = _joined([events.column("source"), events.column("event_id")], "")
    columns = [*events.columns, received_at, _hashes(identity), _hashes(content)]
    return pa.RecordBatch.from_arrays(columns, schema=ARROW_STAMPED)


def _hashes(texts: pa.LargeStringArray) -> pa.UInt64Array:
    """xxHash64 of each text: of (source, event_id), the identity of an event, and of its whole content, its digest.

    Stable across versions and processes. Same identity with another digest is a conflict.
    """
    if len(texts) <= _HASHED_SINGLY_MAX:
        hashes = [xxhash.xxh64_intdigest(text) for text in texts.view(pa.large_binary()).to_pylist()]
        return pa.array(hashes, pa.uint64())
    hashed = pl.DataFrame({"text": pl.from_arrow(texts)}).select(plh.col("text").nchash.xxhash64())
    return hashed.to_series().to_arrow()


def _rejects(events: pa.RecordBatch, fault: np.ndarray, rules: list[_Rule]) -> pl.DataFrame:
    rows = np.flatnonzero(fault >= 0)
    named = [rules[index] for index in fault[rows].tolist()]
    event_ids = pl.Series(events.column("event_id").take(pa.array(rows)))
    return pl.DataFrame(
        {
            "row": rows,
            "event_id": event_ids.str.head(limits.EVENT_ID_CHARS_MAX),
            "code": [rule.code for rule in named],
            "column": [rule.column for rule in named],
            "message": [rule.message for rule in named],
        },
        schema=REJECT_COLUMNS,
    )
