"""The books in SQLite or PostgreSQL.

Owns every write to the books' tables: what one transaction does, and in which order it takes its locks (the owner's
row first). Never decides what is posted, sealed or sent. The schema is `tables`, made by `migrations.upgrade`.
"""

from collections.abc import Callable, Generator, Sequence

import msgspec
import polars as pl
from sqlalchemy import Connection, Row, RowMapping, Select, bindparam, delete, insert, literal, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from adapters.books import frames, pages, queries, tables
from adapters.books.database import Database, bulk_insert
from adapters.books.outcomes import STATE_AFTER, EntryFacts, debit_minor, raised_by, resolved_by
from adapters.clock import utc_now_ms
from runtime.effects import TOTALS, Effects
from runtime.errors import Fenced
from runtime.limits import TEXT_CHARS_MAX
from runtime.ports import Checkpoint, CommitMark, EntryState, JournalEntry, Lease, MappingVersion, Outcome, position_key

IDS_PER_STATEMENT = 5_000  # below either database's limit of parameters

_owners, _entries, _exceptions = tables.owners.c, tables.entries.c, tables.exceptions.c


class SqlBooks:
    """Books over one database that `upgrade` has made. Threads and processes each open their own."""

    def __init__(self, url: str, now_ms: Callable[[], int] = utc_now_ms) -> None:
        self._database = Database(url)
        self._now_ms = now_ms

    # ── owners ──

    def take_epoch(self, owner: str, holder: str) -> Lease:
        """See Books."""
        first = {"owner": owner, "holder": holder, "epoch": 1, "position_ms": 0, "position_seq": 0, "rows_total": 0}
        taken = (
            self._database.insert(tables.owners)
            .values(first)
            .on_conflict_do_update(index_elements=["owner"], set_={"epoch": _owners.epoch + 1, "holder": holder})
            .returning(tables.owners)
        )
        with self._database.writing() as connection:
            return _lease(connection.execute(taken).mappings().one())

    def commit(self, shard: int, epoch: int, after: str, position: str, rows: int, effects: Effects) -> None:
        """See Books."""
        owner, now_ms = f"shard:{shard}", self._now_ms()
        mark = _mark_row(shard, CommitMark(after, position, rows, effects.digest()))
        place = {name: mark[name] for name in ("shard", "position_ms", "position_seq")}
        sets, lines = _posting_frames(effects.deltas, place, now_ms)
        with self._database.writing() as connection:
            _advance(connection, epoch, mark, now_ms)
            bulk_insert(connection, tables.posting_sets, sets)
            bulk_insert(connection, tables.posting_lines, lines)
            self._add_totals(connection, shard, effects.totals)
            self._raise(connection, effects.exceptions, owner, now_ms)
            _resolve(connection, effects.resolved, owner, now_ms)
            connection.execute(insert(tables.commit_marks), mark)

    def commits(self, shard: int, after: str) -> list[CommitMark]:
        """See Books."""
        with self._database.reading() as connection:
            return [_mark(row) for row in connection.execute(queries.commits(shard, after)).mappings()]

    def record_checkpoint(self, shard: int, epoch: int, checkpoint: Checkpoint) -> None:
        """See Books."""
        owner, marks = f"shard:{shard}", tables.commit_marks.c
        place = position_key(checkpoint.position)
        stored = {"checkpoint_ms": place[0], "checkpoint_seq": place[1], "snapshot": checkpoint.snapshot}
        past = tuple_(marks.position_ms, marks.position_seq) <= tuple_(*place)
        with self._database.writing() as connection:
            _hold(connection, owner, epoch)
            connection.execute(update(tables.owners).where(_owners.owner == owner).values(stored))
            connection.execute(delete(tables.commit_marks).where(marks.shard == shard, past))

    # ── mapping ──

    def mapping_versions(self) -> list[MappingVersion]:
        """See Books."""
        columns = tables.mapping_versions.c
        with self._database.reading() as connection:
            rows = select(columns.version, columns.rows_json, columns.author).order_by(columns.version)
            return [MappingVersion(*row) for row in connection.execute(rows)]

    def add_mapping(self, rows_json: str, author: str) -> int:
        """See Books."""
        row = {"rows_json": rows_json, "author": author, "added_at_ms": self._now_ms()}
        with self._database.writing() as connection:
            version = self._reserve(connection, "mapping_version", 1)
            connection.execute(insert(tables.mapping_versions), {"version": version, **row})
        return version

    # ── journal entries ──

    def unclaimed(self, erp_entities: Sequence[str], sets_max: int) -> pl.DataFrame:
        """See Books."""
        return self._frame(queries.unclaimed(erp_entities, sets_max), frames.UNCLAIMED)

    def unclaimed_count(self, erp_entities: Sequence[str]) -> int:
        """See Books."""
        with self._database.reading() as connection:
            return connection.scalar(queries.unclaimed_count(erp_entities))

    def next_entry_no(self, owner: str, epoch: int, count: int) -> int:
        """See Books. The numbers are of the whole database, not of one owner."""
        with self._database.writing() as connection:
            _hold(connection, owner, epoch)
            return self._reserve(connection, "entry_no", count)

    def seal(self, owner: str, epoch: int, entries: Sequence[JournalEntry]) -> None:
        """See Books."""
        if not entries:
            return
        now_ms = self._now_ms()
        with self._database.writing() as connection:
            _hold(connection, owner, epoch)
            first_no = self._reserve(connection, "sealed_no", len(entries))
            rows = [_entry_row(entry, first_no + i, now_ms) for i, entry in enumerate(entries)]
            try:
                connection.execute(insert(tables.entries), rows)
            except IntegrityError:
                raise ValueError(f"{owner}: an entry with one of these keys is sealed already") from None
            _claim(connection, owner, entries)

    def entries_in(self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int) -> list[JournalEntry]:
        """See Books."""
        with self._database.reading() as connection:
            bodies = connection.scalars(queries.entry_bodies(erp_entities, states, limit)).all()
        return [msgspec.json.decode(body, type=JournalEntry) for body in bodies]

    def mark_in_flight(self, owner: str, epoch: int, keys: Sequence[str]) -> None:
        """See Books. An entry that is posted or was never sealed is refused (ValueError)."""
        sendable = _entries.key.in_(keys) & (_entries.state != "posted")
        sent = {"state": "in_flight", "attempts": _entries.attempts + 1, "updated_at_ms": self._now_ms()}
        with self._database.writing() as connection:
            _hold(connection, owner, epoch)
            if connection.execute(update(tables.entries).where(sendable).values(sent)).rowcount != len(set(keys)):
                raise ValueError(f"{owner}: an entry to send is posted or was never sealed")

    def record_outcomes(self, owner: str, epoch: int, outcomes: Sequence[Outcome]) -> None:
        """See Books. What is posted stays so, whatever a late answer says."""
        now_ms = self._now_ms()
        with self._database.writing() as connection:
            _hold(connection, owner, epoch)
            facts = _facts_of_undecided(connection, outcomes)
            fresh = [outcome for outcome in outcomes if outcome.key in facts]
            if fresh:
                connection.execute(_MOVE_ENTRY, [_outcome_row(outcome, now_ms) for outcome in fresh])
            _resolve(connection, resolved_by(owner, fresh), owner, now_ms)
            self._raise(connection, raised_by(owner, fresh, facts, now_ms), owner, now_ms)

    # ── exceptions ──

    def raise_exceptions(self, exceptions: pl.DataFrame) -> None:
        """See Books."""
        with self._database.writing() as connection:
            self._raise(connection, exceptions, "", self._now_ms())

    def resolve_exceptions(self, ids: Sequence[str]) -> None:
        """See Books."""
        with self._database.writing() as connection:
            _resolve(connection, ids, "", self._now_ms())

    # ── reports ──

    def totals(self) -> pl.DataFrame:
        """See Books."""
        return self._frame(queries.totals(), TOTALS)

    def balances(self) -> pl.DataFrame:
        """See Books."""
        return self._frame(queries.balances(), frames.BALANCES)

    def exceptions(self, state: str = "open", type: str = "", limit: int = 1000) -> pl.DataFrame:
        """See Books."""
        return self._frame(queries.exceptions(state, type, limit), frames.EXCEPTION_STATES)

    def exception_counts(self) -> dict[str, int]:
        """See Books."""
        return self._counts(queries.exception_counts())

    def entry_counts(self) -> dict[str, int]:
        """See Books."""
        return self._counts(queries.entry_counts())

    def shard_rows(self) -> pl.DataFrame:
        """See Books."""
        with self._database.reading() as connection:
            owners = connection.execute(queries.shard_owners()).mappings().all()
        return frames.frame_of(sorted(_shard_row(owner) for owner in owners), frames.SHARD_ROWS)

    def posting_of(self, shard: int, position: str, set_no: int) -> pl.DataFrame:
        """See Books."""
        return self._frame(queries.posting(shard, position, set_no), frames.POSTING)

    def posting_pages(self, sets_max: int) -> Generator[pl.DataFrame, None, None]:
        """See Books."""
        with self._database.snapshot() as connection:
            yield from pages.posting_pages(connection, sets_max)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def _frame(self, query: Select, columns: dict[str, pl.DataType]) -> pl.DataFrame:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return frames.frame_of(rows, columns)

    def _counts(self, query: Select) -> dict[str, int]:
        with self._database.reading() as connection:
            return dict(connection.execute(query).all())

    # ── parts of a transaction that need ON CONFLICT ──

    def _reserve(self, connection: Connection, name: str, count: int) -> int:
        """Count up by `count`; the first of the numbers that are now taken."""
        value = tables.counters.c.value
        counted = (
            self._database.insert(tables.counters)
            .values(name=name, value=count)
            .on_conflict_do_update(index_elements=["name"], set_={"value": value + count})
            .returning(value)
        )
        return connection.scalar(counted) - count + 1

    def _add_totals(self, connection: Connection, shard: int, totals: pl.DataFrame) -> None:
        if totals.is_empty():
            return
        added = self._database.insert(tables.totals)
        sums = {name: tables.totals.c[name] + added.excluded[name] for name in ("events", "amount_minor")}
        upsert = added.on_conflict_do_update(index_elements=list(tables.totals.primary_key), set_=sums)
        connection.execute(upsert, [{"shard": shard, **row} for row in frames.keyed_totals(totals).to_dicts()])

    def _raise(self, connection: Connection, raised: pl.DataFrame, by: str, now_ms: int) -> None:
        """Insert what is new, open again what had ended, leave what is open as it is."""
        if raised.is_empty():
            return
        opening = self._database.insert(tables.exceptions)
        again = {name: opening.excluded[name] for name in ("state", "detail", "raised_at_ms", "resolved_at_ms")}
        upsert = opening.on_conflict_do_update(
            index_elements=["exception_id"], set_=again, where=_exceptions.state == "resolved"
        )
        changed = upsert.returning(_exceptions.exception_id, _exceptions.detail)
        opened = connection.execute(changed, _exception_rows(raised)).all()
        _write_history(connection, opened, {"state": "open", "changed_by": by, "changed_at_ms": now_ms})


_MOVE_ENTRY = (
    update(tables.entries)
    .where(_entries.key == bindparam("of_key"))
    .values({name: bindparam(f"new_{name}") for name in ("state", "erp_ref", "detail", "updated_at_ms")})
)


def _text(ms: int, sequence: int) -> str:
    return f"{ms}-{sequence}"


def _lease(owner: RowMapping) -> Lease:
    checkpoint = None
    if owner["snapshot"] is not None:
        checkpoint = Checkpoint(_text(owner["checkpoint_ms"], owner["checkpoint_seq"]), owner["snapshot"])
    return Lease(owner["epoch"], _text(owner["position_ms"], owner["position_seq"]), owner["rows_total"], checkpoint)


def _shard_row(owner: RowMapping) -> tuple:
    shard = int(owner["owner"].removeprefix("shard:"))
    place = _text(owner["position_ms"], owner["position_seq"])
    return shard, owner["epoch"], owner["holder"], place, owner["rows_total"], owner["committed_at_ms"]


def _mark_row(shard: int, mark: CommitMark) -> dict:
    after, position = position_key(mark.after), position_key(mark.position)
    return {
        "shard": shard,
        "position_ms": position[0],
        "position_seq": position[1],
        "after_ms": after[0],
        "after_seq": after[1],
        "row_count": mark.rows,
        "digest": mark.digest,
    }


def _mark(row: RowMapping) -> CommitMark:
    after, position = _text(row["after_ms"], row["after_seq"]), _text(row["position_ms"], row["position_seq"])
    return CommitMark(after, position, row["row_count"], row["digest"])


def _hold(connection: Connection, owner: str, epoch: int) -> None:
    """Lock the owner's row until the transaction ends, or raise Fenced."""
    newest = select(_owners.epoch).where(_owners.owner == owner, _owners.epoch == epoch).with_for_update()
    if connection.scalar(newest) is None:
        raise Fenced(f"{owner}: epoch {epoch} is not the newest")


def _advance(connection: Connection, epoch: int, mark: dict, now_ms: int) -> None:
    """Move the shard on, which also locks its row; Fenced when it is not this epoch's or stands elsewhere."""
    owner = f"shard:{mark['shard']}"
    stands = (_owners.position_ms == mark["after_ms"]) & (_owners.position_seq == mark["after_seq"])
    moved = update(tables.owners).where(_owners.owner == owner, _owners.epoch == epoch, stands)
    place = {"position_ms": mark["position_ms"], "position_seq": mark["position_seq"], "committed_at_ms": now_ms}
    if connection.execute(moved.values(rows_total=_owners.rows_total + mark["row_count"], **place)).rowcount == 0:
        raise Fenced(f"{owner}: epoch {epoch} is not the newest, or the shard does not stand there")


def _posting_frames(deltas: pl.DataFrame, place: dict[str, int], now_ms: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of posting_sets and posting_lines. A set whose lines contradict it comes twice, which no table takes."""
    filled = frames.without_gaps(deltas)
    key = [pl.lit(value).alias(name) for name, value in place.items()]
    stamps = [*key, pl.col("posted_on").cast(pl.String()), pl.lit(now_ms).alias("committed_at_ms")]
    sets = filled.select(frames.SET_COLUMNS).unique(maintain_order=True).with_columns(stamps)
    return sets.collect(), filled.select(*frames.LINE_COLUMNS, *key).collect()


def _entry_row(entry: JournalEntry, sealed_no: int, now_ms: int) -> dict:
    copied = {name: getattr(entry, name) for name in ("key", "digest", "entity", "currency", "period", "lane")}
    return {
        **copied,
        "sealed_no": sealed_no,
        "debit_minor": debit_minor(entry),
        "body": msgspec.json.encode(entry).decode(),
        "state": "sealed",
        "attempts": 0,
        "erp_ref": "",
        "detail": "",
        "sealed_at_ms": now_ms,
        "updated_at_ms": now_ms,
    }


def _claim(connection: Connection, owner: str, entries: Sequence[JournalEntry]) -> None:
    """Stamp the entries' sets, each of which must still be free."""
    columns = tables.posting_sets.c
    names = ("shard", "position_ms", "position_seq", "set_no")
    stamp = (
        update(tables.posting_sets)
        .where(*(columns[name] == bindparam(f"of_{name}") for name in names), columns.entry_key.is_(None))
        .values(entry_key=bindparam("new_key"))
    )
    claims = [
        {"new_key": entry.key, "of_shard": shard, "of_position_ms": ms, "of_position_seq": sequence, "of_set_no": no}
        for entry in entries
        for shard, position, no in entry.sets
        for ms, sequence in [position_key(position)]
    ]
    if claims and connection.execute(stamp, claims).rowcount != len(claims):
        raise ValueError(f"{owner}: a posting set is claimed already or does not exist")


def _facts_of_undecided(connection: Connection, outcomes: Sequence[Outcome]) -> dict[str, EntryFacts]:
    """Facts of those entries that are not posted yet; ValueError when one was never sealed."""
    keys = {outcome.key for outcome in outcomes}
    facts = select(_entries.key, _entries.state, _entries.entity, _entries.currency, _entries.debit_minor)
    rows = connection.execute(facts.where(_entries.key.in_(keys))).all()
    if len(rows) != len(keys):
        raise ValueError("an outcome is of an entry that was never sealed")
    return {key: EntryFacts(*rest) for key, state, *rest in rows if state != "posted"}


def _outcome_row(outcome: Outcome, now_ms: int) -> dict:
    return {
        "of_key": outcome.key,
        "new_state": STATE_AFTER[outcome.code],
        "new_erp_ref": outcome.erp_ref,
        "new_detail": outcome.detail[:TEXT_CHARS_MAX],
        "new_updated_at_ms": now_ms,
    }


def _exception_rows(raised: pl.DataFrame) -> list[dict]:
    """One row an id, in id order so that two writers lock the same rows in the same order."""
    once = raised.unique("exception_id", keep="first", maintain_order=True).sort("exception_id")
    stored = once.with_columns(pl.col("raised_at").cast(pl.Int64())).rename({"raised_at": "raised_at_ms"})
    return stored.with_columns(state=pl.lit("open"), resolved_at_ms=pl.lit(None, pl.Int64())).to_dicts()


def _resolve(connection: Connection, ids: Sequence[str], by: str, now_ms: int) -> None:
    """End those that are open."""
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        part = _exceptions.exception_id.in_(ids[start : start + IDS_PER_STATEMENT])
        ending = update(tables.exceptions).where(part, _exceptions.state == "open")
        changed = ending.values(state="resolved", resolved_at_ms=now_ms).returning(
            _exceptions.exception_id, literal("")
        )
        ended = connection.execute(changed).all()
        _write_history(connection, ended, {"state": "resolved", "changed_by": by, "changed_at_ms": now_ms})


def _write_history(connection: Connection, changed: Sequence[Row], change: dict[str, str | int]) -> None:
    """One row for each (exception id, note): the detail of what was raised outlives its being raised again."""
    rows = [{"exception_id": id, "note": note or "", **change} for id, note in changed]
    if rows:
        connection.execute(insert(tables.exception_history), rows)
