"""The log and books twins, which also keep what is forgotten elsewhere: the truth that the auditor starts from.

Owns the record of every entry that was ever stored in the log, whoever was told so, of where each commit ended, and of
what the books were told of deliveries.
"""

from collections.abc import Sequence

from adapters.books.memory import MemoryBooks
from adapters.log.memory import MemoryLog
from runtime.effects import Effects
from runtime.ports import Appended, JournalEntry, LogEntry, LogRecord, Outcome
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
    """Memory books that remember every commit's end, and every entry that was ever rejected."""

    def __init__(self, clock: VirtualClock, told_kinds: dict[str, str], shards: int) -> None:
        super().__init__(lambda: clock.wall_ms, told_kinds)
        self.cuts: list[list[str]] = [[] for _ in range(shards)]
        self.refused: set[str] = set()  # keys

    def commit(self, shard: int, epoch: int, after: str, position: str, rows: int, effects: Effects) -> None:
        """Commit, and keep. See Books."""
        super().commit(shard, epoch, after, position, rows, effects)
        self.cuts[shard].append(position)

    def record_outcomes(self, owner: str, epoch: int, outcomes: Sequence[Outcome]) -> None:
        """Record, and keep. See Books."""
        super().record_outcomes(owner, epoch, outcomes)
        self.refused |= {outcome.key for outcome in outcomes if self._entries[outcome.key].state == "rejected"}

    def entry(self, key: str) -> JournalEntry:
        """An entry, whatever became of it."""
        return self._entries[key].entry

    def unnumbered(self) -> int:
        """Statuses that have no number yet."""
        return len(self._unnumbered)
