"""The control totals of the SQL books.

Owns the table `totals`, and what of the totals lies with the commits' marks: a commit leaves its changes there as one
frame, and the next checkpoint, which drops the marks, adds them up. Some thousand rows a commit would be updated
otherwise, mostly the same ones again. Whoever asks gets both together.
"""

import polars as pl
from sqlalchemy import ColumnElement, Connection, select, true

from adapters.books import frames, tables
from adapters.books.database import Database
from runtime.effects import TOTALS
from runtime.flow.frames import decode_sealed, encode

_SUMS = ("events", "amount_minor")
_KEY = [name for name in TOTALS if name not in _SUMS]
_ADD = f"(shard, {', '.join(_KEY)}) DO UPDATE SET " + ", ".join(f"{n} = totals.{n} + excluded.{n}" for n in _SUMS)

_totals, _marks = tables.totals.c, tables.commit_marks.c


def packed(changes: pl.DataFrame) -> bytes | None:
    """A commit's changes (columns TOTALS) as its mark keeps them; None for none."""
    return encode(frames.keyed_totals(changes)) if len(changes) else None


def add(database: Database, connection: Connection, shard: int, changes: pl.DataFrame) -> None:
    """Add changes (columns TOTALS) to a shard's totals."""
    rows = frames.keyed_totals(changes).with_columns(pl.lit(shard).alias("shard"))
    database.bulk(tables.totals, rows, _ADD)(connection)


def settle(database: Database, connection: Connection, shard: int, marks: ColumnElement[bool]) -> None:
    """Add up what these marks of a shard keep. The caller drops them in the same transaction."""
    add(database, connection, shard, _summed(_kept(connection, marks)))


def held(connection: Connection, shard: int | None = None) -> pl.DataFrame:
    """Columns TOTALS as of the newest commit, of one shard or summed over all, in the order of their keys."""
    of_totals = _totals.shard == shard if shard is not None else true()
    of_marks = _marks.shard == shard if shard is not None else true()
    rows = connection.execute(select(*(_totals[name] for name in TOTALS)).where(of_totals)).all()
    return _summed([frames.frame_of(rows, TOTALS), *_kept(connection, of_marks)])


def _kept(connection: Connection, marks: ColumnElement[bool]) -> list[pl.DataFrame]:
    return [decode_sealed(body) for body in connection.scalars(select(_marks.totals).where(marks)) if body is not None]


def _summed(parts: list[pl.DataFrame]) -> pl.DataFrame:
    whole = pl.concat([pl.DataFrame(schema=TOTALS), *parts])
    return whole.group_by(_KEY).agg(pl.col(_SUMS).sum()).sort(_KEY)
