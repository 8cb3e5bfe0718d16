"""Which rows are valid events, and the stable hashes that identify them.

Owns the vectorised validation that every door (gRPC, Redis stream, file) goes through: the first fault of each bad row,
named by code and column and never by value. Never decides what an event posts; that is the rulebook's.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import pyarrow.compute as pc

from runtime import event_rules, limits, validation_singly
from runtime.errors import FrameError
from runtime.event_rules import DAY_MS, SEPARATOR, TEXT_WIDTHS, Broken
from runtime.schema import (
    ARROW_STAMPED,
    REJECT_COLUMNS,
    REQUIRED,
    SCHEMA_VERSION,
    STAMPED,
    WORD_COLUMNS,
    Checked,
    CheckedFew,
    Few,
    Validated,
    Vocabulary,
    to_arrow,
    with_coded_words,
    with_plain_words,
)
from runtime.words import SINGLY_ROWS_MAX, Words, pairs_of, plain, words_of

_XXHASH64 = plh.col("text").nchash.xxhash64()
_EVENT_ID, _EFFECTIVE_ON, _ID_HASH, _DIGEST = map(
    list(STAMPED).index, ("event_id", "effective_on", "id_hash", "digest")
)
_NOTHING = np.array([event_rules.NOTHING], np.uint64)
_NO_REJECTS = pl.DataFrame(schema=REJECT_COLUMNS)


def validate(frame: pl.DataFrame, vocabulary: Vocabulary, received_at_ms: int) -> Validated:
    """`check` for a conformed Polars frame."""
    checked = check(to_arrow(frame), vocabulary, received_at_ms)
    accepted = pl.DataFrame(with_plain_words(checked.accepted))
    return Validated(accepted.insert_column(0, pl.Series("row", checked.rows, pl.Int64())), checked.rejected)


def check(events: pa.RecordBatch, vocabulary: Vocabulary, received_at_ms: int) -> Checked:
    """Check every row of a conformed batch, stamp the good ones, name the first fault of each bad one."""
    if not events.num_rows:
        raise FrameError("empty_frame", "", "a frame needs at least one event")
    if events.num_rows <= SINGLY_ROWS_MAX:
        return check_singly(events, vocabulary, received_at_ms)
    return check_columns(events, vocabulary, received_at_ms)


def check_singly(events: pa.RecordBatch, vocabulary: Vocabulary, received_at_ms: int) -> Checked:
    """`check`, one event after another. The accepted have plain texts."""
    events = with_plain_words(events)
    faults, judged = validation_singly.judge(validation_singly.events_of(events), vocabulary, received_at_ms)
    good = np.array([fault is None for fault in faults])
    accepted = events if good.all() else events.filter(pa.array(good))
    days, id_hashes, digests = ([event[place] for event in judged] for place in (_EFFECTIVE_ON, _ID_HASH, _DIGEST))
    stamped = _stamped(_with(accepted, "effective_on", pa.array(days, pa.date32())), received_at_ms, id_hashes, digests)
    broken = [(row, rule) for row, rule in enumerate(faults) if rule]
    return Checked(stamped, np.flatnonzero(good), _rejects(events, broken))


def check_few(few: Few, vocabulary: Vocabulary, received_at_ms: int) -> CheckedFew:
    """`check`, one event after another, of events that are in no columns."""
    faults, accepted = validation_singly.judge(few.events, vocabulary, received_at_ms)
    if len(accepted) == len(few.events) and not few.faults:
        return CheckedFew(accepted, few.rows, _NO_REJECTS)
    judged = list(zip(few.rows, faults, few.events, strict=True))
    broken = [(row, event[_EVENT_ID], *rule) for row, rule, event in judged if rule]
    unread = [(row, "", *why) for row, *why in few.faults]
    rejected = _rejected(sorted(broken + unread, key=itemgetter(0)))
    return CheckedFew(accepted, [row for row, rule, _ in judged if rule is None], rejected)


def check_columns(events: pa.RecordBatch, vocabulary: Vocabulary, received_at_ms: int) -> Checked:
    """`check`, whole columns at a time. Rules are tested only where extremes or distinct words leave a doubt. The
    accepted have coded words."""
    events = with_coded_words(events)
    words = {name: words_of(events.column(name)) for name in WORD_COLUMNS}
    texts = _texts_of(events)
    candidates = (
        *_missing(events),
        *_unfit_texts(texts, words),
        *_unknown(words, vocabulary),
        *_out_of_range(events, words["kind"], vocabulary, received_at_ms),
        *_missing_for_kind(events, words["kind"], vocabulary),
    )
    filled = _filled(events)
    id_hashes, hashes = _hashes_of(events, texts)
    stamped = _stamped(filled, received_at_ms, id_hashes, _digests(filled, words, id_hashes, hashes))
    tests = [test for test in candidates if test.rows.any()]
    if not tests:
        return Checked(stamped, np.arange(events.num_rows), _NO_REJECTS)
    good = ~np.logical_or.reduce([test.rows for test in tests])
    return Checked(stamped.filter(pa.array(good)), np.flatnonzero(good), _rejects(events, _first_broken(tests)))


class _Test(NamedTuple):
    """A rule, and which rows break it."""

    rows: np.ndarray
    rule: Broken


class _Texts(NamedTuple):
    """The texts of each column, of coded ones the words alone, and all of them one after another: one call for all
    costs little more than one for a column."""

    of: dict[str, pa.LargeStringArray]
    whole: pa.LargeStringArray


def _texts_of(events: pa.RecordBatch) -> _Texts:
    columns = {name: events.column(name) for name in TEXT_WIDTHS}
    texts = {name: column.dictionary if name in WORD_COLUMNS else column for name, column in columns.items()}
    return _Texts(texts, pa.concat_arrays(list(texts.values())))


def _offsets(texts: pa.LargeStringArray) -> np.ndarray:
    return np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * np.int64().nbytes)


def _true(mask: pa.BooleanArray) -> np.ndarray:
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)


def _null(column: pa.Array) -> np.ndarray:
    return pc.is_null(column).to_numpy(zero_copy_only=False)


def _with(events: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return events.set_column(events.schema.get_field_index(name), name, column)


def _filled(events: pa.RecordBatch) -> pa.RecordBatch:
    """Fill effective_on. The filled events are what the digest means."""
    given = events.column("effective_on")
    if not given.null_count:
        return events
    # Times that are missing or beyond any date belong to rows that are rejected: any date will do for them.
    moments = pc.fill_null(_integers(events, "occurred_at"), 0).to_numpy()
    days = np.clip(moments // DAY_MS, -(2**31), 2**31 - 1).astype(np.int32)
    return _with(events, "effective_on", pc.coalesce(given, pa.array(days).view(pa.date32())))


def _integers(events: pa.RecordBatch, name: str) -> pa.Array:
    """A number, time or date as the integers that it is stored as."""
    column = events.column(name)
    return column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())


def _hashes_of(events: pa.RecordBatch, texts: _Texts) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The hash of each event's identity, and by column those of all texts but the event ids, which come first."""
    separator = pa.scalar(SEPARATOR, pa.large_string())
    ids = pc.binary_join_element_wise(plain(events.column("source")), events.column("event_id"), separator)
    own = {name: len(column) for name, column in texts.of.items() if name != "event_id"}
    hashes = _hashes(pa.concat_arrays([ids, texts.whole.slice(len(ids))]))
    parts = np.split(hashes, np.cumsum([len(ids), *own.values()]))
    return parts[0], dict(zip(own, parts[1:], strict=False))


def _digests(
    events: pa.RecordBatch, words: Mapping[str, Words], id_hashes: np.ndarray, hashes: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Each row's digest, as `event_rules.DIGEST_FACTORS` tells."""
    digests = id_hashes.copy()
    for name, factor in event_rules.DIGEST_FACTORS.items():
        if events.column(name).null_count == events.num_rows:
            numbers = _NOTHING
        elif name in words:
            numbers = np.append(hashes[name], _NOTHING)[words[name].codes]
        elif name in hashes:
            numbers = hashes[name]
        else:
            numbers = _numbers(_integers(events, name))
        digests += numbers * np.uint64(factor)
    return digests


def _numbers(column: pa.Array) -> np.ndarray:
    column = column.cast(pa.int64())
    if column.null_count:
        column = pc.fill_null(column, _NOTHING.view(np.int64)[0])
    return column.to_numpy().view(np.uint64)


def _missing(events: pa.RecordBatch) -> Iterator[_Test]:
    for name in REQUIRED:
        if events.column(name).null_count:
            yield _Test(_null(events.column(name)), event_rules.missing(name))


def _unfit_texts(texts: _Texts, words: Mapping[str, Words]) -> Iterator[_Test]:
    offsets = _offsets(texts.whole)
    may_be_overlong = np.diff(offsets).max() > min(TEXT_WIDTHS.values())
    may_have_control = _has_control(texts.whole, offsets[0], offsets[-len(texts.of["attributes"]) - 1])
    for name, width in TEXT_WIDTHS.items() if may_be_overlong or may_have_control else ():
        overlong = _true(pc.greater(pc.utf8_length(texts.of[name]), width))
        yield _Test(_where(overlong, words.get(name)), event_rules.too_long(name))
        if name != "attributes":
            control = _true(pc.match_substring_regex(texts.of[name], event_rules.CONTROL))
            yield _Test(_where(control, words.get(name)), event_rules.control_character(name))


def _has_control(texts: pa.LargeStringArray, start: int, end: int) -> bool:
    """Whether these bytes of the texts hold a control character."""
    held = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[start:end]
    return bool((held < 0x20).any() or (held == 0x7F).any())


def _where(found: np.ndarray, words: Words | None) -> np.ndarray:
    """The rows of which a test of texts tells, given the texts that it found or, of a coded column, the words."""
    return found if words is None else np.append(found, False)[words.codes]


def _unknown(words: Mapping[str, Words], vocabulary: Vocabulary) -> Iterator[_Test]:
    entities = words["entity"]
    yield _Test(~words["kind"].are(vocabulary.kinds), event_rules.UNKNOWN_KIND)
    yield _Test(~entities.are(vocabulary.entities), event_rules.UNKNOWN_ENTITY)
    for name, is_known, rule in (
        ("currency", event_rules.has_currency, event_rules.UNKNOWN_CURRENCY),
        ("facility", event_rules.has_facility, event_rules.UNKNOWN_FACILITY),
    ):
        pairs = pairs_of(entities, words[name])
        known = np.array([is_known(vocabulary, *pair) for pair in pairs.words], bool)
        yield _Test(~known[pairs.codes], rule)


def _out_of_range(events: pa.RecordBatch, kinds: Words, vocabulary: Vocabulary, received_at_ms: int) -> Iterator[_Test]:
    amounts, quantities = events.column("amount_minor"), events.column("quantity")
    extremes = _extremes(amounts)
    yield from _beyond(amounts, extremes, limits.AMOUNT_MINOR_MAX, event_rules.AMOUNT_BEYOND)
    if extremes[0] < 0:
        positive = {kind for kind in kinds.words if event_rules.is_positive(vocabulary, kind)}
        yield _Test(kinds.are(positive) & _true(pc.less(amounts, 0)), event_rules.AMOUNT_NEGATIVE)
    yield from _beyond(quantities, _extremes(quantities), limits.QUANTITY_MAX, event_rules.QUANTITY_BEYOND)
    newest_ms = event_rules.newest_ms(received_at_ms)
    yield from _out_of_days(events, "occurred_at", event_rules.OLDEST_DAY * DAY_MS, newest_ms)
    yield from _out_of_days(events, "effective_on", event_rules.OLDEST_DAY, newest_ms // DAY_MS)
    versions = events.column("schema_version")
    if versions.null_count or _extremes(versions) != (SCHEMA_VERSION, SCHEMA_VERSION):
        yield _Test(~_true(pc.equal(versions, SCHEMA_VERSION)), event_rules.UNKNOWN_VERSION)


def _beyond(numbers: pa.Array, extremes: tuple[int, int], largest: int, rule: Broken) -> Iterator[_Test]:
    lowest, highest = extremes
    if lowest < -largest or highest > largest:
        yield _Test(_true(pc.or_(pc.less(numbers, -largest), pc.greater(numbers, largest))), rule)


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
            demanding = {kind for kind, names in needed.items() if name in names}
            yield _Test(kinds.are(demanding) & _null(events.column(name)), event_rules.missing_for_kind(name))


def _first_broken(tests: list[_Test]) -> list[tuple[int, Broken]]:
    """Each row that fails a test, with the rule of the first that it fails."""
    first = {row: test.rule for test in reversed(tests) for row in np.flatnonzero(test.rows).tolist()}
    return sorted(first.items())


def _stamped(
    events: pa.RecordBatch, received_at_ms: int, id_hashes: Sequence[int], digests: Sequence[int]
) -> pa.RecordBatch:
    """The events with what the gateway adds.

    The hashes are made of xxHash64, stable across versions and processes: of (source, event_id), the identity of an
    event, and of its whole content, its digest. Same identity with another digest is a conflict.
    """
    received_at = pa.repeat(pa.scalar(received_at_ms, ARROW_STAMPED.field("received_at").type), events.num_rows)
    hashes = (pa.array(given, pa.uint64()) for given in (id_hashes, digests))
    return pa.RecordBatch.from_arrays([*events.columns, received_at, *hashes], ARROW_STAMPED.names)


def _hashes(texts: pa.LargeStringArray) -> np.ndarray:
    hashed = pl.DataFrame({"text": pl.from_arrow(texts)}).select(_XXHASH64.fill_null(event_rules.NOTHING))
    return hashed.to_series().to_numpy()


def _rejects(events: pa.RecordBatch, broken: Sequence[tuple[int, Broken]]) -> pl.DataFrame:
    """The rejected rows, each with the rule that it breaks."""
    if not broken:
        return _NO_REJECTS
    event_ids = events.column("event_id").take(pa.array([row for row, _ in broken])).to_pylist()
    return _rejected([(row, event_id, *rule) for (row, rule), event_id in zip(broken, event_ids, strict=True)])


def _rejected(rows: Sequence[tuple[int, str | None, str, str, str]]) -> pl.DataFrame:
    """Rows of REJECT_COLUMNS, the ids no longer than ids may be."""
    shortened = [(row, event_id and event_id[: limits.EVENT_ID_CHARS_MAX], *rule) for row, event_id, *rule in rows]
    return pl.DataFrame(shortened, schema=REJECT_COLUMNS, orient="row")
