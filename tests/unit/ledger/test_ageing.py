"""How old exceptions are and how they stand, at the very instants where that changes."""

from datetime import UTC, datetime

import pytest

from runtime.ledger.ageing import BUCKETS, DAY_MS, HOUR_MS, ageing, bucket_edges, overdue_before
from runtime.ledger.rules import ExceptionType

RULE = ExceptionType(owner="revenue_cycle", severity="high", triage_h=4, resolve_h=24, action="none")
RAISED_MS = 1_790_000_000_000


@pytest.mark.parametrize(
    ("age_ms", "standing"),
    [
        (0, "in time"),
        (4 * HOUR_MS, "in time"),
        (4 * HOUR_MS + 1, "triage overdue"),
        (24 * HOUR_MS, "triage overdue"),
        (24 * HOUR_MS + 1, "overdue"),
    ],
)
def test_standing_changes_just_after_each_target(age_ms, standing):
    """An exception is in time up to and at its target, and overdue after it; the list of overdue ones agrees."""
    now_ms = RAISED_MS + age_ms
    assert ageing(RAISED_MS, now_ms, RULE) == (age_ms, RAISED_MS + 24 * HOUR_MS, standing)
    assert (overdue_before(now_ms, RULE) > RAISED_MS) == (standing == "overdue")


@pytest.mark.parametrize(
    ("days", "bucket"),
    [
        (0, "0-3"),
        (3, "0-3"),
        (4, "4-7"),
        (7, "4-7"),
        (8, "8-15"),
        (16, "16-30"),
        (31, "31-60"),
        (60, "31-60"),
        (61, ">60"),
    ],
)
def test_bucket_counts_whole_days(days, bucket):
    """An age belongs to the bucket of its whole days, up to the last millisecond of the last day."""
    edges = bucket_edges(RAISED_MS + days * DAY_MS)
    assert BUCKETS[sum(edge >= RAISED_MS for edge in edges)] == bucket
    late = bucket_edges(RAISED_MS + (days + 1) * DAY_MS - 1)
    assert BUCKETS[sum(edge >= RAISED_MS for edge in late)] == bucket


WEEKLY = ExceptionType(owner="revenue_cycle", severity="high", triage_h=4, resolve_days=1, action="none")


@pytest.mark.parametrize(
    ("raised", "due"),
    [
        ("2026-09-16T10:00", "2026-09-17T10:00"),
        ("2026-09-18T16:00", "2026-09-21T16:00"),
        ("2026-09-19T03:00", "2026-09-22T00:00"),
        ("2026-09-20T23:00", "2026-09-22T00:00"),
        ("2026-09-17T00:00", "2026-09-18T00:00"),
    ],
    ids=["midweek", "Friday", "Saturday", "Sunday", "midnight"],
)
def test_due_time_in_business_days_stands_still_at_weekends(raised, due):
    """One business day after a Friday afternoon is Monday afternoon; the list of overdue ones agrees to the instant."""
    raised_ms, due_ms = (
        round(datetime.fromisoformat(one).replace(tzinfo=UTC).timestamp() * 1000) for one in (raised, due)
    )
    assert ageing(raised_ms, raised_ms, WEEKLY).due_at_ms == due_ms
    for now_ms in (due_ms - 1, due_ms, due_ms + 1):
        standing = ageing(raised_ms, now_ms, WEEKLY).standing
        assert (standing == "overdue") == (now_ms > due_ms) == (overdue_before(now_ms, WEEKLY) > raised_ms)
