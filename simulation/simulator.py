"""One run: trouble first, then healing, then the audit.

Owns the phases and what a failure says. Safety is audited again and again while everything fails; afterwards all that
was accepted must drain, and what does not is named.
"""

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import msgspec
import structlog

from actors.shard_worker import ShardWorker
from adapters.settings import standard_rulebook_text
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.ports import START
from simulation.accountants import Accountants
from simulation.auditor.books import Auditor
from simulation.auditor.delivery import delivered_differences, delivery_differences, entries_by_state
from simulation.auditor.intake import intake_differences
from simulation.auditor.outgoing import outgoing_differences
from simulation.history import History
from simulation.people import Deciders
from simulation.producers import Operator, Producers
from simulation.scenario import scenario
from simulation.workload.deliveries import workload
from simulation.workload.rows import ENTITIES, OPENS_ON
from simulation.workload.stories import Stories
from simulation.world import World

EVENTS_DEFAULT = 60
SMALLER_EVENTS = (5, 10, 20, 40, 70)
SHOWN_FAULTS, SHOWN_STEPS = 15, 30
TROUBLED_TURNS_MAX = 6_000
HEALED_TURNS_MAX = 30_000
HEALED_TICKS = 2  # at least: who was overtaken and has nothing to do notices it by a tick
AUDIT_EVERY_TURNS = 400
LOOK_EVERY_TURNS = 25


class Finding(NamedTuple):
    """What did not hold, and when: at which line of the history, in which phase."""

    phase: str
    step: int
    what: list[str]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    seed: int
    events: int
    digest: str  # of the whole history
    steps: int
    virtual_s: float
    sometimes: Counter[str]
    crossed: Counter[str]  # edges
    finding: Finding | None
    trace: list[str]
    faults: list[str]


class _Failed(Exception):
    def __init__(self, phase: str, what: list[str]) -> None:
        super().__init__(phase)
        self.phase, self.what = phase, what


@cache
def standard_rulebook() -> Rulebook:
    """The rules that every run follows."""
    return parse_rulebook(standard_rulebook_text())


def simulate(seed: int, events: int = EVENTS_DEFAULT, whole_trace: bool = False) -> Outcome:
    """Run one seed to its end."""
    run = _Run(seed, events, whole_trace)
    finding = None
    with _listening(run.history):
        try:
            run.go()
        except _Failed as failed:
            finding = Finding(failed.phase, run.history.steps, failed.what)
        except Exception as error:  # a part, or the model, met what nobody thought of: that is a finding, too
            what = traceback.format_exception(error)
            finding = Finding("crash", run.history.steps, [f"{type(error).__name__}: {error}", what[-2].strip()])
    return Outcome(
        seed=seed,
        events=events,
        digest=run.history.digest(),
        steps=run.history.steps,
        virtual_s=run.world.clock.elapsed_ms / 1000,
        sometimes=run.world.faults.sometimes,
        crossed=Counter({str(edge): times for edge, times in run.world.faults.crossings.items()}),
        finding=finding,
        trace=list(run.history.lines),
        faults=run.history.happened,
    )


class _Run:
    def __init__(self, seed: int, events: int, whole_trace: bool) -> None:
        self.scenario, self.rulebook = scenario(seed, events), standard_rulebook()
        self.history = History(whole_trace)
        self.world = World(self.scenario, self.rulebook, self.history)
        rng = self.world.rng
        sent = workload(Stories(self.rulebook, rng).tell(events), self.scenario, rng)
        self.producers = Producers(self.world, sent)
        self.operator = Operator(self.world, self.rulebook)
        self.deciders = Deciders(self.world, self.rulebook)
        self.world.errands += [self.producers, self.operator, self.deciders, Accountants(self.world)]
        opens_on = dict.fromkeys(ENTITIES, OPENS_ON)
        self.auditor = Auditor(
            self.rulebook, opens_on, self.scenario.limits.open_items_max, shards=self.scenario.shards
        )
        self.sent, self.declared = sent, 0

    def go(self) -> None:
        """Trouble, healing, the end."""
        self.world.start_all()
        self._live_through_trouble()
        self._audit("safety")
        self._heal()
        self._drain()
        self._checkpoint()
        self._audit("end")
        self._demand("end", delivered_differences(self.world.books, self.world.erp, tuple(ENTITIES)))
        self._demand("end", self.auditor.archive_differences(self.world.archive))
        self._demand("end", intake_differences(self.world, self.sent, self.producers))
        sources = (self.world.log.kept, self.world.books, self.world.outlet)
        self._demand("end", outgoing_differences(self.auditor, self.rulebook, *sources))

    def _live_through_trouble(self) -> None:
        for turn in range(1, TROUBLED_TURNS_MAX):
            self.world.turn()
            if turn % AUDIT_EVERY_TURNS == 0 or self._has_just_closed():
                self._audit("safety")
            if turn % LOOK_EVERY_TURNS == 0 and self.producers.done and not self.stuck():
                return

    def _has_just_closed(self) -> bool:
        """Whether a period was declared closed since this was asked: shards that are behind then, soon are no more."""
        known, self.declared = self.declared, sum(close.state == "declared" for close in self.world.books.closes())
        return self.declared > known

    def _heal(self) -> None:
        self.history.fault(self.world.clock.elapsed_ms, "world", "heals")
        self.world.heal()

    def _drain(self) -> None:
        clock, turn = self.world.clock, 0
        until_ms = clock.elapsed_ms + round(HEALED_TICKS * self.scenario.tick_s * 1000)
        while turn < HEALED_TURNS_MAX or clock.elapsed_ms < until_ms:
            if turn % LOOK_EVERY_TURNS == 0 and not self.stuck():
                return
            self.world.turn()
            turn += 1
        raise _Failed("liveness", [*self.stuck(), f"logged last: {', '.join(self.history.errors) or 'no errors'}"])

    def stuck(self) -> list[str]:
        """What has not drained, by name."""
        world = self.world
        stuck = [f"delivery {number} has no answer" for number in self.producers.unanswered()[:3]]
        stuck += [] if self.operator.done else ["mapping versions are not proposed yet"]
        stuck += ["decisions are not in the log yet"] if world.books.unlogged_decisions(1) else []
        if world.stream.waiting or world.stream.pending:
            stuck.append(f"feed: {len(world.stream.waiting)} unread, {len(world.stream.pending)} unacknowledged")
        if orphans := self._orphans():
            stuck.append(f"no worker runs shards {orphans}")
        for shard, (position, end) in enumerate(zip(self._positions().values(), self._ends(), strict=True)):
            if position != end:
                stuck.append(f"shard {shard} stands at {position} of {end}")
        if unclaimed := world.books.unclaimed_count(tuple(ENTITIES)):
            stuck.append(f"{unclaimed} posting sets are in no entry")
        if world.books.outbox(1):
            stuck.append("derived events wait in the outbox")
        if (told := len(world.outlet.entries)) < world.books.statuses(0, 10**6).height or world.books.unnumbered():
            stuck.append(f"the consumer knows {told} statuses, the books more")
        states = entries_by_state(world.books, tuple(ENTITIES))
        ended = {"posted", "rejected", "parked"}
        left = {state: len(entries) for state, entries in states.items() if state not in ended and entries}
        stuck += [f"journal entries: {left}"] if left else []
        lost = [key for key in states["parked"] if not world.erp.shows(key)]
        return stuck + ([f"entries are parked, and not in the ERP: {lost[:3]}"] if lost else [])

    def _orphans(self) -> list[int]:
        """Shards that their owner does not run. Who was overtaken and has not noticed yet runs nothing that counts."""
        newest = dict(self.world.books.shard_rows().select("shard", "epoch").iter_rows())
        told = [one for worker in self._workers() for one in worker.health() if one.state == "running"]
        running = {one.shard for one in told if one.epoch == newest[one.shard]}
        return sorted(set(range(self.scenario.shards)) - running)

    def _positions(self) -> dict[int, str]:
        committed = {row["shard"]: row["position"] for row in self.world.books.shard_rows().iter_rows(named=True)}
        return {shard: committed.get(shard, START) for shard in range(self.scenario.shards)}

    def _ends(self) -> list[str]:
        return [records[-1].position if records else START for records in self.world.log.kept]

    def _checkpoint(self) -> None:
        """Bring everything into the archive, so that it can be looked at as a whole."""
        for worker in self._workers():
            worker.checkpoint_now()

    def _workers(self) -> list[ShardWorker]:
        """Those that run, those that nobody knows any more among them."""
        processes = (*self.world.processes.values(), *self.world.strays)
        return [p.part for p in processes if not p.dead and isinstance(p.part, ShardWorker)]

    def _audit(self, phase: str) -> None:
        self.auditor.follow(self.world.log.kept, self.world.books.cuts)
        self._demand(phase, self.auditor.books_differences(self.world.books))
        moves = self.world.erp.twin.moves
        self._demand(phase, delivery_differences(self.world.books, moves, tuple(ENTITIES)))
        self._demand(phase, iter([*self.producers.complaints, *self.deciders.complaints]))
        self._demand(phase, self.deciders.reopened())

    def _demand(self, phase: str, found: Iterator[str]) -> None:
        if what := list(found):
            raise _Failed(phase, what)


@contextlib.contextmanager
def _listening(history: History) -> Iterator[None]:
    """What parts log becomes a part of the history: its event and the type of its error."""

    def hear(_logger: object, method: str, logged: dict) -> dict:
        history.log(method, str(logged.get("event", "")), str(logged.get("error_type", "")))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[hear], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


def smallest(seed: int, events: int) -> Outcome:
    """The run of a seed with the fewest events that still fails; the given number where no smaller one does."""
    sizes = (size for size in SMALLER_EVENTS if size < events)
    return next((run for run in (simulate(seed, size) for size in sizes) if run.finding), simulate(seed, events))


def report(outcome: Outcome) -> str:
    """What a failure says: the seed, the step, what did not hold, the faults before it and the last steps."""
    phase, step, what = outcome.finding or Finding("", outcome.steps, [])
    lines = [f"seed {outcome.seed}, {outcome.events} events: step {step}, {phase}", *(f"  {one}" for one in what)]
    lines += ["faults before it:", *outcome.faults[-SHOWN_FAULTS:], "last steps:", *outcome.trace[-SHOWN_STEPS:]]
    return "\n".join([*lines, f"replay: penstock simulate --seed {outcome.seed} --events {outcome.events} --trace"])
