"""A seeded month of hospitals' billing: made up, shaped like the real thing, the same bytes for the same seed.

Charges come in the proportions, skews and weekly rhythm of patient accounting; every other row (reversal, adjustment,
payment, transfer) answers an earlier charge. Owns its own control total, summed from the drawn numbers and not from the
frames. Never repeats an event id within a month.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from adapters.sources.source import ControlTotal, KindTotal, Tally, canonical
from runtime.schema import SCHEMA_VERSION, UTC_MS

BLOCK_ROWS = 50_000
DEFAULT_EVENTS = 300_000
TRIAL_UNIT = "trial-unit"  # a department that the demonstration's mapping does not know yet
TRIAL_UNIT_EVENTS = 20  # adjustments in it, all of the last hospital
TRIAL_UNIT_MAPPING = {"entity": "lakeside", "role": "CONTRACTUAL", "account": "4120", "department": TRIAL_UNIT}
DEPARTMENTS = (
    ("emergency", 0.24, 900),
    ("laboratory", 0.20, 85),
    ("imaging", 0.14, 620),
    ("surgery", 0.11, 5200),
    ("inpatient", 0.10, 3400),
    ("pharmacy", 0.09, 140),
    ("cardiology", 0.05, 1900),
    ("oncology", 0.04, 2800),
    ("rehabilitation", 0.03, 210),
)  # name, share of the charges, median price in currency units
KINDS = (
    ("charge_posted", 0.66),
    ("charge_reversed", 0.02),
    ("adjustment_posted", 0.13),
    ("payment_received", 0.15),
    ("responsibility_transferred", 0.04),
)
CHARGE, REVERSAL, ADJUSTMENT, PAYMENT, TRANSFER = range(len(KINDS))

_PAYERS = ("", "medicare", "medicaid", "blue-plan", "health-first")  # the first is the patient
_PAYER_SHARES = (0.08, 0.31, 0.19, 0.27, 0.15)
_REASONS = {
    ADJUSTMENT: ("CO-45", "CO-97", "PI-204", "OA-23"),
    PAYMENT: ("eft", "check", "card", "cash"),
    TRANSFER: ("PR-1", "PR-2", "PR-3"),
}
_REASON_TABLE = [None, *(reason for reasons in _REASONS.values() for reason in reasons)]
_AMOUNT_MINOR_MAX = 90_000_000
_WEEKDAY_WEIGHT = 2.4  # a weekday's activity for each weekend day's


class Hospital(NamedTuple):
    """A facility that bills, the entity that owns it, and its currency."""

    entity: str
    facility: str
    currency: str


DEMO_HOSPITALS = (
    Hospital("mercy", "mercy-general", "USD"),
    Hospital("mercy", "mercy-west", "USD"),
    Hospital("lakeside", "lakeside-main", "USD"),
)


class _Draws(NamedTuple):
    """A block's numbers, row by row: indexes into the tables above, and amounts in minor units."""

    kind: np.ndarray
    parent: np.ndarray  # the row of the charge that this row answers; its own for a charge
    hospital: np.ndarray
    department: np.ndarray
    payer: np.ndarray
    reason: np.ndarray
    account: np.ndarray
    amount_minor: np.ndarray


class BillingMonth:
    """The month as a source. Blocks of rows have their own seeds, so each can be made alone."""

    def __init__(self, seed: int, month: str, events: int, hospitals: Sequence[Hospital]) -> None:
        self._seed, self._events = seed, events
        self._hospitals = hospitals
        self._edges_ms, self._shares = _activity(date.fromisoformat(f"{month}-01"))
        self._tally = Tally()

    def frames(self) -> Iterator[pl.DataFrame]:
        """Canonical frames of at most BLOCK_ROWS rows, in order of time."""
        self._tally = Tally()
        for block, start in enumerate(range(0, self._events, BLOCK_ROWS)):
            draws = _draw(np.random.default_rng([self._seed, block]), self._rows_at(start), self._hospitals)
            if block == 0:
                _move_to_trial_unit(draws, len(self._hospitals) - 1)
            self._add(draws)
            yield self._frame(draws, start)

    def total(self) -> ControlTotal:
        """The biller's own sums of what has been made; whole once `frames` has ended."""
        return self._tally.total()

    def _rows_at(self, start: int) -> int:
        return min(BLOCK_ROWS, self._events - start)

    def _add(self, draws: _Draws) -> None:
        cells = draws.hospital * len(KINDS) + draws.kind
        shape = len(self._hospitals) * len(KINDS)
        sums = np.zeros((2, shape), dtype=np.int64)
        np.add.at(sums[0], cells, draws.amount_minor)
        np.add.at(sums[1], cells, np.abs(draws.amount_minor))
        for cell, events in enumerate(np.bincount(cells, minlength=shape)):
            if events:
                hospital = self._hospitals[cell // len(KINDS)]
                key = (hospital.entity, hospital.currency, KINDS[cell % len(KINDS)][0])
                self._tally.add_sum(key, KindTotal(int(events), *map(int, sums[:, cell])))

    def _frame(self, draws: _Draws, start: int) -> pl.DataFrame:
        names = _event_ids(start + np.arange(len(draws.kind)) + 1)
        charge = names.gather(draws.parent)
        is_charge = pl.Series(draws.kind == CHARGE)
        return canonical(
            pl.DataFrame({"event_id": names, "charge": charge, "is_charge": is_charge}),
            event_id=pl.col("event_id"),
            source=pl.lit("billing"),
            kind=_lookup([name for name, _ in KINDS], draws.kind),
            entity=_lookup([hospital.entity for hospital in self._hospitals], draws.hospital),
            facility=_lookup([hospital.facility for hospital in self._hospitals], draws.hospital),
            account=pl.lit(pl.Series(draws.account)).cast(pl.String()).str.zfill(8).str.replace("^", "acct-"),
            document=pl.col("event_id"),
            reference=pl.when(~pl.col("is_charge")).then(pl.col("charge")),
            counterparty=_lookup([name or None for name in _PAYERS], draws.payer),
            department=_lookup([name for name, *_ in DEPARTMENTS] + [TRIAL_UNIT], draws.department),
            reason=_lookup(_REASON_TABLE, draws.reason),
            amount_minor=pl.lit(pl.Series(draws.amount_minor)),
            currency=_lookup([hospital.currency for hospital in self._hospitals], draws.hospital),
            quantity=pl.when(pl.col("is_charge")).then(1000),
            occurred_at=pl.lit(pl.Series(self._instants_ms(start, len(draws.kind)))).cast(UTC_MS),
            schema_version=pl.lit(SCHEMA_VERSION),
        ).with_columns(pl.col("occurred_at").dt.date().alias("effective_on"))

    def _instants_ms(self, start: int, rows: int) -> np.ndarray:
        passed = (start + np.arange(rows) + 0.5) / self._events
        return np.interp(passed, self._shares, self._edges_ms).astype(np.int64)


def billing_month(
    seed: int,
    month: str = "2026-10",
    events: int = DEFAULT_EVENTS,
    hospitals: Sequence[tuple[str, str, str]] = DEMO_HOSPITALS,
) -> BillingMonth:
    """A month of billing of these hospitals (entity, facility, currency); the first is the busiest."""
    return BillingMonth(seed, month, events, [Hospital(*hospital) for hospital in hospitals])


def _activity(first: date) -> tuple[np.ndarray, np.ndarray]:
    """Midnights of the month in milliseconds, and the share of its activity before each of them."""
    following = (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    days = [first + timedelta(days=i) for i in range((following - first).days + 1)]
    edges_ms = [int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000 for day in days]
    weights = [_WEEKDAY_WEIGHT if day.weekday() < 5 else 1.0 for day in days[:-1]]
    return np.array(edges_ms), np.concatenate([[0.0], np.cumsum(weights) / np.sum(weights)])


def _draw(random: np.random.Generator, rows: int, hospitals: Sequence[Hospital]) -> _Draws:
    kind = _choose(random, [share for _, share in KINDS], rows)
    parent = _answered_charges(random, kind)
    hospital = _choose(random, [1 / (rank + 1) for rank in range(len(hospitals))], rows)[parent]
    department = _choose(random, [share for _, share, _ in DEPARTMENTS], rows)[parent]
    payer = _choose(random, _PAYER_SHARES, rows)[parent]
    price = _prices_minor(random, department)[parent]
    paid_by_patient = (kind == PAYMENT) & (random.random(rows) < 0.3)
    return _Draws(
        kind=kind,
        parent=parent,
        hospital=hospital,
        department=department,
        payer=np.where(paid_by_patient, 0, payer),
        reason=_reasons(random, kind),
        account=random.integers(1, 2_000_000, rows)[parent],
        amount_minor=_amounts_minor(random, kind, price),
    )


def _choose(random: np.random.Generator, shares: Sequence[float], rows: int) -> np.ndarray:
    edges = np.cumsum(shares) / np.sum(shares)
    return np.minimum(np.searchsorted(edges, random.random(rows), side="right"), len(shares) - 1)


def _answered_charges(random: np.random.Generator, kind: np.ndarray) -> np.ndarray:
    """For each row the charge it answers. Rows without an earlier charge, and second reversals, become charges."""
    rows = np.arange(len(kind))
    charges = np.flatnonzero(kind == CHARGE)
    earlier = np.searchsorted(charges, rows)
    picked = (random.random(len(kind)) * earlier).astype(np.int64)
    parent = charges[np.minimum(picked, len(charges) - 1)] if len(charges) else rows
    reversals = np.flatnonzero(kind == REVERSAL)
    firsts = reversals[np.unique(parent[reversals], return_index=True)[1]]
    kind[np.setdiff1d(reversals, firsts)] = CHARGE
    kind[earlier == 0] = CHARGE
    return np.where(kind == CHARGE, rows, parent)


def _prices_minor(random: np.random.Generator, department: np.ndarray) -> np.ndarray:
    medians_minor = np.array([median * 100 for *_, median in DEPARTMENTS])[department]
    prices = (medians_minor * random.lognormal(0.0, 0.9, len(department))).astype(np.int64)
    return np.clip(prices, 100, _AMOUNT_MINOR_MAX)


def _amounts_minor(random: np.random.Generator, kind: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Charges and reversals are the price; the others a whole percentage of it, some adjustments and transfers back."""
    percent = np.full(len(kind), 100)
    for answering, low, high in ((ADJUSTMENT, 20, 65), (PAYMENT, 15, 60), (TRANSFER, 5, 25)):
        chosen = kind == answering
        percent[chosen] = random.integers(low, high, np.count_nonzero(chosen))
    backwards = np.isin(kind, (ADJUSTMENT, TRANSFER)) & (random.random(len(kind)) < 0.06)
    return np.where(backwards, -1, 1) * (price * percent // 100)


def _reasons(random: np.random.Generator, kind: np.ndarray) -> np.ndarray:
    """Indexes into the reason table; the first of a kind's reasons is the commonest."""
    reason = np.zeros(len(kind), dtype=np.int64)
    first = 1
    for answering, reasons in _REASONS.items():
        chosen = kind == answering
        shares = [1 / (rank + 1) for rank in range(len(reasons))]
        reason[chosen] = first + _choose(random, shares, np.count_nonzero(chosen))
        first += len(reasons)
    return reason


def _move_to_trial_unit(draws: _Draws, hospital: int) -> None:
    adjustments = np.flatnonzero((draws.kind == ADJUSTMENT) & (draws.hospital == hospital))
    draws.department[adjustments[:TRIAL_UNIT_EVENTS]] = len(DEPARTMENTS)


def _event_ids(numbers: np.ndarray) -> pl.Series:
    return pl.DataFrame({"number": numbers}).select(
        pl.format("bill-{}", pl.col("number").cast(pl.String()).str.zfill(6)).alias("event_id")
    )["event_id"]


def _lookup(names: Sequence[str | None], codes: np.ndarray) -> pl.Expr:
    return pl.lit(pl.Series(names, dtype=pl.String()).gather(codes))
