"""The archive's contract, over the memory twin and over Parquet files; then what only files can show."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from adapters.archive.memory import MemoryArchive
from adapters.archive.parquet import ParquetArchive
from runtime.effects import OUTCOMES
from runtime.ports import Archive


@pytest.fixture(params=["memory", "parquet"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return MemoryArchive() if request.param == "memory" else ParquetArchive(tmp_path)


def outcomes(*rows: Sequence[str]) -> pl.DataFrame:
    """Outcome rows from (event_id, state, position[, source])."""
    filled = [_outcome(*row) for row in rows]
    return pl.DataFrame(filled, schema=OUTCOMES)


def _outcome(event_id: str, state: str, position: str, source: str = "epic") -> dict:
    given = {"event_id": event_id, "source": source, "state": state, "position": position, "amount_minor": 100}
    moment = datetime(2026, 10, 1, tzinfo=UTC)
    times = {"occurred_at": moment, "received_at": moment, "effective_on": date(2026, 10, 1)}
    return dict.fromkeys(OUTCOMES) | given | times | {"id_hash": 2**63 + 1, "digest": 7}


def states(rows: pl.DataFrame) -> list[tuple]:
    return rows.select("shard", "state", "position").rows()


def test_find_gives_every_outcome_over_shards_in_commit_order(archive: Archive) -> None:
    """An event's rows come from all segments of all shards, oldest commit first, compared as numbers."""
    archive.put_segment(3, "0-0", "10-2", outcomes(("e1", "pending", "9-0"), ("e2", "booked", "10-2")))
    archive.put_segment(3, "10-2", "10-11", outcomes(("e1", "booked", "10-11")))
    archive.put_segment(0, "0-0", "10-9", outcomes(("e1", "duplicate", "10-9")))

    assert states(archive.find("e1")) == [(3, "pending", "9-0"), (0, "duplicate", "10-9"), (3, "booked", "10-11")]


def test_find_by_source_leaves_out_other_sources(archive: Archive) -> None:
    """The same id of another source is another event."""
    archive.put_segment(0, "0-0", "2-0", outcomes(("e1", "booked", "1-0", "epic"), ("e1", "pending", "2-0", "card")))

    assert states(archive.find("e1", "card")) == [(0, "pending", "2-0")]
    assert archive.find("e1").height == 2
    assert archive.find("e1", "bank").height == 0


def test_find_in_an_empty_archive_gives_no_rows_with_all_columns(archive: Archive) -> None:
    """Nothing archived yet is an empty answer of the same shape."""
    assert archive.find("e1").schema == pl.Schema(OUTCOMES | {"shard": pl.Int32()})
    assert archive.find("e1").is_empty()


def test_scan_gives_back_rows_as_they_were_put(archive: Archive) -> None:
    """Types and values survive: 64-bit hashes, times with their zone, dates, nulls."""
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

    assert states(archive.find("e1")) == [(0, "booked", "3-0")]
    assert archive.scan().collect().height == 2


def test_put_segment_without_rows_is_a_segment(archive: Archive) -> None:
    """A range in which nothing was accepted is written like any other."""
    archive.put_segment(0, "0-0", "4-0", outcomes())
    archive.put_segment(0, "4-0", "5-0", outcomes(("e1", "booked", "5-0")))

    assert archive.scan().collect().height == 1


def test_snapshot_is_read_back_by_its_name(archive: Archive) -> None:
    """Snapshots come back byte for byte, and the same position again replaces the former."""
    first = archive.put_snapshot(2, "4-0", b"old")
    second = archive.put_snapshot(2, "9-1", bytes(range(256)))
    again = archive.put_snapshot(2, "4-0", b"new")

    assert archive.get_snapshot(second) == bytes(range(256))
    assert again == first and archive.get_snapshot(first) == b"new"


def test_forget_snapshots_keeps_the_named_one_and_other_shards(archive: Archive) -> None:
    """Only the same shard's other snapshots go."""
    gone, kept = archive.put_snapshot(2, "4-0", b"a"), archive.put_snapshot(2, "9-0", b"b")
    other = archive.put_snapshot(20, "4-0", b"c")

    archive.forget_snapshots(2, keep=kept)

    assert archive.get_snapshot(kept) == b"b" and archive.get_snapshot(other) == b"c"
    with pytest.raises(FileNotFoundError):
        archive.get_snapshot(gone)


# ── files alone ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names_are_paths_under_the_root(tmp_path: Path) -> None:
    """What the books record is where the file lies, so an archive can be moved with its root."""
    archive = ParquetArchive(tmp_path / "made" / "here")

    assert archive.put_segment(3, "0-0", "7-1", outcomes()) == "outcomes/shard=0003/0-0_7-1.parquet"
    assert archive.put_snapshot(3, "7-1", b"s") == "snapshots/shard=0003/7-1.snap"
    assert (tmp_path / "made/here/snapshots/shard=0003/7-1.snap").read_bytes() == b"s"


def test_replaced_segment_leaves_no_file(tmp_path: Path) -> None:
    """Once the newer segment is durable, the one that it replaces is removed."""
    archive = ParquetArchive(tmp_path)
    for position in ("4-0", "9-0"):
        archive.put_segment(0, "0-0", position, outcomes())

    assert [path.name for path in (tmp_path / "outcomes/shard=0000").iterdir()] == ["0-0_9-0.parquet"]


def test_fenced_owner_waking_up_late_takes_nothing_from_its_successor(archive: Archive) -> None:
    """A shorter segment and an older snapshot, written after their successors, change nothing that is read."""
    archive.put_segment(0, "0-0", "9-0", outcomes(("e1", "booked", "4-0"), ("e2", "booked", "9-0")))
    later = archive.put_snapshot(0, "9-0", b"later")

    archive.put_segment(0, "0-0", "4-0", outcomes(("e1", "booked", "4-0")))
    archive.forget_snapshots(0, keep=archive.put_snapshot(0, "4-0", b"earlier"))

    assert archive.scan().collect()["event_id"].to_list() == ["e1", "e2"]
    assert archive.get_snapshot(later) == b"later"


def test_temporary_files_of_a_crash_are_ignored_and_removed(tmp_path: Path) -> None:
    """Half-written files have no final name: nothing reads them, and the shard's next write removes them."""
    archive = ParquetArchive(tmp_path)
    archive.put_segment(0, "0-0", "4-0", outcomes(("e1", "booked", "4-0")))
    left = tmp_path / "outcomes/shard=0000/.halfway.tmp"
    left.write_bytes(b"PAR1 half of a file")

    assert archive.find("e1").height == 1
    archive.put_segment(0, "4-0", "5-0", outcomes(("e1", "booked", "5-0")))

    assert not left.exists()
    assert archive.find("e1").height == 2


def test_failed_write_leaves_neither_a_name_nor_a_temporary_file(tmp_path: Path) -> None:
    """A segment that can't be written leaves the archive as it was."""
    archive = ParquetArchive(tmp_path)
    archive.put_snapshot(0, "4-0", b"good")

    with pytest.raises(TypeError):
        archive.put_snapshot(0, "4-0", "no bytes")  # type: ignore[arg-type]

    assert [path.name for path in (tmp_path / "snapshots/shard=0000").iterdir()] == ["4-0.snap"]
    assert archive.get_snapshot("snapshots/shard=0000/4-0.snap") == b"good"


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
    assert archive.scan().collect()["event_id"].sort().to_list() == sorted(f"e{i}" for i in range(1, furthest + 1))


def _one_row_a_position(after: str, position: str) -> pl.DataFrame:
    numbers = range(int(after.split("-")[0]) + 1, int(position.split("-")[0]) + 1)
    return outcomes(*((f"e{i}", "booked", f"{i}-0") for i in numbers))
