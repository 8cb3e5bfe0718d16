"""The archive as files under one root folder.

    steps/shard=0003/<after>_<position>.parquet       the log's entries of (after, position], each as it came
    outcomes/shard=0003/<after>_<position>.parquet    OUTCOMES of (after, position], in commit order
    snapshots/ and runs/                              what an owner starts from: see `snapshots`

With the steps the archive is the full record: events with their repeats, mapping versions, decisions, period closes and
ticks, in the order and the steps in which they were taken. The books can be derived from it anew.

Owns the names and the order of writing: a temporary file, its fsync, the rename, the folder's fsync. A file with a
final name is therefore whole. Never removes a segment that nothing replaces.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from adapters.archive import segments, snapshots
from adapters.archive.steps import read as read_steps
from adapters.archive.steps import read_one as read_step
from adapters.archive.steps import write as write_steps
from runtime.effects import OUTCOMES
from runtime.ports import START, ArchivedStep, Buffer, position_key

ROW_GROUP_ROWS = 262_144
_SHARD = {"shard": pl.Int32()}


class ParquetArchive:
    """Archive over a local (or mounted) folder. A shard has one writer at a time: its owner."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)

    def put_segment(
        self, shard: int, after: str, position: str, outcomes: pl.DataFrame, steps: Sequence[ArchivedStep] = ()
    ) -> str:
        """Write a segment; it replaces those that begin at the same position and end before it. See Archive.

        One that reaches further stays: it is a successor's, and this writer is a fenced owner that does not know yet.
        Steps come first: outcomes whose steps are missing could not be derived again.
        """
        if steps:
            self._put("steps", shard, (after, position), lambda path: write_steps(steps, path))
        rows = outcomes.select(*OUTCOMES)
        return self._put("outcomes", shard, (after, position), lambda path: _write_parquet(rows, path))

    def _put(self, what: str, shard: int, span: tuple[str, str], write: Callable[[Path], object]) -> str:
        folder = self._folder(what, shard)
        path = folder / f"{span[0]}_{span[1]}.parquet"
        segments.write_whole(path, write)
        segments.drop_shorter(folder, *span)
        return self._name(path)

    def steps(self, shard: int, after: str = START) -> Generator[ArchivedStep, None, None]:
        """Every step after that position. See Archive."""
        folder = self._root / "steps" / f"shard={shard:04d}"
        yield from segments.followed(folder, after, read_steps, attrgetter("position"))

    def step_at(self, shard: int, position: str) -> ArchivedStep | None:
        """The step that ended there. See Archive."""
        place = position_key(position)
        for segment in segments.counted(self._root / "steps" / f"shard={shard:04d}"):
            if segment.after < place <= segment.position:
                return read_step(segment.path, position)
        return None

    def compact(self, shard: int, through: str) -> None:
        """Merge small segments of both halves. See Archive."""
        for what in ("steps", "outcomes"):
            segments.compact(self._folder(what, shard), through)

    def put_run(self, shard: int, name: str, parts: Sequence[Buffer]) -> None:
        """Write a run, durable on return. See Archive."""
        snapshots.put_run(self._folder("runs", shard), name, parts)

    def get_run(self, shard: int, name: str) -> Buffer:
        """A run, mapped into memory. See Archive."""
        return snapshots.get_run(self._folder("runs", shard), name)

    def put_snapshot(self, shard: int, position: str, epoch: int, snapshot: bytes, runs: Sequence[str] = ()) -> str:
        """Write a snapshot, durable on return; its name. See Archive."""
        return self._name(snapshots.put(self._folder("snapshots", shard), position, epoch, snapshot, runs))

    def get_snapshot(self, name: str) -> bytes:
        """Read a snapshot by the name that put_snapshot gave. FileNotFoundError when it was forgotten."""
        return snapshots.get(self._root / name)

    def forget_snapshots(self, shard: int, keep: str) -> None:
        """Drop this shard's snapshots before the one named, and the runs that nothing needs. See Archive."""
        snapshots.forget(self._folder("snapshots", shard), self._folder("runs", shard), self._root / keep)

    def find(self, id_hashes: Sequence[int]) -> pl.DataFrame:
        """Every outcome row of these identities. See Archive."""
        wanted = pl.lit(pl.Series(id_hashes, dtype=pl.UInt64()).implode())
        return in_commit_order(self.scan().filter(pl.col("id_hash").is_in(wanted)).collect())

    def scan(self) -> pl.LazyFrame:
        """All outcome rows of all shards. See Archive."""
        paths = [s.path for folder in sorted(self._root.glob("outcomes/shard=*")) for s in segments.counted(folder)]
        if not paths:
            return pl.LazyFrame(schema=OUTCOMES | _SHARD)
        return pl.scan_parquet(paths, hive_partitioning=True, hive_schema=_SHARD)

    def outcomes_of(self, shard: int) -> Generator[tuple[str, pl.DataFrame], None, None]:
        """The shard's outcome rows by commit, (position, rows), oldest first; one segment at a time in memory."""
        folder = self._root / "outcomes" / f"shard={shard:04d}"
        yield from segments.followed(folder, START, _by_commit, itemgetter(0))

    def _folder(self, what: str, shard: int) -> Path:
        folder = self._root / what / f"shard={shard:04d}"
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder.parent, self._root, self._root.parent):
                segments.fsync(made)
        return folder

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def in_commit_order(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Rows by the position of their commit, compared as numbers; rows of one commit keep their order."""
    parts = pl.col("position").str.splitn("-", 2).struct
    ms, sequence = parts.field("field_0").cast(pl.Int64), parts.field("field_1").cast(pl.UInt64)
    return outcomes.sort(ms, sequence, maintain_order=True)


def _by_commit(path: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """The commits of a file, oldest first."""
    for rows in pl.read_parquet(path).partition_by("position", maintain_order=True):
        yield rows["position"][0], rows


def _write_parquet(rows: pl.DataFrame, path: Path) -> None:
    """Hashes can't be made smaller, and the rest is repeated mostly. Not by Polars, whose pool is the shards'."""
    options = {"compression": "lz4", "write_statistics": False, "use_dictionary": ["state", "position", "set_no"]}
    pq.write_table(rows.to_arrow(), path, row_group_size=ROW_GROUP_ROWS, **options)
