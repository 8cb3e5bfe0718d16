"""Reads one feed into the log: poll, parse, submit, set the bad messages aside, acknowledge.

Owns the order that makes a feed lose nothing:

1. the good rows are appended to the log;
2. an exception is raised for each bad message;
3. the bad messages move to the dead-letter stream;
4. the good ones are acknowledged.

A crash between two of these repeats the earlier ones, which is harmless: dedupe answers rows sent again, and raising
an open exception again is nothing. While the log is full or away the reader holds its batch and polls no further.
Never acknowledges before the append, and never lets one bad message hold up the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
import polars as pl
import structlog

from runtime.effects import of_the_runtime
from runtime.errors import BooksUnavailable, FrameError, LogError, Pressure
from runtime.limits import REJECTS_REPORTED_MAX, Limits
from runtime.ports import Books, Clock, Feed, FeedMessage, Metrics
from runtime.schema import Parsed

_log = structlog.get_logger()


class Submitted(Protocol):
    """What the reader needs of a submit's answer: REJECT_COLUMNS, `row` counting the submitted frame's rows."""

    rejected: pl.DataFrame


Submit = Callable[[pl.DataFrame], Awaitable[Submitted]]
Close = Callable[[], Awaitable[None]]
Parse = Callable[[Sequence[FeedMessage]], Parsed]  # `row` counts the messages


class Refused(NamedTuple):
    """A message that can't become an event, and why. `type` is the exception that says so."""

    message: FeedMessage
    type: str
    code: str
    column: str
    reason: str


class FeedHealth(msgspec.Struct, frozen=True):
    """What a ping tells of a reader."""

    feed: str
    held: int


@dataclass
class Batch:
    """Messages on their way. What a failure interrupts goes on where it stood: nothing is done twice in one process.

    `waiting` holds frames not yet appended, next one last; their column `row` tells each row's message. `refused`
    holds messages to be set aside, `aside` the ids of those that were.
    """

    messages: list[FeedMessage]
    waiting: list[pl.DataFrame]
    refused: list[Refused]
    aside: set[str] = field(default_factory=set)


class FeedReader:
    """One reader of one feed: an asyncio part, run by one shell, in one loop."""

    def __init__(
        self,
        feed: Feed,
        submit: Submit,
        books: Books,
        *,
        clock: Clock,
        limits: Limits,
        name: str,
        parse: Parse,
        metrics: Metrics,
        own: Sequence[Close] = (),
    ) -> None:
        self._feed, self._submit, self._books = feed, submit, books
        self._clock, self._limits, self._metrics = clock, limits, metrics
        self._name, self._parse, self._own = name, parse, own
        self._held: Batch | None = None

    def __repr__(self) -> str:
        return f"feed-reader {self._name}"

    async def start(self) -> None:
        """Nothing to prepare: the feed joins its group at the first poll."""

    async def run(self) -> None:
        """Read until cancelled. What is held then is delivered again to the next reader of this group."""
        while True:
            pause_s = await self.step()
            if pause_s:
                await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Close the feed, and what was opened for this reader: its successor opens all anew."""
        await asyncio.gather(self._feed.close(), *(close() for close in self._own))

    def health(self) -> FeedHealth:
        """How far it is; `held` messages are read and not yet acknowledged."""
        return FeedHealth(self._name, len(self._held.messages) if self._held else 0)

    async def step(self) -> float:
        """Take one batch as far as it goes; the seconds to wait before the next step (0: go on)."""
        try:
            if self._held is None:
                self._held = await self._next_batch()
            if self._held is not None:
                await self._settle(self._held)
                self._held = None
        except Pressure as pressure:
            return pressure.retry_after_s
        except (LogError, BooksUnavailable) as error:
            _log.warning("feed_waits", feed=self._name, error_type=type(error).__name__)
            return self._limits.retry_after_s
        return 0.0

    async def _next_batch(self) -> Batch | None:
        # An answer names at most so many rejected rows: in a larger batch one could be acknowledged unseen.
        rows_max = min(self._limits.feed_batch_rows_max, REJECTS_REPORTED_MAX)
        messages = await self._feed.poll(rows_max, self._limits.feed_block_ms)
        if not messages:
            return None
        self._metrics.count("feed_messages", len(messages), feed=self._name)
        frame, faults = self._parse(messages)
        refused = [Refused(messages[row], "feed_malformed", *why) for row, *why in faults]
        return Batch(messages, [frame], refused)

    async def _settle(self, batch: Batch) -> None:
        await self._append(batch)
        if batch.refused:
            await asyncio.to_thread(self._books.raise_exceptions, self._exceptions(batch.refused))
        while batch.refused:
            await self._set_aside(batch.refused[-1])
            batch.aside.add(batch.refused.pop().message.id)
        good = [message.id for message in batch.messages if message.id not in batch.aside]
        if good:
            await self._feed.acknowledge(good)

    async def _set_aside(self, bad: Refused) -> None:
        await self._feed.dead_letter(bad.message, bad.code, bad.column, bad.reason)
        self._metrics.count("feed_dead_letters", feed=self._name)
        _log.warning("feed_message_dead_lettered", feed=self._name, message_id=bad.message.id, code=bad.code)

    async def _append(self, batch: Batch) -> None:
        while batch.waiting:
            frame = batch.waiting[-1]
            try:
                batch.refused += await self._submit_frame(frame, batch.messages)
            except FrameError as error:
                self._isolate(batch, frame, error)
            else:
                batch.waiting.pop()

    async def _submit_frame(self, frame: pl.DataFrame, messages: Sequence[FeedMessage]) -> list[Refused]:
        if frame.is_empty():
            return []
        answer = await self._submit(frame.drop("row"))
        places = frame["row"].to_list()
        rejected = answer.rejected.select("row", "code", "column", "message").iter_rows()
        return [Refused(messages[places[row]], "feed_rejected", *why) for row, *why in rejected]

    def _isolate(self, batch: Batch, frame: pl.DataFrame, error: FrameError) -> None:
        """A frame was refused as a whole: halve it until the message at fault stands alone."""
        batch.waiting.pop()
        if frame.height > 1:
            half = frame.height // 2
            batch.waiting += [frame[half:], frame[:half]]
            return
        message = batch.messages[frame["row"].item()]
        batch.refused.append(Refused(message, "feed_rejected", error.code, error.column, error.message))

    def _exceptions(self, refused: Sequence[Refused]) -> pl.DataFrame:
        raised = (
            (bad.type, bad.message.id, f"feed {self._name}, message {bad.message.id}: {bad.code} {bad.column}".rstrip())
            for bad in refused
        )
        return of_the_runtime(raised, self._name, self._clock.now_ms())
