"""Admission: when a door closes, for whom, and when it opens again."""

import pytest

from runtime.flow.admission import Admission
from runtime.limits import Limits
from runtime.ports import ShardLag

LIMITS = Limits(
    frame_rows_max=10,
    shard_lag_resume_at_rows=100,
    shard_lag_pause_at_rows=200,
    log_rows_pause_at=1_000,
    frame_bytes_max=10,
    gateway_inflight_bytes_max=50,
    retry_after_s=0.25,
)


def lag(waiting: int, held: int = 0) -> ShardLag:
    """A shard that is this many rows behind."""
    return ShardLag(5_000 + waiting, 5_000, held)


@pytest.fixture
def admission() -> Admission:
    return Admission(LIMITS)


def test_admission_before_any_lag_was_read_refuses(admission: Admission):
    """A door that does not know the lag stays shut."""
    assert admission.refusal(0) is not None
    assert admission.refusal_for([0]) is not None


def test_admission_with_room_everywhere_admits(admission: Admission):
    """No lag and few bytes: nothing is refused, nobody is asked to slow down."""
    admission.observe({0: lag(0), 1: lag(0)})
    assert admission.refusal(50) is None
    assert admission.refusal_for([0, 1]) is None
    assert admission.hint_s([0, 1]) == 0


def test_admission_when_lag_can_not_be_read_any_more_refuses(admission: Admission):
    """Losing sight of the log closes the door that was open."""
    admission.observe({0: lag(0)})
    admission.observe(None)
    assert admission.refusal(0).retry_after_s == 0.25
    assert "does not say" in admission.refusal(0).reason


def test_admission_with_too_many_bytes_under_way_refuses(admission: Admission):
    """The bytes under way have a limit, which may be reached but not passed."""
    admission.observe({0: lag(0)})
    assert admission.refusal(50) is None
    assert "bytes" in admission.refusal(51).reason


def test_admission_of_frame_that_touches_lagging_shard_refuses(admission: Admission):
    """One lagging shard refuses what touches it and nothing else."""
    admission.observe({0: lag(200), 1: lag(0)})
    assert admission.refusal(0) is None
    assert admission.refusal_for([1]) is None
    assert admission.refusal_for([1, 0]).reason == "shard 0 lags behind"


def test_admission_with_all_shards_lagging_refuses_before_the_frame_is_read(admission: Admission):
    """When every shard is paused, no request needs to be looked at."""
    admission.observe({0: lag(200), 1: lag(300)})
    assert "every shard" in admission.refusal(0).reason


@pytest.mark.parametrize(
    ("waiting_rows", "paused"),
    [
        ([199], False),
        ([200], True),
        ([200, 101], True),
        ([200, 100], False),
        ([150], False),
        ([200, 150, 199], True),
        ([200, 100, 199], False),
        ([200, 100, 200], True),
    ],
)
def test_admission_between_the_thresholds_keeps_its_state(admission: Admission, waiting_rows: list[int], paused: bool):
    """A shard pauses at one threshold and resumes at a lower one."""
    for rows in waiting_rows:
        admission.observe({0: lag(rows)})
    assert (admission.paused == {0}) is paused


def test_admission_remembers_paused_shards_while_the_lag_is_unknown(admission: Admission):
    """An unreadable lag does not make a paused shard look well."""
    admission.observe({0: lag(200)})
    admission.observe(None)
    admission.observe({0: lag(150)})
    assert admission.paused == {0}


def test_admission_with_too_much_held_in_the_log_pauses(admission: Admission):
    """A log that is full of committed rows pauses its shard too, until a checkpoint lets it be trimmed."""
    admission.observe({0: lag(0, held=1_000)})
    assert admission.paused == {0}
    admission.observe({0: lag(0, held=999)})
    assert admission.paused == frozenset()


def test_admission_near_the_limit_hints_to_slow_down(admission: Admission):
    """Above the lower threshold a caller is served and told to wait before its next request."""
    admission.observe({0: lag(101), 1: lag(100)})
    assert admission.hint_s([0]) == 0.25
    assert admission.hint_s([1]) == 0
