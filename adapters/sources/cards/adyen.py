"""Adyen's settlement detail report, as CSV.

Owns its columns, its time zones and what a row's ids are. Debits and credits are columns of their own; a row's gross is
its net with its four fees added back, in the currency of the payout, and must be the gross that the row states where
that is in the same currency. A batch ties when its net credits are its net debits: the payout, or the balance that the
next batch takes over, is one of them.

A payout is named "<merchant account>/<batch number>", as merchant accounts number their batches each for itself. The
merchant reference leaves as a token, as it is chosen by whoever asked for the money.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import polars_hash as plh

from adapters.sources.amounts import exact_minor_column
from adapters.sources.cards import kinds
from adapters.sources.cards.settlement import ROWS, Form, Part, broken_rows
from adapters.sources.cards.table import Header, Names, TableChunk, read_header, read_table
from adapters.sources.source import RowTest, SourceSettings, divide
from adapters.sources.tokens import checked_key, tokenise
from runtime.schema import UTC_MS

SIGNATURE = ("Psp Reference", "Type", "Net Debit (NC)", "Net Credit (NC)", "Batch Number")

_NAMES: Names = {
    "merchant": ("merchant account",),
    "psp": ("psp reference",),
    "merchant_reference": ("merchant reference",),
    "created": ("creation date",),
    "zone": ("timezone",),
    "category": ("type",),
    "modification": ("modification reference",),
    "gross_currency": ("gross currency",),
    "gross_debit": ("gross debit (gc)",),
    "gross_credit": ("gross credit (gc)",),
    "currency": ("net currency",),
    "net_debit": ("net debit (nc)",),
    "net_credit": ("net credit (nc)",),
    "commission": ("commission (nc)",),
    "markup": ("markup (nc)",),
    "scheme_fees": ("scheme fees (nc)",),
    "interchange": ("interchange (nc)",),
    "batch": ("batch number",),
    "booked": ("booking date",),
}
_REQUIRED = ("merchant", "psp", "created", "category", "currency", "net_debit", "net_credit", "batch")
_FEES = ("commission", "markup", "scheme_fees", "interchange")
_NET = ("net_debit", "net_credit", *_FEES)
_GROSS = ("gross_debit", "gross_credit")
_ID = r"^[A-Za-z0-9]{1,64}$"
_ACCOUNT = r"^[A-Za-z0-9_.-]{1,80}$"
_TIME = "%Y-%m-%d %H:%M:%S"
_ZONES = kinds.zones()
# By which of its references an event is found: a refund by its own, a charge and its disputes by the payment's.
_BY_MODIFICATION = ("Refunded", "RefundedReversed")
_SECOND_DISPUTE = "SecondChargeback"


def parts(path: Path, settings: SourceSettings) -> Iterator[Part]:
    """The report's rows. Raises FrameError for another header, ConfigError without a token key."""
    checked_key(settings.token_key)
    header = read_header(path, _NAMES, _REQUIRED)
    for table in read_table(path, _NAMES, header, settings.rows_max):
        yield _part(table, header, settings.token_key)


def _part(table: TableChunk, header: Header, token_key: bytes) -> Part:
    parsed = _parsed(table.frame)
    good, faults = divide(parsed, _TESTS)
    places = {_NAMES[name][0]: place + 1 for name, place in header.places.items()}
    broken = broken_rows(parsed, table.faults + faults, places)
    ours = {"category": header.places["category"] + 1, "net": header.places["net_credit"] + 1}
    return Part(_rows(good, token_key), table.faults + faults, broken, ours)


def _parsed(frame: pl.DataFrame) -> pl.DataFrame:
    named = pl.col("merchant").str.contains(_ACCOUNT) & pl.col("batch").str.contains(r"^\d{1,10}$")
    currency = pl.col("currency").str.to_uppercase()
    with_amounts = frame.with_columns(
        currency,
        pl.when(named).then(pl.concat_str("merchant", "batch", separator="/")).alias("payout"),
        *(_amount(name, currency) for name in _NET),
        *(_amount(name, pl.col("gross_currency").str.to_uppercase()) for name in _GROSS),
        *(_only(name, _ID) for name in ("psp", "modification")),
    )
    fees = pl.sum_horizontal([f"{name}_minor" for name in _FEES], ignore_nulls=False)
    net = pl.col("net_credit_minor") - pl.col("net_debit_minor")
    return with_amounts.with_columns(
        fee_minor=fees,
        net_minor=net,
        gross_minor=net + fees,
        stated_minor=pl.col("gross_credit_minor") - pl.col("gross_debit_minor"),
        occurred_at=_in_utc(with_amounts, "created"),
        day=pl.coalesce("booked", "created").str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False),
    )


def _amount(name: str, currency: pl.Expr) -> pl.Expr:
    """An empty cell is nothing."""
    return exact_minor_column(pl.col(name).fill_null("0"), currency).alias(f"{name}_minor")


def _in_utc(frame: pl.DataFrame, name: str) -> pl.Expr:
    """The instant of a local time in the zone that its row names; null where there is no such zone or time."""
    local = pl.col(name).str.to_datetime(_TIME, strict=False, time_unit="ms")
    instants = [
        pl.when(pl.col("zone").eq_missing(zone)).then(_at(local, zone)) for zone in frame["zone"].unique().to_list()
    ]
    return pl.coalesce(instants).cast(UTC_MS) if instants else pl.lit(None, UTC_MS)


def _at(local: pl.Expr, zone: str | None) -> pl.Expr:
    name = "UTC" if zone is None else _ZONES.get(zone, zone)
    if not _is_zone(name):
        return pl.lit(None, UTC_MS)
    return local.dt.replace_time_zone(name, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def _is_zone(name: str) -> bool:
    try:
        pl.select(pl.lit(0).cast(pl.Datetime("ms")).dt.replace_time_zone(name))
    except pl.exceptions.PolarsError:
        return False
    return True


def _rows(good: pl.DataFrame, token_key: bytes) -> pl.DataFrame:
    identity = ["payout", "category", "psp", "modification", "created", "currency", "net_minor", "gross_minor"]
    texts = [pl.col(name).cast(pl.String()).fill_null("") for name in identity]
    keyed = good.with_columns(pl.concat_str(texts, separator="\x1f").alias("_identity")).with_columns(
        plh.col("_identity").nchash.xxhash64().cast(pl.String()).alias("_hash")
    )
    row_key = pl.concat_str("payout", "_hash", separator=":")
    return keyed.with_columns(
        row_key=row_key,
        ties=_ties(),
        closed_at=pl.col("occurred_at"),
        closed_on=pl.col("day"),
        document=pl.coalesce(_found_by(), row_key),
        reason=pl.col("category"),
        correlation_id=tokenise(good["merchant_reference"], token_key, "payment"),
        trace=pl.lit(None, pl.String()),
    ).select(pl.col(name).cast(dtype) for name, dtype in ROWS.items())


def _ties() -> pl.Expr:
    """The gross that the row states, where it is in the payout's currency, is its net with its fees."""
    in_one_currency = pl.col("gross_currency").str.to_uppercase().eq_missing(pl.col("currency"))
    states_gross = in_one_currency & pl.any_horizontal(pl.col(name).is_not_null() for name in _GROSS)
    return ~states_gross | pl.col("stated_minor").eq_missing(pl.col("gross_minor"))


def _found_by() -> pl.Expr:
    return (
        pl.when(pl.col("category").is_in(_BY_MODIFICATION))
        .then(pl.coalesce("modification", "psp"))
        .when(pl.col("category") == _SECOND_DISPUTE)
        .then(pl.concat_str(pl.col("psp"), pl.lit("/2")))
        .otherwise(pl.col("psp"))
    )


def _only(name: str, pattern: str) -> pl.Expr:
    """The column where it is of this form. What is not may be anything, and does not travel."""
    return pl.when(pl.col(name).str.contains(pattern)).then(pl.col(name)).alias(name)


def _amount_tests(names: Sequence[str]) -> list[RowTest]:
    return [
        RowTest(pl.col(f"{name}_minor").is_null(), _NAMES[name][0], "wrong_type", "expected an amount of its currency")
        for name in names
    ]


def _row_tests() -> list[RowTest]:
    no_category = ~pl.col("category").str.contains("^[A-Za-z]{1,40}$").fill_null(False)
    no_currency = ~pl.col("currency").str.contains("^[A-Z]{3}$").fill_null(False)
    return [
        RowTest(
            pl.col("payout").is_null(), "batch number", "missing_value", "merchant account and batch must be named"
        ),
        RowTest(no_category, "type", "wrong_type", "expected a type"),
        RowTest(no_currency, "net currency", "wrong_type", "expected a currency of three letters"),
        *_amount_tests(_NET),
        RowTest(pl.col("occurred_at").is_null(), "creation date", "wrong_type", f"expected {_TIME} in a known zone"),
        RowTest(pl.col("day").is_null(), "booking date", "wrong_type", "expected YYYY-MM-DD"),
    ]


_TESTS = _row_tests()
FORM = Form("adyen", kinds.load("adyen"), parts, names_rows=False, names_total=True)
