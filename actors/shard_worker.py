"""A worker: hosts shards, and moves each along its log, step by step, into the books.

Owns the order of what is made durable: step, commit, and every so often archive, snapshot, checkpoint, trim. Never
decides what an event does (the engine does), and never goes on with a shard whose memory and books may differ: that
shard is rebuilt from its checkpoint first.
"""

import contextlib
import gc
from collections.abc import Callable, Sequence

import msgspec
import polars as pl
import structlog

from runtime.effects import OUTCOMES, Effects, StepCounts, empty, of_the_runtime
from runtime.errors import BooksUnavailable, Fenced, LogUnavailable, NonDeterministic
from runtime.limits import Limits
from runtime.ports import START, Archive, ArchivedStep, Books, Checkpoint, Clock, LogReader, LogRecord, Metrics
from runtime.shard import ShardEngine

FAILURES_TOLD = 3  # in a row, before somebody is asked to look
GC_ALLOCATIONS = 200_000  # open items live long and make no cycles: looking for some at each step costs an eighth of it
IDLE_S = 0.0  # reading the log waits by itself
FAULTS = (Exception, pl.exceptions.PanicException)  # a panic in Polars is no Exception


class ShardHealth(msgspec.Struct, frozen=True):
    """What a worker says of one of its shards: "running", "recovering", or "lost" to another owner."""

    shard: int
    state: str
    epoch: int
    position: str
    remembered: int


class HostedShard:
    """One shard in this worker's hands: its engine, where it stands, and what the archive does not hold yet."""

    def __init__(self, shard: int, engine: ShardEngine, epoch: int) -> None:
        self.shard, self.engine, self.epoch = shard, engine, epoch
        self.position = START
        self.rows_total = 0
        self.checkpoint_position = START
        self.checkpoint_at_ms = 0
        self.commits_since = 0
        self.counts = StepCounts()
        self.outcomes: list[pl.DataFrame] = []
        self.steps: list[ArchivedStep] = []

    def moved(self, records: Sequence[LogRecord], effects: Effects) -> None:
        """Take note of a commit."""
        self.position = records[-1].position
        self.rows_total += sum(record.rows for record in records)
        self.remember(records, effects)

    def remember(self, records: Sequence[LogRecord], effects: Effects) -> None:
        """Keep what a committed step took and what became of it for the next archive segment."""
        self.commits_since += 1
        self.steps.append(ArchivedStep(tuple(records)))
        if len(effects.outcomes):
            self.outcomes.append(effects.outcomes)


class ShardWorker:
    """Runs shards. `step` is called again and again by one thread; it returns the seconds to wait before the next."""

    def __init__(
        self,
        shards: Sequence[int],
        *,
        holder: str,
        engine: Callable[[], ShardEngine],
        log: LogReader,
        books: Books,
        archive: Archive,
        clock: Clock,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._holder, self._engine = holder, engine
        self._log_reader, self._books, self._archive = log, books, archive
        self._clock, self._limits, self._metrics = clock, limits, metrics
        self._logger = structlog.get_logger("shard_worker")
        self._hosted: dict[int, HostedShard] = {}
        self._failed: dict[int, int] = dict.fromkeys(shards, 0)  # shard -> time of the next attempt
        self._failures: dict[int, int] = {}
        self._leased: set[int] = set()  # shards that this worker has owned
        self._lost: set[int] = set()  # shards that another owner took since
        self._going_on: set[int] = set()  # shards that have moved since they were last set aside

    def start(self) -> None:
        """Nothing can fail here; shards are recovered by `step`."""
        gc.set_threshold(GC_ALLOCATIONS)

    def step(self) -> float:
        """Recover what is not running, read every running shard's log once, and take what has come."""
        self._recover_failed()
        if not self._hosted and not self._failed:
            raise Fenced("every shard of this worker has a newer owner")
        if not self._hosted:
            return 1.0
        after = {shard: hosted.position for shard, hosted in self._hosted.items()}
        try:
            read = self._log_reader.read(after, self._limits.step_rows_max, self._limits.log_read_wait_ms)
        except LogUnavailable:
            self._logger.warning("log_unavailable")
            return 1.0
        for shard, records in read.items():
            self._guarded(shard, self._advance, records)
        for shard, hosted in list(self._hosted.items()):
            self._show(hosted)
            self._guarded(shard, self._checkpoint_when_due)
        return IDLE_S

    def _guarded(self, shard: int, act: Callable, *args: object) -> None:
        """Do something with a shard; if it fails, forget the shard's memory, to be rebuilt later."""
        hosted = self._hosted[shard]
        try:
            act(hosted, *args)
        except Fenced:
            self._logger.warning("fenced", shard=shard, epoch=hosted.epoch)
            del self._hosted[shard]
            self._lost.add(shard)
        except FAULTS as error:
            self._fail(shard, error)

    def _fail(self, shard: int, error: BaseException) -> None:
        """Set a shard aside, to be recovered after a pause that grows while it goes on failing."""
        self._hosted.pop(shard, None)
        failures = self._failures[shard] = self._failures.get(shard, 0) + 1
        pause_s = min(2.0 ** min(failures, 10) / 4, self._limits.restart_backoff_s_max)
        self._failed[shard] = self._clock.now_ms() + int(pause_s * 1000)
        expected = isinstance(error, (BooksUnavailable, LogUnavailable))
        report = self._logger.warning if expected else self._logger.exception
        report("shard_set_aside", shard=shard, error_type=type(error).__name__)
        if not expected and failures >= FAILURES_TOLD:
            self._tell_stopped(shard, type(error).__name__)

    def _tell_stopped(self, shard: int, why: str) -> None:
        """Somebody must look at a shard that can't go on: it stands as an exception until it has gone on."""
        self._going_on.discard(shard)
        with contextlib.suppress(BooksUnavailable):  # it is said again after the next attempt
            self._books.raise_exceptions(self._stopped(shard, why))

    def _tell_going_on(self, shard: int) -> None:
        """End that exception, also one that a predecessor raised."""
        if shard not in self._going_on:
            self._books.resolve_exceptions(self._stopped(shard, "")["exception_id"].to_list())
            self._going_on.add(shard)

    def _stopped(self, shard: int, why: str) -> pl.DataFrame:
        told = ("shard_stopped", str(shard), f"shard {shard} can't go on: {why}; see the worker's log")
        return of_the_runtime([told], "penstock", self._clock.now_ms())

    # ── recovery ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _recover_failed(self) -> None:
        due = [shard for shard, at_ms in self._failed.items() if at_ms <= self._clock.now_ms()]
        for shard in due:
            try:
                self._hosted[shard] = self._recover(shard)
            except Fenced:
                self._logger.warning("fenced", shard=shard)
                self._lost.add(shard)
            except FAULTS as error:
                self._fail(shard, error)
                continue
            del self._failed[shard]

    def _recover(self, shard: int) -> HostedShard:
        """Take the next epoch, load the snapshot, replay committed steps with the boundaries they had.

        The effects of replayed steps are in the books already; they are compared by digest and dropped. Only their
        outcomes are kept, because the archive may not hold them yet. A shard that was set aside and has another owner
        meanwhile stays with that one (Fenced).
        """
        lease = self._books.take_epoch(f"shard:{shard}", self._holder, again=shard in self._leased)
        self._leased.add(shard)
        hosted = HostedShard(shard, self._engine(), lease.epoch)
        if lease.checkpoint:
            hosted.engine.restore(self._archive.get_snapshot(lease.checkpoint.snapshot))
            hosted.position = hosted.checkpoint_position = lease.checkpoint.position
        for mark in self._books.commits(shard, hosted.position):
            records = self._log_reader.read_range(shard, mark.after, mark.position)
            effects = hosted.engine.step(records)
            if effects.digest() != mark.digest:
                raise NonDeterministic(f"shard {shard}: replaying up to {mark.position} gave other effects")
            hosted.position = mark.position
            hosted.remember(records, effects)
        if hosted.position != lease.position:
            raise NonDeterministic(f"shard {shard}: replay ended at {hosted.position}, the books at {lease.position}")
        hosted.rows_total, hosted.checkpoint_at_ms = lease.rows_total, self._clock.now_ms()
        self._log_reader.mark_committed(shard, lease.rows_total)
        self._logger.info("shard_recovered", shard=shard, epoch=lease.epoch, position=hosted.position)
        return hosted

    # ── going on ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self, hosted: HostedShard, records: list[LogRecord]) -> None:
        """One step and its commit. If the commit's end is unknown, the caller rebuilds the shard from the books."""
        began_ms = self._clock.now_ms()
        effects = hosted.engine.step(records)
        rows = sum(record.rows for record in records)
        position = records[-1].position
        self._books.commit(hosted.shard, hosted.epoch, hosted.position, position, rows, effects)
        hosted.moved(records, effects)
        self._failures.pop(hosted.shard, None)
        self._tell_going_on(hosted.shard)
        self._log_reader.mark_committed(hosted.shard, hosted.rows_total)
        self._measure(hosted, effects, (self._clock.now_ms() - began_ms) / 1000)

    def _measure(self, hosted: HostedShard, effects: Effects, seconds: float) -> None:
        counts = hosted.counts = effects.counts
        self._metrics.count("commits", 1)
        self._metrics.count("events_committed", counts.accepted)
        self._metrics.count("events_duplicate", counts.duplicate)
        self._metrics.observe("step_seconds", seconds)

    def _show(self, hosted: HostedShard) -> None:
        """Gauges are said again and again: what is not, drops out of what Ray exports."""
        self._metrics.gauge("open_items", hosted.counts.open_items, shard=str(hosted.shard))
        self._metrics.gauge("waiting_events", hosted.counts.waiting, shard=str(hosted.shard))

    def _checkpoint_when_due(self, hosted: HostedShard) -> None:
        age_s = (self._clock.now_ms() - hosted.checkpoint_at_ms) / 1000
        full = hosted.commits_since >= self._limits.checkpoint_commits_max
        if hosted.commits_since and (full or age_s >= self._limits.checkpoint_age_s_max):
            self._checkpoint(hosted)

    def _checkpoint(self, hosted: HostedShard) -> None:
        """Make archive and snapshot durable, then the checkpoint, then trim what is no longer needed.

        1. Segment: dying after it leaves a file that the next segment from the same position replaces.
        2. Snapshot: dying after it leaves a file that nothing names.
        3. Checkpoint in the books: from here on, recovery starts at it. A fenced owner ends here.
        4. Trim, forget and merge: dying before leaves only what the next checkpoint clears. While somebody copies log
           and archive, all of it stays.
        """
        began_ms = self._clock.now_ms()
        outcomes = pl.concat(hosted.outcomes) if hosted.outcomes else empty(OUTCOMES)
        self._archive.put_segment(hosted.shard, hosted.checkpoint_position, hosted.position, outcomes, hosted.steps)
        name = self._archive.put_snapshot(hosted.shard, hosted.position, hosted.engine.snapshot())
        self._books.record_checkpoint(hosted.shard, hosted.epoch, Checkpoint(hosted.position, name))
        hosted.checkpoint_position, hosted.checkpoint_at_ms = hosted.position, self._clock.now_ms()
        hosted.commits_since, hosted.outcomes, hosted.steps = 0, [], []
        if not self._log_reader.is_held():
            self._log_reader.trim(hosted.shard, hosted.position)
            self._archive.forget_snapshots(hosted.shard, keep=name)
            self._archive.compact(hosted.shard, through=hosted.position)
        self._metrics.count("checkpoints", 1)
        self._metrics.observe("checkpoint_seconds", (self._clock.now_ms() - began_ms) / 1000)

    # ── asked from outside, between steps ──────────────────────────────────────────────────────────────────────────

    def checkpoint_now(self) -> None:
        """Checkpoint every shard that has moved, so that the archive holds all that is committed."""
        for shard, hosted in list(self._hosted.items()):
            if hosted.commits_since:
                self._guarded(shard, self._checkpoint)

    def health(self) -> list[ShardHealth]:
        """Every shard of this worker. Asked from another thread, so it looks at copies."""
        running = [
            ShardHealth(h.shard, "running", h.epoch, h.position, h.engine.remembered)
            for h in list(self._hosted.values())
        ]
        others = [("recovering", list(self._failed)), ("lost", list(self._lost))]
        return running + [ShardHealth(shard, state, 0, "", 0) for state, shards in others for shard in shards]

    def close(self) -> None:
        """Checkpoint, then let go of everything."""
        self.checkpoint_now()
        self._log_reader.close()
        self._books.close()
