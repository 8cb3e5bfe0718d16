"""Rows that stay in memory, and what stays with them."""

import polars as pl
import pyarrow as pa

from runtime.parked import ParkedRows
from runtime.schema import STAMPED, lasting

ROWS = 2_000


def frame() -> pl.DataFrame:
    """Rows with texts that are too long to lie in a view."""
    ids = pl.Series("id_hash", range(ROWS), pl.UInt64())
    texts = pl.format("event number {} of this frame", pl.int_range(ROWS, eager=True))
    return pl.DataFrame(schema=STAMPED).clear(ROWS).with_columns(ids, event_id=texts)


def text_bytes(rows: pl.DataFrame) -> int:
    """The bytes of all texts that these rows keep in memory."""
    chunks = rows["event_id"].to_arrow(compat_level=pl.CompatLevel.newest())
    pieces = chunks.chunks if isinstance(chunks, pa.ChunkedArray) else [chunks]
    return sum(texts.size for piece in pieces for texts in piece.buffers()[2:])


def test_lasting_rows_are_the_same_rows_without_the_texts_of_others():
    """Of a frame's texts only those of the rows that were picked stay."""
    picked = frame()[[7, 1_900]]
    assert text_bytes(picked) > ROWS
    assert lasting(picked).equals(picked)
    assert text_bytes(lasting(picked)) < 100


def test_parked_rows_do_not_keep_the_frame_in_which_they_came():
    """What waits for weeks must not hold the memory of all that came with it, nor of what has gone on since."""
    parked = ParkedRows()
    parked.keep(frame()[[7, 1_900]], "pending", ["", ""])
    assert [text_bytes(rows) < 100 for rows in parked._frames.values()] == [True]
    parked.take([7])
    parked._compact()
    assert [text_bytes(rows) < 50 for rows in parked._frames.values()] == [True]
    assert parked.moves([1_900])["event_id"].to_list() == ["event number 1900 of this frame"]
