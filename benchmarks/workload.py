"""A seeded month end: the mix of events that every benchmark is fed with, and what it is made of.

Owns the shares of the mix and its disorder: repeats, conflicts, late rows, rows without a mapping, the card flow. Whole
columns are drawn at once, so that making it never limits what is measured. Never sends anything.
"""

from datetime import date
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from adapters.sources.month import DEPARTMENTS, billing_month
from runtime.config import Config, parse
from runtime.schema import COLUMNS, SCHEMA_VERSION, UTC_MS

ENTITIES, FACILITIES, ACCOUNTS = 10, 200, 2_000_000
CARD_SHARE = 0.05
REPEAT_SHARE, CONFLICT_SHARE, LATE_SHARE, UNMAPPED_SHARE = 0.01, 0.001, 0.02, 0.005
PAYMENTS_PER_PAYOUT, REFUND_SHARE = 50, 0.03
CARD_EVENTS_PER_PAYMENT = 4 + 2 * REFUND_SHARE + 2 / PAYMENTS_PER_PAYOUT
LATE_ROWS_MAX, REPEAT_ROWS_MAX = 100_000, 200_000  # how far behind its place a row may come
CURRENCY = "USD"
DAY_MS = 86_400_000
FIRST_MS, DAYS = 1_793_318_400_000, 2  # 2026-10-30, and how long the rows take to come
LAG_SHARES = (0.7, 0.2, 0.07, 0.03)  # a charge is entered on the day of its service, or one to three days later
UNMAPPED_UNIT = "new-unit"
ROLES = ("CASH", "CARD_CLEARING", "AR_INS", "AR_SELF", "PT_CREDIT", "REFUND_PAYABLE", "GROSS_REV", "MERCHANT_FEES")

# Ids hold this mark, which a later round replaces by its own: the same bytes but for it are new events.
MARK = "~000~"


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


class Workload(NamedTuple):
    """Canonical rows in the order of arrival, and what they are."""

    rows: pl.DataFrame
    composition: Composition

    def frames(self, frame_rows: int) -> list[pl.DataFrame]:
        """The rows cut into whole frames; a last part that does not fill one is left out."""
        return [part for part in self.rows.iter_slices(frame_rows) if len(part) == frame_rows]


def entity_name(number: int) -> str:
    """The name of an entity of the mix."""
    return f"entity-{number:02d}"


def hospitals() -> list[tuple[str, str, str]]:
    """(entity, facility, currency), the busiest first: a facility's share of the events falls with its rank."""
    return [(entity_name(i % ENTITIES), f"facility-{i:03d}", CURRENCY) for i in range(FACILITIES)]


def configuration(**sections: dict) -> Config:
    """A configuration that knows the mix; `sections` are added to it. Everything is mapped but UNMAPPED_UNIT."""
    of = {entity: [f for e, f, _ in hospitals() if e == entity] for entity in map(entity_name, range(ENTITIES))}
    entities = {
        name: {"name": name, "facilities": facilities, "opens_on": date(2026, 1, 1)} for name, facilities in of.items()
    }
    anywhere = [{"role": role, "account": f"{1000 + 10 * i}"} for i, role in enumerate(ROLES)]
    by_unit = [{"role": "CONTRACTUAL", "account": "4110", "department": name} for name, *_ in DEPARTMENTS]
    return parse({"entities": entities, "mapping": anywhere + by_unit, **sections})


def month_end(events: int, seed: int = 1) -> Workload:
    """The mix in about so many events: billing of all facilities, cards between it, and what goes wrong with both."""
    random = np.random.default_rng(seed)
    distinct = int(events / (1 + REPEAT_SHARE + CONFLICT_SHARE))
    payments = max(int(distinct * CARD_SHARE / CARD_EVENTS_PER_PAYMENT), 1)
    cards = _cards(random, payments, distinct)
    billing = _billing(random, seed, distinct - len(cards))
    whole = _disordered(random, pl.concat([billing, cards]))
    rows = whole.sort("at", maintain_order=True).select(*COLUMNS)
    return Workload(rows, _composition(rows, whole))


# ── billing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _billing(random: np.random.Generator, seed: int, events: int) -> pl.DataFrame:
    rows = pl.concat(billing_month(seed, "2026-10", events, hospitals()).frames())
    skewed = (random.random(events) ** 3 * ACCOUNTS).astype(np.int64)
    lag = random.choice(len(LAG_SHARES), events, p=LAG_SHARES)
    adjustments = np.flatnonzero(rows["kind"] == "adjustment_posted")
    unmapped = np.zeros(events, bool)
    unmapped[random.choice(adjustments, min(int(events * UNMAPPED_SHARE), len(adjustments)), replace=False)] = True
    return rows.with_columns(
        *(pl.format(MARK + "{}", name).alias(name) for name in ("event_id", "document", "reference")),
        pl.Series("account", skewed).cast(pl.String()).str.zfill(8).str.replace("^", "acct-"),
        pl.when(pl.Series(unmapped)).then(pl.lit(UNMAPPED_UNIT)).otherwise("department").alias("department"),
        pl.Series("at", np.arange(events) * (1 + CARD_SHARE)),
        *_entered(pl.lit(pl.Series(np.arange(events) / events)), pl.lit(pl.Series(lag))),
    )


def _entered(share: pl.Expr, lag_days: pl.Expr) -> list[pl.Expr]:
    """When a row occurred that comes after this share of the time."""
    occurred_ms = FIRST_MS + (share * DAYS * DAY_MS).cast(pl.Int64()) - lag_days * DAY_MS
    day = (occurred_ms // DAY_MS).cast(pl.Int32()).cast(pl.Date())
    return [occurred_ms.cast(UTC_MS).alias("occurred_at"), day.alias("effective_on")]


# ── cards ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cards(random: np.random.Generator, payments: int, span: int) -> pl.DataFrame:
    """Payments with their payouts, each event `at` its place in a month of `span` rows."""
    paid = _payments(random, payments, span)
    refunded = paid.filter(pl.Series(random.random(payments) < REFUND_SHARE))
    payouts = _payouts(paid, refunded)
    steps = [
        _card_rows(paid, "card_authorised", document="au"),
        _card_rows(paid, "card_captured", document="ca", reference="au", after=40),
        _card_rows(paid, "card_settled", document="ca", reference="payout", after=4_000),
        _card_rows(paid, "card_fee_charged", document="fee", reference="payout", after=4_001, amount="fee_minor"),
        _card_rows(refunded, "refund_approved", document="re", after=5_000, amount="refund_minor"),
        _card_rows(refunded, "refund_paid", "re", "payout", after=6_000, amount="refund_minor"),
        _card_rows(payouts, "payout_paid", document="payout", after=6_500),
        _card_rows(payouts, "deposit_received", document="dep", reference="payout", after=12_000),
    ]
    return pl.concat(steps)


def _payments(random: np.random.Generator, payments: int, span: int) -> pl.DataFrame:
    facility = np.minimum((random.random(payments) ** 2 * FACILITIES).astype(np.int64), FACILITIES - 1)
    amount = random.integers(1_500, 90_000, payments)
    frame = pl.DataFrame(
        {
            "number": np.arange(payments),
            "entity_no": facility % ENTITIES,
            "facility_no": facility,
            "account_no": (random.random(payments) ** 3 * ACCOUNTS).astype(np.int64),
            "amount_minor": amount,
            "fee_minor": amount * 29 // 1000 + 30,
            "refund_minor": amount // 4,
            "at": np.sort(random.random(payments)) * span,
        }
    )
    payout_of_entity = pl.int_range(pl.len()).over("entity_no") // PAYMENTS_PER_PAYOUT
    payout = pl.format("po-{}-{}", pl.col("entity_no"), payout_of_entity)
    return frame.with_columns(_marked(payout).alias("payout"), *(_numbered(name) for name in ("au", "ca", "fee", "re")))


def _numbered(name: str) -> pl.Expr:
    return _marked(pl.format(name + "-{}", "number")).alias(name)


def _marked(text: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit(MARK), text)


def _payouts(paid: pl.DataFrame, refunded: pl.DataFrame) -> pl.DataFrame:
    """What each payout announces: its settlements less fees and refunds."""
    refunds = refunded.group_by("payout").agg(pl.col("refund_minor").sum())
    return (
        paid.group_by("payout", maintain_order=True)
        .agg(pl.col("entity_no").first(), pl.col("amount_minor").sum(), pl.col("fee_minor").sum(), pl.col("at").max())
        .join(refunds, on="payout", how="left")
        .with_columns(
            pl.col("amount_minor") - pl.col("fee_minor") - pl.col("refund_minor").fill_null(0),
            pl.concat_str("payout", pl.lit("-dep")).alias("dep"),
            pl.lit(None, pl.Int64()).alias("facility_no"),
            pl.lit(None, pl.Int64()).alias("account_no"),
        )
    )


def _card_rows(
    rows: pl.DataFrame,
    kind: str,
    document: str,
    reference: str | None = None,
    *,
    after: int = 0,
    amount: str = "amount_minor",
) -> pl.DataFrame:
    """One event of this kind for each row, `after` so many events of the month."""
    occurred_at, effective_on = _entered(pl.col("at") / rows["at"].max(), pl.lit(0))
    given = {
        "event_id": pl.concat_str(document, pl.lit(f"-{kind}")),
        "source": pl.lit("card"),
        "kind": pl.lit(kind),
        "entity": pl.format("entity-{}", pl.col("entity_no").cast(pl.String()).str.zfill(2)),
        "facility": pl.format("facility-{}", pl.col("facility_no").cast(pl.String()).str.zfill(3)),
        "account": pl.format("acct-{}", pl.col("account_no").cast(pl.String()).str.zfill(8)),
        "document": pl.col(document),
        "reference": pl.col(reference) if reference else pl.lit(None),
        "amount_minor": pl.col(amount),
        "currency": pl.lit(CURRENCY),
        "occurred_at": occurred_at,
        "effective_on": effective_on,
        "schema_version": pl.lit(SCHEMA_VERSION),
    }
    columns = [given.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in COLUMNS.items()]
    return rows.select(*columns, (pl.col("at") + after).alias("at"))


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
        card_percent=percent(rows["source"] == "card"),
        repeat_percent=percent(whole["again"] == 1),
        conflict_percent=percent(whole["again"] == 2),
        late_percent=percent(whole["late"]),
        unmapped_percent=percent(rows["department"] == UNMAPPED_UNIT),
        hottest_facility_percent=percent(rows["facility"] == rows["facility"].drop_nulls().mode()[0]),
    )
