"""Waiting until all that was sent has come to its end: booked, posted, or standing as an exception.

Owns the order in which one asks, so that nothing is passed over while it moves. Changes nothing.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from actors.cli import reports
from actors.wiring import Wiring
from adapters.books.sql import SqlBooks
from adapters.feeds.redis_feed import undelivered
from adapters.log.redis_streams import RedisLogWriter
from runtime.errors import PenstockError

TIMEOUT_S = 150.0
POLL_S, PAUSE_PART = 0.2, 9  # to count millions of sets takes seconds: a pause is at least so many times as long


def pause_s(asked_s: float) -> float:
    """How long to wait before one asks again, when asking took so long."""
    return max(POLL_S, PAUSE_PART * asked_s)


class Left(NamedTuple):
    """What is not at its end: feed messages, log rows, derived events to relay, posting sets, journal entries."""

    messages: int
    rows: int
    frames: int
    sets: int
    entries: int


class Draining:
    """Asks log, feeds and books how much is left."""

    def __init__(self, wiring: Wiring, books: SqlBooks) -> None:
        self._wiring, self._books = wiring, books
        self._runner = asyncio.Runner()
        self._log = RedisLogWriter(wiring.log_url)

    def close(self) -> None:
        """Close the connection to the log."""
        self._runner.run(self._log.close())
        self._runner.close()

    def left(self) -> Left:
        """Asked in the order of the way, so that what moves on meanwhile is seen further along.

        Derived events go back to the log: it is empty only if it is so before and after the outbox was found empty,
        with nothing appended in between.
        """
        wiring = self._wiring
        messages = sum(undelivered(feed.url or wiring.log_url, feed.stream, feed.group) for feed in wiring.config.feeds)
        appended, rows = self._rows()
        frames = len(self._books.outbox(1))
        appended_since = self._rows()[0] - appended
        sets = self._books.unclaimed_count(wiring.config.erp_entities())
        entries = self._books.entry_counts()
        unsettled = sum(entries.get(state, 0) for state in reports.UNSETTLED)
        return Left(messages, rows + appended_since, frames, sets, unsettled)

    def _rows(self) -> tuple[int, int]:
        lag = self._runner.run(self._log.lag()).values()
        return sum(shard.appended for shard in lag), sum(shard.waiting for shard in lag)


@contextlib.contextmanager
def _opened(wiring: Wiring, books: SqlBooks) -> Iterator[Draining]:
    draining = Draining(wiring, books)
    try:
        yield draining
    finally:
        draining.close()


def drain(wiring: Wiring, books: SqlBooks, on_left: Callable[[Left], None] = lambda left: None) -> None:
    """Wait until nothing is left on the way; `on_left` hears what is. PenstockError when it takes too long."""
    with _opened(wiring, books) as draining:
        left = Left(0, 0, 0, 0, 0)

        def is_drained() -> bool:
            nonlocal left
            left = draining.left()
            on_left(left)
            return not any(left)

        wait_until(is_drained, lambda: f"not drained after {TIMEOUT_S:g} s: {left}")


def wait_until(is_so: Callable[[], bool], complaint: Callable[[], str], timeout_s: float = TIMEOUT_S) -> None:
    """Ask again and again until it is so; PenstockError with the complaint when it takes too long."""
    asked_at, pause = time.monotonic(), threading.Event()
    deadline = asked_at + timeout_s
    while not is_so():
        now = time.monotonic()
        if now > deadline:
            raise PenstockError(f"{complaint()}; see the logs folder")
        pause.wait(pause_s(now - asked_at))
        asked_at = time.monotonic()
