"""The part of the SQL books that people change: proposed, then approved or refused, and what that became.

Owns the tables `changes` and `mapping_versions`. The number of a mapping version or a decision is counted up in the
transaction that puts it in force, which the next one waits for: whoever sees a number sees all lower ones.
"""

from collections.abc import Callable, Sequence

import polars as pl
from sqlalchemy import Connection, RowMapping, Select, insert, select, update

from adapters.books import chain, exceptions, tables
from adapters.books.counters import reserve
from adapters.books.database import Database
from adapters.books.exceptions import By
from adapters.books.frames import CHANGES, frame_of
from adapters.books.governed import COUNTERS, check_open, decision_of, proposal_of, told
from runtime.ledger.governance import second_signer, signer
from runtime.ports import ChangeState, ChangeType, Decision, MappingVersion

_changes, _versions = tables.changes.c, tables.mapping_versions.c


class SqlChanges:
    """Mixed into `SqlBooks`, whose database it uses."""

    _database: Database
    _now_ms: Callable[[], int]

    def mapping_versions(self) -> list[MappingVersion]:
        """See Books."""
        return [MappingVersion(*row, approver or "") for *row, approver in self._database.rows(_mapping_versions())]

    def add_mapping(self, rows_json: str, author: str) -> int:
        """See Books."""
        with self._database.writing() as connection:
            version = reserve(self._database, connection, COUNTERS["mapping"])
            _insert_version(self._database, connection, version, rows_json, By(author, self._now_ms()))
        return version

    def propose_change(
        self, type: ChangeType, body_json: str, by: str, note: str = "", needs_approval: bool = True
    ) -> int:
        """See Books."""
        prepared, proposal = By(signer(by), self._now_ms()), proposal_of(type, body_json)
        with self._database.writing() as connection:
            change_no = reserve(self._database, connection, "change_no")
            change = {"change_no": change_no, "type": type, "body_json": body_json, "prepared_by": prepared.name}
            _insert(self._database, connection, change, prepared.at_ms, note)
            if proposal:
                said = told(proposal, "proposed" if needs_approval else "decided")
                exceptions.remember(self._database, connection, proposal.exceptions, said, prepared, note=note)
            if not needs_approval:
                _put_in_force(self._database, connection, change, prepared._replace(name=""))
        return change_no

    def approve_change(self, change_no: int, by: str) -> int:
        """See Books."""
        with self._database.writing() as connection:
            return approve(self._database, connection, change_no, By(by, self._now_ms()))

    def refuse_change(self, change_no: int, by: str, note: str = "") -> None:
        """See Books."""
        with self._database.writing() as connection:
            change, refuser = _open(connection, change_no), By(signer(by), self._now_ms())
            _tell(self._database, connection, change, "refused", refuser, note=note)
            _decide(self._database, connection, change_no, refuser, state="refused", decided_note=note)

    def changes(self, state: ChangeState | str = "") -> pl.DataFrame:
        """See Books."""
        columns = (_changes[f"{name}_ms" if name.endswith("_at") else name] for name in CHANGES)
        wanted = select(*columns).order_by(_changes.change_no)
        return frame_of(self._database.rows(wanted.where(_changes.state == state) if state else wanted), CHANGES)

    def unlogged_decisions(self, limit: int) -> list[Decision]:
        """See Books."""
        return [decision_of(*row) for row in self._database.rows(_unlogged(limit))]

    def mark_logged(self, numbers: Sequence[int]) -> None:
        """See Books."""
        decided = update(tables.changes).where(_changes.type == "decision", _changes.effect_no.in_(numbers))
        with self._database.writing() as connection:
            connection.execute(decided.where(_changes.logged_at_ms.is_(None)).values(logged_at_ms=self._now_ms()))


def approve(database: Database, connection: Connection, change_no: int, by: By) -> int:
    """Put a change in force within a transaction; what `approve_change` answers and raises."""
    change = _open(connection, change_no)
    approver = by._replace(name=second_signer(change_no, change["prepared_by"], by.name))
    _tell(database, connection, change, "approved", approver)
    return _put_in_force(database, connection, change, approver)


def _mapping_versions() -> Select:
    """Every mapping version with both names, oldest first."""
    of_version = (_changes.type == "mapping") & (_changes.effect_no == _versions.version)
    versions = tables.mapping_versions.outerjoin(tables.changes, of_version)
    columns = (_versions.version, _versions.rows_json, _versions.author, _changes.decided_by)
    return select(*columns).select_from(versions).order_by(_versions.version)


def _unlogged(limit: int) -> Select:
    """What `decision_of` takes, of decisions in force that are not known to be in the log."""
    in_force = (_changes.state == "approved", _changes.type == "decision", _changes.logged_at_ms.is_(None))
    columns = (_changes.effect_no, _changes.body_json, _changes.prepared_by, _changes.decided_by)
    return select(*columns).where(*in_force).order_by(_changes.effect_no).limit(limit)


def _insert(database: Database, connection: Connection, change: dict, at_ms: int, note: str) -> None:
    undecided = {"state": "proposed", "decided_by": "", "decided_note": ""}
    row = {**change, **undecided, "prepared_at_ms": at_ms, "note": note}
    connection.execute(insert(tables.changes), row)
    chain.governed(database, connection, "proposed", row, at_ms)


def _insert_version(database: Database, connection: Connection, version: int, rows_json: str, by: By) -> None:
    row = {"version": version, "rows_json": rows_json, "author": by.name, "added_at_ms": by.at_ms}
    connection.execute(insert(tables.mapping_versions), row)
    chain.governed(database, connection, "mapping", row, by.at_ms)


def _open(connection: Connection, change_no: int) -> RowMapping:
    """The change, locked until the transaction ends; GovernanceError when it does not wait to be decided."""
    change = select(tables.changes).where(_changes.change_no == change_no).with_for_update()
    found = connection.execute(change).mappings().one_or_none()
    check_open(change_no, found and found["state"])
    return found


def _tell(database: Database, connection: Connection, change: RowMapping, what: str, by: By, *, note: str = "") -> None:
    """Write into the exceptions' histories what became of a decision about them."""
    proposal = proposal_of(change["type"], change["body_json"])
    if proposal:
        exceptions.remember(database, connection, proposal.exceptions, told(proposal, what), by, note=note)


def _put_in_force(database: Database, connection: Connection, change: RowMapping | dict, by: By) -> int:
    """Make a change effective by that name; the number that it became."""
    effect_no = reserve(database, connection, COUNTERS[change["type"]])
    if change["type"] == "mapping":
        _insert_version(database, connection, effect_no, change["body_json"], By(change["prepared_by"], by.at_ms))
    _decide(database, connection, change["change_no"], by, state="approved", effect_no=effect_no)
    return effect_no


def _decide(database: Database, connection: Connection, change_no: int, by: By, **values: object) -> None:
    decided = update(tables.changes).where(_changes.change_no == change_no)
    stored = decided.values(decided_by=by.name, decided_at_ms=by.at_ms, **values).returning(tables.changes)
    chain.governed(database, connection, "decided", connection.execute(stored).one(), by.at_ms)
