"""A PostgreSQL session that stops in the middle of a transaction: it loses that, and nobody waits for its locks."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from books_builders import ERP, commit_sets, posting, sealed
from sqlalchemy import text

from adapters.books import database
from adapters.books.sql import SqlBooks
from runtime.errors import BooksUnavailable
from runtime.ports import START, Outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """A database in PostgreSQL."""
    return request.getfixturevalue("postgres").copy()


@pytest.fixture
def books(url: str) -> Iterator[SqlBooks]:
    """Its books."""
    opened = SqlBooks(url)
    yield opened
    opened.close()


@pytest.fixture
def frozen(url: str) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Start an owner, and return when it has stopped in the middle of its commit."""
    started = []

    def start(where: str) -> subprocess.Popen:
        program = Path(__file__).with_name("frozen_owner.py")
        places = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto"), str(program.parent)])}
        command = [sys.executable, str(program), url, where]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | places))
        assert started[0].stdout.readline() == "stops\n"
        return started[0]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("where", ["between", "within"])
def test_successor_of_an_owner_that_is_frozen_in_its_commit_goes_on(
    frozen: Callable[[str], subprocess.Popen], books: SqlBooks, where: str
) -> None:
    """It takes over at once, wherever the other stopped; that one's commit is undone, and awakened it is fenced."""
    former = frozen(where)
    lease = books.take_epoch("shard:0", "second")
    assert lease.position == START
    commit_sets(books, posting(0, 250))
    former.send_signal(signal.SIGCONT)
    said, _ = former.communicate(timeout=60)
    assert said.split() == ["BooksUnavailable", "Fenced"]
    assert books.balances()["debit_minor"].sum() == 250


def test_former_owner_does_not_end_its_successors_transaction(
    frozen: Callable[[str], subprocess.Popen], books: SqlBooks, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Whoever was overtaken may not take over again, so it ends nobody: it waits for the lock until it gives up."""
    monkeypatch.setattr(database, "LOCK_WAIT_S", 1)
    overtaken = SqlBooks(url)
    overtaken.take_epoch("shard:0", "overtaken")
    newest = frozen("between")
    with pytest.raises(BooksUnavailable, match="LockNotAvailable"):
        overtaken.take_epoch("shard:0", "overtaken", again=True)
    overtaken.close()
    newest.send_signal(signal.SIGCONT)
    said, _ = newest.communicate(timeout=60)
    assert said == ""
    assert books.balances()["debit_minor"].sum() == 100


def test_session_that_stands_still_in_a_transaction_loses_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while its locks are gone, whatever they are on, and it is told that the books did not answer."""
    monkeypatch.setattr(database, "IDLE_IN_TRANSACTION_S", 1)
    still, other = database.Database(url), database.Database(url)
    counted = "INSERT INTO counters (name, value) VALUES ('n', 1) ON CONFLICT (name) DO UPDATE SET value = 2"
    with pytest.raises(BooksUnavailable, match="idle"), still.writing() as connection:
        connection.execute(text(counted))
        with other.writing() as waiting:
            waiting.execute(text(counted))
        connection.execute(text(counted))
    with still.reading() as connection:
        assert connection.scalar(text("SELECT value FROM counters WHERE name = 'n'")) == 1
    still.close()
    other.close()


def test_reader_of_a_snapshot_may_take_its_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads page by page holds nobody up, and may think between two pages."""
    monkeypatch.setattr(database, "IDLE_IN_TRANSACTION_S", 1)
    reader = database.Database(url)
    shown = "SHOW idle_in_transaction_session_timeout"
    with reader.reading() as connection:
        assert connection.scalar(text(shown)) == "1s"
    with reader.snapshot() as connection:
        assert connection.scalar(text(shown)) == "0"
    reader.close()


def test_outcome_that_is_recorded_again_waits_for_who_replaces_the_entry(books: SqlBooks, url: str) -> None:
    """What somebody replaces just now is not rejected again by an outcome that looked before: it could else be sent
    beside what stands in its place."""
    epoch = sealed(books, "J1")
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected")])
    again = threading.Thread(target=books.record_outcomes, args=(ERP, epoch, [Outcome("J1", "rejected")]))
    person = database.Database(url)
    with person.writing() as connection:
        connection.execute(text("UPDATE entries SET state = 'replaced' WHERE key = 'J1'"))
        again.start()
        while again.is_alive() and not person.rows(text("SELECT 1 FROM pg_locks WHERE NOT granted")):
            time.sleep(0.01)
    again.join(timeout=10)
    person.close()
    assert books.delivery_of("J1").state == "replaced"
