"""A worker over memory twins and a virtual clock: whatever dies, fails or comes too late, the books stay the same.

The edges are not listed by hand: every call of a port has one before and one after it, and each is tried.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cache
from itertools import pairwise

import msgspec
import numpy as np
import polars as pl
import pytest
import structlog
from small_log import NOW_MS, ROLES, RULEBOOK, VirtualClock, control, event, events, mapping

from actors.shard_worker import SHARDS_EVERY_S, ShardWorker
from adapters.archive.memory import MemoryArchive
from adapters.books.memory import MemoryBooks
from adapters.log.memory import MemoryLog
from runtime.effects import Effects
from runtime.errors import BooksUnavailable, Fenced, LogUnavailable
from runtime.event_rules import identity
from runtime.limits import Limits
from runtime.ports import START, Checkpoint, LogEntry, LogRecord, NoMetrics, position_key, run_name
from runtime.shard import Frozen, ShardEngine
from simulation.late_calls import LateCalls

NORTH, WEST, CARDS = 0, 1, 0  # the shards of the two facilities, and of the entity
LIMITS = Limits(step_rows_max=8, checkpoint_commits_max=2)
OPENS_ON = {"mercy": date(2026, 7, 1)}
STEPS_MAX = 400
PANIC = b"panic"
EVENTS = {"accepted": 18, "booked": 14, "excluded": 3, "excepted": 1, "duplicate": 8}  # what `history` comes to
BOOKED_MINOR = 615 + 35 + 20 + 30 + 50  # charges north and west, payment, adjustment, card


@pytest.fixture(autouse=True)
def logged() -> Iterator[list]:
    """What workers log, kept from the screen."""
    with structlog.testing.capture_logs() as entries:
        yield entries


# ── what the log holds ─────────────────────────────────────────────────────────────────────────────────────────────


@cache
def history() -> tuple[LogEntry, ...]:
    """All that a shard can meet: repeats, a conflict, rows that wait for a counterpart or for a mapping, time."""
    charges = [event(f"c{i}", "charge_posted", 100 + i) for i in range(6)]
    adjusted = event("a1", "adjustment_posted", 30, reason="CO-45")
    card = {"entity": "mercy", "facility": "north"}
    return (
        mapping(NORTH, 1, *ROLES),
        mapping(WEST, 1, *ROLES),
        events(NORTH, *charges[:3]),
        events(WEST, *(event(f"w{i}", "charge_posted", 7, "west", counterparty="plan") for i in range(5))),
        events(NORTH, adjusted, *charges[2:4]),  # held for want of a mapping; one repeat
        events(CARDS, event("s1", "card_settled", 50, document="ca-1", reference="po-1", **card)),
        events(NORTH, event("c1", "charge_posted", 999), *charges[4:]),  # the first is a conflict
        events(CARDS, event("k1", "card_captured", 50, document="ca-1", reference="au-1", **card)),
        events(CARDS, event("p1", "payout_paid", 50, document="po-1")),
        control(NORTH, {"type": "tick", "now_ms": NOW_MS + 60_000}),
        events(
            WEST,
            event("w9", "payment_received", 20, "west"),
            event("w1", "charge_posted", 7, "west", counterparty="plan"),
        ),
        events(CARDS, event("t1", "card_authorised", 80, document="au-1", **card)),
        mapping(NORTH, 2, "CONTRACTUAL"),
        mapping(WEST, 2, "CONTRACTUAL"),
        events(NORTH, *charges),  # every one a repeat
    )


# ── edges ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class KilledError(BaseException):
    """The process dies here: nothing in it may catch this."""


PORT_ERRORS = {"log": LogUnavailable, "books": BooksUnavailable, "archive": OSError}


class Edges:
    """Edges around a worker's ports, before and after each call; at one of them, by its number, something happens."""

    def __init__(self, happens_at: int, happens: Callable[[str], None]) -> None:
        self._happens_at, self._happens = happens_at, happens
        self.passed: list[str] = []

    def around(self, port: str, target: object) -> object:
        """The target, with an edge before and after each of its calls."""
        return _Edged(port, target, self)

    def cross(self, port: str, name: str) -> None:
        """Pass one edge."""
        self.passed.append(name)
        if len(self.passed) == self._happens_at:
            self._happens(port)


class _Edged:
    def __init__(self, port: str, target: object, edges: Edges) -> None:
        self._port, self._target, self._edges = port, target, edges

    def __getattr__(self, name: str) -> Callable:
        def call(*given: object, **named: object) -> object:
            self._edges.cross(self._port, f"before {name}")
            answer = getattr(self._target, name)(*given, **named)
            self._edges.cross(self._port, f"after {name}")
            return answer

        return call


def die(_port: str) -> None:
    """End the process."""
    raise KilledError


def fail(port: str) -> None:
    """Fail as that port may."""
    raise PORT_ERRORS[port]


class PureEngine:
    """The real engine as the function that it promises to be: what follows from a state and records is found once.

    Worked out anew at each of some hundred edges, the steps alone would take a minute. Its state is one run, made anew
    at each checkpoint.
    """

    _known: dict[tuple, tuple[Effects, bytes]] = {}

    def __init__(self) -> None:
        self._state = _packed(_engine())

    remembered, standing = 0, (0, 0)

    def step(self, records: list[LogRecord]) -> Effects:
        """What the real engine says."""
        if any(record.body == PANIC for record in records):
            raise pl.exceptions.PanicException("a fault in a native library is no Exception")
        given = self._state, *records
        if given not in self._known:
            engine = _engine()
            body, runs = msgspec.msgpack.decode(self._state)
            engine.restore(body, runs.__getitem__)
            self._known[given] = engine.step(records), _packed(engine)
        effects, self._state = self._known[given]
        return effects

    def freeze(self, position: str, epoch: int) -> Frozen:
        """The state."""
        name = run_name(position, epoch, 0)
        words = np.frombuffer(len(self._state).to_bytes(8) + self._state + bytes(-len(self._state) % 8), "<u8")
        return Frozen({name: (words[:1], words[1:])}, name.encode)

    def restore(self, snapshot: bytes, run: Callable[[str], bytes]) -> None:
        """Become it."""
        content = run(snapshot.decode())
        self._state = content[8:][: int.from_bytes(content[:8])]


def _engine() -> ShardEngine:
    return ShardEngine(RULEBOOK, OPENS_ON, 1000)


def _packed(engine: ShardEngine) -> bytes:
    state = engine.freeze()
    return msgspec.msgpack.encode((state.body(), {name: state.run(name) for name in state.runs}))


# ── the bench ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Bench:
    """A log with a history, books, an archive, a clock, and as many workers one after another as a test needs."""

    def __init__(self, entries: tuple[LogEntry, ...] = ()) -> None:
        self.clock, self.log, self.archive = VirtualClock(), MemoryLog(2), MemoryArchive()
        self.books = MemoryBooks(self.clock.now_ms)
        self.engine, self.metrics = PureEngine, NoMetrics()
        self.append(*(entries or history()))

    def append(self, *entries: LogEntry) -> None:
        """Add to the log."""
        self.ends = asyncio.run(self._append(entries))

    async def _append(self, entries: tuple[LogEntry, ...]) -> dict[int, int]:
        await self.log.append(entries)
        return {shard: lag.appended for shard, lag in (await self.log.lag()).items()}

    def worker(self, edges: Edges | None = None, shards: Collection[int] = (0, 1), holder: str = "test") -> ShardWorker:
        """A worker of these shards, which may change; `edges` lie around its ports."""
        ports = {"log": self.log, "books": self.books, "archive": self.archive}
        worker = ShardWorker(
            lambda: shards,
            holder=holder,
            engine=self.engine,
            **{name: edges.around(name, port) if edges else port for name, port in ports.items()},
            clock=self.clock,
            limits=LIMITS,
            metrics=self.metrics,
            saver=LateCalls(),
        )
        worker.start()
        return worker

    def told_of_a_stopped_shard(self) -> str:
        """What is said of a shard that a new worker can't go on with."""
        worker = self.worker(shards=(NORTH,))
        while not self.books.exception_counts():
            worker.step()
            self.clock.sleep(0.5)
        [told] = self.books.exceptions(types=["shard_stopped"])["detail"]
        return told

    def run(self, worker: ShardWorker) -> None:
        """Step until everything is committed, then stop the worker in good order."""
        for _ in range(STEPS_MAX):
            self.clock.sleep(max(worker.step(), 0.05))
            if self.drained():
                return worker.close()
        raise AssertionError(f"not there after {STEPS_MAX} steps: {self.books.shard_rows().to_dicts()}")

    def drained(self) -> bool:
        """Whether each shard stands at its log's end."""
        at = {row["shard"]: row["position"] for row in self.books.shard_rows().iter_rows(named=True)}
        return all(not self.log.read_range(shard, at.get(shard, START), "999-0") for shard in self.ends)

    def committed(self) -> dict[int, int]:
        """Rows that the books say are committed."""
        return {row["shard"]: row["rows_total"] for row in self.books.shard_rows().iter_rows(named=True)}

    def epoch(self, shard: int) -> int:
        """The newest epoch of a shard."""
        return self.books.shard_rows().filter(pl.col("shard") == shard)["epoch"].item()

    def end(self) -> tuple:
        """All that must be the same however often workers died: totals, balances, exceptions, states, what lags."""
        exceptions = self.books.exceptions(state="").select("exception_id", "type", "event_id", "state")
        states = self.archive.scan().select("id_hash", "digest", "state").collect()
        return (
            self.books.totals().rows(),
            self.books.balances().rows(),
            sorted(exceptions.rows()),
            sorted(states.rows()),
            self.committed(),
            {shard: lag.waiting for shard, lag in asyncio.run(self.log.lag()).items()},
        )


@cache
def uninterrupted() -> tuple[tuple, tuple[str, ...]]:
    """How a run ends in which nothing goes wrong, and the edges that it crosses."""
    bench, edges = Bench(), Edges(0, die)
    bench.run(bench.worker(edges))
    return bench.end(), tuple(edges.passed)


def every_edge() -> list:
    """The edges of an uninterrupted run, by number and name."""
    return [pytest.param(n, id=f"{n} {name}") for n, name in enumerate(uninterrupted()[1], 1)]


# ── claims ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_worker_without_trouble_books_every_row_once():
    """A run with no trouble accepts each event once, balances, and leaves the log trimmed behind its checkpoints."""
    bench = Bench()
    bench.run(bench.worker())
    totals = bench.books.totals()
    counts = dict(totals.group_by("state").agg(pl.col("events").sum()).iter_rows())
    assert {state: n for state, n in counts.items() if n} == EVENTS
    balances = bench.books.balances()
    assert balances["debit_minor"].sum() == balances["credit_minor"].sum() == BOOKED_MINOR
    assert bench.committed() == bench.ends
    assert all(lag.held == 0 for lag in asyncio.run(bench.log.lag()).values())


def test_worker_whose_history_is_told_crosses_all_durable_edges():
    """The history is worth trying at every edge: it recovers, commits, checkpoints and trims on both shards."""
    names = {name.removeprefix("after ") for name in uninterrupted()[1] if name.startswith("after ")}
    assert {"take_epoch", "read", "commit", "mark_committed"} <= names
    assert {"put_segment", "put_run", "put_snapshot", "record_checkpoint", "trim", "forget_snapshots"} <= names


@pytest.mark.parametrize("edge", every_edge())
def test_worker_killed_at_an_edge_leaves_its_successor_all_it_needs(edge):
    """Wherever a worker dies, and its successor soon after, a third one ends as if nobody had."""
    bench = Bench()
    for happens_at in (edge, random.Random(edge).randrange(1, 24)):
        try:
            bench.run(bench.worker(Edges(happens_at, die)))
        except KilledError:
            bench.clock.sleep(1)
    bench.run(bench.worker())
    assert bench.end() == uninterrupted()[0]


@pytest.mark.parametrize("edge", every_edge())
def test_worker_with_a_port_that_fails_rebuilds_the_shard_and_goes_on(edge):
    """A log, books or archive that fails before or after doing its work, a commit above all, changes no end."""
    bench = Bench()
    worker = bench.worker(Edges(edge, fail))
    try:
        bench.run(worker)
    except (LogUnavailable, BooksUnavailable):  # only when it is closed: its successor finds all it needs
        bench.run(bench.worker())
    bench.run(bench.worker())
    assert bench.end() == uninterrupted()[0]


@pytest.mark.parametrize("edge", every_edge())
def test_worker_overtaken_at_an_edge_changes_nothing_any_more(edge):
    """A worker that hangs at any edge and wakes when its successor is done leaves books and archive as they are."""
    bench = Bench()
    late = bench.worker(Edges(edge, lambda _port: bench.run(bench.worker())))
    for _ in range(STEPS_MAX):
        bench.clock.sleep(max(late.step(), 0.05))
        if bench.drained():
            break
    late.close()
    bench.run(bench.worker())
    assert bench.end() == uninterrupted()[0]


def test_worker_fenced_lets_go_of_the_shard():
    """Who was overtaken no longer names the shard as its own, and its late commit and checkpoint are refused."""
    bench = Bench()
    late = bench.worker(shards=(NORTH,))
    late.step()
    bench.worker(shards=(NORTH,)).step()
    before = bench.end()
    late.step()
    assert states(late) == {NORTH: "lost"} and bench.end() == before
    with pytest.raises(Fenced):
        late.step()
    with pytest.raises(Fenced):
        bench.books.record_checkpoint(NORTH, 1, Checkpoint("2-0", "late"))


def test_worker_that_set_a_shard_aside_does_not_take_it_from_its_new_owner(monkeypatch):
    """While a shard waits to be recovered somebody else may take it over: then it stays there, and is told as lost."""
    bench = Bench()
    commit = bench.books.commit

    def silent(*_given: object) -> None:
        raise BooksUnavailable

    first = bench.worker(holder="first")
    monkeypatch.setattr(bench.books, "commit", silent)
    first.step()
    assert states(first) == {NORTH: "recovering", WEST: "recovering"}
    monkeypatch.setattr(bench.books, "commit", commit)
    bench.worker(shards=(NORTH,), holder="second").step()
    bench.clock.sleep(60)
    first.step()
    assert states(first) == {WEST: "running", NORTH: "lost"}
    assert bench.books.shard_rows().select("shard", "holder").sort("shard").rows() == [(0, "second"), (1, "first")]


def states(worker: ShardWorker) -> dict[int, str]:
    """What a worker says of its shards."""
    return {shard.shard: shard.state for shard in worker.health()}


def test_shard_placed_with_another_worker_goes_on_there_and_may_come_back():
    """Who hosted it checkpoints and lets go, so the other one has nothing to replay, whichever looks first."""
    bench, north, west = Bench(), {NORTH, WEST}, set[int]()
    first, second = bench.worker(shards=north, holder="first"), bench.worker(shards=west, holder="second")
    first.step()
    assert (states(first), states(second)) == ({NORTH: "running", WEST: "running"}, {})
    for there, back in ((north, west), (west, north)):
        there.remove(WEST)
        back.add(WEST)
        bench.clock.sleep(SHARDS_EVERY_S)
        first.step()
        second.step()
        first.step()
    assert (states(first), states(second)) == ({NORTH: "running", WEST: "running"}, {})
    assert bench.epoch(WEST) == 3
    bench.run(first)
    assert bench.end() == uninterrupted()[0]


def test_worker_that_is_overtaken_by_a_placement_lets_go_without_being_fenced_for_good():
    """The new host may take a shard before the old one has looked: that one's commit is refused, and it goes on with
    the rest."""
    bench, own = Bench(), {NORTH, WEST}
    first = bench.worker(shards=own, holder="first")
    first.step()
    bench.append(events(WEST, event("late", "charge_posted", 1)))
    second = bench.worker(shards=(WEST,), holder="second")
    second.step()
    first.step()
    own.remove(WEST)
    bench.clock.sleep(SHARDS_EVERY_S)
    first.step()
    assert (states(first), states(second)) == ({NORTH: "running"}, {WEST: "running"})


def test_worker_without_shards_waits_for_some():
    """It is no worker that lost them all, which ends itself."""
    bench, own = Bench(), set[int]()
    worker = bench.worker(shards=own)
    assert worker.step() > 0
    own.update((NORTH, WEST))
    bench.clock.sleep(SHARDS_EVERY_S)
    bench.run(worker)
    assert bench.end() == uninterrupted()[0]


def test_worker_whose_log_was_changed_does_not_go_on_with_that_shard():
    """A log that no longer says what was committed stops its shard, and that shard alone, until it is mended."""
    bench = Bench()
    bench.worker().step()
    committed = bench.committed()
    true = bench.log._records[NORTH][1]
    forged = events(NORTH, event("forged", "charge_posted", 1))
    bench.log._records[NORTH][1] = LogRecord(true.position, "events", true.rows, forged.body)
    worker = bench.worker()
    for _ in range(10):
        worker.step()
    assert states(worker) == {WEST: "running", NORTH: "recovering"}
    assert bench.committed() == {NORTH: committed[NORTH], WEST: bench.ends[WEST]}
    bench.log._records[NORTH][1] = true
    bench.run(worker)
    assert bench.end()[:2] == uninterrupted()[0][:2]


@pytest.mark.parametrize("body", [b"no frame", PANIC], ids=["unreadable", "panicking"])
def test_worker_with_a_poisonous_entry_stops_that_shard_alone(body, logged):
    """An entry that no step survives holds up its own shard, loses nothing of it, and leaves the others alone."""
    whole = history()
    bench = Bench((*whole[:3], LogEntry(NORTH, "events", 1, body), *whole[3:]))
    worker = bench.worker()
    for _ in range(20):
        bench.clock.sleep(max(worker.step(), 0.05))
    assert states(worker) == {WEST: "running", NORTH: "recovering"}
    assert bench.committed()[WEST] == bench.ends[WEST] and bench.committed()[NORTH] < bench.ends[NORTH]
    assert bench.log.read_range(NORTH, "1-0", "999-0"), "what is not committed was trimmed"
    assert {entry["shard"] for entry in logged if entry["event"] == "shard_set_aside"} == {NORTH}


def test_worker_whose_shard_keeps_failing_tries_ever_less_often():
    """The pause before a failing shard is recovered again doubles, up to its limit."""
    bench = Bench((LogEntry(NORTH, "events", 1, b"no frame"),))
    worker, attempts_ms = bench.worker(shards=(NORTH,)), []
    while len(attempts_ms) < 10:
        worker.step()
        if bench.epoch(NORTH) > len(attempts_ms):
            attempts_ms.append(bench.clock.now_ms())
        bench.clock.sleep(0.25)
    pauses_ms = [later - sooner for sooner, later in pairwise(attempts_ms)]
    assert pauses_ms[:3] == [500, 1000, 2000] and max(pauses_ms) == pauses_ms[-1] == LIMITS.restart_backoff_s_max * 1000


def test_worker_whose_shard_keeps_failing_asks_somebody_to_look():
    """After some failures in a row the shard stands as an exception with an owner; a worker that goes on ends it."""
    bench = Bench(history()[:1])
    bench.engine = StuckEngine
    worker = bench.worker(shards=(NORTH,))
    while not bench.books.exception_counts():
        worker.step()
        bench.clock.sleep(0.5)
    assert bench.books.exception_counts() == {"shard_stopped": 1}
    bench.engine = PureEngine
    bench.run(bench.worker(shards=(NORTH,)))
    assert bench.books.exception_counts() == {}


class StuckEngine(PureEngine):
    """An engine that can't take anything."""

    def step(self, records: list[LogRecord]) -> Effects:
        """Fail."""
        raise ValueError


def test_worker_whose_log_lacks_what_a_replay_needs_says_so():
    """A log that came back without entries of commits that no checkpoint holds stops its shard, and the exception says
    what is missing and what to do, not that the engine was not deterministic."""
    bench = Bench(history()[:4])
    worker = bench.worker(shards=(NORTH,))
    worker.step()
    bench.log.lose(NORTH, 1)
    told = bench.told_of_a_stopped_shard()
    assert "LogIncomplete" in told and "booked and in no checkpoint" in told and "penstock restore" in told


def test_worker_whose_log_lacks_what_is_not_booked_says_so():
    """A log without entries after the newest commit is not read on as if nothing had been there."""
    bench = Bench(history()[:3])
    bench.log.trim(NORTH, "2-0")
    told = bench.told_of_a_stopped_shard()
    assert "LogIncomplete" in told and "the 3 rows that came after 0-0" in told
    assert bench.committed() == {NORTH: 0}


def test_worker_whose_log_lost_what_is_booked_goes_on_and_somebody_is_told():
    """What the books took stands, as a checkpoint holds it; lags stay right, and what comes next is booked."""
    bench = Bench(history()[:5])
    bench.log.held = True
    bench.run(bench.worker(shards=(NORTH, WEST)))
    bench.log.lose(WEST, 1)
    bench.append(events(WEST, event("w8", "charge_posted", 7, "west")))
    bench.run(bench.worker(shards=(NORTH, WEST)))
    assert bench.books.exception_counts()["log_cut_short"] == 1
    lag = asyncio.run(bench.log.lag())[WEST]
    assert (lag.appended, lag.waiting) == (6, 0)


def test_worker_whose_checkpoints_fail_asks_somebody_to_look_although_its_shard_commits():
    """A commit between two failed checkpoints does not make it sound: it tries ever less often, and the exception
    stands until a checkpoint is written."""
    bench, room = Bench(history()[:1]), []
    put = bench.archive.put_snapshot

    def put_snapshot(*given: object) -> str:
        if not room:
            raise OSError("no space left on device")
        return put(*given)

    bench.archive.put_snapshot = put_snapshot
    worker = bench.worker(shards=(NORTH,))
    for _ in range(400):
        bench.append(control(NORTH, {"type": "tick", "now_ms": NOW_MS}))
        worker.step()
        bench.clock.sleep(0.25)
    assert bench.books.exception_counts() == {"shard_stopped": 1}
    assert bench.epoch(NORTH) < 20
    room.append(True)
    bench.clock.sleep(LIMITS.restart_backoff_s_max)
    bench.run(worker)
    assert bench.books.exception_counts() == {}


class Levels(NoMetrics):
    """Remembers where each gauge stands."""

    def __init__(self) -> None:
        self.now: dict[tuple[str, str], float] = {}

    def gauge(self, name: str, value: float, **tags: object) -> None:
        """Keep the newest."""
        self.now[name, str(tags["shard"])] = value


def test_worker_shows_what_its_shards_hold_before_anything_new_has_come():
    """After a restart or a move the gauges stand where they stood, and not at nothing until the next commit."""
    bench = Bench()
    bench.engine = _engine
    levels = []
    for _ in range(2):
        bench.metrics = Levels()
        worker = bench.worker()
        bench.run(worker) if not levels else worker.step()
        levels.append(bench.metrics.now)
    assert levels[0] == levels[1]
    assert levels[0]["open_items", str(NORTH)] > 0


def test_worker_checkpoints_by_age_when_commits_are_few():
    """One commit alone is checkpointed once it is old enough, and not again while nothing moves."""
    bench = Bench(history()[:3])
    worker = bench.worker(shards=(NORTH,))
    worker.step()
    assert bench.books.take_epoch("shard:0", "test").checkpoint is None
    worker = bench.worker(shards=(NORTH,))
    worker.step()
    bench.clock.sleep(LIMITS.checkpoint_age_s_max)
    for _ in range(3):  # begun, under way, durable
        worker.step()
    taken = bench.books.take_epoch("shard:0", "test").checkpoint
    assert taken is not None and bench.archive.get_snapshot(taken.snapshot)


def test_worker_goes_on_while_a_checkpoint_is_written():
    """What a checkpoint holds is what was there when it began, though its shard has moved on since; a successor starts
    there and replays the rest."""
    bench = Bench()
    worker = bench.worker(shards=(NORTH,))
    while not bench.books.take_epoch("shard:0", "test").checkpoint:
        worker = bench.worker(shards=(NORTH,))
        for _ in range(6):
            worker.step()
    lease = bench.books.take_epoch("shard:0", "test")
    assert position_key(lease.checkpoint.position) < position_key(lease.position)
    bench.run(bench.worker())
    assert bench.end() == uninterrupted()[0]


def test_worker_checkpoints_before_a_replay_would_take_too_long(monkeypatch):
    """Steps that take long bring the next checkpoint nearer, however few they are."""
    bench = Bench(history()[:3])
    step = PureEngine.step

    def slow(self: PureEngine, records: list[LogRecord]) -> Effects:
        bench.clock.sleep(LIMITS.checkpoint_replay_s_max)
        return step(self, records)

    monkeypatch.setattr(PureEngine, "step", slow)
    worker = bench.worker(shards=(NORTH,))
    for _ in range(3):
        worker.step()
    assert bench.books.take_epoch("shard:0", "test").checkpoint


def test_worker_writes_checkpoints_in_a_thread_of_its_own():
    """Without a saver given, a worker has one: it ends with the worker, and all is durable."""
    bench = Bench()
    worker = bench.worker()
    worker._saver = ThreadPoolExecutor(1)
    bench.run(worker)
    assert bench.end() == uninterrupted()[0]


def test_worker_asked_for_a_checkpoint_makes_the_archive_whole():
    """A checkpoint on request brings every committed event into the archive at once."""
    bench = Bench(history()[:4])
    worker = bench.worker()
    worker.step()
    assert bench.drained()
    assert bench.archive.find([identity("ehr", "c0")]).is_empty()
    worker.checkpoint_now()
    assert bench.archive.find([identity("ehr", "c0")])["state"].to_list() == ["booked"]
    assert bench.archive.find([identity("ehr", "w0")])["shard"].to_list() == [WEST]
