"""Copies of the books: one made while they go on, and books made anew from a copy.

Owns the form of a copy (SQLite: a database file by its online backup; PostgreSQL: one COPY file a table, all of one
repeatable-read transaction) and what must change in books that are older than the ERP that they feed.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, Table, insert, literal, make_url, select, text, update

from adapters.books import chain, tables
from adapters.books.database import Database
from adapters.books.migrations import upgrade
from adapters.books.outgoing import PASSED_OVER, newest_number
from adapters.books.queries import shard_owners
from runtime.errors import ConfigError
from runtime.ports import CopiedShard

SQLITE_FILE = "books.sqlite"
ENTRY_NO_GAP = 1_000_000  # numbers that a restored database does not give: the ERP may hold entries under them,
STATUS_NO_GAP = 10**9  # ... and consumers statuses
RESTORED = "restored_entry_no"  # the counter that keeps the last number given before a restore
COPY_BYTES = 2**20
_REVISION = "revision"


def copy(url: str, folder: Path) -> list[CopiedShard]:
    """Copy the books as they are now into a folder; where each shard stands in the copy. Raises BooksUnavailable."""
    folder.mkdir(parents=True)
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        # In one go: other connections go on writing, and the copy is of the moment at which it began.
        path = folder / SQLITE_FILE
        with closing(sqlite3.connect(address.database)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target, pages=-1)
            target.execute("PRAGMA journal_mode=DELETE")
        with _opened(f"sqlite:///{path}") as database, database.reading() as connection:
            return _stands(connection)
    with _opened(url) as database, database.snapshot() as connection:
        stands = _stands(connection)
        (folder / _REVISION).write_text(_revision(connection))
        for table in tables.metadata.sorted_tables:
            _copy_out(connection, table, folder / f"{table.name}.copy")
        return stands


def stands(url: str) -> list[CopiedShard]:
    """Where each shard that has an owner stands in these books. Raises BooksUnavailable."""
    with _opened(url) as database, database.snapshot() as connection:
        return _stands(connection)


def restore(folder: Path, url: str, now_ms: int, by: str) -> None:
    """Make the books of a copy at this address, which must be empty, safe to go on with an ERP that is ahead of them.

    ConfigError as `check_target`, or when the copy is of another version.
    """
    check_target(folder, url)
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        _restore_file(folder / SQLITE_FILE, Path(address.database), now_ms, by)
        return
    with _opened(url) as database, database.writing() as connection:
        database.unhurried(connection)
        if _revision(connection) != (folder / _REVISION).read_text():
            raise ConfigError("the backup was made by another version; restore it with that one, then upgrade")
        connection.execute(tables.counters.delete())
        for table in tables.metadata.sorted_tables:
            _copy_in(connection, table, folder / f"{table.name}.copy")
        _make_safe(database, connection, now_ms, by)


def check_target(folder: Path, url: str) -> None:
    """ConfigError when this copy can't become books at this address."""
    address = make_url(url)
    is_sqlite = address.get_backend_name() == "sqlite"
    if (folder / SQLITE_FILE).exists() != is_sqlite:
        raise ConfigError("books.url: the backup is of another sort of database (SQLite or PostgreSQL)")
    if is_sqlite:
        if Path(address.database).exists():
            raise ConfigError(
                f"books.url: {Path(address.database).name} is there already; restore into an empty folder"
            )
        return
    upgrade(url)
    with _opened(url) as database, database.reading() as connection:
        if connection.execute(select(tables.owners)).first():
            raise ConfigError("books.url: there are books in this database; restore into an empty one")


def _restore_file(copy: Path, target: Path, now_ms: int, by: str) -> None:
    """The file gets its name when all is done: books that are there are whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".restoring")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(fresh)) as database:
        source.backup(database)
    upgrade(f"sqlite:///{fresh}")
    with _opened(f"sqlite:///{fresh}") as database, database.writing() as connection:
        _make_safe(database, connection, now_ms, by)
    fresh.replace(target)


def _make_safe(database: Database, connection: Connection, now_ms: int, by: str) -> None:
    """What the ERP may have been sent after the copy was made is in doubt: it is looked up before it is sent.

    An entry that was sealed may have been posted since, and one that was rejected may have been mended: both count as
    in flight, first sent nobody knows when. New entries and statuses get numbers far from those that were given since.
    """
    entries, sendings, counters = tables.entries.c, tables.sendings.c, tables.counters.c
    _release_rejected(database, connection, now_ms, by)
    waiting = select(entries.key, literal(0), literal(now_ms)).where(entries.state == "sealed")
    doubted = database.insert(tables.sendings).from_select(["entry_key", "first_sent_ms", "sent_ms"], waiting)
    again = {"first_sent_ms": 0, "sent_ms": now_ms}
    connection.execute(doubted.on_conflict_do_update(index_elements=[sendings.entry_key], set_=again))
    in_doubt = update(tables.entries).where(entries.state == "sealed")
    connection.execute(in_doubt.values(state="in_flight", attempts=entries.attempts + 1, updated_at_ms=now_ms))
    given = connection.scalar(select(counters.value).where(counters.name == "entry_no")) or 0
    passed = newest_number(connection) + STATUS_NO_GAP
    values = {RESTORED: given, "entry_no": given + ENTRY_NO_GAP, PASSED_OVER: passed}
    connection.execute(tables.counters.delete().where(counters.name.in_(values)))
    connection.execute(insert(tables.counters), [{"name": name, "value": value} for name, value in values.items()])
    told = [chain.Act("restored", f"entry_no:{given}", chain.hash_of(given, by))]
    chain.append(database, connection, chain.GOVERNANCE, told, now_ms)


def _release_rejected(database: Database, connection: Connection, now_ms: int, by: str) -> None:
    """Let rejected entries wait like those that were never sent; their exceptions stand until the ERP has answered."""
    rejected = update(tables.entries).where(tables.entries.c.state == "rejected")
    released = connection.scalars(rejected.values(state="sealed").returning(tables.entries.c.key)).all()
    by_ledger: dict[str, list[str]] = {}
    for key in sorted(released):
        by_ledger.setdefault(chain.ledger_of(connection, key), []).append(key)
    for ledger, keys in by_ledger.items():
        chain.append(database, connection, ledger, [chain.released(key, by) for key in keys], now_ms)


def _stands(connection: Connection) -> list[CopiedShard]:
    """Every shard that has an owner."""
    return [_stand(connection, row) for row in connection.execute(shard_owners()).mappings()]


def _stand(connection: Connection, row: dict) -> CopiedShard:
    shard, marks = int(row["owner"].removeprefix("shard:")), tables.commit_marks.c
    since = sum(connection.scalars(select(marks.row_count).where(marks.shard == shard)))
    return CopiedShard(
        shard=shard,
        position=f"{row['position_ms']}-{row['position_seq']}",
        checkpoint=f"{row['checkpoint_ms'] or 0}-{row['checkpoint_seq'] or 0}",
        snapshot=row["snapshot"] or "",
        rows_checkpointed=row["rows_total"] - since,
        rows_committed=row["rows_total"],
    )


def _revision(connection: Connection) -> str:
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def _columns(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)


def _copy_out(connection: Connection, table: Table, path: Path) -> None:
    statement = f"COPY {table.name} ({_columns(table)}) TO STDOUT (FORMAT binary)"
    with connection.connection.cursor() as cursor, path.open("wb") as file, cursor.copy(statement) as rows:
        for part in rows:
            file.write(part)


def _copy_in(connection: Connection, table: Table, path: Path) -> None:
    """All rows of a table; the numbers that it counts up go on after the highest."""
    statement = f"COPY {table.name} ({_columns(table)}) FROM STDIN (FORMAT binary)"
    with connection.connection.cursor() as cursor, path.open("rb") as file, cursor.copy(statement) as rows:
        while part := file.read(COPY_BYTES):
            rows.write(part)
    for key in table.primary_key:
        named = {"table": table.name, "column": key.name}
        sequence = connection.scalar(text("SELECT pg_get_serial_sequence(:table, :column)"), named)
        if sequence:  # rows that have gone again had numbers, too
            onwards = f"SELECT setval(:name, COALESCE(MAX({key.name}), 0) + :gap) FROM {table.name}"
            connection.execute(text(onwards), {"name": sequence, "gap": ENTRY_NO_GAP})


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()
