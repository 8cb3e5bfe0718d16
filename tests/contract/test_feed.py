"""The feed's contract, over the memory twin and over Valkey; then what only a real server can show."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import redis
from valkey_fixture import Valkey, running_valkey

from adapters.feeds.memory import MemoryFeed, MemoryStream
from adapters.feeds.redis_feed import RedisFeed
from runtime.errors import LogRefused, LogUnavailable
from runtime.ports import Feed, FeedMessage

GROUP = "penstock"
IDLE_S = 0.05  # after which a reader is taken for dead, where a test waits for that
LIVING_S = 60.0  # and where it must not be, however busy the machine is


class MemoryBench:
    """A stream in memory, and how to look behind its feeds."""

    def __init__(self) -> None:
        self._stream = MemoryStream()

    def add(self, **fields: str) -> str:
        return self._stream.add({name.encode(): text.encode() for name, text in fields.items()})

    def join(self, consumer: str, idle_s: float = LIVING_S) -> Feed:
        return MemoryFeed(self._stream, consumer)

    def pending(self) -> int:
        return len(self._stream.pending)

    def dead(self) -> list[tuple]:
        return [(d.message.id, dict(d.message.fields), d.code, d.column, d.reason) for d in self._stream.dead]


class ValkeyBench:
    """A stream on Valkey, and how to look behind its feeds."""

    def __init__(self, server: Valkey, client: redis.Redis) -> None:
        self.server, self.client = server, client
        self.stream = f"feed{secrets.token_hex(4)}"

    def add(self, **fields: str) -> str:
        return self.client.xadd(self.stream, fields).decode()

    def join(self, consumer: str, idle_s: float = LIVING_S) -> Feed:
        return RedisFeed(self.server.url, self.stream, GROUP, consumer, claim_idle_s=idle_s)

    def pending(self) -> int:
        return self.client.xpending(self.stream, GROUP)["pending"]

    def dead(self) -> list[tuple]:
        return [self._dead(fields) for _, fields in self.client.xrange(f"{self.stream}:dead")]

    def _dead(self, fields: dict[bytes, bytes]) -> tuple:
        marks = [fields.pop(f"penstock_{name}".encode()).decode() for name in ("id", "code", "column", "reason")]
        return marks[0], fields, *marks[1:]


class Setting(NamedTuple):
    """A bench, and the event loop that all its feeds live on."""

    bench: MemoryBench | ValkeyBench
    run: Callable

    def poll(self, feed: Feed, rows_max: int = 100, wait_ms: int = 0) -> list[FeedMessage]:
        return self.run(feed.poll(rows_max, wait_ms))

    def poll_until_something(self, feed: Feed) -> list[FeedMessage]:
        """For what only time brings; the test's own time limit ends it."""
        while not (found := self.poll(feed, wait_ms=10)):
            pass
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        yield valkey


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(params=["memory", "valkey"])
def setting(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Setting]:
    if request.param == "memory":
        yield Setting(MemoryBench(), runner.run)
        return
    server = request.getfixturevalue("server")
    with server.client() as client:
        yield Setting(ValkeyBench(server, client), runner.run)


@pytest.fixture
def real(server: Valkey, runner: asyncio.Runner) -> Iterator[Setting]:
    with server.client() as client:
        yield Setting(ValkeyBench(server, client), runner.run)
    server.roomy()


def ids(messages: list[FeedMessage]) -> list[str]:
    return [message.id for message in messages]


def test_poll_gives_what_came_before_the_first_reader(setting: Setting) -> None:
    """A group begins at the stream's beginning, and gives each message's fields as they are, in order."""
    added = [setting.bench.add(kind="charge", no="1"), setting.bench.add(kind="refund", no="2")]

    messages = setting.poll(setting.bench.join("a"))

    assert ids(messages) == added
    assert messages[1].fields == {b"kind": b"refund", b"no": b"2"}


def test_poll_of_an_empty_feed_gives_nothing(setting: Setting) -> None:
    """A feed whose stream does not exist yet is an empty feed."""
    assert setting.poll(setting.bench.join("a"), wait_ms=5) == []


def test_poll_gives_no_more_than_rows_max_and_nothing_twice(setting: Setting) -> None:
    """Messages come in pages; a living reader is not given again what it has not acknowledged yet."""
    added = [setting.bench.add(no=str(i)) for i in range(5)]
    feed = setting.bench.join("a")

    pages = [ids(setting.poll(feed, rows_max=2)) for _ in range(3)]

    assert pages == [added[:2], added[2:4], added[4:]]


def test_message_comes_again_after_a_restart_until_acknowledged(setting: Setting) -> None:
    """The same consumer, started again, first gets what it had not acknowledged, then what is new."""
    first, second = setting.bench.add(no="1"), setting.bench.add(no="2")
    feed = setting.bench.join("a")
    setting.poll(feed)
    setting.run(feed.acknowledge([first]))

    again = setting.bench.join("a")
    third = setting.bench.add(no="3")
    seen = [ids(setting.poll(again, rows_max=1)) for _ in range(2)]
    setting.run(again.acknowledge([second, third]))

    assert seen == [[second], [third]]
    assert setting.bench.pending() == 0
    assert setting.poll(setting.bench.join("a")) == []


def test_acknowledge_of_nothing_or_the_unknown_is_nothing(setting: Setting) -> None:
    """Acknowledging twice, or nothing, changes nothing."""
    only = setting.bench.add(no="1")
    feed = setting.bench.join("a")
    setting.poll(feed)
    for given in ([], ["77-7"], [only], [only]):
        setting.run(feed.acknowledge(given))

    assert setting.bench.pending() == 0


def test_dead_letter_keeps_the_message_and_the_reason(setting: Setting) -> None:
    """A dead-lettered message lies whole in the dead-letter stream with its id and reason, and is not pending."""
    bad = setting.bench.add(kind="charge", code="mine")
    feed = setting.bench.join("a")
    message = setting.poll(feed)[0]

    setting.run(feed.dead_letter(message, "unknown_kind", "kind", "not in the rulebook"))

    fields = {b"kind": b"charge", b"code": b"mine"}
    assert setting.bench.dead() == [(bad, fields, "unknown_kind", "kind", "not in the rulebook")]
    assert setting.bench.pending() == 0
    assert setting.poll(setting.bench.join("a")) == []


def test_second_consumer_takes_over_what_a_dead_one_left(setting: Setting) -> None:
    """What a consumer took and never acknowledged goes to another one of its group, once it is gone."""
    left = [setting.bench.add(no="1"), setting.bench.add(no="2")]
    dead, heir = setting.bench.join("a"), setting.bench.join("b", IDLE_S)
    assert ids(setting.poll(dead)) == left
    setting.run(dead.close())

    taken = setting.poll_until_something(heir)
    setting.run(heir.acknowledge(ids(taken)))

    assert ids(taken) == left
    assert setting.bench.pending() == 0


def test_two_consumers_share_the_new_messages(setting: Setting) -> None:
    """Every new message goes to exactly one consumer of the group."""
    added = [setting.bench.add(no=str(i)) for i in range(4)]
    a, b = setting.bench.join("a"), setting.bench.join("b")

    assert ids(setting.poll(a, rows_max=2)) + ids(setting.poll(b, rows_max=2)) == added


# ── memory alone ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_feed_raises_where_its_items_say_so(runner: asyncio.Runner) -> None:
    """An exception among the items is raised between the messages before and after it."""
    feed = MemoryFeed([{b"no": b"1"}, LogUnavailable("planned"), {b"no": b"2"}])

    assert len(runner.run(feed.poll(10, 0))) == 1
    with pytest.raises(LogUnavailable):
        runner.run(feed.poll(10, 0))
    rest = runner.run(feed.poll(10, 0))
    runner.run(feed.acknowledge(ids(rest)))

    assert feed.stream.acknowledged == ids(rest)


# ── Valkey alone ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_message_trimmed_before_it_was_acknowledged_comes_empty(real: Setting) -> None:
    """What the stream's owner deleted too early comes back without fields, so that somebody hears of it."""
    bench = real.bench
    own, other = bench.add(no="1"), bench.add(no="2")
    dead, feed = bench.join("b"), bench.join("a")
    real.poll(feed, rows_max=1)
    real.poll(dead, rows_max=1)
    bench.client.xtrim(bench.stream, maxlen=0, approximate=False)

    again = bench.join("a", IDLE_S)
    seen = real.poll(again) + real.poll_until_something(again)

    assert FeedMessage(own, {}) in seen and FeedMessage(other, {}) in seen
    real.run(again.dead_letter(seen[0], "missing", "", "trimmed before it was read"))
    assert bench.dead()[0][0] == own


def test_dead_letter_that_cannot_be_stored_stays_pending(real: Setting) -> None:
    """A server that can't store the dead letter does not acknowledge the message either."""
    real.bench.add(kind="charge")
    feed = real.bench.join("a")
    message = real.poll(feed)[0]
    real.bench.server.full()

    with pytest.raises(LogRefused):
        real.run(feed.dead_letter(message, "unknown_kind", "kind", "not in the rulebook"))
    real.bench.server.roomy()

    assert real.bench.dead() == []
    assert real.poll(feed) == [message]


def test_feed_whose_stream_is_lost_joins_again(real: Setting) -> None:
    """A group that vanished with its stream is made again by the poll after the one that found out."""
    feed = real.bench.join("a")
    real.bench.add(no="1")
    real.poll(feed)
    real.bench.client.delete(real.bench.stream)

    with pytest.raises(LogRefused):
        real.poll(feed)
    added = real.bench.add(no="2")
    assert ids(real.poll(feed)) == [added]


def test_feed_without_a_server_is_unavailable_until_it_is_back(runner: asyncio.Runner) -> None:
    """A lost server is named as such; after its restart the unacknowledged message comes again."""
    with running_valkey() as server:
        with server.client() as client:
            added = client.xadd("orders", {"no": "1"}).decode()
        feed = RedisFeed(server.url, "orders", GROUP, "a")
        runner.run(feed.poll(10, 0))
        server.kill()

        with pytest.raises(LogUnavailable):
            runner.run(feed.poll(10, 0))
        with pytest.raises(LogUnavailable):
            runner.run(feed.acknowledge([added]))
        server.start_again()

        assert ids(runner.run(feed.poll(10, 0))) == [added]
        runner.run(feed.close())
