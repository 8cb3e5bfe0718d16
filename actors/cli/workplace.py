"""What people do with exceptions and changes, as plain data: listed with their standing, decided, approved, closed.

Owns choosing exceptions and checking what may be done to them, before the books store it. Never prints. What is
decided here is only stored: the supervisor brings it into the log, and the engine carries it out.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from actors.cli.installation import books_url
from adapters import settings
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from runtime.config import Config
from runtime.errors import ConfigError, GovernanceError
from runtime.ledger import governance
from runtime.ledger.ageing import BUCKETS, ageing, bucket_edges, overdue_before
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.ports import Books, ChangeType, DecisionAction

CHOSEN_MAX = 100_000  # exceptions that one command decides on; it says when there are more
_SQLITE = "sqlite:///"
_STATES = ("open", "resolved")
_COMMANDS: dict[ChangeType, str] = {
    "mapping": "penstock mapping",
    "decision": "penstock exceptions",
    "reversal": "penstock erp",
}


class Choice(NamedTuple):
    """Which exceptions are meant; what is left empty means any."""

    types: Sequence[str] = ()
    owner: str = ""
    entities: Sequence[str] = ()
    state: str = "open"
    overdue: bool = False


class Wish(NamedTuple):
    """A decision as somebody asks for it."""

    action: DecisionAction
    by: str
    note: str = ""


class Decided(NamedTuple):
    """What became of a decision: the changes that hold it, how many exceptions they concern, and what is missing."""

    changes: list[int]
    exceptions: int
    needs_approval: bool
    more: bool  # others fit the filter too


@contextlib.contextmanager
def opened_books(config: Config, told_kinds: Mapping[str, str] | None = None) -> Iterator[SqlBooks]:
    """The books of this configuration, closed at the end; `told_kinds` where something is told of a delivery.
    ConfigError when there are none yet."""
    url = books_url(config)
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        raise ConfigError("books: there are none yet; they are made by: penstock up")
    books = SqlBooks(url, told_kinds=told_kinds)
    try:
        yield books
    finally:
        books.close()


def rulebook_of(config: Config) -> Rulebook:
    """The rules of this configuration."""
    return parse_rulebook(settings.load_rulebook_text(config))


def now_ms() -> int:
    """The present, by which ages are told."""
    return WallClock().now_ms()


# ── choosing ──


def checked(books: Books, rulebook: Rulebook, entities: Iterable[str], choice: Choice) -> Choice:
    """The choice itself. ConfigError for a word that neither the rulebook, nor the configuration, nor any exception
    has: "none" would be no answer to a word that was misspelt."""
    owners = {rule.owner for rule in rulebook.exception.values()}
    for option, words, known in (
        ("--type", choice.types, rulebook.exception),
        ("--owner", [choice.owner], owners),
        ("--entity", choice.entities, entities),
        ("--state", [choice.state], _STATES),
    ):
        unknown = next((word for word in words if word and word not in known), "")
        if unknown and not _is_kept(books, option, unknown):
            raise ConfigError(f"{option}: {unknown!r} is unknown; known are {', '.join(sorted(known))}")
    return choice


def _is_kept(books: Books, option: str, word: str) -> bool:
    """Whether an exception has the word from before, when it was a type or an entity."""
    if option == "--type":
        return not books.exceptions("", [word], 1).is_empty()
    return option == "--entity" and not books.exceptions("", limit=1, entities=[word]).is_empty()


# ── reading ──


def listed(books: Books, rulebook: Rulebook, choice: Choice, limit: int, at_ms: int) -> list[dict[str, Any]]:
    """Exceptions with what the rulebook says of their types and how they stand at that instant, oldest first."""
    types = _types_of(rulebook, choice)
    if types is None:
        return []
    found = [
        books.exceptions(choice.state, some, limit, entities=choice.entities, raised_before_ms=before)
        for some, before in _queries(rulebook, choice, types, at_ms)
    ]
    rows = pl.concat(found).sort("raised_at", "exception_id").head(limit) if found else pl.DataFrame()
    told = [_standing(row, rulebook, at_ms) for row in rows.iter_rows(named=True)]
    return [row for row in told if not choice.overdue or row["standing"] == "overdue"]


def _types_of(rulebook: Rulebook, choice: Choice) -> Sequence[str] | None:
    """The types that are meant, empty for any, None when there can be none."""
    if not choice.owner:
        return choice.types
    owned = [name for name, rule in rulebook.exception.items() if rule.owner == choice.owner]
    return [name for name in owned if not choice.types or name in choice.types] or None


def _queries(
    rulebook: Rulebook, choice: Choice, types: Sequence[str], at_ms: int
) -> Iterator[tuple[Sequence[str], int | None]]:
    """Types to ask for together, and before when they must have been raised: types of one target share it."""
    if not choice.overdue:
        yield types, None
        return
    known = [name for name in types or rulebook.exception if name in rulebook.exception]
    before = {name: overdue_before(at_ms, rulebook.exception[name]) for name in known}
    for instant, names in groupby(sorted(known, key=before.__getitem__), key=before.__getitem__):
        yield list(names), instant


def _standing(row: Mapping[str, Any], rulebook: Rulebook, at_ms: int) -> dict[str, Any]:
    rule = rulebook.exception.get(row["type"])
    if rule is None:
        return dict(row)
    ends_ms = _ms(row["resolved_at"]) if row["resolved_at"] else at_ms
    aged = ageing(_ms(row["raised_at"]), ends_ms, rule)
    due_at = datetime.fromtimestamp(aged.due_at_ms / 1000, UTC)
    of_type = {"owner": rule.owner, "severity": rule.severity, "action": rule.action, "redrive": rule.redrive}
    return {**row, **of_type, "age_h": aged.age_ms // 3_600_000, "due_at": due_at, "standing": aged.standing}


def _ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1000)


def shown(books: Books, rulebook: Rulebook, exception_id: str, at_ms: int) -> dict[str, Any]:
    """One exception with its history. GovernanceError when there is none of this id."""
    row = _one(books, exception_id)
    return _standing(row, rulebook, at_ms) | {"history": books.exception_history(exception_id).to_dicts()}


def _one(books: Books, exception_id: str) -> dict[str, Any]:
    found = books.exceptions(state="", ids=[exception_id])
    if found.is_empty():
        raise GovernanceError(f"exception {exception_id}: there is none; see: penstock exceptions list")
    return found.row(0, named=True)


def aged(books: Books, at_ms: int) -> list[dict[str, Any]]:
    """Open exceptions of each type and currency by age, a column for each bucket of days."""
    ages = books.exception_ages(bucket_edges(at_ms))
    rows = []
    for (type, currency), group in ages.group_by("type", "currency", maintain_order=True):
        counts = dict(group.select("bucket", "exceptions").iter_rows())
        by_age = {name: counts.get(bucket, 0) for bucket, name in enumerate(BUCKETS)}
        row = {"type": type, "currency": currency, **by_age}
        rows.append(row | {"open": sum(counts.values()), "amount_minor": group["amount_minor"].sum()})
    return rows


# ── deciding ──


def decide(books: Books, rulebook: Rulebook, wish: Wish, ids: Sequence[str], choice: Choice) -> Decided:
    """Store a decision on these exceptions, or on all open ones that are chosen and hold an event.

    GovernanceError when one that is named can't be decided on, when nothing is chosen, or without a name.
    """
    chosen = _named(books, rulebook, ids) if ids else _filtered(books, rulebook, choice)
    if not chosen:
        raise GovernanceError("no open exception that holds an event is chosen")
    kept = chosen[:CHOSEN_MAX]
    needs_approval = governance.needs_approval(wish.action, {row["type"] for row in kept}, rulebook.exception)
    changes = [
        books.propose_change("decision", msgspec.json.encode(proposal).decode(), wish.by, wish.note, needs_approval)
        for proposal in governance.proposals(wish.action, [row["exception_id"] for row in kept])
    ]
    return Decided(changes, len(kept), needs_approval, len(chosen) > CHOSEN_MAX)


def _named(books: Books, rulebook: Rulebook, ids: Sequence[str]) -> list[dict[str, Any]]:
    rows = [_one(books, exception_id) for exception_id in dict.fromkeys(ids)]
    for row in rows:
        governance.check_decidable(row, governance.holding_types(rulebook))
    return rows


def _filtered(books: Books, rulebook: Rulebook, choice: Choice) -> list[dict[str, Any]]:
    if not choice.types:
        raise GovernanceError("name exceptions by their ids, or their --type")
    types = governance.holding_types(rulebook)
    found = books.exceptions("open", choice.types, CHOSEN_MAX + 1, entities=choice.entities)
    return [row for row in found.iter_rows(named=True) if governance.holds_event(row, types)]


def close(books: Books, rulebook: Rulebook, exception_id: str, by: str, note: str) -> None:
    """End an exception that holds nothing, with a name and a reason. GovernanceError when it does, or without them."""
    closer = governance.signer(by)
    if not note.strip():
        raise GovernanceError("note: say how it was settled")
    governance.check_closable(_one(books, exception_id), governance.holding_types(rulebook))
    books.resolve_exceptions([exception_id], closer, note.strip())


def add_note(books: Books, exception_id: str, by: str, note: str) -> None:
    """Write into an exception's history. GovernanceError without a name or a text."""
    author = governance.signer(by)
    if not note.strip():
        raise GovernanceError("note: it is empty")
    _one(books, exception_id)
    books.note_exceptions([exception_id], author, note.strip())


# ── changes ──


def proposed(books: Books, type: ChangeType, state: str = "proposed") -> list[dict[str, Any]]:
    """Changes of a type, with what they hold."""
    found = books.changes(state).filter(pl.col("type") == type)
    return [_opened(row) for row in found.iter_rows(named=True)]


def _opened(change: dict[str, Any]) -> dict[str, Any]:
    body = msgspec.json.decode(change.pop("body_json"))
    return change | ({"rows": body} if change["type"] == "mapping" else body)


def approve(books: Books, change_no: int, type: ChangeType, by: str) -> int:
    """Approve a change of this type; the version or decision that it became. GovernanceError, SameSigner."""
    _check_type(books, change_no, type)
    return books.approve_change(change_no, by)


def refuse(books: Books, change_no: int, type: ChangeType, by: str, note: str) -> None:
    """Refuse a change of this type. GovernanceError."""
    _check_type(books, change_no, type)
    books.refuse_change(change_no, by, note)


def _check_type(books: Books, change_no: int, type: ChangeType) -> None:
    """Who approves must have looked at the right list."""
    found = dict(books.changes().select("change_no", "type").iter_rows()).get(change_no, type)
    if found != type:
        raise GovernanceError(f"change {change_no}: is a {found}; see: {_COMMANDS[found]}")
