"""Stripe's payout reconciliation and balance reports, itemised, as CSV.

Owns its columns and what a row's ids are. Amounts are in major units; a report may have been made with decimal commas.
Descriptions, metadata and all that names a customer are not read. Times are UTC, as the report's columns are unless its
maker asked for another zone.

A charge is named by its charge id, a refund or dispute by its own, so that they meet what other sources tell of them.
`payout_paid` carries the payout's trace at the bank as its correlation id, as a bank line knows no payout id.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from adapters.sources.amounts import exact_minor_column
from adapters.sources.cards import kinds
from adapters.sources.cards.settlement import ROWS, Form, Part, broken_rows
from adapters.sources.cards.table import Header, Names, TableChunk, read_header, read_table
from adapters.sources.source import RowTest, SourceSettings, divide
from runtime.schema import UTC_MS

SIGNATURE = ("balance_transaction_id", "reporting_category", "gross", "fee", "net")

_NAMES: Names = {
    "row_id": ("balance_transaction_id",),
    "created": ("created_utc", "created"),
    "currency": ("currency",),
    "gross": ("gross",),
    "fee": ("fee",),
    "net": ("net",),
    "category": ("reporting_category",),
    "payout": ("automatic_payout_id",),
    "paid_at": ("automatic_payout_effective_at_utc", "automatic_payout_effective_at"),
    "source_id": ("source_id",),
    "charge_id": ("charge_id",),
    "intent_id": ("payment_intent_id",),
    "dispute_reason": ("dispute_reason",),
    "trace": ("trace_id",),
}
_REQUIRED = ("row_id", "created", "currency", "gross", "fee", "net", "category", "payout")
_ID = r"^[A-Za-z0-9_-]{1,100}$"
_CODE = r"^[a-z_]{1,40}$"
_TIMES = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M")
_AMOUNTS = ("gross", "fee", "net")
_CHARGES = ("charge", "payment", "charge_failure", "payment_failure", "partial_capture_reversal")


def parts(path: Path, settings: SourceSettings) -> Iterator[Part]:
    """The report's rows. Raises FrameError for another header."""
    header = read_header(path, _NAMES, _REQUIRED)
    for table in read_table(path, _NAMES, header, settings.rows_max):
        yield _part(table, header)


def _part(table: TableChunk, header: Header) -> Part:
    currency = pl.col("currency").str.to_uppercase()
    parsed = table.frame.with_columns(
        currency,
        *(exact_minor_column(pl.col(name), currency).alias(f"{name}_minor") for name in _AMOUNTS),
        _instant("created").alias("occurred_at"),
        _instant("paid_at").alias("paid"),
        *(_only(name, _ID) for name in ("source_id", "charge_id", "intent_id", "trace")),
        _only("dispute_reason", _CODE),
    )
    good, faults = divide(parsed, _TESTS)
    places = {_NAMES[name][-1]: place + 1 for name, place in header.places.items()}
    unnamed = pl.when(pl.col("payout").is_null()).then(pl.lit("")).otherwise(_only("payout", _ID)).alias("payout")
    broken = broken_rows(parsed.with_columns(unnamed), table.faults + faults, places)
    ours = {name: header.places[name] + 1 for name in ("category", "net")}
    return Part(_rows(good), table.faults + faults, broken, ours)


def _rows(good: pl.DataFrame) -> pl.DataFrame:
    own = pl.coalesce("source_id", "charge_id", "row_id")
    closed_at = pl.coalesce("paid", "occurred_at")
    return good.with_columns(
        row_key=pl.col("row_id"),
        ties=pl.col("gross_minor") - pl.col("fee_minor") == pl.col("net_minor"),
        closed_at=closed_at,
        closed_on=closed_at.dt.date(),
        document=pl.when(pl.col("category").is_in(_CHARGES))
        .then(pl.coalesce("charge_id", "source_id", "row_id"))
        .otherwise(own),
        reason=pl.coalesce("dispute_reason", "category"),
        correlation_id=pl.col("intent_id"),
    ).select(pl.col(name).cast(dtype) for name, dtype in ROWS.items())


def _instant(name: str) -> pl.Expr:
    times = [pl.col(name).str.to_datetime(form, strict=False, time_unit="ms") for form in _TIMES]
    return pl.coalesce(times).dt.replace_time_zone("UTC").cast(UTC_MS)


def _only(name: str, pattern: str) -> pl.Expr:
    """The column where it is of this form. What is not may be anything, and does not travel."""
    return pl.when(pl.col(name).str.contains(pattern)).then(pl.col(name)).alias(name)


def _row_tests() -> list[RowTest]:
    unnamed = ~pl.col("row_id").str.contains(_ID).fill_null(False)
    no_category = ~pl.col("category").str.contains(_CODE).fill_null(False)
    no_currency = ~pl.col("currency").str.contains("^[A-Z]{3}$").fill_null(False)
    tests = [
        RowTest(unnamed, "balance_transaction_id", "wrong_type", "expected an id"),
        RowTest(no_category, "reporting_category", "wrong_type", "expected a category"),
        RowTest(no_currency, "currency", "wrong_type", "expected a currency of three letters"),
        RowTest(
            pl.col("payout").is_not_null() & ~pl.col("payout").str.contains(_ID).fill_null(False),
            "automatic_payout_id",
            "wrong_type",
            "expected an id",
        ),
        RowTest(pl.col("occurred_at").is_null(), "created", "wrong_type", "expected YYYY-MM-DD HH:MM:SS"),
        RowTest(
            pl.col("paid_at").is_not_null() & pl.col("paid").is_null(),
            "automatic_payout_effective_at",
            "wrong_type",
            "expected YYYY-MM-DD HH:MM:SS",
        ),
    ]
    return tests + [
        RowTest(pl.col(f"{name}_minor").is_null(), name, "wrong_type", "expected an amount of its currency")
        for name in _AMOUNTS
    ]


_TESTS = _row_tests()
FORM = Form("stripe", kinds.load("stripe"), parts, names_rows=True, names_total=False)
