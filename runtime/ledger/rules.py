"""The rulebook: kinds, the items and groups they match through, and exception types, as checked data.

Owns reading and checking a rule file's text. Never applies a rule: `posting` and `matching` do.
"""

import tomllib
from typing import Literal

import msgspec

from runtime import schema
from runtime.errors import RulebookError

DIMENSIONS = ("facility", "department")


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One balanced pair of account roles; both sides take the event's whole amount."""

    debit: str
    credit: str


class ItemRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item that an event opens or consumes, and the column that holds its key."""

    item: str
    key: Literal["document", "reference"]


class GroupRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group that an event belongs to or closes. `sign`: how a member counts in the sum; 0 waits without counting."""

    group: str
    key: Literal["document", "reference"]
    sign: Literal[1, -1, 0] = 1


class Links(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a kind matches."""

    opens: ItemRef | None = None
    consumes: ItemRef | None = None
    member_of: GroupRef | None = None
    closes: GroupRef | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an event posts. See the head of standard.toml for the meaning of each field."""

    mode: Literal["immediate", "summary", "none"] = "none"
    entry_by: Literal["document", "reference", ""] = ""
    lane: int = 9
    keep: tuple[str, ...] = ()
    post: tuple[Pair, ...] = ()
    raises: str = ""


class Kind(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of event: its rule, or one rule for each class that a code table gives it."""

    flow: str
    scope: Literal["facility", "entity"]
    requires: tuple[str, ...] = ()
    sign: Literal["positive", "any"] = "positive"
    links: Links | None = None
    classify: str = ""
    case: dict[str, Rule] = {}


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Codes and their classes."""

    codes: dict[str, str]


class Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role that stands for another one, chosen by a fact of the event or by a policy."""

    by: Literal["payer", "reason", "policy"]
    cases: dict[str, str]
    policy: str = ""
    default: str = ""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an open item is used up, how long it may wait, and what becomes of it."""

    use: Literal["part", "whole"]
    wait_days: int
    unopened: str
    unused: str
    differs: str


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum of members that must equal the closing event's amount."""

    wait_days: int
    mismatch: str


class ExceptionType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who owns an exception, how grave it is, and when it must be looked at and ended."""

    owner: Literal["revenue_cycle", "finance_operations", "integration_support"]
    severity: Literal["low", "medium", "high"]
    triage_h: int
    resolve_h: int
    action: str


class Rulebook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All rules of one Penstock."""

    kind: dict[str, Kind]
    role: dict[str, Role] = {}
    table: dict[str, Table] = {}
    item: dict[str, Item] = {}
    group: dict[str, Group] = {}
    exception: dict[str, ExceptionType] = {}

    def kind_terms(self) -> dict[str, schema.KindTerms]:
        """What validation needs of each kind."""
        return {name: schema.KindTerms(requires=k.requires, sign=k.sign) for name, k in self.kind.items()}

    def roles(self) -> frozenset[str]:
        """Every account role that an event may need."""
        all_rules = [rule for kind in self.kind.values() for rule in (kind, *kind.case.values())]
        named = {role for rule in all_rules for pair in rule.post for role in (pair.debit, pair.credit)}
        chosen = {actual for name in named & set(self.role) for actual in self.role[name].cases.values()}
        return frozenset(named - set(self.role) | chosen)

    def scopes(self) -> dict[str, str]:
        """kind -> scope, for routing."""
        return {name: kind.scope for name, kind in self.kind.items()}


_SECTIONS = {"kind": Kind, "role": Role, "table": Table, "item": Item, "group": Group, "exception": ExceptionType}

BUILT_IN_EXCEPTIONS = (
    "event_conflict",
    "mapping_missing",
    "unclassified_code",
    "duplicate_open_item",
    "open_items_full",
    "feed_malformed",
    "feed_rejected",
    "erp_rejected",
    "erp_unauthorised",
    "erp_unknown_outcome",
    "reconciliation_break",
    "shard_stopped",
)


def parse_rulebook(text: str) -> Rulebook:
    """Read and check a rule file. RulebookError names the kind, item or group and what is wrong."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RulebookError(f"rule file is not TOML: {error}") from None
    unknown = sorted(set(tables) - set(_SECTIONS))
    if unknown:
        raise RulebookError(f"rule file: unknown section {unknown[0]!r}; known are {', '.join(_SECTIONS)}")
    rulebook = Rulebook(**{name: _section(name, tables.get(name, {})) for name in _SECTIONS})
    faults = [*_exception_faults(rulebook), *_match_faults(rulebook)]
    for name, kind in rulebook.kind.items():
        faults += [f"kind.{name}: {fault}" for fault in [*_column_faults(kind), *_class_faults(kind, rulebook)]]
        for case, rule in {"": kind, **kind.case}.items():
            place = f"kind.{name}.case.{case}" if case else f"kind.{name}"
            faults += [f"{place}: {fault}" for fault in _posting_faults(rule)]
    faults += [fault for name, role in rulebook.role.items() for fault in _role_faults(name, role)]
    if faults:
        raise RulebookError("; ".join(faults))
    return rulebook


def _section(section: str, tables: dict) -> dict:
    """Each table of a section as its type, so that a fault can be named with its table."""
    if not isinstance(tables, dict):
        raise RulebookError(f"{section}: expected tables, as [{section}.NAME]")
    read = {}
    for name, table in tables.items():
        try:
            read[name] = msgspec.convert(table, _SECTIONS[section])
        except msgspec.ValidationError as error:
            raise RulebookError(f"{section}.{name}: {_spoken(str(error))}") from None
    return read


def _spoken(fault: str) -> str:
    if "missing required field `credit`" in fault or "missing required field `debit`" in fault:
        return f"{fault}: unbalanced, every line needs a debit and a credit role"
    return fault


def _column_faults(kind: Kind) -> list[str]:
    faults = [f"requires {c!r}, which is not a column" for c in kind.requires if c not in schema.COLUMNS]
    filled = {*kind.requires, *schema.REQUIRED}
    links = kind.links or Links()
    refs = [ref for ref in (links.opens, links.consumes, links.member_of, links.closes) if ref]
    faults += [f"is keyed by {ref.key!r}, which it does not require" for ref in refs if ref.key not in filled]
    for rule in (kind, *kind.case.values()):
        if rule.entry_by and rule.entry_by not in filled:
            faults.append(f"entry_by {rule.entry_by!r} is not required")
    if kind.scope == "facility" and "facility" not in filled:
        faults.append("scope facility needs `facility` in requires")
    return faults


def _class_faults(kind: Kind, rulebook: Rulebook) -> list[str]:
    if not kind.classify:
        return ["has cases, but no table in classify"] if kind.case else []
    if kind.classify not in rulebook.table:
        return [f"classify {kind.classify!r} is no table"]
    classes = set(rulebook.table[kind.classify].codes.values())
    faults = [f"class {name!r} of table {kind.classify} has no case" for name in sorted(classes - set(kind.case))]
    if kind.post:
        faults.append("posts by its cases, and can't post beside them")
    return faults


def _role_faults(name: str, role: Role) -> list[str]:
    if role.by == "payer" and set(role.cases) != {"insurer", "patient"}:
        return [f"role.{name}: by payer needs the cases insurer and patient"]
    if role.by == "policy" and (not role.policy or role.default not in role.cases):
        return [f"role.{name}: by policy needs a policy, and a default that is one of its cases"]
    return []


def _posting_faults(kind: Rule) -> list[str]:
    faults = [f"keep {d!r} is no dimension" for d in kind.keep if d not in DIMENSIONS]
    if (kind.mode == "none") != (not kind.post):
        faults.append("mode none posts nothing, every other mode posts something")
    if (kind.mode == "immediate") != bool(kind.entry_by):
        faults.append("mode immediate needs entry_by, and only it")
    faults += [f"post: {p.debit} against itself" for p in kind.post if p.debit == p.credit]
    return faults


def _match_faults(rulebook: Rulebook) -> list[str]:
    every = [kind.links for kind in rulebook.kind.values() if kind.links]
    opened = {links.opens.item for links in every if links.opens}
    consumed = {links.consumes.item for links in every if links.consumes}
    joined = {links.member_of.group for links in every if links.member_of}
    closed = {links.closes.group for links in every if links.closes}
    faults = [f"item.{name}: not declared" for name in sorted((opened | consumed) - set(rulebook.item))]
    faults += [f"group.{name}: not declared" for name in sorted((joined | closed) - set(rulebook.group))]
    faults += [f"item.{name}: no kind opens it" for name in sorted(set(rulebook.item) - opened)]
    faults += [f"group.{name}: no kind closes it" for name in sorted(set(rulebook.group) - closed)]
    return faults


def _exception_faults(rulebook: Rulebook) -> list[str]:
    needed = set(BUILT_IN_EXCEPTIONS)
    for item in rulebook.item.values():
        needed |= {item.unopened, item.differs} | ({item.unused} - {"expires"})
    needed |= {rule.raises for kind in rulebook.kind.values() for rule in (kind, *kind.case.values())} - {""}
    needed |= {group.mismatch for group in rulebook.group.values()}
    return [f"exception.{name}: not declared" for name in sorted(needed - set(rulebook.exception))]
