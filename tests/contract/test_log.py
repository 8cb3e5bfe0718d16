"""The log's contract, over the memory twin and over Valkey; then what only a real server can show."""

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import redis
from valkey_fixture import Valkey, running_valkey

from adapters.log import redis_streams
from adapters.log.memory import MemoryLog
from adapters.log.redis_streams import RedisLogReader, RedisLogWriter, create
from runtime.errors import ConfigError, LogRefused, LogUnavailable
from runtime.ports import START, LogEntry, LogReader, LogRecord, LogWriter, ShardLag, position_key

SHARDS = 4
REPLICA_TRIES = 60  # of a second each


class Log(NamedTuple):
    """A log under test; `run` runs a coroutine on the writer's own event loop."""

    writer: LogWriter
    reader: LogReader
    run: Callable

    def append(self, *entries: LogEntry) -> tuple[str, ...]:
        return self.run(self.writer.append(entries)).positions

    def lag(self, shard: int) -> ShardLag:
        return self.run(self.writer.lag())[shard]


def events(shard: int, rows: int = 1, body: bytes = b"x") -> LogEntry:
    return LogEntry(shard, "events", rows, body)


def bodies(records: list[LogRecord]) -> list[bytes]:
    return [record.body for record in records]


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        yield valkey


@pytest.fixture
def own_server() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        yield valkey


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(params=["memory", "valkey"])
def log(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Log]:
    if request.param == "memory":
        both = MemoryLog(SHARDS)
        opened = Log(both, both, runner.run)
    else:
        opened = open_valkey(request.getfixturevalue("server"), runner)
    yield opened
    opened.reader.close()
    runner.run(close_writer(opened.writer))


@pytest.fixture
def own_log(own_server: Valkey, runner: asyncio.Runner) -> Iterator[Log]:
    opened = open_valkey(own_server, runner)
    yield opened
    opened.reader.close()
    runner.run(close_writer(opened.writer))


def open_valkey(server: Valkey, runner: asyncio.Runner) -> Log:
    prefix = f"test{secrets.token_hex(4)}"
    create(server.url, SHARDS, prefix)
    return Log(RedisLogWriter(server.url, prefix), RedisLogReader(server.url, prefix), runner.run)


async def close_writer(writer: LogWriter) -> None:
    await writer.close()


def test_append_over_shards_is_read_back_in_order(log: Log) -> None:
    """Each shard gives back its own entries, as they were, in the order in which they were appended."""
    log.append(events(0, 2, b"a"), events(3, 5, b"\x00\xff"), LogEntry(0, "control", 0, b"{}"))
    log.append(events(0, 1, b"b"))

    found = log.reader.read(dict.fromkeys(range(SHARDS), START), 100, 0)

    assert set(found) == {0, 3}
    assert [record[1:] for record in found[0]] == [("events", 2, b"a"), ("control", 0, b"{}"), ("events", 1, b"b")]
    assert [record[1:] for record in found[3]] == [("events", 5, b"\x00\xff")]


def test_append_gives_increasing_positions_that_reads_repeat(log: Log) -> None:
    """Positions grow within a shard and are the ones under which the entries are read."""
    positions = [position for _ in range(5) for position in log.append(events(1), events(1))]

    assert [position_key(p) for p in positions] == sorted({position_key(p) for p in positions})
    assert [record.position for record in log.reader.read_range(1, START, positions[-1])] == positions


def test_append_to_an_unknown_shard_stores_nothing(log: Log) -> None:
    """One entry that can't be stored keeps the whole append out."""
    with pytest.raises(LogRefused):
        log.append(events(0), events(SHARDS))

    assert log.reader.read({0: START}, 10, 0) == {}
    assert log.lag(0) == ShardLag(0, 0, 0)


def test_append_of_nothing_is_nothing(log: Log) -> None:
    """An empty append succeeds with no positions."""
    assert log.append() == ()


def test_append_from_many_writers_counts_every_row_once(log: Log) -> None:
    """Appends that overlap in time lose no entry and keep the counters exact."""

    async def many() -> None:
        await asyncio.gather(*(log.writer.append([events(i % SHARDS, i), events(2, 1)]) for i in range(60)))

    log.run(many())

    found = log.reader.read(dict.fromkeys(range(SHARDS), START), 10_000, 0)
    assert sum(record.rows for records in found.values() for record in records) == sum(range(60)) + 60
    assert log.lag(2).appended == sum(record.rows for record in found[2])


def test_read_starts_after_the_position(log: Log) -> None:
    """What lies at the given position is not read again."""
    first, second, third = log.append(events(0, 1, b"1"), events(0, 1, b"2"), events(0, 1, b"3"))

    assert bodies(log.reader.read({0: first}, 10, 0)[0]) == [b"2", b"3"]
    assert log.reader.read({0: third, 1: START}, 10, 0) == {}


def test_read_stops_at_rows_max(log: Log) -> None:
    """A read gives no more rows than asked for, unless the first entry alone has more."""
    log.append(*(events(0, 40) for _ in range(5)), events(1, 900), events(1, 1))

    found = log.reader.read({0: START, 1: START}, 100, 0)

    assert 40 <= sum(record.rows for record in found[0]) <= 100
    assert [record.rows for record in found[1]] == [900]


def test_read_fills_up_with_small_entries(log: Log) -> None:
    """Hundreds of one-row entries come in one read, and none is skipped from read to read."""
    log.append(*(events(0, 1, b"%d" % i) for i in range(500)))

    first = log.reader.read({0: START}, 300, 0)[0]
    second = log.reader.read({0: first[-1].position}, 300, 0)[0]

    assert len(first) == 300
    assert bodies(first + second) == [b"%d" % i for i in range(500)]


def test_read_after_entries_changed_their_size_keeps_the_limit(log: Log) -> None:
    """What a shard's entries were like before does not make a read exceed its rows."""
    small = log.append(*(events(0, 1) for _ in range(100)))
    log.reader.read({0: START}, 100, 0)
    log.append(*(events(0, 60) for _ in range(20)))

    records = log.reader.read({0: small[-1]}, 130, 0)[0]

    assert [record.rows for record in records] == [60, 60]


def test_read_range_includes_its_end_and_not_its_start(log: Log) -> None:
    """(after, to] is what read_range gives, over more entries than one page holds."""
    positions = log.append(*(events(0, 1, b"%d" % i) for i in range(200)))

    assert bodies(log.reader.read_range(0, positions[0], positions[150])) == [b"%d" % i for i in range(1, 151)]
    assert log.reader.read_range(0, positions[7], positions[7]) == []


def test_trim_keeps_what_follows(log: Log) -> None:
    """Trimming forgets entries up to and including the position, no more."""
    positions = log.append(*(events(0, i, b"%d" % i) for i in range(1, 6)))

    log.reader.trim(0, positions[2])

    assert bodies(log.reader.read({0: START}, 100, 0)[0]) == [b"4", b"5"]
    assert log.lag(0) == ShardLag(appended=15, committed=0, held=9)


def test_trim_of_everything_leaves_positions_growing(log: Log) -> None:
    """An emptied shard holds no rows, and its next position is still later than any before."""
    last = log.append(events(0, 3), events(0, 4))[-1]
    log.reader.trim(0, last)
    log.reader.trim(0, last)

    assert log.lag(0).held == 0
    assert position_key(log.append(events(0, 2))[0]) > position_key(last)
    assert log.lag(0) == ShardLag(9, 0, 2)


def test_trim_through_the_start_is_nothing(log: Log) -> None:
    """A shard without a checkpoint loses nothing."""
    log.append(events(0, 3))
    log.reader.trim(0, START)

    assert log.lag(0).held == 3


def test_lag_counts_rows_by_shard(log: Log) -> None:
    """Waiting rows are those appended and not committed, by shard, and control messages have none."""
    log.append(events(0, 10), events(1, 7), LogEntry(0, "control", 0, b"{}"))
    log.reader.mark_committed(0, 4)
    log.reader.mark_committed(0, 6)

    assert log.lag(0) == ShardLag(10, 6, 10) and log.lag(0).waiting == 4
    assert log.lag(1) == ShardLag(7, 0, 7)
    assert set(log.run(log.writer.lag())) == set(range(SHARDS))
    assert log.reader.shards() == SHARDS


def test_committed_rows_told_late_by_a_former_owner_change_nothing(log: Log) -> None:
    """An overtaken worker's smaller number does not hide what its successor has committed."""
    log.append(events(0, 10))
    log.reader.mark_committed(0, 9)
    log.reader.mark_committed(0, 4)

    assert log.lag(0).committed == 9


def test_rows_through_a_position_count_what_is_trimmed(log: Log) -> None:
    """How many rows came up to a position is known whatever of it is still there, and after the last entry."""
    positions = [log.append(events(0, rows))[0] for rows in (3, 4, 5)]
    log.reader.trim(0, positions[0])

    assert [log.reader.rows_through(0, position) for position in (START, *positions)] == [3, 3, 7, 12]
    assert log.reader.rows_through(1, START) == 0


def test_committed_rows_that_the_log_does_not_know_are_told_once(log: Log) -> None:
    """A log that came back without its newest entries says how many booked rows it lost, and counts on behind them."""
    log.append(events(0, 10))

    assert [log.reader.mark_committed(0, rows) for rows in (10, 13, 13)] == [0, 3, 0]
    log.append(events(0, 2))
    assert log.lag(0).appended == 15 and log.lag(0).waiting == 2
    assert log.lag(0).held == 12


# ── memory alone ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_log_fails_as_planned(runner: asyncio.Runner) -> None:
    """A refused or lost append stores nothing, one whose answer is lost is stored, and then all goes well."""
    both = MemoryLog(1, plan=["refuse", "lose_call"])
    both.plan("lose_answer", "none")
    log = Log(both, both, runner.run)

    for body, error in ((b"1", LogRefused), (b"2", LogUnavailable), (b"3", LogUnavailable)):
        with pytest.raises(error):
            log.append(events(0, 1, body))
    log.append(events(0, 1, b"4"))

    assert bodies(log.reader.read({0: START}, 10, 0)[0]) == [b"3", b"4"]


# ── Valkey alone ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_create_with_another_shard_count_is_an_error(server: Valkey) -> None:
    """S is fixed by the first create; the same again is nothing, another is refused by name."""
    prefix = f"test{secrets.token_hex(4)}"
    create(server.url, 4, prefix)
    create(server.url, 4, prefix)

    with pytest.raises(ConfigError, match=r"runtime\.shards: .* 4, not 8"):
        create(server.url, 8, prefix)


def test_create_on_an_evicting_server_is_an_error(own_server: Valkey) -> None:
    """A server that throws away keys when memory is short can't hold a log."""
    with own_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")

    with pytest.raises(ConfigError, match="noeviction"):
        create(own_server.url, SHARDS)


def test_reader_of_a_log_that_nobody_created_says_so(server: Valkey) -> None:
    """A wrong URL or prefix is named as such, not read as an empty log."""
    reader = RedisLogReader(server.url, "nowhere")
    with pytest.raises(ConfigError, match="no log"):
        reader.shards()
    reader.close()


def test_read_that_waits_wakes_up_for_an_entry(own_log: Log, own_server: Valkey) -> None:
    """A waiting read returns when the first entry comes, not at the end of its time."""
    found: dict[int, list[LogRecord]] = {}
    waiting = threading.Thread(target=lambda: found.update(own_log.reader.read({0: START, 1: START}, 10, 5_000)))
    waiting.start()
    with own_server.client() as client:
        while not client.info("clients")["blocked_clients"]:
            pass
    own_log.append(events(1, 1, b"late"))
    waiting.join(timeout=4)

    assert not waiting.is_alive()
    assert bodies(found[1]) == [b"late"]


def test_append_to_a_full_server_is_refused_whole(own_log: Log, own_server: Valkey) -> None:
    """A full server takes nothing of an append, still lets go of what it has, and goes on when there is room."""
    position = own_log.append(events(0, 5, b"before"))[0]
    own_server.full()

    with pytest.raises(LogRefused, match="OOM"):
        own_log.append(events(0, 1, b"refused"), events(1, 1, b"refused"))
    assert bodies(own_log.reader.read({0: START, 1: START}, 10, 0)[0]) == [b"before"]
    assert own_log.lag(0) == ShardLag(5, 0, 5)

    own_log.reader.mark_committed(0, 5)
    own_log.reader.trim(0, position)
    assert own_log.lag(0) == ShardLag(5, 5, 0)

    own_server.roomy()
    own_log.append(events(0, 1, b"after"))
    assert bodies(own_log.reader.read({0: START}, 10, 0)[0]) == [b"after"]


def test_append_refused_never_quotes_the_body(own_log: Log, own_server: Valkey) -> None:
    """The error's text holds the server's code only."""
    own_server.full()
    with pytest.raises(LogRefused) as refused:
        own_log.append(events(0, 1, b"secret-body"))

    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_log_after_sigkill_holds_every_acknowledged_entry(own_log: Log, own_server: Valkey) -> None:
    """A server killed under load comes back with all that it had acknowledged, and with counters that agree."""
    acknowledged: list[tuple[str, bytes]] = []

    async def write(writer: int) -> None:
        for i in range(10_000):
            body = b"%d-%d" % (writer, i)
            try:
                answer = await own_log.writer.append([events(0, 3, body), events(1, 2, body)])
            except LogUnavailable:
                return
            acknowledged.append((answer.positions[0], body))
            if len(acknowledged) == 200:
                own_server.kill()

    async def write_from_many() -> None:
        await asyncio.gather(*(write(writer) for writer in range(8)))

    own_log.run(write_from_many())
    own_server.start_again()

    held = own_log.reader.read({0: START, 1: START}, 10**6, 0)
    assert len(acknowledged) >= 200
    assert set(acknowledged) <= {(record.position, record.body) for record in held[0]}
    assert bodies(held[0]) == bodies(held[1])
    assert own_log.lag(0).appended == 3 * len(held[0]) and own_log.lag(1).appended == 2 * len(held[1])


def test_log_without_a_server_is_unavailable_until_it_is_back(own_log: Log, own_server: Valkey) -> None:
    """Every call says that the log did not answer, and the same objects work again after a restart."""
    own_log.append(events(0, 1, b"before"))
    own_server.kill()

    for call in (lambda: own_log.append(events(0)), lambda: own_log.lag(0), lambda: own_log.reader.trim(0, "5-0")):
        with pytest.raises(LogUnavailable):
            call()
    with pytest.raises(LogUnavailable):
        own_log.reader.read({0: START}, 10, 0)

    own_server.start_again()
    own_log.append(events(0, 1, b"after"))
    assert bodies(own_log.reader.read({0: START}, 10, 0)[0]) == [b"before", b"after"]


@pytest.mark.parametrize(
    ("appendonly", "appendfsync", "named"),
    [("yes", "always", "fsync_always"), ("yes", "everysec", "fsync_everysec"), ("yes", "no", "memory")]
    + [("no", "always", "memory")],
)
def test_durability_is_what_the_server_is_set_to(
    own_log: Log, own_server: Valkey, appendonly: str, appendfsync: str, named: str
) -> None:
    """An append names the server's own durability, read anew for each connection."""
    assert own_log.run(own_log.writer.append([events(0)])).durability == "fsync_always"
    with own_server.client() as client:
        client.config_set("appendfsync", appendfsync)
        client.config_set("appendonly", appendonly)
        client.client_kill_filter(_type="normal", skipme=True)

    with pytest.raises(LogUnavailable):
        own_log.append(events(0))
    assert own_log.run(own_log.writer.append([events(0)])).durability == named


def copied(server: Valkey, replica: Valkey, client: redis.Redis) -> None:
    """Make one the replica of the other, and return when it confirms what is written: first it rewrites its file."""
    with server.client() as primary:
        primary.config_set("repl-diskless-sync-delay", "0")
        client.replicaof("127.0.0.1", server.port)
        for _ in range(REPLICA_TRIES):
            primary.set("written", 1)
            if primary.waitaof(0, 1, 1_000)[1]:
                return
    raise AssertionError(f"the replica on port {replica.port} confirms nothing")


def test_append_with_a_replica_counts_it(
    own_server: Valkey, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a minimum of one replica, the answer comes when the replica holds the entry on its disk."""
    monkeypatch.setattr(redis_streams, "REPLICA_WAIT_MS", 8_000)
    with running_valkey() as replica, replica.client() as client:
        create(own_server.url, SHARDS)
        copied(own_server, replica, client)
        writer = RedisLogWriter(own_server.url, replicas_min=1)
        answer = runner.run(writer.append([events(0, 1, b"copied")]))
        runner.run(close_writer(writer))

        assert answer.replicas == 1
        assert client.xlen("{penstock}:log:0") == 1


def test_append_without_the_replica_it_needs_is_unavailable(
    own_server: Valkey, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few replicas in time: the error names the setting, the entries stay, and a second append repeats them."""
    monkeypatch.setattr(redis_streams, "REPLICA_WAIT_MS", 20)
    create(own_server.url, SHARDS)
    writer = RedisLogWriter(own_server.url, replicas_min=1)

    for _ in range(2):
        with pytest.raises(LogUnavailable, match="log.replicas_min: 0 of 1 replicas"):
            runner.run(writer.append([events(0)]))
    runner.run(close_writer(writer))
    with own_server.client() as client:
        assert client.xlen("{penstock}:log:0") == 2
