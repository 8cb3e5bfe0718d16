"""How old an exception is, and whether it is in time: computed whenever it is read, stored nowhere.

Owns due times and the buckets of age. Reads no clock: `now_ms` is an argument. Instants are milliseconds UTC.
"""

from typing import Literal, NamedTuple

from runtime.ledger.rules import ExceptionType
from runtime.ledger.weekdays import business_earlier, business_later

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

BUCKETS = ("0-3", "4-7", "8-15", "16-30", "31-60", ">60")  # whole days since it was raised
_BUCKET_DAYS = (4, 8, 16, 31, 61)  # where each bucket but the first begins


class Ageing(NamedTuple):
    """An exception's age, when it must have ended, and how it stands to what its type asks for."""

    age_ms: int
    due_at_ms: int
    standing: Literal["in time", "triage overdue", "overdue"]


def ageing(raised_at_ms: int, now_ms: int, rule: ExceptionType) -> Ageing:
    """How an exception of this type that was raised then stands now."""
    triage_at_ms = _later(raised_at_ms, rule.triage_h, rule.triage_days)
    due_at_ms = _later(raised_at_ms, rule.resolve_h, rule.resolve_days)
    if now_ms > due_at_ms:
        return Ageing(now_ms - raised_at_ms, due_at_ms, "overdue")
    return Ageing(now_ms - raised_at_ms, due_at_ms, "triage overdue" if now_ms > triage_at_ms else "in time")


def bucket_edges(now_ms: int) -> tuple[int, ...]:
    """The instants at which the buckets begin; what was raised at or before n of them belongs to bucket n."""
    return tuple(now_ms - days * DAY_MS for days in _BUCKET_DAYS)


def overdue_before(now_ms: int, rule: ExceptionType) -> int:
    """What was raised before this instant is overdue now."""
    return business_earlier(now_ms, rule.resolve_days) if rule.resolve_days else now_ms - rule.resolve_h * HOUR_MS


def _later(at_ms: int, hours: float, days: int) -> int:
    return business_later(at_ms, days) if days else at_ms + round(hours * HOUR_MS)
