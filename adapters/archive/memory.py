"""The archive in memory, with the same rows as the real one in the same order.

Owns some dicts. Never fails, and never keeps more than one segment that begins at a position.
"""

from collections.abc import Generator, Sequence

import polars as pl

from adapters.archive.snapshots import order_of
from runtime.effects import OUTCOMES
from runtime.ports import START, ArchivedStep, Buffer, position_key

_SHARD = {"shard": pl.Int32()}


class MemoryArchive:
    """Archive over dicts."""

    def __init__(self) -> None:
        self._segments: dict[tuple[int, str], tuple[str, pl.DataFrame]] = {}  # (shard, after) -> position, rows
        self._steps: dict[tuple[int, str], Sequence[ArchivedStep]] = {}  # the same segments' other half
        self._snapshots: dict[str, tuple[bytes, tuple[str, ...]]] = {}  # with the runs that each goes with
        self._runs: dict[tuple[int, str], bytes] = {}

    def put_segment(
        self, shard: int, after: str, position: str, outcomes: pl.DataFrame, steps: Sequence[ArchivedStep] = ()
    ) -> str:
        """Keep a segment; it replaces one that begins at the same position and does not reach further. See Archive."""
        rows = outcomes.select(*OUTCOMES).with_columns(pl.lit(shard, pl.Int32()).alias("shard"))
        held, _ = self._segments.get((shard, after), (after, rows))
        if position_key(held) <= position_key(position):
            self._segments[shard, after] = position, rows
            self._steps[shard, after] = tuple(steps)
        return f"outcomes/shard={shard:04d}/{after}_{position}"

    def steps(self, shard: int, after: str = START) -> Generator[ArchivedStep, None, None]:
        """Every step after that position. See Archive."""
        kept = [step for (owner, _), steps in self._steps.items() if owner == shard for step in steps]
        beyond = [step for step in kept if position_key(step.position) > position_key(after)]
        yield from sorted(beyond, key=lambda step: position_key(step.position))

    def step_at(self, shard: int, position: str) -> ArchivedStep | None:
        """The step that ended there. See Archive."""
        return next((step for step in self.steps(shard) if step.position == position), None)

    def compact(self, shard: int, through: str) -> None:
        """Nothing to merge. See Archive."""

    def put_run(self, shard: int, name: str, parts: Sequence[Buffer]) -> None:
        """Keep a run. See Archive."""
        self._runs[shard, name] = b"".join(parts)

    def get_run(self, shard: int, name: str) -> Buffer:
        """A run. See Archive."""
        if (shard, name) not in self._runs:
            raise FileNotFoundError(name)
        return self._runs[shard, name]

    def put_snapshot(self, shard: int, position: str, epoch: int, snapshot: bytes, runs: Sequence[str] = ()) -> str:
        """Keep a snapshot; its name. See Archive."""
        name = f"{_snapshots_of(shard)}{position}_{epoch}"
        self._snapshots[name] = bytes(snapshot), tuple(runs)
        return name

    def get_snapshot(self, name: str) -> bytes:
        """A snapshot by its name. FileNotFoundError when it was forgotten."""
        if name not in self._snapshots:
            raise FileNotFoundError(name)
        return self._snapshots[name][0]

    def forget_snapshots(self, shard: int, keep: str) -> None:
        """Drop this shard's snapshots before the one named, and the runs that nothing needs. See Archive."""
        prefix = _snapshots_of(shard)
        bound, needed = order_of(keep.removeprefix(prefix)), self._snapshots[keep][1]
        for name in [name for name in self._snapshots if name.startswith(prefix)]:
            if order_of(name.removeprefix(prefix)) < bound:
                del self._snapshots[name]
        for owner, name in list(self._runs):
            if owner == shard and name not in needed and order_of(name)[0] <= bound[0]:
                del self._runs[owner, name]

    def find(self, id_hashes: Sequence[int]) -> pl.DataFrame:
        """Every outcome row of these identities. See Archive."""
        return self.scan().filter(pl.col("id_hash").is_in(list(id_hashes))).collect()

    def scan(self) -> pl.LazyFrame:
        """All outcome rows of all shards. See Archive."""
        rows = pl.concat([pl.DataFrame(schema=OUTCOMES | _SHARD), *(rows for _, rows in self._segments.values())])
        order = [position_key(position) for position in rows["position"]]
        return rows[sorted(range(rows.height), key=order.__getitem__)].lazy()


def _snapshots_of(shard: int) -> str:
    return f"snapshots/shard={shard:04d}/"
