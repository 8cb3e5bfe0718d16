"""What must have come in: every acknowledged row in the log, every message ended, nothing that nobody sent.

Owns the comparison of what sources sent with what the log holds.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from runtime.flow import frames
from runtime.ports import LogRecord
from simulation.auditor.books import EXCEPTIONS_MAX, differences

RUNTIME = "penstock"  # the source of derived events, which `outgoing` looks at
Identity = tuple[str, str, str, int]


def intake_differences(world: Any, sent: Any, producers: Any) -> Iterator[str]:
    """Where the log holds less or more than was sent, once all is acknowledged."""
    wanted = {_identity(row) for row in sent.valid}
    stored = {_identity(row) for row in _rows(world.log.kept)}
    for identity in sorted({_identity(row) for row in producers.acknowledged} - stored)[:4]:
        yield f"{identity[1]}: acknowledged, and not in the log"
    for identity in sorted(wanted - stored)[:4]:
        yield f"{identity[1]}: handed in, and not in the log"
    for identity in sorted(stored - wanted)[:4]:
        yield f"{identity[1]}: in the log, though nobody sent it or it is no event"
    yield from _feed(world, sent, producers)


def _feed(world: Any, sent: Any, producers: Any) -> Iterator[str]:
    spoilt = {row["event_id"] for row in sent.spoilt}
    bad = {id for id, row in producers.messages.items() if row is None or row["event_id"] in spoilt}
    dead = Counter((letter.message.id,) for letter in world.stream.dead)
    yield from differences("dead letter", Counter((id,) for id in bad), Counter(dict.fromkeys(dead, 1)))
    exceptions = world.books.exceptions(state="open", limit=EXCEPTIONS_MAX)
    raised = sum(1 for type in exceptions["type"] if type.startswith("feed_"))
    if raised != len(bad):
        yield f"{len(bad)} bad messages, {raised} exceptions"


def _rows(kept: list[list[LogRecord]]) -> Iterator[Any]:
    for record in (record for records in kept for record in records if record.type == "events"):
        rows = frames.decode_sealed(record.body).iter_rows(named=True)
        yield from (row for row in rows if row["source"] != RUNTIME)


def _identity(row: Any) -> Identity:
    return row["source"], row["event_id"], row["kind"], row["amount_minor"]
