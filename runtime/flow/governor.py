"""How fast an ERP connection may be called now: rate, windows, concurrency, pauses, circuit.

Owns the one answer to "when may the next call start?", and all that a successor must know of it. A state machine: time
and jitter are arguments. Never calls anything, and never slows down for a business rejection: an ERP that says no is
healthy.
"""

import math
from typing import Literal, NamedTuple

import msgspec

from runtime.flow.outcomes import CALL_START_WITHIN_S
from runtime.flow.windows import NEVER_MS, CallWindow, WindowLimit
from runtime.ports import ErpTerms, OutcomeCode

SECOND_MS, MINUTE_MS, DAY_MS = 1_000, 60_000, 86_400_000
DECREASE = 0.7  # of the rate, at each sign of overload; calls that were under way together are one sign
RECOVERY_S = 30.0  # of answered calls, from nothing to the configured rate
RATE_FLOOR = 1 / 32  # of the configured rate: slow enough to relieve, fast enough to notice recovery
RATE_FLOOR_PER_MINUTE = 1.0  # however slow the configured rate is, or that rate itself
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 86_400.0  # daily quotas are real; anything longer is not believed
RETRIES_MAX = 10.0  # in hand; each setback spends one, and when there is none, the next call waits for one
RETRIES_EARNED = 0.1  # at each answered call
RETRY_EARNED_S = 6.0  # by time: an ERP that loses half of what it is asked is still asked ten times a minute
UNANSWERED_MAX = 5  # in a row: then the circuit opens
CIRCUIT_OPEN_S = 30.0
UNAUTHORISED_PAUSE_S = 300.0
UNAUTHORISED_RESTART_S = 10.0  # of that pause, for a new sender: it may have been started with a mended password
GHOST_S_MAX = 60.0  # how long a stopped sender's calls may still be under way
DAY_SHARE_FREE = 0.5  # of a day's calls, that may go at the full rate; the rest is spread evenly

# slowed: answering, below the configured rate; backing_off: the last call was throttled or not answered;
# half_open: the circuit's pause is over, and one probe decides
Health = Literal["healthy", "slowed", "backing_off", "circuit_open", "half_open", "unauthorised"]


class Quota(NamedTuple):
    """What an ERP bears: a pace, hard limits by window, and how many calls at once."""

    calls_per_minute: float
    windows: tuple[WindowLimit, ...] = ()
    concurrency: int = 1
    ghost_s: float = 0.0  # how long calls of a sender that was stopped may still be under way


class GovernorState(msgspec.Struct, frozen=True):
    """What status and metrics show. `paused_until_ms`: 0 when calls may start. `left`: calls that may start now, by
    window."""

    health: Health
    rate_per_minute: float
    concurrency: int
    in_flight: int
    paused_until_ms: int
    left: dict[str, int] = {}


class _Memory(msgspec.Struct):
    """What outlives an actor. Calls that are open here may or may not have reached the ERP."""

    rate_share: float = 1.0  # of the configured rate
    learned_ms: int = 0  # up to when the rate has taken in that calls are answered
    arrival_ms: float = 0.0  # when the next call is due by pace
    paused_until_ms: int = 0
    setbacks: int = 0  # calls in a row that called for backoff
    unanswered: int = 0  # calls in a row that had no usable answer
    unauthorised: bool = False
    silent_since_ms: int = 0  # the first of these setbacks; 0 while calls are answered
    retries: float = RETRIES_MAX
    retries_ms: int = 0  # up to when they were earned by time
    open: int = 0
    ended: dict[str, dict[int, int]] = {}
    told_ms: int = 0  # the newest instant that a call started or ended

    def set_back(self, ms: int) -> None:
        """Take every instant as so much earlier: the clock that they were read from was set back since."""
        for name in ("learned_ms", "arrival_ms", "paused_until_ms", "retries_ms", "told_ms"):
            setattr(self, name, getattr(self, name) - ms)
        if self.silent_since_ms:
            self.silent_since_ms -= ms


def quota_of(terms: ErpTerms, calls_per_minute: float) -> Quota:
    """The tighter of what the ERP states and what is configured. Stated limits count requests, of which one call may
    make several."""
    stated = {
        ("second", SECOND_MS): [terms.per_second],
        ("minute", MINUTE_MS): [terms.per_minute, math.floor(calls_per_minute) * terms.requests_max],
        ("day", DAY_MS): [terms.per_day],
    }
    windows = tuple(
        WindowLimit(name, length_ms, max(1, min(limits) // terms.requests_max))
        for (name, length_ms), given in stated.items()
        if (limits := [limit for limit in given if limit])
    )
    steady = [window.calls * MINUTE_MS / window.length_ms for window in windows if window.name != "day"]
    ghost_s = min(max(terms.settle_s, CALL_START_WITHIN_S), GHOST_S_MAX)
    return Quota(min([calls_per_minute, *steady]), windows, terms.concurrency, ghost_s)


class Governor:
    """Paces calls one after another at a rate that it learns, inside windows that it never exceeds.

    `throttled` and `unavailable` shrink rate and concurrency and pause with full-jitter backoff, unless the ERP names
    its own delay. The rate comes back with time, so however slow it was, soon after the last of them it is whole.
    `unknown` counts as unavailable: a lost answer is no sign of health. Several of these in a row open the circuit;
    then one probe at a time decides whether it closes. What `dump` gave before a call started knows of that call, so
    that a successor made from it never forgets one. A successor whose clock shows less than its predecessor's takes the
    time between them as none: a pause must not last for as long as a clock was ahead.
    """

    def __init__(self, quota: Quota, saved: str = "", now_ms: int = 0) -> None:
        self._quota = quota
        self._memory = msgspec.json.decode(saved, type=_Memory) if saved else _Memory()
        ahead_ms = max(0, self._memory.told_ms - now_ms)
        self._memory.set_back(ahead_ms)
        ended = self._memory.ended
        self._windows = [CallWindow(limit, ended.get(limit.name), ahead_ms) for limit in quota.windows]
        self._ghosts, self._memory.open = self._memory.open, 0  # of a stopped sender; they will have ended by then:
        self._ghosts_until_ms = now_ms + math.ceil(quota.ghost_s * 1000)
        if self._memory.unauthorised:
            soon_ms = now_ms + round(UNAUTHORISED_RESTART_S * 1000)
            self._memory.paused_until_ms = min(self._memory.paused_until_ms, soon_ms)
        for window in self._windows if self._ghosts else ():
            window.end(self._ghosts_until_ms, self._ghosts)

    def ready_at(self, now_ms: int) -> int:
        """When the next call may start: now or later, or NEVER_MS while as many as allowed are under way."""
        open_calls = self._memory.open
        if open_calls >= self._room():
            return NEVER_MS
        ready = max(now_ms, self._memory.paused_until_ms, math.ceil(self._memory.arrival_ms))
        if open_calls + self._ghosts >= self._room():
            ready = max(ready, self._ghosts_until_ms)
        return max([ready, *(window.free_at(ready, open_calls) for window in self._windows)])

    def started(self, now_ms: int) -> None:
        """A call starts."""
        self._memory.open += 1
        self._memory.told_ms = max(self._memory.told_ms, now_ms)
        self._memory.arrival_ms = max(self._memory.arrival_ms, now_ms) + self._interval_ms(now_ms)

    def abandoned(self, now_ms: int) -> None:
        """A call that had started was not made. The ERP did nothing to learn from; it counts all the same."""
        self._ended(now_ms)

    def finished(self, now_ms: int, outcome: OutcomeCode, retry_after_s: float = 0.0, jitter: float = 1.0) -> None:
        """A call ended so. `jitter` is a fresh random number in [0, 1)."""
        self._ended(now_ms)
        if outcome in ("posted", "accepted", "rejected"):
            self._answered(now_ms)
        elif outcome == "unauthorised":
            self._memory.unauthorised = True
            self._memory.setbacks = self._memory.unanswered = self._memory.silent_since_ms = 0  # it answered
            self._pause(now_ms, UNAUTHORISED_PAUSE_S)
        else:
            self._set_back(now_ms, outcome == "throttled")
            self._pause(now_ms, self._delay_s(retry_after_s, jitter))
            self._memory.learned_ms = max(self._memory.learned_ms, self._memory.paused_until_ms)

    def answering(self) -> bool:
        """Whether the last call was answered, so that more work may be made ready."""
        return not self._memory.unauthorised and not self._memory.setbacks

    def silent_ms(self, now_ms: int) -> int:
        """For how long calls were throttled, unavailable or lost, and none was answered."""
        return now_ms - self._memory.silent_since_ms if self._memory.silent_since_ms else 0

    def state(self, now_ms: int) -> GovernorState:
        """What there is to see."""
        left = {window.limit.name: window.left(now_ms, self._memory.open) for window in self._windows}
        paused_ms = self._memory.paused_until_ms if self._memory.paused_until_ms > now_ms else 0
        return GovernorState(self._health(now_ms), self._rate(), self._room(), self._memory.open, paused_ms, left)

    def dump(self) -> str:
        """All that a successor must know, as JSON."""
        ended = {window.limit.name: window.ended() for window in self._windows}
        kept = msgspec.structs.replace(self._memory, ended=ended)
        return msgspec.json.encode(kept).decode()

    def _ended(self, now_ms: int) -> None:
        self._memory.open -= 1
        self._memory.told_ms = max(self._memory.told_ms, now_ms)
        if now_ms >= self._ghosts_until_ms:
            self._ghosts = 0
        for window in self._windows:
            window.forget(now_ms)
            window.end(now_ms)

    def _answered(self, now_ms: int) -> None:
        memory = self._memory
        memory.setbacks = memory.unanswered = memory.silent_since_ms = 0
        memory.unauthorised = False
        self._earn(now_ms, RETRIES_EARNED)
        healthy_ms = max(0, now_ms - memory.learned_ms)
        memory.rate_share = min(1.0, memory.rate_share + healthy_ms / (RECOVERY_S * 1000))
        memory.learned_ms = max(now_ms, memory.learned_ms)

    def _set_back(self, now_ms: int, throttled: bool) -> None:
        memory = self._memory
        memory.unanswered = 0 if throttled else memory.unanswered + 1
        if memory.setbacks and now_ms < memory.paused_until_ms:
            return  # it was under way beside the one for which this pause is made
        memory.setbacks += 1
        memory.silent_since_ms = memory.silent_since_ms or now_ms
        self._earn(now_ms, -1.0)
        memory.rate_share = max(self._floor(), memory.rate_share * DECREASE)

    def _earn(self, now_ms: int, earned: float) -> None:
        """Count the retries that time has earned, then these: earned, or spent. At most one is owed."""
        memory = self._memory
        by_time = max(0, now_ms - memory.retries_ms) / (RETRY_EARNED_S * 1000)
        in_hand = min(RETRIES_MAX, memory.retries + by_time)
        memory.retries = max(-1.0, min(RETRIES_MAX, in_hand + earned))
        memory.retries_ms = max(now_ms, memory.retries_ms)

    def _delay_s(self, retry_after_s: float, jitter: float) -> float:
        ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._memory.setbacks - 1, 16))
        backoff_s = max(jitter * ceiling_s, -self._memory.retries * RETRY_EARNED_S)
        delay_s = min(retry_after_s, RETRY_AFTER_MAX_S) or backoff_s
        return max(delay_s, CIRCUIT_OPEN_S) if self._circuit_open() else delay_s

    def _pause(self, now_ms: int, seconds: float) -> None:
        self._memory.paused_until_ms = max(self._memory.paused_until_ms, now_ms + math.ceil(seconds * 1000))

    def _circuit_open(self) -> bool:
        return self._memory.unanswered >= UNANSWERED_MAX

    def _room(self) -> int:
        if self._circuit_open() or self._memory.unauthorised:
            return 1
        return max(1, int(self._quota.concurrency * self._memory.rate_share))

    def _floor(self) -> float:
        return min(1.0, max(RATE_FLOOR, RATE_FLOOR_PER_MINUTE / self._quota.calls_per_minute))

    def _rate(self) -> float:
        return self._quota.calls_per_minute * self._memory.rate_share

    def _interval_ms(self, now_ms: int) -> float:
        interval_ms = MINUTE_MS / self._rate()
        for window in self._windows:
            if window.limit.name == "day" and self._mostly_used(window, now_ms):
                interval_ms = max(interval_ms, window.interval_ms())
        return interval_ms

    def _mostly_used(self, window: CallWindow, now_ms: int) -> bool:
        return window.left(now_ms, self._memory.open) < window.limit.calls * (1 - DAY_SHARE_FREE)

    def _health(self, now_ms: int) -> Health:
        if self._memory.unauthorised and not self._memory.setbacks:
            return "unauthorised"
        if self._circuit_open():
            return "circuit_open" if now_ms < self._memory.paused_until_ms else "half_open"
        if self._memory.setbacks:
            return "backing_off"
        return "slowed" if self._memory.rate_share < 1.0 else "healthy"
