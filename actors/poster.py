"""The poster: brings the journal entries of one ERP from the books to the ERP, once each.

Owns the order of durable steps: seal, record the intent and the governor, call, record the outcome. Decides nothing
itself (`sealing`, `governor` and `delivery` do), never sleeps, keeps nothing that a crash may not take: a successor
finds every entry's state in the books, and treats what was in flight as unknown.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from actors.erp_calls import TOO_LATE, Answered, Callers, ask, look_up, post
from actors.retrier import Retrier
from actors.sealer import Sealer
from runtime.config import ErpSection
from runtime.effects import of_the_runtime
from runtime.errors import BooksUnavailable, ErpError
from runtime.flow.calls import call_bounds, next_call
from runtime.flow.delivery import Action, Ask, Desk, LookUp, Send
from runtime.flow.governor import Governor, GovernorState, quota_of
from runtime.flow.locked_out import LockedOut
from runtime.flow.outcomes import CALL_START_WITHIN_S, Call, gravest
from runtime.limits import Limits
from runtime.ports import Books, Clock, Delivery, Metrics, Outcome, PeriodClose

OWNER = "erp:main"
IDLE_S = 0.2  # between looks for new postings
REST_S_MAX = 10.0  # between looks while the ERP must rest; Ray forgets a gauge that nobody has set for half a minute
BOOKS_RETRY_S = 1.0
DOUBTS_MAX = 1_000  # entries of unknown outcome at which nothing more is sent until some are resolved
ACCEPTED_MAX = 5_000  # entries in jobs at which nothing more is sent until some have ended
HELD_MAX = 20_000  # entries in flight or unknown that are taken over at once; only restored books can hold more
CLOSE_WAIT_S = 10.0  # for calls under way, when the poster is stopped
CLOSES_EVERY_S = 1.0  # between looks for ordered closes
PEOPLE_EVERY_S = 5.0  # between looks for doubts that people have ended
CALL_S_MAX = 2 * 3_600.0  # after which a call under way is taken as one that never ends
SILENCE_TOLD_S = 4 * 3_600.0  # without an answer from the ERP, after which somebody is asked to look
CALL_TIME_KEPT = 0.9  # of the longest time that calls took of late, at each further one


class PosterHealth(msgspec.Struct, frozen=True):
    """What the poster says of itself: its ERP's governor, how many entries are where, and how long answered calls take
    (0 before the first) and lost ones settle."""

    governor: GovernorState
    in_calls: int
    in_jobs: int
    unknown: int
    suspects: int
    sealed: int
    sets_waiting: int
    call_entries_max: int
    closing: list[str]
    call_s: float
    settle_s: float
    call_lines_max: int


class Poster:
    """One ERP connection's only sender. Call `start`, then `step` for ever; on any error build a new one.

    Raises Fenced when a newer poster has taken over: its owner stops it. Raises ErpError when a call never ends.
    """

    def __init__(
        self,
        books: Books,
        callers: Callers,
        *,
        clock: Clock,
        limits: Limits,
        erp_section: ErpSection,
        entities: Sequence[str],
        holder: str,
        metrics: Metrics,
    ) -> None:
        self._books, self._callers, self._clock, self._metrics = books, callers, clock, metrics
        self._limits, self._section = limits, erp_section
        self._entities, self._holder = tuple(entities), holder
        self._unrecorded: list[Outcome] = []  # known here, perhaps not yet in the books
        self._ended: deque[Answered] = deque()  # calls that ended and were not heard yet
        self._began_ms: list[int] = []  # of the calls under way
        self._closes: list[PeriodClose] = []
        self._closes_read_ms = self._people_heard_ms = 0
        self._sealed_seen = 0
        self._call_s = 0.0
        self._is_silence_told: bool | None = None  # None until something is known: a predecessor may have told it
        self._health: PosterHealth | None = None

    def start(self) -> None:
        """Take over: fence every earlier poster, and doubt what it may have been sending."""
        terms, now_ms = self._callers.terms(), self._clock.now_ms()
        self._bounds = call_bounds(terms, self._limits)
        self._desk = Desk(terms, self._bounds)
        self._epoch = self._books.take_epoch(OWNER, self._holder).epoch
        quota = quota_of(terms, self._section.calls_per_minute)
        self._kept = self._books.governor(OWNER)
        self._governor = Governor(quota, self._kept, now_ms)
        self._sealer = Sealer(
            self._books,
            OWNER,
            self._epoch,
            metrics=self._metrics,
            bounds=self._bounds,
            limits=self._limits,
            section=self._section,
            entities=self._entities,
        )
        self._locked_out = LockedOut(self._entities, terms.log_ins_apart)
        self._retrier = Retrier(self._books, OWNER, self._epoch, entities=self._entities, metrics=self._metrics)
        self._jitter = random.Random(f"{self._holder}/{self._epoch}")
        self._recall(now_ms)

    def _recall(self, now_ms: int) -> None:
        left = self._books.deliveries(self._entities, ["in_flight", "unknown"], HELD_MAX)
        self._more_held = len(left) == HELD_MAX
        self._record(self._desk.recall(left, now_ms))

    def step(self) -> float:
        """Hear what has come of calls, then start as many as may start; seconds until there may be more to do."""
        try:
            return self._advance()
        except BooksUnavailable:
            return BOOKS_RETRY_S

    def health(self) -> PosterHealth | None:
        """How the ERP connection fared at the end of the last step. Safe to ask from another thread."""
        return self._health

    def close(self) -> None:
        """Hear the calls under way, if they end soon, and let go. What does not is the successor's to find out."""
        try:
            self._hear_the_last()
        finally:
            self._callers.close()
            self._books.close()

    def _hear_the_last(self) -> None:
        until_ms = self._clock.now_ms() + round(CLOSE_WAIT_S * 1000)
        while self._health and self._under_way() and (left_ms := until_ms - self._clock.now_ms()) > 0:
            self._callers.wait(left_ms / 1000)
            self._hear_all()
            self._flush()
        if self._health:
            self._keep_governor()

    def _under_way(self) -> int:
        return self._governor.state(self._clock.now_ms()).in_flight

    def _advance(self) -> float:
        # Before anything else, so that nothing is judged by states that the books do not show yet. To record the same
        # outcomes twice is harmless: nobody else moves these entries in between.
        self._flush()
        self._hear_all()
        self._leave_what_hangs()
        self._record(self._desk.give_up(self._clock.now_ms()))
        self._tell_silence()
        self._sealer.count(self._clock.now_ms())
        self._show()
        idle_s = self._go_on()
        # What was posted is recorded while the next call is under way, so that the ERP does not wait for the books.
        self._flush()
        return self._rest(idle_s)

    def _go_on(self) -> float:
        """Start the next call, if one may start; seconds until there may be more to do."""
        now_ms = self._clock.now_ms()
        ready_ms = self._governor.ready_at(now_ms)
        if ready_ms > now_ms:
            return (ready_ms - now_ms) / 1000
        action = self._next_action(now_ms)
        if action is None:
            self._keep_governor()
            return IDLE_S
        self._start(action)
        self._hear_all()
        now_ms = self._clock.now_ms()
        return max(0, self._governor.ready_at(now_ms) - now_ms) / 1000

    def _rest(self, seconds: float) -> float:
        """Wait here for calls under way, as their end may be the next thing to do; else let the shell wait."""
        if not seconds or not self._under_way():
            return min(seconds, REST_S_MAX)
        self._callers.wait(min(seconds, IDLE_S))
        return 0.0

    # ── what next ──

    def _next_action(self, now_ms: int) -> Action | None:
        self._hear_people(now_ms)
        action = self._desk.due(now_ms)
        if isinstance(action, LookUp | Ask):
            return action
        hand = self._desk.progress()
        if self._more_held:  # nothing new is sent beside what nobody has in hand yet
            if not (hand.in_calls or hand.in_jobs or hand.unknown):
                self._recall(now_ms)
            return action
        if hand.unknown >= DOUBTS_MAX or hand.in_jobs >= ACCEPTED_MAX:
            return action
        return action or self._next_send(now_ms)

    def _next_send(self, now_ms: int) -> Action | None:
        self._read_closes(now_ms)
        if entry := self._retrier.look(now_ms):
            self._desk.try_apart(entry)
        admitted = self._locked_out.admitted(now_ms)
        sealed = self._sealed(admitted)
        suspects = self._desk.suspects()
        fresh = [delivery.entry for delivery in sealed if delivery.entry.key not in suspects]
        # While the ERP does not answer, one sealed call is enough to find out; the rest folds into fewer entries.
        if self._governor.answering() or not sealed:
            call = next_call(fresh, self._bounds)
            if self._sealer.seal(now_ms, call, fresh[len(call) :], self._closes, admitted):
                sealed = self._sealed(admitted)
        self._sealed_seen = len(sealed)
        return self._desk.choose(sealed, now_ms, admitted)

    def _sealed(self, admitted: Sequence[str]) -> list[Delivery]:
        """What may be sent: of periods that are to be closed first, then by lane, then by age."""
        limit = 2 * self._bounds.entries_max + len(self._desk.suspects())
        found: dict[str, Delivery] = {}
        urgent = [((close.entity,), close.period) for close in self._closes if close.entity in admitted]
        for entities, period in [*urgent, (admitted, "")]:
            for delivery in self._books.deliveries(entities, ["sealed"], limit, period):
                found.setdefault(delivery.entry.key, delivery)
        return list(found.values())

    def _read_closes(self, now_ms: int) -> None:
        if now_ms - self._closes_read_ms >= CLOSES_EVERY_S * 1000:
            undone = [close for close in self._books.closes() if close.state != "declared"]
            self._closes = [close for close in undone if close.entity in self._entities]
            self._closes_read_ms = now_ms

    def _hear_people(self, now_ms: int) -> None:
        """Somebody may have looked at the ERP, and said what became of an entry that is in doubt here."""
        if now_ms - self._people_heard_ms < PEOPLE_EVERY_S * 1000 or not self._desk.progress().unknown:
            return
        self._people_heard_ms = now_ms
        unknown = self._books.entries_in(self._entities, ["unknown"], HELD_MAX)
        if len(unknown) < HELD_MAX:
            self._desk.ended_by_people([entry.key for entry in unknown])

    # ── calls ──

    def _start(self, action: Action) -> None:
        """Make the intent durable, then call. Dying in between leaves entries in flight: the successor's unknown."""
        now_ms = self._clock.now_ms()
        if not self._desk.stands(action, now_ms):  # time passed while it was chosen: choose again
            return
        self._governor.started(now_ms)
        self._desk.began(action, now_ms)
        try:
            self._intend(action)
        except BooksUnavailable:
            self._left_out(action, "not sent: books unavailable")
            raise
        if isinstance(action, Send):
            latest_ms = now_ms + round(CALL_START_WITHIN_S * 1000)
            call = partial(post, action.call, self._clock, latest_ms)
        else:
            call = partial(look_up, action.keys) if isinstance(action, LookUp) else partial(ask, action.jobs)
        self._began_ms.append(now_ms)
        self._callers.start((action, now_ms), call)

    def _intend(self, action: Action) -> None:
        """With the governor, so that a successor never forgets a call."""
        if isinstance(action, Send):
            kept = self._governor.dump()
            self._books.mark_in_flight(OWNER, self._epoch, [entry.key for entry in action.call], kept)
            self._kept = kept
        else:
            self._keep_governor()

    def _keep_governor(self) -> None:
        kept = self._governor.dump()
        if kept != self._kept:
            self._books.save_governor(OWNER, self._epoch, kept)
            self._kept = kept

    def _left_out(self, action: Action, detail: str) -> None:
        """A call was not made. When the books don't say whether its intent is durable, its entries go back unsent."""
        self._governor.abandoned(self._clock.now_ms())
        self._unrecorded = [*self._unrecorded, *self._desk.left_out(action, detail)]

    def _leave_what_hangs(self) -> None:
        """A thread that never comes back would keep its place among the calls for ever; a successor has new ones, and
        looks up what this one was sending."""
        if self._began_ms and self._clock.now_ms() - min(self._began_ms) > CALL_S_MAX * 1000:
            raise ErpError("a call under way does not end")

    def _hear_all(self) -> None:
        self._ended += self._callers.ended()
        while self._ended:
            self._hear(self._ended.popleft())

    def _hear(self, answered: Answered) -> None:
        if answered.error is not None:
            raise answered.error
        (action, began_ms), answer = answered.ticket, answered.answer
        self._began_ms.remove(began_ms)
        if answer is TOO_LATE:
            self._left_out(action, "not sent: it would have started too late")
            self._flush()
            return
        now_ms = self._clock.now_ms()
        if isinstance(action, Send):
            answers, outcomes = _answers(action.call, answer), self._desk.sent(action, answer, now_ms)
            heard = self._locked_out.heard(action.call, answers, now_ms)
            self._finished(now_ms, heard, gravest(answers).code)
            if heard.code in ("posted", "accepted", "rejected"):
                self._call_s = max((now_ms - began_ms) / 1000, CALL_TIME_KEPT * self._call_s)
        elif isinstance(action, LookUp):
            found = None if isinstance(answer, Outcome) else answer
            heard, outcomes = _of_lookup(answer), self._desk.looked_up(action, found, now_ms)
            self._finished(now_ms, heard, "looked_up" if found is not None else heard.code)
        else:
            heard, outcomes = _of_progress(answer), self._desk.asked(action, answer, now_ms)
            self._finished(now_ms, heard, "asked" if heard.code == "posted" else heard.code)
        self._unrecorded = [*self._unrecorded, *outcomes]
        if any(outcome.code != "posted" for outcome in outcomes):
            self._flush()  # before anything else is done with these entries
        if not self._governor.answering():
            self._keep_governor()  # a restart is no way around a pause

    def _finished(self, now_ms: int, heard: Outcome, named: str) -> None:
        self._governor.finished(now_ms, heard.code, heard.retry_after_s, self._jitter.random())
        self._metrics.count("erp_calls", outcome=named)
        self._show()

    def _tell_silence(self) -> None:
        """An ERP that has not answered for long stands as an exception until it does."""
        now_ms = self._clock.now_ms()
        silent_ms = self._governor.silent_ms(now_ms)
        is_long = silent_ms > SILENCE_TOLD_S * 1000
        if is_long == self._is_silence_told or (silent_ms and not is_long):
            return
        told = of_the_runtime([("erp_timeout", OWNER, "no call was answered for hours")], OWNER, now_ms)
        if is_long:
            self._books.raise_exceptions(told)
        else:
            self._books.resolve_exceptions(told["exception_id"].to_list())
        self._is_silence_told = is_long

    # ── outcomes ──

    def _record(self, outcomes: list[Outcome]) -> None:
        if outcomes:
            self._unrecorded = [*self._unrecorded, *outcomes]
            self._flush()

    def _flush(self) -> None:
        if not self._unrecorded:
            return
        self._books.record_outcomes(OWNER, self._epoch, self._unrecorded)
        recorded, self._unrecorded = self._unrecorded, []
        now_ms = self._clock.now_ms()
        for outcome in recorded:
            if outcome.code in ("posted", "rejected", "parked"):
                committed_ms = self._sealer.forget(outcome.key)
                if outcome.code == "posted" and committed_ms is not None:
                    self._metrics.observe("posting_latency_s", (now_ms - committed_ms) / 1000)
        self._retrier.heard(recorded)

    def _show(self) -> None:
        """Said again and again: a gauge that is not, drops out of what Ray exports."""
        now_ms = self._clock.now_ms()
        state, hand = self._governor.state(now_ms), self._desk.progress()
        self._metrics.gauge("governor_rate_per_minute", state.rate_per_minute)
        self._metrics.gauge("governor_concurrency", state.concurrency)
        self._metrics.gauge("governor_paused_s", max(0, state.paused_until_ms - now_ms) / 1000)
        for window, left in state.left.items():
            self._metrics.gauge("governor_calls_left", left, window=window)
        self._metrics.gauge("entries_unknown", hand.unknown)
        closing = [f"{close.entity} {close.period}" for close in self._closes]
        waiting = (self._sealed_seen, self._sealer.sets_waiting)
        call = (self._call_s, self._callers.terms().settle_s, self._bounds.lines_max)
        self._health = PosterHealth(state, *hand, *waiting, self._bounds.entries_max, closing, *call)


def _answers(call: Call, answered: Sequence[Outcome]) -> list[Outcome]:
    """The answers to a call, at least one: one that says nothing of any entry is a lost one."""
    keys = {entry.key for entry in call}
    return [outcome for outcome in answered if outcome.key in keys] or [Outcome("", "unknown")]


def _of_lookup(answer: Mapping[str, Outcome] | Outcome) -> Outcome:
    """What a lookup says of the ERP: one that finds nothing was answered, too. One that was refused is no sign of
    health; but only a post tells that nothing more may be posted."""
    if isinstance(answer, Outcome):
        return answer if answer.code == "throttled" else answer._replace(code="unavailable")
    return gravest([Outcome("", "posted"), *answer.values()])


def _of_progress(answered: Sequence[Outcome]) -> Outcome:
    """What a question after jobs says of the ERP: an outcome without a key tells why nothing could be asked."""
    return next((outcome for outcome in answered if not outcome.key), Outcome("", "posted"))
