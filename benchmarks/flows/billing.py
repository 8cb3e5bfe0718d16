"""Billing: charges, reversals, adjustments, payments and transfers of all facilities, the bulk of the month."""

import numpy as np
import polars as pl

from adapters.sources.month import billing_month
from benchmarks.flows import CURRENCY, ENTITIES, FACILITIES, MARK, Month, account_names, entered, entity_name
from benchmarks.flows import facility_name as facility

UNMAPPED_UNIT = "new-unit"
UNMAPPED_SHARE = 0.005
LAG_SHARES = (0.7, 0.2, 0.07, 0.03)  # a charge is entered on the day of its service, or one to three days later


def hospitals() -> list[tuple[str, str, str]]:
    """(entity, facility, currency), the busiest first: a facility's share of the events falls with its rank."""
    return [(entity_name(i % ENTITIES), facility(i), CURRENCY) for i in range(FACILITIES)]


def billing(month: Month, seed: int, events: int) -> pl.DataFrame:
    """So many events, some of them of a department that no mapping knows."""
    rows = pl.concat(billing_month(seed, "2026-10", events, hospitals()).frames())
    lag = month.random.choice(len(LAG_SHARES), events, p=LAG_SHARES)
    place = np.arange(events) / events
    return rows.with_columns(
        *(pl.format(MARK + "{}", name).alias(name) for name in ("event_id", "document", "reference")),
        account_names(pl.Series("account", month.accounts(events))),
        pl.when(_unmapped(month, rows)).then(pl.lit(UNMAPPED_UNIT)).otherwise("department").alias("department"),
        pl.Series("at", place * month.span),
        *entered(pl.lit(pl.Series(place)), pl.lit(pl.Series(lag))),
    )


def _unmapped(month: Month, rows: pl.DataFrame) -> pl.Series:
    """Adjustments, the only kind that is mapped by department, as far as there are enough."""
    adjustments = np.flatnonzero(rows["kind"] == "adjustment_posted")
    wanted = min(int(len(rows) * UNMAPPED_SHARE), len(adjustments))
    unmapped = np.zeros(len(rows), bool)
    unmapped[month.random.choice(adjustments, wanted, replace=False)] = True
    return pl.Series(unmapped)
