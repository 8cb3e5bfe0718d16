"""What must have left the books: every derived event in a log, every status at the consumer, once and in order.

Owns the comparison of what followed from events with what went out.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from runtime.flow import frames
from runtime.ports import LogRecord
from simulation.auditor.books import differences
from simulation.auditor.intake import RUNTIME

COMPARED = ("kind", "event_id", "entity", "document", "reference", "counterparty", "amount_minor", "currency")
STATUSES_MAX = 10**6


def outgoing_differences(auditor: Any, kept: list[list[LogRecord]], books: Any, outlet: Any) -> Iterator[str]:
    """Where less, more or something else went out."""
    expected = {_content(row) for shard in auditor.shards for row in shard.derived.values()}
    yield from differences("derived event", Counter(expected), Counter(set(_relayed(kept))))
    statuses = books.statuses(0, STATUSES_MAX)
    found = Counter(statuses.select("status", "source", "event_id").iter_rows())
    told = {one for shard in auditor.shards for one in shard.told}
    for one in sorted(told - found.keys())[:4]:
        yield f"status {one}: nobody was told"
    numbers = [one.status_no for one in outlet.entries]
    if numbers != list(range(1, statuses.height + 1)):
        yield f"the consumer holds {len(numbers)} statuses, not 1 to {statuses.height} in order"
    bodies = [msgspec.json.decode(one.body)["status_id"] for one in outlet.entries]
    if bodies != statuses["status_id"].to_list():
        yield "the consumer was told other statuses than the books hold"


def _relayed(kept: list[list[LogRecord]]) -> Iterator[tuple]:
    for record in (record for records in kept for record in records if record.type == "events"):
        rows = frames.decode_sealed(record.body).iter_rows(named=True)
        yield from (_content(row) for row in rows if row["source"] == RUNTIME)


def _content(row: Any) -> tuple:
    return tuple(row.get(name) for name in COMPARED)
