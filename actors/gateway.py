"""The door for events: validate, split by shard, append, answer.

Owns the order "durable before acknowledged", and how requests of many callers share one validation and one append.
Never decides what an event means, and answers nobody before the log has.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain, pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from actors.answers import Receipt, Stored
from actors.coalescer import Apart, Coalescer
from runtime.errors import FrameError, LogError, LogUnavailable, Pressure
from runtime.flow import frames
from runtime.flow.admission import Admission
from runtime.flow.recent_ids import RecentIds
from runtime.limits import Limits
from runtime.ports import Clock, LogEntry, LogWriter, Metrics, NoMetrics, ShardLag
from runtime.routing import Splitter
from runtime.schema import (
    ARROW_STAMPED,
    COLUMNS,
    REJECT_COLUMNS,
    Checked,
    Event,
    Few,
    Incoming,
    Vocabulary,
    conform,
    to_arrow,
    with_plain_words,
)
from runtime.validation import check, check_few

LAG_EVERY_S = 0.1
LAG_TIMEOUT_S = 2.0
DOUBT_READS = 50  # readings of the lag for which a refused append counts against this gateway's health
REQUEST_BYTES_MIN = 1024  # what a request costs at least while it is under way
APPENDS_AT_ONCE = 2
ROWS_IN_LOOP_MAX, LARGE_ROWS, LARGE_BYTES = 256, 32_768, 4 * 2**20
# Appends of few events cost the loop little, and the log syncs together what came to it during its last sync.
FEW_APPENDS_AT_ONCE, FEW_APART = 4, Apart(least_s=0.003, most_s=0.02, weight_max=ROWS_IN_LOOP_MAX)

_KIND, _ENTITY, _FACILITY = map(list(COLUMNS).index, ("kind", "entity", "facility"))
_HASHES = slice(-2, None)  # of a stamped event: the hash of its id, its digest

_log = structlog.get_logger()
Result = TypeVar("Result")


class _Part(NamedTuple):
    """What one caller appends: some rows of checked events."""

    events: pa.RecordBatch
    rows: np.ndarray


class Gateway:
    """Takes frames, answers with receipts. Everything runs in one event loop; `close` ends its background reading."""

    def __init__(
        self,
        log: LogWriter,
        *,
        vocabulary: Vocabulary,
        split: Splitter,
        limits: Limits,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self._log, self._vocabulary, self._split = log, vocabulary, split
        self.limits, self._clock, self._metrics = limits, clock, metrics or NoMetrics()
        self._admission = Admission(limits)
        self._recent = RecentIds(limits.gateway_recent_ids_max)
        # One: several would hand the interpreter's lock to each other thousands of times a second. Large frames do so
        # seldom, and with threads of their own they keep nobody waiting.
        self._frames, self._large = ThreadPoolExecutor(1, "frames"), ThreadPoolExecutor(2, "large-frames")
        self._appends = Coalescer(self._append, limits.frame_rows_max, APPENDS_AT_ONCE)
        self._few_appends = Coalescer(self._append_few, ROWS_IN_LOOP_MAX, FEW_APPENDS_AT_ONCE, FEW_APART)
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
        for pool in (self._frames, self._large):
            pool.shutdown(wait=False)
        await self._log.close()

    async def submit(self, frame: pl.DataFrame) -> Receipt:
        """Take one frame of any columns that conform. Raises FrameError, Pressure, LogRefused, LogUnavailable."""
        size_bytes = frame.estimated_size()
        if size_bytes > self.limits.frame_bytes_max:  # to wait would make no room for it
            raise FrameError("too_large", "", f"at most {self.limits.frame_bytes_max} bytes in one frame")
        async with self.hold(size_bytes):
            return await self.store(numbered(to_arrow(conform(frame))))

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

    async def store(self, incoming: Incoming) -> Receipt:
        """Validate, and append what is new; the receipt comes when it is durable. Raises like `submit`."""
        rows = incoming.events.num_rows
        self._metrics.count("events_in", rows + len(incoming.faults))
        if rows > self.limits.frame_rows_max:
            raise FrameError("too_many_rows", "", f"at most {self.limits.frame_rows_max} events in one frame")
        self._refuse_for_paused(incoming.events)
        checked = await self.off_loop_if_many(rows, self._check, incoming)
        ids, digests = (checked.accepted.column(name).to_numpy() for name in ("id_hash", "digest"))
        known = self._recent.known(ids, digests)
        fresh = np.flatnonzero(~known)
        stored = await self._appends.submit(_Part(checked.accepted, fresh), len(fresh)) if len(fresh) else None
        self._recent.remember(ids[fresh], digests[fresh])
        return self._receipt(checked.rows, known, checked.rejected, stored)

    async def store_few(self, few: Few) -> Receipt:
        """`store` for few events, one by one. They cost so little that only their append is shared with others'."""
        self._metrics.count("events_in", len(few.rows) + len(few.faults))
        if self._admission.paused:
            scopes = (_scope(event) for event in few.events)
            self._refuse({self._split.owner(*scope) for scope in scopes if None not in scope[:2]})
        accepted, rows, rejected = check_few(few, self._vocabulary, self._clock.now_ms())
        known = [self._recent.knows(*event[_HASHES]) for event in accepted]
        fresh = [event for event, is_known in zip(accepted, known, strict=True) if not is_known]
        stored = await self._few_appends.submit(fresh, len(fresh)) if fresh else None
        for event in fresh:
            self._recent.remember_one(*event[_HASHES])
        return self._receipt(np.array(rows, np.int64), np.array(known, bool), rejected, stored)

    async def off_loop(self, large: bool, work: Callable[..., Result], *arguments: object) -> Result:
        """Do work on a frame in a thread that frames, or large ones, share, without holding up the loop."""
        pool = self._large if large else self._frames
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)

    async def off_loop_if_many(self, rows: int, work: Callable[..., Result], *arguments: object) -> Result:
        """The same, unless the work on so few rows is done sooner than a thread would get its turn."""
        if rows <= ROWS_IN_LOOP_MAX:
            return work(*arguments)
        return await self.off_loop(rows >= LARGE_ROWS, work, *arguments)

    def _receipt(self, rows: np.ndarray, known: np.ndarray, rejected: pl.DataFrame, stored: Stored | None) -> Receipt:
        """What became of a request. `rows`: the numbers of those that are valid; `known`: which of them are repeats."""
        self._metrics.count("events_duplicate", int(known.sum()))
        self._metrics.count("events_rejected", rejected.height)
        hint_s = self._admission.hint_s(stored.shards) if stored else 0.0
        return Receipt(rows[~known], rows[known], rejected, stored, hint_s)

    def _refuse_for_paused(self, events: pa.RecordBatch) -> None:
        """Refuse what touches a paused shard as a whole, before anything is spent on it."""
        if not self._admission.paused:
            return
        scopes = events.select(["kind", "entity", "facility"])
        routable = scopes.filter(pc.and_(scopes.column("kind").is_valid(), scopes.column("entity").is_valid()))
        self._refuse(np.unique(self._split.owners(routable)).tolist())

    def _refuse(self, shards: Iterable[int]) -> None:
        refusal = self._admission.refusal_for(shards)
        if refusal:
            self._metrics.count("gateway_refused")
            raise refusal

    def _check(self, incoming: Incoming) -> Checked:
        """Checked, with the rows' numbers in the request, and unreadable rows among the rejected."""
        events, numbers, faults = incoming
        if not faults:
            return check(events, self._vocabulary, self._clock.now_ms())
        unread = pl.DataFrame([(row, "", *why) for row, *why in faults], schema=REJECT_COLUMNS, orient="row")
        if not events.num_rows:
            return Checked(pa.RecordBatch.from_pylist([], ARROW_STAMPED), numbers, unread)
        accepted, rows, rejected = check(events, self._vocabulary, self._clock.now_ms())
        rejected = rejected.with_columns(pl.Series("row", numbers[rejected["row"].to_numpy()], pl.Int64()))
        return Checked(accepted, numbers[rows], pl.concat([rejected, unread]).sort("row"))

    async def _append(self, parts: list[_Part]) -> list[Stored]:
        """Append what several callers bring."""
        rows = [len(part.rows) for part in parts]
        return await self._append_entries(*await self.off_loop_if_many(sum(rows), self._entries, parts), rows)

    async def _append_few(self, parts: list[list[Event]]) -> list[Stored]:
        """The same of few events."""
        events = list(chain.from_iterable(parts))
        owners = [self._split.owner(*_scope(event)) for event in events]
        rows_of = sorted(Counter(owners).items())
        place = {shard: place for place, (shard, _) in enumerate(rows_of)}
        entry_of_row = [place[owner] for owner in owners]
        parted = [events[row] for row in sorted(range(len(events)), key=entry_of_row.__getitem__)]
        bodies = frames.encode_few(parted, list(accumulate(rows for _, rows in rows_of)))
        entries = [LogEntry(shard, "events", rows, body) for (shard, rows), body in zip(rows_of, bodies, strict=True)]
        return await self._append_entries(entries, np.array(entry_of_row, np.uint16), list(map(len, parts)))

    async def _append_entries(
        self, entries: list[LogEntry], entry_of_row: np.ndarray, rows: Sequence[int]
    ) -> list[Stored]:
        """Append; where each caller's rows lie, given how many each has."""
        try:
            appended = await self._log.append(entries)
        except LogError as error:
            self._doubt = DOUBT_READS
            if isinstance(error, LogUnavailable):
                self._observe(None)
            raise
        self._doubt = 0
        shards = tuple(entry.shard for entry in entries)
        bounds = accumulate(rows, initial=0)
        return [Stored(appended, shards, entry_of_row[start:end]) for start, end in pairwise(bounds)]

    def _entries(self, parts: list[_Part]) -> tuple[list[LogEntry], np.ndarray]:
        """One entry a shard, and for each row the index of its entry."""
        events, rows = _joined(parts)
        owners = self._split.owners(events)[rows]
        counts = np.bincount(owners)
        shards = np.flatnonzero(counts)
        entry_of_row = np.searchsorted(shards, owners).astype(np.uint16)  # small integers are sorted by counting them
        if len(rows) < events.num_rows or len(shards) > 1:
            events = events.take(pa.array(rows[np.argsort(entry_of_row, kind="stable")]))
        rows_of, bodies = counts[shards], frames.encode_parts(events, np.cumsum(counts[shards]).tolist())
        owned = zip(shards.tolist(), rows_of.tolist(), bodies, strict=True)
        return [LogEntry(shard, "events", rows, body) for shard, rows, body in owned], entry_of_row

    async def _watch_lag(self) -> None:
        while True:
            await self._read_lag()
            self._lag_was_read.set()
            await asyncio.sleep(LAG_EVERY_S)

    async def _read_lag(self) -> None:
        """Whatever keeps the lag from being read closes the door: better refuse than overrun a shard unseen."""
        try:
            async with asyncio.timeout(LAG_TIMEOUT_S):
                self._observe(await self._log.lag())
            self._doubt = max(self._doubt - 1, 0)
        except (LogError, TimeoutError) as error:
            self._observe(None)
            _log.warning("lag_unknown", error_type=type(error).__name__)

    def _observe(self, lag: dict[int, ShardLag] | None) -> None:
        self._admission.observe(lag)
        self._recent.observe(None if lag is None else {shard: given.appended for shard, given in lag.items()})

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


def _scope(event: Event) -> tuple[str, str, str | None]:
    return event[_KIND], event[_ENTITY], event[_FACILITY]


def _joined(parts: list[_Part]) -> _Part:
    """What several callers bring as one part."""
    if len(parts) == 1:
        return parts[0]
    batches = [part.events for part in parts]
    if any(batch.schema != batches[0].schema for batch in batches):
        batches = [with_plain_words(batch) for batch in batches]
    starts = accumulate((batch.num_rows for batch in batches), initial=0)
    rows = np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=False)])
    return _Part(pa.concat_batches(batches), rows)


def numbered(events: pa.RecordBatch) -> Incoming:
    """Conformed events as the form that `store` takes."""
    return Incoming(events, np.arange(events.num_rows), [])
