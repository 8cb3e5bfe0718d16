"""The rulebook: kinds, the items and groups they match through, and exception types, as checked data.

Owns reading and checking a rule file's text. Never applies a rule: `posting` and `matching` do.
"""

import tomllib
from typing import Literal

import msgspec

from runtime import schema
from runtime.errors import RulebookError
from runtime.ledger import amounts
from runtime.ledger.account_balances import AccountTerms
from runtime.ledger.bills import BillTerms
from runtime.ledger.candidates import CandidateTerms
from runtime.ledger.claims import ClaimTerms
from runtime.ledger.links import ALIAS, Derive, ItemRef, KeyColumn, Links, Pair, RegisterRef, Tell
from runtime.ledger.order_lines import OrderTerms
from runtime.ledger.takebacks import TakebackTerms

RegisterTerms = OrderTerms | BillTerms | ClaimTerms | TakebackTerms | CandidateTerms | AccountTerms

DIMENSIONS = ("facility", "department")
KNOWN = "known"  # how a role is chosen that only asks whether a partner is mapped


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an event posts. See standard/fields.md for the meaning of each field."""

    mode: Literal["immediate", "summary", "none"] = "none"
    entry_by: KeyColumn | Literal[""] = ""
    lane: int = 9
    keep: tuple[str, ...] = ()
    post: tuple[Pair, ...] = ()
    maps: tuple[str, ...] = ()
    raises: str = ""

    @property
    def measured(self) -> bool:
        """Whether its pairs take other amounts than the event's own."""
        return any(pair.amount != amounts.AMOUNT for pair in self.post)


class Kind(Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of event: its rule, or one rule for each class that a code table gives it."""

    flow: str
    scope: Literal["facility", "entity"]
    requires: tuple[str, ...] = ()
    sign: Literal["positive", "any"] = "positive"
    links: Links | None = None
    classify: str = ""
    case: dict[str, Rule] = {}
    balance: Literal[1, -1, 0] = 0
    derived: bool = False
    derives: tuple[Derive, ...] = ()
    tells: Tell | None = None


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Codes and their classes."""

    codes: dict[str, str]


class Role(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role that stands for another one, chosen by a fact of the event or by a policy."""

    by: Literal["payer", "reason", "policy", "known"]
    cases: dict[str, str] = {}
    policy: str = ""
    default: str = ""
    missing: str = ""
    named_by: str = ""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an open item is used up, how long it may wait, and what becomes of it. See standard/fields.md."""

    use: Literal["part", "whole", "exists"]
    wait_days: int
    unopened: str
    unused: str
    differs: str = ""
    keep_days: int = 0
    remember_days: int = 0
    twice: str = "duplicate_open_item"
    announces: str = ""
    held_by: tuple[str, ...] = ()
    held: str = ""
    overdue: str = ""
    tells: str = ""


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum of members that must equal the closing event's amount."""

    wait_days: int
    mismatch: str


class PolicyTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy's answer where no mapping gives one."""

    default: str


class ExceptionType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who owns an exception, how grave it is, and in how many hours it must be looked at and ended."""

    owner: Literal["revenue_cycle", "finance_operations", "integration_support"]
    severity: Literal["low", "medium", "high"]
    triage_h: float
    resolve_h: int
    action: str
    redrive: Literal["free", "approved"] = "free"


class Rulebook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All rules of one Penstock."""

    kind: dict[str, Kind]
    role: dict[str, Role] = {}
    table: dict[str, Table] = {}
    item: dict[str, Item] = {}
    group: dict[str, Group] = {}
    register: dict[str, RegisterTerms] = {}
    policy: dict[str, PolicyTerms] = {}
    exception: dict[str, ExceptionType] = {}

    def kind_terms(self, *, derived: bool = False) -> dict[str, schema.KindTerms]:
        """What validation needs of each kind; of those that only the runtime itself sends, when `derived`."""
        kinds = {name: kind for name, kind in self.kind.items() if derived or not kind.derived}
        return {name: schema.KindTerms(requires=kind.requires, sign=kind.sign) for name, kind in kinds.items()}

    def roles(self) -> frozenset[str]:
        """Every account role that an event may need."""
        all_rules = [rule for kind in self.kind.values() for rule in (kind, *kind.case.values())]
        named = {role for rule in all_rules for pair in rule.post for role in (pair.debit, pair.credit)}
        named |= {role for rule in all_rules for role in rule.maps}
        chosen = {actual for name in named & set(self.role) for actual in self.role[name].cases.values()}
        known = {name for name, role in self.role.items() if role.by == KNOWN}
        return frozenset(named - set(self.role) | chosen) - known

    def pairs(self) -> dict[str, int]:
        """How many pairs of its own amount each kind posts; 0 for those that post other amounts."""
        every = {name: (kind, *kind.case.values()) for name, kind in self.kind.items()}
        return {
            name: 0 if any(rule.measured for rule in rules) else max(len(rule.post) for rule in rules)
            for name, rules in every.items()
        }

    def told_kinds(self) -> dict[str, str]:
        """kind -> flow, for kinds whose documents consumers are told of: those that tell, and the lines of such."""
        telling = {name: kind for name, kind in self.kind.items() if kind.tells}
        flows = {kind.flow for kind in telling.values()}
        lines = {name: kind for name, kind in self.kind.items() if kind.entry_by == "correlation_id"}
        return {name: kind.flow for name, kind in (telling | lines).items() if kind.flow in flows}

    def scopes(self) -> dict[str, str]:
        """kind -> scope, for routing."""
        return {name: kind.scope for name, kind in self.kind.items()}


_SECTIONS = {
    "kind": Kind,
    "role": Role,
    "table": Table,
    "item": Item,
    "group": Group,
    "register": RegisterTerms,
    "policy": PolicyTerms,
    "exception": ExceptionType,
}

BUILT_IN_EXCEPTIONS = (
    "event_conflict",
    "mapping_missing",
    "unclassified_code",
    "duplicate_open_item",
    "open_items_full",
    "approval_refused",
    "derived_rejected",
    "consumer_stopped",
    "feed_malformed",
    "feed_rejected",
    "erp_rejected",
    "erp_unauthorised",
    "erp_unknown_outcome",
    "reconciliation_break",
    "conservation_break",
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
    faults = [*_exception_faults(rulebook), *_match_faults(rulebook), *_derive_faults(rulebook)]
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
    filled |= {ALIAS} if "document" in filled else set()
    links = kind.links or Links()
    needed = [ref for ref in links.all if not (isinstance(ref, (ItemRef, RegisterRef)) and ref.optional)]
    faults += [f"is keyed by {ref.key!r}, which it does not require" for ref in needed if ref.key not in filled]
    faults += [fault for sum_of in _sums(kind) if (fault := _sum_fault(sum_of))]
    if links.consumes and links.releases:
        faults.append("consumes one item and releases another: it can wait for one alone")
    if links.member_of and links.closes:
        faults.append("belongs to a group and closes one: it can wait for one alone")
    for derive in kind.derives:
        faults += [f"derives where {c!r}, which is not a column" for c in derive.where if c not in schema.COLUMNS]
        if derive.to == "counterparty" and "counterparty" not in {*filled, *derive.where}:
            faults.append("derives to the counterparty, which it does not require")
    for rule in (kind, *kind.case.values()):
        if rule.entry_by and rule.entry_by not in filled:
            faults.append(f"entry_by {rule.entry_by!r} is not required")
    if kind.scope == "facility" and "facility" not in filled:
        faults.append("scope facility needs `facility` in requires")
    return faults


def _sums(kind: Kind) -> list[str]:
    """Every sum of names that a kind writes down."""
    links = kind.links or Links()
    rules = (kind, *kind.case.values())
    taken = [ref.amount for ref in (*links.opened, *links.expects, links.consumes) if ref]
    announced = [links.closes.total] if links.closes else []
    return [*taken, *announced, *(pair.amount for rule in rules for pair in rule.post)]


def _sum_fault(sum_of: str) -> str:
    try:
        amounts.terms(sum_of)
    except RulebookError as error:
        return str(error)
    return ""


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
    if role.by == KNOWN and not role.missing:
        return [f"role.{name}: by known needs the exception that is missing"]
    return []


def _posting_faults(kind: Rule) -> list[str]:
    faults = [f"keep {d!r} is no dimension" for d in kind.keep if d not in DIMENSIONS]
    if (kind.mode == "none") != (not kind.post):
        faults.append("mode none posts nothing, every other mode posts something")
    if (kind.mode == "immediate") != bool(kind.entry_by):
        faults.append("mode immediate needs entry_by, and only it")
    faults += [f"post: {p.debit} against itself" for p in kind.post if p.debit == p.credit and not p.variance]
    return faults


def _match_faults(rulebook: Rulebook) -> list[str]:
    every = [kind.links for kind in rulebook.kind.values() if kind.links]
    opened = {ref.item for links in every for ref in links.opened}
    consumed = {links.consumes.item for links in every if links.consumes}
    consumed |= {ref.item for links in every for ref in links.expects}
    consumed |= {links.releases.item for links in every if links.releases}
    entered = {links.enters.register for links in every if links.enters}
    joined = {links.member_of.group for links in every if links.member_of}
    closed = {links.closes.group for links in every if links.closes}
    faults = [f"item.{name}: not declared" for name in sorted((opened | consumed) - set(rulebook.item))]
    faults += [f"group.{name}: not declared" for name in sorted((joined | closed) - set(rulebook.group))]
    faults += [f"register.{name}: not declared" for name in sorted(entered - set(rulebook.register))]
    faults += [*_part_faults(rulebook), *_measure_faults(rulebook)]
    faults += [f"item.{name}: no kind opens it" for name in sorted(set(rulebook.item) - opened)]
    faults += [f"group.{name}: no kind closes it" for name in sorted(set(rulebook.group) - closed)]
    return faults


def _part_faults(rulebook: Rulebook) -> list[str]:
    """Kinds that are entered as something that their register does not know."""
    entered = [(name, kind.links.enters) for name, kind in rulebook.kind.items() if kind.links and kind.links.enters]
    known = {name: terms.PARTS for name, terms in rulebook.register.items()}
    told = {name: ", ".join(sorted(parts)) or "nothing" for name, parts in known.items()}
    return [
        f"kind.{name}: enters {ref.register} as {ref.part!r}; it knows {told[ref.register]}"
        for name, ref in entered
        if ref.register in known and ref.part not in known[ref.register]
    ]


def _measure_faults(rulebook: Rulebook) -> list[str]:
    """Amounts that nothing ever finds: a misspelt one would count as zero, and silently post nothing."""
    return [
        f"kind.{name}: amount {term!r} is neither its own, nor an attribute (`..._minor`), nor found by its register"
        for name, kind in rulebook.kind.items()
        for term in sorted(_names(kind) - _findable(kind, rulebook))
        if not term.endswith("_minor")
    ]


def _names(kind: Kind) -> set[str]:
    """Every name in its sums that can be read."""
    return {term for sum_of in _sums(kind) if not _sum_fault(sum_of) for _, term in amounts.terms(sum_of)}


def _findable(kind: Kind, rulebook: Rulebook) -> frozenset[str]:
    entered = kind.links.enters.register if kind.links and kind.links.enters else ""
    found = rulebook.register[entered].MEASURES if entered in rulebook.register else frozenset()
    return found | {amounts.AMOUNT, "quantity"}


def _derive_faults(rulebook: Rulebook) -> list[str]:
    derived = {(f"kind.{name}", rule.kind) for name, kind in rulebook.kind.items() for rule in kind.derives}
    registers = rulebook.register.items()
    derived |= {(f"register.{name}", terms.derives) for name, terms in registers if isinstance(terms, CandidateTerms)}
    known = {name for name, kind in rulebook.kind.items() if kind.derived}
    faults = [f"{place}: derives {to!r}, which is no derived kind" for place, to in sorted(derived) if to not in known]
    held = {name: terms.payable for name, terms in registers if isinstance(terms, (OrderTerms, BillTerms))}
    return faults + [f"register.{name}: holds {of!r}, no item" for name, of in held.items() if of not in rulebook.item]


def _exception_faults(rulebook: Rulebook) -> list[str]:
    needed = set(BUILT_IN_EXCEPTIONS)
    for item in rulebook.item.values():
        named = {item.unopened, item.differs, item.unused, item.twice, item.announces, item.held, item.overdue}
        needed |= named - {"", "expires"}
    needed |= {rule.raises for kind in rulebook.kind.values() for rule in (kind, *kind.case.values())} - {""}
    needed |= {group.mismatch for group in rulebook.group.values()}
    needed |= {role.missing for role in rulebook.role.values()} - {""}
    needed |= {fault for terms in rulebook.register.values() for fault in terms.exceptions()}
    return [f"exception.{name}: not declared" for name in sorted(needed - set(rulebook.exception))]
