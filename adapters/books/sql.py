"""The books in SQLite or PostgreSQL.

Owns every write to the books' tables: what one transaction does, and in which order it takes its locks (the owner's
row first). Never decides what is posted, sealed or sent. The schema is `tables`, made by `migrations.upgrade`.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Connection, RowMapping, Select, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from adapters.books import chain, control_totals, frames, pages, queries, tables
from adapters.books.changes import SqlChanges
from adapters.books.conserving import SqlConservation
from adapters.books.corrections import SqlCorrections
from adapters.books.counters import reserve
from adapters.books.database import Database, Write
from adapters.books.deliveries import SqlDeliveries, hold, keep_governor, note_openings, note_sending, refuse_closed
from adapters.books.exceptions import By, SqlExceptions, raise_all, raised_rows, remember, resolve
from adapters.books.governed import check_releasable, check_replaceable
from adapters.books.outcomes import DONE, STATE_AFTER, EntryFacts, debit_minor, exception_id, raised_by, resolved_by
from adapters.books.outgoing import SqlOutgoing, insert_of_derived, insert_of_statuses, tell
from adapters.books.owners import SqlOwners, place_of
from adapters.books.posting_rows import ROWS_AT_ONCE, balances_of, posting_rows, unpacked
from adapters.clock import utc_now_ms
from runtime.effects import Effects
from runtime.errors import Fenced
from runtime.ledger.governance import signer
from runtime.ledger.journal import entry_key
from runtime.limits import TEXT_CHARS_MAX
from runtime.pool import in_pool
from runtime.ports import Checkpoint, CommitMark, EntryState, JournalEntry, Outcome, position_key

_owners, _entries = tables.owners.c, tables.entries.c


class _Ready(NamedTuple):
    """A step's commit but for the transaction."""

    mark: dict[str, Any]
    totals: bytes | None
    postings_digest: str
    writes: list[Write]
    raised: pl.DataFrame


class SqlBooks(SqlOwners, SqlDeliveries, SqlCorrections, SqlExceptions, SqlChanges, SqlOutgoing, SqlConservation):
    """Books over one database that `upgrade` has made. Threads and processes each open their own.

    `told_kinds`: the kinds whose documents' delivery is told, and the flow of each.
    """

    def __init__(
        self, url: str, now_ms: Callable[[], int] = utc_now_ms, told_kinds: Mapping[str, str] | None = None
    ) -> None:
        self._database = Database(url)
        self._now_ms = now_ms
        self._told_kinds = told_kinds or {}

    # ── commits ──

    def commit(self, shard: int, epoch: int, after: str, position: str, rows: int, effects: Effects) -> None:
        """See Books."""
        now_ms = self._now_ms()
        by = By(f"shard:{shard}", now_ms)
        ready = in_pool(self._ready, shard, (after, position, rows), effects, now_ms)
        with self._database.writing() as connection:
            _advance(connection, epoch, ready.mark, now_ms)
            for write in ready.writes:
                write(connection)
            raise_all(self._database, connection, ready.raised, by)
            resolve(self._database, connection, effects.resolved, by)
            note_openings(self._database, connection, shard, dict(effects.opened))
            connection.execute(insert(tables.commit_marks), {**ready.mark, "totals": ready.totals})
            chain.append_commit(connection, ready.mark, ready.postings_digest)

    def _ready(self, shard: int, span: tuple[str, str, int], effects: Effects, now_ms: int) -> _Ready:
        """All of a commit that can be made before anything is locked. `span`: after, position, rows."""
        mark = _mark_row(shard, CommitMark(*span, effects.digest()))
        place = {name: mark[name] for name in ("shard", "position_ms", "position_seq")}
        sets = posting_rows(effects.deltas, place, now_ms)
        writes = [
            self._database.bulk(tables.posting_sets, sets),
            insert_of_derived(effects.derived, place),
            insert_of_statuses(effects.statuses),
        ]
        totals, raised = control_totals.packed(effects.totals), raised_rows(effects.exceptions)
        return _Ready(mark, totals, chain.digest_of_sets(sets), writes, raised)

    def commits(self, shard: int, after: str) -> list[CommitMark]:
        """See Books."""
        with self._database.reading() as connection:
            return [_mark(row) for row in connection.execute(queries.commits(shard, after)).mappings()]

    def record_checkpoint(self, shard: int, epoch: int, checkpoint: Checkpoint) -> None:
        """See Books."""
        owner, marks = f"shard:{shard}", tables.commit_marks.c
        place = position_key(checkpoint.position)
        stored = {"checkpoint_ms": place[0], "checkpoint_seq": place[1], "snapshot": checkpoint.snapshot}
        past = (marks.shard == shard) & (tuple_(marks.position_ms, marks.position_seq) <= tuple_(*place))
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            connection.execute(update(tables.owners).where(_owners.owner == owner).values(stored))
            control_totals.settle(self._database, connection, shard, past)
            connection.execute(delete(tables.commit_marks).where(past))

    # ── journal entries ──

    def unclaimed(self, erp_entities: Sequence[str], sets_max: int, period: str = "") -> pl.DataFrame:
        """See Books."""
        return unpacked(self._database.rows(queries.unclaimed(erp_entities, sets_max, period)), frames.UNCLAIMED)

    def unclaimed_lane(self, erp_entities: Sequence[str], period: str = "") -> int | None:
        """See Books."""
        with self._database.reading() as connection:
            return connection.scalar(queries.unclaimed_lane(erp_entities, period))

    def unclaimed_count(self, erp_entities: Sequence[str]) -> int:
        """See Books."""
        with self._database.reading() as connection:
            return connection.scalar(queries.unclaimed_count(erp_entities))

    def next_entry_no(self, owner: str, epoch: int, count: int) -> int:
        """See Books. The numbers are of the whole database, not of one owner."""
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            return reserve(self._database, connection, "entry_no", count)

    def seal(self, owner: str, epoch: int, entries: Sequence[JournalEntry]) -> None:
        """See Books."""
        if not entries:
            return
        now_ms = self._now_ms()
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            first_no = reserve(self._database, connection, "sealed_no", len(entries))
            rows = [_entry_row(entry, first_no + i, now_ms) for i, entry in enumerate(entries)]
            try:
                connection.execute(insert(tables.entries), rows)
            except IntegrityError:
                raise ValueError(f"{owner}: an entry with one of these keys is sealed already") from None
            _claim(connection, owner, entries)
            chain.append(self._database, connection, owner, [chain.sealed(row) for row in rows], now_ms)

    def entries_in(self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int) -> list[JournalEntry]:
        """See Books."""
        with self._database.reading() as connection:
            bodies = connection.scalars(queries.entry_bodies(erp_entities, states, limit)).all()
        return [msgspec.json.decode(body, type=JournalEntry) for body in bodies]

    def mark_in_flight(self, owner: str, epoch: int, keys: Sequence[str], governor: str | None = None) -> None:
        """See Books. An entry that is posted or was never sealed is refused (ValueError)."""
        now_ms = self._now_ms()
        sendable = _entries.key.in_(keys) & (_entries.state != "posted")
        sent = {"state": "in_flight", "attempts": _entries.attempts + 1, "updated_at_ms": now_ms}
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            if connection.execute(update(tables.entries).where(sendable).values(sent)).rowcount != len(set(keys)):
                raise ValueError(f"{owner}: an entry to send is posted or was never sealed")
            note_sending(self._database, connection, keys, now_ms)
            if governor is not None:
                keep_governor(self._database, connection, owner, governor)

    def record_outcomes(self, owner: str, epoch: int, outcomes: Sequence[Outcome]) -> None:
        """See Books. What is posted or replaced stays so, whatever a late answer says."""
        now_ms = self._now_ms()
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            facts = _facts_of_undecided(connection, outcomes)
            fresh = [outcome for outcome in outcomes if outcome.key in facts]
            if fresh:
                connection.execute(_MOVE_ENTRY, [_outcome_row(outcome, now_ms) for outcome in fresh])
                chain.append(self._database, connection, owner, chain.ended(connection, facts), now_ms)
            resolve(self._database, connection, resolved_by(owner, fresh, facts), By(owner, now_ms))
            if len(raised := raised_by(owner, fresh, facts, now_ms)):
                raise_all(self._database, connection, raised_rows(raised), By(owner, now_ms))
            tell(connection, owner, fresh, self._told_kinds, now_ms)

    def release_entry(self, key: str, by: str, not_there: bool = False) -> None:
        """See Books."""
        released, now_ms = signer(by), self._now_ms()
        entry = _entries.key == key
        with self._database.writing() as connection:
            state = connection.scalar(select(_entries.state).where(entry).with_for_update())
            check_releasable(key, state, not_there)
            connection.execute(update(tables.entries).where(entry).values(state="sealed", updated_at_ms=now_ms))
            ledger = chain.ledger_of(connection, key)
            chain.append(self._database, connection, ledger, [chain.released(key, released)], now_ms)
            stood_under = [exception_id(type, key) for type in ("erp_rejected", "erp_unknown_outcome")]
            remember(self._database, connection, stood_under, "entry released", By(released, now_ms))

    def replace_entry(self, key: str, replacement: JournalEntry, by: str) -> str:
        """See Books."""
        replacer, now_ms = By(signer(by), self._now_ms()), self._now_ms()
        old = _entries.key == key
        with self._database.writing() as connection:
            check_replaceable(key, connection.scalar(select(_entries.state).where(old).with_for_update()))
            refuse_closed(connection, [(replacement.entity, replacement.period)])
            fresh_key = entry_key(replacement.entity, reserve(self._database, connection, "entry_no"))
            entry = msgspec.structs.replace(replacement, key=fresh_key)
            sealed_no = reserve(self._database, connection, "sealed_no")
            row = _entry_row(entry, sealed_no, now_ms)
            connection.execute(insert(tables.entries), row)
            _claim(connection, key, [entry], held_by=key)
            gone = {"state": "replaced", "detail": f"replaced by {entry.key}", "updated_at_ms": now_ms}
            connection.execute(update(tables.entries).where(old).values(gone))
            acts = [*chain.ended(connection, [key]), chain.sealed(row)]
            chain.append(self._database, connection, chain.ledger_of(connection, key), acts, now_ms)
            stood_under = [exception_id("erp_rejected", key)]
            resolve(self._database, connection, stood_under, replacer, f"replaced by {entry.key}")
        return entry.key

    # ── reports ──

    def totals(self) -> pl.DataFrame:
        """See Books."""
        with self._database.reading() as connection:
            return control_totals.held(connection)

    def balances(self) -> pl.DataFrame:
        """See Books."""
        with self._database.reading() as connection:
            sets = connection.execute(queries.balances(), execution_options={"yield_per": ROWS_AT_ONCE})
            return balances_of(sets.partitions())

    def entry_counts(self) -> dict[str, int]:
        """See Books."""
        return dict(self._database.rows(queries.entry_counts()))

    def posting_of(self, shard: int, position: str, set_no: int) -> pl.DataFrame:
        """See Books."""
        return unpacked(self._database.rows(queries.posting(shard, position, set_no)), frames.POSTING)

    def posting_pages(self, sets_max: int) -> Generator[pl.DataFrame, None, None]:
        """See Books."""
        with self._database.snapshot() as connection:
            yield from pages.posting_pages(connection, sets_max)

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def _frame(self, query: Select, columns: dict[str, pl.DataType]) -> pl.DataFrame:
        return frames.frame_of(self._database.rows(query), columns)


_MOVE_ENTRY = (
    update(tables.entries)
    .where(_entries.key == bindparam("of_key"))
    .values({name: bindparam(f"new_{name}") for name in ("state", "erp_ref", "detail", "updated_at_ms")})
)


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
    after, position = (
        place_of(row["after_ms"], row["after_seq"]),
        place_of(row["position_ms"], row["position_seq"]),
    )
    return CommitMark(after, position, row["row_count"], row["digest"])


_ADVANCE = (
    update(tables.owners)
    .where(*(_owners[name] == bindparam(f"of_{name}") for name in ("owner", "epoch", "position_ms", "position_seq")))
    .values(
        rows_total=_owners.rows_total + bindparam("more_rows"),
        **{name: bindparam(f"new_{name}") for name in ("position_ms", "position_seq", "committed_at_ms")},
    )
)


def _advance(connection: Connection, epoch: int, mark: dict, now_ms: int) -> None:
    """Move the shard on, which also locks its row; Fenced when it is not this epoch's or stands elsewhere."""
    owner = f"shard:{mark['shard']}"
    stands = {"of_position_ms": mark["after_ms"], "of_position_seq": mark["after_seq"]}
    moves = {"new_position_ms": mark["position_ms"], "new_position_seq": mark["position_seq"]}
    given = {"of_owner": owner, "of_epoch": epoch, "more_rows": mark["row_count"], "new_committed_at_ms": now_ms}
    if connection.execute(_ADVANCE, {**given, **stands, **moves}).rowcount == 0:
        raise Fenced(f"{owner}: epoch {epoch} is not the newest, or the shard does not stand there")


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


def _claim(connection: Connection, owner: str, entries: Sequence[JournalEntry], held_by: str | None = None) -> None:
    """Stamp the entries' sets, each of which must still be free, or held by one other entry."""
    columns = tables.posting_sets.c
    names = ("shard", "position_ms", "position_seq", "set_no")
    held = columns.entry_key.is_(None) if held_by is None else columns.entry_key == held_by
    stamp = (
        update(tables.posting_sets)
        .where(*(columns[name] == bindparam(f"of_{name}") for name in names), held)
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
    """Facts of those entries that may still change, which nobody else changes until the transaction ends; ValueError
    when one was never sealed."""
    keys = {outcome.key for outcome in outcomes}
    facts = select(_entries.key, _entries.state, _entries.entity, _entries.currency, _entries.debit_minor)
    rows = connection.execute(facts.where(_entries.key.in_(keys)).with_for_update()).all()
    if len(rows) != len(keys):
        raise ValueError("an outcome is of an entry that was never sealed")
    return {key: EntryFacts(*rest) for key, state, *rest in rows if state not in DONE}


def _outcome_row(outcome: Outcome, now_ms: int) -> dict:
    return {
        "of_key": outcome.key,
        "new_state": STATE_AFTER[outcome.code],
        "new_erp_ref": outcome.erp_ref,
        "new_detail": outcome.detail[:TEXT_CHARS_MAX],
        "new_updated_at_ms": now_ms,
    }
