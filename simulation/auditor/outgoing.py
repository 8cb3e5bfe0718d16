"""What must have left the books: every derived event in a log, every status at the consumer, once and in order.

Owns the comparison of what followed from events with what went out.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import polars as pl

from runtime.flow import frames
from runtime.ledger.rules import Rulebook
from runtime.ports import LogRecord
from simulation.auditor.books import PAGE_SETS, differences
from simulation.auditor.intake import RUNTIME

COMPARED = ("kind", "event_id", "entity", "document", "reference", "counterparty", "amount_minor", "currency")
DELIVERED = ("status", "entity", "document", "currency", "amount_minor")
STATUSES_MAX = 10**6


def outgoing_differences(
    auditor: Any, rulebook: Rulebook, kept: list[list[LogRecord]], books: Any, outlet: Any
) -> Iterator[str]:
    """Where less, more or something else went out."""
    expected = {_content(row) for shard in auditor.shards for row in shard.derived.values()}
    yield from differences("derived event", Counter(expected), Counter(set(_relayed(kept))))
    statuses = books.statuses(0, STATUSES_MAX)
    of_events = statuses.filter(pl.col("event_id") != "").select("status", "source", "event_id")
    yield from differences(
        "status",
        Counter({one for shard in auditor.shards for one in shard.told_of_events()}),
        Counter(set(of_events.iter_rows())),
    )
    of_entries = statuses.filter(pl.col("event_id") == "").select(*DELIVERED)
    yield from differences("status of a delivery", _deliveries(rulebook, books), Counter(of_entries.iter_rows()))
    numbers = [one.status_no for one in outlet.entries]
    if numbers != list(range(1, statuses.height + 1)):
        yield f"the consumer holds {len(numbers)} statuses, not 1 to {statuses.height} in order"
    bodies = [msgspec.json.decode(one.body)["status_id"] for one in outlet.entries]
    if bodies != statuses["status_id"].to_list():
        yield "the consumer was told other statuses than the books hold"


def _deliveries(rulebook: Rulebook, books: Any) -> Counter[tuple]:
    """What must be told of each document in each entry that is posted, or was ever rejected: the sum of its debits."""
    told_kinds, rows = rulebook.told_kinds(), {}
    for page in books.posting_pages(PAGE_SETS):
        for row in page.iter_rows(named=True):
            rows.setdefault((row["shard"], row["position"], row["set_no"]), []).append(row)
    posted = {row["entry_key"] for lines in rows.values() for row in lines if row["entry_state"] == "posted"}
    told: dict[tuple, tuple] = {}  # by state and first set: what is sent again under another key is told once
    for state, key in [*(("posted", key) for key in posted), *(("rejected", key) for key in books.refused)]:
        documents: dict[str, list[tuple]] = {}
        for place in _first_of(books, key).sets:
            if rows[place][0]["kind"] in told_kinds and rows[place][0]["document"]:
                documents.setdefault(rows[place][0]["document"], []).append(place)
        for document, places in documents.items():
            lines = [row for place in places for row in rows[place]]
            amount = sum(row["amount_minor"] for row in lines if row["side"] == "D")
            told[state, min(places)] = (state, lines[0]["entity"], document, lines[0]["currency"], amount)
    return Counter(told.values())


def _first_of(books: Any, key: str) -> Any:
    """The entry that has the documents: of those that stand in each other's place, the first."""
    entry = books.entry(key)
    instead, _, replaced = entry.document.rpartition(" ")
    if instead != "instead of" or books.delivery_of(replaced).state != "replaced":
        return entry
    return _first_of(books, replaced)


def _relayed(kept: list[list[LogRecord]]) -> Iterator[tuple]:
    for record in (record for records in kept for record in records if record.type == "events"):
        rows = frames.decode_sealed(record.body).iter_rows(named=True)
        yield from (_content(row) for row in rows if row["source"] == RUNTIME)


def _content(row: Any) -> tuple:
    return tuple(row.get(name) for name in COMPARED)
