"""One hour of 1,000,000 events for an ERP that takes 6, 60 or 600 calls a minute: calls and posting latency.

The poster, its sealing and its governor are the real ones; books and ERP are those in memory, and time is simulated:
nothing waits, and how long this takes says nothing. "folded": summaries gather in the books until a call has room for
them. "an entry a commit": the same sets are sealed as they are committed, whatever the ERP's pace, as a system does
that knows nothing of it.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import polars as pl

from actors.erp_calls import Answered
from actors.poster import IDLE_S, Poster
from adapters.books.memory import MemoryBooks
from adapters.erp.memory import TERMS, MemoryErp
from benchmarks.measure import Options, Result
from runtime.config import ErpSection
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.ledger.journal import numbered
from runtime.ledger.sealing import SealPolicy, plan_entries
from runtime.limits import Limits
from runtime.ports import START, ErpGateway, ErpTerms, NoMetrics, Outcome

EVENTS, HOUR_S, FACILITIES, ENTITIES = 1_000_000, 3_600, 10, 2
CALLS_PER_MINUTE = (6, 60, 600)
CALL_S, CALL_ENTRIES_MAX = 0.3, 50
SETS_MAX = 10_000  # more than one second's commit has
DRAIN_S_MAX = 6 * HOUR_S
BEGIN_MS = 1_793_318_400_000
# kind, its share of the events, lane, accounts. Those with lane 0 are immediate, one entry a document.
KINDS = (
    ("charge_posted", 0.62, 3, "1100", "4000"),
    ("adjustment_posted", 0.18, 3, "4100", "1100"),
    ("remit_payment", 0.195, 1, "1000", "1100"),
    ("refund_approved", 0.005, 0, "2100", "1000"),
)


class Posted(NamedTuple):
    """How long events waited from their commit to the ERP's answer (seconds), and how many there were of each."""

    summary: list[tuple[float, int]]
    immediate: list[float]
    calls: int
    entries: int
    drained_s: float


class ForgetfulBooks(MemoryBooks):
    """Books that let go of what is posted, so that each look at the rest costs the same all along."""

    def record_outcomes(self, owner: str, epoch: int, outcomes: Sequence[Outcome]) -> None:
        """See Books."""
        super().record_outcomes(owner, epoch, outcomes)
        for key in [outcome.key for outcome in outcomes if outcome.code == "posted"]:
            del self._entries[key]


class Timeline:
    """Simulated time, and the calls that end in it."""

    def __init__(self, erp: MemoryErp, heard: Callable[[], None]) -> None:
        self._erp, self._heard = erp, heard
        self.ms = BEGIN_MS
        self._under_way: list[tuple[int, object, Callable[[ErpGateway], object]]] = []
        self._ended: list[Answered] = []

    def now_ms(self) -> int:
        """The present."""
        return self.ms

    def advance(self, until_ms: int) -> None:
        """Move on, through the ends of calls."""
        for at_ms, ticket, call in [each for each in self._under_way if each[0] <= until_ms]:
            self.ms = at_ms
            self._under_way.remove((at_ms, ticket, call))
            self._ended.append(Answered(ticket, call(self._erp)))
            self._heard()
        self.ms = max(self.ms, until_ms)

    # as the poster's callers

    def terms(self) -> ErpTerms:
        """The ERP's own."""
        return self._erp.terms()

    def start(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        """A call that takes its time."""
        self._under_way.append((self.ms + round(CALL_S * 1000), ticket, call))

    def ended(self) -> list[Answered]:
        """Calls that ended."""
        ended, self._ended = self._ended, []
        return ended

    def wait(self, seconds: float) -> None:
        """Move on to the next end."""
        self.advance(min([self.ms + round(seconds * 1000), *(at_ms for at_ms, _, _ in self._under_way)]))

    def close(self) -> None:
        """Nothing to let go of."""


def results(options: Options) -> Iterator[Result]:
    """Each pace, folded and not."""
    for pace in CALLS_PER_MINUTE:
        for folded in (True, False):
            yield _result(pace, folded, Hour(pace, folded, options.seed).run())


class Hour:
    """One simulated hour, and however long its entries take to drain."""

    def __init__(self, pace: int, folded: bool, seed: int) -> None:
        self._random, self._folded = np.random.default_rng(seed), folded
        self._erp = MemoryErp(now_ms=lambda: self._timeline.ms)
        self._timeline = Timeline(self._erp, self._hear)
        self._books = ForgetfulBooks(self._timeline.now_ms)
        self._entities = [f"entity-{n}" for n in range(ENTITIES)]
        self._epoch = self._books.take_epoch("shard:0", "bench").epoch
        self._eager = self._books.take_epoch("erp:eager", "bench").epoch
        self._poster = Poster(
            self._books,
            self._timeline,
            clock=self._timeline,
            limits=Limits(),
            erp_section=ErpSection(calls_per_minute=pace),
            entities=self._entities,
            holder="bench",
            metrics=NoMetrics(),
        )
        self._poster.start()
        self._committed: dict[tuple[int, str, int], tuple[int, int]] = {}  # of each set: when, and how many events
        self._heard = 0
        self._posted = Posted([], [], 0, 0, 0.0)

    def run(self) -> Posted:
        """Commit each second's events and let the poster work; then let it drain."""
        for second in range(HOUR_S):
            self._commit(second)
            self._work(self._timeline.ms + 1000)
        while self._committed:
            if self._timeline.ms > BEGIN_MS + (HOUR_S + DRAIN_S_MAX) * 1000:
                raise RuntimeError(f"not drained: {len(self._committed)} posting sets are left")
            self._work(self._timeline.ms + 1000)
        drained_s = (self._timeline.ms - BEGIN_MS) / 1000
        return self._posted._replace(calls=len(self._erp.calls), entries=len(self._erp.moves), drained_s=drained_s)

    def _work(self, until_ms: int) -> None:
        while self._timeline.ms < until_ms:
            wait_s = self._poster.step()
            idle = wait_s == IDLE_S  # nothing ripens before the next commit
            self._timeline.advance(until_ms if idle else min(until_ms, self._timeline.ms + round(wait_s * 1000)))

    def _commit(self, second: int) -> None:
        position, after = f"{second + 1}-0", f"{second}-0" if second else START
        deltas = self._deltas(second)
        sets = deltas.select("set_no", "events").unique()
        effects = Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
        self._books.commit(0, self._epoch, after, position, EVENTS // HOUR_S, effects)
        self._committed |= {(0, position, no): (self._timeline.ms, events) for no, events in sets.rows()}
        if not self._folded:
            self._seal_at_once()

    def _deltas(self, second: int) -> pl.DataFrame:
        """One second's posting sets: one for each facility and kind, one for each document that posts by itself."""
        rows: list[tuple] = []
        set_no = 0
        for facility in range(FACILITIES):
            for kind, share, lane, debit, credit in KINDS:
                events = int(self._random.poisson(share * EVENTS / HOUR_S / FACILITIES))
                sets = [1] * events if lane == 0 else [events] * (events > 0)
                for counted in sets:
                    document = f"D-{second}-{set_no}" if lane == 0 else ""
                    rows += _lines(set_no, facility, (kind, lane, document), (debit, credit), counted)
                    set_no += 1
        return pl.DataFrame(rows, schema=DELTAS, orient="row")

    def _seal_at_once(self) -> None:
        unclaimed = self._books.unclaimed(self._entities, SETS_MAX)
        policy = SealPolicy(min(TERMS.lines_max, Limits().entry_lines_max), 0.0)
        drafts = plan_entries(unclaimed, self._timeline.ms, policy, SETS_MAX)
        first = self._books.next_entry_no("erp:eager", self._eager, len(drafts))
        self._books.seal("erp:eager", self._eager, [numbered(draft, first + i) for i, draft in enumerate(drafts)])

    def _hear(self) -> None:
        """Measure what the last call posted."""
        for _, entry in self._erp.moves[self._heard :]:
            for place in entry.sets:
                committed_ms, events = self._committed.pop(place)
                waited_s = (self._timeline.ms - committed_ms) / 1000
                if entry.mode == "immediate":
                    self._posted.immediate.append(waited_s)
                else:
                    self._posted.summary.append((waited_s, events))
        self._heard = len(self._erp.moves)


def _lines(
    set_no: int, facility: int, what: tuple[str, int, str], accounts: tuple[str, str], events: int
) -> Iterator[tuple]:
    kind, lane, document = what
    mode = "immediate" if document else "summary"
    head = (f"entity-{facility % ENTITIES}", "USD", "2026-10", date(2026, 10, 30), mode, lane, kind, document)
    for line_no, (side, account) in enumerate(zip("DC", accounts, strict=True)):
        amount_minor = 12_345 * events
        yield (set_no, line_no, *head, f"facility-{facility}", "", "", "ROLE", account, 1, side, amount_minor, events)


def _result(pace: int, folded: bool, posted: Posted) -> Result:
    waited_s = np.array([seconds for seconds, _ in posted.summary])
    events = np.array([count for _, count in posted.summary])
    order = np.argsort(waited_s)
    share = np.cumsum(events[order]) / events.sum()
    p50_s, p99_s = (float(waited_s[order][np.searchsorted(share, q)]) for q in (0.5, 0.99))
    late_s = max(posted.immediate)
    return Result(
        name="erp",
        case=f"{pace} calls/min, {'folded' if folded else 'an entry a commit'}",
        events_per_s=round(EVENTS / posted.drained_s, 1),
        p50_ms=round(p50_s * 1000),
        p99_ms=round(p99_s * 1000),
        note=(
            f"{posted.calls:,} calls, {posted.entries:,} entries, drained {posted.drained_s - HOUR_S:+,.0f} s "
            f"after the hour; {len(posted.immediate):,} immediate postings, "
            f"p99 {np.percentile(posted.immediate, 99):,.1f} s, longest {late_s:,.1f} s; simulated time"
        ),
    )
