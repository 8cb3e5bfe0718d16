"""Governed changes: who may put a change in force, what a change may hold, and what may be decided on an exception.

Owns the rules of approval and the forms of proposals. Never stores a change (the books do) and never applies one (the
engine does, when it comes through the log).
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from runtime.errors import GovernanceError, SameSigner
from runtime.ledger.crosswalk import CrosswalkRow
from runtime.ledger.rules import ExceptionType, Rulebook

SIGNER_CHARS_MAX = 64
ACCOUNT_CHARS_MAX = 64
MAPPING_ROWS_MAX = 10_000  # rows of one proposal
DECISION_EXCEPTIONS_MAX = 10_000  # exceptions of one decision: it goes to every shard as one log entry

# Roles that no posting rule names: the master data that rules, flows and registers ask for by these names.
MASTER_DATA = ("POLICY_", "CLASS_", "SUPPLIER_", "PAYER_", "FACILITY_", "DEPARTMENT_", "SERVICE_LINE_")

_ROLE = re.compile(r"[A-Z][A-Z0-9_]*")
_SECOND_SIGNER = {"release", "exclude"}  # letting go what a rule holds, or taking it out of the books


# ── signers ──


def signer(name: str) -> str:
    """A person's name as it is stored. GovernanceError when there is none."""
    trimmed = " ".join(name.split())
    if not trimmed:
        raise GovernanceError("by: a change needs the name of whoever makes it")
    if len(trimmed) > SIGNER_CHARS_MAX:
        raise GovernanceError(f"by: a name has at most {SIGNER_CHARS_MAX} characters")
    return trimmed


def second_signer(change_no: int, prepared_by: str, name: str) -> str:
    """The name of whoever approves. SameSigner when it is the one who prepared, however it is written."""
    approver = signer(name)
    if _folded(approver) == _folded(prepared_by):
        raise SameSigner(f"change {change_no}: {approver} prepared it; somebody else has to approve it")
    return approver


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


# ── mapping ──


def mapping_rows(
    given: Sequence[Mapping[str, Any]], entities: Collection[str], roles: Collection[str]
) -> list[CrosswalkRow]:
    """Proposed rows, checked. `entities` are those configured, `roles` those that rules post to.

    Empty values count as absent. GovernanceError names row (from 1) and field, and never a value that it can't place.
    """
    if not 0 < len(given) <= MAPPING_ROWS_MAX:
        raise GovernanceError(f"a proposal has 1 to {MAPPING_ROWS_MAX} rows, this one has {len(given)}")
    rows = [_row(number, row, entities, roles) for number, row in enumerate(given, 1)]
    _refuse_contradictions(rows)
    return rows


def _row(number: int, given: Mapping[str, Any], entities: Collection[str], roles: Collection[str]) -> CrosswalkRow:
    try:
        row = msgspec.convert({name: value for name, value in given.items() if value not in ("", None)}, CrosswalkRow)
    except msgspec.ValidationError as error:
        raise GovernanceError(f"row {number}: {error}") from None
    faults = {
        "entity": row.entity != "*" and row.entity not in entities and "is not a configured entity",
        "role": _role_fault(row.role, roles),
        "account": not 0 < len(row.account) <= ACCOUNT_CHARS_MAX and f"has 1 to {ACCOUNT_CHARS_MAX} characters",
    }
    for field, fault in faults.items():
        if fault:
            raise GovernanceError(f"row {number}: {field}: {getattr(row, field)[:ACCOUNT_CHARS_MAX]!r} {fault}")
    return row


def _role_fault(role: str, roles: Collection[str]) -> str:
    if not _ROLE.fullmatch(role):
        return "is not a name in capital letters"
    if role in roles or role.startswith(MASTER_DATA):
        return ""
    return "is a role that no rule posts to, and begins with none of " + ", ".join(MASTER_DATA)


def _refuse_contradictions(rows: Sequence[CrosswalkRow]) -> None:
    first: dict[tuple, int] = {}
    for number, row in enumerate(rows, 1):
        place = msgspec.structs.astuple(msgspec.structs.replace(row, account=""))
        if place in first:
            raise GovernanceError(f"row {number}: role: row {first[place]} maps {row.role} at the same place and date")
        first[place] = number


def rows_json(rows: Sequence[Any]) -> str:
    """Rows as they are stored: equal rows give equal text."""
    return msgspec.json.encode(rows, order="sorted").decode()


# ── decisions ──


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is decided on which exceptions, as the books keep it."""

    action: str
    exceptions: tuple[str, ...]


class HoldingTypes(NamedTuple):
    """Exception types by what stands under them."""

    noted: frozenset[str]  # raised beside what an event does: nothing is held
    delivery: frozenset[str]  # of journal entries


_DELIVERY = frozenset({"erp_rejected", "erp_unknown_outcome", "erp_unauthorised"})


def holding_types(rulebook: Rulebook) -> HoldingTypes:
    """What the rulebook says of its exception types. A type that may hold an event counts as holding one."""
    rules = [rule for kind in rulebook.kind.values() for rule in (kind, *kind.case.values())]
    noted = {rule.raises for rule in rules} | {item.unused for item in rulebook.item.values()}
    holds = {name for item in rulebook.item.values() for name in (item.unopened, item.differs, item.twice, item.held)}
    holds |= {group.mismatch for group in rulebook.group.values()}
    return HoldingTypes(frozenset(noted - holds - {""}), _DELIVERY)


def holds_event(exception: Mapping[str, Any], types: HoldingTypes) -> bool:
    """Whether an event is held under this exception, so that a decision can move it."""
    return bool(exception["event_id"]) and exception["type"] not in types.noted | types.delivery


def check_closable(exception: Mapping[str, Any], types: HoldingTypes) -> None:
    """GovernanceError unless closing it by hand hides nothing: it is open, and nothing is held under it."""
    _check_open(exception)
    if exception["type"] in types.delivery:
        raise GovernanceError(f"{_named(exception)}: ends when its journal entry is delivered")
    if holds_event(exception, types):
        raise GovernanceError(f"{_named(exception)}: an event is held under it; retry, release or exclude it")


def check_decidable(exception: Mapping[str, Any], types: HoldingTypes) -> None:
    """GovernanceError unless it is open and an event is held under it."""
    _check_open(exception)
    if exception["type"] in types.delivery:
        raise GovernanceError(f"{_named(exception)}: ends when its journal entry is delivered")
    if not holds_event(exception, types):
        raise GovernanceError(f"{_named(exception)}: no event is held under it; close it when it is settled")


def _check_open(exception: Mapping[str, Any]) -> None:
    if exception["state"] != "open":
        raise GovernanceError(f"{_named(exception)}: is {exception['state']} already")


def _named(exception: Mapping[str, Any]) -> str:
    return f"exception {exception['exception_id']} ({exception['type']})"


def proposals(action: str, exceptions: Sequence[str]) -> list[Proposal]:
    """One action on any number of exceptions, in as many proposals as the limit asks for."""
    parts = range(0, len(exceptions), DECISION_EXCEPTIONS_MAX)
    return [Proposal(action, tuple(exceptions[start : start + DECISION_EXCEPTIONS_MAX])) for start in parts]


def needs_approval(action: str, types: Iterable[str], known: Mapping[str, ExceptionType]) -> bool:
    """Whether a second person must sign: always to release or exclude, to retry where a type's rule says so."""
    return action in _SECOND_SIGNER or any(_redrive(known.get(name)) == "approved" for name in types)


def _redrive(rule: ExceptionType | None) -> str:
    return getattr(rule, "redrive", "free")
