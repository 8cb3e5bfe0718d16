"""Long reads from the books, a page at a time.

Owns where the next page begins. A page is found by its key, so that the memory of a read is that of one page however
long the history is. Never opens a transaction: all pages of a read belong to the one that it is given.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import polars as pl
from sqlalchemy import Connection, Row, Select

from adapters.books import frames, queries
from adapters.books.posting_rows import unpacked
from runtime.ports import position_key

Page = Callable[[queries.SetKey, int], Select]  # the first sets after a place


def posting_pages(connection: Connection, sets_max: int) -> Iterator[pl.DataFrame]:
    """Columns POSTING_PAGE, up to `sets_max` whole sets a page."""
    return _unpacked(_pages(connection, sets_max))


def postings_of(connection: Connection, shard: int, sets_max: int) -> Iterator[pl.DataFrame]:
    """As `posting_pages`, of one shard."""
    return _unpacked(_of_shard(_pages(connection, sets_max, queries.before_shard(shard)), shard))


def replaced_pages(connection: Connection, sets_max: int) -> Iterator[pl.DataFrame]:
    """As `posting_pages`, of the sets whose entry was replaced."""
    return _unpacked(_pages(connection, sets_max, page=queries.replaced_page))


def set_pages(connection: Connection, sets_max: int) -> Iterator[pl.DataFrame]:
    """Sets as they are stored: columns STORED_SETS, up to `sets_max` a page."""
    return (frames.frame_of(rows, frames.STORED_SETS) for rows in _pages(connection, sets_max))


def _unpacked(pages: Iterable[Sequence[Row]]) -> Iterator[pl.DataFrame]:
    return (unpacked(rows, frames.POSTING_PAGE) for rows in pages)


def _of_shard(pages: Iterable[Sequence[Row]], shard: int) -> Iterator[Sequence[Row]]:
    """A shard's rows of pages that begin with its first."""
    for rows in pages:
        mine = [row for row in rows if row.shard == shard]
        if mine:
            yield mine
        if len(mine) < len(rows):
            return


def _pages(
    connection: Connection, sets_max: int, after: queries.SetKey = queries.BEFORE_ALL, page: Page = queries.posting_page
) -> Iterator[Sequence[Row]]:
    while rows := connection.execute(page(after, sets_max)).all():
        yield rows
        last = rows[-1]
        after = (last.shard, *position_key(last.position), last.set_no)
