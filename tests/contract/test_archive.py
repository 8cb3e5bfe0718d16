"""The archive's contract, over the memory twin and over Parquet files; then what only files can show."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from adapters.archive.memory import MemoryArchive
from adapters.archive.parquet import ParquetArchive
from runtime.effects import OUTCOMES
from runtime.event_rules import identity
from runtime.ports import Archive, run_name


@pytest.fixture(params=["memory", "parquet"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return MemoryArchive() if request.param == "memory" else ParquetArchive(tmp_path)


def outcomes(*rows: Sequence[str]) -> pl.DataFrame:
    """Outcome rows from (event_id, state, position[, source])."""
    filled = [_outcome(*row) for row in rows]
    return pl.DataFrame(filled, schema=OUTCOMES)


def _outcome(event_id: str, state: str, position: str, source: str = "epic") -> dict:
    given = {"id_hash": identity(source, event_id), "digest": 2**63 + 7, "state": state, "position": position}
    return given | {"set_no": -1}


def ids(*events: str) -> list[int]:
    """What stands for these events of one source."""
    return [identity("epic", event) for event in events]


def states(rows: pl.DataFrame) -> list[tuple]:
    return rows.select("shard", "state", "position").rows()


def test_find_gives_every_outcome_over_shards_in_commit_order(archive: Archive) -> None:
    """An event's rows come from all segments of all shards, oldest commit first, compared as numbers."""
    archive.put_segment(3, "0-0", "10-2", outcomes(("e1", "pending", "9-0"), ("e2", "booked", "10-2")))
    archive.put_segment(3, "10-2", "10-11", outcomes(("e1", "booked", "10-11")))
    archive.put_segment(0, "0-0", "10-9", outcomes(("e1", "excluded", "10-9")))

    assert states(archive.find(ids("e1"))) == [(3, "pending", "9-0"), (0, "excluded", "10-9"), (3, "booked", "10-11")]


def test_find_gives_the_rows_of_the_identities_asked_for(archive: Archive) -> None:
    """The same id of another source is another event; several may be asked for at once."""
    archive.put_segment(0, "0-0", "2-0", outcomes(("e1", "booked", "1-0", "epic"), ("e1", "pending", "2-0", "card")))

    assert states(archive.find([identity("card", "e1")])) == [(0, "pending", "2-0")]
    assert archive.find([identity(source, "e1") for source in ("bank", "card", "epic")]).height == 2
    assert archive.find([identity("bank", "e1")]).height == 0


def test_find_in_an_empty_archive_gives_no_rows_with_all_columns(archive: Archive) -> None:
    """Nothing archived yet is an empty answer of the same shape."""
    assert archive.find(ids("e1")).schema == pl.Schema(OUTCOMES | {"shard": pl.Int32()})
    assert archive.find(ids("e1")).is_empty()


def test_scan_gives_back_rows_as_they_were_put(archive: Archive) -> None:
    """Types and values survive, hashes of all 64 bits among them."""
    put = outcomes(("e1", "booked", "1-0"), ("e2", "pending", "1-0"))
    archive.put_segment(5, "0-0", "1-0", put)

    found = archive.scan().collect()

    assert found["shard"].to_list() == [5, 5]
    assert found.drop("shard").equals(put)
    assert found.schema == pl.Schema(OUTCOMES | {"shard": pl.Int32()})


def test_put_segment_of_the_same_range_replaces_itself(archive: Archive) -> None:
    """Writing a range again leaves its rows there once."""
    for _ in range(2):
        name = archive.put_segment(0, "0-0", "4-0", outcomes(("e1", "booked", "4-0")))

    assert archive.scan().collect().height == 1
    assert name == archive.put_segment(0, "0-0", "4-0", outcomes(("e1", "booked", "4-0")))


@pytest.mark.parametrize("positions", [("4-0", "9-0"), ("9-0", "4-0")])
def test_put_segment_from_the_same_start_replaces_the_unrecorded_one(archive: Archive, positions: tuple) -> None:
    """A range that begins where an earlier, unrecorded one began takes its place, whether longer or shorter."""
    for position in positions:
        archive.put_segment(0, "0-0", position, outcomes(("e1", "booked", "3-0"), ("e2", "booked", position)))

    assert states(archive.find(ids("e1"))) == [(0, "booked", "3-0")]
    assert archive.scan().collect().height == 2


def test_put_segment_without_rows_is_a_segment(archive: Archive) -> None:
    """A range in which nothing was accepted is written like any other."""
    archive.put_segment(0, "0-0", "4-0", outcomes())
    archive.put_segment(0, "4-0", "5-0", outcomes(("e1", "booked", "5-0")))

    assert archive.scan().collect().height == 1


def test_snapshot_is_read_back_by_its_name(archive: Archive) -> None:
    """Snapshots come back byte for byte, and the same position and epoch again replaces the former."""
    first = archive.put_snapshot(2, "4-0", 7, b"old")
    second = archive.put_snapshot(2, "9-1", 7, bytes(range(256)))
    again = archive.put_snapshot(2, "4-0", 7, b"new")

    assert archive.get_snapshot(second) == bytes(range(256))
    assert again == first and archive.get_snapshot(first) == b"new"


def test_snapshot_of_another_owner_at_the_same_position_is_another_one(archive: Archive) -> None:
    """Whoever was overtaken overwrites nothing of its successor's."""
    later = archive.put_snapshot(2, "4-0", 8, b"successor's")
    archive.put_snapshot(2, "4-0", 7, b"mine")

    assert archive.get_snapshot(later) == b"successor's"


def test_forget_snapshots_keeps_the_named_one_and_other_shards(archive: Archive) -> None:
    """Only the same shard's earlier snapshots go."""
    gone, kept = archive.put_snapshot(2, "4-0", 1, b"a"), archive.put_snapshot(2, "9-0", 1, b"b")
    other = archive.put_snapshot(20, "4-0", 1, b"c")

    archive.forget_snapshots(2, keep=kept)

    assert archive.get_snapshot(kept) == b"b" and archive.get_snapshot(other) == b"c"
    with pytest.raises(FileNotFoundError):
        archive.get_snapshot(gone)


def test_run_is_read_back_by_its_name(archive: Archive) -> None:
    """A run's parts come back as one, also after it was forgotten, to those who have it."""
    archive.put_run(2, run_name("4-0", 1, 0), [b"keys", memoryview(b"numbers")])
    held = archive.get_run(2, run_name("4-0", 1, 0))

    archive.forget_snapshots(2, keep=archive.put_snapshot(2, "4-0", 1, b""))

    assert bytes(held) == b"keysnumbers"
    with pytest.raises(FileNotFoundError):
        archive.get_run(2, run_name("4-0", 1, 0))


def test_forget_snapshots_keeps_the_runs_that_the_named_one_goes_with_and_later_ones(archive: Archive) -> None:
    """Merged runs go; what the snapshot, a successor or another shard may need stays."""
    names = {
        "needed": run_name("4-0", 1, 0),
        "merged": run_name("4-0", 1, 1),
        "fenced owner's": run_name("9-0", 1, 0),
        "successor's": run_name("10-0", 3, 0),
    }
    for shard in (2, 3):
        for name in names.values():
            archive.put_run(shard, name, [b"run"])
    archive.forget_snapshots(2, keep=archive.put_snapshot(2, "9-0", 2, b"b", [names["needed"]]))

    assert {what for what, name in names.items() if is_there(archive, 2, name)} == {"needed", "successor's"}
    assert all(is_there(archive, 3, name) for name in names.values())


def is_there(archive: Archive, shard: int, name: str) -> bool:
    """Whether a run can be read."""
    try:
        return bytes(archive.get_run(shard, name)) == b"run"
    except FileNotFoundError:
        return False


# ── files alone ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_are_paths_under_the_root(tmp_path: Path) -> None:
    """What the books record is where the file lies, so an archive can be moved with its root."""
    archive = ParquetArchive(tmp_path / "made" / "here")

    assert archive.put_segment(3, "0-0", "7-1", outcomes()) == "outcomes/shard=0003/0-0_7-1.parquet"
    assert archive.put_snapshot(3, "7-1", 2, b"s") == "snapshots/shard=0003/7-1_2.snap"
    archive.put_run(3, run_name("7-1", 2, 0), [b"r"])
    assert (tmp_path / "made/here/runs/shard=0003/7-1_2-0.run").read_bytes() == b"r"


def test_replaced_segment_leaves_no_file(tmp_path: Path) -> None:
    """Once the newer segment is durable, the one that it replaces is removed."""
    archive = ParquetArchive(tmp_path)
    for position in ("4-0", "9-0"):
        archive.put_segment(0, "0-0", position, outcomes())

    assert [path.name for path in (tmp_path / "outcomes/shard=0000").iterdir()] == ["0-0_9-0.parquet"]


def test_fenced_owner_waking_up_late_takes_nothing_from_its_successor(archive: Archive) -> None:
    """A shorter segment and an older snapshot, written after their successors, change nothing that is read."""
    archive.put_segment(0, "0-0", "9-0", outcomes(("e1", "booked", "4-0"), ("e2", "booked", "9-0")))
    later = archive.put_snapshot(0, "9-0", 2, b"later")

    archive.put_segment(0, "0-0", "4-0", outcomes(("e1", "booked", "4-0")))
    archive.forget_snapshots(0, keep=archive.put_snapshot(0, "4-0", 1, b"earlier"))

    assert archive.scan().collect()["id_hash"].to_list() == ids("e1", "e2")
    assert archive.get_snapshot(later) == b"later"


def test_temporary_files_of_a_crash_are_ignored_and_removed(tmp_path: Path) -> None:
    """Half-written files have no final name: nothing reads them, and the shard's next write removes them."""
    archive = ParquetArchive(tmp_path)
    archive.put_segment(0, "0-0", "4-0", outcomes(("e1", "booked", "4-0")))
    left = tmp_path / "outcomes/shard=0000/.halfway.tmp"
    left.write_bytes(b"PAR1 half of a file")

    assert archive.find(ids("e1")).height == 1
    archive.put_segment(0, "4-0", "5-0", outcomes(("e1", "booked", "5-0")))

    assert not left.exists()
    assert archive.find(ids("e1")).height == 2


def test_failed_write_leaves_neither_a_name_nor_a_temporary_file(tmp_path: Path) -> None:
    """A segment that can't be written leaves the archive as it was."""
    archive = ParquetArchive(tmp_path)
    name = archive.put_snapshot(0, "4-0", 1, b"good")

    with pytest.raises(TypeError):
        archive.put_snapshot(0, "4-0", 1, "no bytes")  # type: ignore[arg-type]

    assert [path.name for path in (tmp_path / "snapshots/shard=0000").iterdir()] == ["4-0_1.snap"]
    assert archive.get_snapshot(name) == b"good"


def test_snapshot_of_another_version_is_refused(tmp_path: Path) -> None:
    """A file without the head that this version writes is not taken for a snapshot."""
    archive = ParquetArchive(tmp_path)
    name = archive.put_snapshot(0, "4-0", 1, b"good")
    (tmp_path / name).write_bytes(b"something else")

    with pytest.raises(ValueError, match="another version"):
        archive.get_snapshot(name)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(("0-0", "4-0"), [("0-0", "9-0")], id="shorter one left over"),
        pytest.param(("0-0", "9-0"), [("0-0", "4-0")], id="longer one left over"),
        pytest.param(("0-0", "9-0"), [("0-0", "4-0"), ("4-0", "12-0")], id="longer one left over, then the next range"),
    ],
)
def test_crash_between_write_and_removal_counts_no_row_twice(tmp_path: Path, first: tuple, then: list[tuple]) -> None:
    """When a replaced segment could not be removed any more, its rows are still counted once."""
    archive = ParquetArchive(tmp_path)
    left = tmp_path / archive.put_segment(0, *first, _one_row_a_position(*first))
    content = left.read_bytes()
    for span in then:
        archive.put_segment(0, *span, _one_row_a_position(*span))
        left.write_bytes(content)

    furthest = max(int(position.split("-")[0]) for _, position in [first, *then])
    everything = ids(*(f"e{i}" for i in range(1, furthest + 1)))
    assert archive.scan().collect()["id_hash"].sort().to_list() == sorted(everything)


def _one_row_a_position(after: str, position: str) -> pl.DataFrame:
    numbers = range(int(after.split("-")[0]) + 1, int(position.split("-")[0]) + 1)
    return outcomes(*((f"e{i}", "booked", f"{i}-0") for i in numbers))
