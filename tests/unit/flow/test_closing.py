"""A period close: the forecast, its blockers, and the times that people give."""

from datetime import UTC, date, datetime

import pytest

from runtime.errors import ConfigError
from runtime.flow.closing import Pace, due_at, first_day_after, forecast
from runtime.ports import PeriodClose, PeriodLeft

NOW_MS = round(datetime(2026, 11, 3, 12, 0, tzinfo=UTC).timestamp() * 1000)
CLOSE = PeriodClose("mercy", "2026-10", NOW_MS + 600_000, "ana")
SLOW = Pace(calls_per_minute=6, call_entries_max=50, health="healthy", known=True)


def test_forecast_counts_every_set_as_an_entry_and_every_entry_at_the_present_pace() -> None:
    """The forecast promises the worst: what may still fold is not counted on."""
    found = forecast(CLOSE, PeriodLeft(420, {"sealed": 60, "in_flight": 20}), SLOW, NOW_MS, {})
    assert (found.calls_left, found.drain_s, found.done_ms) == (10, 100.0, NOW_MS + 100_000)
    assert found.in_time and not found.done and found.blockers == []


def test_forecast_says_when_it_will_be_late() -> None:
    """A due time that the ERP's pace can't meet is known before it has passed."""
    assert not forecast(CLOSE, PeriodLeft(3_100, {}), SLOW, NOW_MS, {}).in_time


def test_forecast_adds_the_pause_that_an_erp_asked_for() -> None:
    """While the governor waits, nothing drains."""
    paused = Pace(60, 50, "backing_off", NOW_MS + 30_000, known=True)
    assert forecast(CLOSE, PeriodLeft(50, {}), paused, NOW_MS, {}).drain_s == 31.0


def test_forecast_goes_by_what_calls_take_and_waits_for_what_settles() -> None:
    """An ERP that needs two seconds a call takes no more than thirty a minute, whatever it would be allowed."""
    slow = Pace(600, 50, known=True, concurrency=1, call_s=2.0, settle_s=300.0)
    found = forecast(CLOSE, PeriodLeft(450, {"sealed": 50}), slow, NOW_MS, {})
    assert (found.calls_left, found.calls_per_minute, found.drain_s) == (10, 30.0, 20.0)
    assert forecast(CLOSE, PeriodLeft(0, {"unknown": 1}), slow, NOW_MS, {}).drain_s == 302.0


def test_forecast_counts_lines_where_they_fill_calls_before_entries_do() -> None:
    """Entries of many lines go few in a call."""
    pace = Pace(60, 50, known=True, call_lines_max=400)
    assert forecast(CLOSE, PeriodLeft(10, {"sealed": 10}, lines=2_000), pace, NOW_MS, {}).calls_left == 5
    assert forecast(CLOSE, PeriodLeft(90, {"sealed": 10}, lines=200), pace, NOW_MS, {}).calls_left == 2


def test_forecast_at_an_erp_that_refuses_our_login_is_not_in_time() -> None:
    """Nothing drains before somebody mends the password, and the forecast says so; nothing left needs no login."""
    refused = Pace(60, 50, "unauthorised", known=True)
    found = forecast(CLOSE, PeriodLeft(1, {}), refused, NOW_MS, {})
    assert not found.in_time and [each.what for each in found.blockers] == ["the ERP refuses our credentials"]
    assert forecast(CLOSE, PeriodLeft(0, {}), refused, NOW_MS, {}).in_time


def test_forecast_of_stuck_entries_names_them_and_is_not_in_time() -> None:
    """A rejected or parked entry does not end by itself, so it refuses the close; other open issues only warn."""
    found = forecast(CLOSE, PeriodLeft(0, {"rejected": 2, "parked": 1}), SLOW, NOW_MS, {"waiting events": 3, "x": 0})
    blockers = [(each.what, each.count, each.refuses) for each in found.blockers]
    assert blockers == [("entries rejected", 2, True), ("entries parked", 1, True), ("waiting events", 3, False)]
    assert not found.in_time and found.calls_left == 0


def test_forecast_of_nothing_left_is_done() -> None:
    """With everything posted there is nothing to wait for."""
    found = forecast(CLOSE, PeriodLeft(0, {}), SLOW, NOW_MS, {})
    assert found.done and found.in_time and found.drain_s == 0


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ("17:00", datetime(2026, 11, 3, 17, 0, tzinfo=UTC)),
        ("09:30", datetime(2026, 11, 4, 9, 30, tzinfo=UTC)),
        ("2026-11-05T08:00", datetime(2026, 11, 5, 8, 0, tzinfo=UTC)),
        ("2026-11-05T08:00+02:00", datetime(2026, 11, 5, 6, 0, tzinfo=UTC)),
    ],
)
def test_due_at_reads_times_and_instants(given: str, due: datetime) -> None:
    """A bare time is the next one."""
    assert due_at(given, NOW_MS) == round(due.timestamp() * 1000)


@pytest.mark.parametrize("given", ["5 pm", "25:00", "2026-13-01T00:00", ""])
def test_due_at_refuses_what_is_no_time(given: str) -> None:
    """The error names the option and shows what it takes."""
    with pytest.raises(ConfigError, match="--by"):
        due_at(given, NOW_MS)


def test_first_day_after_a_period_is_the_next_months() -> None:
    """Also over the end of a year."""
    assert first_day_after("2026-10") == date(2026, 11, 1)
    assert first_day_after("2026-12") == date(2027, 1, 1)
    with pytest.raises(ConfigError, match="--period"):
        first_day_after("October")
