"""Turns: SQLite has one writer, and others wait for theirs."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection

from adapters.books import database
from adapters.books.database import Database
from runtime.errors import BooksUnavailable


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with one table of notes."""
    place = f"sqlite:///{tmp_path / 'books.sqlite'}"
    with opened(place).writing() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (text TEXT)")
    return place


def opened(url: str) -> Database:
    return Database(url)


def note(connection: Connection, text: str) -> None:
    connection.exec_driver_sql("INSERT INTO notes VALUES (?)", (text,))


def notes(url: str) -> list[str]:
    with opened(url).reading() as connection:
        return list(connection.exec_driver_sql("SELECT text FROM notes ORDER BY rowid").scalars())


def test_turns_writer_waits_for_the_other_one(url: str) -> None:
    """A second writer goes on when the first has ended, with the timeout that other statements have as it was."""
    waiting = threading.Event()

    def write() -> None:
        waiting.set()
        with opened(url).writing() as connection:
            note(connection, "second")
            timeouts.append(connection.exec_driver_sql("PRAGMA busy_timeout").scalar())

    timeouts: list[int] = []
    other = threading.Thread(target=write)
    with opened(url).writing() as connection:
        note(connection, "first")
        other.start()
        waiting.wait(timeout=10)
        other.join(timeout=0.05)
        assert other.is_alive()
    other.join(timeout=10)

    assert notes(url) == ["first", "second"]
    assert timeouts == [database.BUSY_TIMEOUT_S * 1000]


def test_turns_writer_that_never_ends_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that a writer waits, the books are unavailable, and nothing is written."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with opened(url).writing() as connection:
        note(connection, "first")
        with pytest.raises(BooksUnavailable), opened(url).writing() as late:
            note(late, "second")

    assert notes(url) == ["first"]
