"""The flows of the month end, each a module that draws its events in whole columns.

Owns what they share: places, marks, time, the canonical form. A flow answers canonical columns and `at`, the place of
each event in a month of `span` events. Never orders the events, repeats them or sends them.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from adapters.sources.month import DEPARTMENTS
from runtime.schema import COLUMNS, SCHEMA_VERSION, UTC_MS

ENTITIES, FACILITIES, ACCOUNTS = 10, 200, 2_000_000
CURRENCY = "USD"
DAY_MS = 86_400_000
FIRST_MS, DAYS = 1_793_318_400_000, 2  # 2026-10-30, and how long the rows take to come
PAYERS = ("medicare", "medicaid", "blue-plan", "health-first")
MARK = "~000~"  # ids hold it; a later round replaces it by its own: the same bytes but for it are new events


class Month(NamedTuple):
    """What a flow draws from: random numbers, and how many events the month has in all."""

    random: np.random.Generator
    span: int

    def moments(self, count: int) -> np.ndarray:
        """So many places in the month, in order."""
        return np.sort(self.random.random(count)) * self.span

    def facilities(self, count: int) -> np.ndarray:
        """The facility of each of so many things; the first are the busiest."""
        return np.minimum((self.random.random(count) ** 2 * FACILITIES).astype(np.int64), FACILITIES - 1)

    def facilities_of(self, entities: np.ndarray) -> np.ndarray:
        """A facility of each of these entities."""
        rank = (self.random.random(len(entities)) ** 2 * (FACILITIES // ENTITIES)).astype(np.int64)
        return rank * ENTITIES + entities

    def accounts(self, count: int) -> np.ndarray:
        """The account of each of so many things; low numbers come more often."""
        return (self.random.random(count) ** 3 * ACCOUNTS).astype(np.int64)

    def departments(self, count: int) -> pl.Series:
        """The department of each of so many things."""
        return pl.Series([name for name, *_ in DEPARTMENTS]).gather(self.random.integers(0, len(DEPARTMENTS), count))

    def chosen(self, rows: pl.DataFrame, share: float) -> pl.DataFrame:
        """So large a part of these rows."""
        return rows.filter(pl.Series(self.random.random(len(rows)) < share))


def entity_name(number: int) -> str:
    """The name of an entity of the mix."""
    return f"entity-{number:02d}"


def facility_name(number: int) -> str:
    """The name of a facility; it belongs to the entity `number % ENTITIES`."""
    return f"facility-{number:03d}"


def marked(text: str, *columns: str) -> pl.Expr:
    """An id from this format, under the mark that tells rounds apart."""
    return pl.format(MARK + text, *columns)


def account_names(numbers: pl.Series) -> pl.Series:
    """Tokens as sources send them."""
    return numbers.cast(pl.String()).str.zfill(8).str.replace("^", "acct-")


def named_places(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the names of their `entity_no` and, where they have one, `facility_no`."""
    entities = pl.Series([entity_name(i) for i in range(ENTITIES)])
    facilities = pl.Series([facility_name(i) for i in range(FACILITIES)])
    named = rows.with_columns(entities.gather(rows["entity_no"]).alias("entity"))
    if "facility_no" not in rows.columns:
        return named
    return named.with_columns(facilities.gather(rows["facility_no"]).alias("facility"))


def entered(share: pl.Expr, lag_days: pl.Expr) -> list[pl.Expr]:
    """When a row occurred that comes after this share of the month."""
    occurred_ms = FIRST_MS + (share * DAYS * DAY_MS).cast(pl.Int64()) - lag_days * DAY_MS
    day = (occurred_ms // DAY_MS).cast(pl.Int32()).cast(pl.Date())
    return [occurred_ms.cast(UTC_MS).alias("occurred_at"), day.alias("effective_on")]


def events(
    month: Month, rows: pl.DataFrame, kind: str, source: str, *, after: float = 0, **given: pl.Expr | str
) -> pl.DataFrame:
    """One event of this kind for each row, `after` so many events of the month.

    `given` names columns of the rows, or computes them; what is not given is taken from the rows' column of that name.
    The event's id is its document's, unless one is given.
    """
    at = pl.col("at") + after
    occurred_at, effective_on = entered(at / month.span, pl.lit(0))
    drawn = {name: pl.col(name) for name in rows.columns if name in COLUMNS}
    drawn |= {name: pl.col(of) if isinstance(of, str) else of for name, of in given.items()}
    drawn.setdefault("event_id", pl.concat_str(drawn["document"], pl.lit(f"-{kind}")))
    drawn |= {
        "source": pl.lit(source),
        "kind": pl.lit(kind),
        "currency": pl.lit(CURRENCY),
        "occurred_at": occurred_at,
        "effective_on": effective_on,
        "schema_version": pl.lit(SCHEMA_VERSION),
    }
    columns = [drawn.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in COLUMNS.items()]
    return rows.select(*columns, at.alias("at"))
