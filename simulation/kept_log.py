"""The log twin, which also keeps what was trimmed: the truth that the auditor starts from.

Owns the record of every entry that was ever stored, whoever was told so.
"""

from collections.abc import Sequence

from adapters.log.memory import MemoryLog
from runtime.ports import Appended, LogEntry, LogRecord


class KeptLog(MemoryLog):
    """A memory log that remembers all."""

    def __init__(self, shards: int) -> None:
        super().__init__(shards)
        self.kept: list[list[LogRecord]] = [[] for _ in range(shards)]

    async def append(self, entries: Sequence[LogEntry]) -> Appended:
        """Append, and keep. See LogWriter."""
        appended = await super().append(entries)
        for entry, position in zip(entries, appended.positions, strict=True):
            self.kept[entry.shard].append(LogRecord(position, entry.type, entry.rows, entry.body))
        return appended
