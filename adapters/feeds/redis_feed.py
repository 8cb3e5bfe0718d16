"""A Redis or Valkey stream as a feed: one consumer of one consumer group.

Owns the group (made at the stream's beginning when missing) and `<stream>:dead`, whose entries hold the original
fields and penstock_id, penstock_code, penstock_column, penstock_reason. Never trims the stream: its owner does.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from runtime.errors import LogRefused, LogUnavailable
from runtime.ports import FeedMessage

TIMEOUT_S = 10.0
BLOCK_MS_MAX = 5_000  # well inside TIMEOUT_S, so that a quiet feed is not taken for a dead one
CLAIM_IDLE_S = 30.0


class RedisFeed:
    """Feed over a consumer group. Messages that any consumer left unacknowledged for `claim_idle_s` come here.

    So do messages that the stream's owner trimmed before they were acknowledged: with no fields, to be dead-lettered.
    Every method raises LogUnavailable when the server does not answer, LogRefused when it answers with an error.
    """

    def __init__(self, url: str, stream: str, group: str, consumer: str, *, claim_idle_s: float = CLAIM_IDLE_S) -> None:
        self._stream, self._group, self._consumer = stream, group, consumer
        self._claim_idle_s = claim_idle_s
        self._redis = redis.asyncio.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), protocol=2
        )
        self._start_over()

    def _start_over(self) -> None:
        self._joined = False
        self._pending_after: str | None = "0"  # None once all of this consumer's own pending ones were seen
        self._claim_from = "0-0"
        self._claim_at_s = 0.0

    async def poll(self, rows_max: int, wait_ms: int) -> list[FeedMessage]:
        """Own pending messages, then abandoned ones, then new ones. See Feed."""
        async with self._asking():
            if not self._joined:
                await self._join()
            old = await self._own_pending(rows_max) or await self._abandoned(rows_max)
            return old or await self._new(rows_max, wait_ms)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Begin anew after any failure: join, see what is pending, then go on."""
        try:
            yield
        except (RedisError, OSError) as error:
            self._start_over()
            raise _failure(error) from None

    async def _join(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._joined = True

    async def _own_pending(self, rows_max: int) -> list[FeedMessage]:
        if self._pending_after is None:
            return []
        messages = await self._read(self._pending_after, rows_max, None)
        self._pending_after = messages[-1].id if messages else None
        return messages

    async def _abandoned(self, rows_max: int) -> list[FeedMessage]:
        """A page of what was left unacknowledged too long; the whole list is looked through once in that time."""
        if time.monotonic() < self._claim_at_s:
            return []
        following, raw, deleted = await self._redis.xautoclaim(
            self._stream, self._group, self._consumer, int(self._claim_idle_s * 1000), self._claim_from, rows_max
        )
        self._claim_from = following.decode()
        if self._claim_from == "0-0":
            self._claim_at_s = time.monotonic() + self._claim_idle_s
        return _messages(raw) + [FeedMessage(id.decode(), {}) for id in deleted]

    async def _new(self, rows_max: int, wait_ms: int) -> list[FeedMessage]:
        return await self._read(">", rows_max, min(wait_ms, BLOCK_MS_MAX) or None)

    async def _read(self, after: str, rows_max: int, block_ms: int | None) -> list[FeedMessage]:
        answer = await self._redis.xreadgroup(
            self._group, self._consumer, {self._stream: after}, count=rows_max, block=block_ms
        )
        return _messages(answer[0][1]) if answer else []

    async def acknowledge(self, ids: Sequence[str]) -> None:
        """End these messages' redelivery. See Feed."""
        if not ids:
            return
        async with self._asking():
            await self._redis.xack(self._stream, self._group, *ids)

    async def dead_letter(self, message: FeedMessage, code: str, column: str, reason: str) -> None:
        """Move a message to `<stream>:dead` and acknowledge it, in one transaction. See Feed."""
        marks = {"penstock_code": code, "penstock_column": column, "penstock_reason": reason}
        transaction = self._redis.pipeline(transaction=True)
        transaction.xadd(f"{self._stream}:dead", {**message.fields, "penstock_id": message.id, **marks})
        transaction.xack(self._stream, self._group, message.id)
        async with self._asking():
            await transaction.execute()

    async def close(self) -> None:
        """Close the connections. What was not acknowledged stays with this consumer until it is idle long enough."""
        await self._redis.aclose()


def _messages(raw: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[FeedMessage]:
    return [FeedMessage(id.decode(), fields or {}) for id, fields in raw]


def _failure(error: Exception) -> LogRefused | LogUnavailable:
    """A server's answer may quote field values, so only its kind is kept."""
    if isinstance(error, ResponseError):
        return LogRefused(f"the feed's server refused ({type(error).__name__})")
    return LogUnavailable(f"the feed's server did not answer ({type(error).__name__})")


def undelivered(url: str, stream: str, group: str) -> int:
    """Messages of a stream that a group has not acknowledged, for reports. Raises LogUnavailable, LogRefused."""
    with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S) as client:
        try:
            groups = client.xinfo_groups(stream) if client.exists(stream) else []
            length = client.xlen(stream)
        except (RedisError, OSError) as error:
            raise _failure(error) from None
    for found in groups:
        if found["name"] in (group, group.encode()):
            unread = found["lag"] if found["lag"] is not None else length
            return found["pending"] + unread
    return length
