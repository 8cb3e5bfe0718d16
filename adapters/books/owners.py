"""Owners in SQL: who holds which epoch, where each shard stands, and which worker is to host it.

Owns how an owner is taken over. Moves no shard: commits do.
"""

import polars as pl
from sqlalchemy import RowMapping, select, text, update

from adapters.books import frames, queries, tables
from adapters.books.database import Database
from runtime.errors import Fenced
from runtime.ports import Checkpoint, Lease

_owners = tables.owners.c

# A former owner that stands still in the middle of a transaction keeps its row locked (`xmax` is who does). Whoever may
# take over ends it: it is fenced by that anyway. `holder`: only if this one is the owner still.
_END_FORMER = text(
    """
    SELECT pg_terminate_backend(locks.pid)
    FROM owners
    JOIN pg_locks AS locks ON locks.locktype = 'transactionid' AND locks.transactionid = owners.xmax AND locks.granted
    JOIN pg_stat_activity AS sessions ON sessions.pid = locks.pid AND sessions.usename = current_user
    WHERE owners.owner = :owner AND locks.pid <> pg_backend_pid()
      AND (CAST(:holder AS TEXT) IS NULL OR owners.holder = :holder)
    """
)


class SqlOwners:
    """Mixed into `SqlBooks`, whose database it uses."""

    _database: Database

    def take_epoch(self, owner: str, holder: str, *, again: bool = False) -> Lease:
        """See Books."""
        first = {"owner": owner, "holder": holder, "epoch": 1, "position_ms": 0, "position_seq": 0, "rows_total": 0}
        taken = (
            self._database.insert(tables.owners)
            .values(first)
            .on_conflict_do_update(
                index_elements=["owner"],
                set_={"epoch": _owners.epoch + 1, "holder": holder},
                where=_owners.holder == holder if again else None,
            )
            .returning(tables.owners)
        )
        with self._database.writing() as connection:
            if self._database.dialect == "postgresql":
                connection.execute(_END_FORMER, {"owner": owner, "holder": holder if again else None})
            found = connection.execute(taken).mappings().one_or_none()
        if found is None:
            raise Fenced(f"{owner}: somebody else has taken over")
        return _lease(found)

    def place(self, shard: int, worker: str) -> None:
        """See Books."""
        with self._database.writing() as connection:
            connection.execute(update(tables.owners).where(_owners.owner == f"shard:{shard}").values(placed=worker))

    def placements(self) -> dict[int, str]:
        """See Books."""
        placed = select(_owners.owner, _owners.placed).where(_owners.placed.is_not(None))
        with self._database.reading() as connection:
            return {int(owner.removeprefix("shard:")): worker for owner, worker in connection.execute(placed)}

    def shard_rows(self) -> pl.DataFrame:
        """See Books."""
        with self._database.reading() as connection:
            owners = connection.execute(queries.shard_owners()).mappings().all()
        return frames.frame_of(sorted(_shard_row(owner) for owner in owners), frames.SHARD_ROWS)


def place_of(ms: int, sequence: int) -> str:
    """A position in the log, from how the tables hold it."""
    return f"{ms}-{sequence}"


def _lease(owner: RowMapping) -> Lease:
    checkpoint = None
    if owner["snapshot"] is not None:
        checkpoint = Checkpoint(place_of(owner["checkpoint_ms"], owner["checkpoint_seq"]), owner["snapshot"])
    return Lease(owner["epoch"], place_of(owner["position_ms"], owner["position_seq"]), owner["rows_total"], checkpoint)


def _shard_row(owner: RowMapping) -> tuple:
    shard = int(owner["owner"].removeprefix("shard:"))
    place = place_of(owner["position_ms"], owner["position_seq"])
    return shard, owner["epoch"], owner["holder"], place, owner["rows_total"], owner["committed_at_ms"]
