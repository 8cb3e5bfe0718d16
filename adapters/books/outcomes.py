"""What a delivery's outcomes do to entries and exceptions, the same in every implementation of the books.

Owns the states after an outcome and the exceptions that outcomes raise and end. Stores nothing.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl
import xxhash

from adapters.books.frames import frame_of
from runtime.effects import EXCEPTIONS
from runtime.limits import TEXT_CHARS_MAX
from runtime.ports import TWICE, EntryState, JournalEntry, Outcome, OutcomeCode

STATE_AFTER: dict[OutcomeCode, EntryState] = {
    "posted": "posted",
    "accepted": "in_flight",  # its job is in erp_ref
    "rejected": "rejected",
    "unknown": "unknown",
    "throttled": "sealed",
    "unavailable": "sealed",
    "unauthorised": "sealed",
    "parked": "parked",
}

DONE: frozenset[EntryState] = frozenset({"posted", "replaced"})  # states that no outcome changes any more

_RAISES = {
    "rejected": "erp_rejected",
    "unknown": "erp_unknown_outcome",
    "parked": "erp_unknown_outcome",
    "unauthorised": "erp_unauthorised",
}


class EntryFacts(NamedTuple):
    """What an exception says of the entry that it is about."""

    entity: str
    currency: str
    debit_minor: int


def debit_minor(entry: JournalEntry) -> int:
    """The sum of an entry's debit lines."""
    return sum(line.amount_minor for line in entry.lines if line.side == "D")


def exception_id(type: str, cause: str) -> str:
    """Sixteen hex digits from an exception's type and cause."""
    return xxhash.xxh64_hexdigest(f"{type}\x1f{cause}".encode())


def raised_by(owner: str, outcomes: Sequence[Outcome], facts: Mapping[str, EntryFacts], at_ms: int) -> pl.DataFrame:
    """The exceptions (columns EXCEPTIONS) of these outcomes: one an entry, but one an entity that may not log in."""
    rows = [_exception(owner, outcome, facts[outcome.key], at_ms) for outcome in outcomes if _raised(outcome)]
    return frame_of(rows, EXCEPTIONS)


def _raised(outcome: Outcome) -> str:
    """The type of the exception that an outcome raises, "" for none. What stands twice at the ERP is a person's to
    reverse and to close: nothing here learns that it was."""
    is_twice = outcome.code == "posted" and outcome.detail == TWICE
    return "reconciliation_break" if is_twice else _RAISES.get(outcome.code, "")


def _exception(owner: str, outcome: Outcome, facts: EntryFacts, at_ms: int) -> tuple:
    type, detail = _raised(outcome), outcome.detail[:TEXT_CHARS_MAX]
    if outcome.code == "unauthorised":
        return (_log_in_id(owner, facts.entity), type, owner, "", facts.entity, "", "", 0, detail, at_ms)
    return (exception_id(type, outcome.key), type, owner, outcome.key, facts[0], "", facts[1], facts[2], detail, at_ms)


def _log_in_id(owner: str, entity: str) -> str:
    return exception_id("erp_unauthorised", f"{owner} {entity}")


def resolved_by(owner: str, outcomes: Sequence[Outcome], facts: Mapping[str, EntryFacts]) -> list[str]:
    """Ids of the exceptions that these outcomes end: a posted entry's own, its entity's log-in, a known one's doubt."""
    posted = [outcome.key for outcome in outcomes if outcome.code == "posted"]
    rejected = [outcome.key for outcome in outcomes if outcome.code == "rejected"]
    ids = [exception_id("erp_rejected", key) for key in posted]
    ids += [exception_id("erp_unknown_outcome", key) for key in posted + rejected]
    ids += [_log_in_id(owner, entity) for entity in sorted({facts[key].entity for key in posted})]
    return [*ids, exception_id("erp_unauthorised", owner)] if posted else ids  # the last one is of earlier versions
