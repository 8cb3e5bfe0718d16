"""The part of the SQL books that exceptions are: raised, ended, noted, listed, with the history of all that.

Owns the tables `exceptions` and `exception_history`: whatever changes an exception writes its history here, in the
same transaction. Decides nothing about an exception.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection, Row, insert, literal, select, update

from adapters.books import frames, queries, tables
from adapters.books.database import Database

IDS_PER_STATEMENT = 5_000  # below either database's limit of parameters

_exceptions = tables.exceptions.c


class By(NamedTuple):
    """Who changes something, and when."""

    name: str  # a person, or an owner like "shard:3"
    at_ms: int


class SqlExceptions:
    """Mixed into `SqlBooks`, whose database it uses."""

    _database: Database
    _now_ms: Callable[[], int]

    def raise_exceptions(self, exceptions: pl.DataFrame) -> None:
        """See Books."""
        with self._database.writing() as connection:
            raise_all(self._database, connection, exceptions, By("", self._now_ms()))

    def resolve_exceptions(self, ids: Sequence[str], by: str = "", note: str = "") -> None:
        """See Books."""
        with self._database.writing() as connection:
            resolve(connection, ids, By(by, self._now_ms()), note)

    def note_exceptions(self, ids: Sequence[str], by: str, note: str) -> None:
        """See Books."""
        with self._database.writing() as connection:
            remember(connection, ids, "noted", By(by, self._now_ms()), note)

    def exceptions(
        self,
        state: str = "open",
        types: Sequence[str] = (),
        limit: int = 1000,
        *,
        entities: Sequence[str] = (),
        ids: Sequence[str] = (),
        raised_before_ms: int | None = None,
    ) -> pl.DataFrame:
        """See Books."""
        chosen = {"state": [state] if state else [], "type": types, "entity": entities, "exception_id": ids}
        query = queries.exceptions(chosen, raised_before_ms, limit)
        return frames.frame_of(self._database.rows(query), frames.EXCEPTION_STATES)

    def exception_counts(self) -> dict[str, int]:
        """See Books."""
        return dict(self._database.rows(queries.exception_counts()))

    def exception_history(self, exception_id: str) -> pl.DataFrame:
        """See Books."""
        return frames.frame_of(self._database.rows(queries.exception_history(exception_id)), frames.HISTORY)

    def exception_ages(self, edges_ms: Sequence[int]) -> pl.DataFrame:
        """See Books."""
        return frames.frame_of(self._database.rows(queries.exception_ages(edges_ms)), frames.AGES)


def raise_all(database: Database, connection: Connection, raised: pl.DataFrame, by: By) -> None:
    """Insert what is new, open again what had ended, leave what is open as it is."""
    if raised.is_empty():
        return
    opening = database.insert(tables.exceptions)
    again = {name: opening.excluded[name] for name in ("state", "detail", "raised_at_ms", "resolved_at_ms")}
    upsert = opening.on_conflict_do_update(
        index_elements=["exception_id"], set_=again, where=_exceptions.state == "resolved"
    )
    changed = upsert.returning(_exceptions.exception_id, _exceptions.detail)
    _write_history(connection, connection.execute(changed, _rows(raised)).all(), "raised", by)


def resolve(connection: Connection, ids: Sequence[str], by: By, note: str = "") -> None:
    """End those that are open."""
    for part in _parts(ids):
        ending = update(tables.exceptions).where(_exceptions.exception_id.in_(part), _exceptions.state == "open")
        changed = ending.values(state="resolved", resolved_at_ms=by.at_ms)
        changed = changed.returning(_exceptions.exception_id, literal(note))
        _write_history(connection, connection.execute(changed).all(), "resolved", by)


def remember(connection: Connection, ids: Sequence[str], change: str, by: By, note: str) -> None:
    """Write that something was said or decided about those that are known."""
    for part in _parts(ids):
        known = select(_exceptions.exception_id, literal(note)).where(_exceptions.exception_id.in_(part))
        _write_history(connection, connection.execute(known).all(), change, by)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_PER_STATEMENT] for start in range(0, len(ids), IDS_PER_STATEMENT))


def _rows(raised: pl.DataFrame) -> list[dict]:
    """One row an id, in id order so that two writers lock the same rows in the same order."""
    once = raised.unique("exception_id", keep="first", maintain_order=True).sort("exception_id")
    stored = once.with_columns(pl.col("raised_at").cast(pl.Int64())).rename({"raised_at": "raised_at_ms"})
    return stored.with_columns(state=pl.lit("open"), resolved_at_ms=pl.lit(None, pl.Int64())).to_dicts()


def _write_history(connection: Connection, changed: Sequence[Row], change: str, by: By) -> None:
    """One row for each (exception id, note): the detail of what was raised outlives its being raised again."""
    what = {"change": change, "changed_by": by.name, "changed_at_ms": by.at_ms}
    rows = [{"exception_id": id, "note": note or "", **what} for id, note in changed]
    if rows:
        connection.execute(insert(tables.exception_history), rows)
