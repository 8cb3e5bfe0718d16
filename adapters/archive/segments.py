"""Segments as files: which of a folder count, how one is written whole, and how small neighbours become one.

Owns the names `<after>_<position>.parquet` and the rule of what counts: going back from the newest end, the widest
segment first; what a wider one covers, or what reaches into one that counts, is passed over. A crash at any point
therefore leaves a folder that reads the same. Never looks at what the columns mean.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow.parquet as pq

from runtime.ports import position_key

MERGE_FILES = 16  # neighbours that become one
SMALL_BYTES = (256 * 2**10, 4 * 2**20)  # sizes below which segments are merged with their like; larger ones stay
BATCH_ROWS = 65_536

Item = TypeVar("Item")


class Segment(NamedTuple):
    """A file and the range of positions that it holds, (after, position]."""

    path: Path
    after: tuple[int, int]
    position: tuple[int, int]

    @classmethod
    def at(cls, path: Path) -> "Segment":
        """The segment that a file's name tells."""
        after, _, position = path.stem.partition("_")
        return cls(path, position_key(after), position_key(position))


def counted(folder: Path) -> list[Segment]:
    """The segments that make up a shard's history, each position in one of them only, oldest first."""
    found = sorted(map(Segment.at, folder.glob("[0-9]*.parquet")), key=lambda s: s.after)
    found.sort(key=lambda s: s.position, reverse=True)
    taken: list[Segment] = []
    for segment in found:
        if not taken or segment.position <= taken[-1].after:
            taken.append(segment)
    return taken[::-1]


def followed(
    folder: Path, after: str, read: Callable[[Path], Iterable[Item]], position_of: Callable[[Item], str]
) -> Iterator[Item]:
    """What `read` makes of the segments after a position, oldest first, each item once, however long that takes.

    The segments are looked for anew each time: what came next may have become part of a wider one, and be gone.
    """
    reached, missing = position_key(after), None
    while segment := next((one for one in counted(folder) if one.position > reached), None):
        try:
            for item in read(segment.path):
                if (place := position_key(position_of(item))) > reached:
                    reached = place
                    yield item
            reached = segment.position
        except FileNotFoundError:
            if segment.path == missing:
                raise
            missing = segment.path


def drop_shorter(folder: Path, after: str, position: str) -> None:
    """Remove segments that begin at the same position and end before it: what is durable now holds their rows."""
    for other in map(Segment.at, folder.glob(f"{after}_*.parquet")):
        if other.position < position_key(position):
            other.path.unlink(missing_ok=True)


def compact(folder: Path, through: str) -> None:
    """Remove what an earlier round has merged, then merge one run of small neighbours.

    Merged files stay for a round, so that whoever listed them can still open them; who reads longer than that looks
    for them anew (`followed`).
    """
    bound = position_key(through)
    kept = [segment for segment in counted(folder) if segment.position <= bound]
    wide = {segment.path for segment in kept}
    for other in map(Segment.at, folder.glob("[0-9]*.parquet")):
        if other.path not in wide and any(_covers(segment, other) for segment in kept):
            other.path.unlink(missing_ok=True)
    if run := _run_to_merge(kept):
        _merge(folder, run)


def _covers(wide: Segment, other: Segment) -> bool:
    return wide.after <= other.after and other.position <= wide.position


def _run_to_merge(segments: Sequence[Segment]) -> Sequence[Segment]:
    """The oldest MERGE_FILES neighbours that are all small, of the smallest size that has so many; none otherwise."""
    sizes = [segment.path.stat().st_size for segment in segments]
    for limit in SMALL_BYTES:
        begin = 0
        for at, segment in enumerate(segments):
            adjoins = at > begin and segments[at - 1].position == segment.after
            if sizes[at] >= limit:
                begin = at + 1
            elif not adjoins:
                begin = at
            if at + 1 - begin == MERGE_FILES:
                return segments[begin : at + 1]
    return ()


def _merge(folder: Path, run: Sequence[Segment]) -> None:
    """One file over the whole range, a row group at a time. Its name makes the others passed over."""
    assert all(one.position == next_one.after for one, next_one in pairwise(run))
    name = f"{run[0].path.stem.partition('_')[0]}_{run[-1].path.stem.partition('_')[2]}.parquet"
    write_whole(folder / name, lambda temporary: _write_merged([segment.path for segment in run], temporary))


def _write_merged(paths: Sequence[Path], target: Path) -> None:
    schema = pq.read_schema(paths[0])
    with pq.ParquetWriter(target, schema, compression="zstd", compression_level=3) as writer:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS):
                    writer.write_batch(batch.cast(schema) if batch.schema != schema else batch)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then give it its name, durably."""
    for left in path.parent.glob(".*.tmp"):  # of a writer that died: a shard has one at a time
        left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Make a file, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
