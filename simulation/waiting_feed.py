"""The feed twin with what a real one does beside: it waits for messages, and begins anew after a failure.

Owns nothing but these two. Without the wait, no time would pass in a reader's loop; without the new beginning, messages
whose answer was lost would stay with a reader that does not know of them.
"""

import asyncio

from adapters.feeds.memory import MemoryFeed
from runtime.ports import FeedMessage


class WaitingFeed(MemoryFeed):
    """A memory feed whose empty polls take their time."""

    def start_over(self) -> None:
        """After a failure: everything that this reader has not acknowledged is unseen."""
        self._unseen = self.stream.pending_of(self._consumer)

    async def poll(self, rows_max: int, wait_ms: int) -> list[FeedMessage]:
        """Messages, or none after the wait. See Feed."""
        messages = await super().poll(rows_max, wait_ms)
        if not messages:
            await asyncio.sleep(wait_ms / 1000)
        return messages
