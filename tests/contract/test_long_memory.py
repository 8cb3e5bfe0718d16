"""A repeat a year later is a repeat: the memory of ids outlives windows, checkpoints, merged archives and processes."""

from pathlib import Path

import polars as pl
import pytest
from books_builders import Data
from recorded import Recorded, filled
from small_log import NOW_MS, control, event, events

from actors.cli.verification import verify

YEAR_S = 366 * 24 * 3600.0


@pytest.fixture
def recorded(sql_data: Data, tmp_path: Path) -> Recorded:
    return filled(sql_data.url, tmp_path / "archive")


def counts(recorded: Recorded) -> dict[str, int]:
    """Events by state."""
    totals = recorded.worker()._books.totals()
    return dict(totals.group_by("state").agg(pl.col("events").sum()).iter_rows())


def after_a_year(recorded: Recorded) -> None:
    """A year of ticks, one a month, each of them checkpointed, so that every segment and snapshot is replaced."""
    for month in range(1, 13):
        recorded.clock.sleep(YEAR_S / 12)
        now_ms = NOW_MS + round(month * YEAR_S / 12 * 1000)
        recorded.append(*(control(shard, {"type": "tick", "now_ms": now_ms}) for shard in (0, 1)))
        recorded.work(steps=3)


def test_repeat_after_a_year_is_counted_and_changes_nothing(recorded: Recorded) -> None:
    """Every event that is sent again after a year, to a process that never saw it, is a duplicate; books stay."""
    after_a_year(recorded)
    before, books = counts(recorded), recorded.worker()._books.balances().rows()
    again = [event(f"c{i}", "charge_posted", 100 + i) for i in range(6)]
    recorded.append(events(0, *again), events(1, event("w9", "payment_received", 20, facility="west")))

    recorded.work()

    after = counts(recorded)
    assert after["duplicate"] == before["duplicate"] + 7
    assert after["accepted"] == before["accepted"]
    assert recorded.worker()._books.balances().rows() == books
    assert verify(recorded.sources(), recorded.erp).right


def test_other_content_under_a_year_old_id_is_a_conflict(recorded: Recorded) -> None:
    """An id that comes again after a year with another amount is held as a conflict, and never booked."""
    after_a_year(recorded)
    before = counts(recorded)
    recorded.append(events(0, event("c5", "charge_posted", 5_000)))

    recorded.work()

    after = counts(recorded)
    assert after["accepted"] == before["accepted"] + 1 and after["booked"] == before["booked"]
    conflicts = recorded.worker()._books.exceptions(types=["event_conflict"])
    assert "c5" in conflicts["event_id"].to_list()
