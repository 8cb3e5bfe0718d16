"""An ERP in memory: the twin of the real ones, whose failures are a plan.

Owns what an ERP knows (companies, posted entries, drafts) and how it is asked. Never waits: what would take time
happens when the caller says so.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from runtime.errors import ErpError
from runtime.ports import ErpAccount, ErpTerms, JournalEntry, Outcome, OutcomeCode

TERMS = ErpTerms(
    native_key="none", atomicity="all_or_nothing", settle_s=5.0, lines_max=200, entries_max=50, concurrency=1
)  # Tryton's

# What one call to `post` meets. "reject:<key>" is no item of its own call: it refuses that entry for ever.
Fault = Literal[
    "none",
    "throttle",
    "unavailable",
    "unauthorised",
    "lose_request",  # never arrived
    "lose_answer_after_commit",
    "lose_answer_after_draft",  # created, not posted
    "commit_late",  # still running when the caller gives up: done at `settle`
]
_REFUSED: dict[str, OutcomeCode] = {
    "throttle": "throttled",
    "unavailable": "unavailable",
    "unauthorised": "unauthorised",
}
_REJECT = "reject:"


class MemoryCompany(msgspec.Struct, frozen=True, kw_only=True):
    """What an entity's company takes: its currency, its postable accounts, its open periods ("2026-10")."""

    currency: str
    accounts: frozenset[str]
    periods: frozenset[str]


class MemoryErp:
    """Any entity, account and period is fine when `companies` is None.

    `state` may be set at any time: "stopped" answers nothing, "locked" refuses the credentials.
    `moves` holds what is posted, each with its number, in order; a key that is there twice was posted twice.
    """

    def __init__(
        self,
        terms: ErpTerms = TERMS,
        faults: Iterable[str] = (),
        companies: Mapping[str, MemoryCompany] | None = None,
    ) -> None:
        self._terms, self._companies = terms, companies
        self._plan: deque[str] = deque()
        self._refused_keys: set[str] = set()
        self._drafts: list[JournalEntry] = []
        self._late: list[Sequence[JournalEntry]] = []
        self._numbers: dict[str, list[str]] = defaultdict(list)
        self.state: Literal["up", "stopped", "locked"] = "up"
        self.moves: list[tuple[str, JournalEntry]] = []
        self.plan(*faults)

    def plan(self, *faults: str) -> None:
        """Append to what the coming calls meet."""
        for fault in faults:
            if fault.startswith(_REJECT):
                self._refused_keys.add(fault.removeprefix(_REJECT))
            elif fault in get_args(Fault):
                self._plan.append(fault)
            else:
                raise ValueError(f"no such fault: {fault}")

    def settle(self) -> None:
        """Finish what was still running."""
        late, self._late = self._late, []
        for entries in late:
            self._apply(entries)

    def terms(self) -> ErpTerms:
        return self._terms

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        fault = self._met()
        if fault in _REFUSED:
            return _all(entries, _REFUSED[fault], fault)
        if fault == "none":
            return self._apply(entries)
        if fault == "lose_answer_after_commit":
            self._apply(entries)
        elif fault == "lose_answer_after_draft":
            self._drafts += entries
        elif fault == "commit_late":
            self._late.append(entries)
        return _all(entries, "unknown", fault)

    def progress(self, jobs: Sequence[str]) -> list[Outcome]:
        return []

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        if self.state != "up":
            return None
        asked = set(keys)
        drafts = [entry for entry in self._drafts if entry.key in asked]
        self._drafts = [entry for entry in self._drafts if entry.key not in asked]
        for entry in drafts:
            if entry.key not in self._numbers:
                self._apply([entry])
        return {key: self._found(key) for key in keys if key in self._numbers}

    def trial_balance(self) -> list[ErpAccount]:
        if self.state != "up":
            raise ErpError(f"the ERP is {self.state}")
        sums: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        for _, entry in self.moves:
            for line in entry.lines:
                sums[entry.entity, entry.currency, line.account_code][line.side] += line.amount_minor
        return [ErpAccount(*account, sides["D"], sides["C"]) for account, sides in sorted(sums.items())]

    def close(self) -> None:
        """Nothing to let go of."""

    def _met(self) -> str:
        if self.state != "up":
            return {"stopped": "unavailable", "locked": "unauthorised"}[self.state]
        return self._plan.popleft() if self._plan else "none"

    def _apply(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        reasons = {entry.key: reason for entry in entries if (reason := self._refusal(entry))}
        if reasons and self._terms.atomicity == "all_or_nothing":
            return _all(entries, "rejected", next(iter(reasons.values())))
        return [
            Outcome(entry.key, "rejected", detail=reasons[entry.key]) if entry.key in reasons else self._book(entry)
            for entry in entries
        ]

    def _refusal(self, entry: JournalEntry) -> str:
        """Why the ERP will not have this entry; empty when it will."""
        if entry.key in self._refused_keys:
            return f"entry {entry.key}: refused"
        if not entry.lines:
            return f"entry {entry.key}: has no lines"
        if sum(line.amount_minor if line.side == "D" else -line.amount_minor for line in entry.lines):
            return f"entry {entry.key}: debits and credits differ"
        return "" if self._companies is None else _misfit(entry, self._companies.get(entry.entity))

    def _book(self, entry: JournalEntry) -> Outcome:
        if self._terms.native_key == "none" or entry.key not in self._numbers:
            number = f"{entry.entity}/{len(self.moves) + 1}"
            self.moves.append((number, entry))
            self._numbers[entry.key].append(number)
        return self._found(entry.key)

    def _found(self, key: str) -> Outcome:
        first, *more = self._numbers[key]
        return Outcome(key, "posted", first, "duplicate key in ERP" if more else "")


def _misfit(entry: JournalEntry, company: MemoryCompany | None) -> str:
    if company is None:
        return f"entry {entry.key}: no company for {entry.entity}"
    if entry.currency != company.currency:
        return f"entry {entry.key}: not in its company's currency {company.currency}"
    if entry.posted_on.strftime("%Y-%m") not in company.periods:
        return f"entry {entry.key}: no open period of {entry.entity} holds {entry.posted_on}"
    unknown = [line.account_code for line in entry.lines if line.account_code not in company.accounts]
    return f"entry {entry.key}: {entry.entity} has no one account {unknown[0]}" if unknown else ""


def _all(entries: Iterable[JournalEntry], code: OutcomeCode, detail: str) -> list[Outcome]:
    return [Outcome(entry.key, code, detail=detail) for entry in entries]
