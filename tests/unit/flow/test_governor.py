"""The governor: how often an ERP is called, and how it is spared."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.flow.governor import (
    BACKOFF_MAX_S,
    CIRCUIT_OPEN_S,
    NEVER_MS,
    UNANSWERED_MAX,
    UNAUTHORISED_PAUSE_S,
    Governor,
)

T0 = 1_800_000_000_000
CODES = st.sampled_from(["posted", "rejected", "throttled", "unavailable", "unknown", "unauthorised"])


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
        state = governor.state()
        assert 120 / 32 <= state.rate_per_minute <= 120
        assert 1 <= state.concurrency <= 4
        assert now_ms < NEVER_MS


def test_burst_lets_a_few_calls_start_together() -> None:
    """An idle connection may start as many calls at once as the burst says, and then keeps its pace."""
    governor = Governor(60, burst_calls=3)
    ready = [called(governor, T0, "posted") for _ in range(3)]
    assert ready == [T0, T0, T0 + 1000]


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
    assert governor.state().rate_per_minute == 420
    assert governor.state().health == "backing_off"
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
    for _ in range(20):
        now_ms = called(governor, now_ms, "posted")
    assert governor.state()[:2] == ("healthy", 600)


def test_slowed_governor_lowers_concurrency_but_keeps_one() -> None:
    """Overload takes parallel calls away too."""
    governor, now_ms = Governor(600, concurrency=4), T0
    now_ms = called(governor, now_ms, "throttled")
    assert governor.state().concurrency == 2
    for _ in range(20):
        now_ms = called(governor, now_ms, "throttled")
    assert governor.state().concurrency == 1


def test_rejections_never_slow_the_pace() -> None:
    """A business rejection is an answer of a healthy ERP."""
    governor, now_ms = Governor(60), T0
    for _ in range(50):
        now_ms = called(governor, now_ms, "rejected")
    assert now_ms == T0 + 50_000
    assert governor.state().health == "healthy"


def test_circuit_opens_after_unavailable_in_a_row_and_admits_one_probe() -> None:
    """A dead ERP is left alone, then asked by a single call."""
    governor = Governor(6_000, concurrency=4)
    opened_ms = unavailable_until_open(governor, T0)
    assert governor.state().health == "circuit_open"
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
    assert governor.state().health == "slowed"
    assert governor.answering()


def test_throttling_does_not_open_the_circuit() -> None:
    """An ERP that throttles is alive: it is slowed down for, not given up."""
    governor, now_ms = Governor(6_000), T0
    for _ in range(3 * UNANSWERED_MAX):
        now_ms = called(governor, now_ms, "throttled")
    assert governor.state().health == "backing_off"


def test_unauthorised_pauses_long_and_ends_with_the_next_answer() -> None:
    """A wrong password is not tried again and again, and leaves no trace once it is mended."""
    governor = Governor(6_000)
    ready = called(governor, T0, "unauthorised")
    assert ready == T0 + UNAUTHORISED_PAUSE_S * 1000
    assert governor.state().health == "unauthorised"
    called(governor, ready, "posted")
    assert governor.state().health == "healthy"
