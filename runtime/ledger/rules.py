"""The rulebook: kinds, the items and groups they match through, and exception types, as checked data.

Owns their forms and what can be asked of them. Never reads or checks a file (`rule_file` does), and never applies a
rule: `posting` and `matching` do.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from runtime import schema
from runtime.ledger import amounts
from runtime.ledger.account_balances import AccountTerms
from runtime.ledger.bills import BillTerms
from runtime.ledger.candidates import CandidateTerms
from runtime.ledger.claims import ClaimTerms
from runtime.ledger.denials import DenialTerms
from runtime.ledger.inverses import InverseTerms
from runtime.ledger.links import Derive, InverseRef, KeyColumn, Links, OwnerRef, Pair, RegisterRef, Tell
from runtime.ledger.order_lines import OrderTerms
from runtime.ledger.owners import OwnerTerms
from runtime.ledger.payments import PaymentTerms
from runtime.ledger.takebacks import TakebackTerms

RegisterTerms = (
    OrderTerms
    | BillTerms
    | PaymentTerms
    | ClaimTerms
    | DenialTerms
    | TakebackTerms
    | CandidateTerms
    | InverseTerms
    | OwnerTerms
    | AccountTerms
)

DIMENSIONS = ("facility", "department")
KNOWN = "known"  # how a role is chosen that only asks whether a partner is mapped
REASON = "reason"  # how a role is chosen, or a class found, by the event's code
BY_CODE = "/"  # in the role of a code that no case lists, between the role's name and the code


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an event posts. See standard/fields.md for the meaning of each field."""

    mode: Literal["immediate", "summary", "none"] = "none"
    entry_by: KeyColumn | Literal[""] = ""
    lane: int = 9
    keep: tuple[str, ...] = ()
    post: tuple[Pair, ...] = ()
    maps: tuple[str, ...] = ()
    raises: str = ""
    noted_in: RegisterRef | None = None

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
    classify_by: Literal["reason", "account"] = "reason"
    refined_by: str = ""
    case: dict[str, Rule] = {}
    balance: Literal[1, -1, 0] = 0
    conflict: str = "event_conflict"
    derived: bool = False
    derives: tuple[Derive, ...] = ()
    if_taken_out: tuple[Derive, ...] = ()
    tells: Tell | None = None

    @property
    def noted(self) -> list[RegisterRef]:
        """The registers that its rules note events in."""
        return [rule.noted_in for rule in (self, *self.case.values()) if rule.noted_in]


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
    spent: str = ""
    keep_days: int = 0
    remember_days: int = 0
    twice: str = "duplicate_open_item"
    adds: bool = False
    awaits_more: bool = False
    announces: str = ""
    held_by: tuple[str, ...] = ()
    held: str = ""
    overdue: str = ""
    tells: str = ""
    apart_by: Literal["", "counterparty"] = ""
    alias: str = ""
    business_days: bool = False
    while_ready: bool = False
    once_booked: str = ""
    once_matched: bool = False


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum of members that must equal the closing event's amount."""

    wait_days: int
    mismatch: str


class PolicyTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy's answer where no mapping gives one."""

    default: str


class ExceptionType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who owns an exception, how grave it is, and in how many hours, or business days, it must be looked at and
    ended: of both units one is given."""

    owner: Literal["revenue_cycle", "finance_operations", "integration_support"]
    severity: Literal["low", "medium", "high"]
    action: str
    triage_h: float = 0
    triage_days: int = 0
    resolve_h: int = 0
    resolve_days: int = 0
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
        chosen |= {role.default for name in named & set(self.role) if (role := self.role[name]).by == REASON} - {""}
        known = {name for name, role in self.role.items() if role.by == KNOWN}
        return frozenset(named - set(self.role) | chosen) - known

    def pairs(self) -> dict[str, int]:
        """How many pairs of its own amount each kind posts; 0 for those that post other amounts, or whose cases differ
        in that."""
        return {name: _pairs((kind, *kind.case.values())) for name, kind in self.kind.items()}

    def told_kinds(self) -> dict[str, str]:
        """kind -> flow, for kinds whose documents consumers are told of: those that tell, and the lines of such."""
        telling = {name: kind for name, kind in self.kind.items() if kind.tells}
        flows = {kind.flow for kind in telling.values()}
        lines = {name: kind for name, kind in self.kind.items() if kind.entry_by == "correlation_id"}
        return {name: kind.flow for name, kind in (telling | lines).items() if kind.flow in flows}

    def conflicts(self) -> dict[str, str]:
        """kind -> the exception of an event whose id came with other content."""
        return {name: kind.conflict for name, kind in self.kind.items()}

    def inverting(self) -> dict[str, InverseRef]:
        """Kinds that may take back what was posted, and how that is found."""
        linked = {name: kind.links for name, kind in self.kind.items() if kind.links}
        return {name: links.inverts for name, links in linked.items() if links.inverts}

    def owning(self) -> tuple[dict[str, OwnerRef], dict[str, OwnerRef]]:
        """Kinds that tell whose their documents are, and kinds that ask for it where they name no account."""
        linked = {name: kind.links for name, kind in self.kind.items() if kind.links}
        telling = {name: links.tells_owner for name, links in linked.items() if links.tells_owner}
        return telling, {name: links.owned_by for name, links in linked.items() if links.owned_by}

    def scopes(self) -> dict[str, str]:
        """kind -> scope, for routing."""
        return {name: kind.scope for name, kind in self.kind.items()}

    def by_code(self) -> frozenset[str]:
        """Roles of which each code that no case lists is mapped by itself, as NAME/CODE."""
        return frozenset(name for name, role in self.role.items() if role.by == REASON and not role.default)


def _pairs(rules: Sequence[Rule]) -> int:
    counts = {0 if rule.measured else len(rule.post) for rule in rules if rule.post}
    return counts.pop() if len(counts) == 1 else 0


def uncoded(role: str) -> str:
    """A role's name in the rulebook, without the code that it may be of."""
    return role.partition(BY_CODE)[0]
