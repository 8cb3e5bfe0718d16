"""How a period close stands: what is left, how long the ERP needs for it at its pace, and what is in the way.

Owns the forecast. Nothing folds any more in it, what is in doubt settles first, and the pace stays as it is. Stores
nothing, reads no clock, and closes nothing: the books refuse to declare a period while anything of it is unposted.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import msgspec

from runtime.errors import ConfigError
from runtime.ports import PeriodClose, PeriodLeft

_PERIOD = re.compile(r"\d{4}-\d\d", re.ASCII)

MOVING = ("sealed", "in_flight", "unknown")  # entry states that end by themselves
STUCK = ("rejected", "parked")  # those that need somebody


class Pace(msgspec.Struct, frozen=True):
    """What the ERP takes now: calls as its governor lets them start, `concurrency` at a time, of `call_s` each (0: not
    known), and how long a lost answer settles. `known`: its poster said so; else it is what is configured."""

    calls_per_minute: float
    call_entries_max: int
    health: str = "unknown"
    paused_until_ms: int = 0
    known: bool = False
    concurrency: int = 1
    call_s: float = 0.0
    settle_s: float = 0.0
    call_lines_max: int = 0  # 0: not known

    def attained_per_minute(self) -> float:
        """Calls a minute that both the governor and the time that a call takes allow."""
        return min(self.calls_per_minute, self.concurrency * 60 / self.call_s if self.call_s else math.inf)


class Blocker(msgspec.Struct, frozen=True):
    """Something that somebody must look at. `refuses`: the period can't be declared closed before."""

    what: str
    count: int
    refuses: bool


class Forecast(msgspec.Struct, frozen=True):
    """How a close stands. `drain_s` and `done_ms` are of what moves by itself; what is stuck is not in them."""

    entity: str
    period: str
    due_ms: int
    state: str
    sets_unclaimed: int
    entries_moving: int
    entries_stuck: int
    calls_left: int
    calls_per_minute: float
    erp_health: str
    pace_known: bool
    drain_s: float
    done_ms: int
    in_time: bool
    done: bool
    blockers: list[Blocker]


def forecast(close: PeriodClose, left: PeriodLeft, pace: Pace, now_ms: int, open_issues: Mapping[str, int]) -> Forecast:
    """The forecast of a close. `open_issues`: open exceptions of the entity by type, and "waiting items"."""
    moving = sum(left.entries.get(state, 0) for state in MOVING)
    stuck = {state: left.entries[state] for state in STUCK if left.entries.get(state)}
    by_lines = left.lines / pace.call_lines_max if pace.call_lines_max else 0.0
    calls = math.ceil(max((moving + left.sets) / pace.call_entries_max, by_lines))
    paused_s = max(0, pace.paused_until_ms - now_ms) / 1000 if calls else 0.0
    settling_s = pace.settle_s if left.entries.get("unknown") else 0.0
    drain_s = max(paused_s, settling_s) + calls * 60 / pace.attained_per_minute()
    locked_out = calls > 0 and pace.health == "unauthorised"
    done_ms = now_ms + math.ceil(drain_s * 1000)
    blockers = [Blocker(f"entries {state}", count, refuses=True) for state, count in stuck.items()]
    blockers += [Blocker("the ERP refuses our credentials", 1, refuses=False)] if locked_out else []
    blockers += [Blocker(what, count, refuses=False) for what, count in sorted(open_issues.items()) if count]
    return Forecast(
        entity=close.entity,
        period=close.period,
        due_ms=close.due_ms,
        state=close.state,
        sets_unclaimed=left.sets,
        entries_moving=moving,
        entries_stuck=sum(stuck.values()),
        calls_left=calls,
        calls_per_minute=round(pace.attained_per_minute(), 1),
        erp_health=pace.health,
        pace_known=pace.known,
        drain_s=round(drain_s, 1),
        done_ms=done_ms,
        in_time=not stuck and not locked_out and done_ms <= close.due_ms,
        done=left.nothing,
        blockers=blockers,
    )


def first_day_of(period: str) -> date:
    """The day on which it begins. ConfigError when `period` is none: of 2026-9 nothing would be left."""
    try:
        return date.fromisoformat(f"{period}-01" if _PERIOD.fullmatch(period) else "")
    except ValueError:
        raise ConfigError(f"--period: {period!r} is no month (2026-10)") from None


def first_day_after(period: str) -> date:
    """The day on which the next period begins. ConfigError when `period` is none."""
    first = first_day_of(period)
    return (first + timedelta(days=32)).replace(day=1)


def due_at(text: str, now_ms: int) -> int:
    """A time of today (17:00, UTC; of tomorrow once it is past) or an instant (2026-11-03T17:00). ConfigError."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    try:
        if "T" in text:
            given = datetime.fromisoformat(text)
            instant = given if given.tzinfo else given.replace(tzinfo=UTC)
        else:
            clock = datetime.strptime(text, "%H:%M")
            instant = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
            instant += timedelta(days=int(instant <= now))
    except ValueError:
        raise ConfigError(f"--by: {text!r} is neither a time (17:00) nor an instant (2026-11-03T17:00)") from None
    return round(instant.timestamp() * 1000)
