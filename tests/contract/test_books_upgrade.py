"""Books of earlier versions are upgraded with all that they hold."""

import hashlib

import pytest
from books_builders import Data, change, effects, emptied, posting, total
from polars.testing import assert_frame_equal
from sqlalchemy import Connection, text

from adapters.books import chain
from adapters.books.chain_check import check
from adapters.books.database import Database
from adapters.books.migrations import upgrade
from runtime.effects import DELTAS
from runtime.errors import BooksUnavailable, ConfigError
from runtime.ports import Books

PLACE = {"shard": 0, "position_ms": 1, "position_seq": 0}
SET = ("set_no", "entity", "currency", "period", "posted_on", "mode", "lane", "kind", "document", "events")
STATUS = ("flow", "status", "kind", "entity", "document", "counterparty", "currency", "source", "event_id", "detail")
LINES = posting(variance='a "word"')


def put(connection: Connection, table: str, row: dict) -> None:
    """Insert a row as an earlier version did."""
    columns, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({marks})"), row)


def fill(connection: Connection) -> None:
    """A commit as the version before this one stored it, and three statuses, the first of them numbered."""
    put(
        connection,
        "owners",
        {"owner": "shard:0", "epoch": 1, "holder": "w1", "rows_total": 7, "committed_at_ms": 5}
        | {name: PLACE[name] for name in ("position_ms", "position_seq")},
    )
    for line in LINES.to_dicts():
        if line["line_no"] == 0:
            put(connection, "posting_sets", {**PLACE, **{name: line[name] for name in SET}, "committed_at_ms": 5})
        put(connection, "posting_lines", {**PLACE, "set_no": 0, **{n: v for n, v in line.items() if n not in SET}})
    digest = hashlib.blake2b(LINES.write_csv().encode(), digest_size=32).hexdigest()
    link = {**PLACE, "after_ms": 0, "after_seq": 0, "row_count": 7, "digest": "x", "postings_digest": digest}
    link["previous"] = chain.BEGIN
    put(connection, "commit_chain", {**link, "hash": chain.commit_hash(link)})
    put(connection, "totals", {"shard": 0, **total("booked", 7, 100).to_dicts()[0]})
    mark = {name: value for name, value in link.items() if name not in ("postings_digest", "previous")}
    put(connection, "commit_marks", mark)
    for number, id in ((1, "s1"), (None, "s3"), (None, "s2")):
        told = {"status_no": number, "status_id": id, "amount_minor": 1, "occurred_at_ms": 1}
        put(connection, "statuses", told | dict.fromkeys(STATUS, ""))


@pytest.fixture
def upgraded(sql_data: Data) -> Books:
    emptied(sql_data.url, "0006")
    database = Database(sql_data.url)
    with database.writing() as connection:
        fill(connection)
    database.close()
    upgrade(sql_data.url)
    return sql_data.open()


def test_upgrade_keeps_posting_lines(upgraded: Books) -> None:
    """Lines that had rows of their own are read as before, and wait for an entry."""
    assert_frame_equal(upgraded.posting_of(0, "1-0", 0).select(*DELTAS), LINES)
    assert_frame_equal(upgraded.unclaimed(["north"], 10).select(*DELTAS), LINES)


def test_upgrade_keeps_the_chain(upgraded: Books, sql_data: Data) -> None:
    """A commit whose digest was of lines is found whole, changed when its lines are, and new ones follow it."""
    upgraded.commit(0, 1, "1-0", "2-0", 3, effects(posting()))
    assert check(sql_data.url).whole
    change(sql_data.url, "UPDATE posting_sets SET lines = REPLACE(lines, '100]', '101]') WHERE position_ms = 1")
    assert [(one.row, one.what) for one in check(sql_data.url).breaks] == [("1-0", "changed")]
    change(sql_data.url, "UPDATE posting_sets SET lines = 'gone' WHERE position_ms = 1")
    assert [(one.row, one.what) for one in check(sql_data.url).breaks] == [("1-0", "changed")]


def test_upgrade_keeps_control_totals(upgraded: Books) -> None:
    """What earlier commits added is there, and marks that keep nothing are told like others."""
    assert_frame_equal(upgraded.totals(), total("booked", 7, 100))
    assert [mark.position for mark in upgraded.commits(0, "0-0")] == ["1-0"]


def test_upgrade_numbers_statuses_that_had_none(upgraded: Books) -> None:
    """Statuses keep their numbers; those that waited for one come next, oldest first."""
    assert upgraded.statuses(0, 10).select("status_no", "status_id").rows() == [(1, "s1"), (2, "s3"), (3, "s2")]


def test_file_that_is_no_database_is_told_as_books_that_do_not_answer(tmp_path):
    """So does one that was damaged: a command ends with a sentence."""
    (tmp_path / "books.sqlite").write_text("not a database, but long enough to look like something" * 50)
    with pytest.raises(BooksUnavailable, match="file is not a database"):
        upgrade(f"sqlite:///{tmp_path / 'books.sqlite'}")


def test_books_of_a_newer_version_are_left_alone(sql_data: Data) -> None:
    """An older one can't know what they hold; the error says which to use."""
    database = Database(sql_data.url)
    known = "SELECT version_num FROM alembic_version"
    [(head,)] = database.rows(text(known))
    change(sql_data.url, "UPDATE alembic_version SET version_num = '9999'")
    try:
        with pytest.raises(ConfigError, match="newer version"):
            upgrade(sql_data.url)
        assert database.rows(text(known)) == [("9999",)]
    finally:
        change(sql_data.url, f"UPDATE alembic_version SET version_num = '{head}'")
        database.close()
