"""RecentIds: what a door knows of the events it acknowledged last."""

import numpy as np

from runtime.flow.recent_ids import RecentIds


def hashes(seed: int, count: int) -> np.ndarray:
    """Random 64-bit hashes."""
    return np.random.default_rng(seed).integers(1, 2**64, count, np.uint64)


def test_recent_ids_of_remembered_events_are_known():
    """Far below its size the table knows nearly every event, and no other."""
    recent, ids, digests = RecentIds(100_000), hashes(1, 5_000), hashes(2, 5_000)
    assert not recent.known(ids, digests).any()
    recent.remember(ids, digests)
    assert recent.known(ids, digests).mean() > 0.9
    assert not recent.known(hashes(3, 5_000), digests).any()


def test_recent_ids_with_other_content_are_not_known():
    """The same id with another digest is left for the shard to judge."""
    recent, ids = RecentIds(1_000), hashes(1, 10)
    recent.remember(ids, hashes(2, 10))
    assert not recent.known(ids, hashes(3, 10)).any()


def test_recent_ids_beyond_the_size_forget_the_oldest():
    """A full table keeps the newest event of each place and stays as large as it is."""
    recent = RecentIds(8)
    ids = np.arange(1, 21, dtype=np.uint64)
    recent.remember(ids[:6], ids[:6])
    recent.remember(ids[6:], ids[6:])
    assert recent.known(ids, ids).tolist() == [False] * 12 + [True] * 8


def test_recent_ids_of_one_place_in_one_batch_leave_the_last():
    """Two events of a batch that share a place don't mix: the table holds one of them whole."""
    recent, ids, digests = RecentIds(8), np.array([1, 9], np.uint64), np.array([5, 6], np.uint64)
    recent.remember(ids, digests)
    assert recent.known(ids, digests).tolist() == [False, True]


def test_recent_ids_of_no_events_change_nothing():
    """An empty batch is looked up and remembered without ado."""
    recent, none = RecentIds(100), np.empty(0, np.uint64)
    recent.remember(none, none)
    assert recent.known(none, none).tolist() == []
