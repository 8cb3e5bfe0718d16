"""Shards derived anew and compared with what books, archive and log hold of them, several side by side.

Owns what is read of a shard, and up to where: the archive's steps and, after them, the log's, up to the position that
the shard had at the instant that is verified. Each shard is read by itself, at an instant of its own, so only what
never changes up to that position is; what does change comes with the task. Never compares shards with each other.
"""

import contextlib
import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from typing import NamedTuple

import msgspec
import polars as pl

from actors.parts import FOLLOWING_NICENESS
from adapters.archive.parquet import ParquetArchive
from adapters.books.instant import InstantBooks, Standing, at_one_instant
from runtime.config import Config
from runtime.effects import OUTCOMES, empty
from runtime.errors import ConfigError, LogError
from runtime.ledger.rules import Rulebook
from runtime.ports import START, ArchivedStep, Buffer, CommitMark, LogReader, position_key
from simulation import side_by_side
from simulation.auditor.books import Auditor
from simulation.auditor.proof import Aligned, CommitPostings, Difference, ShardProof, postings_by_commit, runs_of

PAGE_SETS = 5_000
GC_ALLOCATIONS = 200_000  # what is derived stays and makes no cycles: to look for some takes a sixth of the time
ROWS_A_PROCESS = 50_000  # for fewer, another process takes longer to begin than it spares
LOOK_S = 0.25  # how often progress is looked at

Progressed = Callable[[int], None]  # told how many more rows are done


class Sources(NamedTuple):
    """What everything is derived from and compared with. `open_log` is None when the log does not run."""

    config: Config
    rulebook: Rulebook
    books_url: str
    archive: ParquetArchive
    open_log: Callable[[], LogReader] | None

    def auditor(self) -> Auditor:
        """The naive model's view of the books."""
        return Auditor(self.rulebook, self.config.opens_on(), self.config.bounds().open_items_max, 0)


class ShardTask(NamedTuple):
    """A shard at the instant that is verified: where it stands, and its control totals."""

    shard: int
    standing: Standing
    totals: pl.DataFrame


class ShardFound(msgspec.Struct):
    """What came of one shard. `position`: up to there nothing is missing, "" where something is. `whole`: that is where
    it stands; balances (minor units by entity, currency, account and side) and open exceptions count only then."""

    shard: int
    position: str = ""
    whole: bool = False
    differences: list[Difference] = []
    uncovered: list[str] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    balances: Counter[tuple] = msgspec.field(default_factory=Counter)
    exceptions: Counter[tuple] = msgspec.field(default_factory=Counter)


def suitable(rows: int) -> int:
    """How many processes derive so many rows soonest."""
    return min(os.cpu_count() or 1, 1 + rows // ROWS_A_PROCESS)


def proved(sources: Sources, tasks: Sequence[ShardTask], processes: int, progress: Progressed) -> list[ShardFound]:
    """What came of each shard, in the order of the tasks; the first are begun first."""
    if processes == 1:
        return [prove(sources, task, progress) for task in tasks]
    done = side_by_side.SPAWN.Value("q", 0)
    try:
        with side_by_side.pool(processes, _begin, done) as pool:
            found = [pool.submit(_prove_there, sources, task) for task in tasks]
            running, told = set(found), 0
            while running:
                running = wait(running, timeout=LOOK_S).not_done
                progress(done.value - told)
                told = done.value
            return [one.result() for one in found]
    except BrokenProcessPool:
        raise ConfigError(
            "a process that verified was ended, maybe for want of memory: use fewer --processes"
        ) from None


_done: Synchronized | None = None  # in a process of its own: the rows that all of them have done


def _begin(done: Synchronized) -> None:
    global _done
    _done = done
    os.nice(FOLLOWING_NICENESS)


def _prove_there(sources: Sources, task: ShardTask) -> ShardFound:
    return prove(sources, task, _add)


def _add(rows: int) -> None:
    with _done.get_lock():
        _done.value += rows


def prove(sources: Sources, task: ShardTask, progress: Progressed) -> ShardFound:
    """Follow one shard as far as it is recorded. Raises BooksUnavailable."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_collecting_seldom())
        books = stack.enter_context(at_one_instant(sources.books_url))
        log = stack.enter_context(contextlib.closing(sources.open_log())) if sources.open_log else None
        return _Run(sources, task, books, log).found(progress)


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(GC_ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _Run:
    def __init__(self, sources: Sources, task: ShardTask, books: InstantBooks, log: LogReader | None) -> None:
        self._sources, self._archive, self._books, self._log = sources, sources.archive, books, log
        self._shard, self._standing, self._totals = task
        items_max = sources.config.bounds().open_items_max
        self._proof = ShardProof(task.shard, sources.rulebook, sources.config.opens_on(), items_max)
        self._found = ShardFound(task.shard)
        self._snapshot = self._held_snapshot()

    def _held_snapshot(self) -> tuple[bytes, dict[str, Buffer]] | None:
        """What the shard would start from, held until it is followed there: a checkpoint puts another in its place,
        and what is open stays readable."""
        if not self._standing.snapshot:
            return None
        with contextlib.suppress(FileNotFoundError):
            body = self._archive.get_snapshot(self._standing.snapshot)
            return body, {name: self._archive.get_run(self._shard, name) for name in runs_of(body)}
        return None

    def found(self, progress: Progressed) -> ShardFound:
        """Follow the shard; what was found."""
        found, proof = self._found, self._proof
        found.whole = self._follow(progress)
        if found.whole:
            proof.finish(self._totals)
            found.balances = proof.balances
            found.exceptions = self._sources.auditor().expected_exceptions([proof.model])
        found.counts = proof.counts
        found.differences += proof.differences
        return found

    def _follow(self, progress: Progressed) -> bool:
        """Take its steps, each beside what is held of it; whether all of them were there."""
        postings, outcomes = Aligned(self._postings()), Aligned(self._archive.outcomes_of(self._shard))
        ends = Aligned((position, rows) for _, position, rows in self._books.commit_ends(self._shard))
        for step in self._steps():
            _, missed = ends.at(step.position)
            if missed:
                return self._uncover(f"the archive lacks the entries that the commit at {missed[0]} took")
            commit, strange = postings.at(step.position)
            self._strange(strange)
            self._proof.take(step, commit, self._archived(step, outcomes))
            if step.position == self._standing.checkpoint:
                self._compare_snapshot()
            progress(sum(record.rows for record in step.records))
        reached = self._found.position = self._proof.position
        if reached != self._standing.position:
            return self._uncover(f"the entries after {reached} are neither in the archive nor in the log")
        self._strange(postings.rest())
        return True

    def _postings(self) -> Iterator[tuple[str, CommitPostings]]:
        """What the books hold of each commit up to where the shard stands."""
        last = position_key(self._standing.position)
        for _, commit in postings_by_commit(self._books.postings_of(self._shard, PAGE_SETS)):
            if position_key(commit.position) > last:
                return
            yield commit.position, commit

    def _archived(self, step: ArchivedStep, outcomes: Aligned) -> pl.DataFrame | None:
        """The step's outcomes; none up to the checkpoint means that there were none, after it that they are to come."""
        archived, _ = outcomes.at(step.position)
        if archived is None and position_key(step.position) <= position_key(self._standing.checkpoint or START):
            return empty(OUTCOMES)
        return archived

    def _steps(self) -> Iterator[ArchivedStep]:
        """The shard's steps up to where it stands: what the archive holds, then what the log still does.

        A checkpoint may move steps from the log to the archive meanwhile: then the archive is read on.
        """
        last, to, marks = START, self._standing.position, self._books.commits(self._shard, START)
        while True:
            before = last
            for source in (self._archive.steps(self._shard, after=last), self._logged(marks)):
                for step in source:
                    if position_key(last) < position_key(step.position) <= position_key(to):
                        last = step.position
                        yield step
            if last in (before, to):
                return

    def _logged(self, marks: Sequence[CommitMark]) -> Iterator[ArchivedStep]:
        """Committed steps that the log still holds whole."""
        for mark in marks if self._log else ():
            try:
                records = self._log.read_range(self._shard, mark.after, mark.position)
            except LogError:
                return
            whole = records and records[-1].position == mark.position
            if whole and sum(record.rows for record in records) == mark.rows:
                yield ArchivedStep(tuple(records))

    def _compare_snapshot(self) -> None:
        if self._snapshot is None:  # a newer checkpoint had taken its place when this shard's turn came
            self._uncover("its snapshot was replaced before it was verified: waiting rows not compared")
        else:
            body, runs = self._snapshot
            self._proof.compare_snapshot(body, runs.__getitem__)

    def _strange(self, positions: Sequence[str]) -> None:
        for position in positions:
            place = {"shard": self._shard, "position": position}
            one = Difference(what="posting sets", key=f"commit {position}", expected="none", found="some", **place)
            self._found.differences.append(one)

    def _uncover(self, why: str) -> bool:
        self._found.uncovered.append(f"shard {self._shard}: {why}")
        return False
