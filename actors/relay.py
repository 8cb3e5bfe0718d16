"""The relay: brings what leaves the books on to where it belongs: derived events to the log, statuses to consumers.

Owns the order of durable steps for derived events:

1. a frame is read from the books' outbox, checked like any other event, and split by shard;
2. its rows are appended to the log;
3. an exception is raised for each row that no door would let in;
4. the frame is marked as relayed; one that holds such a row stays in the outbox, so that the row is not lost.

Dying between two of these relays the frame again: the ids come from the cause, so the shards find repeats. What stays
is tried again by the next relay, since what makes a row fit (an entity, a facility, a rule) is read at its start; the
exception ends when the row has passed. Statuses are numbered in the books first; `actors.consumer` brings them out
under their numbers.

**Pressure.** Nothing in the books waits for the relay: a step commits its derived events and goes on, and a checkpoint
trims the log without asking. So whoever is told to wait here can't be what others wait for. The relay therefore keeps
the log's hard bound: a frame for a shard whose log is full stays in the outbox, which is on disk, until that shard's
next checkpoint makes room, which it does by itself. The lower bound at which producers are told to wait is not the
relay's: it holds back work that has not begun, while a derived event is the second half of work that has, and a shard
that is never below that bound under load would let it starve.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
import polars as pl
import structlog

from actors.consumer import Consumer, ConsumerHealth
from runtime.effects import EXCEPTIONS, empty, of_the_runtime
from runtime.errors import BooksUnavailable, FrameError, LogError
from runtime.flow import frames
from runtime.limits import TEXT_CHARS_MAX, Limits
from runtime.ports import Books, Clock, LogEntry, Metrics, OutboxFrame, ShardLag
from runtime.schema import Vocabulary, conform
from runtime.validation import validate

OWNER = "relay"
IDLE_S = 0.2  # between looks for something new
BUSY_S = 0.02  # between looks whether a consumer has answered
BOOKS_RETRY_S = 1.0
LOG_RETRY_S = 1.0
OUTBOX_FRAMES_MAX = 50  # looked at in one round
STATUSES_MAX = 1_000  # numbered, and told a consumer, in one round
REJECTED = "derived_rejected"
STANDING_MAX = 10_000  # open exceptions that are ended by themselves when their rows pass

Split = Callable[[pl.DataFrame], dict[int, pl.DataFrame]]


class LogLine(Protocol):
    """The log as the relay uses it: blocking, from its one thread."""

    def append(self, entries: list[LogEntry]) -> None: ...

    def lag(self) -> dict[int, ShardLag]: ...

    def close(self) -> None: ...


class Opened(NamedTuple):
    """A frame of the outbox: its rows by shard, and an exception for each row that is no event."""

    number: int
    parts: dict[int, pl.DataFrame]
    rejected: pl.DataFrame

    @property
    def rows(self) -> int:
        """Rows that go to the log."""
        return sum(part.height for part in self.parts.values())


class RelayHealth(msgspec.Struct, frozen=True):
    """What a ping tells: frames seen in the outbox (one round's, and those passed over before), and each consumer."""

    outbox_frames: int
    consumers: list[ConsumerHealth]


class Relay:
    """The only way out of the books besides the posters. Call `start`, then `step` for ever.

    Raises Fenced when a newer relay has taken over: its owner stops it.
    """

    def __init__(
        self,
        books: Books,
        log: LogLine,
        consumers: Sequence[Consumer],
        *,
        vocabulary: Vocabulary,
        split: Split,
        clock: Clock,
        limits: Limits,
        holder: str,
        metrics: Metrics,
    ) -> None:
        self._books, self._log_line, self._consumers = books, log, tuple(consumers)
        self._vocabulary, self._split = vocabulary, split
        self._clock, self._limits, self._metrics = clock, limits, metrics
        self._holder = holder
        self._held: set[int] = set()  # frames that stay in the outbox, each under an exception
        self._looked = 0  # up to this frame the outbox was looked through; what waits there comes up again from its end
        self._left_behind = 0  # frames that wait there
        self._standing: dict[tuple[str, str], str] = {}  # source and event id -> the exception that stands about it
        self._log_again_ms = 0
        self._waiting = 0
        self._logger = structlog.get_logger("relay")

    def start(self) -> None:
        """Take over: from here on an earlier relay numbers nothing."""
        self._epoch = self._books.take_epoch(OWNER, self._holder).epoch
        self._remember(self._books.exceptions("open", [REJECTED], STANDING_MAX))

    def step(self) -> float:
        """One round: a batch of derived events, new numbers, a page for each consumer. Seconds until the next."""
        try:
            moved = [self._relay(), self._number(), *self._tell()]
        except BooksUnavailable:
            return BOOKS_RETRY_S
        if any(moved):
            return 0.0
        return BUSY_S if any(consumer.busy for consumer in self._consumers) else IDLE_S

    # ── derived events ──

    def _relay(self) -> bool:
        """Relay what fits into one round. While the log does not take it, it waits in the outbox; the rest goes on,
        however much of it waits."""
        if self._clock.now_ms() < self._log_again_ms:
            return False
        frames_max = OUTBOX_FRAMES_MAX + len(self._held)
        found = self._books.outbox(frames_max, self._looked)
        self._waiting = self._left_behind + len(found)
        self._metrics.gauge("outbox_frames", self._waiting)
        try:
            batch, looked = self._fitting(found, self._full_shards() if found else set())
            self._append(batch)
        except LogError as error:
            self._logger.warning("derived_events_wait", error_type=type(error).__name__)
            self._wait_for_log()
            return False
        self._settle(batch)
        is_end = looked == len(found) < frames_max
        if is_end and self._waiting and not batch:
            self._wait_for_log()
        self._left_behind = 0 if is_end else self._left_behind + looked - len(batch)
        self._looked = 0 if is_end else found[looked - 1].number
        return bool(batch) or not is_end

    def _wait_for_log(self) -> None:
        self._log_again_ms = self._clock.now_ms() + int(LOG_RETRY_S * 1000)

    def _full_shards(self) -> set[int]:
        return {shard for shard, lag in self._log_line.lag().items() if lag.held >= self._limits.log_rows_pause_at}

    def _fitting(self, found: Sequence[OutboxFrame], full: set[int]) -> tuple[list[Opened], int]:
        """The oldest frames whose shards have room, about as many rows as one step takes; how many were looked at."""
        batch: list[Opened] = []
        for looked, frame in enumerate(found, 1):
            opened = self._open(frame) if frame.number not in self._held else None
            if opened is not None and not full & opened.parts.keys():
                batch.append(opened)
            if sum(one.rows for one in batch) >= self._limits.frame_rows_max:
                return batch, looked
        return batch, len(found)

    def _open(self, frame: OutboxFrame) -> Opened | None:
        """Check a frame as a gateway does. One that can't be read stays where it is, and somebody is asked to look."""
        try:
            rows = conform(frames.decode_sealed(frame.body))
            if rows.is_empty():
                return Opened(frame.number, {}, empty(EXCEPTIONS))
            accepted, rejected = validate(rows, self._vocabulary, self._clock.now_ms())
        except FrameError as error:
            detail = f"outbox frame {frame.number} can't be read: {error.code} {error.column}".rstrip()
            told = (REJECTED, f"frame {frame.number}", detail)
            self._books.raise_exceptions(of_the_runtime([told], OWNER, self._clock.now_ms()))
            self._held.add(frame.number)
            return None
        parts = self._split(accepted.drop("row")) if accepted.height else {}
        return Opened(frame.number, parts, self._exceptions(frame.number, rows, rejected))

    def _exceptions(self, number: int, rows: pl.DataFrame, rejected: pl.DataFrame) -> pl.DataFrame:
        """Rejected rows as exceptions: what each is worth and whose it is, where it lies, and what is wrong with it."""
        bad = rows[rejected["row"].to_list()].select(
            pl.col("source", "event_id", "entity", "facility", "currency").fill_null("").str.head(TEXT_CHARS_MAX),
            pl.col("amount_minor").fill_null(0),
        )
        told = [
            (REJECTED, f"{source}\x1f{event_id}", f"outbox frame {number}, row {row}: {code} {column}")
            for (source, event_id), (row, code, column) in zip(
                bad.select("source", "event_id").iter_rows(),
                rejected.select("row", "code", "column").iter_rows(),
                strict=True,
            )
        ]
        return of_the_runtime(told, OWNER, self._clock.now_ms()).with_columns(bad.get_columns()).select(*EXCEPTIONS)

    def _append(self, batch: Sequence[Opened]) -> None:
        """All of a batch at once: a log entry a shard, more where there are more rows than a step takes."""
        parts: dict[int, list[pl.DataFrame]] = {}
        for opened in batch:
            for shard, part in opened.parts.items():
                parts.setdefault(shard, []).append(part)
        entries = [
            LogEntry(shard, "events", piece.height, frames.encode(piece))
            for shard, pieces in sorted(parts.items())
            for piece in pl.concat(pieces).iter_slices(self._limits.frame_rows_max)
        ]
        if entries:
            self._log_line.append(entries)

    def _settle(self, batch: Sequence[Opened]) -> None:
        """Appended: now the exceptions, then the mark. Dying before the mark repeats all of it, to no effect."""
        if not batch:
            return
        rejected = pl.concat([opened.rejected for opened in batch])
        if rejected.height:
            self._books.raise_exceptions(rejected)
            self._remember(rejected)
        if passed := self._passed(batch):
            self._books.resolve_exceptions([self._standing[id] for id in passed])
        self._books.mark_relayed([opened.number for opened in batch if opened.rejected.is_empty()])
        self._held |= {opened.number for opened in batch if opened.rejected.height}
        self._standing = {id: standing for id, standing in self._standing.items() if id not in passed}
        self._metrics.count("derived_relayed", sum(opened.rows for opened in batch))
        self._metrics.count("derived_rejected", rejected.height)

    def _remember(self, exceptions: pl.DataFrame) -> None:
        about = exceptions.select("source", "event_id", "exception_id").iter_rows()
        self._standing |= {(source, event_id): id for source, event_id, id in about if event_id}

    def _passed(self, batch: Sequence[Opened]) -> set[tuple[str, str]]:
        """Events of a batch that were refused before and are in the log now."""
        if not self._standing:
            return set()
        ids = {
            id for one in batch for part in one.parts.values() for id in part.select("source", "event_id").iter_rows()
        }
        return ids & self._standing.keys()

    # ── statuses ──

    def _number(self) -> bool:
        """Give numbers to what has none yet; whoever was overtaken finds out here."""
        return self._books.number_statuses(OWNER, self._epoch, STATUSES_MAX) > 0

    def _tell(self) -> list[bool]:
        """Let every consumer go on by one call; those that are at the same place share one page of the books."""
        pages: dict[int, pl.DataFrame] = {}

        def page_after(number: int) -> pl.DataFrame:
            if number not in pages:
                pages[number] = self._books.statuses(number, STATUSES_MAX)
            return pages[number]

        return [consumer.advance(page_after) for consumer in self._consumers]

    # ── asked from outside ──

    def health(self) -> RelayHealth:
        """What waits, and how far each consumer is. Asked from another thread."""
        return RelayHealth(self._waiting, [consumer.health() for consumer in self._consumers])

    def close(self) -> None:
        """Let go of everything; what is under way is found in the books by the next relay."""
        for consumer in self._consumers:
            consumer.close()
        self._log_line.close()
        self._books.close()
