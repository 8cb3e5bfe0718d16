"""An ERP in memory: the twin of the real ones, whose failures are a plan.

Owns what an ERP knows (companies, posted entries, drafts, jobs), how it is asked, and its own count of calls. It takes
every form that `ErpTerms` can state. Never waits: what takes time happens by the clock it was given, or when the caller
says so.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec

from runtime.errors import ErpError
from runtime.ports import TWICE, ErpAccount, ErpTerms, JournalEntry, Outcome, OutcomeCode

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
    "lose_answer_after_draft",  # created, not posted; committed where there are no drafts
    "lose_answer_after_half",  # of the entries, where each is judged by itself; committed elsewhere
    "commit_late",  # still running when the caller gives up: done at `settle`, or late in the settling time
]
_REFUSED: dict[str, OutcomeCode] = {
    "throttle": "throttled",
    "unavailable": "unavailable",
    "unauthorised": "unauthorised",
}
_REJECT = "reject:"
_LATE_SHARE = 0.8  # of the settling time
_WINDOWS_MS = {"per_second": 1_000, "per_minute": 60_000, "per_day": 86_400_000}


class MemoryCompany(msgspec.Struct, frozen=True, kw_only=True):
    """What an entity's company takes: its currency, its postable accounts, its open periods ("2026-10")."""

    currency: str
    accounts: frozenset[str]
    periods: frozenset[str]


class _Job(NamedTuple):
    """Entries that were accepted, and when they are worked on."""

    entries: tuple[JournalEntry, ...]
    due_ms: int


class MemoryErp:
    """Any entity, account and period is fine when `companies` is None.

    `state` may be set at any time: "stopped" answers nothing, "locked" refuses the credentials.
    `moves` holds what is posted, each with its number, in order; a key that is there twice was posted twice. `calls`
    holds the instants of all calls, and `exceeded` counts those that came above a stated limit and were throttled.
    `job_refuses_all`: one bad entry makes a job reject every one.
    """

    def __init__(
        self,
        terms: ErpTerms = TERMS,
        faults: Iterable[str] = (),
        companies: Mapping[str, MemoryCompany] | None = None,
        *,
        now_ms: Callable[[], int] = lambda: 0,
        job_s: float = 2.0,
        job_refuses_all: bool = False,
    ) -> None:
        self._terms, self._companies, self._now_ms = terms, companies, now_ms
        self._job_ms, self._job_refuses_all = round(job_s * 1000), job_refuses_all
        self._jobs: dict[str, _Job] = {}
        self._reports: dict[str, list[Outcome]] = {}
        self._first_used: dict[str, int] = {}
        self._plan: deque[str] = deque()
        self._refused_keys: set[str] = set()
        self._drafts: list[JournalEntry] = []
        self._late: list[tuple[int, Sequence[JournalEntry]]] = []
        self._numbers: dict[str, list[str]] = defaultdict(list)
        self.unasked = Outcome("", "unavailable", detail="it does not answer")
        self.state: Literal["up", "stopped", "locked"] = "up"
        self.moves: list[tuple[str, JournalEntry]] = []
        self.calls: list[int] = []
        self.exceeded = 0
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
        for _, entries in late:
            self._take(entries)

    def terms(self) -> ErpTerms:
        return self._terms

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        if self._counted():
            return _all(entries, "throttled", "above a limit")
        fault = self._met()
        if fault in _REFUSED:
            return _all(entries, _REFUSED[fault], fault)
        if fault == "none":
            return self._take(entries)
        if fault == "lose_answer_after_draft" and self._terms.atomicity != "job" and self._terms.lookup:
            self._drafts += entries
        elif fault == "lose_answer_after_half" and self._terms.atomicity == "per_item":
            self._take(entries[: len(entries) // 2])
        elif fault == "commit_late":
            self._late.append((self._now_ms() + round(_LATE_SHARE * self._terms.settle_s * 1000), entries))
        elif fault != "lose_request":
            self._take(entries)
        return _all(entries, "unknown", fault)

    def progress(self, jobs: Sequence[str]) -> list[Outcome]:
        if self._counted():
            return [Outcome("", "throttled")]
        if self.state != "up":
            return [Outcome("", "unavailable")]
        return [outcome for job in jobs for outcome in self._reports.get(job, [])]

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        if not self._terms.lookup:
            raise AssertionError("asked for keys of an ERP that has no lookup")
        if self._counted() or self.state != "up":
            return None
        asked = set(keys)
        drafts = [entry for entry in self._drafts if entry.key in asked]
        self._drafts = [entry for entry in self._drafts if entry.key not in asked]
        for entry in drafts:
            if entry.key not in self._numbers:
                self._apply([entry], self._now_ms())
        return {key: self._found(key) for key in keys if key in self._numbers}

    def shown(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        if self._counted() or self.state != "up":
            return None
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

    def shows(self, key: str) -> bool:
        """Whether a person who looks finds an entry under this key, by now. No call is counted."""
        self._catch_up(self._now_ms())
        return key in self._numbers

    def _counted(self) -> bool:
        """Count a call, after all that is due by now; whether it is above a limit."""
        now_ms = self._now_ms()
        self.calls.append(now_ms)
        self._catch_up(now_ms)
        limits = [(getattr(self._terms, name), length_ms) for name, length_ms in _WINDOWS_MS.items()]
        above = any(limit and self._within(now_ms, length_ms) > limit for limit, length_ms in limits)
        self.exceeded += above
        return above

    def _catch_up(self, now_ms: int) -> None:
        """Do what was still to be done by then."""
        for due_ms, entries in [late for late in self._late if 0 < late[0] <= now_ms]:
            self._late.remove((due_ms, entries))
            self._take(entries, due_ms)
        for name in [name for name, job in self._jobs.items() if job.due_ms <= now_ms]:
            job = self._jobs.pop(name)
            self._reports[name] = self._apply(job.entries, job.due_ms)

    def _within(self, now_ms: int, length_ms: int) -> int:
        return sum(now_ms - length_ms < at for at in reversed(self.calls))

    def _take(self, entries: Sequence[JournalEntry], at_ms: int = 0) -> list[Outcome]:
        """Book the entries now, or make a job of them."""
        if self._terms.atomicity != "job":
            return self._apply(entries, at_ms or self._now_ms())
        name = f"job-{len(self._jobs) + len(self._reports) + 1}"
        self._jobs[name] = _Job(tuple(entries), (at_ms or self._now_ms()) + self._job_ms)
        return [Outcome(entry.key, "accepted", name) for entry in entries]

    def _apply(self, entries: Sequence[JournalEntry], at_ms: int) -> list[Outcome]:
        reasons = {entry.key: reason for entry in entries if (reason := self._refusal(entry))}
        whole = self._terms.atomicity == "all_or_nothing" or (self._terms.atomicity == "job" and self._job_refuses_all)
        if reasons and whole:
            return _all(entries, "rejected", next(iter(reasons.values())))
        return [
            Outcome(entry.key, "rejected", detail=reasons[entry.key])
            if entry.key in reasons
            else self._book(entry, at_ms)
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

    def _book(self, entry: JournalEntry, at_ms: int) -> Outcome:
        if not self._known(entry.key, at_ms):
            number = f"{entry.entity}/{len(self.moves) + 1}"
            self.moves.append((number, entry))
            self._numbers[entry.key].append(number)
        return self._found(entry.key)

    def _known(self, key: str, at_ms: int) -> bool:
        """Whether the ERP refuses this key by itself; it notes the key's first use."""
        first_ms = self._first_used.setdefault(key, at_ms)
        if self._terms.native_key == "windowed" and at_ms - first_ms >= self._terms.key_life_s * 1000:
            self._first_used[key] = at_ms
            return False
        return self._terms.native_key != "none" and key in self._numbers

    def _found(self, key: str) -> Outcome:
        first, *more = self._numbers[key]
        return Outcome(key, "posted", first, TWICE if more else "")


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
