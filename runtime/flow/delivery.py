"""What to do next at an ERP: send, send again, look up, ask for a job; and what each answer changes.

Owns doubts, jobs and what is tried apart, as memory that may be lost: the books hold each entry's state, and `recall`
builds the rest from them. Never calls an ERP, and never sends what is in doubt unless the ERP's own key protects it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from runtime.flow.calls import CallBounds, Isolation, next_call
from runtime.flow.outcomes import CALL_START_WITHIN_S, Call, Doubt, Judged, after_lookup, judge, next_step, not_sent
from runtime.ports import Delivery, ErpTerms, JournalEntry, Outcome

ASK_FIRST_S, ASK_MAX_S = 2.0, 60.0  # between two questions after one job, and two lookups of one key in vain
ASK_JOBS_MAX = 20  # jobs in one question
JOB_SILENCE_S = 6 * 3600.0  # a job that says nothing for so long leaves its entries in doubt
RESEND_FIRST_S, RESEND_MAX_S = 1.0, 300.0  # before a call in doubt is sent again, doubling
LOST_TOGETHER_MAX = 2  # times that entries are lost and not there; then they are tried apart: one may break the ERP


class Send(NamedTuple):
    """Post these entries."""

    call: Call


class LookUp(NamedTuple):
    """Ask for these keys, whose time has come."""

    keys: tuple[str, ...]


class Ask(NamedTuple):
    """Ask what became of these jobs."""

    jobs: tuple[str, ...]


Action = Send | LookUp | Ask


class Progress(NamedTuple):
    """How many entries are where, of those that this desk has in hand."""

    in_calls: int
    in_jobs: int
    unknown: int
    suspects: int


class _Doubted(NamedTuple):
    """An entry in doubt, and the call that it was sent with: sent again, it goes with the same. `asked`: how often it
    was looked up in vain, as the ERP could not be asked; it is again at `ask_ms`."""

    doubt: Doubt
    entry: JournalEntry
    sent_ms: int
    asked: int = 0
    ask_ms: int = 0


class _Job(NamedTuple):
    """Entries that an ERP works on."""

    call: Call
    since_ms: int
    ask_ms: int
    asked: int = 0


class Desk:
    """All that is under way at one ERP. Give every outcome that it returns to the books."""

    def __init__(self, terms: ErpTerms, bounds: CallBounds) -> None:
        self._terms, self._bounds = terms, bounds
        self._isolation = Isolation()
        self._doubts: dict[str, _Doubted] = {}
        self._jobs: dict[str, _Job] = {}
        self._doubted: set[str] = set()  # sent before with an answer that was lost, and not proven absent since
        self._first_sent: dict[str, int] = {}
        self._lost: Counter[str] = Counter()  # by key: how often it was sent, lost, looked up and not there
        self._busy: set[str] = set()  # keys and jobs of calls under way

    # ── from the books ──

    def recall(self, deliveries: Sequence[Delivery], now_ms: int) -> list[Outcome]:
        """Take over what the books hold in flight and unknown; the outcomes to record.

        Who was sending may be doing so still, though no call starts later than its deadline, and no part of it that
        books later than the ERP's terms say: doubts settle from then. Instants of another process say nothing of the
        time that elapsed since, as clocks may be set in between.
        """
        lost_ms = now_ms + round((CALL_START_WITHIN_S + self._terms.begins_s) * 1000)
        outcomes, jobs = [], {}
        for delivery in deliveries:
            key = delivery.entry.key
            self._first_sent[key] = self._first_use(delivery)
            if delivery.attempts > 1 or delivery.state == "unknown":
                self._doubted.add(key)
            if delivery.state == "in_flight" and delivery.erp_ref:
                jobs.setdefault(delivery.erp_ref, []).append(delivery.entry)
                continue
            if delivery.state == "in_flight":
                outcomes.append(Outcome(key, "unknown", detail="its sender stopped"))
            self._doubt(delivery.entry, lost_ms, delivery.sent_ms)
        self._jobs |= {job: _Job(tuple(entries), now_ms, now_ms) for job, entries in jobs.items()}
        return outcomes

    def ended_by_people(self, unknown: Collection[str]) -> None:
        """Let go of doubts that the books do not hold any more, as only these are `unknown`: somebody has looked."""
        self._let_go(self._doubts.keys() - self._busy - set(unknown))

    def progress(self) -> Progress:
        """What is in hand."""
        in_jobs = sum(len(job.call) for job in self._jobs.values())
        keys = len([key for key in self._busy if key not in self._jobs])
        return Progress(keys, in_jobs, len(self._doubts), len(self._isolation.suspects()))

    def suspects(self) -> set[str]:
        """Keys that wait to be tried apart."""
        return self._isolation.suspects()

    def try_apart(self, entry: JournalEntry) -> None:
        """Send this sealed entry by itself, as it was refused before."""
        self._isolation.add((entry,))

    # ── what next ──

    def give_up(self, now_ms: int) -> list[Outcome]:
        """Outcomes of what nothing can resolve: doubts without key and lookup are parked, jobs that keep silent are in
        doubt."""
        hopeless = [
            Outcome(key, "parked", detail="the ERP has neither a key nor a lookup")
            for key, held in self._doubts.items()
            if key not in self._busy and next_step(self._terms, held.doubt, now_ms) == "park"
        ]
        silent = [
            (name, job)
            for name, job in self._jobs.items()
            if name not in self._busy and now_ms - job.since_ms >= JOB_SILENCE_S * 1000
        ]
        for name, job in silent:
            hopeless += self._in_doubt(job.call, f"job {name} did not end", now_ms)
            del self._jobs[name]
        for outcome in hopeless:
            if outcome.code == "parked":
                self._settle(outcome.key, over=True)
        self._isolation.forget({outcome.key for outcome in hopeless})
        return hopeless

    def due(self, now_ms: int) -> Action | None:
        """What has waited long enough, before anything new is sent: jobs, then lookups, then calls to send again."""
        jobs = [name for name, job in self._jobs.items() if job.ask_ms <= now_ms and name not in self._busy]
        if jobs:
            return Ask(tuple(sorted(jobs, key=lambda name: self._jobs[name].ask_ms)[:ASK_JOBS_MAX]))
        suspects = self._isolation.suspects()
        ripe: dict[str, list[_Doubted]] = {"look_up": [], "send_again": []}
        for key, held in self._doubts.items():
            step = next_step(self._terms, held.doubt, now_ms)
            if step in ripe and key not in self._busy and key not in suspects:
                ripe[step].append(held)
        if lookup := self._next_lookup([held for held in ripe["look_up"] if held.ask_ms <= now_ms]):
            return lookup
        again = [held for held in ripe["send_again"] if _resend_ms(held.doubt) <= now_ms]
        if again:
            first = min(again, key=lambda held: held.doubt.lost_ms)
            together = next_call([held.entry for held in again if held.sent_ms == first.sent_ms], self._bounds)
            return Send(together[: max(1, len(together) >> max(0, first.doubt.resends - LOST_TOGETHER_MAX))])
        return None

    def _next_lookup(self, ripe: Sequence[_Doubted]) -> LookUp | None:
        """The oldest ones together. After a lookup in vain by halves, as one key may be what can't be asked for."""
        oldest = sorted(ripe, key=lambda held: held.doubt.lost_ms)[: self._terms.lookup_keys_max]
        together = max(1, self._terms.lookup_keys_max >> max((held.asked for held in oldest), default=0))
        return LookUp(tuple(held.doubt.key for held in oldest[:together])) if oldest else None

    def choose(self, sealed: Sequence[Delivery], now_ms: int, admitted: Collection[str] | None = None) -> Send | None:
        """The next call of entries that may be sent, or that must be tried apart and are of `admitted` entities."""
        # Nobody but a person who has looked seals what is in doubt.
        self._let_go({delivery.entry.key for delivery in sealed} & self._doubts.keys() - self._busy)
        for delivery in sealed:
            if delivery.first_sent_ms:
                self._first_sent.setdefault(delivery.entry.key, self._first_use(delivery))
        self._isolation.forget(self._unprotected(now_ms))
        call = self._isolation.choose([delivery.entry for delivery in sealed], self._bounds, self._busy, admitted)
        return Send(call) if call else None

    def _first_use(self, delivery: Delivery) -> int:
        """When somebody else first used a key. Where a lookup can tell, that is not relied on (0: not known)."""
        return 0 if self._terms.lookup else delivery.first_sent_ms

    def stands(self, action: Action, now_ms: int) -> bool:
        """Whether an action that was chosen may be begun now: of what it sends, nothing is in doubt without a key."""
        return not isinstance(action, Send) or self._unprotected(now_ms).isdisjoint(_names(action))

    def _unprotected(self, now_ms: int) -> set[str]:
        """Keys in doubt that may not be sent again, though their group is being tried apart."""
        return {
            key
            for key, held in self._doubts.items()
            if key not in self._busy and next_step(self._terms, held.doubt, now_ms) != "send_again"
        }

    # ── what comes of it ──

    def began(self, action: Action, now_ms: int) -> None:
        """This is under way; nothing else is done with its entries or jobs until it ended."""
        self._busy.update(_names(action))
        if isinstance(action, Send):
            for entry in action.call:
                self._first_sent.setdefault(entry.key, now_ms)

    def left_out(self, action: Action, detail: str) -> list[Outcome]:
        """The call was not made; outcomes to record."""
        self._busy.difference_update(_names(action))
        return not_sent(action.call, self._doubted, detail) if isinstance(action, Send) else []

    def sent(self, action: Send, answered: Sequence[Outcome], now_ms: int) -> list[Outcome]:
        """The call was answered, or given up; outcomes to record."""
        self._busy.difference_update(_names(action))
        judged = judge(self._terms, action.call, answered, self._doubted)
        self._isolation.learn(action.call, judged)
        return self._learn(action.call, judged, now_ms)

    def looked_up(self, action: LookUp, found: Mapping[str, Outcome] | None, now_ms: int) -> list[Outcome]:
        """The lookup was answered, or not (None): then others go on, and it is made again later. Outcomes to record."""
        self._busy.difference_update(action.keys)
        for key in action.keys if found is None else ():
            held = self._doubts[key]
            ask_ms = now_ms + _ask_wait_ms(held.asked)
            self._doubts[key] = held._replace(asked=held.asked + 1, ask_ms=ask_ms)
        outcomes = after_lookup(action.keys, found)
        self._try_lost_apart([self._doubts[o.key] for o in outcomes if o.code == "unavailable"])
        for outcome in outcomes:
            if outcome.code == "unknown":
                held = self._doubts[outcome.key]
                self._doubt(held.entry, now_ms, held.sent_ms)
            else:
                self._settle(outcome.key, over=outcome.code == "posted")
        return outcomes

    def _try_lost_apart(self, absent: Sequence[_Doubted]) -> None:
        """Entries that were lost together again and again: what breaks the ERP must not hold up the others for ever."""
        self._lost.update(held.doubt.key for held in absent)
        often = [held for held in absent if self._lost[held.doubt.key] >= LOST_TOGETHER_MAX]
        for sent_ms in dict.fromkeys(held.sent_ms for held in often):
            self._isolation.split(tuple(held.entry for held in often if held.sent_ms == sent_ms))

    def asked(self, action: Ask, answered: Sequence[Outcome], now_ms: int) -> list[Outcome]:
        """What is known of the jobs; outcomes to record of those that have ended."""
        self._busy.difference_update(action.jobs)
        by_key, outcomes = {outcome.key: outcome for outcome in answered}, []
        for name in action.jobs:
            job = self._jobs[name]
            known = [by_key[entry.key] for entry in job.call if entry.key in by_key]
            if known:
                del self._jobs[name]
                judged = judge(self._terms, job.call, known, self._doubted)
                self._isolation.learn(job.call, judged)
                outcomes += self._learn(job.call, judged, now_ms)
            else:
                self._jobs[name] = job._replace(ask_ms=now_ms + _ask_wait_ms(job.asked), asked=job.asked + 1)
        return outcomes

    def _learn(self, call: Call, judged: Judged, now_ms: int) -> list[Outcome]:
        by_job: dict[str, list[JournalEntry]] = {}
        entries = {entry.key: entry for entry in call}
        sent_ms = max((self._doubts[key].sent_ms for key in entries if key in self._doubts), default=now_ms)
        for outcome in judged.outcomes:
            entry = entries[outcome.key]
            if outcome.code == "unknown":
                self._doubt(entry, now_ms, sent_ms, outcome.key in judged.proof_needed)
            elif outcome.code == "accepted":
                by_job.setdefault(outcome.erp_ref, []).append(entry)
                self._doubts.pop(outcome.key, None)
            else:
                self._settle(outcome.key, over=outcome.code in ("posted", "rejected", "parked"))
        ask_ms = now_ms + round(ASK_FIRST_S * 1000)
        for name, accepted in by_job.items():
            known = self._jobs[name].call if name in self._jobs else ()
            self._jobs[name] = _Job((*known, *accepted), now_ms, ask_ms)
        return judged.outcomes

    def _in_doubt(self, call: Call, detail: str, now_ms: int) -> list[Outcome]:
        for entry in call:
            self._doubt(entry, now_ms, now_ms)
        return [Outcome(entry.key, "unknown", detail=detail) for entry in call]

    def _doubt(self, entry: JournalEntry, lost_ms: int, sent_ms: int, proof_needed: bool = False) -> None:
        held = self._doubts.get(entry.key)
        resends = held.doubt.resends + 1 if held else 0
        needed = proof_needed or (held is not None and held.doubt.proof_needed)
        doubt = Doubt(entry.key, lost_ms, self._first_sent.get(entry.key, 0), resends, needed)
        self._doubts[entry.key] = _Doubted(doubt, entry, sent_ms)
        self._doubted.add(entry.key)

    def _let_go(self, keys: Collection[str]) -> None:
        self._isolation.forget(keys)
        for key in keys:
            self._settle(key, over=True)

    def _settle(self, key: str, over: bool) -> None:
        """What became of the entry is known; `over`: nothing more is done with it."""
        self._doubts.pop(key, None)
        self._doubted.discard(key)
        if over:
            self._first_sent.pop(key, None)
            self._lost.pop(key, None)


def _names(action: Action) -> Iterable[str]:
    if isinstance(action, Send):
        return [entry.key for entry in action.call]
    return action.keys if isinstance(action, LookUp) else action.jobs


def _ask_wait_ms(asked: int) -> int:
    return round(1000 * min(ASK_MAX_S, ASK_FIRST_S * 2 ** min(asked, 16)))


def _resend_ms(doubt: Doubt) -> int:
    return doubt.lost_ms + round(1000 * min(RESEND_MAX_S, RESEND_FIRST_S * 2 ** min(doubt.resends, 16)))
