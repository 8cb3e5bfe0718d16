"""Long reads from the books, a page at a time.

Owns where the next page begins. A page is found by its key, so that the memory of a read is that of one page however
long the history is. Never opens a transaction: all pages of a read belong to the one that it is given.
"""

from collections.abc import Iterator, Sequence

import polars as pl
from sqlalchemy import Connection, Row

from adapters.books import frames, queries
from adapters.books.posting_rows import unpacked
from runtime.ports import position_key


def posting_pages(connection: Connection, sets_max: int) -> Iterator[pl.DataFrame]:
    """Columns POSTING_PAGE, up to `sets_max` whole sets a page."""
    return (unpacked(rows, frames.POSTING_PAGE) for rows in _pages(connection, sets_max))


def set_pages(connection: Connection, sets_max: int) -> Iterator[pl.DataFrame]:
    """Sets as they are stored: columns STORED_SETS, up to `sets_max` a page."""
    return (frames.frame_of(rows, frames.STORED_SETS) for rows in _pages(connection, sets_max))


def _pages(connection: Connection, sets_max: int) -> Iterator[Sequence[Row]]:
    after = queries.BEFORE_ALL
    while rows := connection.execute(queries.posting_page(after, sets_max)).all():
        yield rows
        last = rows[-1]
        after = (last.shard, *position_key(last.position), last.set_no)
