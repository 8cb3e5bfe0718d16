"""Copies that are made while everything goes on, and what goes on from them: nothing lost, nothing sent twice."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest
import redis
from books_builders import Data, effects
from recorded import Recorded, filled
from small_log import event, events
from valkey_fixture import running_valkey

from actors.cli.verification import verify
from actors.consumer import Consumer
from adapters.archive import copying as archive_copying
from adapters.archive.parquet import ParquetArchive
from adapters.books import chain_check
from adapters.books import copying as books_copying
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.log import copying as log_copying
from adapters.log.redis_streams import RedisLogReader, RedisLogWriter, create
from adapters.outlets.memory import MemoryOutlet
from runtime.effects import STATUSES
from runtime.errors import ConfigError, LogUnavailable
from runtime.ports import CopiedShard, LogEntry, NoMetrics, Outcome

NOW_MS = 1_790_000_999_000


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    with running_valkey() as server:
        yield server.url


@pytest.fixture
def target(request: pytest.FixtureRequest, sql_data: Data, tmp_path: Path) -> str:
    """The address of an empty database of the same sort."""
    if sql_data.url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'made' / 'books.sqlite'}"
    return request.getfixturevalue("postgres").copy()


@pytest.fixture
def recorded(sql_data: Data, tmp_path: Path) -> Recorded:
    return filled(sql_data.url, tmp_path / "archive")


def restored(recorded: Recorded, folder: Path, target: str, stands: list[CopiedShard]) -> Recorded:
    """Another Penstock from the copy, over the same log and ERP."""
    archive_copying.copy(folder.parent / "archive", folder / "archive", stands)
    books_copying.restore(folder / "books", target, NOW_MS, "test")
    again = Recorded(target, folder / "archive")
    again.log, again.erp, again.clock = recorded.log, recorded.erp, recorded.clock
    return again


def contents(url: str) -> tuple:
    """What must be the same in a copy."""
    books = SqlBooks(url)
    exceptions = books.exceptions(state="").drop("raised_at", "resolved_at").rows()
    changes, postings = books.changes().rows(), [page.drop("entry_state").rows() for page in books.posting_pages(1000)]
    found = books.totals().rows(), postings, sorted(exceptions), changes, books.shard_rows().rows(), books.closes()
    books.close()
    return found


def test_restored_books_hold_what_was_copied(recorded: Recorded, tmp_path: Path, target: str) -> None:
    """Totals, postings, exceptions, places of shards and the audit trail are those of the instant of the copy."""
    before = contents(recorded.url)
    stands = books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    recorded.append(events(0, event("later", "charge_posted", 5)))
    recorded.work()
    books_copying.restore(tmp_path / "copy" / "books", target, NOW_MS, "test")

    assert contents(target) == before
    assert chain_check.check(target).breaks == []
    assert {stand.shard for stand in stands} == {0, 1} and all(stand.snapshot for stand in stands)
    assert sum(stand.rows_committed for stand in stands) == 27


def test_restore_over_books_is_refused(recorded: Recorded, tmp_path: Path, target: str) -> None:
    """Books that are there are never written over, and another sort of database is named."""
    books_copying.copy(recorded.url, tmp_path / "copy")
    books_copying.restore(tmp_path / "copy", target, NOW_MS, "test")
    with pytest.raises(ConfigError, match=r"books\.url"):
        books_copying.restore(tmp_path / "copy", target, NOW_MS, "test")
    other = "postgresql://nobody@localhost/none" if target.startswith("sqlite") else f"sqlite:///{tmp_path}/x.db"
    with pytest.raises(ConfigError, match="another sort"):
        books_copying.restore(tmp_path / "copy", other, NOW_MS, "test")


def test_restored_penstock_goes_on_with_the_log_and_verifies(recorded: Recorded, tmp_path: Path, target: str) -> None:
    """What was in the log and not in the copied books is booked, once; then everything agrees."""
    recorded.log.held = True
    recorded.append(events(0, event("n1", "charge_posted", 11)), events(1, event("n2", "charge_posted", 12)))
    recorded.work(checkpoint=False)
    recorded.append(events(0, event("n3", "charge_posted", 13)))
    stands = books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    recorded.work()
    again = restored(recorded, tmp_path / "copy", target, stands)
    recorded.log.held = False

    again.work()
    again.clock.sleep(60)
    again.post()

    result = verify(again.sources(), again.erp)
    assert result.differences == [] and result.uncovered == []
    assert result.counts["events"] == 30
    assert contents(target)[0] == contents(recorded.url)[0]


def test_entry_sealed_at_the_copy_and_posted_since_is_looked_up(
    recorded: Recorded, tmp_path: Path, target: str
) -> None:
    """What the ERP was sent between the copy and the loss is found by its key, and not sent again."""
    recorded.append(events(0, event("n1", "charge_posted", 11)))
    recorded.work()
    recorded.erp.state = "stopped"
    recorded.post()
    stands = books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    recorded.erp.state = "up"
    recorded.clock.sleep(3600)
    recorded.post()
    sent = [entry.key for _, entry in recorded.erp.moves]
    again = restored(recorded, tmp_path / "copy", target, stands)

    again.clock.sleep(60)
    again.post()

    assert [entry.key for _, entry in again.erp.moves] == sent
    assert len(sent) == len(set(sent)) == 3
    assert SqlBooks(target).entry_counts() == {"posted": 3}
    assert verify(again.sources(), again.erp).right


@pytest.mark.parametrize("mended", [True, False])
def test_entry_rejected_at_the_copy_is_looked_up_before_it_is_tried_again(
    recorded: Recorded, tmp_path: Path, target: str, mended: bool
) -> None:
    """A rejection that was mended between the copy and the loss is not tried again beside what was posted then; one
    that was not is rejected still, and the audit trail tells of both."""
    recorded.append(events(0, event("n1", "charge_posted", 11)))
    recorded.work()
    recorded.erp.state = "stopped"
    recorded.post()
    books = SqlBooks(recorded.url)
    [key] = [delivery.entry.key for delivery in books.deliveries(["mercy"], ["sealed"], 10)]
    books.record_outcomes("erp:main", books.take_epoch("erp:main", "test").epoch, [Outcome(key, "rejected")])
    stands = books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    recorded.erp.state = "up"
    recorded.erp.plan(*([] if mended else [f"reject:{key}"]))
    books.release_entry(key, "ana")
    recorded.clock.sleep(3600)
    recorded.post()
    sent = [entry.key for _, entry in recorded.erp.moves]
    again = restored(recorded, tmp_path / "copy", target, stands)

    again.clock.sleep(3600)
    again.post()

    assert [entry.key for _, entry in again.erp.moves] == sent
    assert sent.count(key) == mended
    assert SqlBooks(target).delivery_of(key).state == ("posted" if mended else "rejected")
    assert SqlBooks(target).exception_counts().get("erp_rejected", 0) == (not mended)
    assert chain_check.check(target).breaks == []


def test_status_after_a_restore_has_a_number_that_no_consumer_has_seen(
    recorded: Recorded, tmp_path: Path, target: str
) -> None:
    """What was told since the copy is not mistaken for what is told later: consumers go on behind it, and miss
    nothing."""
    outlet, calls, books = MemoryOutlet(), ThreadPoolExecutor(1), SqlBooks(recorded.url)
    tell(books, "s1", "s2")
    books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    tell(books, "s3", "s4", "s5")
    hear(outlet, books, calls)
    books_copying.restore(tmp_path / "copy" / "books", target, NOW_MS, "test")
    again = SqlBooks(target)
    tell(again, "n1", "n2", "n3", "n4")
    hear(outlet, again, calls)
    told = [msgspec.json.decode(status.body)["status_id"] for status in outlet.entries]
    assert told == ["s1", "s2", "s3", "s4", "s5", "n1", "n2", "n3", "n4"]
    assert again.exception_counts().get("consumer_stopped", 0) == 0
    calls.shutdown()


def tell(books: SqlBooks, *ids: str) -> None:
    """Commit these statuses, and give them numbers."""
    row = dict.fromkeys(STATUSES, "") | {"status": "received", "amount_minor": 5, "occurred_at": datetime.now(UTC)}
    statuses = pl.DataFrame([row | {"status_id": id} for id in ids], schema=STATUSES)
    lease = books.take_epoch("shard:9", "w")
    position = f"{int(lease.position.partition('-')[0]) + 1}-0"
    books.commit(9, lease.epoch, lease.position, position, 1, effects(statuses=statuses))
    books.number_statuses("relay", books.take_epoch("relay", "r").epoch, 100)


def hear(outlet: MemoryOutlet, books: SqlBooks, calls: ThreadPoolExecutor) -> None:
    """Bring a consumer all that is new."""
    parts = {"calls": calls, "books": books, "clock": WallClock(), "metrics": NoMetrics()}
    consumer = Consumer("payables", [], outlet, **parts)
    for _ in range(3):
        consumer.advance(lambda after: books.statuses(after, 100))
        calls.submit(int).result()  # behind the call that was begun


def test_entry_sealed_after_the_copy_gets_another_number_and_is_named(
    recorded: Recorded, tmp_path: Path, target: str
) -> None:
    """What the ERP was sent under numbers that the copy does not know is never mistaken for something else: verify
    names the document to reverse."""
    recorded.append(events(0, event("n1", "charge_posted", 11)))
    recorded.work()
    stands = books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    recorded.post()
    lost = recorded.erp.moves[-1][1].key
    again = restored(recorded, tmp_path / "copy", target, stands)
    again.clock.sleep(60)
    again.post()

    found = verify(again.sources(), again.erp).differences
    assert [one.key for one in found if one.what.startswith("ERP document")] == [lost]
    assert again.erp.moves[-1][1].key != lost


# ── the log ──


def append(url: str, count: int, prefix: str) -> list[str]:
    """Append entries of 3 rows, one after another; their positions."""

    async def run() -> list[str]:
        writer = RedisLogWriter(url, prefix)
        entries = [LogEntry(0, "events", 3, bytes([n])) for n in range(count)]
        positions = [(await writer.append([entry])).positions[0] for entry in entries]
        await writer.close()
        return positions

    return asyncio.run(run())


def lag(url: str, prefix: str) -> list[tuple]:
    """Each shard's counters."""

    async def run() -> list[tuple]:
        writer = RedisLogWriter(url, prefix)
        found = await writer.lag()
        await writer.close()
        return [tuple(found[shard]) for shard in sorted(found)]

    return asyncio.run(run())


def test_log_that_is_held_forgets_nothing_until_it_is_let_go(valkey: str) -> None:
    """While a copy is made nothing is trimmed, a second copy is refused, and afterwards trimming goes on."""
    create(valkey, 1, "held")
    first, *_ = append(valkey, 3, "held")
    reader = RedisLogReader(valkey, "held")
    with log_copying.held(valkey, "held"):
        assert reader.is_held()
        reader.trim(0, first)
        assert len(reader.read_range(0, "0-0", "+")) == 3
        with pytest.raises(ConfigError, match="under way"), log_copying.held(valkey, "held"):
            pass
    assert not reader.is_held()
    reader.trim(0, first)
    assert len(reader.read_range(0, "0-0", "+")) == 2
    reader.close()


def test_log_whose_hold_was_lost_fails_the_copy(valkey: str) -> None:
    """A copy during which trimming was possible again is not taken for a whole one."""
    create(valkey, 1, "lost")
    client = redis.Redis.from_url(valkey)
    with pytest.raises(LogUnavailable, match="again"), log_copying.held(valkey, "lost"):
        client.delete("{lost}:log:hold")
    client.close()


def test_log_filled_from_a_copy_is_the_same_log(valkey: str) -> None:
    """Positions, bodies and counters after the checkpoint are what they were, and new ones come after."""
    create(valkey, 2, "whole")
    positions = append(valkey, 6, "whole")
    reader = RedisLogReader(valkey, "whole")
    reader.mark_committed(0, 12)
    reader.trim(0, positions[1])
    end = log_copying.ends(valkey, 2, "whole")
    assert end == {0: positions[-1], 1: "0-0"}
    pages = list(log_copying.copied(reader, 0, positions[1], end[0]))
    before = reader.read_range(0, "0-0", "+"), lag(valkey, "whole")

    filler = log_copying.LogFiller(valkey, 2, "again")
    assert filler.fill(CopiedShard(0, positions[3], positions[1], "s", 6, 12), pages) == 12
    assert filler.fill(CopiedShard(1, "0-0", "0-0", "", 0, 0), []) == 0

    copy = RedisLogReader(valkey, "again")
    assert (copy.read_range(0, "0-0", "+"), lag(valkey, "again")) == before
    assert append(valkey, 1, "again") > positions[-1:]
    with pytest.raises(ConfigError, match="empty"):
        log_copying.LogFiller(valkey, 2, "again")
    for one in (reader, copy, filler):
        one.close()


def test_log_filled_with_nothing_goes_on_after_the_committed_position(valkey: str) -> None:
    """A shard whose entries were all checkpointed gets no position that it has had already."""
    filler = log_copying.LogFiller(valkey, 1, "bare")
    filler.fill(CopiedShard(0, "9999999999999-4", "9999999999999-4", "s", 40, 40), [])
    assert append(valkey, 1, "bare") == ["9999999999999-5"]
    assert lag(valkey, "bare") == [(43, 40, 3)]
    filler.close()


def test_archive_copy_leaves_out_what_the_books_do_not_know(recorded: Recorded, tmp_path: Path) -> None:
    """Segments after the checkpoint of the copied books stay behind: they tell of another future."""
    stands = books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    before = recorded.archive.scan().collect().height
    recorded.log.held = True
    recorded.append(events(0, event("later", "charge_posted", 5)))
    recorded.work()

    archive_copying.copy(tmp_path / "archive", tmp_path / "copy" / "archive", stands)

    assert ParquetArchive(tmp_path / "copy" / "archive").scan().collect().height == before
