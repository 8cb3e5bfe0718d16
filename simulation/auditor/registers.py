"""Registers, each written a second time as a function over all facts it was given.

Owns which registers have such a model: kinds that enter another one are left out of workloads, and named by
`unmodelled`. Findings are kept by row number.
"""

from collections.abc import Callable
from datetime import date
from typing import Any

import xxhash

from runtime.ledger.rules import Rulebook
from simulation.auditor.accounts import Accounts
from simulation.auditor.bills import Bills
from simulation.auditor.candidates import Candidates
from simulation.auditor.claims import Claims
from simulation.auditor.denials import Denials
from simulation.auditor.held_items import FlagKey
from simulation.auditor.inverses import Inverses
from simulation.auditor.matching import Matching
from simulation.auditor.order_lines import OrderLines
from simulation.auditor.owners import Owners
from simulation.auditor.payments import Payments
from simulation.auditor.takebacks import Takebacks

Row = dict[str, Any]
MODELS: dict[str, Callable] = {
    "order_lines": OrderLines,
    "bills": Bills,
    "payments": Payments,
    "claims": Claims,
    "denials": Denials,
    "takebacks": Takebacks,
    "candidates": Candidates,
    "inverses": Inverses,
    "owners": Owners,
}
NOTHING: Row = {"measures": {}, "fault": "", "facility": "", "department": ""}


def unmodelled(rulebook: Rulebook) -> frozenset[str]:
    """Kinds that enter a register which nobody has written a second time yet."""
    strange = {name for name, terms in rulebook.register.items() if terms.__struct_config__.tag not in MODELS}
    entered = {name: kind.links.enters for name, kind in rulebook.kind.items() if kind.links and kind.links.enters}
    return frozenset(name for name, ref in entered.items() if ref.register in strange)


class Registers:
    """All registers of one shard."""

    def __init__(self, rulebook: Rulebook, accounts: Accounts, matching: Matching) -> None:
        self._rulebook, self._accounts, self._matching = rulebook, accounts, matching
        self.bases: dict[int, tuple[date, date, int] | None] = {}  # as of when rows are decided on; None for now
        self._findings: dict[int, Row] = {}
        self._holds: dict[tuple, bool] = {}
        self.told: set[tuple[str, str, str]] = set()  # status, source, event_id
        self._derived: list[Row] = []
        self.flags: dict[FlagKey, tuple[str, str, str, int]] = {}  # -> entity, facility, currency, amount
        matching.marked = self.flags
        self._models = {
            name: MODELS[terms.__struct_config__.tag](terms, accounts, self)
            for name, terms in rulebook.register.items()
            if terms.__struct_config__.tag in MODELS
        }

    def enter(self, number: int, row: Row, posted_on: date, now_ms: int) -> str:
        """Enter a ready row, once; the exception that holds it, "" for none."""
        row = self._as_of(number, row, posted_on)
        ref = self._rulebook.kind[row["kind"]].links.enters if self._rulebook.kind[row["kind"]].links else None
        if ref is None or number in self._findings:
            return ""
        key = row[ref.key] or ""
        if not key and not ref.optional:
            return ""
        finding = {**NOTHING, **self._models[ref.register].take(ref.part, key, row, now_ms)}
        if not finding["fault"]:
            self._findings[number] = finding
        return finding["fault"]

    def _as_of(self, number: int, row: Row, posted_on: date) -> Row:
        """The row, with the day and version as of which it is decided on."""
        links = self._rulebook.kind[row["kind"]].links
        if links and links.inverts and number not in self.bases:
            own = (row["effective_on"], posted_on, self._accounts.newest)
            basis = self._models[links.inverts.register].basis(row, links.inverts, own)
            self.bases[number] = None if basis == own else basis
        on, _, newest = self.bases.get(number) or (None, None, None)
        return row | {"effective_on": on, "newest": newest} if on else row

    def as_of(self, number: int, row: Row) -> list[Row]:
        """A row as it is decided on: now, or as one was that came earlier, and was held until a version answered."""
        on, posted_on, version = self.bases.get(number) or (None, None, None)
        if on is None:
            return [row]
        then = row | {"effective_on": on, "posted_on": posted_on}
        return [then | {"newest": newest} for newest in self._accounts.since(version)] or [then]

    def note_owner(self, row: Row) -> None:
        """Keep whose a document is, of a row that comes."""
        ref = self._rulebook.kind[row["kind"]].links.tells_owner
        if ref and row["account"] is not None:
            self._models[ref.register].note(row, ref.key)

    def owned(self, row: Row) -> Row:
        """A row that names no account, as if it told whose it is as far as is known."""
        links = self._rulebook.kind[row["kind"]].links
        if row["account"] is not None or not links or not links.owned_by:
            return row
        return self._models[links.owned_by.register].filled(row, links.owned_by.key)

    def note(self, ref: Any, row: Row, now_ms: int) -> None:
        """Tell a register of a row that is settled."""
        if row[ref.key] or ref.optional:
            self._models[ref.register].take(ref.part, row[ref.key] or "", row, now_ms)

    def finding(self, number: int) -> Row:
        """What a row's register found of it."""
        return self._findings.get(number, NOTHING)

    def forget(self, numbers: list[int]) -> None:
        """Rows that people took out of the books."""
        for number in numbers:
            self._findings.pop(number, None)
            self.bases.pop(number, None)

    def age(self, now_ms: int) -> None:
        """Let time pass."""
        for model in self._models.values():
            model.age(now_ms)

    # what models ask for

    def flag(self, type: str, who: Row, amount: int, facility: str = "") -> None:
        """Raise an exception about a row."""
        told = (who["entity"], facility, who["currency"], amount)
        self.flags.setdefault((type, who["source"], who["event_id"]), told)

    def retell(self, type: str, who: Row, amount: int) -> None:
        """Its amount is another one, if nobody has ended it."""
        key = (type, who["source"], who["event_id"])
        if key in self.flags:
            self.flags[key] = (*self.flags[key][:3], amount)

    def end(self, type: str, who: Row) -> None:
        """End it."""
        self.flags.pop((type, who["source"], who["event_id"]), None)

    def hold(self, key: tuple[str, str, str], hold: str, who: Row, *, on: bool) -> None:
        """Hold an open item because of a row, or end that hold. What begins and ends between two looks is nothing."""
        asked = (key, hold, who["source"], who["event_id"])
        if self._holds.pop(asked, on) == on:
            self._holds[asked] = on

    def tell(self, status: str, who: Row) -> None:
        """Consumers are told something of a row."""
        self.told.add((status, who["source"], who["event_id"]))

    def derive(self, kind: str, cause: str, columns: Row) -> None:
        """An event that follows."""
        event_id = f"{kind}:{xxhash.xxh64_hexdigest(cause.encode())}"
        self._derived.append({**columns, "kind": kind, "event_id": event_id, "source": "penstock"})

    def take_derived(self) -> list[Row]:
        """Events that followed since the last call."""
        derived, self._derived = self._derived, []
        return derived

    def apply_holds(self) -> None:
        """Do what was asked of open items."""
        holds, self._holds = self._holds, {}
        for key, hold, *cause in (asked for asked, on in holds.items() if on):
            self._matching.hold(key, hold, tuple(cause))
        for key, hold, *cause in (asked for asked, on in holds.items() if not on):
            self._matching.unhold(key, hold, tuple(cause))
