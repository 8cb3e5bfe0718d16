"""Snapshots and runs as files: what a shard's owner starts from.

    snapshots/shard=0003/<position>_<epoch>.snap      names of the runs that it goes with, then the engine's own bytes
    runs/shard=0003/<position>_<epoch>-<number>.run   a part of the state that never changes, written once

Names hold the epoch of who wrote them: an owner that was overtaken and does not know yet overwrites nothing of its
successor's. Owns the names, the head of a snapshot, and which files nobody needs any more. Never reads what the engine
wrote.
"""

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec

from adapters.archive import segments
from runtime.ports import Buffer, position_key

_HEAD = struct.Struct("<4sI")  # magic, and the length of the names that follow
_MAGIC = b"PSN1"


def put(folder: Path, position: str, epoch: int, snapshot: bytes, runs: Sequence[str]) -> Path:
    """Write a snapshot; where it is."""
    path = folder / f"{position}_{epoch}.snap"
    names = msgspec.json.encode(runs)
    segments.write_whole(path, lambda to: _write(to, [_HEAD.pack(_MAGIC, len(names)), names, snapshot]))
    return path


def get(path: Path) -> bytes:
    """The engine's bytes of a snapshot."""
    return _parts(path)[1]


def runs_of(path: Path) -> list[str]:
    """The runs that a snapshot goes with."""
    return msgspec.json.decode(_parts(path)[0], type=list[str])


def put_run(folder: Path, name: str, parts: Sequence[Buffer]) -> None:
    """Write a run."""
    segments.write_whole(folder / f"{name}.run", lambda to: _write(to, parts))


def get_run(folder: Path, name: str) -> memoryview:
    """A run as a part of memory that is read from its file when it is looked at, also after the file's removal."""
    with (folder / f"{name}.run").open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def forget(snapshots: Path, runs: Path, keep: Path) -> None:
    """Remove the snapshots before this one, and the runs up to it that it does not go with.

    Runs of a later place are a successor's, and all others that a successor needs go with this snapshot, too: it is
    what the successor started from.
    """
    bound, needed = order_of(keep.stem), set(runs_of(keep))
    for path in snapshots.glob("[0-9]*.snap"):
        if order_of(path.stem) < bound:
            path.unlink(missing_ok=True)
    for path in runs.glob("[0-9]*.run"):
        if path.stem not in needed and order_of(path.stem)[0] <= bound[0]:
            path.unlink(missing_ok=True)


def order_of(stem: str) -> tuple[tuple[int, int], int]:
    """The position in the name of a snapshot or a run, and the epoch."""
    position, _, mark = stem.partition("_")
    return position_key(position), int(mark.partition("-")[0])


def _parts(path: Path) -> tuple[bytes, bytes]:
    content = path.read_bytes()
    magic, length = _HEAD.unpack_from(content)
    if magic != _MAGIC:
        raise ValueError(f"{path.name} was written by another version of penstock")
    return content[_HEAD.size : _HEAD.size + length], content[_HEAD.size + length :]


def _write(path: Path, parts: Sequence[Buffer]) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
