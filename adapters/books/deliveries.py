"""The part of the SQL books that delivery and period close need.

Owns the tables `governors`, `period_closes` and `shard_openings`, and reading entries with their delivery. Sends
nothing and decides no pace.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date

import msgspec
from sqlalchemy import Connection, Row, Select, Update, func, select, update

from adapters.books import chain, queries, tables
from adapters.books.closing import check_cut_off, check_declared, check_not_closed, check_ordered
from adapters.books.counters import reserve
from adapters.books.database import Database
from adapters.books.posting_rows import nets_of, read_lines
from runtime.errors import Fenced
from runtime.flow.closing import MOVING
from runtime.ports import Delivery, EntryState, JournalEntry, PeriodClose, PeriodLeft

_owners, _entries, _sets = tables.owners.c, tables.entries.c, tables.posting_sets.c
_sendings, _governors = tables.sendings.c, tables.governors.c
_closes, _openings = tables.period_closes.c, tables.shard_openings.c


def hold(connection: Connection, owner: str, epoch: int) -> None:
    """Lock the owner's row until the transaction ends, or raise Fenced."""
    newest = select(_owners.epoch).where(_owners.owner == owner, _owners.epoch == epoch).with_for_update()
    if connection.scalar(newest) is None:
        raise Fenced(f"{owner}: epoch {epoch} is not the newest")


def keep_governor(database: Database, connection: Connection, owner: str, governor: str) -> None:
    """Store an owner's governor within a transaction that holds the owner."""
    kept = database.insert(tables.governors).values(owner=owner, body=governor)
    connection.execute(kept.on_conflict_do_update(index_elements=["owner"], set_={"body": governor}))


def note_sending(database: Database, connection: Connection, keys: Sequence[str], now_ms: int) -> None:
    """Remember when these entries were meant to be sent."""
    rows = [{"entry_key": key, "first_sent_ms": now_ms, "sent_ms": now_ms} for key in sorted(set(keys))]
    sent = database.insert(tables.sendings)
    again = sent.on_conflict_do_update(index_elements=["entry_key"], set_={"sent_ms": sent.excluded.sent_ms})
    connection.execute(again, rows)


class SqlDeliveries:
    """Mixed into `SqlBooks`, whose database it uses."""

    _database: Database
    _now_ms: Callable[[], int]

    def deliveries(
        self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int, period: str = ""
    ) -> list[Delivery]:
        """See Books."""
        chosen = [_entries.entity.in_(erp_entities), _entries.state.in_(states)]
        chosen += [_entries.period == period] if period else []
        with self._database.reading() as connection:
            ordered = _delivered().where(*chosen).order_by(_entries.lane, _entries.sealed_no).limit(limit)
            rows = connection.execute(ordered).all()
        return [_delivery(row) for row in rows]

    def delivery_of(self, key: str) -> Delivery | None:
        """See Books."""
        rows = self._database.rows(_delivered().where(_entries.key == key))
        return _delivery(rows[0]) if rows else None

    def governor(self, owner: str) -> str:
        """See Books."""
        with self._database.reading() as connection:
            return connection.scalar(select(_governors.body).where(_governors.owner == owner)) or ""

    def save_governor(self, owner: str, epoch: int, governor: str) -> None:
        """See Books."""
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            keep_governor(self._database, connection, owner, governor)

    def order_close(self, entity: str, period: str, due_ms: int, by: str) -> None:
        """See Books."""
        row = {"due_ms": due_ms, "ordered_by": by}
        with self._database.writing() as connection:
            check_ordered(_close_of(connection, entity, period), entity, period)
            fresh = {"entity": entity, "period": period, "state": "ordered", "number": 0, "declared_by": ""}
            ordered = self._database.insert(tables.period_closes).values(**fresh, **row)
            connection.execute(ordered.on_conflict_do_update(index_elements=["entity", "period"], set_=row))

    def cut_off(self, entity: str, period: str, opens_on: date, by: str) -> None:
        """See Books."""
        with self._database.writing() as connection:
            close = _close_of(connection, entity, period)
            if close is not None and close.state != "ordered":
                return
            check_cut_off(close, _left(connection, entity, period), entity, period, opens_on)
            values = {"state": "cut_off", "opens_on": opens_on, "declared_by": by}
            connection.execute(_update_of(entity, period).values(values))

    def declare_closed(self, entity: str, period: str, shards: int) -> int:
        """See Books. Which shards are behind is read before what is left: once none is, nothing more can come."""
        with self._database.writing() as connection:
            close = _close_of(connection, entity, period)
            if close is not None and close.state == "declared":
                return close.number
            behind = _behind(connection, close, shards) if close is not None and close.opens_on else ()
            check_declared(close, behind, _left(connection, entity, period), entity, period)
            number = reserve(self._database, connection, "close_no")
            declared = _update_of(entity, period).values(state="declared", number=number)
            row = connection.execute(declared.returning(tables.period_closes)).one()
            chain.governed(self._database, connection, "closed", row, self._now_ms())
        return number

    def closes(self) -> list[PeriodClose]:
        """See Books."""
        with self._database.reading() as connection:
            rows = connection.execute(_close_rows().order_by(_closes.due_ms, _closes.entity, _closes.period)).all()
        return [PeriodClose(*row) for row in rows]

    def period_left(self, entity: str, period: str) -> PeriodLeft:
        """See Books."""
        with self._database.reading() as connection:
            return _left(connection, entity, period)._replace(lines=_lines_left(connection, entity, period))

    def role_balances(self, entity: str, role: str, through: str) -> dict[tuple[str, str], int]:
        """See Books."""
        with self._database.reading() as connection:
            stored = connection.execute(queries.role_sets(entity, role, through)).all()
        return nets_of(role, ((currency, *line) for currency, lines in stored for line in read_lines(lines)))


def _delivered() -> Select:
    """What `_delivery` takes."""
    state = (_entries.state, _entries.attempts, _entries.erp_ref)
    instants = (func.coalesce(_sendings[name], 0) for name in ("first_sent_ms", "sent_ms"))
    joined = tables.entries.outerjoin(tables.sendings, _entries.key == _sendings.entry_key)
    return select(_entries.body, *state, *instants, _entries.detail).select_from(joined)


def _delivery(row: Row) -> Delivery:
    body, *rest = row
    return Delivery(msgspec.json.decode(body, type=JournalEntry), *rest)


def _close_rows() -> Select:
    return select(*(_closes[name] for name in PeriodClose._fields))


def _close_of(connection: Connection, entity: str, period: str) -> PeriodClose | None:
    """The close, locked until the transaction ends."""
    chosen = _close_rows().where(_closes.entity == entity, _closes.period == period).with_for_update()
    row = connection.execute(chosen).first()
    return PeriodClose(*row) if row else None


def refuse_closed(connection: Connection, places: Iterable[tuple[str, str]]) -> None:
    """GovernanceError when one of these periods, by entity, is declared closed; none is until the transaction ends."""
    for entity, period in sorted(set(places)):
        close = _close_of(connection, entity, period)
        check_not_closed([close] if close else [], entity, period)


def _update_of(entity: str, period: str) -> Update:
    return update(tables.period_closes).where(_closes.entity == entity, _closes.period == period)


def note_openings(database: Database, connection: Connection, shard: int, opened: Mapping[str, date]) -> None:
    """Remember from which day on a shard posts for these entities."""
    if not opened:
        return
    rows = [{"shard": shard, "entity": entity, "opens_on": opens_on} for entity, opens_on in sorted(opened.items())]
    noted = database.insert(tables.shard_openings)
    later = noted.on_conflict_do_update(index_elements=["shard", "entity"], set_={"opens_on": noted.excluded.opens_on})
    connection.execute(later, rows)


def _behind(connection: Connection, close: PeriodClose, shards: int) -> set[int]:
    """The shards that may still post into the period."""
    past = select(_openings.shard).where(_openings.entity == close.entity, _openings.opens_on >= close.opens_on)
    return set(range(shards)).difference(connection.scalars(past))


def _left(connection: Connection, entity: str, period: str) -> PeriodLeft:
    waiting = (_sets.entry_key.is_(None), _sets.entity == entity, _sets.period == period)
    sets = connection.scalar(select(func.count()).select_from(tables.posting_sets).where(*waiting))
    unposted = (_entries.entity == entity, _entries.period == period, _entries.state.not_in(["posted", "replaced"]))
    entries = select(_entries.state, func.count()).where(*unposted).group_by(_entries.state)
    return PeriodLeft(sets, dict(connection.execute(entries).all()))


class _Lines(msgspec.Struct):
    """Of an entry's body, its lines, unread."""

    lines: list[msgspec.Raw]


def _lines_left(connection: Connection, entity: str, period: str) -> int:
    waiting = (_sets.entry_key.is_(None), _sets.entity == entity, _sets.period == period)
    stored = connection.scalars(select(_sets.lines).where(*waiting))
    moving = (_entries.entity == entity, _entries.period == period, _entries.state.in_(MOVING))
    bodies = connection.scalars(select(_entries.body).where(*moving))
    of_sets = sum(len(msgspec.json.decode(lines, type=list[msgspec.Raw])) for lines in stored)
    return of_sets + sum(len(msgspec.json.decode(body, type=_Lines).lines) for body in bodies)
