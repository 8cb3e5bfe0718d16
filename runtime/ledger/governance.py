"""Governed changes: who may put a change in force, what a change may hold, and what may be decided on an exception.

Owns the rules of approval and the forms of proposals. Never stores a change (the books do) and never applies one (the
engine does, when it comes through the log).
"""

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import xxhash

from runtime.errors import GovernanceError, SameSigner
from runtime.ledger.classes import OVERRIDE
from runtime.ledger.crosswalk import CrosswalkRow
from runtime.ledger.order_lines import OrderTerms
from runtime.ledger.rules import BY_CODE, KNOWN, ExceptionType, Rulebook

SIGNER_CHARS_MAX = 64
ACCOUNT_CHARS_MAX = 64
MAPPING_ROWS_MAX = 10_000  # rows of one proposal
DECISION_EXCEPTIONS_MAX = 10_000  # exceptions of one decision: it goes to every shard as one log entry

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


class MasterData(NamedTuple):
    """What a row of the crosswalk may be about, and how it may answer."""

    entities: frozenset[str]
    roles: frozenset[str]  # mapped to an account, or to a partner that is known
    answers: dict[str, frozenset[str]]  # of each policy; none named means that any is taken
    classes: dict[str, frozenset[str]]  # of each code table
    orders: tuple[OrderTerms, ...] = ()  # whose policies are levels and tolerances
    by_code: frozenset[str] = frozenset()  # roles that are mapped for each code, as NAME/CODE


def master_data(rulebook: Rulebook, entities: Iterable[str]) -> MasterData:
    """What this rulebook asks the crosswalk, for the configured entities."""
    answers: dict[str, frozenset[str]] = dict.fromkeys(rulebook.policy, frozenset())
    for role in rulebook.role.values():
        if role.by == "policy":
            answers[role.policy] = answers.get(role.policy, frozenset()) | frozenset(role.cases)
    classes = {name: frozenset[str]() for name in rulebook.table}
    for kind in rulebook.kind.values():
        if kind.classify:
            classes[kind.classify] |= frozenset(kind.case)
    partners = {name for name, role in rulebook.role.items() if role.by == KNOWN}
    orders = tuple(terms for terms in rulebook.register.values() if isinstance(terms, OrderTerms))
    return MasterData(frozenset(entities), rulebook.roles() | partners, answers, classes, orders, rulebook.by_code())


def mapping_rows(given: Sequence[Mapping[str, Any]], master: MasterData) -> list[CrosswalkRow]:
    """Proposed rows, checked; empty values count as absent. GovernanceError names row (from 1) and field."""
    if not 0 < len(given) <= MAPPING_ROWS_MAX:
        raise GovernanceError(f"a proposal has 1 to {MAPPING_ROWS_MAX} rows, this one has {len(given)}")
    rows = [_row(number, row, master) for number, row in enumerate(given, 1)]
    _refuse_contradictions(rows)
    return rows


def _row(number: int, given: Mapping[str, Any], master: MasterData) -> CrosswalkRow:
    try:
        row = msgspec.convert({name: value for name, value in given.items() if value not in ("", None)}, CrosswalkRow)
    except msgspec.ValidationError as error:
        raise GovernanceError(f"row {number}: {error}") from None
    for field, fault in _faults(row, master):
        if fault:
            raise GovernanceError(f"row {number}: {field}: {getattr(row, field)[:ACCOUNT_CHARS_MAX]!r} {fault}")
    return row


def _faults(row: CrosswalkRow, master: MasterData) -> Iterator[tuple[str, str]]:
    """Each field with what is wrong with it, "" where nothing is."""
    yield "entity", "" if row.entity == "*" or row.entity in master.entities else "is not a configured entity"
    fits = 0 < len(row.account) <= ACCOUNT_CHARS_MAX
    yield "account", "" if fits else f"has more than {ACCOUNT_CHARS_MAX} characters"
    answers = _answers(row.role, master)
    yield "role", "is nothing that a rule asks for" if answers is None else ""
    for terms in master.orders:
        yield "account", terms.check_policy(row.role, row.account)
    known = not answers or row.account in answers
    yield "account", "" if known else f"is no answer to {row.role}; known are {', '.join(sorted(answers))}"


def _answers(role: str, master: MasterData) -> Collection[str] | None:
    """What a role may be mapped to: empty for anything; None when nobody asks for it."""
    if role.startswith(OVERRIDE):
        table, _, code = role.removeprefix(OVERRIDE).partition("/")
        return code and master.classes.get(table) or None
    name, _, code = role.partition(BY_CODE)
    if name in master.by_code:
        return () if code else None
    return () if role in master.roles else master.answers.get(role)


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
    """Exception types under which no event is held, though an event is named; and what else may only speak of one."""

    noted: frozenset[str]  # raised beside what an event does
    delivery: frozenset[str]  # of journal entries
    items: tuple[str, ...]  # whose remarks carry their names


_OF_BOOKS = frozenset({"reconciliation_break"})  # raised beside a journal entry; a person closes it
_DELIVERY = frozenset({"erp_rejected", "erp_unknown_outcome", "erp_unauthorised", "erp_timeout"})


def holding_types(rulebook: Rulebook) -> HoldingTypes:
    """What the rulebook says of its exception types. A type that may also hold an event counts as holding one."""
    rules = [rule for kind in rulebook.kind.values() for rule in (kind, *kind.case.values())]
    items = rulebook.item.values()
    holds = {name for item in items for name in (item.unopened, item.differs, item.twice, item.held)}
    holds |= {group.mismatch for group in rulebook.group.values()} | {role.missing for role in rulebook.role.values()}
    noted = {rule.raises for rule in rules} | _noted(rulebook)
    return HoldingTypes(frozenset((noted | _OF_BOOKS) - holds - {""}), _DELIVERY, tuple(rulebook.item))


def _noted(rulebook: Rulebook) -> set[str]:
    """The exceptions of registers that are told of settled events alone: such a register can hold none."""
    entered = {kind.links.enters.register for kind in rulebook.kind.values() if kind.links and kind.links.enters}
    told = {ref.register for kind in rulebook.kind.values() for ref in kind.noted}
    return {name for register in told - entered for name in rulebook.register[register].exceptions()}


def holds_event(exception: Mapping[str, Any], types: HoldingTypes) -> bool:
    """Whether an event is held under this exception, so that a decision can move it."""
    if not exception["event_id"] or exception["type"] in types.noted | types.delivery:
        return False
    return exception["exception_id"] not in _ids_of_remarks(exception, types.items)


def _ids_of_remarks(exception: Mapping[str, Any], items: Sequence[str]) -> set[str]:
    """The ids that an exception may have when it only speaks of an event: made of the event's name and of what remarks
    it (an item, or a register, which has no name), not of the event's identity."""
    of = (exception["type"], exception["source"] or "", exception["event_id"])
    return {xxhash.xxh64_hexdigest("\x1f".join((*of, remarker)).encode()) for remarker in ("", *items)}


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
