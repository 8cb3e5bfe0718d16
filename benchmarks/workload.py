"""A seeded month end: the mix of events that every benchmark is fed with, and what it is made of.

Owns the shares of the flows and their disorder: repeats, conflicts, late rows. The flows themselves are drawn in
`benchmarks.flows`, whole columns at once, so that making them never limits what is measured. Never sends anything.
"""

from datetime import date
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from adapters import settings
from adapters.sources.month import DEPARTMENTS
from benchmarks.flows import ENTITIES, MARK, Month, entity_name
from benchmarks.flows.billing import UNMAPPED_UNIT, billing, hospitals
from benchmarks.flows.cards import cards
from benchmarks.flows.purchasing import purchasing
from benchmarks.flows.remittances import remittances
from runtime.config import Config, parse
from runtime.ledger.rule_file import parse_rulebook
from runtime.schema import COLUMNS

__all__ = ["MARK", "MIXES", "Composition", "Mix", "Workload", "configuration", "hospitals", "month_end"]

REPEAT_SHARE, CONFLICT_SHARE, LATE_SHARE = 0.01, 0.001, 0.02
LATE_ROWS_MAX, REPEAT_ROWS_MAX = 100_000, 200_000  # how far behind its place a row may come


class Mix(NamedTuple):
    """The shares of the flows beside billing, which is the rest."""

    card: float
    remittance: float
    purchasing: float


MIXES = {
    "month_end": Mix(card=0.05, remittance=0.06, purchasing=0.01),
    "billing_and_cards": Mix(card=0.05, remittance=0.0, purchasing=0.0),  # what was measured before the other flows
}
_FLOWS = {"card": cards, "remittance": remittances, "purchasing": purchasing}


class Composition(msgspec.Struct, frozen=True):
    """What a workload holds, counted from its rows."""

    events: int
    entities: int
    facilities: int
    accounts: int
    card_percent: float
    repeat_percent: float
    conflict_percent: float
    late_percent: float
    unmapped_percent: float
    hottest_facility_percent: float
    remittance_percent: float = 0.0
    purchasing_percent: float = 0.0
    kinds: int = 0


class Workload(NamedTuple):
    """Canonical rows in the order of arrival, and what they are."""

    rows: pl.DataFrame
    composition: Composition

    def frames(self, frame_rows: int) -> list[pl.DataFrame]:
        """The rows cut into whole frames; a last part that does not fill one is left out."""
        return [part for part in self.rows.iter_slices(frame_rows) if len(part) == frame_rows]


def configuration(**sections: dict) -> Config:
    """A configuration that knows the mix; `sections` are added to it. Every role is mapped, but for UNMAPPED_UNIT."""
    of = {entity: [f for e, f, _ in hospitals() if e == entity] for entity in map(entity_name, range(ENTITIES))}
    entities = {
        name: {"name": name, "facilities": facilities, "opens_on": date(2026, 1, 1)} for name, facilities in of.items()
    }
    roles = sorted(parse_rulebook(settings.load_rulebook_text(parse({"entities": entities}))).roles() - {"CONTRACTUAL"})
    anywhere = [{"role": role, "account": f"{1000 + 10 * i}"} for i, role in enumerate(roles)]
    by_unit = [{"role": "CONTRACTUAL", "account": "4110", "department": name} for name, *_ in DEPARTMENTS]
    return parse({"entities": entities, "mapping": anywhere + by_unit, **sections})


def month_end(events: int, seed: int = 1, mix: str = "month_end") -> Workload:
    """A mix in about so many events: billing of all facilities, the other flows between it, and what goes wrong."""
    distinct = int(events / (1 + REPEAT_SHARE + CONFLICT_SHARE))
    month = Month(np.random.default_rng(seed), distinct)
    drawn = [
        _FLOWS[flow](month, round(distinct * share)).with_columns(flow=pl.lit(flow))
        for flow, share in MIXES[mix]._asdict().items()
        if share
    ]
    charged = billing(month, seed, distinct - sum(map(len, drawn)))
    whole = _disordered(month.random, pl.concat([charged.with_columns(flow=pl.lit("billing")), *drawn]))
    rows = whole.sort("at", maintain_order=True).select(*COLUMNS)
    return Workload(rows, _composition(rows, whole))


# ── what goes wrong ────────────────────────────────────────────────────────────────────────────────────────────────


def _disordered(random: np.random.Generator, rows: pl.DataFrame) -> pl.DataFrame:
    """Some rows late, some again, some again with another amount; `late` and `again` say which."""
    late = random.random(len(rows)) < LATE_SHARE
    delay = late * random.random(len(rows)) * min(LATE_ROWS_MAX, len(rows))
    rows = rows.with_columns(pl.col("at") + pl.Series(delay), pl.Series("late", late), pl.lit(0).alias("again"))
    repeated = _again(random, rows, REPEAT_SHARE).with_columns(pl.lit(1).alias("again"))
    conflicting = _again(random, rows, CONFLICT_SHARE).with_columns(
        pl.lit(2).alias("again"), pl.col("amount_minor") + 100
    )
    return pl.concat([rows, repeated, conflicting])


def _again(random: np.random.Generator, rows: pl.DataFrame, share: float) -> pl.DataFrame:
    chosen = rows[random.choice(len(rows), int(len(rows) * share), replace=False)]
    pause = 1 + random.random(len(chosen)) * min(REPEAT_ROWS_MAX, len(rows))
    return chosen.with_columns(pl.col("at") + pl.Series(pause))


def _composition(rows: pl.DataFrame, whole: pl.DataFrame) -> Composition:
    def percent(of: pl.Series) -> float:
        return round(100 * of.sum() / len(rows), 2)

    return Composition(
        events=len(rows),
        entities=rows["entity"].n_unique(),
        facilities=rows["facility"].drop_nulls().n_unique(),
        accounts=rows["account"].drop_nulls().n_unique(),
        card_percent=percent(whole["flow"] == "card"),
        repeat_percent=percent(whole["again"] == 1),
        conflict_percent=percent(whole["again"] == 2),
        late_percent=percent(whole["late"]),
        unmapped_percent=percent(rows["department"] == UNMAPPED_UNIT),
        hottest_facility_percent=percent(rows["facility"] == rows["facility"].drop_nulls().mode()[0]),
        remittance_percent=percent(whole["flow"] == "remittance"),
        purchasing_percent=percent(whole["flow"] == "purchasing"),
        kinds=rows["kind"].n_unique(),
    )
