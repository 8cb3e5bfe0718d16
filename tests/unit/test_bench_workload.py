"""The workload of the benchmarks: its shares, its determinism, and that its flows can be finished."""

import polars as pl
import pytest

from benchmarks import prepared, workload
from runtime.effects import EXCEPTIONS

EVENTS = 60_000
# What the mix means to go wrong, and invoices that pass their late receipts.
INTENDED = {
    "mapping_missing",
    "event_conflict",
    "remit_conflict",
    "denial",
    "match_failed_price",
    "match_failed_receipt",
    "duplicate_invoice_review",
}


@pytest.fixture(scope="module")
def load() -> workload.Workload:
    """One month end, drawn once."""
    return workload.month_end(EVENTS, seed=3)


def test_the_shares_are_those_that_are_stated(load):
    """The composition that is printed with every result is the one that is asked for."""
    mix = load.composition
    assert (mix.card_percent, mix.remittance_percent, mix.purchasing_percent) == pytest.approx((5, 6, 1), abs=0.3)
    assert (mix.repeat_percent, mix.conflict_percent) == pytest.approx((1, 0.1), abs=0.02)
    assert (mix.late_percent, mix.unmapped_percent) == pytest.approx((2, 0.45), abs=0.2)
    assert (mix.entities, mix.facilities) == (10, 200)


def test_the_same_seed_gives_the_same_rows(load):
    """Two commits are measured with the same events."""
    assert workload.month_end(EVENTS, seed=3).rows.equals(load.rows)


def test_the_older_mix_has_no_remittances(load):
    """What was measured before the other flows can still be measured."""
    older = workload.month_end(EVENTS, seed=3, mix="billing_and_cards").composition
    assert older.remittance_percent == older.purchasing_percent == 0
    assert older.kinds < load.composition.kinds


def test_every_row_is_one_that_a_gateway_takes(load):
    """Nothing of the mix is rejected, so that what is measured is work and not refusal."""
    assert len(prepared.stamped(load.rows, workload.configuration())) == len(load.rows)


def test_flows_go_wrong_only_where_they_are_meant_to(load):
    """Payouts, remittances and invoices tie: all exceptions are of the intended types, and few rows wait at the end."""
    config = workload.configuration()
    engine = prepared.engine(config)
    records = prepared.records(prepared.stamped(load.rows, config), 8_192)
    effects = [engine.step([record]) for record in records]
    raised = pl.concat([one.exceptions for one in effects])
    assert set(raised.columns) == set(EXCEPTIONS)
    assert set(raised["type"]) <= INTENDED
    assert effects[-1].counts.waiting < 0.1 * EVENTS
