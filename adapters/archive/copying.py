"""Copying the part of an archive that belongs to a copy of the books.

Owns which files those are: of each shard the snapshot that its checkpoint names, with its runs, and the segments that
end at or before it. What came later belongs to a future that the copy does not know, and would contradict the one that
follows from it.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from adapters.archive.segments import counted
from adapters.archive.snapshots import runs_of
from runtime.ports import CopiedShard, position_key

TRIES = 5
SHARED = ("payloads",)  # what lies beside the shards' folders and belongs to all of them


def copy(root: Path, target: Path, shards: Iterable[CopiedShard]) -> int:
    """Copy it; how many files. Nothing may be forgotten meanwhile; merging a segment is noticed, and looked at anew."""
    files = 0
    for shard in shards:
        for what in ("steps", "outcomes"):
            files += _copy_segments(root / what / f"shard={shard.shard:04d}", target, shard)
        if shard.snapshot:
            files += _copy_snapshot(root, target, shard)
    for name in SHARED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns(".*"))
            files += sum(path.is_file() for path in (target / name).rglob("*"))
    return files


def _copy_segments(folder: Path, target: Path, shard: CopiedShard) -> int:
    into = target / folder.parent.name / folder.name
    for tried in range(TRIES):
        try:
            return sum(1 for _ in _copied(folder, into, shard))
        except FileNotFoundError:
            shutil.rmtree(into, ignore_errors=True)
            if tried == TRIES - 1:
                raise
    return 0


def _copy_snapshot(root: Path, target: Path, shard: CopiedShard) -> int:
    folder, snapshot = f"shard={shard.shard:04d}", root / shard.snapshot
    _copy_file(snapshot, target / "snapshots" / folder)
    names = runs_of(snapshot)
    for name in names:
        _copy_file(root / "runs" / folder / f"{name}.run", target / "runs" / folder)
    return 1 + len(names)


def _copied(folder: Path, into: Path, shard: CopiedShard) -> Iterator[Path]:
    reached = position_key(shard.checkpoint)
    wanted = [segment for segment in counted(folder) if segment.position <= reached]
    for segment in wanted:
        yield _copy_file(segment.path, into)


def _copy_file(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(path, folder))
