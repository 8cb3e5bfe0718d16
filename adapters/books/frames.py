"""The columns of the frames that books give back, shared by both implementations.

Owns names, types and the way rows become such a frame. Knows no database.
"""

from collections.abc import Iterable

import polars as pl

from runtime.effects import DELTAS, EXCEPTIONS, STATUSES
from runtime.schema import UTC_MS

# Of a set's columns these are the same on each of its lines; the rest of DELTAS belongs to the line.
SET_COLUMNS = ("set_no", "entity", "currency", "period", "posted_on", "mode", "lane", "kind", "document", "events")
LINE_COLUMNS = ("set_no", "line_no", *(name for name in DELTAS if name not in (*SET_COLUMNS, "line_no")))

UNCLAIMED: dict[str, pl.DataType] = {
    **DELTAS,
    "shard": pl.Int32(),
    "position": pl.String(),
    "committed_at": UTC_MS,
}
PLACED: dict[str, pl.DataType] = {**DELTAS, "shard": pl.Int32(), "position": pl.String()}
CLAIMED: dict[str, pl.DataType] = {
    "entry_key": pl.String(),
    **{name: DELTAS[name] for name in ("account_code", "side", "facility", "department", "variance", "kind")},
    "amount_minor": pl.Int64(),
}
BALANCES: dict[str, pl.DataType] = {
    "entity": pl.String(),
    "currency": pl.String(),
    "account_code": pl.String(),
    "debit_minor": pl.Int64(),
    "credit_minor": pl.Int64(),
    "posted_debit_minor": pl.Int64(),
    "posted_credit_minor": pl.Int64(),
}
EXCEPTION_STATES: dict[str, pl.DataType] = {**EXCEPTIONS, "state": pl.String(), "resolved_at": UTC_MS}
HISTORY: dict[str, pl.DataType] = {
    "exception_id": pl.String(),
    "change": pl.String(),
    "changed_by": pl.String(),
    "changed_at": UTC_MS,
    "note": pl.String(),
}
AGES: dict[str, pl.DataType] = {
    "type": pl.String(),
    "currency": pl.String(),
    "bucket": pl.Int32(),
    "exceptions": pl.Int64(),
    "amount_minor": pl.Int64(),
}
CHANGES: dict[str, pl.DataType] = {
    "change_no": pl.Int64(),
    "type": pl.String(),
    "body_json": pl.String(),
    "note": pl.String(),
    "prepared_by": pl.String(),
    "prepared_at": UTC_MS,
    "state": pl.String(),
    "decided_by": pl.String(),
    "decided_at": UTC_MS,
    "decided_note": pl.String(),
    "effect_no": pl.Int64(),
    "logged_at": UTC_MS,
}
NUMBERED_STATUSES: dict[str, pl.DataType] = {"status_no": pl.Int64(), **STATUSES}
SHARD_ROWS: dict[str, pl.DataType] = {
    "shard": pl.Int32(),
    "epoch": pl.Int64(),
    "holder": pl.String(),
    "position": pl.String(),
    "rows_total": pl.Int64(),
    "committed_at": UTC_MS,
}
POSTING: dict[str, pl.DataType] = {
    **DELTAS,
    "entry_key": pl.String(),
    "entry_state": pl.String(),
    "erp_ref": pl.String(),
}
POSTING_PAGE: dict[str, pl.DataType] = {**POSTING, "shard": pl.Int32(), "position": pl.String()}
STORED_SETS: dict[str, pl.DataType] = {
    **{name: dtype for name, dtype in POSTING_PAGE.items() if name not in LINE_COLUMNS or name == "set_no"},
    "lines": pl.String(),  # as `posting_rows` packs them
}

DIMENSIONS = ("document", "facility", "department", "variance")  # empty texts where a line does not keep them


def frame_of(rows: Iterable[tuple], columns: dict[str, pl.DataType]) -> pl.DataFrame:
    """A frame of these columns from rows in the same order; instants are given as milliseconds."""
    return pl.DataFrame([tuple(row) for row in rows], schema=columns, orient="row")


def without_gaps(deltas: pl.DataFrame) -> pl.DataFrame:
    """Deltas with an empty text for every dimension that a line does not keep."""
    return deltas.with_columns(pl.col(DIMENSIONS).fill_null(""))


def keyed_totals(totals: pl.DataFrame) -> pl.DataFrame:
    """Totals with an empty text where their key has no value."""
    return totals.with_columns(pl.col(pl.String()).fill_null(""))


def stored_statuses(statuses: pl.DataFrame) -> pl.DataFrame:
    """Statuses as they are kept: each id once, no gaps, the instant as milliseconds (occurred_at_ms)."""
    once = statuses.unique("status_id", keep="first", maintain_order=True)
    plain = once.with_columns(pl.col(pl.String()).fill_null(""), pl.col("amount_minor").fill_null(0))
    return plain.with_columns(pl.col("occurred_at").cast(pl.Int64())).rename({"occurred_at": "occurred_at_ms"})
