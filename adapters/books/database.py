"""One database: its engine, its transactions, and the fastest insert that its driver has.

Owns everything that differs between SQLite and PostgreSQL. Knows no table.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import polars as pl
from sqlalchemy import Connection, Engine, Row, Select, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError

from runtime.errors import BooksUnavailable

BUSY_TIMEOUT_S = 30.0  # how long a SQLite writer waits for another one

Write = Callable[[Connection], None]  # a part of a transaction

_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_NULL = r"\N"
_ARRAYS = {pl.String(): "text[]", pl.Int64(): "bigint[]", pl.Int32(): "integer[]"}


class Database:
    """An SQLAlchemy engine with the kinds of transaction that the books need."""

    def __init__(self, url: str) -> None:
        self.engine = _open_engine(url)
        self.dialect = self.engine.dialect.name
        self._writer = self.engine.execution_options(writes=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with _answered(self.engine), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that only reads, and sees the database as it is at the first statement."""
        with self.reading() as connection:
            if self.dialect == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; durable when the block has ended, undone when it raises."""
        with _answered(self.engine), self._writer.begin() as connection:
            yield connection

    def rows(self, query: Select) -> Sequence[Row]:
        """All rows of one query, in a transaction of its own."""
        with self.reading() as connection:
            return connection.execute(query).all()

    def bulk(self, table: Table, frame: pl.DataFrame, conflict: str = "") -> Write:
        """A whole frame as one insert in its order, made ready before a transaction takes the locks to run it.

        `conflict` says what becomes of rows whose key is known; without it they are refused.
        """
        if frame.is_empty():
            return nothing
        make = _postgres_bulk if self.dialect == "postgresql" else _sqlite_bulk
        return make(table.name, ", ".join(frame.columns), frame, conflict)

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT."""
        return _INSERTS[self.dialect](table)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def nothing(_connection: Connection) -> None:
    """Write nothing."""


def _copy(statement: str, text: str, connection: Connection) -> None:
    with connection.connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(text)


def _execute(statement: str, values: Sequence, connection: Connection) -> None:
    connection.exec_driver_sql(statement, values)


def _postgres_bulk(table: str, columns: str, frame: pl.DataFrame, conflict: str) -> Write:
    """COPY; where keys may be known, which COPY can't take, one statement over arrays.

    Every text is quoted: one that reads like the mark of an absent value is a text.
    """
    if not conflict:
        text = frame.write_csv(include_header=False, null_value=_NULL, quote_style="non_numeric")
        return partial(_copy, f"COPY {table} ({columns}) FROM STDIN (FORMAT csv, NULL '{_NULL}')", text)
    arrays = ", ".join(f"%s::{_ARRAYS[dtype]}" for dtype in frame.dtypes)
    given = f"unnest({arrays}) WITH ORDINALITY AS given({columns}, place) ORDER BY place"
    statement = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {given} ON CONFLICT {conflict}"
    return partial(_execute, statement, tuple(column.to_list() for column in frame))


def _sqlite_bulk(table: str, columns: str, frame: pl.DataFrame, conflict: str) -> Write:
    """One prepared statement over plain tuples."""
    marks = ", ".join("?" * frame.width)
    tail = f" ON CONFLICT {conflict}" if conflict else ""
    return partial(_execute, f"INSERT INTO {table} ({columns}) VALUES ({marks}){tail}", frame.rows())


def _open_engine(url: str) -> Engine:
    address = make_url(url)
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() not in _INSERTS:
        raise ValueError(f"books.url: {address.get_backend_name()} is neither sqlite nor postgresql")
    if address.get_backend_name() == "postgresql":
        return create_engine(address, hide_parameters=True)
    engine = create_engine(address, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _tune_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _tune_sqlite(connection: object, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin by itself, and too late for IMMEDIATE
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: one that reads first and then writes can't wait, it can only fail."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _answered(engine: Engine) -> Iterator[None]:
    """Turn "no answer" into BooksUnavailable, and "can't hold this" into a ValueError without the row's values.

    COPY speaks to the driver directly, so its errors come bare.
    """
    driver = engine.dialect.dbapi
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise BooksUnavailable(_reason(error.orig)) from None
    except (driver.OperationalError, driver.InterfaceError) as error:
        raise BooksUnavailable(_reason(error)) from None
    except (IntegrityError, DataError) as error:
        raise ValueError(_reason(error.orig)) from None
    except (driver.IntegrityError, driver.DataError) as error:
        raise ValueError(_reason(error)) from None


def _reason(error: BaseException | None) -> str:
    """The driver's first line: later ones may quote values."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"
