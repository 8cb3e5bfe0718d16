"""The door for events: validate, split by shard, append, answer.

Owns the order "durable before acknowledged", and how requests of many callers share one validation and one append.
Never decides what an event means, and answers nobody before the log has.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import numpy as np
import polars as pl
import structlog

from actors.answers import Receipt, Stored
from actors.coalescer import Coalescer
from runtime.errors import FrameError, LogError, LogUnavailable, Pressure
from runtime.flow import frames
from runtime.flow.admission import Admission
from runtime.flow.recent_ids import RecentIds
from runtime.limits import Limits
from runtime.ports import Clock, LogEntry, LogWriter, Metrics, NoMetrics, ShardLag
from runtime.schema import REJECT_COLUMNS, STAMPED, Parsed, Validated, Vocabulary, conform
from runtime.validation import validate

LAG_EVERY_S = 0.1
LAG_TIMEOUT_S = 2.0
DOUBT_READS = 50  # readings of the lag for which a refused append counts against this gateway's health
REQUEST_BYTES_MIN = 1024  # what a request costs at least while it is under way
CHECKS_AT_ONCE, APPENDS_AT_ONCE = 2, 2

_log = structlog.get_logger()
Split = Callable[[pl.DataFrame], dict[int, pl.DataFrame]]


class Gateway:
    """Takes frames, answers with receipts. Everything runs in one event loop; `close` ends its background reading."""

    def __init__(
        self,
        log: LogWriter,
        *,
        vocabulary: Vocabulary,
        split: Split,
        limits: Limits,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self._log, self._vocabulary, self._split = log, vocabulary, split
        self.limits, self._clock, self._metrics = limits, clock, metrics or NoMetrics()
        self._admission = Admission(limits)
        self._recent = RecentIds(limits.gateway_recent_ids_max)
        self._checking = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._appends = Coalescer(self._append, limits.frame_rows_max, APPENDS_AT_ONCE)
        self._watching: asyncio.Task | None = None
        self._lag_was_read = asyncio.Event()
        self._doubt = 0
        self.inflight_bytes = 0

    async def start(self) -> None:
        """Begin to follow the shards' lag. Called again it does nothing; the first request calls it, too."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch_lag())
        await self._lag_was_read.wait()

    async def close(self) -> None:
        """Stop following the lag, close the log."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._log.close()

    async def submit(self, frame: pl.DataFrame) -> Receipt:
        """Take one frame of any columns that conform. Raises FrameError, Pressure, LogRefused, LogUnavailable."""
        async with self.hold(frame.estimated_size()):
            return await self.store(numbered(conform(frame)))

    @contextlib.asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """Reserve room for a request until it is answered, or raise Pressure. Whoever calls `store` holds room."""
        await self.start()
        size_bytes = max(size_bytes, REQUEST_BYTES_MIN)
        refusal = self._admission.refusal(self.inflight_bytes + size_bytes)
        if refusal:
            self._metrics.count("gateway_refused")
            raise refusal
        self._hold(size_bytes)
        try:
            yield
        finally:
            self._hold(-size_bytes)

    def _hold(self, size_bytes: int) -> None:
        self.inflight_bytes += size_bytes
        self._metrics.gauge("gateway_inflight_bytes", self.inflight_bytes)

    async def store(self, parsed: Parsed) -> Receipt:
        """Validate, and append what is new; the receipt comes when it is durable. Raises like `submit`."""
        self._metrics.count("events_in", parsed.frame.height + len(parsed.faults))
        if parsed.frame.height > self.limits.frame_rows_max:
            raise FrameError("too_many_rows", "", f"at most {self.limits.frame_rows_max} events in one frame")
        async with self._checking:
            accepted, rejected = await asyncio.to_thread(self._check, parsed)
        rows, ids, digests = (accepted[name].to_numpy() for name in ("row", "id_hash", "digest"))
        known = self._recent.known(ids, digests)
        fresh = accepted.filter(~known) if known.any() else accepted
        stored = await self._appends.submit(fresh, fresh.height) if fresh.height else None
        self._recent.remember(ids[~known], digests[~known])
        self._metrics.count("events_duplicate", int(known.sum()))
        self._metrics.count("events_rejected", rejected.height)
        hint_s = self._admission.hint_s(stored.shards) if stored else 0.0
        return Receipt(rows[~known], rows[known], rejected, stored, hint_s)

    def _check(self, parsed: Parsed) -> Validated:
        """Validated, with the rows' numbers in the request, and unreadable rows among the rejected."""
        if not parsed.faults:
            return validate(parsed.frame.drop("row"), self._vocabulary, self._clock.now_ms())
        faults = [(row, "", *why) for row, *why in parsed.faults]
        unread = pl.DataFrame(faults, schema=REJECT_COLUMNS, orient="row")
        if parsed.frame.is_empty():
            return Validated(pl.DataFrame(schema={"row": pl.Int64(), **STAMPED}), unread)
        checked = validate(parsed.frame.drop("row"), self._vocabulary, self._clock.now_ms())
        accepted, rejected = (part.with_columns(parsed.frame["row"].gather(part["row"])) for part in checked)
        return Validated(accepted, pl.concat([rejected, unread]).sort("row"))

    async def _append(self, parts: list[pl.DataFrame]) -> list[Stored | Pressure]:
        """Append what several callers bring; a caller that touches a paused shard is left out as a whole."""
        refusals = [None] * len(parts)
        if self._admission.paused:
            refusals = await asyncio.to_thread(self._refusals, parts)
        admitted = [part for part, refusal in zip(parts, refusals, strict=True) if refusal is None]
        stored = iter(await self._append_together(admitted) if admitted else ())
        self._metrics.count("gateway_refused", len(parts) - len(admitted))
        return [next(stored) if refusal is None else refusal for refusal in refusals]

    def _refusals(self, parts: list[pl.DataFrame]) -> list[Pressure | None]:
        return [self._admission.refusal_for(self._split(part)) for part in parts]

    async def _append_together(self, parts: list[pl.DataFrame]) -> list[Stored]:
        entries, entry_of_row = await asyncio.to_thread(self._entries, parts)
        try:
            appended = await self._log.append(entries)
        except LogError as error:
            self._doubt = DOUBT_READS
            if isinstance(error, LogUnavailable):
                self._admission.observe(None)
            raise
        self._doubt = 0
        shards = tuple(entry.shard for entry in entries)
        bounds = np.cumsum([0, *map(len, parts)]).tolist()
        return [Stored(appended, shards, entry_of_row[start:end]) for start, end in pairwise(bounds)]

    def _entries(self, parts: list[pl.DataFrame]) -> tuple[list[LogEntry], np.ndarray]:
        """One entry a shard, and for each row the index of its entry."""
        whole = parts[0] if len(parts) == 1 else pl.concat(parts)
        owned = self._split(whole.with_columns(pl.int_range(pl.len()).alias("row")))
        entry_of_row = np.empty(whole.height, np.intp)
        for number, part in enumerate(owned.values()):
            entry_of_row[part["row"].to_numpy()] = number
        entries = [
            LogEntry(shard, "events", part.height, frames.encode(part.drop("row"))) for shard, part in owned.items()
        ]
        return entries, entry_of_row

    async def _watch_lag(self) -> None:
        while True:
            await self._read_lag()
            self._lag_was_read.set()
            await asyncio.sleep(LAG_EVERY_S)

    async def _read_lag(self) -> None:
        """Whatever keeps the lag from being read closes the door: better refuse than overrun a shard unseen."""
        try:
            async with asyncio.timeout(LAG_TIMEOUT_S):
                self._admission.observe(await self._log.lag())
            self._doubt = max(self._doubt - 1, 0)
        except (LogError, TimeoutError) as error:
            self._admission.observe(None)
            _log.warning("lag_unknown", error_type=type(error).__name__)

    @property
    def able(self) -> bool:
        """Whether appends succeed, as far as is known. Doubt ends by itself: somebody must try again."""
        return self._admission.lag is not None and not self._doubt

    @property
    def lag(self) -> dict[int, ShardLag] | None:
        """Every shard's lag; None when it can't be read, and nothing can be taken."""
        return None if self._admission.lag is None else dict(self._admission.lag)

    @property
    def paused(self) -> frozenset[int]:
        """Shards that take nothing at present."""
        return self._admission.paused

    def refusal(self) -> Pressure | None:
        """Why even a small request would be refused now."""
        return self._admission.refusal(self.inflight_bytes + REQUEST_BYTES_MIN)


def numbered(frame: pl.DataFrame) -> Parsed:
    """A conformed frame as the form that `store` takes."""
    return Parsed(frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64()).alias("row")), [])
