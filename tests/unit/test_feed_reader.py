"""The feed reader: what it acknowledges when, and what becomes of bad messages."""

import asyncio
from types import SimpleNamespace

import polars as pl
import pytest

from actors.feed_reader import Close, FeedHealth, FeedReader
from runtime.effects import EXCEPTIONS
from runtime.errors import BooksUnavailable, FrameError, LogRefused, LogUnavailable, Pressure
from runtime.limits import Limits
from runtime.ports import FeedMessage
from runtime.schema import REJECT_COLUMNS, Fault, Parsed

NOW_MS = 1_790_000_000_000


class Way:
    """Feed, door, books and metrics in one fake, which writes down what happened in order.

    A message's only field is `n`: a number is an event, "bad" can't be parsed, "no" is rejected by the door, and
    "poison" makes the door refuse the whole frame that it is in. `failures` are raised by the next calls of a method.
    """

    def __init__(self, *values: str) -> None:
        self.messages = [FeedMessage(f"{i}-0", {b"n": value.encode()}) for i, value in enumerate(values)]
        self.polls = [self.messages] if values else []
        self.done: list[tuple] = []
        self.failures: dict[str, list[Exception]] = {}
        self.counted: dict[str, float] = {}
        self.raised: list[pl.DataFrame] = []

    def _perhaps_fail(self, method: str) -> None:
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    async def poll(self, rows_max: int, wait_ms: int) -> list[FeedMessage]:
        self._perhaps_fail("poll")
        return self.polls.pop(0) if self.polls else []

    async def acknowledge(self, ids: list[str]) -> None:
        self._perhaps_fail("acknowledge")
        self.done.append(("acknowledge", *ids))

    async def dead_letter(self, message: FeedMessage, code: str, column: str, reason: str) -> None:
        self._perhaps_fail("dead_letter")
        self.done.append(("dead_letter", message.id, code, column, reason))

    async def close(self) -> None:
        self.done.append(("close",))

    def raise_exceptions(self, exceptions: pl.DataFrame) -> None:
        self._perhaps_fail("raise_exceptions")
        self.raised.append(exceptions)
        self.done.append(("raise", *exceptions["type"]))

    async def submit(self, frame: pl.DataFrame) -> SimpleNamespace:
        self._perhaps_fail("submit")
        values = frame["n"].to_list()
        if "poison" in values:
            raise FrameError("overflow", "amount_minor", "larger than 64-bit signed")
        self.done.append(("append", *(value for value in values if value != "no")))
        rejected = [(i, "", "unknown_kind", "kind", "not in the rulebook") for i, v in enumerate(values) if v == "no"]
        return SimpleNamespace(rejected=pl.DataFrame(rejected, schema=REJECT_COLUMNS, orient="row"))

    def parse(self, messages: list[FeedMessage]) -> Parsed:
        values = [message.fields[b"n"].decode() for message in messages]
        rows = {"row": [], "n": []}
        for row, value in enumerate(values):
            if value != "bad":
                rows["row"].append(row)
                rows["n"].append(value)
        faults = [
            Fault(row, "not_a_number", "n", "expected digits") for row, value in enumerate(values) if value == "bad"
        ]
        return Parsed(pl.DataFrame(rows, schema={"row": pl.Int64(), "n": pl.String()}), faults)

    def count(self, name: str, value: float = 1, **tags: object) -> None:
        self.counted[name] = self.counted.get(name, 0) + value

    def now_ms(self) -> int:
        return NOW_MS

    def reader(self, *own: Close) -> FeedReader:
        return FeedReader(
            self, self.submit, self, clock=self, limits=Limits(), name="card", parse=self.parse, metrics=self, own=own
        )

    def did(self, what: str) -> list[tuple]:
        return [step[1:] for step in self.done if step[0] == what]


def steps(reader: FeedReader, count: int) -> list[float]:
    """Take steps, return the pauses that they asked for."""

    async def take() -> list[float]:
        return [await reader.step() for _ in range(count)]

    return asyncio.run(take())


def test_feed_reader_good_messages_are_appended_then_acknowledged():
    """Messages are acknowledged, and only after they are in the log."""
    way = Way("1", "2", "3")
    assert steps(way.reader(), 1) == [0.0]
    assert way.done == [("append", "1", "2", "3"), ("acknowledge", "0-0", "1-0", "2-0")]
    assert way.counted == {"feed_messages": 3}


def test_feed_reader_empty_poll_does_nothing():
    """A feed with nothing new causes no call at all."""
    way = Way()
    assert steps(way.reader(), 2) == [0.0, 0.0]
    assert way.done == []


def test_feed_reader_malformed_and_rejected_messages_do_not_hold_up_others():
    """Bad messages are raised, then set aside with code, column and reason; the rest is acknowledged."""
    way = Way("1", "bad", "no", "4")
    steps(way.reader(), 1)
    assert way.done[0] == ("append", "1", "4")
    assert way.done[1] == ("raise", "feed_malformed", "feed_rejected")
    assert sorted(way.did("dead_letter")) == [
        ("1-0", "not_a_number", "n", "expected digits"),
        ("2-0", "unknown_kind", "kind", "not in the rulebook"),
    ]
    assert way.done[-1] == ("acknowledge", "0-0", "3-0")
    assert way.counted["feed_dead_letters"] == 2


def test_feed_reader_all_messages_malformed_submits_nothing():
    """With no good row there is no append and nothing to acknowledge, and no message is left behind."""
    way = Way("bad", "bad")
    steps(way.reader(), 1)
    assert way.did("append") == [] and way.did("acknowledge") == []
    assert sorted(step[0] for step in way.did("dead_letter")) == ["0-0", "1-0"]


def test_feed_reader_exception_names_places_and_keeps_its_identity():
    """The exception has every column, says feed, message, code and column, no value, and the same id each time."""
    frames = []
    for _ in range(2):
        way = Way("1", "bad")
        steps(way.reader(), 1)
        frames += way.raised
    row = frames[0].row(0, named=True)
    assert frames[0].schema == EXCEPTIONS
    assert row["detail"] == "feed card, message 1-0: not_a_number n"
    assert len(row["exception_id"]) == 16 and int(row["exception_id"], 16)
    assert frames[0].equals(frames[1])


@pytest.mark.parametrize(
    ("failure", "pause_s"),
    [
        (Pressure("shard 3 lags", 2.5), 2.5),
        (LogRefused("disk full"), Limits().retry_after_s),
        (LogUnavailable("no answer"), Limits().retry_after_s),
    ],
)
def test_feed_reader_log_not_taking_acknowledges_nothing_and_reads_no_further(failure, pause_s):
    """While the log does not take the batch the reader waits, holds it, polls nothing, and then goes on with it."""
    way = Way("1", "bad")
    way.failures = {"submit": [failure, failure]}
    reader = way.reader()
    assert steps(reader, 2) == [pause_s, pause_s]
    assert way.done == [] and way.counted == {"feed_messages": 2}
    assert steps(reader, 1) == [0.0]
    assert [step[0] for step in way.done] == ["append", "raise", "dead_letter", "acknowledge"]


def test_feed_reader_books_away_waits_without_dead_letter_or_second_append():
    """An exception that can't be raised yet holds its message back; what is appended is not appended again."""
    way = Way("1", "bad")
    way.failures = {"raise_exceptions": [BooksUnavailable("no answer")]}
    reader = way.reader()
    assert steps(reader, 1) == [Limits().retry_after_s]
    assert way.done == [("append", "1")]
    steps(reader, 1)
    assert way.done[1:] == [
        ("raise", "feed_malformed"),
        ("dead_letter", "1-0", "not_a_number", "n", "expected digits"),
        ("acknowledge", "0-0"),
    ]


def test_feed_reader_feed_away_between_dead_letters_sets_each_aside_once():
    """A feed that fails between two dead letters gets each message once, however often the step is repeated."""
    way = Way("bad", "1", "bad")
    way.failures = {"dead_letter": [LogUnavailable("no answer")], "acknowledge": [LogUnavailable("no answer")]}
    steps(way.reader(), 4)
    assert sorted(step[0] for step in way.did("dead_letter")) == ["0-0", "2-0"]
    assert way.did("append") == [("1",)]
    assert way.did("acknowledge") == [("1-0",)]


@pytest.mark.parametrize("place", [0, 3, 6])
def test_feed_reader_frame_refused_as_a_whole_isolates_the_message_at_fault(place):
    """When the door refuses a whole frame, the one message at fault is found and all others are appended once."""
    values = [str(i) for i in range(7)]
    values[place] = "poison"
    way = Way(*values)
    steps(way.reader(), 1)
    assert way.did("dead_letter") == [(f"{place}-0", "overflow", "amount_minor", "larger than 64-bit signed")]
    assert sorted(n for append in way.did("append") for n in append) == sorted(set(values) - {"poison"})
    assert len(way.did("acknowledge")[0]) == 6


def test_feed_reader_cancelled_in_a_later_step_has_kept_its_word():
    """A cancelled reader stops between steps; what it was still holding was never acknowledged."""
    way = Way("1")
    way.polls.append([FeedMessage("9-0", {b"n": b"9"})])
    reader = way.reader()

    async def cancel_at_second(frame: pl.DataFrame) -> SimpleNamespace:
        if frame["n"].to_list() == ["9"]:
            raise asyncio.CancelledError
        return await way.submit(frame)

    reader._submit = cancel_at_second
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(reader.run())
    asyncio.run(reader.close())
    assert way.done == [("append", "1"), ("acknowledge", "0-0"), ("close",)]
    assert reader.health() == FeedHealth("card", 1) and repr(reader) == "feed-reader card"


def test_feed_reader_closes_what_was_opened_for_it():
    """A reader that fails is built anew, door and all: the door of the one before must not go on following the log."""
    way = Way()

    async def close() -> None:
        way.done.append(("close", "door"))

    asyncio.run(way.reader(close).close())
    assert sorted(way.done) == [("close",), ("close", "door")]
