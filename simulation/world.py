"""Everything that exists in a run: the ports' twins, the processes over them, and whose turn it is.

Owns the order in which things happen, drawn from the seed: one process at a time takes one step. A process that hangs
does so inside a nested course of the world, and goes on where it stood when that has ended.
"""

import random
from collections.abc import Callable
from concurrent.futures import Future
from datetime import date
from typing import Any

from actors.consumer import Consumer
from actors.erp_calls import InlineCallers
from actors.feed_reader import FeedReader
from actors.gateway import Gateway
from actors.poster import Poster
from actors.relay import Relay
from actors.shard_worker import ShardWorker
from actors.supervisor import Supervisor
from adapters import wire
from adapters.archive.memory import MemoryArchive
from adapters.feeds.memory import MemoryStream
from adapters.outlets.memory import MemoryOutlet
from runtime.config import ErpSection
from runtime.errors import LogError
from runtime.ledger.rules import Rulebook
from runtime.ports import LogEntry, NoMetrics, ShardLag
from runtime.routing import splitter
from runtime.schema import EntityTerms, Vocabulary
from runtime.shard import ShardEngine
from runtime.topology import hosts
from simulation.clock import ProcessClock, VirtualClock
from simulation.coded_writer import CodedWriter
from simulation.edges import Edged
from simulation.erp import SimulatedErp
from simulation.faults import Faults
from simulation.history import History
from simulation.kept import KeptBooks, KeptLog
from simulation.late_calls import LateCalls
from simulation.processes import FeedProcess, GatewayProcess, LoopProcess, ThreadProcess
from simulation.scenario import START_MS, Scenario
from simulation.waiting_feed import WaitingFeed
from simulation.workload.rows import ENTITIES, OPENS_ON

BUSY_MS, IDLE_MS = (10, 120), (500, 5_000)  # between two turns of a process, while things happen and while not
CALM_MS = 1_500  # without a durable change
NESTED_TURNS = (2, 12)  # for each process
NOTICED = 0.8  # of hangs: longer than the supervisor bears
LEAVE = 0.5  # of runs: extra workers end when nothing goes wrong any more
LEAPS_MS = (3_600_000, 20 * 3_600_000, 9 * 86_400_000)
CHANGES = frozenset(
    ("append", "commit", "record_checkpoint", "seal", "record_outcomes", "mark_in_flight", "acknowledge", "publish")
)
WORKER, GATEWAY, POSTER, FEED, RELAY, SUPERVISOR = (
    "worker",
    "gateway",
    "poster",
    "feed-card",
    "relay",
    "supervisor",
)


class LogLine:
    """The log as a supervisor uses it: blocking."""

    def __init__(self, writer: Any, shards: int) -> None:
        self.shards, self._writer = shards, writer

    def append(self, entries: list[LogEntry]) -> None:
        _finished(self._writer.append(entries))

    def lag(self) -> dict[int, ShardLag]:
        return _finished(self._writer.lag())

    def close(self) -> None:
        _finished(self._writer.close())


class InlineExecutor:
    """Calls made on the spot by whoever asks for them."""

    def submit(self, call: Callable, *args: Any) -> Future:
        """Make the call; its future."""
        answer: Future = Future()
        try:
            answer.set_result(call(*args))
        except Exception as error:
            answer.set_exception(error)
        return answer

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Nothing is under way."""


def _finished(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a blocking caller can't await")


class World:
    """One run's twins and processes."""

    def __init__(self, scenario: Scenario, rulebook: Rulebook, history: History) -> None:
        self.scenario, self.rulebook, self.history = scenario, rulebook, history
        self.rng = random.Random(f"world {scenario.seed}")
        self._coding = random.Random(f"coding {scenario.seed}")
        self.clock = VirtualClock(START_MS)
        self.faults = Faults(scenario, self.clock, history, self.meanwhile)
        self.log = KeptLog(scenario.shards)
        self.books = KeptBooks(self.clock, rulebook.told_kinds(), scenario.shards)
        self.outlet = MemoryOutlet()
        self.archive, self.stream = MemoryArchive(), MemoryStream()
        self.erp = SimulatedErp(scenario, self.clock, self.faults)
        self.processes: dict[str, ThreadProcess | LoopProcess] = {}
        self.strays: list[ThreadProcess] = []  # cut off: nobody knows them, and they go on until they are fenced
        self.errands: list[Callable[[], None]] = []  # done between turns: what producers and operators do
        self._changed_ms = self._generation = 0
        self.workers = [f"{WORKER}-{i}" for i in range(scenario.workers)]
        self._makers = self._parts()

    # ── processes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _parts(self) -> dict[str, Callable[[], ThreadProcess | LoopProcess]]:
        """How each process of the target is started."""
        workers = {name: lambda name=name: self._worker(name) for name in self.workers}
        gateways = {f"{GATEWAY}-{i}": lambda i=i: self._gateway_process(i) for i in range(self.scenario.gateways)}
        return {
            **workers,
            **gateways,
            FEED: lambda: FeedProcess(FEED, self.clock, self._build_reader),
            POSTER: lambda: ThreadProcess(POSTER, self.clock, self._build_poster),
            RELAY: lambda: ThreadProcess(RELAY, self.clock, self._build_relay),
            SUPERVISOR: lambda: ThreadProcess(SUPERVISOR, self.clock, self._build_supervisor),
        }

    def start(self, name: str) -> None:
        """Start a process of the target."""
        self._generation += 1
        self.processes[name] = self._makers[name]()

    def start_all(self) -> None:
        """Start the whole target."""
        for name in self._makers:
            self.start(name)

    def _worker(self, name: str) -> ThreadProcess:
        def build(process: ThreadProcess) -> ShardWorker:
            books = self._edged("books", self.books, process)
            return self._build_worker(process, lambda: self._hosted(books)[name])

        return ThreadProcess(name, self.clock, build)

    def _hosted(self, books: Any) -> dict[str, list[int]]:
        return hosts(books.placements(), self.workers, self.scenario.shards)

    def _gateway_process(self, index: int) -> GatewayProcess:
        return GatewayProcess(f"{GATEWAY}-{index}", self.clock, self._build_gateway)

    def _build_worker(self, process: ThreadProcess, shards: Callable[[], list[int]]) -> ShardWorker:
        return ShardWorker(
            shards,
            holder=f"{process.name}/{self._generation}",
            engine=self._engine,
            log=self._edged("log_reader", self.log, process),
            books=self._edged("books", self.books, process),
            archive=self._edged("archive", self.archive, process),
            clock=self._clock_of(process),
            limits=self.scenario.limits,
            metrics=NoMetrics(),
            saver=LateCalls(),
        )

    def _engine(self) -> ShardEngine:
        opens_on: dict[str, date] = dict.fromkeys(ENTITIES, OPENS_ON)
        engine = ShardEngine(self.rulebook, opens_on, self.scenario.limits.open_items_max)
        engine.intake.items.rows_min = self.scenario.columns_rows_min
        return engine

    def _build_gateway(self, process: LoopProcess) -> Gateway:
        return Gateway(
            self._edged("log_writer", CodedWriter(self.log, self._coding), process),
            vocabulary=self._vocabulary(derived=False),
            split=splitter(self.rulebook.scopes(), self.scenario.shards),
            limits=self.scenario.limits,
            clock=self._clock_of(process),
            metrics=NoMetrics(),
        )

    def _vocabulary(self, *, derived: bool) -> Vocabulary:
        entities = {
            name: EntityTerms(currencies=frozenset(("USD", "EUR")), facilities=frozenset(facilities))
            for name, facilities in ENTITIES.items()
        }
        return Vocabulary(kinds=self.rulebook.kind_terms(derived=derived), entities=entities)

    def _build_reader(self, process: LoopProcess) -> FeedReader:
        process.feed = WaitingFeed(self.stream, "reader")
        return FeedReader(
            self._edged("feed", process.feed, process),
            self._build_gateway(process).submit,
            self._edged("books", self.books, process),
            clock=self._clock_of(process),
            limits=self.scenario.limits,
            name="card",
            parse=wire.from_redis,
            metrics=NoMetrics(),
        )

    def _build_poster(self, process: ThreadProcess) -> Poster:
        section = ErpSection(calls_per_minute=self.scenario.calls_per_minute, seal_age_s=self.scenario.seal_age_s)
        return Poster(
            self._edged("books", self.books, process),
            InlineCallers(self._edged("erp", self.erp, process)),
            clock=self._clock_of(process),
            limits=self.scenario.limits,
            erp_section=section,
            entities=tuple(ENTITIES),
            holder=f"{process.name}/{self._generation}",
            metrics=NoMetrics(),
        )

    def _build_relay(self, process: ThreadProcess) -> Relay:
        books, clock = self._edged("books", self.books, process), self._clock_of(process)
        outlet = self._edged("outlet", self.outlet, process)
        consumer = Consumer("ledger", (), outlet, calls=InlineExecutor(), books=books, clock=clock, metrics=NoMetrics())
        return Relay(
            books,
            LogLine(self._edged("log_writer", self.log, process), self.scenario.shards),
            [consumer],
            vocabulary=self._vocabulary(derived=True),
            split=splitter(self.rulebook.scopes(), self.scenario.shards),
            clock=clock,
            limits=self.scenario.limits,
            holder=f"{process.name}/{self._generation}",
            metrics=NoMetrics(),
        )

    def _build_supervisor(self, process: ThreadProcess) -> Supervisor:
        return Supervisor(
            [name for name in self._makers if name != SUPERVISOR],
            workers=self.workers,
            stage=_Stage(self),
            log=LogLine(self._edged("log_writer", self.log, process), self.scenario.shards),
            books=self._edged("books", self.books, process),
            clock=self._clock_of(process),
            metrics=NoMetrics(),
            silence_s=self.scenario.silence_s,
            tick_s=self.scenario.tick_s,
        )

    def _edged(self, port: str, twin: object, process: object) -> Edged:
        return Edged(port, twin, process, self)

    def _clock_of(self, process: object) -> ProcessClock:
        skew_ms = random.Random(f"{process.name} {self.scenario.seed}").randint(0, self.scenario.skew_ms_max)
        return ProcessClock(self.clock, skew_ms)

    # ── the observer of edges ──────────────────────────────────────────────────────────────────────────────────────

    def cross(self, process: Any, edge: Any, args: tuple) -> None:
        """Keep note of when something last changed; the rest is the faults' to say."""
        if edge.method in CHANGES:
            self._changed_ms = self.clock.elapsed_ms
        try:
            self.faults.cross(process, edge, args)
        except LogError:
            if edge.port == "feed":
                process.feed.start_over()
            raise

    def delay_s(self, process: Any, edge: Any) -> float:
        """A supervisor calls without a loop, and can't wait."""
        return 0.0 if isinstance(process, ThreadProcess) else self.faults.delay_s(process, edge)

    def meanwhile(self, paused: Any) -> None:
        """A process hangs: the others go on, until its successor has been at work, or for a short while."""
        paused.hung = True
        if self.rng.random() < NOTICED:
            self.clock.advance(round((self.scenario.silence_s + 1) * 1000))
        for _ in range(self.rng.randint(*NESTED_TURNS) * len(self.processes)):
            self.turn()
        paused.hung = False

    # ── turns ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> None:
        """One process takes a step, or time passes until one may."""
        for errand in self.errands:
            errand()
        self._weather()
        ready = [p for p in (*self.processes.values(), *self.strays) if not p.hung and not p.dead]
        due = [p for p in ready if p.due_ms <= self.clock.elapsed_ms]
        if not due:
            soonest = min((p.due_ms for p in ready), default=self.clock.elapsed_ms + BUSY_MS[1])
            self.clock.advance(max(soonest - self.clock.elapsed_ms, 0))
            self._revive()
            return
        process = self.rng.choice(due)
        pause_s = process.turn()
        busy = self.clock.elapsed_ms - self._changed_ms < CALM_MS
        idle_ms = self.rng.randint(*(BUSY_MS if busy else IDLE_MS))
        process.due_ms = self.clock.elapsed_ms + max(idle_ms, round(pause_s * 1000))
        self.clock.advance(self.rng.choice((0, 1, 7)))
        self._revive()

    def _revive(self) -> None:
        """Ray brings a dead supervisor back; the supervisor sees to the others."""
        self.strays = [stray for stray in self.strays if not stray.dead]
        if self.processes[SUPERVISOR].dead:
            self.start(SUPERVISOR)

    def _weather(self) -> None:
        faults, rates = self.faults, self.scenario.rates
        if faults.chance(rates.outage):
            faults.begin_outage()
        if faults.chance(rates.kill):
            self._kill(self.rng.choice([*(self.processes[name] for name in sorted(self.processes)), *self.strays]))
        if faults.chance(rates.move):
            move = self.rng.choice((self._move, self._place))
            move(self.rng.randrange(self.scenario.shards))
        if faults.chance(rates.leap):
            self.clock.advance(self.rng.choice(LEAPS_MS))
            faults.happened("hours pass")
        if faults.chance(rates.erp / 100):
            self._trouble_erp()

    def heal(self) -> None:
        """Nothing goes wrong any more. Who helped out may leave, and what it had taken over is nobody's then."""
        self.faults.heal()
        self.erp.heal()
        if self.rng.random() < LEAVE:
            for stray in self.strays:
                stray.end()

    def _trouble_erp(self) -> None:
        if self.rng.random() < 0.5:
            return self.erp.change_quota()
        return self.erp.close_period(self.rng.choice(("2026-07", "2026-08", "2026-09")), self.rng.choice((2, 60, 900)))

    def _kill(self, process: ThreadProcess | LoopProcess) -> None:
        if not process.dead and not process.hung:
            self.faults.happened(f"kill {process.name.partition('-')[0]}", process.name)
            process.end()

    def _move(self, shard: int) -> None:
        """Another worker takes one shard over; its former owner is told by nobody."""
        self._generation += 1
        name = f"mover-{self._generation}"
        self.faults.happened("moved shard", name)
        self.strays.append(
            ThreadProcess(name, self.clock, lambda process: self._build_worker(process, lambda: [shard]))
        )

    def _place(self, shard: int) -> None:
        """A worker is to host one shard from now on, as the supervisor may decide."""
        worker = self.rng.choice(self.workers)
        self.faults.happened("placed shard", worker)
        self.books.place(shard, worker)

    def cut_off(self, name: str) -> None:
        """A process is replaced: a hanging one may wake up and go on, as nobody could reach it."""
        process = self.processes.pop(name)
        if process.hung:
            self.faults.happened("replaced a hanging process", name)
            self.strays.append(process)
        else:
            process.end()


class _Stage:
    """Where the supervisor's parts run. See actors.supervisor.Stage."""

    def __init__(self, world: World) -> None:
        self._world = world

    def exists(self, name: str) -> bool:
        process = self._world.processes.get(name)
        return process is not None and not process.dead

    def start(self, name: str) -> None:
        self._world.start(name)

    def kill(self, name: str) -> None:
        self._world.cut_off(name)

    def ping(self, names: list[str], timeout_s: float) -> dict[str, object]:
        answers = {name: self._world.processes[name].health() for name in names}
        return {name: answer for name, answer in answers.items() if answer is not None}
