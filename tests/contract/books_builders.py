"""What tests of the books open, commit and seal."""

from datetime import UTC, date, datetime

import polars as pl
from sqlalchemy import make_url, text

from adapters.books import tables
from adapters.books.database import Database
from adapters.books.memory import MemoryBooks
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.ports import Books, JournalEntry, JournalLine

NOW_MS = 1_790_000_000_000
RAISED_AT = datetime(2026, 10, 3, 8, tzinfo=UTC)
ERP = "erp:main"
TOLD_KINDS = {"invoice_received": "payables"}


# ── what is opened ──


class Ticks:
    """A clock that moves on by a millisecond whenever it is read."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        self.now_ms += 1
        return self.now_ms


class Data:
    """One database of some kind, opened as often as a test likes."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self._clock = Ticks()
        self._memory = MemoryBooks(self._clock, TOLD_KINDS)
        self._opened: list[Books] = []

    def open(self) -> Books:
        self._opened.append(SqlBooks(self.url, self._clock, TOLD_KINDS) if self.url else self._memory)
        return self._opened[-1]

    def close(self) -> None:
        for books in self._opened:
            books.close()


class Postgres:
    """A running PostgreSQL with one migrated database, copied for each test."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._count = 0
        self._run("ALTER SYSTEM SET fsync = off")  # these databases die with the tests
        self._run("SELECT pg_reload_conf()")
        self._run("CREATE DATABASE migrated")
        upgrade(self._url("migrated"))

    def copy(self, template: str = "migrated") -> str:
        self._count += 1
        self._run(f"CREATE DATABASE copy_{self._count} TEMPLATE {template}")
        return self._url(f"copy_{self._count}")

    def _url(self, name: str) -> str:
        return make_url(self._uri).set(database=name).render_as_string(hide_password=False)

    def _run(self, statement: str) -> None:
        database = Database(self._uri)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))
        database.close()


def emptied(url: str, revision: str) -> None:
    """Empty books as an earlier version made them, in the place of those that are there."""
    database = Database(url)
    with database.writing() as connection:
        tables.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
    database.close()
    upgrade(url, revision)


def change(url: str, *statements: str) -> None:
    """Change books behind everybody's back; each statement must change something."""
    database = Database(url)
    with database.writing() as connection:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0
    database.close()


# ── what is stored ──


def posting(set_no: int = 0, amount_minor: int = 100, **changed: object) -> pl.DataFrame:
    """A set of one debit and one credit."""
    line = {
        "set_no": set_no,
        "entity": "north",
        "currency": "USD",
        "period": "2026-10",
        "posted_on": date(2026, 10, 3),
        "mode": "summary",
        "lane": 3,
        "kind": "charge_posted",
        "document": "",
        "facility": "F1",
        "department": "D1",
        "variance": "",
        "mapping_version": 1,
        "amount_minor": amount_minor,
        "events": 7,
        **changed,
    }
    debit = {"line_no": 0, "role": "AR_SELF", "account_code": "1100", "side": "D"}
    credit = {"line_no": 1, "role": "GROSS_REV", "account_code": "4000", "side": "C"}
    return pl.DataFrame([line | debit, line | credit], schema=DELTAS)


def suspended(set_no: int, amount_minor: int, period: str) -> pl.DataFrame:
    """A set that brings so much into suspense, or takes it out."""
    role, account = pl.col("role").replace("AR_SELF", "SUSPENSE"), pl.col("account_code").replace("1100", "2910")
    turned = pl.col("side").replace({"D": "C", "C": "D"}) if amount_minor < 0 else pl.col("side")
    return posting(set_no, abs(amount_minor), period=period).with_columns(role, account, turned)


def total(state: str, events: int, amount_minor: int, facility: str | None = "F1") -> pl.DataFrame:
    row = ("ehr", "north", facility, "USD", "charge_posted", state, events, amount_minor)
    return pl.DataFrame([row], schema=TOTALS, orient="row")


def raised(*ids: str, type: str = "mapping_missing") -> pl.DataFrame:
    rows = [(id, type, "ehr", f"e-{id}", "north", None, "USD", 500, "role AR_SELF", RAISED_AT) for id in ids]
    return pl.DataFrame(rows, schema=EXCEPTIONS, orient="row")


def effects(*sets: pl.DataFrame, **changed: object) -> Effects:
    nothing = Effects(empty(DELTAS), empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
    return nothing._replace(deltas=pl.concat([empty(DELTAS), *sets]), **changed)


def entry(key: str, *sets: tuple[int, str, int], **changed: object) -> JournalEntry:
    given = {
        "digest": f"digest of {key}",
        "entity": "north",
        "currency": "USD",
        "period": "2026-10",
        "posted_on": date(2026, 10, 3),
        "mode": "summary",
        "lane": 3,
        "document": "",
        "lines": (
            JournalLine("1100", "D", 100, "F1", "D1", "charge_posted, 7 events"),
            JournalLine("4000", "C", 100, "F1", "D1", "charge_posted, 7 events"),
        ),
    }
    return JournalEntry(key=key, sets=sets, **(given | changed))


def commit_sets(books: Books, *sets: pl.DataFrame, shard: int = 0) -> str:
    """Commit these sets as a new owner; the position they got."""
    lease = books.take_epoch(f"shard:{shard}", "w1")
    position = f"{int(lease.position.partition('-')[0]) + 1}-0"
    books.commit(shard, lease.epoch, lease.position, position, 10, effects(*sets))
    return position


def commit_openings(books: Books, opens_on: date, *, entity: str = "north", shards: int = 1) -> None:
    """Let each shard commit that the entity posts from this day on."""
    for shard in range(shards):
        lease = books.take_epoch(f"shard:{shard}", "w1")
        position = f"{int(lease.position.partition('-')[0]) + 1}-0"
        opened = effects()._replace(opened=((entity, opens_on),))
        books.commit(shard, lease.epoch, lease.position, position, 0, opened)


def sealed(books: Books, *keys: str, **changed: object) -> int:
    """Seal entries of these keys without sets, return the epoch of the ERP's owner."""
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry(key, **changed) for key in keys])
    return epoch


def places(frame: pl.DataFrame) -> list[tuple[int, str, int]]:
    return frame.select("shard", "position", "set_no").unique(maintain_order=True).rows()
