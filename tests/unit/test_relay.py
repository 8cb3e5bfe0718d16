"""The relay over twins and a virtual clock: what leaves the books arrives, whatever fails and wherever it dies."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import count

import msgspec
import polars as pl
import pytest
import structlog
from small_log import NOW_MS, VirtualClock

from actors.consumer import FAILURES_TOLD, Consumer
from actors.relay import IDLE_S, OUTBOX_FRAMES_MAX, Relay
from adapters.books.memory import MemoryBooks
from adapters.log.memory import MemoryLog
from adapters.outlets.memory import MemoryOutlet
from runtime.effects import DELTAS, DERIVED, EXCEPTIONS, OUTCOMES, STATUSES, TOTALS, Effects, StepCounts, empty
from runtime.errors import BooksUnavailable, Fenced
from runtime.flow import frames
from runtime.limits import Limits
from runtime.ports import START, LogEntry, NoMetrics, OutboxFrame, Told
from runtime.routing import shard_of, splitter
from runtime.schema import UTC_MS, EntityTerms, KindTerms, Vocabulary, conform
from runtime.validation import validate

SHARDS, FRAME_ROWS_MAX, LOG_ROWS_MAX = 4, 8, 30
LIMITS = Limits(
    frame_rows_max=FRAME_ROWS_MAX,
    shard_lag_resume_at_rows=10,
    shard_lag_pause_at_rows=20,
    log_rows_pause_at=LOG_ROWS_MAX,
)
KIND = "eft_share_received"
STEPS_MAX = 500


class MemoryLine:
    """The log as the relay sees it, over the memory twin."""

    def __init__(self) -> None:
        self.log = MemoryLog(SHARDS)

    def append(self, entries: list[LogEntry]) -> None:
        asyncio.run(self.log.append(entries))

    def lag(self) -> dict:
        return asyncio.run(self.log.lag())

    def close(self) -> None:
        """Nothing to close."""

    def entries(self, shard: int) -> list[LogEntry]:
        """What was appended to a shard."""
        return [LogEntry(shard, r.type, r.rows, r.body) for r in self.log.read_range(shard, START, "99999-0")]

    def ids(self, shard: int) -> list[str]:
        """Events of a shard's log in order."""
        return [id for e in self.entries(shard) for id in frames.decode_sealed(e.body)["event_id"].to_list()]


class AtOnce(Executor):
    """Runs a call while it is handed in; while `held`, it only takes it."""

    def __init__(self) -> None:
        self.held: set[object] = set()

    def submit(self, call: Callable, /, *given: object) -> Future:
        answer: Future = Future()
        if call.__self__ in self.held:
            return answer
        try:
            answer.set_result(call(*given))
        except BaseException as error:
            answer.set_exception(error)
        return answer


class KilledError(BaseException):
    """The process dies here."""


class Edges:
    """The edges of I/O, before and after each call of a port; raises once, at one of them."""

    def __init__(self, fails_at: int, error: type[BaseException], around: tuple[type, ...]) -> None:
        self.fails_at, self.passed, self.failed = fails_at, 0, False
        self._error, self._around = error, around

    def around(self, target: object) -> object:
        """The target, with edges if it is of a kind that has them."""
        return _Edged(target, self) if isinstance(target, self._around) else target

    def cross(self) -> None:
        """Pass one edge, or fail at it."""
        self.passed += 1
        if not self.failed and self.passed == self.fails_at:
            self.failed = True
            raise self._error


class _Edged:
    def __init__(self, target: object, edges: Edges) -> None:
        self._target, self._edges = target, edges

    def __getattr__(self, name: str) -> Callable:
        return _EdgedCall(self._target, name, self._edges)


class _EdgedCall:
    def __init__(self, target: object, name: str, edges: Edges) -> None:
        self.__self__, self._name, self._edges = target, name, edges

    def __call__(self, *given: object, **named: object) -> object:
        self._edges.cross()
        answer = getattr(self.__self__, self._name)(*given, **named)
        self._edges.cross()
        return answer


NO_EDGES = Edges(0, KilledError, ())


class Bench:
    """Books, a log, consumers, and as many relays one after another as a test needs."""

    def __init__(self, **flows: Sequence[str]) -> None:
        """`flows`: consumers by name, and what each is told of."""
        self.clock, self.line, self.calls = VirtualClock(), MemoryLine(), AtOnce()
        self.books = MemoryBooks(self.clock.now_ms)
        self.flows = flows
        self.outlets = {name: MemoryOutlet() for name in flows}
        self.facilities = frozenset(["north", "south"])
        self._epoch, self._commits = self.books.take_epoch("shard:0", "test").epoch, 0

    def commit(self, derived: pl.DataFrame | None = None, statuses: pl.DataFrame | None = None) -> None:
        """One commit with these effects."""
        effects = Effects(
            *(empty(DELTAS), empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts()),
            derived=empty(DERIVED) if derived is None else derived,
            statuses=empty(STATUSES) if statuses is None else statuses,
        )
        after = f"{self._commits}-0" if self._commits else START
        self._commits += 1
        self.books.commit(0, self._epoch, after, f"{self._commits}-0", 1, effects)

    def vocabulary(self) -> Vocabulary:
        terms = KindTerms(requires=("facility",), sign="positive")
        entity = EntityTerms(currencies=frozenset(["USD"]), facilities=self.facilities)
        return Vocabulary(kinds={KIND: terms}, entities={"mercy": entity})

    def relay(self, edges: Edges = NO_EDGES) -> Relay:
        """A relay that has taken over; `edges` lie around what it calls."""
        books, metrics = edges.around(self.books), NoMetrics()
        consumers = [
            Consumer(
                name,
                flows,
                edges.around(self.outlets[name]),
                calls=self.calls,
                books=books,
                clock=self.clock,
                metrics=metrics,
            )
            for name, flows in self.flows.items()
        ]
        relay = Relay(
            books,
            edges.around(self.line),
            consumers,
            vocabulary=self.vocabulary(),
            split=splitter({KIND: "facility"}, SHARDS),
            clock=self.clock,
            limits=LIMITS,
            holder="test",
            metrics=metrics,
        )
        relay.start()
        return relay

    def run(self, relay: Relay, seconds: float = 10.0) -> None:
        """Let the relay work until it is idle and that much time has passed."""
        until_ms = self.clock.now_ms() + seconds * 1000
        for _ in range(STEPS_MAX):
            if self.clock.now_ms() >= until_ms:
                return
            self.clock.sleep(relay.step())
        raise AssertionError(f"never idle in {STEPS_MAX} steps")

    def all_ids(self) -> list[str]:
        """Events of all logs."""
        return [id for shard in range(SHARDS) for id in self.line.ids(shard)]

    def told(self, name: str) -> list[int]:
        """Numbers that a consumer was told, in order."""
        return [status.status_no for status in self.outlets[name].entries]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep what relays log from the screen."""
    with structlog.testing.capture_logs():
        yield


def derived(*event_ids: str, facility: str = "north", **columns: object) -> pl.DataFrame:
    """Derived events of one facility."""
    given = {"source": "penstock", "kind": KIND, "entity": "mercy", "facility": facility, "currency": "USD"}
    rows = [
        given | {"event_id": id, "amount_minor": 100, "occurred_at": NOW_MS, "schema_version": 1} | columns
        for id in event_ids
    ]
    frame = pl.DataFrame(rows).with_columns(pl.col("occurred_at").cast(UTC_MS))
    return conform(frame)


def statuses(flow: str, *documents: str) -> pl.DataFrame:
    """One status for each document."""
    rows = [
        dict.fromkeys(STATUSES, "")
        | {"status_id": f"{flow}-{document}", "flow": flow, "status": "paid", "document": document}
        | {"amount_minor": 700, "occurred_at": NOW_MS}
        for document in documents
    ]
    return pl.DataFrame(rows, schema=STATUSES)


NORTH, SOUTH = (shard_of("mercy", name, SHARDS) for name in ("north", "south"))


def test_relay_with_nothing_to_do_is_idle() -> None:
    """An empty outbox and no statuses cost a look and a pause."""
    bench = Bench(card=[])
    relay = bench.relay()
    bench.run(relay)
    assert relay.step() == IDLE_S and bench.all_ids() == []


# ── derived events ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_relay_derived_events_reach_their_shards_as_a_door_would_send_them() -> None:
    """Each event lies in the log of its own shard with the stamps of any other event, and the outbox is empty."""
    bench = Bench()
    bench.commit(derived("a", "b"))
    bench.commit(derived("c", facility="south"))
    bench.run(bench.relay())
    assert NORTH != SOUTH and (bench.line.ids(NORTH), bench.line.ids(SOUTH)) == (["a", "b"], ["c"])
    expected = validate(derived("a", "b"), bench.vocabulary(), NOW_MS).accepted.drop("row")
    assert frames.decode_sealed(bench.line.entries(NORTH)[0].body).equals(expected)
    assert bench.books.outbox(10) == []


def test_relay_of_many_rows_never_makes_an_entry_larger_than_a_step() -> None:
    """However large a frame is, what the log holds is read in steps of the usual size."""
    bench, ids = Bench(), [f"e{n}" for n in range(FRAME_ROWS_MAX * 2 + 3)]
    bench.commit(derived(*ids))
    bench.run(bench.relay())
    assert bench.line.ids(NORTH) == ids
    assert max(entry.rows for entry in bench.line.entries(NORTH)) == FRAME_ROWS_MAX


def test_relay_to_a_full_shard_waits_without_holding_up_others() -> None:
    """A frame for a shard whose log is full stays in the outbox until that log is trimmed; others go on."""
    bench = Bench()
    bench.line.append([LogEntry(NORTH, "events", LOG_ROWS_MAX, frames.encode(derived("x")))])
    bench.commit(derived("a"))
    bench.commit(derived("b", facility="south"))
    relay = bench.relay()
    bench.run(relay)
    assert (bench.line.ids(NORTH), bench.line.ids(SOUTH)) == (["x"], ["b"]) and len(bench.books.outbox(10)) == 1
    bench.line.log.trim(NORTH, "1-0")
    bench.run(relay)
    assert bench.line.ids(NORTH) == ["a"] and bench.books.outbox(10) == []


def test_relay_looks_past_any_number_of_frames_for_a_full_shard() -> None:
    """However many of the oldest frames wait for one shard, those for others are found behind them, again and again,
    and it is told how many wait."""
    bench, stuck = Bench(), [f"a{n}" for n in range(2 * OUTBOX_FRAMES_MAX + 3)]
    bench.line.append([LogEntry(NORTH, "events", LOG_ROWS_MAX, frames.encode(derived("x")))])
    for id in stuck:
        bench.commit(derived(id))
    relay = bench.relay()
    for id in ("b", "c"):
        bench.commit(derived(id, facility="south"))
        bench.run(relay)
        assert bench.line.ids(SOUTH)[-1] == id and relay.health().outbox_frames >= len(stuck)
    came: list[str] = []
    while bench.books.outbox(1):
        bench.line.log.trim(NORTH, "99999-0")
        bench.run(relay)
        came += bench.line.ids(NORTH)
    assert sorted(came) == sorted(stuck)


def test_relay_to_a_shard_that_pauses_producers_goes_on() -> None:
    """A derived event is the second half of work that has begun: only the log's hard bound holds it back."""
    bench = Bench()
    bench.line.append([LogEntry(NORTH, "events", LIMITS.shard_lag_pause_at_rows, frames.encode(derived("x")))])
    bench.commit(derived("a"))
    bench.run(bench.relay())
    assert bench.line.ids(NORTH) == ["x", "a"]


@pytest.mark.parametrize("fault", ["refuse", "lose_call", "lose_answer"])
def test_relay_with_a_log_that_fails_repeats_and_tells_consumers_meanwhile(fault: str) -> None:
    """An append that fails or is not answered is made again; consumers notice nothing of it."""
    bench = Bench(card=[])
    bench.line.log.plan(fault, fault)
    bench.commit(derived("a"), statuses("card", "d1"))
    relay = bench.relay()
    bench.run(relay, seconds=0.5)
    assert bench.told("card") == [1] and len(bench.books.outbox(10)) == 1
    bench.run(relay)
    assert set(bench.all_ids()) == {"a"} and bench.books.outbox(10) == []


def test_relay_with_a_row_that_no_door_would_let_in_keeps_it_under_an_exception() -> None:
    """Such a row becomes an exception with its amount and is not lost; it passes once a relay knows its facility."""
    bench = Bench()
    bench.facilities = frozenset(["north"])
    bench.commit(pl.concat([derived("a"), derived("b", facility="south")]))
    bench.commit(derived("c"))
    relay = bench.relay()
    bench.run(relay)
    assert sorted(bench.all_ids()) == ["a", "c"] and len(bench.books.outbox(10)) == 1
    row = bench.books.exceptions().row(0, named=True)
    assert (row["type"], row["event_id"], row["facility"], row["amount_minor"]) == (
        "derived_rejected",
        "b",
        "south",
        100,
    )
    assert row["detail"] == "outbox frame 1, row 1: unknown_facility facility"
    assert bench.books.exception_counts() == {"derived_rejected": 1}
    bench.facilities = frozenset(["north", "south"])
    bench.run(bench.relay())
    assert set(bench.all_ids()) == {"a", "b", "c"} and bench.books.outbox(10) == []
    assert bench.books.exception_counts() == {}


class DamagedBooks(MemoryBooks):
    """Books whose first frame of derived events lost its end."""

    def outbox(self, limit: int, after: int = 0) -> list[OutboxFrame]:
        """See Books."""
        found = super().outbox(limit, after)
        return [frame._replace(body=frame.body[:-1]) if frame.number == 1 else frame for frame in found]


def test_relay_with_a_frame_that_can_not_be_read_keeps_it_and_goes_on() -> None:
    """A damaged frame stays where it is under one exception, and the frames behind it are relayed."""
    bench = Bench()
    bench.books = DamagedBooks(bench.clock.now_ms)
    bench._epoch = bench.books.take_epoch("shard:0", "test").epoch
    bench.commit(derived("a"))
    bench.commit(derived("b"))
    for _ in range(2):
        bench.run(bench.relay())
    assert bench.all_ids() == ["b"] and [frame.number for frame in bench.books.outbox(10)] == [1]
    assert bench.books.exceptions()["detail"].to_list() == ["outbox frame 1 can't be read: malformed_frame"]


# ── statuses ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_relay_statuses_reach_each_consumer_that_asked_for_their_flow() -> None:
    """A consumer is told of its flows alone, under the books' numbers and in their order; without flows, of all."""
    bench = Bench(card=["card"], both=["card", "bank"], every=[])
    bench.commit(None, statuses("card", "c1", "c2"))
    bench.commit(None, statuses("bank", "b1"))
    bench.commit(None, statuses("claim", "x1"))
    bench.run(bench.relay())
    assert (bench.told("card"), bench.told("both"), bench.told("every")) == ([1, 2], [1, 2, 3], [1, 2, 3, 4])
    told = msgspec.json.decode(bench.outlets["both"].entries[-1].body)
    assert told.keys() == {"status_no", *STATUSES}
    assert (told["status_no"], told["document"], told["amount_minor"], told["occurred_at"]) == (3, "b1", 700, NOW_MS)


def test_relay_with_a_new_consumer_tells_it_everything_from_the_beginning() -> None:
    """A consumer that is added later is told what the others were told before."""
    bench = Bench(one=[])
    bench.commit(None, statuses("card", "c1", "c2"))
    bench.run(bench.relay())
    bench.flows, bench.outlets["two"] = {"one": [], "two": []}, MemoryOutlet()
    bench.run(bench.relay())
    assert bench.told("one") == bench.told("two") == [1, 2]


@pytest.mark.parametrize("fault", ["refuse", "lose_call", "lose_answer"])
def test_relay_with_a_consumer_that_fails_tells_it_once_in_the_end(fault: str) -> None:
    """Refused, lost or not answered: every status is in the stream once, in order, and new ones come after it."""
    bench = Bench(card=[])
    bench.outlets["card"].plan(fault, fault)
    bench.commit(None, statuses("card", "c1", "c2"))
    relay = bench.relay()
    bench.run(relay, seconds=0.1)
    bench.commit(None, statuses("card", "c3"))
    bench.run(relay)
    assert bench.told("card") == [1, 2, 3]


def test_relay_with_a_consumer_away_asks_somebody_to_look_and_holds_nobody_up() -> None:
    """While one consumer is away, the others and derived events go on; its statuses wait, and come when it is back."""
    bench = Bench(away=[], there=[])
    bench.outlets["away"].away = True
    bench.commit(derived("a"), statuses("card", "c1"))
    relay = bench.relay()
    bench.run(relay, seconds=1.0)
    assert bench.told("there") == [1] and bench.all_ids() == ["a"] and bench.books.exception_counts() == {}
    bench.run(relay, seconds=2.0**FAILURES_TOLD)
    assert bench.books.exception_counts() == {"consumer_stopped": 1}
    assert {one.name: one.state for one in relay.health().consumers} == {"away": "waiting", "there": "running"}
    bench.outlets["away"].away = False
    bench.run(bench.relay())
    assert bench.told("away") == [1] and bench.books.exception_counts() == {}


def test_relay_with_a_consumer_that_hangs_holds_nobody_up() -> None:
    """A call that never ends is waited for by nobody but its own consumer."""
    bench = Bench(hung=[], there=[])
    bench.calls.held.add(bench.outlets["hung"])
    relay = bench.relay()
    for n in range(3):
        bench.commit(derived(f"e{n}"), statuses("card", f"c{n}"))
        bench.run(relay, seconds=0.2)
    assert bench.told("there") == [1, 2, 3] and bench.all_ids() == ["e0", "e1", "e2"]
    assert bench.told("hung") == []


class BrokenOutlet(MemoryOutlet):
    """An outlet with a fault of its own."""

    def publish(self, after: int, told: Sequence[Told]) -> int:
        """Fail as no outlet should."""
        raise RuntimeError("a defect")


def test_relay_with_a_defect_in_one_outlet_serves_the_others() -> None:
    """Whatever an outlet raises is its own consumer's matter: somebody is asked to look, everything else goes on."""
    bench = Bench(broken=[], there=[])
    bench.outlets["broken"] = BrokenOutlet()
    bench.commit(derived("a"), statuses("card", "c1"))
    bench.run(bench.relay(), seconds=2.0**FAILURES_TOLD)
    assert bench.told("there") == [1] and bench.all_ids() == ["a"]
    assert bench.books.exceptions()["detail"].to_list() == [
        "consumer broken is not told: RuntimeError; its statuses wait"
    ]


def test_relay_with_a_consumer_that_lost_its_stream_tells_it_all_again() -> None:
    """A stream that was lost while the relay runs is filled from the beginning, without a gap."""
    bench = Bench(card=["card"])
    bench.commit(None, statuses("card", "c1", "c2"))
    relay = bench.relay()
    bench.run(relay)
    bench.outlets["card"].lose()
    bench.commit(None, statuses("card", "c3"))
    bench.run(relay)
    assert bench.told("card") == [1, 2, 3]


def test_relay_with_a_stream_of_somebody_else_tells_nothing_and_says_so() -> None:
    """A stream ahead of the books would swallow every later status: it is left alone, and somebody is asked to look."""
    bench = Bench(card=[])
    bench.outlets["card"].publish(0, [Told(99, b"{}")])
    bench.commit(None, statuses("card", "c1"))
    bench.run(bench.relay(), seconds=2.0**FAILURES_TOLD)
    assert bench.told("card") == [99]
    assert bench.books.exceptions()["type"].to_list() == ["consumer_stopped"]


# ── dying ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_relay_that_was_replaced_stops() -> None:
    """The earlier of two relays finds out in its next round."""
    bench = Bench()
    zombie = bench.relay()
    bench.relay()
    with pytest.raises(Fenced):
        zombie.step()


def troubled_bench() -> Bench:
    """Three commits, one with a row that is refused; two consumers, one of which loses an answer."""
    bench = Bench(card=["card"], every=[])
    bench.outlets["every"].plan("none", "lose_answer")
    bench.commit(derived("a", "b"), statuses("card", "c1", "c2"))
    bench.commit(pl.concat([derived("c"), derived("bad", facility="nowhere")]), statuses("bank", "b1"))
    bench.commit(derived("d", facility="south"), statuses("card", "c3"))
    return bench


def assert_right_end(bench: Bench, place: str) -> None:
    """Everything arrived, in its shard, and consumers were told each status once and in order."""
    assert (set(bench.line.ids(NORTH)), set(bench.line.ids(SOUTH))) == ({"a", "b", "c"}, {"d"}), place
    assert (bench.told("card"), bench.told("every")) == ([1, 2, 4], [1, 2, 3, 4]), place
    assert bench.books.exception_counts() == {"derived_rejected": 1} and len(bench.books.outbox(9)) == 1, place
    stamps = [frames.decode_sealed(entry.body) for shard in (NORTH, SOUTH) for entry in bench.line.entries(shard)]
    assert pl.concat(stamps).select("event_id", "id_hash", "digest").unique().height == 4, place


def test_relay_death_at_any_edge_loses_nothing_and_tells_nothing_twice() -> None:
    """Killed before or after any call of a port, a successor brings the same end about; what is repeated is equal."""
    for edge in count(1):
        bench, edges = troubled_bench(), Edges(edge, KilledError, (MemoryBooks, MemoryLine, MemoryOutlet))
        with suppress(KilledError):
            bench.run(bench.relay(edges))
        bench.run(bench.relay())
        assert_right_end(bench, f"died at edge {edge}")
        if not edges.failed:
            break
    assert edge > 40


def test_relay_with_books_unavailable_at_any_edge_goes_on_by_itself() -> None:
    """Whether or not the silent transaction happened, the same relay brings everything out."""
    for edge in count(1):
        bench, edges = troubled_bench(), Edges(0, BooksUnavailable, (MemoryBooks,))
        relay = bench.relay(edges)
        edges.fails_at = edges.passed + edge
        bench.run(relay)
        assert_right_end(bench, f"no answer at edge {edge}")
        if not edges.failed:
            break
    assert edge > 40
