"""What one consumer outside has been told of statuses, and the call that is under way to it.

Owns how far a consumer is: its own stream knows that, nothing else. A call to an outlet runs in a thread of its own,
one at a time, so that a consumer that does not answer holds up nobody but itself. Never numbers a status, and never
drops one: what can't be told now is told later, from the books.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple

import msgspec
import polars as pl
import structlog

from runtime.effects import STATUSES, of_the_runtime
from runtime.errors import BooksUnavailable
from runtime.ports import Books, Clock, Metrics, Outlet, Told

BACKOFF_S_MAX = 30.0
FAILURES_TOLD = 5  # in a row, before somebody is asked to look

ReadPage = Callable[[int], pl.DataFrame]


class ConsumerHealth(msgspec.Struct, frozen=True):
    """How far a consumer is. `newest` is the number of the last status in its stream, -1 while that is not known."""

    name: str
    state: str
    newest: int
    error_type: str


class Sent(NamedTuple):
    """What the call under way brings: how many statuses, the last one's number, and that of the last one looked at."""

    count: int = 0
    last_told: int = 0
    last_seen: int = 0


class Consumer:
    """One consumer's statuses on their way out. `flows`: which it is told of; none means every one."""

    def __init__(
        self,
        name: str,
        flows: Sequence[str],
        outlet: Outlet,
        *,
        calls: Executor,
        books: Books,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.name, self._flows, self._outlet, self._calls = name, list(flows), outlet, calls
        self._books, self._clock, self._metrics = books, clock, metrics
        self._logger = structlog.get_logger("consumer")
        self._newest = -1  # of its stream, once that is known to be a number of ours
        self._seen = 0  # up to here the books were looked through for it
        self._call: Future | None = None
        self._sent = Sent()
        self._failures, self._pause_until_ms, self._error = 0, 0, ""
        self._going_on = False  # whether an exception that stands about it was ended

    @property
    def busy(self) -> bool:
        """Whether a call to it is under way."""
        return self._call is not None

    def advance(self, page_after: ReadPage) -> bool:
        """Take what its last call has come to, and begin the next one; whether anything was done."""
        if self._call is not None:
            if not self._call.done():
                return False
            self._finish()
        if self._clock.now_ms() < self._pause_until_ms:
            return False
        if self._newest < 0:
            self._call = self._calls.submit(self._outlet.newest)
            return True
        return self._tell_next(page_after(self._seen))

    def _tell_next(self, page: pl.DataFrame) -> bool:
        """Hand its share of a page to its outlet. A page without a share is only passed over."""
        share = page.filter(pl.col("flow").is_in(self._flows)) if self._flows else page
        self._metrics.gauge("statuses_waiting", share.height, consumer=self.name)
        if page.is_empty():
            return False
        last_seen = page["status_no"][-1]
        if share.is_empty():
            self._seen = last_seen
            return True
        told = _told(share)
        self._sent = Sent(len(told), told[-1].status_no, last_seen)
        self._call = self._calls.submit(self._outlet.publish, self._newest, told)
        return True

    def _finish(self) -> None:
        """Take a call's answer. Whatever an outlet raises is its own consumer's matter, and nobody else's."""
        call, self._call = self._call, None
        try:
            newest = call.result()
        except Exception as error:
            self._fail(type(error).__name__)
            return
        if self._newest >= 0 and newest == self._sent.last_told:
            self._newest, self._seen = newest, self._sent.last_seen
            self._metrics.count("statuses_told", self._sent.count, consumer=self.name)
        elif self._is_ours(newest):
            self._newest = self._seen = newest
        else:  # to go on from there would mean to take later statuses for told
            self._newest = -1
            self._fail("ForeignNumber")
            return
        self._tell_going_on()

    def _is_ours(self, newest: int) -> bool:
        """Whether the books have given this number, or pass it over, or none is there yet."""
        return newest <= self._books.newest_status_no()

    def _fail(self, why: str) -> None:
        """Wait, ever longer, before the next call; in the end somebody is asked to look."""
        self._failures, self._error = self._failures + 1, why
        pause_s = min(2.0 ** min(self._failures, 10) / 4, BACKOFF_S_MAX)
        self._pause_until_ms = self._clock.now_ms() + int(pause_s * 1000)
        self._logger.warning("consumer_not_told", consumer=self.name, error_type=self._error)
        if self._failures >= FAILURES_TOLD:
            self._going_on = False
            with contextlib.suppress(BooksUnavailable):  # it is said again after the next attempt
                self._books.raise_exceptions(self._stopped(self._error))

    def _tell_going_on(self) -> None:
        """End that exception, also one that a predecessor raised."""
        self._failures, self._error = 0, ""
        if not self._going_on:
            self._books.resolve_exceptions(self._stopped("")["exception_id"].to_list())
            self._going_on = True

    def _stopped(self, why: str) -> pl.DataFrame:
        told = ("consumer_stopped", self.name, f"consumer {self.name} is not told: {why}; its statuses wait")
        return of_the_runtime([told], "relay", self._clock.now_ms())

    def health(self) -> ConsumerHealth:
        """How far it is. Asked from another thread."""
        return ConsumerHealth(self.name, "waiting" if self._error else "running", self._newest, self._error)

    def close(self) -> None:
        """Close its outlet. A call under way may still arrive, which is harmless."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._outlet.close()


def _told(share: pl.DataFrame) -> list[Told]:
    """Each status as a JSON object of the columns STATUSES and its number; the time in UTC milliseconds."""
    rows = share.select("status_no", *STATUSES).with_columns(pl.col("occurred_at").cast(pl.Int64()))
    return [Told(row["status_no"], msgspec.json.encode(row)) for row in rows.iter_rows(named=True)]
