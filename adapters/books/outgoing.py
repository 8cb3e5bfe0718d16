"""The part of the SQL books that leaves them: events for other shards, and statuses for consumers outside.

Owns the tables `outbox`, `status_frames` and `statuses`. Both are stored as frames by whatever transaction they belong
to. A status becomes a row later, with its number, when it can be seen: a reader that has come to a number will never
meet a lower one.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec
import polars as pl
from sqlalchemy import Connection, delete, func, insert, select, update

from adapters.books import queries, tables
from adapters.books.database import Database, Write, nothing
from adapters.books.deliveries import hold
from adapters.books.frames import NUMBERED_STATUSES, frame_of, stored_statuses
from adapters.books.posting_rows import read_lines
from adapters.books.told import ToldSet, statuses_of, told_outcomes
from runtime.flow.frames import decode_sealed, encode
from runtime.ledger.compensation import replaced_by
from runtime.ports import OutboxFrame, Outcome, position_key

FRAME_STATUSES_MAX = 1_000  # as many as the relay numbers at once
PASSED_OVER = "passed_status_no"  # the counter that keeps the last number that restored books do not give

_statuses, _outbox, _entries = tables.statuses.c, tables.outbox.c, tables.entries.c
_told, _counters = tables.status_frames.c, tables.counters.c


class _Folded(msgspec.Struct):
    """What is read of an entry's body here."""

    mode: str
    document: str
    sets: tuple[tuple[int, str, int], ...]


class SqlOutgoing:
    """Mixed into `SqlBooks`, whose database it uses."""

    _database: Database

    def outbox(self, limit: int, after: int = 0) -> list[OutboxFrame]:
        """See Books."""
        waiting = select(_outbox.number, _outbox.body).where(_outbox.number > after)
        oldest = waiting.order_by(_outbox.number).limit(limit)
        return [OutboxFrame(number, bytes(body)) for number, body in self._database.rows(oldest)]

    def mark_relayed(self, numbers: Sequence[int]) -> None:
        """See Books."""
        with self._database.writing() as connection:
            connection.execute(delete(tables.outbox).where(_outbox.number.in_(numbers)))

    def number_statuses(self, owner: str, epoch: int, limit: int) -> int:
        """See Books."""
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            return _number(self._database, connection, limit)

    def statuses(self, after: int, limit: int) -> pl.DataFrame:
        """See Books."""
        columns = (_statuses["occurred_at_ms" if name == "occurred_at" else name] for name in NUMBERED_STATUSES)
        told = select(*columns).where(_statuses.status_no > after).order_by(_statuses.status_no).limit(limit)
        return frame_of(self._database.rows(told), NUMBERED_STATUSES)

    def newest_status_no(self) -> int:
        """See Books."""
        with self._database.reading() as connection:
            return newest_number(connection)


def insert_of_derived(derived: pl.DataFrame, place: Mapping[str, int]) -> Write:
    """What puts a commit's derived events into the outbox, as one frame. `place`: shard and position."""
    if derived.is_empty():
        return nothing
    row = {**place, "body": encode(derived)}
    return lambda connection: connection.execute(insert(tables.outbox), row)


def insert_of_statuses(statuses: pl.DataFrame) -> Write:
    """What stores statuses without a number, as frames."""
    if statuses.is_empty():
        return nothing
    rows = [{"body": encode(part)} for part in stored_statuses(statuses).iter_slices(FRAME_STATUSES_MAX)]
    return lambda connection: connection.execute(insert(tables.status_frames), rows)


def tell(
    connection: Connection, owner: str, outcomes: Sequence[Outcome], told_kinds: Mapping[str, str], now_ms: int
) -> None:
    """Store what consumers are told of these outcomes."""
    keys = {outcome.key for outcome in told_outcomes(outcomes, told_kinds)}
    sets = _sets_of(connection, keys, told_kinds) if keys else {}
    insert_of_statuses(statuses_of(owner, outcomes, sets, told_kinds, now_ms))(connection)


def newest_number(connection: Connection) -> int:
    """The highest number of a status, or the last one that is passed over."""
    passed = select(_counters.value).where(_counters.name == PASSED_OVER)
    given = connection.scalar(select(func.coalesce(func.max(_statuses.status_no), 0)))
    return max(given, connection.scalar(passed) or 0)


def _number(database: Database, connection: Connection, limit: int) -> int:
    """Give numbers to the oldest that have none; how many. The caller holds its owner's row, so it is alone here."""
    newest = newest_number(connection)
    oldest = select(_told.number, _told.body).order_by(_told.number).limit(1)
    given = 0
    while given < limit and (found := connection.execute(oldest).first()):
        told, of_frame = decode_sealed(found.body), _told.number == found.number
        if given and given + len(told) > limit:
            break  # only a frame that is larger than the limit is taken in parts
        fresh = _unknown(database, connection, told[: limit - given])
        numbers = pl.int_range(newest + given + 1, newest + given + 1 + len(fresh)).alias("status_no")
        database.bulk(tables.statuses, fresh.with_columns(numbers))(connection)
        if len(left := told[limit - given :]):
            connection.execute(update(tables.status_frames).where(of_frame).values(body=encode(left)))
        else:
            connection.execute(delete(tables.status_frames).where(of_frame))
        given += len(fresh)
    return given


def _unknown(database: Database, connection: Connection, told: pl.DataFrame) -> pl.DataFrame:
    """Those that have no number yet: one that is told again is nothing new."""
    among = database.among(_statuses.status_id, told["status_id"].to_list())
    known = connection.scalars(select(_statuses.status_id).where(among)).all()
    return told.filter(~pl.col("status_id").is_in(known)) if known else told


def _sets_of(connection: Connection, keys: Collection[str], kinds: Collection[str]) -> dict[str, list[ToldSet]]:
    """Sets of these kinds that immediate entries of these keys hold, by key."""
    bodies = connection.execute(select(_entries.key, _entries.body).where(_entries.key.in_(keys))).all()
    key_of = {place: key for key, body in bodies for place in _immediate(_origin(connection, body))}
    found: dict[str, list[ToldSet]] = defaultdict(list)
    for part in queries.in_parts(list(key_of)):
        for *what, lines in connection.execute(queries.told_sets(part, kinds)):
            one = ToldSet(*what, amount_minor=_debit_minor(lines))
            found[key_of[one.shard, *position_key(one.position), one.set_no]].append(one)
    return found


def _debit_minor(lines: str) -> int:
    return sum(amount for *_, side, amount in read_lines(lines) if side == "D")


def _origin(connection: Connection, body: str) -> _Folded:
    """The entry itself, or the replaced one in whose place it stands: that has the documents."""
    entry = msgspec.json.decode(body, type=_Folded)
    while key := replaced_by(entry.document):
        old = select(_entries.body).where(_entries.key == key, _entries.state == "replaced")
        if (found := connection.scalar(old)) is None:
            break
        entry = msgspec.json.decode(found, type=_Folded)
    return entry


def _immediate(entry: _Folded) -> list[queries.SetKey]:
    if entry.mode != "immediate":
        return []
    return [(shard, *position_key(position), set_no) for shard, position, set_no in entry.sets]
