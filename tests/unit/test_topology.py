"""The plan of what must run, and which worker hosts which shard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.topology import (
    BUSY_MIN,
    RELIEF_MIN,
    STEP_S,
    Action,
    Move,
    Observed,
    by_rows,
    hosts,
    plan,
    relief,
    shards_of,
)

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


PLACED = st.dictionaries(st.integers(0, 20), st.sampled_from(["a", "b", "c", "gone"]))


@given(placed=PLACED, workers=st.integers(1, 3), shards=st.integers(1, 16))
def test_hosts_of_any_placement_host_each_shard_once_where_it_was_placed(placed, workers, shards):
    """Placed with a worker that is there, a shard is there; else where it would be without any placement."""
    names = ["a", "b", "c"][:workers]
    hosted = hosts(placed, names, shards)
    where = {shard: name for name, own in hosted.items() for shard in own}
    assert sorted(shard for own in hosted.values() for shard in own) == list(range(shards))
    for i, name in enumerate(names):
        for shard in shards_of(i, workers, shards):
            assert where[shard] == (placed[shard] if placed.get(shard) in names else name)


def test_relief_moves_the_shard_that_evens_most_and_only_where_somebody_waits():
    """Not the largest one, if that would only turn things round; nothing below half of a worker's time."""
    hosted = {"a": [0, 1, 2], "b": [3]}
    assert relief({0: 0.5, 1: 0.3, 2: 0.1, 3: 0.2}, hosted) == Move(1, "b")
    assert relief({0: 0.9, 3: 0.1}, hosted) is None
    assert relief({0: BUSY_MIN / 2, 1: BUSY_MIN / 3}, hosted) is None
    assert relief({}, hosted) is None


def test_by_rows_leaves_out_what_steps_take_however_few_their_rows():
    """Ten small steps a second may keep a worker as busy as two large ones, and do not make it as loaded."""
    left = by_rows({0: 0.9, 1: 0.9, 2: 0.1}, {0: 10.0, 1: 2.0, 2: 5.0})
    assert left == pytest.approx({0: 0.9 - 10 * STEP_S, 1: 0.9 - 2 * STEP_S, 2: 0.0})


@given(busy=st.dictionaries(st.integers(0, 11), st.floats(0, 1)), workers=st.integers(1, 5))
def test_relief_again_and_again_comes_to_an_end(busy, workers):
    """Each move takes its share from the busiest worker, so shards do not wander for ever."""
    hosted = hosts({}, [f"w{i}" for i in range(workers)], 12)
    for _ in range(100):
        move = relief(busy, hosted)
        if move is None:
            return
        before = max(sum(busy.get(shard, 0) for shard in own) for own in hosted.values())
        donor = next(name for name, own in hosted.items() if move.shard in own)
        hosted[donor].remove(move.shard)
        hosted[move.worker].append(move.shard)
        for name in (donor, move.worker):
            assert sum(busy.get(shard, 0) for shard in hosted[name]) <= before * (1 - RELIEF_MIN) + 1e-9
    raise AssertionError("still moving")
