"""Rows that stay in memory, and what stays with them."""

import polars as pl
import pyarrow as pa

from runtime.ledger.account_balances import PIECES_MAX
from runtime.parked import ParkedRows
from runtime.schema import STAMPED, lasting
from tests.unit.engine.builders import Run, event

ROWS = 2_000
MORE = 5  # steps than pieces are kept


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
    parked.keep(frame()[[7, 1_900]], ["", ""])
    assert [text_bytes(rows) < 100 for rows in parked._frames.values()] == [True]
    parked.take([7])
    parked._compact()
    assert [text_bytes(rows) < 50 for rows in parked._frames.values()] == [True]
    assert parked.moves([1_900])["event_id"].to_list() == ["event number 1900 of this frame"]


def test_accounts_in_credit_lie_in_few_pieces_however_many_steps_they_came_in():
    """They are gone through once a day, and must not take a frame for each step of that day."""
    run = Run()
    for number in range(PIECES_MAX + MORE):
        run.take(event(f"payment number {number} of many", "payment_received", 100, account=f"token-{number}"))
    (balances,) = run.engine.intake.balances
    assert sum(map(len, balances._suspects)) == PIECES_MAX + MORE
    assert len(balances._suspects) <= 1 + MORE
