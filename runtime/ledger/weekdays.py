"""Business days: days without Saturdays and Sundays, in UTC. Holidays count as days: each house has others.

Owns counting them between dates, and the time that passes on them. Reads no clock.
"""

from datetime import date, timedelta

import numpy as np

DAY_MS = 86_400_000
_WEEK_MS, _WORK_MS = 7 * DAY_MS, 5 * DAY_MS
_MONDAY_MS = 3 * DAY_MS  # the epoch is a Thursday: so much after a Monday
_DAYS_MAX = 366


def business_days(one: date, other: date) -> int:
    """Weekdays after the earlier date, up to the later one; no further than a year is counted."""
    first, days = min(one, other), abs((one - other).days)
    return sum((first + timedelta(days=n)).weekday() < 5 for n in range(1, min(days, _DAYS_MAX) + 1))


def business_ms(since_ms: int | np.ndarray, now_ms: int) -> int | np.ndarray:
    """The milliseconds between two instants that do not fall on a Saturday or Sunday; of many instants at once, too."""
    return _worked_ms(now_ms) - _worked_ms(since_ms)


def business_later(at_ms: int, days: int) -> int:
    """The last instant until which so many business days have passed: on a Friday's end, Monday's beginning."""
    weeks, rest_ms = divmod(_worked_ms(at_ms) + days * DAY_MS, _WORK_MS)
    return int(weeks * _WEEK_MS + rest_ms - _MONDAY_MS)


def business_earlier(at_ms: int, days: int) -> int:
    """The first instant from which on no more than so many business days have passed until then."""
    weeks, rest_ms = divmod(_worked_ms(at_ms) - days * DAY_MS - 1, _WORK_MS)
    return int(weeks * _WEEK_MS + rest_ms + 1 - _MONDAY_MS)


def _worked_ms(at_ms: int | np.ndarray) -> int | np.ndarray:
    """Of all time since a Monday long ago, what was on weekdays."""
    weeks, rest_ms = divmod(at_ms + _MONDAY_MS, _WEEK_MS)
    return weeks * _WORK_MS + np.minimum(rest_ms, _WORK_MS)
