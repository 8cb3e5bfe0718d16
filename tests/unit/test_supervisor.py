"""The supervisor over a stage of twins and a virtual clock: what it starts, what it replaces, what it lets in."""

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import date

import pytest
import structlog

from actors.parts import PartHealth
from actors.supervisor import CUT_OFF_AGAIN_S, EXCEPTIONS_EVERY_S, PATIENCE_MS_MAX, RELIEF_EVERY_S, Supervisor
from adapters.books.memory import MemoryBooks
from adapters.log.memory import MemoryLog
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty, of_the_runtime
from runtime.errors import BooksUnavailable
from runtime.flow import frames
from runtime.ports import START, ConservationBreak, LogEntry, NoMetrics, ShardLag

SILENCE_S, TICK_S, SHARDS = 10.0, 60.0, 3
TARGET = ["worker-0", "gateway-0"]
NOTHING = Effects(empty(DELTAS), empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
OPENED = NOTHING._replace(opened=(("mercy", date(2026, 11, 1)),))


class VirtualClock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self._now_ms = 1_790_000_000_000

    def now_ms(self) -> int:
        """The present."""
        return self._now_ms

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self._now_ms += round(seconds * 1000)


class MemoryStage:
    """Parts by name: which there are, which of them hang, and what was asked for."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.hung: set[str] = set()
        self.ended: set[str] = set()  # parts whose end the next ping tells, and which are started again
        self.shards: dict[str, dict[int, str]] = {}  # part -> the states of its shards
        self.busy_ms: dict[int, int] = {}  # of shards
        self.steps: dict[int, int] = {}  # of shards
        self.asked: list[tuple[str, str]] = []

    def exists(self, name: str) -> bool:
        return name in self.present

    def start(self, name: str) -> None:
        self.asked.append(("start", name))
        self.present.add(name)

    def kill(self, name: str) -> None:
        self.asked.append(("kill", name))

    def ping(self, names: list[str], timeout_s: float) -> dict[str, object]:
        ended = dict.fromkeys(self.ended.intersection(names))
        self.ended.clear()
        return ended | {name: self._health(name) for name in names if name not in self.hung | ended.keys()}

    def _health(self, name: str) -> PartHealth:
        told = [
            {"shard": shard, "state": state, "busy_ms": self.busy_ms.get(shard, 0), "steps": self.steps.get(shard, 0)}
            for shard, state in self.shards.get(name, {}).items()
        ]
        return PartHealth(name, 1, "running", 1, "", told)


class MemoryLine:
    """The log as the supervisor sees it, over the memory twin."""

    shards = SHARDS

    def __init__(self) -> None:
        self.log = MemoryLog(SHARDS)

    def append(self, entries: list[LogEntry]) -> None:
        asyncio.run(self.log.append(entries))

    def lag(self) -> dict[int, ShardLag]:
        return asyncio.run(self.log.lag())

    def close(self) -> None:
        """Nothing to close."""

    def messages(self, shard: int = 0, type: str = "") -> list[dict]:
        """Control messages that a shard was told."""
        told = [frames.decode_control(record.body) for record in self.log.read_range(shard, START, "999-0")]
        return [message for message in told if not type or message["type"] == type]


class Levels(NoMetrics):
    """Remembers the newest level of each gauge."""

    def __init__(self) -> None:
        self.levels: dict[tuple, float] = {}

    def gauge(self, name: str, value: float, **tags: object) -> None:
        """Keep the level."""
        self.levels[name, *tags.values()] = value


class Bench:
    """A stage, a log, books, and as many supervisors one after another as a test needs."""

    def __init__(self) -> None:
        self.stage, self.line, self.clock, self.metrics = MemoryStage(), MemoryLine(), VirtualClock(), Levels()
        self.books = MemoryBooks(self.clock.now_ms)

    def supervisor(self, *more: str) -> Supervisor:
        """A supervisor that has taken over; `more`: workers of its target."""
        supervisor = Supervisor(
            [*TARGET, *more],
            workers=["worker-0", *more],
            stage=self.stage,
            log=self.line,
            books=self.books,
            clock=self.clock,
            metrics=self.metrics,
            silence_s=SILENCE_S,
            tick_s=TICK_S,
        )
        supervisor.start()
        return supervisor

    def run(self, supervisor: Supervisor, seconds: float) -> None:
        """Let that time pass, step by step."""
        until_ms = self.clock.now_ms() + seconds * 1000
        while self.clock.now_ms() < until_ms:
            self.clock.sleep(supervisor.step())


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench whose supervisors log nothing to the screen."""
    with structlog.testing.capture_logs():
        yield Bench()


def test_supervisor_on_an_empty_stage_starts_every_part_once(bench):
    """What is missing is asked for once, and left alone while it answers."""
    bench.run(bench.supervisor(), 60)
    assert bench.stage.asked == [("start", "worker-0"), ("start", "gateway-0")]


def test_supervisor_with_a_hung_part_replaces_it_after_its_silence(bench):
    """A part that stops answering is killed once it was silent too long, and again only after as long a time."""
    supervisor = bench.supervisor()
    bench.run(supervisor, 5)
    bench.stage.asked.clear()
    bench.stage.hung.add("worker-0")
    bench.run(supervisor, SILENCE_S)
    assert bench.stage.asked == []
    bench.run(supervisor, 2)
    assert bench.stage.asked == [("kill", "worker-0")]
    bench.run(supervisor, SILENCE_S - 1)
    assert bench.stage.asked == [("kill", "worker-0")]


def test_supervisor_with_a_shard_that_nobody_runs_replaces_the_worker_that_lost_it(bench):
    """A worker that answers, but was fenced for a shard which no other part runs, is replaced after the silence."""
    supervisor = bench.supervisor()
    bench.run(supervisor, 5)
    bench.stage.asked.clear()
    bench.stage.shards = {"worker-0": {0: "running", 1: "lost"}}
    bench.run(supervisor, SILENCE_S)
    assert bench.stage.asked == []
    bench.run(supervisor, 2)
    assert bench.stage.asked == [("kill", "worker-0")]
    bench.stage.shards = {"worker-0": {0: "running", 1: "recovering"}}
    bench.run(supervisor, 60)
    assert bench.stage.asked == [("kill", "worker-0")]


def of_two_workers(bench: Bench) -> Supervisor:
    """A supervisor of two workers, of which the second hosts two of three shards."""
    for shard in range(SHARDS):
        bench.books.take_epoch(f"shard:{shard}", "worker-0/1")
    bench.stage.shards = {"worker-0": {0: "running"}, "worker-1": {1: "running", 2: "running"}}
    return bench.supervisor("worker-1")


def work(bench: Bench, supervisor: Supervisor, seconds: float, steps_per_s: Sequence[int] = (), **busy: float) -> None:
    """Let that time pass, of which each shard (s0, s1, ...) takes its worker this share, in so many steps: none named,
    in one that never ends."""
    for _ in range(round(seconds)):
        for name, share in busy.items():
            shard = int(name[1:])
            bench.stage.steps[shard] = bench.stage.steps.get(shard, 0) + (steps_per_s[shard] if steps_per_s else 0)
            bench.stage.busy_ms[shard] = bench.stage.busy_ms.get(shard, 0) + round(share * 1000)
        bench.run(supervisor, 1)


def test_supervisor_with_a_worker_that_has_too_much_to_do_places_a_shard_with_the_idlest(bench):
    """One shard moves, the one that evens most; while it is under way, and when all is even, nothing else does."""
    supervisor = of_two_workers(bench)
    work(bench, supervisor, 2 * RELIEF_EVERY_S + 1, s0=0.1, s1=0.6, s2=0.3)
    assert bench.books.placements() == {2: "worker-0"}
    bench.stage.shards = {"worker-0": {0: "running", 2: "recovering"}, "worker-1": {1: "running"}}
    work(bench, supervisor, 2 * RELIEF_EVERY_S, s0=0.1, s1=0.9)
    bench.stage.shards["worker-0"][2] = "running"
    work(bench, supervisor, 2 * RELIEF_EVERY_S, s0=0.1, s1=0.6, s2=0.3)
    assert bench.books.placements() == {2: "worker-0"}


def test_supervisor_moves_a_shard_to_a_worker_that_is_busy_with_few_rows(bench):
    """Small steps keep a worker busy that has little to do: what counts is the time that its rows take."""
    supervisor = of_two_workers(bench)
    work(bench, supervisor, 2 * RELIEF_EVERY_S + 1, (10, 1, 1), s0=0.9, s1=0.5, s2=0.4)
    assert bench.books.placements() == {2: "worker-0"}


def test_supervisor_with_workers_that_have_time_moves_nothing(bench):
    """However uneven the load is: a move costs more than it brings where nobody waits."""
    supervisor = of_two_workers(bench)
    work(bench, supervisor, 5 * RELIEF_EVERY_S, s1=0.2, s2=0.2)
    assert bench.books.placements() == {}


def test_supervisor_with_a_lost_shard_that_another_worker_runs_replaces_nothing(bench):
    """A shard that moved is not orphaned: who lost it may go on with the rest."""
    supervisor = bench.supervisor()
    bench.run(supervisor, 5)
    bench.stage.asked.clear()
    bench.stage.shards = {"worker-0": {0: "running", 1: "lost"}, "gateway-0": {1: "running"}}
    bench.run(supervisor, 60)
    assert bench.stage.asked == []


def test_supervisor_does_not_cut_short_a_start_after_an_end_that_it_was_told(bench):
    """A part whose process has ended is being started already: it is replaced only when that leads to nothing."""
    supervisor = bench.supervisor()
    bench.run(supervisor, 3)
    bench.stage.hung.add("worker-0")
    bench.run(supervisor, SILENCE_S - 2)
    bench.stage.ended.add("worker-0")
    bench.run(supervisor, 2 * SILENCE_S - 2)
    assert ("kill", "worker-0") not in bench.stage.asked
    bench.run(supervisor, 4)
    assert bench.stage.asked.count(("kill", "worker-0")) == 1


def test_supervisor_with_a_slow_starter_gives_it_its_time(bench):
    """A part that takes almost as long to start as it may be silent is not replaced."""
    bench.stage.hung.add("gateway-0")
    supervisor = bench.supervisor()
    bench.run(supervisor, SILENCE_S)
    bench.stage.hung.clear()
    bench.run(supervisor, 60)
    assert bench.stage.asked == [("start", "worker-0"), ("start", "gateway-0")]


def test_supervisor_with_a_part_that_never_answers_gives_each_start_more_time(bench):
    """On a slow machine no start is cut short for ever: each gets more time than the one before, up to a bound."""
    supervisor, rounds = bench.supervisor(), []
    bench.stage.hung.add("worker-0")
    for round_no in range(600):
        before = bench.stage.asked.count(("kill", "worker-0"))
        bench.run(supervisor, 1)
        if bench.stage.asked.count(("kill", "worker-0")) > before:
            rounds.append(round_no)
    pauses = [later - earlier for earlier, later in itertools.pairwise(rounds)]
    assert pauses[0] > SILENCE_S and pauses == sorted(pauses)
    assert len(pauses) > 3 and pauses[-1] <= SILENCE_S + PATIENCE_MS_MAX / 1000 + 2


def test_supervisor_forgets_slow_starts_once_a_part_has_answered(bench):
    """A part that answered between two hangs is replaced after the usual silence each time."""
    supervisor = bench.supervisor()
    for kills in range(1, 4):
        bench.stage.hung.discard("worker-0")
        bench.run(supervisor, 5)
        bench.stage.hung.add("worker-0")
        bench.run(supervisor, SILENCE_S + 2)
        assert bench.stage.asked.count(("kill", "worker-0")) == kills


def test_supervisor_that_takes_over_replaces_nothing_at_once(bench):
    """A new supervisor knows no answers yet; it gives what runs the time to give one."""
    bench.stage.present.update(TARGET)
    bench.stage.hung.update(TARGET)
    bench.run(bench.supervisor(), SILENCE_S)
    assert bench.stage.asked == []


def test_supervisor_with_a_part_that_vanished_starts_it_at_once(bench):
    """A part that Ray no longer knows is started in the next round, without waiting for its silence."""
    supervisor = bench.supervisor()
    supervisor.step()
    bench.stage.present.discard("gateway-0")
    supervisor.step()
    assert bench.stage.asked[2:] == [("start", "gateway-0")]


def test_supervisor_with_mapping_versions_tells_every_shard_each_once(bench):
    """A version reaches all shards in order, once; a later one alone follows it."""
    rows = [{"role": "CASH", "account": "1010"}]
    bench.books.add_mapping(json.dumps(rows), "test")
    supervisor = bench.supervisor()
    bench.run(supervisor, 10)
    bench.books.add_mapping(json.dumps([]), "test")
    bench.run(supervisor, 10)
    expected = [{"type": "mapping", "version": 1, "rows": rows}, {"type": "mapping", "version": 2, "rows": []}]
    assert [bench.line.messages(shard, "mapping") for shard in range(SHARDS)] == [expected] * SHARDS


def test_supervisor_after_a_restart_tells_all_mapping_versions_again(bench):
    """A new supervisor can't know what its predecessor sent, so it sends all again; shards know them by number."""
    bench.books.add_mapping("[]", "test")
    bench.supervisor().step()
    bench.supervisor().step()
    assert [message["version"] for message in bench.line.messages(type="mapping")] == [1, 1]


def test_supervisor_with_a_log_that_refuses_sends_the_mapping_later(bench):
    """A mapping version that could not be appended is not forgotten, and holds up nothing else."""
    bench.books.add_mapping("[]", "test")
    bench.line.log.plan("refuse", "lose_call")
    supervisor = bench.supervisor()
    bench.run(supervisor, 2)
    assert bench.line.messages() == [] and bench.stage.present == set(TARGET)
    bench.run(supervisor, 2)
    assert [message["version"] for message in bench.line.messages(type="mapping")] == [1]


def decide(bench: Bench, action: str, *ids: str, approver: str = "") -> None:
    body = json.dumps({"action": action, "exceptions": ids})
    change_no = bench.books.propose_change("decision", body, "ada", needs_approval=bool(approver))
    if approver:
        bench.books.approve_change(change_no, approver)


def test_supervisor_with_decisions_tells_every_shard_each_once(bench):
    """Decisions in force reach all shards in order, whoever supervises; a proposal reaches none."""
    decide(bench, "retry", "a" * 16)
    decide(bench, "exclude", "b" * 16, "c" * 16, approver="grace")
    bench.books.propose_change("decision", json.dumps({"action": "release", "exceptions": ["d" * 16]}), "ada")
    bench.run(bench.supervisor(), 3)
    bench.run(bench.supervisor(), 3)

    names = {"type": "decision", "by": "ada"}
    expected = [
        names | {"number": 1, "action": "retry", "exceptions": ["a" * 16], "approved_by": ""},
        names | {"number": 2, "action": "exclude", "exceptions": ["b" * 16, "c" * 16], "approved_by": "grace"},
    ]
    assert [bench.line.messages(shard, "decision") for shard in range(SHARDS)] == [expected] * SHARDS


def test_supervisor_that_can_not_append_a_decision_sends_it_later(bench):
    """A decision that the log refused goes out when the log takes it again."""
    decide(bench, "retry", "a" * 16)
    bench.line.log.plan("refuse")
    bench.run(bench.supervisor(), 3)
    assert [message["number"] for message in bench.line.messages(type="decision")] == [1]


def test_supervisor_that_could_not_note_a_decision_sends_it_again(bench, monkeypatch):
    """Between append and note the books may be gone: the decision is sent twice under one number, never lost."""
    decide(bench, "retry", "a" * 16)
    supervisor, mark_logged = bench.supervisor(), bench.books.mark_logged

    def unavailable(_numbers: list[int]) -> None:
        monkeypatch.setattr(bench.books, "mark_logged", mark_logged)
        raise BooksUnavailable("no answer")

    monkeypatch.setattr(bench.books, "mark_logged", unavailable)
    bench.run(supervisor, 3)
    assert [message["number"] for message in bench.line.messages(type="decision")] == [1, 1]


def test_supervisor_tells_every_shard_of_a_period_that_is_cut_off_until_all_have_taken_it(bench):
    """Shards learn from when on its entity posts, again and again, and the close is declared when all have booked it;
    of an ordered close they learn nothing."""
    bench.books.order_close("mercy", "2026-10", 1, "ada")
    supervisor = bench.supervisor()
    bench.run(supervisor, 3)
    assert bench.line.messages(type="period") == []

    bench.books.cut_off("mercy", "2026-10", date(2026, 11, 1), "ada")
    bench.run(supervisor, 3)
    told = {"type": "period", "entity": "mercy", "period": "2026-10", "opens_on": "2026-11-01"}
    assert [bench.line.messages(shard, "period") for shard in range(SHARDS)] == [[told]] * SHARDS

    bench.run(supervisor, CUT_OFF_AGAIN_S)
    assert bench.line.messages(0, "period") == [told] * 2
    for shard in range(SHARDS):
        epoch = bench.books.take_epoch(f"shard:{shard}", "test").epoch
        assert [close.state for close in bench.books.closes()] == ["cut_off"]
        bench.books.commit(shard, epoch, START, "1-0", 0, OPENED)
        bench.run(supervisor, 1)
    assert [close.state for close in bench.books.closes()] == ["declared"]
    bench.run(supervisor, 2 * CUT_OFF_AGAIN_S)
    assert bench.line.messages(0, "period") == [told] * 2


def test_supervisor_without_books_goes_on_minding_the_parts(bench, monkeypatch):
    """While the books don't answer, parts are still started and replaced."""

    def unavailable() -> None:
        raise BooksUnavailable("no answer")

    monkeypatch.setattr(bench.books, "mapping_versions", unavailable)
    bench.run(bench.supervisor(), 3)
    assert bench.stage.present == set(TARGET)


def test_supervisor_lets_time_into_every_shard_at_its_pace(bench):
    """Each shard is told the time at once and then every tick."""
    began_ms = bench.clock.now_ms()
    bench.run(bench.supervisor(), 2.5 * TICK_S)
    for shard in range(SHARDS):
        told_ms = [message["now_ms"] for message in bench.line.messages(shard, "tick")]
        assert [ms - began_ms for ms in told_ms] == [0, TICK_S * 1000, 2 * TICK_S * 1000]


def test_supervisor_measures_how_far_each_shard_lags(bench):
    """Rows appended and not committed are shown for each shard."""
    bench.line.append([LogEntry(1, "events", 7, b"x")])
    bench.line.log.mark_committed(1, 3)
    bench.supervisor().step()
    shown = {key[1]: lag for key, lag in bench.metrics.levels.items() if key[0] == "shard_lag_rows"}
    assert shown == {str(shard): lag for shard, lag in enumerate((0, 4, 0))}


def test_supervisor_measures_how_many_parts_are_down(bench):
    """Those that should run and do not answer, whether they are there or not."""
    supervisor = bench.supervisor()
    supervisor.step()
    assert bench.metrics.levels["parts_down",] == len(TARGET)
    supervisor.step()
    assert bench.metrics.levels["parts_down",] == 0
    bench.stage.hung.add("worker-0")
    supervisor.step()
    assert bench.metrics.levels["parts_down",] == 1


def test_supervisor_measures_how_many_exceptions_are_open_of_each_type(bench):
    """Of a type that was seen once, none is told as well."""
    told = of_the_runtime([("erp_timeout", "one", ""), ("erp_timeout", "two", "")], "poster", bench.clock.now_ms())
    bench.books.raise_exceptions(told)
    supervisor = bench.supervisor()
    supervisor.step()
    assert bench.metrics.levels["exceptions_open", "erp_timeout"] == 2
    bench.books.resolve_exceptions(told["exception_id"].to_list())
    bench.run(supervisor, EXCEPTIONS_EVERY_S + 1)
    assert bench.metrics.levels["exceptions_open", "erp_timeout"] == 0


def test_supervisor_health_names_silent_parts(bench):
    """What the supervisor knows of each part is its last answer, None for one that gave none."""
    supervisor = bench.supervisor()
    supervisor.step()
    bench.stage.hung.add("worker-0")
    supervisor.step()
    assert supervisor.health() == {"worker-0": None, "gateway-0": bench.stage.ping(["gateway-0"], 1.0)["gateway-0"]}


# ── conservation ───────────────────────────────────────────────────────────────────────────────────────────────────


class LosingBooks(MemoryBooks):
    """Books that contradict themselves as long as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks: list[ConservationBreak] = []
        self.looks = 0

    def conservation_breaks(self, sets_max: int) -> list[ConservationBreak]:
        """What the test says."""
        self.looks += 1
        return self.breaks


def open_breaks(books: MemoryBooks) -> list[str]:
    """What open exceptions of broken conservation say."""
    return books.exceptions(types=["conservation_break"])["detail"].to_list()


def test_supervisor_of_books_that_lose_something_raises_it_until_it_is_right(bench):
    """Each break stands as one exception while it lasts, looked at every minute, and ends by itself."""
    bench.books = books = LosingBooks()
    supervisor = bench.supervisor()
    supervisor.step()
    assert books.looks == 1 and open_breaks(books) == []
    books.breaks = [ConservationBreak("totals:a", "a lost one"), ConservationBreak("posting_set:b", "b lost one")]
    supervisor.step()
    assert books.looks == 1
    for _ in range(2):
        bench.clock.sleep(60)
        supervisor.step()
        assert sorted(open_breaks(books)) == ["a lost one", "b lost one"]
    books.breaks = books.breaks[1:]
    bench.clock.sleep(60)
    supervisor.step()
    assert open_breaks(books) == ["b lost one"]
    books.breaks = []
    bench.clock.sleep(60)
    supervisor.step()
    assert open_breaks(books) == []
