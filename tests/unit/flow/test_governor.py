"""The governor: how often an ERP is called, how it is spared, and what a successor knows of it."""

import heapq
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.flow.governor import (
    BACKOFF_MAX_S,
    CIRCUIT_OPEN_S,
    DAY_MS,
    MINUTE_MS,
    RATE_FLOOR_PER_MINUTE,
    RECOVERY_S,
    RETRIES_MAX,
    RETRY_EARNED_S,
    SECOND_MS,
    UNANSWERED_MAX,
    UNAUTHORISED_PAUSE_S,
    UNAUTHORISED_RESTART_S,
    Quota,
    quota_of,
)
from runtime.flow.governor import Governor as RealGovernor
from runtime.flow.windows import NEVER_MS, WindowLimit
from runtime.ports import ErpTerms

T0 = 1_800_000_000_000
CODES = st.sampled_from(["posted", "accepted", "rejected", "throttled", "unavailable", "unknown", "unauthorised"])


class Governor(RealGovernor):
    """A governor without windows."""

    def __init__(self, calls_per_minute: float, concurrency: int = 1) -> None:
        super().__init__(Quota(calls_per_minute, (), concurrency))


def called(governor: Governor, now_ms: int, code: str, retry_after_s: float = 0.0, jitter: float = 0.0) -> int:
    """Make one call that takes no time; when the next may start."""
    governor.started(now_ms)
    governor.finished(now_ms, code, retry_after_s, jitter)
    return governor.ready_at(now_ms)


def unavailable_until_open(governor: Governor, now_ms: int) -> int:
    """Open the circuit; when it lets a probe through."""
    for _ in range(UNANSWERED_MAX):
        now_ms = called(governor, now_ms, "unavailable")
    return now_ms


def test_fresh_governor_is_ready_at_once() -> None:
    """The first call does not wait."""
    assert Governor(60).ready_at(T0) == T0


@given(st.lists(st.tuples(CODES, st.floats(0, 1, exclude_max=True), st.integers(0, 3_000)), max_size=150))
def test_calls_made_when_ready_never_exceed_the_configured_rate(steps: list[tuple[str, float, int]]) -> None:
    """Whatever the ERP answers, no minute sees more calls than configured."""
    governor, now_ms, starts = Governor(60), T0, []
    for code, jitter, pause_ms in steps:
        now_ms = governor.ready_at(now_ms + pause_ms)
        starts.append(now_ms)
        called(governor, now_ms, code, jitter=jitter)
    assert all(later - first >= 60_000 for first, later in zip(starts, starts[60:], strict=False))


@given(st.lists(st.tuples(CODES, st.floats(0, 7200), st.floats(0, 1, exclude_max=True)), max_size=60))
def test_state_stays_within_its_bounds(steps: list[tuple[str, float, float]]) -> None:
    """Rate and concurrency never leave their range, and a governor never stops for good."""
    governor, now_ms = Governor(120, concurrency=4), T0
    for code, retry_after_s, jitter in steps:
        now_ms = max(now_ms, called(governor, now_ms, code, retry_after_s, jitter))
        state = governor.state(now_ms)
        assert 120 / 32 <= state.rate_per_minute <= 120
        assert 1 <= state.concurrency <= 4
        assert now_ms < NEVER_MS


def test_concurrency_reached_waits_for_a_call_to_finish() -> None:
    """No more calls are under way at a time than the ERP bears."""
    governor = Governor(6_000_000, concurrency=2)
    governor.started(T0)
    governor.started(T0)
    assert governor.ready_at(T0 + 1000) == NEVER_MS
    governor.finished(T0 + 1000, "posted")
    assert governor.ready_at(T0 + 1000) == T0 + 1000


def test_throttled_obeys_retry_after_and_slows() -> None:
    """The ERP's own delay is kept to the millisecond, and the rate shrinks."""
    governor = Governor(600)
    assert called(governor, T0, "throttled", retry_after_s=7.5) == T0 + 7500
    assert governor.state(T0).rate_per_minute == 420
    assert governor.state(T0).health == "backing_off"
    assert not governor.answering()


def test_throttled_again_backs_off_exponentially_within_a_cap() -> None:
    """Without a delay of its own the ERP gets full-jitter backoff that doubles up to a cap."""
    governor, now_ms, waits = Governor(60_000), T0, []
    for _ in range(10):
        ready = called(governor, now_ms, "throttled", jitter=1.0)
        waits.append((ready - now_ms) / 1000)
        now_ms = ready
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == BACKOFF_MAX_S


def test_success_brings_the_configured_rate_back_and_no_more() -> None:
    """Recovery is additive and ends at what was configured."""
    governor, now_ms = Governor(600), T0
    for _ in range(3):
        now_ms = called(governor, now_ms, "throttled")
    slowed = governor.state(now_ms).rate_per_minute
    until_ms, rates = now_ms + round(RECOVERY_S * 1000), [slowed]
    while now_ms <= until_ms:
        now_ms = called(governor, now_ms, "posted")
        rates.append(governor.state(now_ms).rate_per_minute)
    assert slowed < 300 and rates == sorted(rates) and len(set(rates)) > 20
    assert (governor.state(T0).health, governor.state(T0).rate_per_minute) == ("healthy", 600)


def test_calls_that_were_throttled_together_are_one_sign() -> None:
    """Ten calls that meet the same limit shrink the rate and lengthen the pause once, not ten times."""
    governor = Governor(600, concurrency=10)
    for _ in range(10):
        governor.started(T0)
    for at_ms in range(T0, T0 + 10):
        governor.finished(at_ms, "throttled", 0.0, 0.9)
    state = governor.state(T0 + 10)
    assert (state.rate_per_minute, state.concurrency) == (420, 7)
    assert state.paused_until_ms - T0 < 1_000


@given(st.integers(1, 6_000), st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_pace_is_back_soon_after_the_last_throttle(per_minute: int, throttles: int, jitter: float) -> None:
    """However fast the ERP is and however long it throttled: a pause, one call of the slowest pace, the recovery, and
    the next minute sees the configured pace within a tenth."""
    governor, now_ms = Governor(per_minute), T0
    for _ in range(throttles):
        now_ms = called(governor, now_ms, "throttled", 0.0, jitter)
    assert now_ms - T0 < throttles * (BACKOFF_MAX_S + 60 / min(per_minute, RATE_FLOOR_PER_MINUTE)) * 1000
    slowest_s = 60 / min(per_minute, RATE_FLOOR_PER_MINUTE)
    back_ms = now_ms + round((slowest_s + RECOVERY_S) * 1000)
    starts = []
    while now_ms <= back_ms + 10 * MINUTE_MS:
        starts += [now_ms] * (now_ms > back_ms)
        now_ms = called(governor, now_ms, "posted")
    assert len(starts) >= 0.9 * 10 * per_minute - 1


def test_slowed_governor_lowers_concurrency_but_keeps_one() -> None:
    """Overload takes parallel calls away too."""
    governor, now_ms = Governor(600, concurrency=4), T0
    now_ms = called(governor, now_ms, "throttled")
    assert governor.state(T0).concurrency == 2
    for _ in range(20):
        now_ms = called(governor, now_ms, "throttled")
    assert governor.state(T0).concurrency == 1


def test_rejections_never_slow_the_pace() -> None:
    """A business rejection is an answer of a healthy ERP."""
    governor, now_ms = Governor(60), T0
    for _ in range(50):
        now_ms = called(governor, now_ms, "rejected")
    assert now_ms == T0 + 50_000
    assert governor.state(T0).health == "healthy"


def test_circuit_opens_after_unavailable_in_a_row_and_admits_one_probe() -> None:
    """A dead ERP is left alone, then asked by a single call."""
    governor = Governor(6_000, concurrency=4)
    opened_ms = unavailable_until_open(governor, T0)
    assert governor.state(opened_ms - 1).health == "circuit_open"
    assert governor.state(opened_ms).health == "half_open"
    assert opened_ms - T0 >= CIRCUIT_OPEN_S * 1000
    governor.started(opened_ms)
    assert governor.ready_at(opened_ms + 1000) == NEVER_MS


def test_failed_probe_keeps_the_circuit_open() -> None:
    """One more failure costs one more pause."""
    governor = Governor(6_000)
    opened_ms = unavailable_until_open(governor, T0)
    assert called(governor, opened_ms, "unknown") == opened_ms + CIRCUIT_OPEN_S * 1000


def test_answered_probe_closes_the_circuit() -> None:
    """Any answer, a rejection too, shows that the ERP lives."""
    governor = Governor(6_000)
    opened_ms = unavailable_until_open(governor, T0)
    assert called(governor, opened_ms, "rejected") < opened_ms + 1000
    assert governor.state(T0).health == "slowed"
    assert governor.answering()


def test_throttling_does_not_open_the_circuit() -> None:
    """An ERP that throttles is alive: it is slowed down for, not given up."""
    governor, now_ms = Governor(6_000), T0
    for _ in range(3 * UNANSWERED_MAX):
        now_ms = called(governor, now_ms, "throttled")
    assert governor.state(T0).health == "backing_off"


def test_unauthorised_pauses_long_and_ends_with_the_next_answer() -> None:
    """A wrong password is not tried again and again, and leaves no trace once it is mended."""
    governor = Governor(6_000)
    ready = called(governor, T0, "unauthorised")
    assert ready == T0 + UNAUTHORISED_PAUSE_S * 1000
    assert governor.state(T0).health == "unauthorised"
    called(governor, ready, "posted")
    assert governor.state(T0).health == "healthy"


def test_last_word_of_an_erp_is_its_health() -> None:
    """A refused login is shown until something else is heard; until an answer, calls go one at a time."""
    governor = Governor(6_000, concurrency=4)
    ready = called(governor, T0, "unauthorised")
    ready = called(governor, ready, "throttled", retry_after_s=9.0)
    state = governor.state(ready)
    assert (state.health, state.concurrency) == ("backing_off", 1)
    called(governor, ready, "unauthorised")
    assert governor.state(ready).health == "unauthorised"


def waits_s(governor: Governor, now_ms: int, refused: int) -> list[float]:
    """How long each of so many refused calls makes the next one wait, when an answered one follows each."""
    waits = []
    for _ in range(refused):
        ready_ms = called(governor, now_ms, "throttled")
        waits.append((ready_ms - now_ms) / 1000)
        now_ms = called(governor, ready_ms, "posted")
    return waits


def test_retries_in_hand_are_spent_and_one_is_waited_for() -> None:
    """When more calls failed than answers and time have earned, the next one waits until it is earned, not longer."""
    waits = waits_s(Governor(60_000), T0, 20)
    assert max(waits[: round(RETRIES_MAX)]) < 1
    assert RETRY_EARNED_S / 2 < min(waits[-5:]) <= max(waits[-5:]) <= RETRY_EARNED_S


def test_retries_are_earned_by_time_up_to_a_limit() -> None:
    """A quiet hour puts as many in hand as there ever are, and no more."""
    governor = Governor(60_000)
    waits_s(governor, T0, 20)
    waits = waits_s(governor, T0 + 3_600_000, 20)
    assert max(waits[: round(RETRIES_MAX)]) < 1 < RETRY_EARNED_S / 2 < min(waits[-5:])


def test_erp_that_loses_every_second_answer_goes_on_being_asked() -> None:
    """A sick ERP is spared, not given up: what is half answered moves on, however long that lasts."""
    governor, now_ms, answered = Governor(6_000), T0, 0
    for call in range(1_000):
        code = ("unknown", "posted")[call % 2]
        now_ms = called(governor, now_ms, code, jitter=0.5)
        answered += code == "posted"
        if now_ms > T0 + 10 * MINUTE_MS:
            break
    assert answered >= 10 * MINUTE_MS / (RETRY_EARNED_S * 1000)


def test_pause_is_shown_while_it_lasts() -> None:
    """When a pause is over there is none to show."""
    governor = Governor(600)
    ready_ms = called(governor, T0, "throttled", retry_after_s=9)
    assert (governor.state(T0).paused_until_ms, governor.state(ready_ms).paused_until_ms) == (T0 + 9_000, 0)


def test_call_that_was_not_made_teaches_nothing() -> None:
    """An abandoned call leaves rate and health as they were, and frees its place."""
    governor = Governor(600)
    governor.started(T0)
    governor.abandoned(T0 + 50)
    assert (governor.state(T0).health, governor.state(T0).in_flight) == ("healthy", 0)


TERMS = ErpTerms(
    native_key="none", settle_s=5, atomicity="per_item", lines_max=9, entries_max=9, concurrency=3, per_minute=300
)


def test_quota_is_the_tighter_of_stated_and_configured() -> None:
    """Neither the ERP's limit nor the configured pace is exceeded, and requests count, not calls."""
    assert quota_of(TERMS, 60.0).windows == (WindowLimit("minute", MINUTE_MS, 60),)
    assert quota_of(TERMS, 6_000.0).calls_per_minute == 300
    four = ErpTerms(
        native_key="none",
        settle_s=5,
        atomicity="per_item",
        lines_max=9,
        entries_max=9,
        concurrency=3,
        requests_max=4,
        per_second=8,
        per_day=400,
    )
    windows = {window.name: window.calls for window in quota_of(four, 6_000.0).windows}
    assert windows == {"second": 2, "minute": 6_000, "day": 100}


def test_half_of_a_day_flows_freely_and_the_rest_is_spread() -> None:
    """A daily quota is not burnt by noon: its second half goes at the pace that lasts for ever."""
    governor, now_ms = RealGovernor(Quota(60, (WindowLimit("day", DAY_MS, 100),))), T0
    gaps = []
    for _ in range(70):
        ready = called(governor, now_ms, "posted")
        gaps.append(ready - now_ms)
        now_ms = ready
    assert gaps[10] == 1_000
    assert gaps[60] == DAY_MS / 100
    assert governor.state(now_ms).left == {"day": 30}


@pytest.mark.parametrize("codes", [["throttled"] * 3, ["unavailable"] * UNANSWERED_MAX, ["posted"]])
def test_successor_goes_on_where_the_governor_stopped(codes: list[str]) -> None:
    """Health, rate, pauses and counts survive a restart."""
    first, now_ms, ready_ms = RealGovernor(Quota(600, (WindowLimit("minute", MINUTE_MS, 600),))), T0, T0
    for code in codes:
        now_ms, ready_ms = ready_ms, called(first, ready_ms, code, jitter=0.5)
    successor = RealGovernor(Quota(600, (WindowLimit("minute", MINUTE_MS, 600),)), first.dump(), now_ms)
    assert successor.state(now_ms) == first.state(now_ms)
    assert successor.ready_at(now_ms) == first.ready_at(now_ms) == ready_ms


def test_successor_tries_its_login_sooner_but_not_at_once() -> None:
    """Who restarts Penstock may have mended the password; who restarts it again and again must not lock the account."""
    first = RealGovernor(Quota(600))
    called(first, T0, "unauthorised")
    successor = RealGovernor(Quota(600), first.dump(), T0 + 1_000)
    assert successor.state(T0).health == "unauthorised"
    assert successor.ready_at(T0 + 1_000) == T0 + 1_000 + 1_000 * UNAUTHORISED_RESTART_S


@pytest.mark.parametrize("code", ["posted", "throttled", "unauthorised"])
@pytest.mark.parametrize("ahead_ms", [1_000, 3_600_000, 365 * DAY_MS])
def test_successor_whose_clock_was_set_back_waits_no_longer_for_it(code: str, ahead_ms: int) -> None:
    """What was kept by a clock that was ahead holds the ERP up as long as it would have, and counts all the same."""
    quota = Quota(60, (WindowLimit("minute", MINUTE_MS, 60), WindowLimit("day", DAY_MS, 5_000)))
    first = RealGovernor(quota)
    ready_ms = called(first, T0 + ahead_ms, code, jitter=0.5) - ahead_ms
    successor = RealGovernor(quota, first.dump(), T0)
    assert successor.ready_at(T0) <= ready_ms
    assert successor.ready_at(T0) >= min(ready_ms, T0 + 1_000)
    assert successor.state(T0).left == {"minute": 59, "day": 4_999}
    assert successor.silent_ms(T0 + 5) == (5 if code == "throttled" else 0)


def test_successor_gives_open_calls_time_to_end() -> None:
    """Calls of a sender that was stopped may still be under way: they take their place until they must have ended."""
    quota = Quota(60_000, (WindowLimit("minute", MINUTE_MS, 2),), concurrency=1, ghost_s=5.0)
    first = RealGovernor(quota)
    first.started(T0)
    successor = RealGovernor(quota, first.dump(), T0 + 100)
    assert successor.ready_at(T0 + 100) == T0 + 5_100
    assert successor.state(T0 + 5_100).left == {"minute": 1}


LIMITS = st.tuples(st.integers(1, 4), st.integers(5, 9), st.integers(12, 20))


@given(
    limits=LIMITS,
    concurrency=st.integers(1, 4),
    calls=st.lists(
        st.tuples(CODES, st.integers(0, 4_000), st.floats(0, 1, exclude_max=True), st.booleans()), max_size=60
    ),
)
def test_no_window_is_exceeded_by_the_erps_own_count(
    limits: tuple[int, int, int], concurrency: int, calls: list[tuple[str, int, float, bool]]
) -> None:
    """Whenever between a call's start and end the ERP counts it, and however often the governor's actor dies, no
    sliding window of any length holds more calls than its limit."""
    lengths = (SECOND_MS, MINUTE_MS, DAY_MS)
    windows = tuple(
        WindowLimit(name, length, limit)
        for name, length, limit in zip(("second", "minute", "day"), lengths, limits, strict=True)
    )
    quota = Quota(6_000, windows, concurrency, ghost_s=4.0)
    governor, now_ms, arrivals = RealGovernor(quota), T0, []
    under_way: list[tuple[int, str]] = []
    waiting = deque(calls)
    while waiting:
        ready = governor.ready_at(now_ms)
        if under_way and under_way[0][0] <= ready:
            now_ms, code = heapq.heappop(under_way)
            governor.finished(now_ms, code, 0.0, 0.5)
            continue
        code, length_ms, share, dies = waiting.popleft()
        now_ms = ready
        governor.started(now_ms)
        saved = governor.dump()
        arrivals.append(now_ms + round(length_ms * share))
        heapq.heappush(under_way, (now_ms + length_ms, code))
        if dies:
            governor, under_way = RealGovernor(quota, saved, now_ms), []
    arrivals.sort()
    for length, limit in zip(lengths, limits, strict=True):
        assert all(later - first >= length for first, later in zip(arrivals, arrivals[limit:], strict=False))
