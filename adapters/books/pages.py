"""Long reads from the books, a page at a time.

Owns where the next page begins. A page is found by its key, so that the memory of a read is that of one page however
long the history is. Never opens a transaction: all pages of a read belong to the one that it is given.
"""

from collections.abc import Iterator

import polars as pl
from sqlalchemy import Connection

from adapters.books import frames, queries
from runtime.ports import position_key


def posting_pages(connection: Connection, sets_max: int) -> Iterator[pl.DataFrame]:
    """Columns POSTING_PAGE, up to `sets_max` whole sets a page."""
    after = queries.BEFORE_ALL
    while rows := connection.execute(queries.posting_page(after, sets_max)).all():
        page = frames.frame_of(rows, frames.POSTING_PAGE)
        yield page
        shard, position, set_no = page.select("shard", "position", "set_no").row(-1)
        after = (shard, *position_key(position), set_no)
