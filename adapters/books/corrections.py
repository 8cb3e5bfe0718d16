"""The part of the SQL books that puts entries right: sent again, or corrected by posting sets of the books' own.

Owns the posting sets of the shard CORRECTIONS, which form commits of a chain like any shard's, and what becomes of the
entry that was wrong. Decides neither whether an entry is wrong nor what stands instead.
"""

from collections.abc import Callable, Mapping, Sequence

import polars as pl
from sqlalchemy import Connection, select, update

from adapters.books import chain, control_totals, frames, queries, tables
from adapters.books.changes import approve
from adapters.books.counters import reserve
from adapters.books.database import Database
from adapters.books.deliveries import hold, refuse_closed
from adapters.books.exceptions import By, remember, resolve
from adapters.books.governed import check_correctable, check_settleable
from adapters.books.outcomes import exception_id
from adapters.books.outgoing import tell
from adapters.books.posting_rows import posting_rows, unpacked
from runtime.ledger.compensation import totals_of
from runtime.ledger.governance import signer
from runtime.ports import CORRECTIONS, JournalEntry, Outcome

_entries, _sets = tables.entries.c, tables.posting_sets.c


class SqlCorrections:
    """Mixed into `SqlBooks`, whose database it uses."""

    _database: Database
    _now_ms: Callable[[], int]
    _told_kinds: Mapping[str, str]

    def retry_rejected(self, owner: str, epoch: int, keys: Sequence[str]) -> int:
        """See Books."""
        with self._database.writing() as connection:
            hold(connection, owner, epoch)
            return len(self._released(connection, keys, By(owner, self._now_ms())))

    def release_rejected(self, keys: Sequence[str], by: str) -> list[str]:
        """See Books."""
        with self._database.writing() as connection:
            return self._released(connection, keys, By(signer(by), self._now_ms()))

    def _released(self, connection: Connection, keys: Sequence[str], by: By) -> list[str]:
        """Those of these that are rejected still, sent back to sealed."""
        rejected = (self._database.among(_entries.key, keys), _entries.state == "rejected")
        again = update(tables.entries).where(*rejected).values(state="sealed", updated_at_ms=by.at_ms)
        released = sorted(connection.scalars(again.returning(_entries.key)))
        acts: dict[str, list[chain.Act]] = {}
        for key in released:
            acts.setdefault(chain.ledger_of(connection, key), []).append(chain.released(key, by.name))
        for ledger in sorted(acts):
            chain.append(self._database, connection, ledger, acts[ledger], by.at_ms)
        stood_under = [exception_id("erp_rejected", key) for key in released]
        remember(self._database, connection, stood_under, "entry released", by)
        return released

    def settle_entry(self, key: str, erp_ref: str, by: str) -> None:
        """See Books."""
        settler, now_ms = By(signer(by), self._now_ms()), self._now_ms()
        parked = _entries.key == key
        with self._database.writing() as connection:
            state = connection.scalar(select(_entries.state).where(parked).with_for_update())
            check_settleable(key, state, erp_ref)
            found = {"state": "posted", "erp_ref": erp_ref.strip(), "detail": f"found by {settler.name}"}
            connection.execute(update(tables.entries).where(parked).values(**found, updated_at_ms=now_ms))
            ledger, acts = chain.ledger_of(connection, key), chain.ended(connection, [key])
            chain.append(self._database, connection, ledger, acts, now_ms)
            stood_under = [exception_id("erp_unknown_outcome", key)]
            resolve(self._database, connection, stood_under, settler, f"found at the ERP as {erp_ref.strip()}")
            tell(connection, ledger, [Outcome(key, "posted", erp_ref.strip())], self._told_kinds, now_ms)

    def postings_of(self, entry: JournalEntry) -> pl.DataFrame:
        """See Books."""
        places = sorted(queries.places_of([entry]))
        with self._database.reading() as connection:
            rows = [row for part in queries.in_parts(places) for row in connection.execute(queries.lines_of_sets(part))]
        return unpacked(rows, frames.PLACED)

    def correct_entry(self, key: str, deltas: pl.DataFrame, by: str, change_no: int = 0) -> None:
        """See Books."""
        corrector, now_ms = By(signer(by), self._now_ms()), self._now_ms()
        old = _entries.key == key
        with self._database.writing() as connection:
            state = connection.scalar(select(_entries.state).where(old).with_for_update())
            check_correctable(key, state, _documents(connection), deltas)
            refuse_closed(connection, deltas.select("entity", "period").iter_rows())
            if change_no:
                approve(self._database, connection, change_no, corrector)
            digest = self._post(connection, deltas, now_ms, counted=state == "posted")
            acts = [chain.Act("corrected", key, chain.hash_of(key, corrector.name, digest))]
            if state == "rejected":
                gone = {"state": "replaced", "detail": "replaced by new postings", "updated_at_ms": now_ms}
                connection.execute(update(tables.entries).where(old).values(gone))
                acts += chain.ended(connection, [key])
            chain.append(self._database, connection, chain.ledger_of(connection, key), acts, now_ms)
            stood_under = [exception_id("erp_rejected", key)]
            resolve(self._database, connection, stood_under, corrector, "replaced by new postings")

    def _post(self, connection: Connection, deltas: pl.DataFrame, now_ms: int, counted: bool) -> str:
        """Add these sets as one commit of the corrections' chain; the digest of what was posted."""
        number = reserve(self._database, connection, "correction")
        place = {"shard": CORRECTIONS, "position_ms": number, "position_seq": 0}
        sets = posting_rows(deltas, place, now_ms)
        digest = chain.digest_of_sets(sets)
        mark = {**place, "after_ms": number - 1, "after_seq": 0, "row_count": 0, "digest": digest}
        self._database.bulk(tables.posting_sets, sets)(connection)
        if counted:
            control_totals.add(self._database, connection, CORRECTIONS, totals_of(deltas))
        chain.append_commit(connection, mark, digest)
        return digest


def _documents(connection: Connection) -> set[str]:
    """What the corrections so far are of."""
    return set(connection.scalars(select(_sets.document).where(_sets.shard == CORRECTIONS).distinct()))
