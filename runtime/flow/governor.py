"""How fast an ERP connection may be called now: rate, concurrency, pauses, circuit.

Owns the one answer to "when may the next call start?". A state machine: time and jitter are arguments.
Never calls anything, and never slows down for a business rejection: an ERP that says no is healthy.
"""

import math
from typing import Literal, NamedTuple

from runtime.ports import OutcomeCode

NEVER_MS = 2**63 - 1  # "a call must finish first"

DECREASE = 0.7  # of the rate, at each sign of overload
INCREASE = 0.05  # of the configured rate, at each answered call
RATE_FLOOR = 1 / 32  # of the configured rate: slow enough to relieve, fast enough to notice recovery
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 86_400.0  # daily quotas are real; anything longer is not believed
UNANSWERED_MAX = 5  # in a row: then the circuit opens
CIRCUIT_OPEN_S = 30.0
UNAUTHORISED_PAUSE_S = 300.0

# slowed: answering, below the configured rate; backing_off: the last call was throttled or not answered
Health = Literal["healthy", "slowed", "backing_off", "circuit_open", "unauthorised"]


class GovernorState(NamedTuple):
    """What status and metrics show."""

    health: Health
    rate_per_minute: float
    concurrency: int
    in_flight: int
    paused_until_ms: int


class Governor:
    """Paces calls by one theoretical arrival time (a token bucket of `burst_calls`), and learns from their outcomes.

    `throttled` and `unavailable` shrink rate and concurrency and pause with full-jitter backoff, unless the ERP names
    its own delay. `unknown` counts as unavailable: a lost answer is no sign of health. Several of these in a row open
    the circuit; then one probe at a time decides whether it closes.
    """

    def __init__(self, calls_per_minute: float, concurrency: int = 1, burst_calls: int = 1) -> None:
        self._configured = self._rate = calls_per_minute
        self._concurrency, self._burst_calls = concurrency, burst_calls
        self._arrival_ms = 0.0
        self._in_flight = 0
        self._paused_until_ms = 0
        self._setbacks = 0  # calls in a row that called for backoff
        self._unanswered = 0  # calls in a row that had no usable answer
        self._unauthorised = False

    def ready_at(self, now_ms: int) -> int:
        """When the next call may start: now or later, or NEVER_MS while as many as allowed are under way."""
        if self._in_flight >= self._room():
            return NEVER_MS
        paced = self._arrival_ms - (self._burst_calls - 1) * self._interval_ms()
        return max(now_ms, self._paused_until_ms, math.ceil(paced))

    def started(self, now_ms: int) -> None:
        """A call starts."""
        self._in_flight += 1
        self._arrival_ms = max(self._arrival_ms, now_ms) + self._interval_ms()

    def finished(self, now_ms: int, outcome: OutcomeCode, retry_after_s: float = 0.0, jitter: float = 1.0) -> None:
        """A call ended so. `jitter` is a fresh random number in [0, 1)."""
        self._in_flight -= 1
        if outcome in ("posted", "rejected"):
            self._answered()
        elif outcome == "unauthorised":
            self._unauthorised = True
            self._pause(now_ms, UNAUTHORISED_PAUSE_S)
        else:
            self._set_back(outcome == "throttled")
            self._pause(now_ms, self._delay_s(retry_after_s, jitter))

    def answering(self) -> bool:
        """Whether the last call was answered, so that more work may be made ready."""
        return self._health() in ("healthy", "slowed")

    def state(self) -> GovernorState:
        """What there is to see."""
        return GovernorState(self._health(), self._rate, self._room(), self._in_flight, self._paused_until_ms)

    def _answered(self) -> None:
        self._setbacks = self._unanswered = 0
        self._unauthorised = False
        self._rate = min(self._configured, self._rate + INCREASE * self._configured)

    def _set_back(self, throttled: bool) -> None:
        self._setbacks += 1
        self._unanswered = 0 if throttled else self._unanswered + 1
        self._rate = max(self._configured * RATE_FLOOR, self._rate * DECREASE)

    def _delay_s(self, retry_after_s: float, jitter: float) -> float:
        backoff_s = jitter * min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._setbacks - 1, 16))
        delay_s = min(retry_after_s, RETRY_AFTER_MAX_S) or backoff_s
        return max(delay_s, CIRCUIT_OPEN_S) if self._circuit_open() else delay_s

    def _pause(self, now_ms: int, seconds: float) -> None:
        self._paused_until_ms = max(self._paused_until_ms, now_ms + math.ceil(seconds * 1000))

    def _circuit_open(self) -> bool:
        return self._unanswered >= UNANSWERED_MAX

    def _room(self) -> int:
        if self._circuit_open() or self._unauthorised:
            return 1
        return max(1, int(self._concurrency * self._rate / self._configured))

    def _interval_ms(self) -> float:
        return 60_000 / self._rate

    def _health(self) -> Health:
        if self._unauthorised:
            return "unauthorised"
        if self._circuit_open():
            return "circuit_open"
        if self._setbacks:
            return "backing_off"
        return "slowed" if self._rate < self._configured else "healthy"
