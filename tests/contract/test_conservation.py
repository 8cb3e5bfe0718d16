"""Books of every kind say where they contradict themselves, as long as they do, without reading all history again."""

import polars as pl
import pytest
from books_builders import ERP, Data, change, commit_sets, effects, entry, posting, total
from sqlalchemy import event

from adapters.books.instant import at_one_instant
from adapters.books.sql import SqlBooks
from runtime.ports import Books, JournalLine

SETS_MAX = 100


def causes(books: Books) -> list[str]:
    """What each break is of."""
    return [one.cause.partition(":")[0] for one in books.conservation_breaks(SETS_MAX)]


def filled(books: Books) -> Books:
    """Two shards, totals that add up, and an entry over two sets."""
    first = commit_sets(books, posting(0), posting(1, 250))
    commit_sets(books, posting(0), shard=1)
    lease = books.take_epoch("shard:0", "w2")
    kept = [total("accepted", 3, 300), total("booked", 2, 200), total("pending", 1, 100), total("duplicate", 9, 900)]
    books.commit(0, lease.epoch, first, "2-0", 3, effects(totals=pl.concat(kept)))
    lines = tuple(JournalLine(code, side, 350, "F1", "D1", "charge_posted, 7 events") for code, side in ACCOUNTS)
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("north-1", (0, first, 0), (0, first, 1), lines=lines)])
    return books


ACCOUNTS = (("1100", "D"), ("4000", "C"))


def test_conservation_of_right_books_has_no_breaks(books: Books) -> None:
    """What a step, a sealing and an empty database leave behind adds up, however often it is looked at."""
    assert causes(books) == []
    filled(books)
    assert causes(books) == causes(books) == []


def test_conservation_of_totals_that_lose_an_event_names_the_key(books: Books) -> None:
    """An accepted event that is nowhere is a break of its source, facility, currency and kind until it is somewhere."""
    filled(books)
    lease = books.take_epoch("shard:0", "w3")
    books.commit(0, lease.epoch, "2-0", "3-0", 1, effects(totals=total("accepted", 1, 40)))

    [found] = books.conservation_breaks(SETS_MAX)

    assert found.cause == "totals:ehr/north/F1/USD/charge_posted"
    assert "1 events and 40 minor units" in found.detail
    lease = books.take_epoch("shard:0", "w4")
    books.commit(0, lease.epoch, "3-0", "4-0", 0, effects(totals=total("excluded", 1, 40)))
    assert causes(books) == []


def test_conservation_of_a_set_that_does_not_balance_is_told_until_it_does(books: Books) -> None:
    """An unbalanced posting set is named again at each look, and hides no break of another shard."""
    filled(books)
    assert causes(books) == []
    unbalanced = posting(0).with_columns(pl.when(pl.col("side") == "D").then(99).otherwise(100).alias("amount_minor"))
    commit_sets(books, unbalanced.cast(posting(0).schema), shard=1)
    assert causes(books) == causes(books) == ["posting_set"]


def test_conservation_of_an_entry_that_is_not_the_sum_of_its_sets_is_told(books: Books) -> None:
    """An entry whose lines say something else than the sets that it names is a break."""
    filled(books)
    place = commit_sets(books, posting(0, 500), shard=2)
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("north-2", (2, place, 0))])
    assert causes(books) == causes(books) == ["entry"]


# ── what only a database can show ──


@pytest.fixture
def looked(sql_data: Data) -> SqlBooks:
    books = sql_data.open()
    filled(books)
    assert causes(books) == []
    return books


def test_conservation_of_a_set_without_lines_is_a_break(sql_data: Data) -> None:
    """A posting set whose lines are gone does not count as balanced."""
    filled(sql_data.open())
    change(sql_data.url, "UPDATE posting_sets SET lines = '[]' WHERE shard = 1")
    assert causes(sql_data.open()) == ["posting_set"]


def test_conservation_goes_on_where_it_stopped_in_another_process(looked: SqlBooks, sql_data: Data) -> None:
    """Where all was right is remembered in the database: a new supervisor does not read history again."""
    change(sql_data.url, "UPDATE posting_sets SET lines = REPLACE(lines, '\"D\",100]', '\"D\",1]') WHERE shard = 1")
    assert causes(sql_data.open()) == []
    change(sql_data.url, "DELETE FROM conservation_marks")
    assert causes(sql_data.open()) == ["posting_set"]


def test_conservation_takes_a_long_history_in_parts(sql_data: Data) -> None:
    """A round looks at so many sets; the next one goes on, and finds what lies further on."""
    books = sql_data.open()
    for n in range(6):
        commit_sets(books, posting(0), posting(1, 10 + n))
    wrong = """REPLACE(lines, '"D",15]', '"D",7]')"""
    change(sql_data.url, f"UPDATE posting_sets SET lines = {wrong} WHERE position_ms = 6 AND set_no = 1")
    rounds = [[one.cause for one in books.conservation_breaks(4)] for _ in range(4)]
    assert rounds[0] == [] and rounds[-1] == ["posting_set:shard 0, commit 6-0, set 1"]


def test_conservation_without_news_writes_nothing(looked: SqlBooks) -> None:
    """A look that finds nothing new takes no write lock."""
    written = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            written.append(statement)

    event.listen(looked._database.engine, "before_cursor_execute", note)
    assert causes(looked) == [] and written == []


def test_conservation_of_an_entry_over_very_many_sets_is_looked_at(sql_data: Data) -> None:
    """When an ERP was slow, an entry sums more sets than one statement can name; all of them are read."""
    books, count = sql_data.open(), 20_000
    lines_of_all = pl.concat([posting(0)] * count)
    many = lines_of_all.with_columns((pl.int_range(pl.len()) // 2).cast(pl.Int32()).alias("set_no"))
    first = commit_sets(books, many)
    lines = tuple(JournalLine(code, side, 100 * count, "F1", "D1", "charge_posted") for code, side in ACCOUNTS)
    epoch = books.take_epoch(ERP, "poster").epoch
    folded = entry("north-1", *((0, first, set_no) for set_no in range(count)), lines=lines)
    books.seal(ERP, epoch, [folded])
    assert books.conservation_breaks(count) == []
    with at_one_instant(sql_data.url) as instant:
        assert sorted(instant.lines_of([folded])["amount_minor"]) == [100 * count] * 2
    change(sql_data.url, "UPDATE posting_sets SET lines = REPLACE(lines, ',100]', ',101]') WHERE set_no = 19999")
    change(sql_data.url, "DELETE FROM conservation_marks")
    assert causes(books) == ["entry"]
