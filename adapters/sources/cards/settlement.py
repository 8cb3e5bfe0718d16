"""Payouts and the rows that make them up: what all settlement formats share.

A format gives its rows with signed amounts; they are read twice: first to see which payouts tie, then to hand out the
events of those that do, so that memory grows with the payouts and not with their rows. A payout that does not tie, or
has one row that can't be read or whose category nobody has mapped, is set aside whole. Owns the events of a row and of
a payout. Never books a difference.

A payout's rows post on the payout's day, so that they are one journal entry. Rows of no payout yet have no events: they
come again in the report that has their payout.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl
import polars_hash as plh

from adapters.sources.cards.kinds import Category, with_categories
from adapters.sources.occurrences import Occurrences
from adapters.sources.source import Chunk, Quarantined, Reader, SourceFault, SourceSettings, canonical
from runtime.schema import COLUMNS, SCHEMA_VERSION, UTC_MS

CARRIED_FORWARD = "carried_forward"
_ROW_TOTAL = "row_total"

# A format's rows. Money that comes to us is positive; gross less fee is net, all three in the payout's currency.
ROWS: dict[str, pl.DataType] = {
    "line": pl.Int64(),
    "payout": pl.String(),
    "row_key": pl.String(),  # what names the row wherever it is sent again
    "category": pl.String(),
    "currency": pl.String(),
    "gross_minor": pl.Int64(),
    "fee_minor": pl.Int64(),
    "net_minor": pl.Int64(),
    "ties": pl.Boolean(),  # whether the row's own arithmetic holds
    "occurred_at": UTC_MS,
    "closed_at": UTC_MS,  # the payout's own time, as this row knows it
    "closed_on": pl.Date(),
    "document": pl.String(),
    "reason": pl.String(),
    "correlation_id": pl.String(),
    "trace": pl.String(),  # the payout's trace at the bank
}
# Rows that can't be read, and where the fault lies: `payout` is empty for a row of none, null where nobody can tell.
BROKEN: dict[str, pl.DataType] = {"payout": pl.String(), "line": pl.Int64(), "place": pl.Int64(), "code": pl.String()}


class Part(NamedTuple):
    """Some rows of a file, in the columns ROWS; those that can't be read, as faults and in the columns BROKEN."""

    rows: pl.DataFrame
    faults: list[SourceFault]
    broken: pl.DataFrame
    places: Mapping[str, int]  # where the columns "category" and "net" are in the file, counted from 1


def broken_rows(parsed: pl.DataFrame, faults: Sequence[SourceFault], places: Mapping[str, int]) -> pl.DataFrame:
    """Faults in the columns BROKEN. `parsed` has `payout` and `line`; `places` are by the faults' own column names."""
    lines = pl.DataFrame(
        [(fault.line, places.get(fault.column, 0), fault.code) for fault in faults],
        schema={name: BROKEN[name] for name in ("line", "place", "code")},
        orient="row",
    )
    return lines.join(parsed.select("line", "payout"), on="line", how="left").select(*BROKEN)


class Form(NamedTuple):
    """A settlement format."""

    source: str
    categories: Mapping[str, Category]
    parts: Callable[[Path, SourceSettings], Iterator[Part]]
    names_rows: bool  # its rows have ids of their own, so that an id that comes twice is a fault
    names_total: bool  # its payouts state their amount; otherwise the amount is the rows' sum unless a row states it


def reader(form: Form) -> Reader:
    """The reader of a settlement format."""

    def read(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
        survey = _Survey(form)
        for part in form.parts(path, settings):
            survey.note(part)
        survey.close()
        if survey.repeated:
            for part in form.parts(path, settings):
                survey.note_repeats(part.rows)
        payouts = survey.tied()
        yield Chunk(pl.DataFrame(schema=COLUMNS), [], survey.quarantined(), survey.figures)
        for part in form.parts(path, settings):
            events = _row_events(survey.numbered(part.rows), payouts, form, settings)
            yield from _chunks(events, part.faults, settings.rows_max)
        yield from _chunks(_payout_events(payouts, form, settings), [], settings.rows_max)

    return read


class _Times(NamedTuple):
    """When a payout was made, as far as is known."""

    at: datetime = datetime.min.replace(tzinfo=UTC)
    on: date = date.min

    def latest(self, at: datetime | None, on: date | None) -> "_Times":
        return _Times(max(self.at, at or self.at), max(self.on, on or self.on))


class _Payout:
    """What is known of one payout. `fault` is line, place and code of the first thing that is wrong."""

    def __init__(self) -> None:
        self.members_minor = self.stated_minor = self.statements = self.last_line = 0
        self.first_line = sys.maxsize
        self.currencies: set[str] = set()
        self._by_rows = self._by_statement = _Times()
        self.trace = ""
        self.fault: tuple[int, int, str] | None = None

    def add(self, row: Mapping) -> None:
        """What one part of the file says of it."""
        self.members_minor += row["members_minor"]
        self.stated_minor += row["stated_minor"]
        self.statements += row["statements"]
        self.first_line, self.last_line = min(self.first_line, row["first_line"]), row["last_line"]
        self.currencies.update(row["currencies"])
        self._by_rows = self._by_rows.latest(row["closed_at"], row["closed_on"])
        self._by_statement = self._by_statement.latest(row["stated_at"], row["stated_on"])
        self.trace = self.trace or row["trace"] or ""

    @property
    def times(self) -> _Times:
        """Those of the row that states the payout, otherwise the latest of all its rows."""
        return self._by_statement if self.statements else self._by_rows

    def blame(self, line: int, place: int, code: str) -> None:
        """Something is wrong with it; the first thing stays."""
        self.first_line = min(self.first_line, line)
        if self.fault is None or line < self.fault[0]:
            self.fault = (line, place, code)

    def amount_minor(self, form: Form) -> int:
        """What is paid out. A payout that need not state it is the sum of its rows."""
        return -self.stated_minor if self.statements or form.names_total else self.members_minor

    def arithmetic_fault(self, form: Form) -> str:
        """Why it does not tie, or nothing."""
        if len(self.currencies) > 1:
            return "mixed_currencies"
        return "" if self.members_minor == self.amount_minor(form) else "payout_total"


class _Survey:
    """What the first reading finds: the payouts, rows that look the same, figures."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._payouts: dict[str, _Payout] = {}
        self._occurrences = Occurrences()
        self._places: Mapping[str, int] = {}
        self._lost_line = 0  # of the first row that may have been any payout's
        self.repeated: frozenset[int] = frozenset()
        self.figures: Counter[str] = Counter()

    def note(self, part: Part) -> None:
        """One part of the file."""
        self._places = part.places
        rows = _judged(part.rows, self._form)
        self._occurrences.note_all(_keys(rows).to_numpy())
        self.figures.update(_figures(rows))
        for row in _summed(rows).iter_rows(named=True):
            self._payout(row["payout"]).add(row)
        for payout, line, code in (
            rows.filter(pl.col("code").is_not_null()).select("payout", "line", "code").iter_rows()
        ):
            self._blame(payout or "", line, part.places["net" if code == _ROW_TOTAL else "category"], code)
        for broken in part.broken.iter_rows():
            self._blame(*broken)

    def _blame(self, payout: str | None, line: int, place: int, code: str) -> None:
        if payout is None:
            self._lost_line = self._lost_line or line
        elif payout:
            self._payout(payout).blame(line, place, code)

    def _payout(self, name: str) -> _Payout:
        return self._payouts.setdefault(name, _Payout())

    def close(self) -> None:
        """End of the first reading."""
        repeated = self._occurrences.close()
        self.repeated = repeated if self._form.names_rows else frozenset()
        for payout in self._payouts.values():
            if payout.fault:
                continue
            if self._lost_line and not payout.statements and not self._form.names_total:
                payout.fault = (self._lost_line, 0, "unreadable_row")
            elif code := payout.arithmetic_fault(self._form):
                payout.fault = (payout.last_line, self._places["net"], code)
        self.figures["payouts"] = sum(payout.amount_minor(self._form) != 0 for payout in self._payouts.values())
        self.figures["net_minor"] = sum(payout.amount_minor(self._form) for payout in self._payouts.values())

    def note_repeats(self, rows: pl.DataFrame) -> None:
        """Blame the payouts in which a row's own id comes twice."""
        repeats = rows.filter(_keys(rows).is_in(list(self.repeated)) & pl.col("payout").is_not_null())
        for payout, line in repeats.select("payout", "line").iter_rows():
            self._payouts[payout].blame(line, 0, "repeated_row")

    def quarantined(self) -> list[Quarantined]:
        """The payouts that are set aside, numbered as they first appear in the file."""
        ordered = sorted(self._payouts.values(), key=lambda payout: payout.first_line)
        return [Quarantined(number, *payout.fault) for number, payout in enumerate(ordered, 1) if payout.fault]

    def tied(self) -> pl.DataFrame:
        """The payouts that are not: name, amount, currency, day, time and trace."""
        rows = [
            (name, p.amount_minor(self._form), next(iter(p.currencies)), *p.times, p.trace or None)
            for name, p in self._payouts.items()
            if not p.fault
        ]
        schema = {"payout": pl.String(), "amount_minor": pl.Int64(), "payout_currency": pl.String()}
        times = {"payout_at": UTC_MS, "effective_on": pl.Date(), "payout_trace": pl.String()}
        return pl.DataFrame(rows, schema=schema | times, orient="row")

    def numbered(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows with keys that tell equal ones apart."""
        numbers = pl.Series([self._occurrences.number(key) for key in _keys(rows)], dtype=pl.Int64())
        apart = pl.concat_str(pl.col("row_key"), pl.lit("#"), numbers.cast(pl.String()))
        return rows.with_columns(pl.when(numbers > 1).then(apart).otherwise(pl.col("row_key")).alias("row_key"))


def _judged(rows: pl.DataFrame, form: Form) -> pl.DataFrame:
    """The rows with their categories, and `code` where one is not to be booked."""
    code = (
        pl.when(pl.col("role").is_null())
        .then(pl.lit("unmapped_category"))
        .when(pl.col("role") == "review")
        .then(pl.lit("needs_review"))
        .when((pl.col("role") == "payout") & (pl.col("fee_minor") != 0))
        .then(pl.lit("payout_fee"))  # what arrives at the bank is less than what the rows sum to
        .when(~pl.col("ties"))
        .then(pl.lit(_ROW_TOTAL))
    )
    return with_categories(rows, form.categories).with_columns(code.alias("code"))


def _keys(rows: pl.DataFrame) -> pl.Series:
    return rows.select(plh.col("row_key").nchash.xxhash64()).to_series()


def _figures(rows: pl.DataFrame) -> dict[str, int]:
    settled, moves = pl.col("payout").is_not_null(), pl.col("role").ne_missing("payout")
    net = pl.col("net_minor")
    return rows.select(
        pl.len().alias("transactions"),
        pl.col("gross_minor").filter(settled & moves).sum().alias("gross_minor"),
        pl.col("fee_minor").filter(settled & moves).sum().alias("fees_minor"),
        net.filter(settled & (net > 0)).sum().alias("credits_minor"),
        -net.filter(settled & (net < 0)).sum().alias("debits_minor"),
        (~settled).sum().alias("unsettled"),
        net.filter(~settled).sum().alias("unsettled_minor"),
    ).row(0, named=True)


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    """What these rows say of each of their payouts."""
    states = pl.col("role").eq_missing("payout")
    return (
        rows.filter(pl.col("payout").is_not_null())
        .group_by("payout", maintain_order=True)
        .agg(
            pl.col("net_minor").filter(~states).sum().alias("members_minor"),
            pl.col("net_minor").filter(states).sum().alias("stated_minor"),
            states.sum().alias("statements"),
            pl.col("line").min().alias("first_line"),
            pl.col("line").max().alias("last_line"),
            pl.col("currency").unique().alias("currencies"),
            pl.col("closed_at").filter(states).max().alias("stated_at"),
            pl.col("closed_on").filter(states).max().alias("stated_on"),
            pl.col("closed_at").max(),
            pl.col("closed_on").max(),
            pl.col("trace").drop_nulls().first(),
        )
    )


def _row_events(rows: pl.DataFrame, payouts: pl.DataFrame, form: Form, settings: SourceSettings) -> pl.DataFrame:
    """The events of the rows whose payout ties: the row's own, and one for its fee."""
    members = with_categories(rows, form.categories).filter(pl.col("role") == "member")
    booked = members.join(payouts, on="payout", how="inner", maintain_order="left")
    gross = booked.with_columns(
        pl.concat_str("row_key", pl.lit(":gross")).alias("event_id"),
        (pl.col("gross_minor") * pl.col("sign")).alias("amount_minor"),
    )
    fees = booked.with_columns(
        pl.concat_str("row_key", pl.lit(":fee")).alias("event_id"),
        pl.col("fee_kind").alias("kind"),
        pl.col("fee_minor").alias("amount_minor"),
    )
    both = pl.concat([gross, fees]).filter(pl.col("amount_minor") != 0).sort("line", maintain_order=True)
    return canonical(
        both,
        **{name: pl.col(name) for name in ("event_id", "kind", "document", "reason", "amount_minor", "currency")},
        **{name: pl.col(name) for name in ("occurred_at", "effective_on", "correlation_id")},
        reference=pl.col("payout"),
        **_constants(form, settings),
    )


def _payout_events(payouts: pl.DataFrame, form: Form, settings: SourceSettings) -> pl.DataFrame:
    """One event a payout. One of zero closes a batch whose balance the next one takes over: no deposit will come."""
    return canonical(
        payouts,
        event_id=pl.concat_str("payout", pl.lit(":payout")),
        kind=pl.lit("payout_paid"),
        document=pl.col("payout"),
        reason=pl.when(pl.col("amount_minor") == 0).then(pl.lit(CARRIED_FORWARD)),
        amount_minor=pl.col("amount_minor"),
        currency=pl.col("payout_currency"),
        occurred_at=pl.col("payout_at"),
        effective_on=pl.col("effective_on"),
        correlation_id=pl.col("payout_trace"),
        **_constants(form, settings),
    )


def _constants(form: Form, settings: SourceSettings) -> dict[str, pl.Expr]:
    return {
        "source": pl.lit(form.source),
        "entity": pl.lit(settings.entity),
        "schema_version": pl.lit(SCHEMA_VERSION),
    }


def _chunks(events: pl.DataFrame, faults: Sequence[SourceFault], rows_max: int) -> Iterator[Chunk]:
    """A row may have two events, so what came of one part may be more than one frame."""
    yield Chunk(events.head(rows_max), list(faults))
    for start in range(rows_max, events.height, rows_max):
        yield Chunk(events.slice(start, rows_max), [])
