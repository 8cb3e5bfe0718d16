"""The part of the SQL books that exceptions are: raised, ended, noted, listed, with the history of all that.

Owns the tables `exceptions` and `exception_history`: whatever changes an exception writes its history here, in the
same transaction. Decides nothing about an exception.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection, func, insert, literal, select, update

from adapters.books import frames, queries, tables
from adapters.books.database import Database
from runtime.effects import EXCEPTIONS

_TOLD = ("amount_minor", "detail")  # what may change of one that is open
_AGAIN = ("state", "raised_at_ms", "resolved_at_ms")
_TOLD_ANEW, _OPEN_AGAIN = (
    f"(exception_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in names)} "
    f"WHERE exceptions.state = '{state}'"
    for names, state in ((_TOLD, "open"), ((*_TOLD, *_AGAIN), "resolved"))
)

_exceptions = tables.exceptions.c
# Said so that SQLite looks exceptions up by their ids, and not among all that are open.
_IS_OPEN = func.coalesce(_exceptions.state, "") == "open"


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
        rows = raised_rows(exceptions)
        with self._database.writing() as connection:
            raise_all(self._database, connection, rows, By("", self._now_ms()))

    def resolve_exceptions(self, ids: Sequence[str], by: str = "", note: str = "") -> None:
        """See Books."""
        with self._database.writing() as connection:
            resolve(self._database, connection, ids, By(by, self._now_ms()), note=note)

    def note_exceptions(self, ids: Sequence[str], by: str, note: str) -> None:
        """See Books."""
        with self._database.writing() as connection:
            remember(self._database, connection, ids, "noted", By(by, self._now_ms()), note=note)

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


def raised_rows(raised: pl.DataFrame) -> pl.DataFrame:
    """Exceptions (columns EXCEPTIONS) as rows of their table: one an id, in id order, so that two writers lock the same
    rows in the same order."""
    once = raised.lazy().unique("exception_id", keep="first", maintain_order=True).sort("exception_id")
    stored = once.with_columns(pl.col("raised_at").cast(pl.Int64())).rename({"raised_at": "raised_at_ms"})
    return stored.with_columns(state=pl.lit("open"), resolved_at_ms=pl.lit(None, pl.Int64())).collect()


def raise_all(database: Database, connection: Connection, rows: pl.DataFrame, by: By) -> None:
    """Insert what is new, open again what had ended; what is open keeps its age, and takes the amount and detail that
    are told now."""
    if rows.is_empty():
        return
    known = _open_among(database, connection, rows["exception_id"].to_list())
    is_open = rows["exception_id"].is_in(known["exception_id"].implode())
    changed = rows.filter(is_open).join(known, on=known.columns, how="anti", nulls_equal=True)
    for some, conflict, change in ((rows.filter(~is_open), _OPEN_AGAIN, "raised"), (changed, _TOLD_ANEW, "changed")):
        database.bulk(tables.exceptions, some, conflict)(connection)
        told = some.select("exception_id", pl.col("detail").fill_null("").alias("note"))
        _write_history(database, connection, told, change, by)


def resolve(database: Database, connection: Connection, ids: Sequence[str], by: By, note: str = "") -> None:
    """End those that are open."""
    if not ids:
        return
    ending = update(tables.exceptions).where(database.among(_exceptions.exception_id, ids), _IS_OPEN)
    changed = ending.values(state="resolved", resolved_at_ms=by.at_ms).returning(_exceptions.exception_id)
    if ids_ended := connection.scalars(changed).all():
        ended = pl.DataFrame({"exception_id": ids_ended}, schema={"exception_id": pl.String()})
        _write_history(database, connection, ended.with_columns(pl.lit(note).alias("note")), "resolved", by)


def remember(
    database: Database, connection: Connection, ids: Sequence[str], change: str, by: By, *, note: str = ""
) -> None:
    """Write that something was said or decided about those that are known."""
    said = {"change": change, "changed_by": by.name, "changed_at_ms": by.at_ms, "note": note}
    known = select(_exceptions.exception_id, *(literal(value) for value in said.values()))
    known = known.where(database.among(_exceptions.exception_id, ids)).order_by(_exceptions.exception_id)
    connection.execute(insert(tables.exception_history).from_select(["exception_id", *said], known))


def _open_among(database: Database, connection: Connection, ids: Sequence[str]) -> pl.DataFrame:
    """Those of these that are open, and what is told of them."""
    wanted = select(_exceptions.exception_id, *(_exceptions[name] for name in _TOLD))
    found = connection.execute(wanted.where(database.among(_exceptions.exception_id, ids), _IS_OPEN)).all()
    return pl.DataFrame(found, schema={name: EXCEPTIONS[name] for name in ("exception_id", *_TOLD)}, orient="row")


def _write_history(database: Database, connection: Connection, changed: pl.DataFrame, change: str, by: By) -> None:
    """One row for each exception_id and note: the detail of what was raised outlives its being raised again."""
    what = {"change": change, "changed_by": by.name, "changed_at_ms": by.at_ms}
    rows = changed.with_columns(pl.lit(value).alias(name) for name, value in what.items())
    database.bulk(tables.exception_history, rows)(connection)
