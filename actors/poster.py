"""The poster: brings the journal entries of one ERP from the books to the ERP, once each.

Owns the order of durable steps: seal, record the intent, call, record the outcome. Decides nothing itself (`sealing`,
`governor` and `delivery` do), never sleeps, keeps nothing that a crash may not take: a successor finds every entry's
state in the books, and treats what was in flight as unknown.
"""

import random
from collections.abc import Sequence

from runtime.config import ErpSection
from runtime.errors import BooksUnavailable
from runtime.flow.delivery import Call, Doubts, Isolation, after_lookup, call_bounds, gravest, judge
from runtime.flow.governor import Governor, GovernorState
from runtime.ledger.journal import Draft, numbered
from runtime.ledger.sealing import SealPolicy, plan_entries, whole_commits
from runtime.limits import Limits
from runtime.ports import Books, Clock, ErpGateway, JournalEntry, Metrics, Outcome

OWNER = "erp:main"
IDLE_S = 0.2  # between looks for new postings
BOOKS_RETRY_S = 1.0
DOUBTS_MAX = 1_000  # entries of unknown outcome at which nothing more is sent until some are looked up


class Poster:
    """One ERP connection's only sender. Call `start`, then `step` for ever; on any error build a new one.

    Raises Fenced when a newer poster has taken over: its owner stops it.
    """

    def __init__(
        self,
        books: Books,
        erp: ErpGateway,
        *,
        clock: Clock,
        limits: Limits,
        erp_section: ErpSection,
        entities: Sequence[str],
        holder: str,
        metrics: Metrics,
    ) -> None:
        self._books, self._erp, self._clock, self._metrics = books, erp, clock, metrics
        self._limits, self._section = limits, erp_section
        self._entities, self._holder = tuple(entities), holder
        self._unrecorded: list[Outcome] = []  # known here, perhaps not yet in the books
        self._committed_ms: dict[str, int] = {}  # of entries sealed by this poster, for their latency
        self._isolation = Isolation()

    def start(self) -> None:
        """Take over: fence every earlier poster, and doubt what it may have been sending."""
        terms = self._erp.terms()
        self._atomic, self._bounds = terms.atomicity == "all_or_nothing", call_bounds(terms, self._limits)
        self._policy = SealPolicy(min(self._limits.entry_lines_max, self._bounds.lines_max), self._section.seal_age_s)
        self._governor = Governor(self._section.calls_per_minute, terms.concurrency)
        self._doubts = Doubts(terms.settle_s)
        self._epoch = self._books.take_epoch(OWNER, self._holder).epoch
        self._jitter = random.Random(f"{self._holder}/{self._epoch}")
        while left := self._books.entries_in(self._entities, ["in_flight"], DOUBTS_MAX):
            self._record([Outcome(entry.key, "unknown", detail="its sender stopped") for entry in left])
        self._recall_doubts()

    def step(self) -> float:
        """Do the next useful thing, at most one ERP call; seconds until there may be more to do."""
        try:
            return self._advance()
        except BooksUnavailable:
            return BOOKS_RETRY_S

    def status(self) -> GovernorState:
        """How the ERP connection fares."""
        return self._governor.state()

    def _advance(self) -> float:
        # Before anything else, so that nothing is judged by states that the books do not show yet. To record the same
        # outcomes twice is harmless: nobody else moves these entries in between.
        self._record(self._unrecorded)
        self._show_rate()
        now_ms = self._clock.now_ms()
        ready_ms = self._governor.ready_at(now_ms)
        if ready_ms > now_ms:
            return (ready_ms - now_ms) / 1000
        if keys := self._doubts.due(now_ms, self._bounds.entries_max):
            self._look_up(keys)
        elif call := self._next_call(now_ms):
            self._send(call)
        else:
            return IDLE_S
        return max(0.0, (self._governor.ready_at(now_ms := self._clock.now_ms()) - now_ms) / 1000)

    # ── sealing ──

    def _next_call(self, now_ms: int) -> Call:
        if len(self._doubts) >= DOUBTS_MAX:
            return ()
        sealed = self._sealed()
        fresh = len(sealed) - len(self._isolation.suspects())
        # While the ERP does not answer, one sealed call is enough to find out; the rest folds into fewer entries.
        room = fresh < self._bounds.entries_max and (self._governor.answering() or not sealed)
        if room and self._seal(now_ms, 2 * self._bounds.entries_max - fresh):
            sealed = self._sealed()
        return self._isolation.choose(sealed, self._bounds)

    def _sealed(self) -> list[JournalEntry]:
        beside_suspects = 2 * self._bounds.entries_max + len(self._isolation.suspects())
        return self._books.entries_in(self._entities, ["sealed"], beside_suspects)

    def _seal(self, now_ms: int, entries_max: int) -> bool:
        """Seal the most urgent drafts. Dying before `seal` leaves a gap in the numbers and nothing else."""
        waiting = self._books.unclaimed_count(self._entities)
        self._metrics.gauge("deltas_waiting", waiting)
        if not waiting:
            return False
        sets_max = self._limits.seal_sets_max
        unclaimed = whole_commits(self._books.unclaimed(self._entities, sets_max), sets_max)
        drafts = plan_entries(unclaimed, now_ms, self._policy, entries_max)
        if drafts:
            self._seal_drafts(drafts)
        return bool(drafts)

    def _seal_drafts(self, drafts: list[Draft]) -> None:
        first = self._books.next_entry_no(OWNER, self._epoch, len(drafts))
        entries = [numbered(draft, first + i) for i, draft in enumerate(drafts)]
        self._books.seal(OWNER, self._epoch, entries)
        self._committed_ms |= {e.key: draft.committed_ms for e, draft in zip(entries, drafts, strict=True)}
        self._metrics.count("entries_sealed", len(entries))

    # ── delivery ──

    def _send(self, call: Call) -> None:
        self._intend(call)
        # Dying from here on leaves the entries in flight, which the next poster takes as unknown.
        self._governor.started(self._clock.now_ms())
        answered = self._erp.post(call)
        judged = judge(call, answered, self._atomic)
        outcome = gravest(answered if judged.isolate else judged.outcomes)
        self._finished(outcome, outcome.code)
        self._isolation.learn(call, judged)
        self._record(judged.outcomes)

    def _intend(self, call: Call) -> None:
        """Make the intent durable. When the books don't say whether it is, the entries go back unsent."""
        keys = [entry.key for entry in call]
        try:
            self._books.mark_in_flight(OWNER, self._epoch, keys)
        except BooksUnavailable:
            self._unrecorded = [Outcome(key, "unavailable", detail="not sent: books unavailable") for key in keys]
            raise

    def _look_up(self, keys: list[str]) -> None:
        self._governor.started(self._clock.now_ms())
        found = self._erp.lookup(keys)
        answer = Outcome("", "unavailable" if found is None else "posted")
        self._finished(answer, "looked_up" if found is not None else "unavailable")
        self._record(after_lookup(keys, found))
        if not self._doubts:
            self._recall_doubts()

    def _finished(self, outcome: Outcome, named: str) -> None:
        now_ms, jitter = self._clock.now_ms(), self._jitter.random()
        self._governor.finished(now_ms, outcome.code, outcome.retry_after_s, jitter)
        self._metrics.count("erp_calls", outcome=named)
        self._show_rate()

    def _show_rate(self) -> None:
        """Said again and again: a gauge that is not, drops out of what Ray exports."""
        self._metrics.gauge("governor_rate_per_minute", self._governor.state().rate_per_minute)

    # ── outcomes ──

    def _record(self, outcomes: list[Outcome]) -> None:
        if not outcomes:
            return
        self._unrecorded = outcomes
        self._books.record_outcomes(OWNER, self._epoch, outcomes)
        self._unrecorded = []
        now_ms = self._clock.now_ms()
        for outcome in outcomes:
            self._remember(outcome, now_ms)

    def _remember(self, outcome: Outcome, now_ms: int) -> None:
        if outcome.code == "unknown":
            self._doubts.add(outcome.key, now_ms)
            return
        self._doubts.end(outcome.key)
        if outcome.code in ("posted", "rejected"):
            committed_ms = self._committed_ms.pop(outcome.key, None)
            if outcome.code == "posted" and committed_ms is not None:
                self._metrics.observe("posting_latency_s", (now_ms - committed_ms) / 1000)

    def _recall_doubts(self) -> None:
        """Take over doubts that the books hold. When they began is not known there, so they settle from now."""
        now_ms = self._clock.now_ms()
        for entry in self._books.entries_in(self._entities, ["unknown"], DOUBTS_MAX):
            self._doubts.add(entry.key, now_ms)
