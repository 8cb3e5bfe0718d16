"""The event log in memory: LogWriter and LogReader over one object, with faults on demand.

Differs from the real one: positions count 1-0, 2-0, …; `read` never waits; durability is "memory".
Owns a plan of faults for appends, so that simulations can refuse one or lose its answer, and a way to lose what was
stored last. Never sleeps, never locks.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from runtime.errors import LogRefused, LogUnavailable
from runtime.ports import Appended, LogEntry, LogRecord, ShardLag, position_key

# "refuse": LogRefused, nothing stored. "lose_call": LogUnavailable, nothing stored.
# "lose_answer": LogUnavailable, but stored.
AppendFault = Literal["none", "refuse", "lose_call", "lose_answer"]


class MemoryLog:
    """A log of S shards. `plan` says how the next appends fail; when the plan is used up, they succeed."""

    def __init__(self, shards: int, plan: Iterable[AppendFault] = ()) -> None:
        self._plan = deque(plan)
        self._records: list[list[LogRecord]] = [[] for _ in range(shards)]
        self._entries_ever = [0] * shards
        self._rows_appended = [0] * shards
        self._rows_committed = [0] * shards
        self.held = False

    def plan(self, *faults: AppendFault) -> None:
        """Add to the plan: one fault an append."""
        self._plan.extend(faults)

    async def append(self, entries: Sequence[LogEntry]) -> Appended:
        """Append all entries or none. See LogWriter."""
        fault = self._plan.popleft() if self._plan else "none"
        if fault == "refuse" or any(entry.shard >= self.shards() for entry in entries):
            raise LogRefused("the log refused to store")
        if fault == "lose_call":
            raise LogUnavailable("the log did not answer")
        positions = tuple(self._append_one(entry) for entry in entries)
        if fault == "lose_answer":
            raise LogUnavailable("the log did not answer")
        return Appended(positions, "memory", 0)

    def _append_one(self, entry: LogEntry) -> str:
        self._entries_ever[entry.shard] += 1
        self._rows_appended[entry.shard] += entry.rows
        position = f"{self._entries_ever[entry.shard]}-0"
        self._records[entry.shard].append(LogRecord(position, entry.type, entry.rows, entry.body))
        return position

    async def lag(self) -> dict[int, ShardLag]:
        """Every shard's lag. See LogWriter."""
        return {
            shard: ShardLag(self._rows_appended[shard], self._rows_committed[shard], sum(r.rows for r in records))
            for shard, records in enumerate(self._records)
        }

    def shards(self) -> int:
        """S."""
        return len(self._records)

    def read(self, after: dict[int, str], rows_max: int, wait_ms: int) -> dict[int, list[LogRecord]]:
        """Entries after each position, at once. See LogReader."""
        found = {shard: list(self._fitting(shard, position, rows_max)) for shard, position in after.items()}
        return {shard: records for shard, records in found.items() if records}

    def _fitting(self, shard: int, after: str, rows_max: int) -> Iterator[LogRecord]:
        total = 0
        for record in self._after(shard, after):
            total += max(1, record.rows)
            if total > rows_max and total > max(1, record.rows):
                return
            yield record

    def _after(self, shard: int, position: str) -> list[LogRecord]:
        return [r for r in self._records[shard] if position_key(r.position) > position_key(position)]

    def read_range(self, shard: int, after: str, to: str) -> list[LogRecord]:
        """All entries in (after, to]. See LogReader."""
        return [r for r in self._after(shard, after) if position_key(r.position) <= position_key(to)]

    def rows_through(self, shard: int, position: str) -> int:
        """Rows ever appended up to this position. See LogReader."""
        return self._rows_appended[shard] - sum(record.rows for record in self._after(shard, position))

    def mark_committed(self, shard: int, rows_total: int) -> int:
        """Tell writers how far this shard is. See LogReader."""
        self._rows_committed[shard] = max(rows_total, self._rows_committed[shard])
        lost = max(0, self._rows_committed[shard] - self._rows_appended[shard])
        self._rows_appended[shard] += lost
        return lost

    def is_held(self) -> bool:
        """Whether it is held. See LogReader."""
        return self.held

    def trim(self, shard: int, through: str) -> None:
        """Forget entries up to and including this position. See LogReader."""
        if not self.held:
            self._records[shard] = self._after(shard, through)

    def lose(self, shard: int, entries: int) -> None:
        """Come back without the newest entries, as a server does that had not written them to disk."""
        kept = len(self._records[shard]) - entries
        self._rows_appended[shard] -= sum(record.rows for record in self._records[shard][kept:])
        del self._records[shard][kept:]

    def close(self) -> "_Closed":
        """Nothing to close; awaitable, as one of the two ports closes with `await`."""
        return _Closed()


class _Closed:
    def __await__(self) -> Iterator[None]:
        return iter(())
