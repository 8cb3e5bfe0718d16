"""Reading a rule file: what its tables may hold, and whether they fit together.

Owns every check of a rulebook and the words for what is wrong. Never applies a rule, and knows no file.
"""

import tomllib

import msgspec

from runtime import schema
from runtime.errors import RulebookError
from runtime.ledger import amounts
from runtime.ledger.bills import BillTerms
from runtime.ledger.candidates import CandidateTerms
from runtime.ledger.inverses import InverseTerms
from runtime.ledger.links import ALIAS, ItemRef, Links, RegisterRef
from runtime.ledger.order_lines import OrderTerms
from runtime.ledger.owners import OwnerTerms
from runtime.ledger.rules import (
    DIMENSIONS,
    KNOWN,
    REASON,
    ExceptionType,
    Group,
    Item,
    Kind,
    PolicyTerms,
    RegisterTerms,
    Role,
    Rule,
    Rulebook,
    Table,
)

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
    "erp_timeout",
    "erp_unknown_outcome",
    "reconciliation_break",
    "conservation_break",
    "shard_stopped",
    "log_cut_short",
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
    faults = [*_exception_faults(rulebook), *_match_faults(rulebook), *_derive_faults(rulebook), *_due_faults(rulebook)]
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
    every = (*links.all, *kind.noted)
    needed = [ref for ref in every if not (isinstance(ref, (ItemRef, RegisterRef)) and ref.optional)]
    faults += [f"is keyed by {ref.key!r}, which it does not require" for ref in needed if ref.key not in filled]
    faults += [fault for sum_of in _sums(kind) if (fault := _sum_fault(sum_of))]
    if links.consumes and links.releases:
        faults.append("consumes one item and releases another: it can wait for one alone")
    if links.member_of and links.closes:
        faults.append("belongs to a group and closes one: it can wait for one alone")
    for derive in (*kind.derives, *kind.if_taken_out):
        told = (("where", derive.where), ("without", derive.without))
        faults += [
            f"derives {way} {c!r}, which is not a column" for way, some in told for c in some if c not in schema.COLUMNS
        ]
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
        lacking = {"has cases": kind.case, "is refined": kind.refined_by, "is classified": kind.classify_by != REASON}
        return [f"{what}, but no table in classify" for what, given in lacking.items() if given]
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
    if role.by == REASON and bool(role.default) == bool(role.missing):
        return [f"role.{name}: by reason needs a default role, or the exception of a code that is missing"]
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
    entered |= {ref.register for kind in rulebook.kind.values() for ref in kind.noted}
    asked = (ref for links in every for ref in (links.inverts, links.tells_owner, links.owned_by))
    entered |= {ref.register for ref in asked if ref}
    joined = {links.member_of.group for links in every if links.member_of}
    closed = {links.closes.group for links in every if links.closes}
    faults = [f"item.{name}: not declared" for name in sorted((opened | consumed) - set(rulebook.item))]
    faults += [f"group.{name}: not declared" for name in sorted((joined | closed) - set(rulebook.group))]
    faults += [f"register.{name}: not declared" for name in sorted(entered - set(rulebook.register))]
    faults += [
        *_part_faults(rulebook),
        *_measure_faults(rulebook),
        *_clock_faults(rulebook),
        *_asked_faults(rulebook),
        *_booking_faults(rulebook),
        *_alias_faults(rulebook),
    ]
    faults += [f"item.{name}: no kind opens it" for name in sorted(set(rulebook.item) - opened)]
    faults += [f"group.{name}: no kind closes it" for name in sorted(set(rulebook.group) - closed)]
    return faults


def _clock_faults(rulebook: Rulebook) -> list[str]:
    """Kinds that open items of several keys whose time runs only while the opener is ready: one key is remembered."""
    timed = {name for name, item in rulebook.item.items() if item.while_ready}
    opened = {name: kind.links.opened for name, kind in rulebook.kind.items() if kind.links}
    keys = {name: {ref.key for ref in refs if ref.item in timed} for name, refs in opened.items()}
    return [f"kind.{name}: opens items that are while_ready by several keys" for name in keys if len(keys[name]) > 1]


def _asked_faults(rulebook: Rulebook) -> list[str]:
    """Kinds that ask a register for what they take back, or whose they are, that knows nothing of that."""
    telling, owned = rulebook.owning()
    asked = [(name, "inverts by", ref, InverseTerms) for name, ref in rulebook.inverting().items()]
    asked += [(name, "tells owners to", ref, OwnerTerms) for name, ref in telling.items()]
    asked += [(name, "is owned by", ref, OwnerTerms) for name, ref in owned.items()]
    return [
        f"kind.{name}: {what} {ref.register}, which is not of type {terms.__struct_config__.tag}"
        for name, what, ref, terms in asked
        if ref.register in rulebook.register and not isinstance(rulebook.register[ref.register], terms)
    ]


def _booking_faults(rulebook: Rulebook) -> list[str]:
    """Items that wait for a group to be booked, and are opened by what does not close it under their key."""
    opened = [
        (ref, rulebook.item[ref.item].once_booked, kind.links.closes)
        for kind in rulebook.kind.values()
        for ref in (kind.links.opened if kind.links else ())
        if ref.item in rulebook.item
    ]
    return [
        f"item.{ref.item}: once_booked {group!r}: who opens it must close that group by the same column"
        for ref, group, closes in opened
        if group and (not closes or (closes.group, closes.key) != (group, ref.key))
    ]


def _alias_faults(rulebook: Rulebook) -> list[str]:
    """Items of whose aliases nobody is asked, or that nothing tells apart."""
    return [
        f"item.{name}: alias {item.alias!r} needs apart_by, and must be a policy"
        for name, item in rulebook.item.items()
        if item.alias and (not item.apart_by or item.alias not in rulebook.policy)
    ]


def _part_faults(rulebook: Rulebook) -> list[str]:
    """Kinds that are entered as something that their register does not know."""
    entered = [(name, kind.links.enters) for name, kind in rulebook.kind.items() if kind.links and kind.links.enters]
    entered += [(name, ref) for name, kind in rulebook.kind.items() for ref in kind.noted]
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
    rules = [(name, rule) for name, kind in rulebook.kind.items() for rule in (*kind.derives, *kind.if_taken_out)]
    derived = {(f"kind.{name}", rule.kind) for name, rule in rules}
    registers = rulebook.register.items()
    listed = {(name, rule.unlisted_in) for name, rule in rules}
    by_reason = {"", *(name for name, role in rulebook.role.items() if role.by == REASON)}
    derived |= {(f"register.{name}", terms.derives) for name, terms in registers if isinstance(terms, CandidateTerms)}
    known = {name for name, kind in rulebook.kind.items() if kind.derived}
    faults = [f"{place}: derives {to!r}, which is no derived kind" for place, to in sorted(derived) if to not in known]
    faults += [
        f"kind.{name}: derives unlisted_in {of!r}, no role by reason"
        for name, of in sorted(listed)
        if of not in by_reason
    ]
    held = {name: terms.payable for name, terms in registers if isinstance(terms, (OrderTerms, BillTerms))}
    return faults + [f"register.{name}: holds {of!r}, no item" for name, of in held.items() if of not in rulebook.item]


def _due_faults(rulebook: Rulebook) -> list[str]:
    """Exceptions whose times are given in no unit, or in two."""
    times = [
        (f"exception.{name}: {due}", hours, days)
        for name, rule in rulebook.exception.items()
        for due, hours, days in (
            ("triage", rule.triage_h, rule.triage_days),
            ("resolve", rule.resolve_h, rule.resolve_days),
        )
    ]
    return [
        f"{what}_h or {what.rpartition(' ')[2]}_days must be above zero, and only one of them"
        for what, hours, days in times
        if min(hours, days) < 0 or (hours > 0) == (days > 0)
    ]


def _exception_faults(rulebook: Rulebook) -> list[str]:
    needed = set(BUILT_IN_EXCEPTIONS)
    for item in rulebook.item.values():
        named = {item.unopened, item.differs, item.spent, item.unused, item.twice}
        needed |= (named | {item.announces, item.held, item.overdue}) - {"", "expires"}
    consumed = [kind.links.consumes for kind in rulebook.kind.values() if kind.links and kind.links.consumes]
    needed |= {fault for ref in consumed for fault in ref.agrees.values()}
    needed |= {rule.raises for kind in rulebook.kind.values() for rule in (kind, *kind.case.values())} - {""}
    needed |= set(rulebook.conflicts().values())
    needed |= {group.mismatch for group in rulebook.group.values()}
    needed |= {role.missing for role in rulebook.role.values()} - {""}
    needed |= {fault for terms in rulebook.register.values() for fault in terms.exceptions()}
    return [f"exception.{name}: not declared" for name in sorted(needed - set(rulebook.exception))]
