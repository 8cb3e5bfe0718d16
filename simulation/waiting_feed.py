"""The feed twin, which also waits for messages as a real one does, so that a reader's loop has time pass in it."""

import asyncio

from adapters.feeds.memory import MemoryFeed
from runtime.ports import FeedMessage


class WaitingFeed(MemoryFeed):
    """A memory feed whose empty polls take their time."""

    async def poll(self, rows_max: int, wait_ms: int) -> list[FeedMessage]:
        """Messages, or none after the wait. See Feed."""
        messages = await super().poll(rows_max, wait_ms)
        if not messages:
            await asyncio.sleep(wait_ms / 1000)
        return messages
