"""Business days: counted between dates, and as time that passes."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from runtime.ledger.weekdays import DAY_MS, business_days, business_ms

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("one", "other", "days"),
    [
        (date(2026, 9, 18), date(2026, 9, 21), 1),
        (date(2026, 9, 21), date(2026, 9, 18), 1),
        (date(2026, 9, 19), date(2026, 9, 20), 0),
        (date(2026, 9, 21), date(2026, 9, 21), 0),
        (date(2026, 9, 15), date(2026, 9, 21), 4),
        (date(1900, 1, 1), date(2026, 9, 21), 262),
    ],
)
def test_business_days_are_weekdays_between_two_dates(one, other, days):
    """Weekends do not count, order does not matter, and far apart is counted no further than a year."""
    assert business_days(one, other) == days


def at(text: str) -> int:
    """An instant in milliseconds UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("since", "now", "hours"),
    [
        ("2026-09-18T12:00", "2026-09-21T12:00", 24),
        ("2026-09-18T12:00", "2026-09-19T12:00", 12),
        ("2026-09-19T01:00", "2026-09-20T23:00", 0),
        ("2026-09-20T23:00", "2026-09-21T01:00", 1),
        ("2026-09-21T08:00", "2026-09-23T09:00", 49),
        ("2026-09-14T00:00", "2026-09-28T00:00", 240),
    ],
)
def test_business_time_stands_still_at_weekends(since, now, hours):
    """Saturdays and Sundays add nothing, whole or in part."""
    assert business_ms(at(since), at(now)) == hours * HOUR_MS


def test_business_time_of_many_instants_is_that_of_each():
    """Hour by hour over three weeks, a column and single instants agree with counting the hours on weekdays."""
    start, now_ms = datetime(2026, 8, 31, tzinfo=UTC), at("2026-09-21T00:00")
    hours = [start + timedelta(hours=n) for n in range(21 * 24)]
    since = np.array([int(hour.timestamp() * 1000) for hour in hours])
    counted = [sum(later.weekday() < 5 for later in hours[n:]) for n in range(len(hours))]
    assert (business_ms(since, now_ms) // HOUR_MS).tolist() == counted
    assert [int(business_ms(one, now_ms)) // HOUR_MS for one in since.tolist()] == counted
    assert business_ms(since, now_ms)[0] == 15 * DAY_MS
