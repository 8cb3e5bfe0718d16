"""The plan of what must run, and which worker hosts which shard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.topology import Action, Observed, plan, shards_of

SILENCE_MS_MAX = 10_000
NOW_MS = 100_000
LATE_MS = NOW_MS - SILENCE_MS_MAX - 1  # too long ago
FRESH_MS = NOW_MS - SILENCE_MS_MAX  # just in time

CASES = {
    "never seen": (None, "start"),
    "gone": (Observed(False, FRESH_MS, FRESH_MS), "start"),
    "gone long ago": (Observed(False, 0, 0), "start"),
    "answered": (Observed(True, FRESH_MS, 0), ""),
    "answered before it was replaced": (Observed(True, LATE_MS, FRESH_MS), ""),
    "starting slowly": (Observed(True, 0, FRESH_MS), ""),
    "never answered since its start": (Observed(True, 0, LATE_MS), "replace"),
    "silent": (Observed(True, LATE_MS, 0), "replace"),
    "lacking something": (Observed(True, NOW_MS, 0, FRESH_MS), ""),
    "lacking something for long": (Observed(True, NOW_MS, 0, LATE_MS), "replace"),
    "lacking something since before it was replaced": (Observed(True, NOW_MS, FRESH_MS, LATE_MS), ""),
}


@pytest.mark.parametrize(("observed", "what"), CASES.values(), ids=CASES)
def test_plan_for_one_observation_is_as_the_table_says(observed, what):
    """What is not there is started, what has been silent too long is replaced, and nothing else is touched."""
    seen = {} if observed is None else {"poster": observed}
    expected = [Action("poster", what)] if what else []
    assert plan(["poster"], seen, NOW_MS, SILENCE_MS_MAX) == expected


def test_plan_of_many_parts_names_each_in_the_target_s_order():
    """Parts are judged one by one, in the target's order; what runs but is no target is left alone."""
    seen = {"b": CASES["silent"][0], "c": CASES["answered"][0], "stranger": CASES["silent"][0]}
    assert plan(["a", "b", "c"], seen, NOW_MS, SILENCE_MS_MAX) == [Action("a", "start"), Action("b", "replace")]


@given(workers=st.integers(1, 12), shards=st.integers(1, 64))
def test_shards_over_any_number_of_workers_are_hosted_once_and_evenly(workers, shards):
    """Every shard has one worker, and no worker hosts more than one shard above another."""
    hosted = [shards_of(worker, workers, shards) for worker in range(workers)]
    assert sorted(shard for own in hosted for shard in own) == list(range(shards))
    assert max(map(len, hosted)) - min(map(len, hosted)) <= 1
