"""Which rows are valid events, and the stable hashes that identify them.

Owns the vectorised validation that every door (gRPC, Redis stream, file) goes through: the first fault of each bad row,
named by code and column and never by value. Never decides what an event posts; that is the rulebook's.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import pyarrow.compute as pc

from runtime import event_rules, limits, validation_singly
from runtime.errors import FrameError
from runtime.event_rules import DAY_MS, NULL, SEPARATOR, TEXT_WIDTHS, Broken
from runtime.schema import (
    ARROW_STAMPED,
    COLUMNS,
    NUMBER_COLUMNS,
    REJECT_COLUMNS,
    REQUIRED,
    SCHEMA_VERSION,
    Checked,
    Validated,
    Vocabulary,
    to_arrow,
)
from runtime.words import SINGLY_ROWS_MAX, Words, pairs_of, words_of

_NO_REJECTS = pl.DataFrame(schema=REJECT_COLUMNS)


def validate(frame: pl.DataFrame, vocabulary: Vocabulary, received_at_ms: int) -> Validated:
    """`check` for a conformed Polars frame."""
    checked = check(to_arrow(frame), vocabulary, received_at_ms)
    accepted = pl.DataFrame(checked.accepted).insert_column(0, pl.Series("row", checked.rows, pl.Int64()))
    return Validated(accepted, checked.rejected)


def check(events: pa.RecordBatch, vocabulary: Vocabulary, received_at_ms: int) -> Checked:
    """Check every row of a conformed batch, stamp the good ones, name the first fault of each bad one."""
    if not events.num_rows:
        raise FrameError("empty_frame", "", "a frame needs at least one event")
    if events.num_rows <= SINGLY_ROWS_MAX:
        return check_singly(events, vocabulary, received_at_ms)
    return check_columns(events, vocabulary, received_at_ms)


def check_singly(events: pa.RecordBatch, vocabulary: Vocabulary, received_at_ms: int) -> Checked:
    """`check`, one event after another."""
    faults, days, id_hashes, digests = validation_singly.judge(events, vocabulary, received_at_ms)
    good = np.array([fault is None for fault in faults])
    accepted = events if good.all() else events.filter(pa.array(good))
    stamped = _stamped(_with(accepted, "effective_on", pa.array(days, pa.date32())), received_at_ms, id_hashes, digests)
    broken = [(row, rule) for row, rule in enumerate(faults) if rule]
    return Checked(stamped, np.flatnonzero(good), _rejects(events, broken))


def check_columns(events: pa.RecordBatch, vocabulary: Vocabulary, received_at_ms: int) -> Checked:
    """`check`, whole columns at a time. Rules are tested only where extremes or distinct words leave a doubt."""
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
    identity = _joined([events.column("source"), events.column("event_id")], "")
    stamped = _stamped(stampable, received_at_ms, _hashes(identity), _hashes(content))
    tests = [test for test in candidates if test.rows.any()]
    if not tests:
        return Checked(stamped, np.arange(events.num_rows), _NO_REJECTS)
    good = ~np.logical_or.reduce([test.rows for test in tests])
    return Checked(stamped.filter(pa.array(good)), np.flatnonzero(good), _rejects(events, _first_broken(tests)))


class _Test(NamedTuple):
    """A rule, and which rows break it."""

    rows: np.ndarray
    rule: Broken


def _overlong(events: pa.RecordBatch) -> dict[str, np.ndarray]:
    """Which rows hold too long a text, by column; only columns that have any."""
    found = {}
    for name, width in TEXT_WIDTHS.items():
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


def _with(events: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return events.set_column(events.schema.get_field_index(name), name, column)


def _without(events: pa.RecordBatch, overlong: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """Drop texts that are too long before anything is made of them."""
    for name, rows in overlong.items():
        events = _with(events, name, pc.if_else(rows, pa.scalar(None, pa.large_string()), events.column(name)))
    return events


def _filled(events: pa.RecordBatch) -> pa.RecordBatch:
    """Fill effective_on. The filled events are what the digest means."""
    given = events.column("effective_on")
    if not given.null_count:
        return events
    # Times that are missing or beyond any date belong to rows that are rejected: any date will do for them.
    moments = pc.fill_null(_integers(events, "occurred_at"), 0).to_numpy()
    days = np.clip(moments // DAY_MS, -(2**31), 2**31 - 1).astype(np.int32)
    return _with(events, "effective_on", pc.coalesce(given, pa.array(days).view(pa.date32())))


def _content(events: pa.RecordBatch) -> pa.LargeStringArray:
    """Each row as one text, in column order."""
    texts = [_integers(events, n).cast(pa.large_string()) if n in NUMBER_COLUMNS else events.column(n) for n in COLUMNS]
    return _joined(texts, NULL)


def _integers(events: pa.RecordBatch, name: str) -> pa.Array:
    """A number, time or date as the integers that it is stored as."""
    column = events.column(name)
    return column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())


def _joined(texts: list[pa.LargeStringArray], null: str) -> pa.LargeStringArray:
    separator = pa.scalar(SEPARATOR, pa.large_string())
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


def _missing(events: pa.RecordBatch) -> Iterator[_Test]:
    for name in REQUIRED:
        if events.column(name).null_count:
            yield _Test(_null(events.column(name)), event_rules.missing(name))


def _unfit_texts(events: pa.RecordBatch, overlong: Mapping[str, np.ndarray], has_control: bool) -> Iterator[_Test]:
    for name in TEXT_WIDTHS:
        if name in overlong:
            yield _Test(overlong[name], event_rules.too_long(name))
        if has_control and name != "attributes":
            control = pc.match_substring_regex(events.column(name), event_rules.CONTROL)
            yield _Test(_true(control), event_rules.control_character(name))


def _unknown(events: pa.RecordBatch, kinds: Words, vocabulary: Vocabulary) -> Iterator[_Test]:
    entities = words_of(events.column("entity"))
    yield _Test(kinds.map(lambda kind: kind not in vocabulary.kinds, bool), event_rules.UNKNOWN_KIND)
    yield _Test(entities.map(lambda entity: entity not in vocabulary.entities, bool), event_rules.UNKNOWN_ENTITY)
    for name, is_known, rule in (
        ("currency", event_rules.has_currency, event_rules.UNKNOWN_CURRENCY),
        ("facility", event_rules.has_facility, event_rules.UNKNOWN_FACILITY),
    ):
        pairs = pairs_of(entities, words_of(events.column(name)))
        yield _Test(~pairs.map(lambda pair, is_known=is_known: is_known(vocabulary, *pair), bool), rule)


def _out_of_range(events: pa.RecordBatch, kinds: Words, vocabulary: Vocabulary, received_at_ms: int) -> Iterator[_Test]:
    amounts, largest = events.column("amount_minor"), limits.AMOUNT_MINOR_MAX
    lowest, highest = _extremes(amounts)
    if lowest < -largest or highest > largest:
        beyond = pc.or_(pc.less(amounts, -largest), pc.greater(amounts, largest))
        yield _Test(_true(beyond), event_rules.AMOUNT_BEYOND)
    if lowest < 0:
        positive = kinds.map(partial(event_rules.is_positive, vocabulary), bool)
        yield _Test(positive & _true(pc.less(amounts, 0)), event_rules.AMOUNT_NEGATIVE)
    newest_ms = event_rules.newest_ms(received_at_ms)
    yield from _out_of_days(events, "occurred_at", event_rules.OLDEST_DAY * DAY_MS, newest_ms)
    yield from _out_of_days(events, "effective_on", event_rules.OLDEST_DAY, newest_ms // DAY_MS)
    versions = events.column("schema_version")
    if versions.null_count or _extremes(versions) != (SCHEMA_VERSION, SCHEMA_VERSION):
        yield _Test(~_true(pc.equal(versions, SCHEMA_VERSION)), event_rules.UNKNOWN_VERSION)


def _extremes(numbers: pa.Array) -> tuple[int, int]:
    """The lowest and the highest; zeros where there are none."""
    found = pc.min_max(numbers).as_py()
    return found["min"] or 0, found["max"] or 0


def _out_of_days(events: pa.RecordBatch, name: str, oldest: int, newest: int) -> Iterator[_Test]:
    given = _integers(events, name)
    lowest, highest = _extremes(given)
    if lowest < oldest:
        yield _Test(_true(pc.less(given, oldest)), event_rules.too_early(name))
    if highest > newest:
        yield _Test(_true(pc.greater(given, newest)), event_rules.too_late(name))


def _missing_for_kind(events: pa.RecordBatch, kinds: Words, vocabulary: Vocabulary) -> Iterator[_Test]:
    needed = {kind: event_rules.needs(vocabulary, kind) for kind in kinds.words}
    for name in sorted({name for names in needed.values() for name in names} - set(REQUIRED)):
        if events.column(name).null_count:
            demanded = kinds.map(lambda kind, name=name: name in needed[kind], bool)
            yield _Test(demanded & _null(events.column(name)), event_rules.missing_for_kind(name))


def _first_broken(tests: list[_Test]) -> list[tuple[int, Broken]]:
    """Each row that fails a test, with the rule of the first that it fails."""
    first = {row: test.rule for test in reversed(tests) for row in np.flatnonzero(test.rows).tolist()}
    return sorted(first.items())


def _stamped(
    events: pa.RecordBatch, received_at_ms: int, id_hashes: Sequence[int], digests: Sequence[int]
) -> pa.RecordBatch:
    """The events with what the gateway adds.

    The hashes are xxHash64, stable across versions and processes: of (source, event_id), the identity of an event, and
    of its whole content, its digest. Same identity with another digest is a conflict.
    """
    received_at = pa.repeat(pa.scalar(received_at_ms, ARROW_STAMPED.field("received_at").type), events.num_rows)
    hashes = (pa.array(given, pa.uint64()) for given in (id_hashes, digests))
    return pa.RecordBatch.from_arrays([*events.columns, received_at, *hashes], schema=ARROW_STAMPED)


def _hashes(texts: pa.LargeStringArray) -> np.ndarray:
    hashed = pl.DataFrame({"text": pl.from_arrow(texts)}).select(plh.col("text").nchash.xxhash64())
    return hashed.to_series().to_numpy()


def _rejects(events: pa.RecordBatch, broken: Sequence[tuple[int, Broken]]) -> pl.DataFrame:
    """The rejected rows, each with the rule that it breaks."""
    if not broken:
        return _NO_REJECTS
    event_ids = events.column("event_id").take(pa.array([row for row, _ in broken])).to_pylist()
    shortened = [event_id and event_id[: limits.EVENT_ID_CHARS_MAX] for event_id in event_ids]
    rows = [(row, event_id, *rule) for (row, rule), event_id in zip(broken, shortened, strict=True)]
    return pl.DataFrame(rows, schema=REJECT_COLUMNS, orient="row")
