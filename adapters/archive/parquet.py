"""The archive as files under one root folder.

    outcomes/shard=0003/<after>_<position>.parquet    OUTCOMES of (after, position], zstd, in commit order
    snapshots/shard=0003/<position>.snap              a snapshot as the engine wrote it

Owns the names and the order of writing: a temporary file, its fsync, the rename, the folder's fsync. A file with a
final name is therefore whole. Never reads a snapshot's content, never removes a segment that nothing replaces.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from runtime.effects import OUTCOMES
from runtime.ports import position_key

ROW_GROUP_ROWS = 262_144
_SHARD = {"shard": pl.Int32()}


class _Segment(NamedTuple):
    path: Path
    after: tuple[int, int]
    position: tuple[int, int]

    @classmethod
    def at(cls, path: Path) -> "_Segment":
        after, _, position = path.stem.partition("_")
        return cls(path, position_key(after), position_key(position))


class ParquetArchive:
    """Archive over a local (or mounted) folder. A shard has one writer at a time: its owner."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)

    def put_segment(self, shard: int, after: str, position: str, outcomes: pl.DataFrame) -> str:
        """Write a segment; it replaces those that begin at the same position and end before it. See Archive.

        One that reaches further stays: it is a successor's, and this writer is a fenced owner that does not know yet.
        """
        folder = self._folder("outcomes", shard)
        path = folder / f"{after}_{position}.parquet"
        rows = in_commit_order(outcomes.select(*OUTCOMES))
        _write_whole(path, lambda temporary: _write_parquet(rows, temporary))
        for other in map(_Segment.at, folder.glob(f"{after}_*.parquet")):
            if other.position < position_key(position):
                other.path.unlink(missing_ok=True)
        return self._name(path)

    def put_snapshot(self, shard: int, position: str, snapshot: bytes) -> str:
        """Write a snapshot, durable on return; its name. See Archive."""
        path = self._folder("snapshots", shard) / f"{position}.snap"
        _write_whole(path, lambda temporary: temporary.write_bytes(snapshot))
        return self._name(path)

    def get_snapshot(self, name: str) -> bytes:
        """Read a snapshot by the name that put_snapshot gave. FileNotFoundError when it was forgotten."""
        return (self._root / name).read_bytes()

    def forget_snapshots(self, shard: int, keep: str) -> None:
        """Drop this shard's snapshots before the one named. See Archive."""
        kept = position_key(Path(keep).stem)
        for path in self._folder("snapshots", shard).glob("[0-9]*.snap"):
            if position_key(path.stem) < kept:
                path.unlink(missing_ok=True)

    def find(self, event_id: str, source: str = "") -> pl.DataFrame:
        """Every outcome row of that event. See Archive."""
        rows = self.scan().filter(pl.col("event_id") == event_id)
        if source:
            rows = rows.filter(pl.col("source") == source)
        return in_commit_order(rows.collect())

    def scan(self) -> pl.LazyFrame:
        """All outcome rows of all shards. See Archive."""
        paths = [s.path for folder in sorted(self._root.glob("outcomes/shard=*")) for s in _counted(folder)]
        if not paths:
            return pl.LazyFrame(schema=OUTCOMES | _SHARD)
        return pl.scan_parquet(paths, hive_partitioning=True, hive_schema=_SHARD)

    def _folder(self, what: str, shard: int) -> Path:
        folder = self._root / what / f"shard={shard:04d}"
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder.parent, self._root, self._root.parent):
                _fsync(made)
        return folder

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def in_commit_order(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Rows by the position of their commit, compared as numbers; rows of one commit keep their order."""
    parts = pl.col("position").str.splitn("-", 2).struct
    ms, sequence = parts.field("field_0").cast(pl.Int64), parts.field("field_1").cast(pl.UInt64)
    return outcomes.sort(ms, sequence, maintain_order=True)


def _counted(folder: Path) -> list[_Segment]:
    """The segments of a shard that make up its history, each position in one of them only, oldest first.

    A crash may leave a segment beside the one that replaced it. Going back from the newest, each next one must end
    where the last began or before; what reaches further repeats rows that are there already.
    """
    found = sorted(map(_Segment.at, folder.glob("[0-9]*.parquet")), key=lambda s: (s.position, s.after), reverse=True)
    counted: list[_Segment] = []
    for segment in found:
        if not counted or segment.position <= counted[-1].after:
            counted.append(segment)
    return counted[::-1]


def _write_parquet(rows: pl.DataFrame, path: Path) -> None:
    rows.write_parquet(path, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_ROWS)


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then give it its name, durably."""
    for left in path.parent.glob(".*.tmp"):  # of a writer that died: a shard has one at a time
        left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
