"""The log's writer as a door uses it, some of whose entries look as those of large requests do: with coded words.

Owns which entries these are, drawn from the seed. Never changes what an entry says. So coded entries, plain ones and
those of derived events meet in one step, though a run's requests are too small to be coded by themselves.
"""

import random
from collections.abc import Sequence

from runtime.flow import frames
from runtime.ports import Appended, LogEntry, LogWriter, ShardLag
from runtime.schema import to_arrow, with_coded_words

CODED = 0.3  # of entries


class CodedWriter:
    """A `LogWriter` around another one."""

    def __init__(self, writer: LogWriter, rng: random.Random) -> None:
        self._writer, self._rng = writer, rng

    async def append(self, entries: Sequence[LogEntry]) -> Appended:
        """Append them, some in their other form."""
        return await self._writer.append([_coded(one) if self._rng.random() < CODED else one for one in entries])

    async def lag(self) -> dict[int, ShardLag]:
        """As it is."""
        return await self._writer.lag()

    async def close(self) -> None:
        """Close the writer beneath."""
        await self._writer.close()


def _coded(entry: LogEntry) -> LogEntry:
    if entry.type != "events":
        return entry
    batch = with_coded_words(to_arrow(frames.decode_sealed(entry.body)))
    return entry._replace(body=frames.encode_arrow(batch, coded_rows_min=1))
