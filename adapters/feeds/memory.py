"""A feed in memory, from plain items.

Differs from the real one: `poll` never waits, and a consumer's messages are abandoned by its `close`, not by time.
Owns what tests look at: which ids were acknowledged, and what was dead-lettered and why.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from runtime.ports import FeedMessage

Item = Mapping[bytes, bytes] | Exception


class DeadLetter(NamedTuple):
    """A message that was moved away, and why."""

    message: FeedMessage
    code: str
    column: str
    reason: str


class MemoryStream:
    """What the consumers of one group share. An exception among the items is raised by the poll that reaches it."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self.waiting: list[FeedMessage | Exception] = []
        self.pending: dict[str, tuple[str, FeedMessage]] = {}  # id -> consumer, message
        self.acknowledged: list[str] = []
        self.dead: list[DeadLetter] = []
        self._items_ever = 0
        for item in items:
            self.add(item)

    def add(self, item: Item) -> str:
        """Add a message, or an exception to raise; the id it gets."""
        self._items_ever += 1
        id = f"{self._items_ever}-0"
        self.waiting.append(item if isinstance(item, Exception) else FeedMessage(id, dict(item)))
        return id

    def take(self, consumer: str, rows_max: int) -> list[FeedMessage]:
        """Hand new messages to a consumer."""
        if self.waiting and isinstance(self.waiting[0], Exception):
            raise self.waiting.pop(0)
        count = next((i for i, item in enumerate(self.waiting) if isinstance(item, Exception)), len(self.waiting))
        taken = self.waiting[: min(count, rows_max)]
        del self.waiting[: len(taken)]
        self.pending |= {message.id: (consumer, message) for message in taken}
        return taken

    def pending_of(self, consumer: str) -> list[FeedMessage]:
        """What was handed to a consumer and not acknowledged, oldest first."""
        return [message for owner, message in self.pending.values() if owner == consumer]

    def end(self, ids: Sequence[str]) -> None:
        """Forget pending messages; unknown ids are ignored."""
        known = [id for id in ids if self.pending.pop(id, None)]
        self.acknowledged += known


class MemoryFeed:
    """One consumer of a stream, which may be given as plain items."""

    def __init__(self, items: Iterable[Item] | MemoryStream = (), consumer: str = "reader") -> None:
        self.stream = items if isinstance(items, MemoryStream) else MemoryStream(items)
        self._consumer = consumer
        self._unseen = self.stream.pending_of(consumer)

    async def poll(self, rows_max: int, wait_ms: int) -> list[FeedMessage]:
        """Own pending messages, then abandoned ones, then new ones. See Feed."""
        self._unseen += self._claim()
        page, self._unseen = self._unseen[:rows_max], self._unseen[rows_max:]
        return page or self.stream.take(self._consumer, rows_max)

    def _claim(self) -> list[FeedMessage]:
        abandoned = self.stream.pending_of(_ABANDONED)
        self.stream.pending |= {message.id: (self._consumer, message) for message in abandoned}
        return abandoned

    async def acknowledge(self, ids: Sequence[str]) -> None:
        """End these messages' redelivery. See Feed."""
        self.stream.end(ids)

    async def dead_letter(self, message: FeedMessage, code: str, column: str, reason: str) -> None:
        """Move a message away with the reason. See Feed."""
        self.stream.dead.append(DeadLetter(message, code, column, reason))
        self.stream.end([message.id])

    async def close(self) -> None:
        """Die: what was not acknowledged goes to whoever of the group polls next."""
        mine = self.stream.pending_of(self._consumer)
        self.stream.pending |= {message.id: (_ABANDONED, message) for message in mine}


_ABANDONED = ""
