"""A clock that tests move, and what they put into logs: frames of events, mappings, control messages.

Owns one small vocabulary: the entity mercy, the standard rulebook, USD.
"""

import polars as pl

from adapters.settings import standard_rulebook_text
from runtime import schema, validation
from runtime.flow import frames
from runtime.ledger.rule_file import parse_rulebook
from runtime.ports import LogEntry

NOW_MS = 1_790_000_000_000
RULEBOOK = parse_rulebook(standard_rulebook_text())
VOCABULARY = schema.Vocabulary(
    kinds=RULEBOOK.kind_terms(), entities={"mercy": schema.EntityTerms(currencies=frozenset(["USD"]))}
)
ROLES = ("AR_INS", "AR_SELF", "GROSS_REV", "CASH", "CARD_CLEARING", "MERCHANT_FEES")


class VirtualClock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self._now_ms = NOW_MS

    def now_ms(self) -> int:
        """The present."""
        return self._now_ms

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self._now_ms += round(seconds * 1000)


def event(event_id: str, kind: str, amount_minor: int, facility: str = "north", **columns: object) -> dict:
    """One row as a source sends it."""
    given = {"source": "ehr", "entity": "mercy", "account": "token-1", "currency": "USD", "occurred_at": NOW_MS}
    return given | {"event_id": event_id, "kind": kind, "amount_minor": amount_minor, "facility": facility} | columns


def events(shard: int, *rows: dict) -> LogEntry:
    """A frame in the log."""
    frame = schema.conform(pl.DataFrame(list(rows), infer_schema_length=None))
    stamped = validation.validate(frame, VOCABULARY, NOW_MS).accepted.drop("row")
    assert len(stamped) == len(rows)
    return LogEntry(shard, "events", len(rows), frames.encode(stamped))


def control(shard: int, message: dict) -> LogEntry:
    """A control message in the log."""
    return LogEntry(shard, "control", 0, frames.encode_control(message))


def mapping(shard: int, version: int, *roles: str) -> LogEntry:
    """A mapping version in the log: each role to an account of its own."""
    rows = [{"role": role, "account": f"GL-{role}"} for role in roles]
    return control(shard, {"type": "mapping", "version": version, "rows": rows})
