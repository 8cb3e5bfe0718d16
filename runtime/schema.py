"""The canonical event: its columns, the vocabularies it is checked against, and giving a frame its form.

Owns the column table, for Polars (engine, sources) and for Arrow (wire and gateway, where a Polars call would cost
more than the few rows that most requests bring). Never judges a row (`runtime.validation` does) nor what it posts (the
rulebook does).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from runtime.errors import FrameError
from runtime.words import coded, plain

UTC_MS = pl.Datetime("ms", "UTC")
SCHEMA_VERSION = 1

# Column order is part of the contract: the digest is made of the columns in this order.
COLUMNS: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "source": pl.String(),
    "kind": pl.String(),
    "entity": pl.String(),
    "facility": pl.String(),
    "account": pl.String(),
    "document": pl.String(),
    "reference": pl.String(),
    "counterparty": pl.String(),
    "department": pl.String(),
    "reason": pl.String(),
    "amount_minor": pl.Int64(),
    "currency": pl.String(),
    "quantity": pl.Int64(),
    "occurred_at": UTC_MS,
    "effective_on": pl.Date(),
    "correlation_id": pl.String(),
    "schema_version": pl.Int32(),
    "attributes": pl.String(),
}
REQUIRED = ("event_id", "source", "kind", "entity", "amount_minor", "currency", "occurred_at")
TEXT_COLUMNS = tuple(name for name, dtype in COLUMNS.items() if dtype == pl.String())
# Texts that hold few distinct words: in larger Arrow batches they are coded (`runtime.words`).
WORD_COLUMNS = ("source", "kind", "entity", "facility", "counterparty", "department", "reason", "currency")

# What the gateway adds before a frame enters the log.
STAMPED: dict[str, pl.DataType] = {**COLUMNS, "received_at": UTC_MS, "id_hash": pl.UInt64(), "digest": pl.UInt64()}
REJECT_COLUMNS: dict[str, pl.DataType] = {
    "row": pl.Int64(),
    "event_id": pl.String(),
    "code": pl.String(),
    "column": pl.String(),
    "message": pl.String(),
}

_CANONICAL = pl.Schema(COLUMNS)
_NAME = re.compile(r"(?=.{1,32}$)[a-z]+(_[a-z]+)*")  # no digits, no capitals: neither ids nor names of people
_ARROW_TYPES: dict[pl.DataType, pa.DataType] = {
    pl.String(): pa.large_string(),
    pl.Int64(): pa.int64(),
    pl.Int32(): pa.int32(),
    pl.UInt64(): pa.uint64(),
    pl.Date(): pa.date32(),
    UTC_MS: pa.timestamp("ms", "UTC"),
}
ARROW_COLUMNS = pa.schema([(name, _ARROW_TYPES[dtype]) for name, dtype in COLUMNS.items()])
_CAST_WITHOUT_LOSS = {(pa.string(), pa.large_string()), (pa.int64(), _ARROW_TYPES[UTC_MS])}
CODED = pa.dictionary(pa.int32(), pa.large_string())
ARROW_STAMPED = pa.schema([(name, _ARROW_TYPES[dtype]) for name, dtype in STAMPED.items()])


class EntityTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What validation must know of an entity. An empty `facilities` leaves the facility open."""

    currencies: frozenset[str]
    facilities: frozenset[str] = frozenset()


class KindTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What validation must know of a kind."""

    requires: tuple[str, ...]
    sign: str


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """The closed vocabularies that a row is checked against."""

    kinds: Mapping[str, KindTerms]
    entities: Mapping[str, EntityTerms]


class Fault(NamedTuple):
    """A row that can't be read as an event at all, and why."""

    row: int
    code: str
    column: str
    message: str


class Parsed(NamedTuple):
    """What a row form became: canonical columns plus `row`, their index in the input, and the rows left out."""

    frame: pl.DataFrame
    faults: list[Fault]


class Incoming(NamedTuple):
    """A request's events in canonical Arrow columns (ARROW_COLUMNS; WORD_COLUMNS may be coded), their index in the
    request, and what was left out."""

    events: pa.RecordBatch
    rows: np.ndarray
    faults: list[Fault]


# One event's values in the order of COLUMNS, or of STAMPED; times and dates as integers.
Event = tuple[str | int | None, ...]


class Few(NamedTuple):
    """The same of few events, which are cheaper one by one than in columns."""

    events: list[Event]
    rows: list[int]
    faults: list[Fault]


class Validated(NamedTuple):
    """`accepted`: stamped rows plus `row`, their index in the input. `rejected`: REJECT_COLUMNS, one row each."""

    accepted: pl.DataFrame
    rejected: pl.DataFrame


class Checked(NamedTuple):
    """The same in Arrow. `accepted`: the columns of ARROW_STAMPED, WORD_COLUMNS plain or coded, `rows` their index in
    the input. `rejected`: REJECT_COLUMNS."""

    accepted: pa.RecordBatch
    rows: np.ndarray
    rejected: pl.DataFrame


class CheckedFew(NamedTuple):
    """The same of few events."""

    accepted: list[Event]
    rows: list[int]
    rejected: pl.DataFrame


def conform(frame: pl.DataFrame) -> pl.DataFrame:
    """Give a frame the canonical columns and types, or raise FrameError naming the column.

    Integers may be of any width and timestamps of any unit or plain int64 milliseconds; floats, decimals and texts
    are never turned into amounts. Columns that are not canonical are refused: payloads belong in `attributes`.
    An empty text becomes null, so that an event is the same event in every form it may be sent in.
    """
    return _blanks_to_null(frame if frame.schema == _CANONICAL else _casts(frame))


def conform_arrow(table: pa.Table) -> pa.RecordBatch:
    """The same for an Arrow table, whose texts and lengths somebody has checked. WORD_COLUMNS that are coded stay so:
    their dictionaries hold neither nulls nor blanks."""
    if not all(_is_canonical(field) for field in table.schema) or not set(REQUIRED).issubset(table.column_names):
        return to_arrow(conform(pl.DataFrame(table)))
    return pa.RecordBatch.from_arrays([_column(table, field) for field in ARROW_COLUMNS], ARROW_COLUMNS.names)


def to_arrow(frame: pl.DataFrame) -> pa.RecordBatch:
    """A canonical or stamped frame as one batch."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pa.RecordBatch.from_arrays([whole(column) for column in table.columns], schema=table.schema)


def lasting(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows in one piece, with texts of their own. Rows that are picked from a frame keep all of its texts in memory
    with them, and small pieces that are only put together stay as large as they were: 13 KiB a row of 22 columns."""
    return rows.rechunk().with_columns(pl.col(pl.String) + "")


def with_texts(rows: pl.DataFrame, name: str, chosen: pl.Series, texts: Sequence[str | None]) -> pl.DataFrame:
    """Rows with a further column: a text for each of the chosen ones, null for the others."""
    nothing = pl.repeat(None, len(rows), dtype=pl.String(), eager=True)
    return rows.with_columns(nothing.scatter(chosen.arg_true(), texts).alias(name))


def among(names: Iterable[str], column: str = "kind") -> pl.Expr:
    """Whether a row is of one of these kinds (or rules). To be made once: it takes as long as to ask a small frame."""
    return pl.col(column).is_in(list(names))


def where(rows: pl.DataFrame, condition: pl.Expr) -> pl.Series:
    """Of each row whether this is so."""
    return rows.select(condition).to_series()


def tuples_of(rows: pl.DataFrame) -> Iterator[tuple]:
    """Rows one by one. Lists of whole columns are made in a third of the time that rows take from a frame."""
    return zip(*(column.to_list() for column in rows), strict=True)


def with_coded_words(events: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with WORD_COLUMNS coded."""
    return _mapped(events, coded)


def with_plain_words(events: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with WORD_COLUMNS written out."""
    return _mapped(events, plain) if CODED in events.schema.types else events


def _mapped(events: pa.RecordBatch, form: Callable[[pa.Array], pa.Array]) -> pa.RecordBatch:
    columns = [
        form(column) if name in WORD_COLUMNS else column
        for name, column in zip(events.schema.names, events.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, events.schema.names)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _is_canonical(field: pa.Field) -> bool:
    if field.type == CODED:
        return field.name in WORD_COLUMNS
    wanted = ARROW_COLUMNS.field(field.name).type if field.name in COLUMNS else None
    return field.type == wanted or (field.type, wanted) in _CAST_WITHOUT_LOSS


def _column(table: pa.Table, field: pa.Field) -> pa.Array:
    if field.name in table.column_names:
        given = whole(table.column(field.name))
        if given.type == CODED:
            return given
        given = given if given.type == field.type else given.cast(field.type)
        return _without_blanks(given) if pa.types.is_large_string(field.type) else given
    if field.name == "schema_version":
        return pa.repeat(pa.scalar(SCHEMA_VERSION, field.type), table.num_rows)
    return pa.nulls(table.num_rows, field.type)


def _without_blanks(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    blank = pc.equal(texts, "")
    return pc.if_else(blank, pa.scalar(None, texts.type), texts) if blank.true_count else texts


def told_name(name: str, number: int = 0) -> str:
    """How an error names a column that is not ours: as it is if it looks like a column's name, else by its number (from
    1) or, without one, not at all.

    Where a file has no header, or an object is keyed by people, what stands in a name's place is a payload value.
    """
    if _NAME.fullmatch(name):
        return name
    return f"column {number}" if number else ""


def _blanks_to_null(frame: pl.DataFrame) -> pl.DataFrame:
    blank = [name for name in TEXT_COLUMNS if (frame[name] == "").any()]
    return frame.with_columns(pl.when(pl.col(blank) != "").then(pl.col(blank))) if blank else frame


def _casts(frame: pl.DataFrame) -> pl.DataFrame:
    unknown = [name for name in frame.columns if name not in COLUMNS]
    if unknown:
        place = told_name(unknown[0], frame.columns.index(unknown[0]) + 1)
        raise FrameError("unknown_column", place, "not a canonical column; put source data into attributes")
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise FrameError("missing_column", missing[0], "every event needs this column")
    return frame.select(_cast(frame, name, dtype) for name, dtype in COLUMNS.items())


def _cast(frame: pl.DataFrame, name: str, dtype: pl.DataType) -> pl.Expr:
    if name not in frame.columns:
        fill = SCHEMA_VERSION if name == "schema_version" else None
        return pl.lit(fill, dtype).alias(name)
    given = frame.schema[name]
    if not _castable(given, dtype):
        raise FrameError("wrong_type", name, f"expected {_spoken(dtype)}, got {str(given).lower()}")
    # UInt64 may not fit: a lost value would look like a missing one, so it is refused as a whole.
    if given == pl.UInt64() and frame[name].cast(pl.Int64(), strict=False).null_count() > frame[name].null_count():
        raise FrameError("overflow", name, "larger than 64-bit signed")
    return pl.col(name).cast(dtype, strict=False)


def _castable(given: pl.DataType, wanted: pl.DataType) -> bool:
    if given == pl.Null() or given == wanted:
        return True
    if wanted == pl.String():
        return isinstance(given, (pl.Categorical, pl.Enum))
    if wanted == UTC_MS:
        return given == pl.Int64() or (isinstance(given, pl.Datetime) and given.time_zone in ("UTC", "+00:00"))
    if wanted.is_integer():
        return given.is_integer()
    return False


def _spoken(dtype: pl.DataType) -> str:
    return {UTC_MS: "a UTC timestamp or int64 milliseconds", pl.Date(): "a date", pl.String(): "text"}.get(
        dtype, "an integer"
    )
