"""An ERP with bad days, over the memory twin: it throttles, loses answers, commits late, closes periods.

Owns which trouble a call meets, drawn from the seed, and what the ERP refused for good, so that the auditor can tell
an entry that was rejected from one that was lost.
"""

from collections.abc import Sequence

from adapters.erp.memory import MemoryErp
from runtime.ports import ErpAccount, ErpTerms, JournalEntry, Outcome
from simulation.clock import VirtualClock
from simulation.faults import Faults
from simulation.scenario import Scenario

TROUBLE = (
    "throttle",
    "unavailable",
    "unauthorised",
    "lose_request",
    "lose_answer_after_commit",
    "lose_answer_after_draft",
    "lose_answer_after_half",
    "commit_late",
)
QUOTA_WINDOW_MS = 10_000
QUOTAS = (1, 3, 10_000)
JOB_SHARE = 0.1  # of the settling time


class SimulatedErp:
    """ErpGateway over the twin, which finishes what runs late by itself, before the ERP's own time limit."""

    def __init__(self, scenario: Scenario, clock: VirtualClock, faults: Faults) -> None:
        self._rate = scenario.rates.erp
        self._clock, self._faults = clock, faults
        # A late call's job, too, must have ended within the time that the ERP states.
        job_s = JOB_SHARE * scenario.erp_terms.settle_s
        self.twin = MemoryErp(scenario.erp_terms, now_ms=lambda: clock.elapsed_ms, job_s=job_s)
        self.unasked = self.twin.unasked
        self.closed: dict[str, int] = {}  # period -> elapsed_ms at which it opens again
        self.refused: set[str] = set()  # keys that were rejected
        self._quota, self._calls, self._window_ms = QUOTAS[-1], 0, 0

    def heal(self) -> None:
        """Open everything, finish what still runs."""
        self.closed.clear()
        self._quota = QUOTAS[-1]
        self.twin.state = "up"

    def close_period(self, period: str, seconds: float) -> None:
        """Refuse a period's entries for a while."""
        self.closed[period] = self._clock.elapsed_ms + round(seconds * 1000)
        self._faults.happened("ERP period closed")

    def change_quota(self) -> None:
        """Allow more or fewer calls than before."""
        self._quota = self._faults.rng.choice(QUOTAS)
        self._faults.happened("ERP quota changed")

    def terms(self) -> ErpTerms:
        return self.twin.terms()

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        self._choose_trouble()
        shut = {} if self.terms().atomicity == "job" else self.closed  # a job's report comes later, from the twin
        barred = {entry.key for entry in entries if shut.get(entry.period, -1) >= self._clock.elapsed_ms}
        outcomes = self._refuse(entries, barred) if barred else self.twin.post(entries)
        self._clock.advance(self._faults.rng.choice((0, 5, 200)))
        self._note(outcomes, barred)
        return outcomes

    def _refuse(self, entries: Sequence[JournalEntry], barred: set[str]) -> list[Outcome]:
        """A closed period: all-or-nothing calls are refused as a whole, others in part."""
        self._faults.happened("ERP refused a closed period")
        if self.terms().atomicity == "all_or_nothing":
            return [Outcome(entry.key, "rejected", detail="period is closed") for entry in entries]
        self._faults.happened("ERP took part of a call")
        taken = {o.key: o for o in self.twin.post([entry for entry in entries if entry.key not in barred])}
        return [taken.get(entry.key) or Outcome(entry.key, "rejected", detail="period is closed") for entry in entries]

    def _note(self, outcomes: Sequence[Outcome], barred: set[str]) -> None:
        if len(outcomes) == 1 or self.terms().atomicity != "all_or_nothing":
            self.refused |= {o.key for o in outcomes if o.code == "rejected" and o.key in barred}

    def _choose_trouble(self) -> None:
        if self._faults.is_out("ERP away") or self._faults.is_out("ERP locked"):
            self.twin.state = "stopped" if self._faults.is_out("ERP away") else "locked"
            return
        self.twin.state = "up"
        if self._over_quota():
            self._faults.happened("ERP over quota")
            self.twin.plan("throttle")
        elif self._faults.chance(self._rate):
            trouble = self._faults.rng.choice(TROUBLE)
            self._faults.happened(f"ERP {trouble}")
            self.twin.plan(trouble)

    def _over_quota(self) -> bool:
        if self._clock.elapsed_ms - self._window_ms > QUOTA_WINDOW_MS:
            self._window_ms, self._calls = self._clock.elapsed_ms, 0
        self._calls += 1
        return self._calls > self._quota

    def shows(self, key: str) -> bool:
        """What a person who looks for this key finds."""
        return self.twin.shows(key)

    def progress(self, jobs: Sequence[str]) -> list[Outcome]:
        return self.twin.progress(jobs)

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        away = self._faults.is_out("ERP away") or self._faults.is_out("ERP locked")
        return None if away or self._faults.chance(self._rate / 2) else self.twin.lookup(keys)

    def shown(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        return self.twin.shown(keys)

    def trial_balance(self) -> list[ErpAccount]:
        self.twin.state = "up"
        return self.twin.trial_balance()

    def close(self) -> None:
        """Nothing to let go of."""
