"""The dedupe memory against what it promises, and against a dict that remembers everything."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.flow.dedupe import DedupeMemory, Verdict

NEW, REPEAT, CONFLICT = Verdict.NEW, Verdict.REPEAT, Verdict.CONFLICT
LARGEST = 2**64 - 1
BATCH_ROWS = 65_536


def judge(memory: DedupeMemory, *rows: tuple[int, int]) -> list[int]:
    """Verdicts of (id, digest) rows."""
    ids, digests = np.array(rows, np.uint64).reshape(-1, 2).T
    return memory.judge(ids, digests).tolist()


def entries(memory: DedupeMemory) -> list[tuple[int, int]]:
    """All ids that are remembered, with their digests."""
    return sorted(pair for ids, digests in memory.dump() for pair in zip(ids.tolist(), digests.tolist(), strict=True))


def test_dedupe_first_sight_is_new_then_a_repeat():
    """An id is new once; the same content is a repeat ever after."""
    memory = DedupeMemory()
    assert judge(memory, (5, 50)) == [NEW]
    assert judge(memory, (5, 50)) == [REPEAT]
    assert judge(memory, (5, 50), (6, 60)) == [REPEAT, NEW]
    assert len(memory) == 2


def test_dedupe_other_content_is_a_conflict_once():
    """The same id with another content is a conflict, and that conflict sent again is a repeat."""
    memory = DedupeMemory()
    judge(memory, (5, 50))
    assert judge(memory, (5, 51)) == [CONFLICT]
    assert judge(memory, (5, 51)) == [REPEAT]
    assert judge(memory, (5, 50)) == [REPEAT]
    assert judge(memory, (5, 52)) == [CONFLICT]


def test_dedupe_within_one_batch_first_row_stands():
    """Rows of one batch are judged in their order, as if each had come alone."""
    memory = DedupeMemory()
    assert judge(memory, (5, 51), (9, 1), (5, 50), (5, 51), (5, 50)) == [NEW, NEW, CONFLICT, REPEAT, REPEAT]


def test_dedupe_conflict_within_a_batch_of_known_id_is_counted_once():
    """A known id that a batch carries with two other contents is a conflict for each of them."""
    memory = DedupeMemory()
    judge(memory, (5, 50))
    assert judge(memory, (5, 51), (5, 50), (5, 52), (5, 51)) == [CONFLICT, REPEAT, CONFLICT, REPEAT]


def test_dedupe_extreme_ids_are_like_any_other():
    """Zero and the largest id are no special values."""
    memory = DedupeMemory()
    assert judge(memory, (0, LARGEST), (LARGEST, 0)) == [NEW, NEW]
    assert judge(memory, (LARGEST, 0), (0, LARGEST), (0, 0)) == [REPEAT, REPEAT, CONFLICT]


def test_dedupe_empty_batch_answers_nothing():
    """A batch without rows has no verdicts and changes nothing."""
    memory = DedupeMemory()
    assert judge(memory) == []
    assert len(memory) == 0


def test_dedupe_many_batches_each_id_is_found_in_its_run():
    """However the runs were merged, every id of every earlier batch is found, and its neighbours are not."""
    memory = DedupeMemory()
    batches = [[(id, id + 1) for id in range(start, 30_000, 50)] for start in range(0, 50, 2)]
    assert all(judge(memory, *batch) == [NEW] * len(batch) for batch in batches)
    assert all(judge(memory, *batch) == [REPEAT] * len(batch) for batch in batches)
    assert judge(memory, *((id + 1, 0) for id, _ in batches[3])) == [NEW] * len(batches[3])


def test_dedupe_source_that_gives_all_events_one_id_stays_fast():
    """A source that never changes its event id gives conflicts, not a shard that stands still."""
    memory = DedupeMemory()
    one_id = np.full(BATCH_ROWS, 7, np.uint64)
    for batch in range(4):
        digests = np.arange(batch * BATCH_ROWS, (batch + 1) * BATCH_ROWS, dtype=np.uint64)
        assert (memory.judge(one_id, digests) == CONFLICT).sum() == BATCH_ROWS - (batch == 0)
        assert (memory.judge(one_id, digests) == REPEAT).all()


def test_dedupe_restored_from_dump_judges_alike():
    """A memory that was dumped and loaded knows every id and every conflict."""
    memory, restored = DedupeMemory(), DedupeMemory()
    judge(memory, (5, 50), (6, 60))
    judge(memory, (5, 51), (7, 70))
    restored.load(memory.dump())
    assert judge(restored, (5, 50), (5, 51), (5, 52), (7, 70), (8, 80)) == [REPEAT, REPEAT, CONFLICT, REPEAT, NEW]


def test_dedupe_dump_holds_the_same_in_however_many_runs():
    """The same ids give the same entries, in however many batches they came."""
    together, apart = DedupeMemory(), DedupeMemory()
    rows = [(id * 7919 % 1009, id) for id in range(1000)]
    judge(together, *rows)
    for row in rows:
        judge(apart, row)
    assert entries(together) == entries(apart)


def test_dedupe_runs_that_were_dumped_never_change():
    """What a snapshot refers to stays as it is, whatever is remembered and merged afterwards."""
    memory = DedupeMemory()
    judge(memory, (5, 50), (6, 60))
    dumped = memory.dump()
    before = [(ids.tolist(), digests.tolist()) for ids, digests in dumped]
    for id in range(100):
        judge(memory, (id, id))
    assert [(ids.tolist(), digests.tolist()) for ids, digests in dumped] == before


def test_dedupe_memory_takes_at_most_thirty_two_bytes_an_id():
    """What is held after many batches is the id, its digest, and at most sixteen marks."""
    memory = DedupeMemory()
    ids = np.random.default_rng(1).permutation(200_000).astype(np.uint64)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for batch in np.split(ids, 20):
            memory.judge(batch, batch)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(memory) == len(ids)
    assert (after - before) // len(ids) <= 32


ROW = st.tuples(st.one_of(st.integers(0, 6), st.just(LARGEST)), st.integers(0, 3))


class NaiveMemory:
    """A dict of sets: what the memory must answer, row by row."""

    def __init__(self) -> None:
        self._contents: dict[int, set[int]] = {}

    def judge(self, id: int, digest: int) -> int:
        """The verdict of one row."""
        contents = self._contents.setdefault(id, set())
        verdict = REPEAT if digest in contents else CONFLICT if contents else NEW
        contents.add(digest)
        return verdict


@given(batches=st.lists(st.tuples(st.lists(ROW, max_size=12), st.booleans()), max_size=12))
def test_dedupe_random_batches_judge_as_a_dict(batches):
    """Whatever is sent in whatever batches, with restarts in between, the verdicts are those of the naive model."""
    memory, naive = DedupeMemory(), NaiveMemory()
    for rows, restarts in batches:
        assert judge(memory, *rows) == [naive.judge(*row) for row in rows]
        if restarts:
            dump, memory = memory.dump(), DedupeMemory()
            memory.load(dump)
