"""What control totals must add up to, for books of every kind.

Owns the sum and the words of a break. Knows no database.
"""

import polars as pl

from runtime.effects import CONSERVED, TOTALS
from runtime.ports import ConservationBreak

_KEYS = tuple(name for name in TOTALS if name not in ("state", "events", "amount_minor"))


def totals_breaks(totals: pl.DataFrame) -> list[ConservationBreak]:
    """Keys of the control totals (columns TOTALS) whose states do not add up to what was accepted."""
    sign = pl.when(pl.col("state") == "accepted").then(1).when(pl.col("state").is_in(CONSERVED)).then(-1).otherwise(0)
    left = totals.group_by(*_KEYS).agg((pl.col("events") * sign).sum(), (pl.col("amount_minor") * sign).sum())
    wrong = left.filter((pl.col("events") != 0) | (pl.col("amount_minor") != 0)).sort(*_KEYS)
    return [_totals_break(row) for row in wrong.iter_rows(named=True)]


def _totals_break(row: dict) -> ConservationBreak:
    place = "/".join(row[name] or "-" for name in _KEYS)
    detail = f"{place}: {row['events']} events and {row['amount_minor']} minor units more accepted than accounted for"
    return ConservationBreak(f"totals:{place}", detail)
