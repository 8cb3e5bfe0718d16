"""A worker: hosts shards, and moves each along its log, step by step, into the books.

Owns the order of what is made durable: step, commit, and every so often archive, snapshot, checkpoint, trim, of which
the first two are written beside it (`checkpoint`). Never decides what an event does (the engine does), and never goes
on with a shard whose memory and books may differ: that shard is rebuilt from its checkpoint first.
"""

import contextlib
import gc
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import polars as pl
import structlog

from actors import shard_faults
from actors.checkpoint import Saver, Saving, Taken, clear, store
from runtime.effects import Effects
from runtime.errors import BooksUnavailable, Fenced, LogUnavailable, NonDeterministic
from runtime.limits import Limits
from runtime.ports import START, Archive, ArchivedStep, Books, Buffer, Checkpoint, Clock, LogReader, LogRecord, Metrics
from runtime.shard import ShardEngine

FAILURES_TOLD = 3  # in a row, before somebody is asked to look
SHARDS_EVERY_S = 0.5  # between looks which shards are this worker's: one that moves waits for two of them at most
GC_ALLOCATIONS = 200_000  # open items live long and make no cycles: looking for some at each step costs an eighth of it
SAVES_IN_A_REPLAY = 2  # a checkpoint that takes long comes less often: it may cost half the replay that it spares
IDLE_S = 0.0  # reading the log waits by itself
FAULTS = (Exception, pl.exceptions.PanicException)  # a panic in Polars is no Exception


class ShardHealth(msgspec.Struct, frozen=True):
    """What a worker says of one of its shards: "running", "recovering", or "lost" to another owner."""

    shard: int
    state: str
    epoch: int
    position: str
    remembered: int
    busy_ms: int  # how long its steps and commits took since this worker has it
    steps: int  # how many these were


class HostedShard:
    """One shard in this worker's hands: its engine, where it stands, and what the archive does not hold yet."""

    def __init__(self, shard: int, engine: ShardEngine, epoch: int) -> None:
        self.shard, self.engine, self.epoch = shard, engine, epoch
        self.position = START
        self.rows_total = 0
        self.checkpoint_position = START
        self.checkpoint_at_ms = 0
        self.commits_since, self.replay_ms = 0, 0
        self.busy_ms, self.steps_taken = 0, 0
        self.standing = 0, 0  # open items, events that wait
        self.outcomes: list[pl.DataFrame] = []
        self.steps: list[ArchivedStep] = []
        self.stored: frozenset[str] = frozenset()  # the runs that the checkpoint goes with
        self.saving: Saving | None = None
        self.saved_in_ms = 0
        self.clearing: Future | None = None

    def moved(self, records: Sequence[LogRecord], effects: Effects, step_ms: int) -> None:
        """Take note of a commit."""
        self.position = records[-1].position
        self.rows_total += sum(record.rows for record in records)
        self.remember(records, effects, step_ms)

    def remember(self, records: Sequence[LogRecord], effects: Effects, step_ms: int) -> None:
        """Keep what a committed step took and what became of it for the next archive segment."""
        self.commits_since += 1
        self.replay_ms += step_ms
        self.steps.append(ArchivedStep(tuple(records)))
        if len(effects.outcomes):
            self.outcomes.append(effects.outcomes)

    def taken(self) -> Taken:
        """All that the next checkpoint is made of, at this position. From here on it is the checkpoint's."""
        state = self.engine.freeze(self.position, self.epoch)
        given = (self.shard, self.epoch, self.checkpoint_position, self.position, self.steps, self.outcomes)
        self.commits_since, self.replay_ms, self.steps, self.outcomes = 0, 0, [], []
        return Taken(*given, state, self.stored)


class ShardWorker:
    """Runs shards. `step` is called again and again by one thread; it returns the seconds to wait before the next."""

    def __init__(
        self,
        shards: Callable[[], Collection[int]],
        *,
        holder: str,
        engine: Callable[[], ShardEngine],
        log: LogReader,
        books: Books,
        archive: Archive,
        clock: Clock,
        limits: Limits,
        metrics: Metrics,
        saver: Saver | None = None,
    ) -> None:
        """`shards`: those that are this worker's now, asked again and again. `saver`: what writes checkpoints; a thread
        of the worker's own, if none is given."""
        self._shards, self._shards_asked_ms = shards, 0
        self._holder, self._engine = holder, engine
        self._saver = saver or ThreadPoolExecutor(1, "checkpoint")
        self._log_reader, self._books, self._archive = log, books, archive
        self._clock, self._limits, self._metrics = clock, limits, metrics
        self._logger = structlog.get_logger("shard_worker")
        self._hosted: dict[int, HostedShard] = {}
        self._failed: dict[int, int] = {}  # shard -> time of the next attempt
        self._failures: dict[int, int] = {}
        self._unsaved: set[int] = set()  # shards whose last checkpoint could not be written: a commit mends nothing
        self._leased: set[int] = set()  # shards that this worker has owned
        self._lost: set[int] = set()  # shards that another owner took since
        self._going_on: set[int] = set()  # shards that have moved since they were last set aside

    def start(self) -> None:
        """Nothing can fail here; shards are recovered by `step`."""
        gc.set_threshold(GC_ALLOCATIONS)

    def step(self) -> float:
        """Recover what is not running, take what has come to every running shard, or wait for what comes first."""
        self._follow_placement()
        self._recover_failed()
        if self._lost and not self._hosted and not self._failed:
            raise Fenced("every shard of this worker has a newer owner")
        if not self._hosted:
            return 1.0
        try:
            self._take_all(list(self._hosted))
        except LogUnavailable:
            self._logger.warning("log_unavailable")
            return 1.0
        for shard, hosted in list(self._hosted.items()):
            self._show(hosted)
            self._guarded(shard, self._checkpoint_when_due)
        return IDLE_S

    def _take_all(self, shards: list[int]) -> None:
        """A step of each shard that has something. Each is read when its turn has come: what came to it during the
        others' steps would otherwise wait for another round."""
        taken = [self._take([shard], 0) for shard in shards] if len(shards) > 1 else []
        if not any(taken):
            self._take(shards, self._limits.log_read_wait_ms)

    def _take(self, shards: list[int], wait_ms: int) -> bool:
        """Read these shards once, and take what has come; whether anything has."""
        after = {shard: self._hosted[shard].position for shard in shards if shard in self._hosted}
        read = self._log_reader.read(after, self._limits.step_rows_max, wait_ms)
        for shard, records in read.items():
            self._guarded(shard, self._advance, records)
        return bool(read)

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
            self._tell_stopped(shard, error)

    def _tell_stopped(self, shard: int, error: BaseException) -> None:
        """Somebody must look at a shard that can't go on: it stands as an exception until it has gone on."""
        self._going_on.discard(shard)
        with contextlib.suppress(BooksUnavailable):  # it is said again after the next attempt
            self._books.raise_exceptions(shard_faults.stopped(shard, error, self._clock.now_ms()))

    def _go_on(self, shard: int) -> None:
        """What failed before counts no more: end that exception, also one that a predecessor raised."""
        self._failures.pop(shard, None)
        if shard not in self._going_on:
            self._books.resolve_exceptions(shard_faults.stopped_ids(shard))
            self._going_on.add(shard)

    # ── placement ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _follow_placement(self) -> None:
        """Take what was placed here, and let go of what was placed elsewhere."""
        now_ms = self._clock.now_ms()
        if 0 <= now_ms - self._shards_asked_ms < SHARDS_EVERY_S * 1000:
            return
        try:
            placed = set(self._shards())
        except BooksUnavailable:
            self._logger.warning("books_unavailable")
            return
        self._shards_asked_ms = now_ms
        known = self._hosted.keys() | self._failed.keys() | self._lost
        self._failed |= dict.fromkeys(sorted(placed - known), 0)
        for shard in sorted(known - placed):
            self._let_go(shard)

    def _let_go(self, shard: int) -> None:
        """Forget a shard, after a checkpoint, so that its new host has little to replay. Should it be placed here again
        one day, it is taken like one that never was here."""
        if shard in self._hosted:
            self._guarded(shard, self._checkpoint)
        self._hosted.pop(shard, None)
        self._failed.pop(shard, None)
        self._leased.discard(shard)
        self._lost.discard(shard)
        self._unsaved.discard(shard)
        self._logger.info("shard_let_go", shard=shard)

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
            self._restore(hosted, lease.checkpoint)
        for mark in self._books.commits(shard, hosted.position):
            records, began_ms = shard_faults.taken(self._log_reader, shard, mark), self._clock.now_ms()
            effects = hosted.engine.step(records)
            if effects.digest() != mark.digest:
                raise NonDeterministic(f"shard {shard}: replaying up to {mark.position} gave other effects")
            hosted.position = mark.position
            hosted.remember(records, effects, self._clock.now_ms() - began_ms)
        if hosted.position != lease.position:
            raise NonDeterministic(f"shard {shard}: replay ended at {hosted.position}, the books at {lease.position}")
        shard_faults.check_next(self._log_reader, shard, lease)
        hosted.rows_total, hosted.checkpoint_at_ms = lease.rows_total, self._clock.now_ms()
        hosted.standing = hosted.engine.standing
        self._mark_committed(hosted)
        self._logger.info("shard_recovered", shard=shard, epoch=lease.epoch, position=hosted.position)
        return hosted

    def _restore(self, hosted: HostedShard, checkpoint: Checkpoint) -> None:
        stored: set[str] = set()

        def run(name: str) -> Buffer:
            stored.add(name)
            return self._archive.get_run(hosted.shard, name)

        hosted.engine.restore(self._archive.get_snapshot(checkpoint.snapshot), run)
        hosted.position = hosted.checkpoint_position = checkpoint.position
        hosted.stored = frozenset(stored)

    # ── going on ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self, hosted: HostedShard, records: list[LogRecord]) -> None:
        """One step and its commit. If the commit's end is unknown, the caller rebuilds the shard from the books."""
        began_ms = self._clock.now_ms()
        effects = hosted.engine.step(records)
        step_ms = self._clock.now_ms() - began_ms
        rows = sum(record.rows for record in records)
        position = records[-1].position
        self._books.commit(hosted.shard, hosted.epoch, hosted.position, position, rows, effects)
        hosted.moved(records, effects, step_ms)
        if hosted.shard not in self._unsaved:
            self._go_on(hosted.shard)
        self._mark_committed(hosted)
        took_ms = self._clock.now_ms() - began_ms
        hosted.busy_ms += max(0, took_ms)
        hosted.steps_taken += 1
        self._measure(hosted, effects, took_ms / 1000)

    def _mark_committed(self, hosted: HostedShard) -> None:
        """Tell writers how far the shard is, and somebody of a log that has lost what is booked."""
        if lost := self._log_reader.mark_committed(hosted.shard, hosted.rows_total):
            told = shard_faults.cut_short(hosted.shard, hosted.epoch, lost, self._clock.now_ms())
            self._books.raise_exceptions(told)

    def _measure(self, hosted: HostedShard, effects: Effects, seconds: float) -> None:
        counts = effects.counts
        hosted.standing = counts.open_items, counts.waiting
        self._metrics.count("commits", 1)
        self._metrics.count("events_committed", counts.accepted)
        self._metrics.count("events_duplicate", counts.duplicate)
        self._metrics.observe("step_seconds", seconds)

    def _show(self, hosted: HostedShard) -> None:
        """Gauges are said again and again: what is not, drops out of what Ray exports."""
        for name, count in zip(("open_items", "waiting_events"), hosted.standing, strict=True):
            self._metrics.gauge(name, count, shard=str(hosted.shard))

    # ── checkpoints ────────────────────────────────────────────────────────────────────────────────────────────────

    def _checkpoint_when_due(self, hosted: HostedShard) -> None:
        """Take note of what has become durable, and begin anew when it is time; never wait."""
        if hosted.clearing and hosted.clearing.done():
            self._cleared(hosted)
        if hosted.saving and hosted.saving.stored.done():
            self._record(hosted, hosted.saving)
        if not hosted.saving and self._is_due(hosted):
            self._begin_checkpoint(hosted)

    def _is_due(self, hosted: HostedShard) -> bool:
        """Whether a replay would take too long, or too many steps, or what there is has waited long enough."""
        age_s = (self._clock.now_ms() - hosted.checkpoint_at_ms) / 1000
        replay_ms_max = max(self._limits.checkpoint_replay_s_max * 1000, SAVES_IN_A_REPLAY * hosted.saved_in_ms)
        full = hosted.commits_since >= self._limits.checkpoint_commits_max or hosted.replay_ms >= replay_ms_max
        return hosted.commits_since > 0 and (full or age_s >= self._limits.checkpoint_age_s_max)

    def _begin_checkpoint(self, hosted: HostedShard) -> None:
        """Take all that it is made of, which is all that stops the shard, and have it written."""
        began_ms = self._clock.now_ms()
        taken = hosted.taken()
        hosted.saving = Saving(taken, self._saver.submit(store, self._archive, taken), began_ms)
        self._metrics.observe("checkpoint_stop_seconds", (self._clock.now_ms() - began_ms) / 1000)

    def _record(self, hosted: HostedShard, saving: Saving) -> None:
        """Once segment and snapshot are durable, make the checkpoint count, then trim what is no longer needed.

        1. Checkpoint in the books: from here on, recovery starts at it. A fenced owner ends here.
        2. Trim and clear: dying before leaves only what the next checkpoint clears. While somebody copies log and
           archive, all of it stays.
        """
        try:
            name, position = saving.stored.result(), saving.taken.position
        except FAULTS:
            self._unsaved.add(hosted.shard)
            raise
        self._books.record_checkpoint(hosted.shard, hosted.epoch, Checkpoint(position, name))
        hosted.saving, hosted.stored = None, frozenset(saving.taken.state.runs)
        hosted.checkpoint_position, hosted.checkpoint_at_ms = position, self._clock.now_ms()
        hosted.saved_in_ms = hosted.checkpoint_at_ms - saving.began_ms
        if hosted.shard in self._unsaved:
            self._unsaved.discard(hosted.shard)
            self._go_on(hosted.shard)
        if not self._log_reader.is_held():
            self._log_reader.trim(hosted.shard, position)
            hosted.clearing = self._saver.submit(clear, self._archive, hosted.shard, name, position)
        self._metrics.count("checkpoints", 1)
        self._metrics.observe("checkpoint_seconds", hosted.saved_in_ms / 1000)

    def _cleared(self, hosted: HostedShard) -> None:
        clearing, hosted.clearing = hosted.clearing, None
        clearing.result()

    def _checkpoint(self, hosted: HostedShard) -> None:
        """Bring what is under way to its end, and then all that came since."""
        if hosted.saving:
            self._record(hosted, hosted.saving)
        if hosted.commits_since:
            self._begin_checkpoint(hosted)
            self._record(hosted, hosted.saving)
        if hosted.clearing:
            self._cleared(hosted)

    # ── asked from outside, between steps ──────────────────────────────────────────────────────────────────────────

    def checkpoint_now(self) -> None:
        """Checkpoint every shard that has moved, so that the archive holds all that is committed."""
        for shard in list(self._hosted):
            self._guarded(shard, self._checkpoint)

    def health(self) -> list[ShardHealth]:
        """Every shard of this worker. Asked from another thread, so it looks at copies."""
        running = [
            ShardHealth(h.shard, "running", h.epoch, h.position, h.engine.remembered, h.busy_ms, h.steps_taken)
            for h in list(self._hosted.values())
        ]
        others = [("recovering", list(self._failed)), ("lost", list(self._lost))]
        return running + [ShardHealth(shard, state, 0, "", 0, 0, 0) for state, shards in others for shard in shards]

    def close(self) -> None:
        """Checkpoint, then let go of everything."""
        self.checkpoint_now()
        self._saver.shutdown(wait=True)
        self._log_reader.close()
        self._books.close()
