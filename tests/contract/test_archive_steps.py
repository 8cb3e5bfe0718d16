"""The archive's other half: what came, step by step, and how many small segments become few without a change to see."""

from pathlib import Path

import pytest
from test_archive import outcomes

from adapters.archive import segments
from adapters.archive.memory import MemoryArchive
from adapters.archive.parquet import ParquetArchive
from runtime.ports import Archive, ArchivedStep, LogRecord

SHARD = 3


@pytest.fixture(params=["memory", "parquet"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return MemoryArchive() if request.param == "memory" else ParquetArchive(tmp_path)


def step(*positions: int) -> ArchivedStep:
    """A step of one frame a position, the last one a control message."""
    frames = [LogRecord(f"{at}-0", "events", at, bytes([at % 256]) * at) for at in positions[:-1]]
    return ArchivedStep((*frames, LogRecord(f"{positions[-1]}-0", "control", 0, b'{"type": "tick"}')))


def fill(archive: Archive, count: int) -> list[ArchivedStep]:
    """`count` segments of one step each, as many checkpoints would leave them."""
    steps = [step(10 * i + 1, 10 * i + 2) for i in range(count)]
    after = "0-0"
    for i, one in enumerate(steps):
        archive.put_segment(SHARD, after, one.position, outcomes((f"e{i}", "booked", one.position)), [one])
        after = one.position
    return steps


def read(archive: Archive) -> tuple[list[ArchivedStep], list[int]]:
    """All that the archive says."""
    return list(archive.steps(SHARD)), archive.scan().collect()["id_hash"].to_list()


def test_steps_come_back_as_they_were_put(archive: Archive) -> None:
    """Each step has its entries, types, rows and bytes, oldest first, also from a place in between."""
    steps = fill(archive, 5)

    assert list(archive.steps(SHARD)) == steps
    assert list(archive.steps(SHARD, after=steps[1].position)) == steps[2:]
    assert list(archive.steps(SHARD + 1)) == []


def test_step_is_found_by_the_position_of_its_commit(archive: Archive) -> None:
    """A step is given whole by its last entry's position, also out of merged segments; a position within it is none."""
    steps = fill(archive, segments.MERGE_FILES + 2)
    for _ in range(2):
        assert [archive.step_at(SHARD, one.position) for one in steps] == steps
        archive.compact(SHARD, through="99999-0")

    assert archive.step_at(SHARD, steps[1].records[0].position) is None
    assert archive.step_at(SHARD, "99999-0") is None and archive.step_at(SHARD + 1, steps[0].position) is None


def test_segment_put_again_gives_its_steps_once(archive: Archive) -> None:
    """A longer segment from the same start takes the place of the shorter one, steps and outcomes alike."""
    first, second = step(1, 2), step(3, 4)
    archive.put_segment(SHARD, "0-0", "2-0", outcomes(("e0", "booked", "2-0")), [first])
    archive.put_segment(SHARD, "0-0", "4-0", outcomes(("e0", "booked", "2-0")), [first, second])

    assert list(archive.steps(SHARD)) == [first, second]


def test_compact_of_many_small_segments_changes_nothing_that_is_read(archive: Archive) -> None:
    """After any number of rounds all steps and outcomes are there once, in order."""
    fill(archive, 3 * segments.MERGE_FILES + 1)
    before = read(archive)
    for _ in range(6):
        archive.compact(SHARD, through="99999-0")
        assert read(archive) == before


def test_compact_takes_nothing_from_who_reads_meanwhile(tmp_path: Path) -> None:
    """Who has begun to read goes on to the end, each step and outcome once, while what it has not read yet is merged
    and removed; what came meanwhile is read as well."""
    archive = ParquetArchive(tmp_path)
    steps = fill(archive, 2 * segments.MERGE_FILES)
    begun, outcomes_begun = archive.steps(SHARD), archive.outcomes_of(SHARD)
    found, positions = [next(begun)], [next(outcomes_begun)[0]]
    for _ in range(4):
        archive.compact(SHARD, through="99999-0")
    assert len(list(tmp_path.glob("steps/*/*.parquet"))) == 2
    late = step(99991, 99992)
    archive.put_segment(SHARD, steps[-1].position, late.position, outcomes(("late", "booked", late.position)), [late])

    found += begun
    positions += [position for position, _ in outcomes_begun]
    assert found == [*steps, late] and positions == [one.position for one in found]


def test_segment_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A name that leads nowhere is an error, not a wait without end."""
    archive = ParquetArchive(tmp_path)
    fill(archive, 1)
    (file,) = tmp_path.glob("steps/*/*.parquet")
    file.rename(tmp_path / "away")
    file.symlink_to(tmp_path / "nowhere")

    with pytest.raises(FileNotFoundError):
        list(archive.steps(SHARD))


def test_compact_leaves_few_files_and_nothing_unrecorded(tmp_path: Path) -> None:
    """Small neighbours become one file a run; a segment that no checkpoint names yet is left alone."""
    archive = ParquetArchive(tmp_path)
    steps = fill(archive, 2 * segments.MERGE_FILES)
    for _ in range(4):
        archive.compact(SHARD, through=steps[-2].position)

    names = {f"0-0_{steps[-2].position}.parquet", f"{steps[-2].position}_{steps[-1].position}.parquet"}
    assert {path.name for path in (tmp_path / f"outcomes/shard={SHARD:04d}").iterdir()} == names
    assert {path.name for path in (tmp_path / f"steps/shard={SHARD:04d}").iterdir()} == names


class DiskError(Exception):
    """The process dies at this call."""


@pytest.mark.parametrize("operation", ["replace", "unlink"])
@pytest.mark.parametrize("nth", range(0, 40, 7))
def test_compact_that_dies_leaves_the_same_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, nth: int
) -> None:
    """Whichever rename or removal is the last, everything is read once, and later rounds finish the work."""
    archive = ParquetArchive(tmp_path)
    fill(archive, 2 * segments.MERGE_FILES)
    before, calls, real = read(archive), iter(range(10_000)), getattr(Path, operation)

    def dying(path: Path, *given: object, **named: object) -> object:
        if next(calls) >= nth:
            raise DiskError
        return real(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, operation, dying)
        for _ in range(3):
            try:
                archive.compact(SHARD, through="99999-0")
            except DiskError:
                break
    assert read(archive) == before
    for _ in range(3):
        archive.compact(SHARD, through="99999-0")
    assert read(archive) == before
    assert len(list((tmp_path / f"outcomes/shard={SHARD:04d}").glob("*.parquet"))) <= 3
