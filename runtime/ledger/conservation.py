"""The two sums that must hold in every step: debits equal credits, and no event or cent is lost between states."""

import polars as pl

from runtime.effects import CONSERVED

_NET = pl.when(pl.col("side") == "D").then("amount_minor").otherwise(-pl.col("amount_minor")).sum().alias("net")
_ACCEPTED, _KEPT = pl.col("state") == "accepted", pl.col("state").is_in(list(CONSERVED))
_COUNTS = pl.col("events", "amount_minor")
_LOST = _COUNTS.filter(_ACCEPTED).sum() - _COUNTS.filter(_KEPT).sum()


def assert_balanced(deltas: pl.DataFrame) -> None:
    """Debits equal credits per entity, currency and period."""
    if deltas.is_empty():
        return
    sums = deltas.group_by("entity", "currency", "period").agg(_NET)
    assert (sums["net"] == 0).all(), "posting deltas do not balance"


def assert_conserved(totals: pl.DataFrame) -> None:
    """accepted = booked + pending + excepted + excluded, events and cents, per source, facility, currency, kind."""
    if totals.is_empty():
        return
    sums = totals.group_by("source", "entity", "facility", "currency", "kind").agg(_LOST)
    assert (sums["events"] == 0).all() and (sums["amount_minor"] == 0).all(), "events or cents are lost between states"
