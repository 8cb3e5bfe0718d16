"""The canonical event: its columns, what a valid row is, and the stable hashes that identify it.

Owns the column table and the vectorised validation that every door (gRPC, Redis stream, file) goes through.
Never decides what an event posts; that is the rulebook's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import polars as pl
import polars_hash as plh

from runtime import limits
from runtime.errors import FrameError

UTC_MS = pl.Datetime("ms", "UTC")
SCHEMA_VERSION = 1

# Column order is part of the contract: `digest` hashes the columns in this order.
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

# What the gateway adds before a frame enters the log.
STAMPED: dict[str, pl.DataType] = {**COLUMNS, "received_at": UTC_MS, "id_hash": pl.UInt64(), "digest": pl.UInt64()}
REJECT_COLUMNS: dict[str, pl.DataType] = {
    "row": pl.Int64(),
    "event_id": pl.String(),
    "code": pl.String(),
    "column": pl.String(),
    "message": pl.String(),
}

_SEPARATOR = "\x1f"
_NULL = "\x00"


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


class Validated(NamedTuple):
    """`accepted`: stamped rows plus `row`, their index in the input. `rejected`: REJECT_COLUMNS, one row each."""

    accepted: pl.DataFrame
    rejected: pl.DataFrame


def conform(frame: pl.DataFrame) -> pl.DataFrame:
    """Give a frame the canonical columns and types, or raise FrameError naming the column.

    Integers may be of any width and timestamps of any unit or plain int64 milliseconds; floats, decimals and texts
    are never turned into amounts. Columns that are not canonical are refused: payloads belong in `attributes`.
    """
    unknown = [name for name in frame.columns if name not in COLUMNS]
    if unknown:
        raise FrameError("unknown_column", unknown[0][:64], "not a canonical column; put source data into attributes")
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


def validate(frame: pl.DataFrame, vocabulary: Vocabulary, received_at_ms: int) -> Validated:
    """Check every row of a conformed frame, stamp the good ones, name the first fault of each bad one."""
    if frame.is_empty():
        raise FrameError("empty_frame", "", "a frame needs at least one event")
    kinds, entities = _vocabulary_frames(vocabulary)
    joined = (
        frame.with_row_index("row")
        .with_columns(pl.col("row").cast(pl.Int64()))
        .join(kinds, on="kind", how="left", maintain_order="left")
        .join(entities, on="entity", how="left", maintain_order="left")
    )
    faults = _faults(received_at_ms, frozenset(c for k in vocabulary.kinds.values() for c in k.requires))
    code = pl.coalesce([pl.when(test).then(pl.lit(i, pl.Int16())) for i, (test, *_) in enumerate(faults)])
    checked = joined.with_columns(code.alias("_fault"))
    bad = checked.filter(pl.col("_fault").is_not_null())
    good = frame.with_row_index("row") if bad.is_empty() else checked.filter(pl.col("_fault").is_null())
    return Validated(_stamp(good, received_at_ms), _rejects(bad, faults))


def _vocabulary_frames(vocabulary: Vocabulary) -> tuple[pl.DataFrame, pl.DataFrame]:
    kinds = pl.DataFrame(
        {
            "kind": list(vocabulary.kinds),
            "_requires": [list(k.requires) for k in vocabulary.kinds.values()],
            "_positive": [k.sign == "positive" for k in vocabulary.kinds.values()],
        },
        schema={"kind": pl.String(), "_requires": pl.List(pl.String()), "_positive": pl.Boolean()},
    )
    entities = pl.DataFrame(
        {
            "entity": list(vocabulary.entities),
            "_currencies": [sorted(e.currencies) for e in vocabulary.entities.values()],
            "_facilities": [sorted(e.facilities) for e in vocabulary.entities.values()],
        },
        schema={
            "entity": pl.String(),
            "_currencies": pl.List(pl.String()),
            "_facilities": pl.List(pl.String()),
        },
    )
    return kinds, entities


def _faults(received_at_ms: int, demanded: frozenset[str]) -> list[tuple[pl.Expr, str, str, str]]:
    """(test, code, column, message), in the order in which a row's first fault is named."""
    blank = {name: pl.col(name).is_null() | (pl.col(name) == "") for name in TEXT_COLUMNS}
    faults = [(blank[n] if n in blank else pl.col(n).is_null(), "missing_value", n, "must be filled") for n in REQUIRED]
    widths = {"event_id": limits.EVENT_ID_CHARS_MAX, "attributes": limits.ATTRIBUTES_CHARS_MAX}
    for name in TEXT_COLUMNS:
        width = widths.get(name, limits.TEXT_CHARS_MAX)
        faults.append((pl.col(name).str.len_chars() > width, "too_long", name, f"at most {width} characters"))
        if name != "attributes":
            control = pl.col(name).str.contains(r"[\x00-\x1f\x7f]")
            faults.append((control, "control_character", name, "control characters are not allowed"))
    occurred, amount = pl.col("occurred_at"), pl.col("amount_minor")
    day = pl.col("effective_on")
    newest = pl.lit(received_at_ms + limits.FUTURE_DAYS_MAX * 86_400_000).cast(UTC_MS)
    too_old, too_far = f"before {limits.OCCURRED_YEAR_MIN}", f"more than {limits.FUTURE_DAYS_MAX} days ahead"
    closed = pl.col("_facilities").list.len() > 0
    faults += [
        (pl.col("_positive").is_null(), "unknown_kind", "kind", "not in the rulebook"),
        (pl.col("_currencies").is_null(), "unknown_entity", "entity", "not configured"),
        (
            ~pl.col("_currencies").list.contains(pl.col("currency")),
            "unknown_currency",
            "currency",
            "not a currency of this entity",
        ),
        (
            closed & pl.col("facility").is_not_null() & ~pl.col("_facilities").list.contains(pl.col("facility")),
            "unknown_facility",
            "facility",
            "not a facility of this entity",
        ),
        (
            (amount > limits.AMOUNT_MINOR_MAX) | (amount < -limits.AMOUNT_MINOR_MAX),
            "out_of_range",
            "amount_minor",
            f"beyond {limits.AMOUNT_MINOR_MAX} minor units",
        ),
        (pl.col("_positive") & (amount < 0), "negative_amount", "amount_minor", "this kind takes no negative amount"),
        (occurred.dt.year() < limits.OCCURRED_YEAR_MIN, "out_of_range", "occurred_at", too_old),
        (occurred > newest, "out_of_range", "occurred_at", too_far),
        (day.dt.year() < limits.OCCURRED_YEAR_MIN, "out_of_range", "effective_on", too_old),
        (day > newest.dt.date(), "out_of_range", "effective_on", too_far),
        (
            pl.col("schema_version").is_null() | (pl.col("schema_version") != SCHEMA_VERSION),
            "unknown_version",
            "schema_version",
            f"this runtime reads version {SCHEMA_VERSION}",
        ),
    ]
    for name in sorted(demanded - set(REQUIRED)):
        empty = blank[name] if name in blank else pl.col(name).is_null()
        faults.append(
            (pl.col("_requires").list.contains(name) & empty, "missing_value", name, "this kind needs this column")
        )
    return faults


def _stamp(good: pl.DataFrame, received_at_ms: int) -> pl.DataFrame:
    """Fill effective_on, then hash. The filled frame is what the digest means."""
    filled = good.select(
        pl.col("row").cast(pl.Int64()),
        *(pl.col(name) for name in COLUMNS if name != "effective_on"),
        pl.col("effective_on").fill_null(pl.col("occurred_at").dt.date()),
    )
    return filled.select(
        "row",
        *COLUMNS,
        pl.lit(received_at_ms).cast(UTC_MS).alias("received_at"),
        id_hash().alias("id_hash"),
        digest().alias("digest"),
    )


def id_hash() -> pl.Expr:
    """xxHash64 of (source, event_id): the identity of an event. Stable across versions and processes."""
    return plh.concat_str("source", "event_id", separator=_SEPARATOR).nchash.xxhash64()


def digest() -> pl.Expr:
    """xxHash64 of the whole content in column order. Same identity with another digest is a conflict."""
    texts = [
        pl.col(name).fill_null(_NULL)
        if dtype == pl.String()
        else pl.col(name).cast(pl.Int64()).cast(pl.String()).fill_null(_NULL)
        for name, dtype in COLUMNS.items()
    ]
    return plh.concat_str(*texts, separator=_SEPARATOR).nchash.xxhash64()


def _rejects(bad: pl.DataFrame, faults: list[tuple[pl.Expr, str, str, str]]) -> pl.DataFrame:
    names = pl.DataFrame(
        {
            "_fault": range(len(faults)),
            "code": [f[1] for f in faults],
            "column": [f[2] for f in faults],
            "message": [f[3] for f in faults],
        },
        schema_overrides={"_fault": pl.Int16()},
    )
    return (
        bad.select("row", "event_id", "_fault")
        .join(names, on="_fault", how="left", maintain_order="left")
        .select(pl.col(name).cast(dtype) for name, dtype in REJECT_COLUMNS.items())
    )
