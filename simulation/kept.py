"""The log and books twins, which also keep what is forgotten elsewhere: the truth that the auditor starts from.

Owns the record of every entry that was ever stored in the log, whoever was told so, and of where each commit ended.
"""

from collections.abc import Sequence

from adapters.books.memory import MemoryBooks
from adapters.log.memory import MemoryLog
from runtime.effects import Effects
from runtime.ports import Appended, LogEntry, LogRecord
from simulation.clock import VirtualClock


class KeptLog(MemoryLog):
    """A memory log that remembers what was trimmed."""

    def __init__(self, shards: int) -> None:
        super().__init__(shards)
        self.kept: list[list[LogRecord]] = [[] for _ in range(shards)]

    async def append(self, entries: Sequence[LogEntry]) -> Appended:
        """Append, and keep. See LogWriter."""
        appended = await super().append(entries)
        for entry, position in zip(entries, appended.positions, strict=True):
            self.kept[entry.shard].append(LogRecord(position, entry.type, entry.rows, entry.body))
        return appended


class KeptBooks(MemoryBooks):
    """Memory books that remember every commit's end."""

    def __init__(self, clock: VirtualClock, told_kinds: dict[str, str], shards: int) -> None:
        super().__init__(lambda: clock.wall_ms, told_kinds)
        self.cuts: list[list[str]] = [[] for _ in range(shards)]

    def commit(self, shard: int, epoch: int, after: str, position: str, rows: int, effects: Effects) -> None:
        """Commit, and keep. See Books."""
        super().commit(shard, epoch, after, position, rows, effects)
        self.cuts[shard].append(position)

    def unnumbered(self) -> int:
        """Statuses that have no number yet."""
        return len(self._unnumbered)
