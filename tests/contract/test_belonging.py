"""Log, archive and books are looked at before anything starts on them: what does not belong together is refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from books_builders import Data
from recorded import Recorded, filled
from small_log import event, events
from valkey_fixture import running_valkey

from actors.cli import belonging, copies
from actors.cli.copies import Manifest, restore
from actors.cli.installation import Installation
from adapters.books import copying as books_copying
from adapters.books.migrations import upgrade
from adapters.log import copying as log_copying
from adapters.log.redis_streams import RedisLogWriter, create
from runtime.config import parse
from runtime.errors import ConfigError
from runtime.ports import CopiedShard, LogEntry, position_key

SHARDS = 2


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    with running_valkey() as server:
        yield server.url


@pytest.fixture
def recorded(sql_data: Data, tmp_path: Path) -> Recorded:
    return filled(sql_data.url, tmp_path / "archive")


@pytest.fixture
def log(valkey: str, recorded: Recorded) -> str:
    """The log that these books go on from: all of it is checkpointed and trimmed."""
    emptied(valkey)
    put_back(valkey, books_copying.stands(recorded.url))
    return valkey


def put_back(url: str, stands: list[CopiedShard]) -> None:
    """Fill an empty log with counters alone."""
    filler = log_copying.LogFiller(url, SHARDS)
    for stand in stands:
        filler.fill(stand, [])
    filler.close()


def emptied(url: str) -> None:
    """A server whose data is gone."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


def append(url: str, *entries: LogEntry) -> tuple[str, ...]:
    """Append to the log; where."""

    async def run() -> tuple[str, ...]:
        writer = RedisLogWriter(url)
        try:
            return (await writer.append(entries)).positions
        finally:
            await writer.close()

    return asyncio.run(run())


def check(url: str, recorded: Recorded, folder: Path, *, accept_loss: bool = False) -> None:
    """Look, as `penstock up` does."""
    belonging.check(url, recorded.url, folder / "archive", SHARDS, accept_loss=accept_loss)


def test_log_that_the_books_go_on_from_is_taken(log: str, recorded: Recorded, tmp_path: Path) -> None:
    """As it was left, and with entries that nobody has taken yet."""
    check(log, recorded, tmp_path)
    append(log, LogEntry(0, "events", 3, b"x"), LogEntry(1, "control", 0, b"{}"))
    check(log, recorded, tmp_path)


def test_log_that_was_emptied_is_refused_until_its_loss_is_accepted(log: str, recorded: Recorded, tmp_path) -> None:
    """The error names the shard, what is missing and what to do; then entries come behind where the books stand."""
    emptied(log)
    create(log, SHARDS)
    with pytest.raises(ConfigError, match=r"shard 0: the log knows of 0 rows, the books took \d+ .* up --accept-loss"):
        check(log, recorded, tmp_path)
    check(log, recorded, tmp_path, accept_loss=True)
    stood = [stand.position for stand in books_copying.stands(recorded.url)]
    found = append(log, *(LogEntry(shard, "events", 1, b"x") for shard in range(SHARDS)))
    assert all(position_key(new) > position_key(old) for new, old in zip(found, stood, strict=True))
    check(log, recorded, tmp_path, accept_loss=True)


def test_log_that_lost_what_no_checkpoint_holds_is_refused_always(log: str, recorded: Recorded, tmp_path) -> None:
    """A shard that must replay what is gone can't go on, whoever accepts that."""
    recorded.append(events(0, event("late", "charge_posted", 5)))
    recorded.work(checkpoint=False)
    with pytest.raises(ConfigError, match=r"shard 0: .* since its checkpoint; .* penstock restore"):
        check(log, recorded, tmp_path, accept_loss=True)


def test_log_that_is_ahead_of_what_the_books_took_is_refused(log: str, recorded: Recorded, tmp_path: Path) -> None:
    """Older books, or another Penstock's: what lies between them and the log's first entry is nowhere."""
    newer = [
        stand._replace(rows_checkpointed=stand.rows_checkpointed + 3, rows_committed=stand.rows_committed + 3)
        for stand in books_copying.stands(recorded.url)
    ]
    emptied(log)
    put_back(log, newer)
    with pytest.raises(ConfigError, match=r"shard 0: the log no longer has 3 rows .* older, or another"):
        check(log, recorded, tmp_path, accept_loss=True)


def test_empty_books_beside_an_archive_are_refused(recorded: Recorded, valkey: str, tmp_path: Path) -> None:
    """A books.url that names another database would otherwise begin anew, over what others wrote."""
    emptied(valkey)
    create(valkey, SHARDS)
    fresh = f"sqlite:///{tmp_path / 'fresh.sqlite'}"
    upgrade(fresh)
    with pytest.raises(ConfigError, match=r"books\.url: .* the archive is not"):
        belonging.check(valkey, fresh, tmp_path / "archive", SHARDS)
    belonging.check(valkey, fresh, tmp_path / "none", SHARDS)


class KilledError(BaseException):
    """The process dies here."""


def test_restore_that_was_cut_short_is_neither_started_nor_gone_on_with(tmp_path: Path, monkeypatch) -> None:
    """Half an archive beside half a log would pass for a Penstock that has just begun."""
    copy, data = tmp_path / "copy", tmp_path / "data"
    (copy / "books").mkdir(parents=True)
    upgrade(f"sqlite:///{copy / 'books' / books_copying.SQLITE_FILE}")
    manifest = Manifest(form=1, began_ms=0, ended_ms=0, shards=SHARDS, stands=[], log_ends={}, heads={}, files={})
    (copy / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    given = {"runtime": {"data_dir": str(data), "shards": SHARDS}, "erp": {"kind": "none"}}
    config = parse(given | {"entities": {"mercy": {"name": "Mercy", "opens_on": "2026-07-01"}}})

    def die(*_given: object) -> int:
        raise KilledError

    with monkeypatch.context() as dying, pytest.raises(KilledError):
        dying.setattr(copies, "_fill_log", die)
        restore(config, copy, print)
    for command in (lambda: Installation(config).up(pytest.fail), lambda: restore(config, copy, print)):
        with pytest.raises(ConfigError, match="cut short; run penstock down, empty it"):
            command()


def test_restore_over_books_leaves_nothing_behind(recorded: Recorded, tmp_path: Path) -> None:
    """That there are books already is found out before archive and log are filled."""
    stands = books_copying.copy(recorded.url, tmp_path / "copy" / "books")
    shape = {"form": 1, "began_ms": 0, "ended_ms": 0, "shards": SHARDS, "log_ends": {}, "heads": {}, "files": {}}
    (tmp_path / "copy" / "manifest.json").write_bytes(msgspec.json.encode(Manifest(stands=stands, **shape)))
    given = {"runtime": {"data_dir": str(tmp_path / "data"), "shards": SHARDS}, "books": {"url": recorded.url}}
    config = parse(given | {"entities": {"mercy": {"name": "Mercy", "opens_on": "2026-07-01"}}})
    with pytest.raises(ConfigError, match=r"books\.url"):
        restore(config, tmp_path / "copy", print)
    assert not (tmp_path / "data").exists()
