"""Which rows are valid events, and the stable hashes that identify them.

Owns the vectorised validation that every door (gRPC, Redis stream, file) goes through: the first fault of each bad row,
named by code and column and never by value. Never decides what an event posts; that is the rulebook's.
"""

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import pyarrow.compute as pc

from runtime import limits
from runtime.errors import FrameError
from runtime.schema import (
    COLUMNS,
    NUMBER_COLUMNS,
    REJECT_COLUMNS,
    REQUIRED,
    SCHEMA_VERSION,
    TEXT_COLUMNS,
    UTC_MS,
    Validated,
    Vocabulary,
)

_NO_REJECTS = pl.DataFrame(schema=REJECT_COLUMNS)
_SEPARATOR = "\x1f"
_NULL = "\x00"
_TEXT_WIDTHS = dict.fromkeys(TEXT_COLUMNS, limits.TEXT_CHARS_MAX) | {
    "event_id": limits.EVENT_ID_CHARS_MAX,
    "attributes": limits.ATTRIBUTES_CHARS_MAX,
}
_DAY_MS = 86_400_000
_OLDEST_DAY = (date(limits.OCCURRED_YEAR_MIN, 1, 1) - date(1970, 1, 1)).days
_SCOPE = ["kind", "entity", "currency", "facility"]
_UNKNOWN = {  # code -> (column, message), in the order in which they are named
    "unknown_kind": ("kind", "not in the rulebook"),
    "unknown_entity": ("entity", "not configured"),
    "unknown_currency": ("currency", "not a currency of this entity"),
    "unknown_facility": ("facility", "not a facility of this entity"),
}


class _Extent(NamedTuple):
    """The extremes of a frame's columns: most rules can't be broken anywhere, and these say which might be."""

    nulls: dict[str, int]
    shortest: dict[str, int | None]  # texts, in bytes
    longest: dict[str, int | None]
    lowest: dict[str, int | None]  # numbers and times, as integers
    highest: dict[str, int | None]

    def may_lack(self, name: str) -> bool:
        return self.nulls[name] > 0 or self.shortest.get(name) == 0

    def may_exceed(self, name: str, low: int, high: int) -> bool:
        lowest, highest = self.lowest[name], self.highest[name]
        return lowest is not None and (lowest < low or highest > high)

    def overlong(self) -> list[str]:
        return [name for name, width in _TEXT_WIDTHS.items() if (self.longest[name] or 0) > width]


class _Rule(NamedTuple):
    """One rule, as the test that is true for rows that break it."""

    broken: pl.Expr
    code: str
    column: str
    message: str


def validate(frame: pl.DataFrame, vocabulary: Vocabulary, received_at_ms: int) -> Validated:
    """Check every row of a conformed frame, stamp the good ones, name the first fault of each bad one.

    Rules are tested row by row only where the columns' extremes and distinct values leave a doubt.
    """
    if frame.is_empty():
        raise FrameError("empty_frame", "", "a frame needs at least one event")
    extent = _extent_of(frame)
    stampable = _filled(_without_overlong(frame, extent.overlong()))
    content = _content(stampable)
    judged = _judge_scopes(frame, vocabulary)
    rules = [
        *_missing(extent),
        *_unfit_texts(extent, _has_control(content, stampable, extent)),
        *_unknown(judged),
        *_out_of_range(extent, vocabulary, received_at_ms),
        *_missing_for_kind(extent, vocabulary),
    ]
    stamped = _stamp(stampable, content, received_at_ms)
    fault = _first_faults(judged, rules) if rules else None
    if fault is None or fault.null_count() == frame.height:
        return Validated(stamped, _NO_REJECTS)
    return Validated(stamped.filter(fault.is_null()), _rejects(frame, fault, rules))


def _extent_of(frame: pl.DataFrame) -> _Extent:
    lengths, numbers = pl.col(TEXT_COLUMNS).str.len_bytes(), pl.col(NUMBER_COLUMNS).cast(pl.Int64())
    measures = [pl.col(COLUMNS).null_count(), lengths.min(), lengths.max(), numbers.min(), numbers.max()]
    measured = frame.select(m.name.prefix(f"{i}.") for i, m in enumerate(measures)).row(0, named=True)
    parts: list[dict[str, int]] = [{} for _ in measures]
    for key, value in measured.items():
        index, _, name = key.partition(".")
        parts[int(index)][name] = value
    return _Extent(*parts)


def _without_overlong(frame: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Drop texts that are too long before anything is made of them: views let a small frame hold gigabytes."""
    return frame.with_columns(
        pl.when(pl.col(name).str.len_chars() <= _TEXT_WIDTHS[name]).then(pl.col(name)).alias(name) for name in names
    )


def _filled(frame: pl.DataFrame) -> pl.DataFrame:
    """Fill effective_on. The filled frame is what the digest means."""
    if not frame["effective_on"].null_count():
        return frame
    day = (pl.col("occurred_at").cast(pl.Int64()) // _DAY_MS).cast(pl.Int32(), strict=False).cast(pl.Date())
    return frame.with_columns(pl.col("effective_on").fill_null(day))


def _content(frame: pl.DataFrame) -> pa.LargeStringArray:
    """Each row as one text, in column order."""
    numbers = frame.select(pl.col(NUMBER_COLUMNS).cast(pl.Int64()).cast(pl.String()))
    texts = [numbers[name] if name in numbers.columns else frame[name] for name in COLUMNS]
    arrays = [text.to_arrow(compat_level=pl.CompatLevel.oldest()) for text in texts]
    separator = pa.scalar(_SEPARATOR, pa.large_string())
    return pc.binary_join_element_wise(*arrays, separator, null_handling="replace", null_replacement=_NULL)


def _has_control(content: pa.LargeStringArray, frame: pl.DataFrame, extent: _Extent) -> bool:
    """Whether a text may hold a control character: counts them all, less those that joining and attributes add."""
    attributes = frame["attributes"].to_arrow(compat_level=pl.CompatLevel.oldest())
    nulls = sum(frame[name].null_count() for name in COLUMNS)
    joined = (len(COLUMNS) - 1) * frame.height + nulls
    return _control_bytes(content) > joined + (_control_bytes(attributes) if extent.longest["attributes"] else 0)


def _control_bytes(texts: pa.LargeStringArray) -> int:
    held = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    return np.count_nonzero(held < 0x20) + np.count_nonzero(held == 0x7F)


def _missing(extent: _Extent) -> Iterator[_Rule]:
    for name in REQUIRED:
        if extent.may_lack(name):
            yield _Rule(_lacks(name), "missing_value", name, "must be filled")


def _lacks(name: str) -> pl.Expr:
    empty = pl.col(name).is_null()
    return empty | (pl.col(name) == "") if name in TEXT_COLUMNS else empty


def _unfit_texts(extent: _Extent, has_control: bool) -> Iterator[_Rule]:
    overlong = extent.overlong()
    for name, width in _TEXT_WIDTHS.items():
        if name in overlong:
            yield _Rule(pl.col(name).str.len_chars() > width, "too_long", name, f"at most {width} characters")
        if has_control and name != "attributes":
            control = pl.col(name).str.contains(r"[\x00-\x1f\x7f]")
            yield _Rule(control, "control_character", name, "control characters are not allowed")


def _judge_scopes(frame: pl.DataFrame, vocabulary: Vocabulary) -> pl.DataFrame:
    """The frame with `_unknown`, the code of what is not in the vocabulary. A frame has few distinct scopes."""
    scopes = frame.select(_SCOPE).unique()
    codes = [_unknown_code(vocabulary, *scope) for scope in scopes.iter_rows()]
    if not any(codes):
        return frame
    judged = scopes.with_columns(pl.Series("_unknown", codes, pl.String()))
    return frame.join(judged, on=_SCOPE, how="left", nulls_equal=True, maintain_order="left")


def _unknown_code(vocabulary: Vocabulary, kind: str, entity: str, currency: str, facility: str | None) -> str | None:
    terms = vocabulary.entities.get(entity)
    if kind not in vocabulary.kinds:
        return "unknown_kind"
    if terms is None:
        return "unknown_entity"
    if currency not in terms.currencies:
        return "unknown_currency"
    return "unknown_facility" if facility and terms.facilities and facility not in terms.facilities else None


def _unknown(judged: pl.DataFrame) -> Iterator[_Rule]:
    if "_unknown" in judged.columns:
        for code, (column, message) in _UNKNOWN.items():
            yield _Rule(pl.col("_unknown") == code, code, column, message)


def _out_of_range(extent: _Extent, vocabulary: Vocabulary, received_at_ms: int) -> Iterator[_Rule]:
    largest = limits.AMOUNT_MINOR_MAX
    if extent.may_exceed("amount_minor", -largest, largest):
        beyond = ~pl.col("amount_minor").is_between(-largest, largest)
        yield _Rule(beyond, "out_of_range", "amount_minor", f"beyond {largest} minor units")
    if extent.may_exceed("amount_minor", 0, largest):
        positive = [name for name, kind in vocabulary.kinds.items() if kind.sign == "positive"]
        negative = pl.col("kind").is_in(positive) & (pl.col("amount_minor") < 0)
        yield _Rule(negative, "negative_amount", "amount_minor", "this kind takes no negative amount")
    newest_ms = received_at_ms + limits.FUTURE_DAYS_MAX * _DAY_MS
    yield from _out_of_days(extent, "occurred_at", _OLDEST_DAY * _DAY_MS, newest_ms)
    yield from _out_of_days(extent, "effective_on", _OLDEST_DAY, newest_ms // _DAY_MS)
    if extent.nulls["schema_version"] or extent.may_exceed("schema_version", SCHEMA_VERSION, SCHEMA_VERSION):
        other = pl.col("schema_version").ne_missing(SCHEMA_VERSION)
        yield _Rule(other, "unknown_version", "schema_version", f"this runtime reads version {SCHEMA_VERSION}")


def _out_of_days(extent: _Extent, name: str, oldest: int, newest: int) -> Iterator[_Rule]:
    if extent.may_exceed(name, oldest, newest):
        given = pl.col(name).cast(pl.Int64())
        yield _Rule(given < oldest, "out_of_range", name, f"before {limits.OCCURRED_YEAR_MIN}")
        yield _Rule(given > newest, "out_of_range", name, f"more than {limits.FUTURE_DAYS_MAX} days ahead")


def _missing_for_kind(extent: _Extent, vocabulary: Vocabulary) -> Iterator[_Rule]:
    demanded = {name for kind in vocabulary.kinds.values() for name in kind.requires} - set(REQUIRED)
    for name in sorted(demanded):
        if extent.may_lack(name):
            kinds = [kind for kind, terms in vocabulary.kinds.items() if name in terms.requires]
            broken = pl.col("kind").is_in(kinds) & _lacks(name)
            yield _Rule(broken, "missing_value", name, "this kind needs this column")


def _first_faults(frame: pl.DataFrame, rules: list[_Rule]) -> pl.Series:
    """For each row the index of the first rule that it breaks, or null."""
    tests = [pl.when(rule.broken).then(pl.lit(i, pl.Int16())) for i, rule in enumerate(rules)]
    return frame.select(pl.coalesce(tests).alias("fault")).to_series()


def _stamp(frame: pl.DataFrame, content: pa.LargeStringArray, received_at_ms: int) -> pl.DataFrame:
    return frame.select(
        pl.int_range(pl.len(), dtype=pl.Int64()).alias("row"),
        *COLUMNS,
        pl.lit(received_at_ms).cast(UTC_MS).alias("received_at"),
        id_hash().alias("id_hash"),
        _digests(content).alias("digest"),
    )


def id_hash() -> pl.Expr:
    """xxHash64 of (source, event_id): the identity of an event. Stable across versions and processes."""
    return plh.concat_str("source", "event_id", separator=_SEPARATOR).nchash.xxhash64()


def _digests(content: pa.LargeStringArray) -> pl.Series:
    """xxHash64 of each row's whole content. Same identity with another digest is a conflict."""
    return pl.DataFrame({"digest": pl.from_arrow(content)}).select(plh.col("digest").nchash.xxhash64()).to_series()


def _rejects(frame: pl.DataFrame, fault: pl.Series, rules: list[_Rule]) -> pl.DataFrame:
    broken = fault.is_not_null()
    named = [rules[index] for index in fault.filter(broken)]
    return pl.DataFrame(
        {
            "row": broken.arg_true(),
            "event_id": frame["event_id"].filter(broken).str.head(limits.EVENT_ID_CHARS_MAX),
            "code": [rule.code for rule in named],
            "column": [rule.column for rule in named],
            "message": [rule.message for rule in named],
        },
        schema=REJECT_COLUMNS,
    )
