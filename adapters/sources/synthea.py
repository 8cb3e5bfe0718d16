"""Synthea's `claims_transactions.csv`: a patient ledger, one row a transaction.

Owns how its rows become events. Patients and claims leave as keyed tokens; notes, procedures, diagnoses and member
ids are not read at all. TODATE is not read either (1970-01-01T00:00:00Z there only means "none").

A charge line is followed by its own payments and transfers, in file order, found by claim and procedure; lines of
other claims may lie between. Rows name who owes only on CHARGE and TRANSFERIN, so a PAYMENT or TRANSFEROUT falls on
whom the last of these named.
"""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from adapters.sources.delimited import minor_units, read_text
from adapters.sources.source import Chunk, Reader, RowTest, SourceSettings, canonical, divide
from adapters.sources.tokens import checked_key, tokenise
from runtime.schema import SCHEMA_VERSION, UTC_MS

SIGNATURE = ("CLAIMID", "CHARGEID", "PATIENTID", "TRANSFEROUTID", "TRANSFERTYPE", "OUTSTANDING")
KINDS = {
    "CHARGE": "charge_posted",
    "PAYMENT": "payment_received",
    "TRANSFEROUT": "responsibility_transferred_out",
    "TRANSFERIN": "responsibility_transferred_in",
}
PATIENT = ""  # no counterparty: the balance is the patient's own
UNKNOWN = "?"
PAYERS = {"1": "insurer", "2": "insurer-2", "p": PATIENT}
LINES_REMEMBERED_MAX = 200_000
_NAMES_PAYER = pl.col("TYPE").is_in(["CHARGE", "TRANSFERIN"]).fill_null(False)

_WANTED = [
    "ID",
    "CLAIMID",
    "PATIENTID",
    "TYPE",
    "AMOUNT",
    "METHOD",
    "FROMDATE",
    "PLACEOFSERVICE",
    "PROCEDURECODE",
    "UNITS",
    "DEPARTMENTID",
    "TRANSFERTYPE",
    "PAYMENTS",
    "TRANSFERS",
]
_AMOUNT_COLUMNS = {
    "CHARGE": "AMOUNT",
    "PAYMENT": "PAYMENTS",
    "TRANSFEROUT": "TRANSFERS",
    "TRANSFERIN": "AMOUNT",
}


class Responsibility:
    """Who owes each charge line now; remembers the newest lines over chunks, and forgets the oldest beyond a limit."""

    def __init__(self, lines_max: int = LINES_REMEMBERED_MAX) -> None:
        self._lines_max = lines_max
        self._payers: OrderedDict[str, str] = OrderedDict()

    def assign(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add `payer`: PATIENT where the patient owes, UNKNOWN or null where the rows so far do not tell."""
        line_key = pl.concat_str("CLAIMID", "PROCEDURECODE", separator="\x1f", ignore_nulls=True)
        named = pl.col("TRANSFERTYPE").replace_strict(PAYERS, default=UNKNOWN, return_dtype=pl.String())
        # A row that can't be read may have named another payer: guessing for those after it would book them wrongly.
        unread = ~pl.col("TYPE").is_in(list(KINDS)).fill_null(False)
        told = pl.when(_NAMES_PAYER).then(named).when(unread).then(pl.lit(UNKNOWN))
        keyed = rows.with_columns(line_key.alias("_key"), told.alias("_named"))
        filled = keyed.with_columns(pl.col("_named").forward_fill().over("_key"))
        assigned = filled.with_columns(pl.coalesce("_named", self._remembered(filled)).alias("payer"))
        self._remember(assigned)
        return assigned.drop("_key", "_named")

    def _remembered(self, filled: pl.DataFrame) -> pl.Expr:
        keys = filled.filter(pl.col("_named").is_null())["_key"].drop_nulls().unique()
        payers = pl.Series([self._payers.get(key) for key in keys], dtype=pl.String())
        return pl.col("_key").replace_strict(keys, payers, default=None, return_dtype=pl.String())

    def _remember(self, assigned: pl.DataFrame) -> None:
        newest = assigned.drop_nulls("payer").unique("_key", keep="last", maintain_order=True)
        for key, payer in newest.select("_key", "payer").iter_rows():
            self._payers[key] = payer
            self._payers.move_to_end(key)
        while len(self._payers) > self._lines_max:
            self._payers.popitem(last=False)


def read(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
    """Read the file in chunks. Raises FrameError for another header, ConfigError without a token key."""
    checked_key(settings.token_key)
    responsibility = Responsibility()
    for text, broken in read_text(path, _WANTED, settings.rows_max):
        rows = responsibility.assign(text).with_columns(
            _amount_minor().alias("amount_minor"),
            minor_units(pl.col("UNITS"), places=3).alias("quantity"),
            pl.col("FROMDATE").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=False).cast(UTC_MS).alias("occurred_at"),
        )
        good, faults = divide(rows, _TESTS)
        yield Chunk(_events(good, settings), sorted(broken + faults))


def _amount_minor() -> pl.Expr:
    """The amount's column depends on the row's type."""
    text = pl.coalesce(pl.when(pl.col("TYPE") == kind).then(pl.col(name)) for kind, name in _AMOUNT_COLUMNS.items())
    return minor_units(text, places=2)


def _row_tests() -> list[RowTest]:
    tests = [
        RowTest(pl.col(name).is_null(), name, "missing_value", "must be filled")
        for name in ("ID", "CLAIMID", "PATIENTID", "PLACEOFSERVICE", "TYPE", "FROMDATE")
    ]
    tests.append(RowTest(~pl.col("TYPE").is_in(list(KINDS)), "TYPE", "unknown_kind", f"expected {', '.join(KINDS)}"))
    tests += [
        RowTest(
            (pl.col("TYPE") == kind) & pl.col("amount_minor").is_null(),
            column,
            "wrong_type",
            "expected a decimal with at most 2 places",
        )
        for kind, column in _AMOUNT_COLUMNS.items()
    ]
    known_payer = pl.col("TRANSFERTYPE").is_in(list(PAYERS)).fill_null(False)
    unknown = pl.col("payer").is_null() | (pl.col("payer") == UNKNOWN)
    bad_units = pl.col("UNITS").is_not_null() & pl.col("quantity").is_null()
    return [
        *tests,
        RowTest(_NAMES_PAYER & ~known_payer, "TRANSFERTYPE", "unknown_payer", f"expected {', '.join(PAYERS)}"),
        RowTest(unknown, "CLAIMID", "unknown_charge", "no readable row before tells who owes this claim line"),
        RowTest(bad_units, "UNITS", "wrong_type", "expected a decimal with at most 3 places"),
        RowTest(pl.col("occurred_at").is_null(), "FROMDATE", "wrong_type", "expected YYYY-MM-DDTHH:MM:SSZ"),
    ]


_TESTS = _row_tests()


def _events(rows: pl.DataFrame, settings: SourceSettings) -> pl.DataFrame:
    return canonical(
        rows.with_columns(
            tokenise(rows["PATIENTID"], settings.token_key, "patient").alias("account"),
            tokenise(rows["CLAIMID"], settings.token_key, "claim").alias("document"),
        ),
        event_id=pl.col("ID"),
        source=pl.lit("synthea"),
        kind=pl.col("TYPE").replace_strict(KINDS, return_dtype=pl.String()),
        entity=pl.lit(settings.entity),
        facility=pl.col("PLACEOFSERVICE"),
        account=pl.col("account"),
        document=pl.col("document"),
        counterparty=pl.when(pl.col("payer") != PATIENT).then(pl.col("payer")),
        department=pl.col("DEPARTMENTID"),
        reason=pl.when(pl.col("TYPE") == "PAYMENT").then(pl.col("METHOD")),
        amount_minor=pl.col("amount_minor"),
        currency=pl.lit(settings.currency),
        quantity=pl.col("quantity"),
        occurred_at=pl.col("occurred_at"),
        effective_on=pl.col("occurred_at").dt.date(),
        schema_version=pl.lit(SCHEMA_VERSION),
    )


FORMATS: dict[str, Reader] = {"synthea": read}


def recognise(head: bytes) -> str:
    """The format's name when these bytes begin with its header."""
    header = head.decode("utf-8-sig", errors="replace").lstrip().partition("\n")[0]
    return "synthea" if {name.strip('" \r') for name in header.split(",")}.issuperset(SIGNATURE) else ""
