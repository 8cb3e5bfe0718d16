"""What one engine step asks its shell to make durable.

Owns the column tables of everything that leaves the engine. Frames here have an order that follows from the step alone
(most are sorted), so equal steps give equal bytes.
"""

import hashlib
from collections.abc import Iterable
from datetime import date
from functools import cache
from typing import NamedTuple

import polars as pl
import xxhash

from runtime.schema import COLUMNS, UTC_MS

# One line of a posting set. Lines of one `set_no` sum to zero (debits = credits) within an entity, currency, period.
# amount_minor is positive; `side` is "D" or "C". `document` is empty for summary sets. `events` counts the set's
# events and is the same on each of its lines.
DELTAS: dict[str, pl.DataType] = {
    "set_no": pl.Int32(),
    "line_no": pl.Int16(),
    "entity": pl.String(),
    "currency": pl.String(),
    "period": pl.String(),  # "2026-10"
    "posted_on": pl.Date(),  # latest accounting date in the set, inside the period
    "mode": pl.String(),  # "immediate" | "summary"
    "lane": pl.Int16(),
    "kind": pl.String(),
    "document": pl.String(),
    "facility": pl.String(),  # "" where the rule drops the dimension
    "department": pl.String(),
    "variance": pl.String(),  # what of a receivable is in dispute, and how; "" for what is not
    "role": pl.String(),
    "account_code": pl.String(),  # the entity's own account in its ERP
    "mapping_version": pl.Int32(),
    "side": pl.String(),
    "amount_minor": pl.Int64(),
    "events": pl.Int64(),
}

# Signed changes of the control totals. `state`: accepted | booked | pending | excepted | excluded | duplicate | posted.
# accepted = booked + pending + excepted + excluded holds in every step, count and cents (cents: absolute amounts);
# posted stands beside them: what was debited for booked events, where their kind alone does not tell.
TOTALS: dict[str, pl.DataType] = {
    "source": pl.String(),
    "entity": pl.String(),
    "facility": pl.String(),
    "currency": pl.String(),
    "kind": pl.String(),
    "state": pl.String(),
    "events": pl.Int64(),
    "amount_minor": pl.Int64(),
}
CONSERVED = ("booked", "pending", "excepted", "excluded")

EXCEPTIONS: dict[str, pl.DataType] = {
    "exception_id": pl.String(),  # 16 hex digits, from its type and cause: raising twice is once
    "type": pl.String(),
    "source": pl.String(),
    "event_id": pl.String(),
    "entity": pl.String(),
    "facility": pl.String(),
    "currency": pl.String(),
    "amount_minor": pl.Int64(),
    "detail": pl.String(),  # places and roles, never payload values
    "raised_at": UTC_MS,
}

# One row for each change of an accepted event's state: what the archive keeps and `trace` reads. `position` is that of
# the step's last entry (= the commit), `set_no` the posting set the event went into. What the event says stands in the
# log's entries, which the archive keeps whole: those of the step that the first of its rows names.
OUTCOMES: dict[str, pl.DataType] = {
    "id_hash": pl.UInt64(),
    "digest": pl.UInt64(),  # an id that came with several contents has rows for each
    "state": pl.String(),
    "position": pl.String(),
    "set_no": pl.Int32(),
}


# Events that follow from this step's and belong into another shard's log (or later into this one's). Their ids are made
# from their cause, so that relaying one twice is a repeat like any other.
DERIVED: dict[str, pl.DataType] = COLUMNS

# What consumers outside are told: one row for each step that a document has taken, in the order of telling.
STATUSES: dict[str, pl.DataType] = {
    "status_id": pl.String(),  # from status and cause: told twice is once
    "flow": pl.String(),
    "status": pl.String(),  # "received", "match_failed", "approved", "posted", "paid", "rejected", ...
    "kind": pl.String(),
    "entity": pl.String(),
    "document": pl.String(),  # the document concerned
    "counterparty": pl.String(),
    "amount_minor": pl.Int64(),
    "currency": pl.String(),
    "source": pl.String(),
    "event_id": pl.String(),  # the event that did it, "" where none did
    "detail": pl.String(),  # reasons and references, never payload values
    "occurred_at": UTC_MS,
}


class StepCounts(NamedTuple):
    """Rows of one step. read = accepted + duplicate; released = earlier rows that were booked now."""

    read: int = 0
    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    booked: int = 0
    released: int = 0
    open_items: int = 0
    waiting: int = 0


def empty(columns: dict[str, pl.DataType]) -> pl.DataFrame:
    """A frame of these columns with no rows."""
    return _empty(tuple(columns.items())).clone()


@cache
def _empty(columns: tuple[tuple[str, pl.DataType], ...]) -> pl.DataFrame:
    return pl.DataFrame(schema=dict(columns))  # made once: it takes 0.4 ms, a clone 0.01


class Effects(NamedTuple):
    """All that a step did. `resolved` holds the ids of exceptions that ended by themselves; one that was raised and
    ended in the same step stands in both, so raise first, then resolve. `opened`: entities that the step told of a cut
    off period, and the first day into which each of them posts after it."""

    deltas: pl.DataFrame
    totals: pl.DataFrame
    exceptions: pl.DataFrame
    resolved: tuple[str, ...]
    outcomes: pl.DataFrame
    counts: StepCounts
    derived: pl.DataFrame = empty(DERIVED)
    statuses: pl.DataFrame = empty(STATUSES)
    opened: tuple[tuple[str, date], ...] = ()

    def digest(self) -> str:
        """Hash of everything that is committed; a replayed step must give the same."""
        h = hashlib.blake2b(digest_size=16)
        for frame in (self.deltas, self.totals, self.exceptions):
            h.update(frame.write_csv().encode())
        for frame in (self.derived, self.statuses):
            if frame.height:
                h.update(frame.write_csv().encode())
        h.update("\x1f".join(self.resolved).encode())
        for entity, opens_on in self.opened:
            h.update(f"\x1e{entity}\x1f{opens_on}".encode())
        return h.hexdigest()


def of_the_runtime(raised: Iterable[tuple[str, str, str]], source: str, now_ms: int) -> pl.DataFrame:
    """Exceptions that no event stands under, as (type, cause, detail): a cause raised twice is one exception."""
    rows = [
        {
            "exception_id": xxhash.xxh64_hexdigest("\x1f".join((type, source, cause)).encode()),
            "type": type,
            "source": source,
            "event_id": "",
            "entity": "",
            "facility": "",
            "currency": "",
            "amount_minor": 0,
            "detail": detail,
            "raised_at": now_ms,
        }
        for type, cause, detail in raised
    ]
    return pl.DataFrame(rows, schema=EXCEPTIONS)
