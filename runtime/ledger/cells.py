"""Events by cells: rows alike in all that decides about them lie in one cell.

Owns the grouping. What becomes of a row (its rule, its accounts, its posting set, its state) is found once a cell, of
which there are few. Never decides anything itself.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

KEYS = ("was", "source", "kind", "entity", "facility", "department", "currency", "effective_on")
PAYER, NEGATIVE = "payer", "negative"  # whether the event names a counterparty; whether it takes away


class Cells(NamedTuple):
    """`frame`: one row a cell, in no order that one may rely on. `of`: for each event the number of its cell."""

    frame: pl.DataFrame
    of: np.ndarray

    def rows(self, chosen: pl.Series) -> np.ndarray:
        """Which events lie in the chosen cells."""
        return chosen.to_numpy()[self.of]


def grouped(rows: pl.DataFrame, by: Iterable[str | pl.Expr], *sums: pl.Expr) -> Cells:
    """Rows in cells by these keys, with these sums and the number of `events` in each."""
    events = pl.len().cast(pl.Int64()).alias("events")
    found = rows.with_row_index("row").group_by(*by).agg(*sums, events, "row")
    of = np.empty(len(rows), np.int32)
    numbers = np.arange(len(found), dtype=np.int32)
    of[found["row"].explode(empty_as_null=False).to_numpy()] = np.repeat(numbers, found["events"].to_numpy())
    return Cells(found[found.columns[:-1]], of)


def celled(rows: pl.DataFrame, told_apart: Mapping[str, Collection[str]]) -> Cells:
    """Rows (canonical columns and `was`) in cells. `told_apart`: columns that decide only for some kinds, and these
    kinds; for others such a column is empty in `frame`, as is one that the rows have not. Amounts of one cell have one
    sign."""
    kinds = set(rows["kind"].unique())
    telling = {column: list(kinds & set(some)) for column, some in told_apart.items()}
    present = [column for column, some in telling.items() if some and column in rows.columns]
    columns = rows[list(dict.fromkeys((*KEYS, "amount_minor", "counterparty", *present)))]
    keys = [
        *KEYS,
        pl.col("counterparty").is_not_null().alias(PAYER),
        (pl.col("amount_minor") < 0).alias(NEGATIVE),
        *(pl.when(pl.col("kind").is_in(telling[column])).then(column).alias(column) for column in present),
    ]
    cells = grouped(columns, keys, pl.col("amount_minor").sum())
    empty = [pl.lit(None, pl.String()).alias(column) for column in telling if column not in present]
    return cells._replace(frame=cells.frame.with_columns(empty))
