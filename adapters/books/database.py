"""One database: its engine, its transactions, and the fastest insert that its driver has.

Owns everything that differs between SQLite and PostgreSQL. Knows no table.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec
import polars as pl
from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    String,
    Table,
    any_,
    create_engine,
    event,
    func,
    literal,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
)

from runtime.errors import BooksUnavailable, ConfigError

BUSY_TIMEOUT_S = 30.0  # how long a SQLite writer waits for another one
TURN_EVERY_S = 0.002  # how often it looks whether that one has ended

# PostgreSQL: who stops in the middle of a transaction loses it, so that nobody waits for its locks longer than that;
# who waits gives up, and tries again. A peer that is cut off is noticed by either side.
IDLE_IN_TRANSACTION_S = 10
LOCK_WAIT_S = 15
STATEMENT_S = 300
CONNECT_S = 10
KEEPALIVE_AFTER_S, KEEPALIVE_EVERY_S, KEEPALIVES_MAX = 5, 2, 3
UNANSWERED_MS_MAX = 11_000  # of what was sent and not confirmed by the other side's system

Write = Callable[[Connection], None]  # a part of a transaction

_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_NULL = r"\N"
_PRIMARY = 0xFF  # of a code of SQLite; the rest says more about it
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
            self.unhurried(connection)
            yield connection

    def unhurried(self, connection: Connection) -> None:
        """Let this transaction last, and stand still between two statements, as long as it needs."""
        if self.dialect == "postgresql":
            for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"):
                connection.exec_driver_sql(f"SET LOCAL {name} = 0")

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

    def among(self, column: ColumnElement[str], texts: Sequence[str]) -> ColumnElement[bool]:
        """Whether a column holds one of these texts. They go as one parameter: to make a statement with hundreds of
        them takes longer than to run it."""
        if self.dialect == "postgresql":
            return column == any_(literal(list(texts), ARRAY(String)))
        return column.in_(select(func.json_each(msgspec.json.encode(texts).decode()).table_valued("value").c.value))

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
    """One prepared statement over plain tuples, made column by column: row by row takes half as long again."""
    marks = ", ".join("?" * frame.width)
    tail = f" ON CONFLICT {conflict}" if conflict else ""
    rows = list(zip(*(column.to_list() for column in frame), strict=True))
    return partial(_execute, f"INSERT INTO {table} ({columns}) VALUES ({marks}){tail}", rows)


def _open_engine(url: str) -> Engine:
    """Nothing of the address is told: it may hold a password."""
    try:
        return _engine_at(make_url(url))
    except ArgumentError:
        raise ConfigError("books.url: no such address; it looks like postgresql+psycopg://user@host/penstock") from None


def _engine_at(address: URL) -> Engine:
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    if address.get_backend_name() not in _INSERTS:
        raise ConfigError(f"books.url: {address.get_backend_name()} is neither sqlite nor postgresql")
    if address.get_backend_name() == "postgresql":
        return create_engine(_bounded(address), hide_parameters=True)
    if address.database in (None, "", ":memory:"):
        raise ConfigError("books.url: names no file; SQLite books look like sqlite:////srv/penstock/books.sqlite")
    engine = create_engine(address, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _tune_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _bounded(address: URL) -> URL:
    """The address with every wait bounded; what it says of these itself counts."""
    of_session = {
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
        "lock_timeout": f"{LOCK_WAIT_S}s",
        "statement_timeout": f"{STATEMENT_S}s",
        "tcp_keepalives_idle": KEEPALIVE_AFTER_S,
        "tcp_keepalives_interval": KEEPALIVE_EVERY_S,
        "tcp_keepalives_count": KEEPALIVES_MAX,
        "tcp_user_timeout": UNANSWERED_MS_MAX,
    }
    of_client = {
        "connect_timeout": CONNECT_S,
        "keepalives_idle": KEEPALIVE_AFTER_S,
        "keepalives_interval": KEEPALIVE_EVERY_S,
        "keepalives_count": KEEPALIVES_MAX,
        "tcp_user_timeout": UNANSWERED_MS_MAX,
    }
    said = dict(address.query)
    options = [*(f"-c {name}={value}" for name, value in of_session.items()), said.pop("options", "")]
    return address.set(query={**{k: str(v) for k, v in of_client.items()}, **said, "options": " ".join(options)})


def _tune_sqlite(connection: object, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin by itself, and too late for IMMEDIATE
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: one that reads first and then writes can't wait, it can only fail."""
    if not connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql("BEGIN")
        return
    driver = connection.connection.driver_connection
    driver.execute("PRAGMA busy_timeout=0")
    try:
        _take_turn(driver, time.monotonic() + BUSY_TIMEOUT_S)
    finally:
        driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")


def _take_turn(driver: sqlite3.Connection, until_s: float) -> None:
    """Become the one writer. SQLite itself looks less and less often, in the end every 100 ms, when others wait 30."""
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
        time.sleep(TURN_EVERY_S)


@contextmanager
def _answered(engine: Engine) -> Iterator[None]:
    """Turn "no answer" into BooksUnavailable, and "can't hold this" into a ValueError without the row's values.

    COPY speaks to the driver directly, so its errors come bare. An InternalError is what PostgreSQL says of a
    transaction that it has ended, for standing still or otherwise.
    """
    driver = engine.dialect.dbapi
    try:
        yield
    except (OperationalError, InterfaceError, InternalError) as error:
        raise BooksUnavailable(_reason(error.orig)) from None
    except (driver.OperationalError, driver.InterfaceError, driver.InternalError) as error:
        raise BooksUnavailable(_reason(error)) from None
    except (IntegrityError, DataError) as error:
        raise ValueError(_reason(error.orig)) from None
    except DatabaseError as error:
        if type(error.orig) is not sqlite3.DatabaseError:  # what SQLite says of a file that is no database, or damaged
            raise
        raise BooksUnavailable(_reason(error.orig)) from None
    except (driver.IntegrityError, driver.DataError) as error:
        raise ValueError(_reason(error)) from None


def _reason(error: BaseException | None) -> str:
    """The driver's first line: later ones may quote values."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"
