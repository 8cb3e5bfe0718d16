"""RecentIds: what a door knows of the events it acknowledged last."""

import numpy as np

from runtime.flow.recent_ids import RecentIds


def hashes(seed: int, count: int) -> np.ndarray:
    """Random 64-bit hashes."""
    return np.random.default_rng(seed).integers(1, 2**64, count, np.uint64)


def test_recent_ids_of_remembered_events_are_known():
    """Far below their size the tables know nearly every event, and no other."""
    recent, ids, digests = RecentIds(100_000), hashes(1, 5_000), hashes(2, 5_000)
    assert not recent.known(ids, digests).any()
    recent.remember(ids, digests)
    assert recent.known(ids, digests).mean() > 0.99
    assert not recent.known(hashes(3, 5_000), digests).any()


def test_recent_ids_with_other_content_are_not_known():
    """The same id with another digest is left for the shard to judge."""
    recent, ids = RecentIds(1_000), hashes(1, 10)
    recent.remember(ids, hashes(2, 10))
    assert not recent.known(ids, hashes(3, 10)).any()


def test_recent_ids_are_forgotten_with_what_a_log_lost():
    """Rows that grow say nothing; fewer of any shard, or a time in which nobody could tell, forget all."""
    ids = hashes(1, 10)
    for appended, known in (({0: 9, 1: 5}, True), ({0: 9, 1: 4}, False), ({0: 9}, False), (None, True)):
        recent = RecentIds(1_000)
        recent.observe({0: 8, 1: 5})
        recent.remember(ids, ids)
        recent.observe(appended)
        assert recent.known(ids, ids).all() == known, appended
    recent.observe({0: 10, 1: 6})
    assert not recent.known(ids, ids).any()


def test_recent_ids_beyond_the_size_forget_the_oldest():
    """Full tables keep the newest events and stay as large as they are."""
    recent, ids = RecentIds(1_000), hashes(1, 20_000)
    for batch in np.split(ids, 20):
        recent.remember(batch, batch)
    assert recent.known(ids[-100:], ids[-100:]).mean() > 0.9
    assert recent.known(ids[:10_000], ids[:10_000]).mean() < 0.01


def test_recent_ids_of_one_place_in_one_batch_do_not_mix():
    """Two events of a batch that share both places: the last of them is held whole."""
    recent, ids, digests = RecentIds(8), np.array([1, 9], np.uint64), np.array([5, 6], np.uint64)
    recent.remember(ids, digests)
    assert recent.known(ids, digests).tolist() == [False, True]
    assert not recent.known(ids[1:], digests[:1]).any()


def test_recent_ids_one_by_one_are_those_of_arrays():
    """Events that are noted or looked up singly and in arrays are the same to both."""
    ids, digests = hashes(1, 40), hashes(2, 40)
    singly, together = RecentIds(64), RecentIds(64)
    for event in zip(ids.tolist(), digests.tolist(), strict=True):
        singly.remember_one(*event)
    together.remember(ids, digests)
    for recent in (singly, together):
        known = recent.known(ids, digests).tolist()
        assert known == singly.known(ids, digests).tolist()
        assert known == [recent.knows(*event) for event in zip(ids.tolist(), digests.tolist(), strict=True)]
        assert not recent.knows(int(ids[-1]), 1)
    assert 0 < sum(known) < 40


def test_recent_ids_of_no_events_change_nothing():
    """An empty batch is looked up and remembered without ado."""
    recent, none = RecentIds(100), np.empty(0, np.uint64)
    recent.remember(none, none)
    assert recent.known(none, none).tolist() == []
