"""The outlet's contract, over the memory twin and over Valkey; then what only a real server can show."""

import secrets
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import redis
from valkey_fixture import Valkey, running_valkey

from adapters.outlets.memory import MemoryOutlet
from adapters.outlets.redis_outlet import RedisOutlet
from adapters.outlets.redis_outlet import told as read_told
from runtime.errors import LogRefused, LogUnavailable
from runtime.ports import Outlet, Told

LENGTH_MAX = 5


class MemoryBench:
    """A stream in memory, and how to look behind its outlets."""

    def __init__(self) -> None:
        self._outlet = MemoryOutlet(LENGTH_MAX)

    def outlet(self) -> Outlet:
        return self._outlet

    def held(self) -> list[Told]:
        return self._outlet.entries

    def lose(self) -> None:
        self._outlet.lose()


class ValkeyBench(NamedTuple):
    """A stream on Valkey, and how to look behind its outlets."""

    server: Valkey
    client: redis.Redis
    stream: str

    def outlet(self) -> Outlet:
        return RedisOutlet(self.server.url, self.stream, LENGTH_MAX)

    def held(self) -> list[Told]:
        return [Told(int(id.partition(b"-")[0]), fields[b"status"]) for id, fields in self.client.xrange(self.stream)]

    def lose(self) -> None:
        self.client.delete(self.stream)


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        yield valkey


@pytest.fixture
def real(server: Valkey) -> Iterator[ValkeyBench]:
    with server.client() as client:
        yield ValkeyBench(server, client, f"status{secrets.token_hex(4)}")
    server.roomy()


@pytest.fixture(params=["memory", "valkey"])
def bench(request: pytest.FixtureRequest) -> MemoryBench | ValkeyBench:
    return MemoryBench() if request.param == "memory" else request.getfixturevalue("real")


def told(*numbers: int) -> list[Told]:
    """Statuses of these numbers."""
    return [Told(number, b'{"n":%d}' % number) for number in numbers]


def test_outlet_newest_of_a_stream_that_is_not_there_is_zero(bench) -> None:
    """A consumer that was never told anything begins at the beginning, and asking makes no stream."""
    assert bench.outlet().newest() == 0
    assert bench.outlet().publish(0, []) == 0 and bench.held() == []


def test_outlet_publish_appends_in_order_and_answers_the_newest(bench) -> None:
    """Statuses come under their own numbers, gaps and all, with their bodies as they are."""
    outlet = bench.outlet()
    assert outlet.publish(0, told(2, 3)) == 3
    assert outlet.publish(3, told(9)) == 9
    assert bench.held() == told(2, 3, 9) and bench.outlet().newest() == 9


def test_outlet_publish_twice_is_refused_without_harm(bench) -> None:
    """The same call again appends nothing, and its answer says that the statuses are there."""
    outlet = bench.outlet()
    for _ in range(3):
        assert outlet.publish(0, told(1, 2)) == 2
    assert bench.held() == told(1, 2)


def test_outlet_publish_behind_another_publisher_changes_nothing(bench) -> None:
    """Who was overtaken, wholly or in the middle of a batch, learns how far the stream is and adds nothing."""
    bench.outlet().publish(0, told(1, 2, 3))
    assert bench.outlet().publish(1, told(2, 3, 4)) == 3
    assert bench.outlet().publish(0, told(1)) == 3
    assert bench.held() == told(1, 2, 3)


def test_outlet_publish_to_a_stream_that_was_lost_leaves_no_gap(bench) -> None:
    """A stream that lost its entries takes none of the later ones: its answer says where to begin."""
    outlet = bench.outlet()
    outlet.publish(0, told(1, 2))
    bench.lose()
    assert outlet.publish(2, told(3)) == 0
    assert outlet.publish(0, told(1, 2, 3)) == 3
    assert bench.held() == told(1, 2, 3)


def test_outlet_trimmed_stream_goes_on_with_its_numbers(bench) -> None:
    """The stream keeps its length and knows its newest number, also when none of what it held is left."""
    outlet = bench.outlet()
    assert outlet.publish(0, told(*range(1, 9))) == 8
    assert bench.held() == told(4, 5, 6, 7, 8)
    assert bench.outlet().newest() == 8
    assert outlet.publish(0, told(1, 2)) == 8 and outlet.publish(8, told(9)) == 9
    assert bench.held() == told(5, 6, 7, 8, 9)


# ── Valkey alone ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_outlet_emptied_by_its_reader_goes_on_with_its_numbers(real) -> None:
    """A consumer that deletes or trims what it has read changes nothing for the publisher."""
    outlet = real.outlet()
    outlet.publish(0, told(1, 2))
    real.client.xdel(real.stream, "1-0")
    real.client.xtrim(real.stream, maxlen=0, approximate=False)
    assert outlet.newest() == 2 and outlet.publish(2, told(4)) == 4
    assert real.held() == told(4)


def test_outlet_told_reads_the_stream_as_its_consumer_does(real) -> None:
    """Whoever looks sees the bodies in the order of telling; a stream that is not there holds nothing."""
    assert read_told(real.server.url, real.stream) == []
    real.outlet().publish(0, told(1, 2))
    assert read_told(real.server.url, real.stream) == [status.body for status in told(1, 2)]


def test_outlet_that_somebody_else_writes_to_is_refused(real) -> None:
    """Entries under ids of another kind, or a key that is no stream, are named and nothing is added."""
    real.client.xadd(real.stream, {"a": "b"}, id="7-3")
    with pytest.raises(LogRefused, match="somebody else"):
        real.outlet().newest()
    with pytest.raises(LogRefused, match="somebody else"):
        real.outlet().publish(0, told(1))
    assert real.client.xlen(real.stream) == 1
    real.client.delete(real.stream)
    real.client.set(real.stream, "text")
    with pytest.raises(LogRefused) as refused:
        real.outlet().publish(0, told(1))
    assert "text" not in str(refused.value)


def test_outlet_without_room_takes_all_or_nothing(real) -> None:
    """A server whose memory is full refuses the batch as a whole, and takes it once there is room."""
    outlet = real.outlet()
    outlet.publish(0, told(1))
    real.server.full()
    with pytest.raises(LogRefused):
        outlet.publish(1, told(2, 3))
    real.server.roomy()
    assert real.held() == told(1) and outlet.publish(1, told(2, 3)) == 3


def test_outlet_without_a_server_is_unavailable_until_it_is_back() -> None:
    """A lost server is named as such; after its restart the outlet goes on where the stream stands."""
    with running_valkey() as server:
        outlet = RedisOutlet(server.url, "status", LENGTH_MAX)
        outlet.publish(0, told(1))
        server.kill()
        with pytest.raises(LogUnavailable):
            outlet.publish(1, told(2))
        with pytest.raises(LogUnavailable):
            outlet.newest()
        server.start_again()
        assert outlet.newest() == 1 and outlet.publish(1, told(2)) == 2
        outlet.close()
