"""The books as they are at one instant, for whoever compares them with something else while they go on.

Owns one transaction, in which every report is read, and the few reads that only a comparison needs. Never writes.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Connection, Row, Select, func, select

from adapters.books import control_totals, frames, pages, queries, tables
from adapters.books.copying import RESTORED
from adapters.books.database import Database
from adapters.books.posting_rows import unpacked
from adapters.books.sql import SqlBooks
from runtime.ports import JournalEntry

_owners, _links, _entries = tables.owners.c, tables.commit_chain.c, tables.entries.c
PAGE_ENTRIES, PAGE_COMMITS = 500, 10_000


class Standing(NamedTuple):
    """Where a shard stands, and the snapshot that recovery would start from ("" for none)."""

    position: str
    checkpoint: str
    snapshot: str


class StoredEntry(NamedTuple):
    """A journal entry and what became of it."""

    entry: JournalEntry
    state: str
    erp_ref: str


class _Pinned:
    """A database of one transaction, which every read shares."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self.dialect, self.among, self._connection = database.dialect, database.among, connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        yield self._connection

    snapshot = reading

    def rows(self, query: Select) -> Sequence[Row]:
        return self._connection.execute(query).all()


class InstantBooks(SqlBooks):
    """The reports of `SqlBooks`, all of one instant. What writes can't be called."""

    def __init__(self, pinned: _Pinned) -> None:
        self._database = pinned

    def standings(self) -> dict[int, Standing]:
        """Every shard that has an owner."""
        wanted = select(tables.owners).where(_owners.owner.like("shard:%"))
        return {int(row.owner.removeprefix("shard:")): _standing(row) for row in self._database.rows(wanted)}

    def shard_totals(self, shard: int) -> pl.DataFrame:
        """One shard's control totals: columns TOTALS."""
        with self._database.reading() as connection:
            return control_totals.held(connection, shard)

    def postings_of(self, shard: int, sets_max: int) -> Generator[pl.DataFrame, None, None]:
        """As `posting_pages`, of one shard: that of CORRECTIONS, too."""
        with self._database.reading() as connection:
            yield from pages.postings_of(connection, shard, sets_max)

    def replaced_pages(self, sets_max: int) -> Generator[pl.DataFrame, None, None]:
        """As `posting_pages`, of the sets whose entry was replaced."""
        with self._database.reading() as connection:
            yield from pages.replaced_pages(connection, sets_max)

    def commit_ends(self, shard: int) -> Generator[tuple[str, str, int], None, None]:
        """(after, position, rows) of each commit that the audit trail tells of, oldest first."""
        columns = (_links.after_ms, _links.after_seq, _links.position_ms, _links.position_seq, _links.row_count)
        wanted = select(*columns).where(_links.shard == shard).order_by(_links.position_ms, _links.position_seq)
        with self._database.reading() as connection:
            for row in connection.execution_options(yield_per=PAGE_COMMITS).execute(wanted):
                yield f"{row[0]}-{row[1]}", f"{row[2]}-{row[3]}", row[4]

    def entry_pages(self) -> Generator[list[StoredEntry], None, None]:
        """All journal entries, in the order of sealing."""
        keys = [row.key for row in self._database.rows(select(_entries.key).order_by(_entries.sealed_no))]
        wanted = select(_entries.body, _entries.state, _entries.erp_ref).order_by(_entries.sealed_no)
        for start in range(0, len(keys), PAGE_ENTRIES):
            of_page = self._database.among(_entries.key, keys[start : start + PAGE_ENTRIES])
            rows = self._database.rows(wanted.where(of_page))
            yield [StoredEntry(msgspec.json.decode(r.body, type=JournalEntry), r.state, r.erp_ref) for r in rows]

    def restored_entry_no(self) -> int:
        """The last entry number that was given before these books were restored from a copy; 0 if they never were."""
        wanted = select(func.coalesce(func.max(tables.counters.c.value), 0)).where(tables.counters.c.name == RESTORED)
        return self._database.rows(wanted)[0][0]

    def claimed_sets(self) -> int:
        """How many posting sets are in an entry that was not replaced."""
        stamp = tables.posting_sets.c.entry_key
        sets = tables.posting_sets.outerjoin(tables.entries, stamp == _entries.key)
        kept = func.coalesce(_entries.state, "") != "replaced"
        claimed = select(func.count()).select_from(sets).where(stamp != "", kept)
        return self._database.rows(claimed)[0][0]

    def lines_of(self, entries: Sequence[JournalEntry]) -> pl.DataFrame:
        """The lines of the sets that these entries name: entry_key (as the set is stamped), account_code, side,
        facility, department, variance, kind, amount_minor, summed."""
        parts = queries.in_parts(queries.places_of(entries))
        rows = [row for part in parts for row in self._database.rows(queries.claimed_lines(part))]
        *keys, amount = frames.CLAIMED
        return unpacked(rows, frames.CLAIMED).group_by(keys, maintain_order=True).agg(pl.col(amount).sum())


@contextmanager
def at_one_instant(url: str) -> Iterator[InstantBooks]:
    """The books of this database as they are now, until the block ends. Raises BooksUnavailable."""
    database = Database(url)
    try:
        with database.snapshot() as connection:
            yield InstantBooks(_Pinned(database, connection))
    finally:
        database.close()


def _standing(row: Row) -> Standing:
    checkpoint = "" if row.snapshot is None else f"{row.checkpoint_ms}-{row.checkpoint_seq}"
    return Standing(f"{row.position_ms}-{row.position_seq}", checkpoint, row.snapshot or "")
