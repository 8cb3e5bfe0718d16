"""What the poster's tests stand on: a clock that the test moves, calls that take time by it, books, an ERP, posters."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from itertools import count

import polars as pl

from actors.erp_calls import Answered, Callers, InlineCallers
from actors.poster import Poster
from adapters.books.memory import MemoryBooks
from adapters.erp.memory import MemoryErp
from runtime.config import ErpSection
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.limits import Limits
from runtime.ports import START, ErpGateway, ErpTerms, NoMetrics

STEPS_MAX = 2_000
ENDED = {"posted", "rejected", "parked"}


class VirtualClock:
    """Time that only the test moves, and what is to happen in it."""

    def __init__(self) -> None:
        self._now_ms = 1_800_000_000_000
        self._order = count()
        self._coming: list[tuple[int, int, Callable[[], None]]] = []

    def now_ms(self) -> int:
        """The present."""
        return self._now_ms

    def sleep(self, seconds: float) -> None:
        """Move on, through what happens meanwhile."""
        until_ms = self._now_ms + round(seconds * 1000)
        while self._coming and self._coming[0][0] <= until_ms:
            self._now_ms, _, happens = heapq.heappop(self._coming)
            happens()
        self._now_ms = until_ms

    def later(self, seconds: float, happens: Callable[[], None]) -> None:
        """Let something happen then."""
        heapq.heappush(self._coming, (self._now_ms + round(seconds * 1000), next(self._order), happens))

    def next_s(self, seconds: float) -> float:
        """How long until something happens, at most so long."""
        return min([seconds, *((at_ms - self._now_ms) / 1000 for at_ms, _, _ in self._coming[:1])])


class RecordingMetrics(NoMetrics):
    """Remembers what was counted and measured."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.levels: dict[str, list[float]] = {}
        self.measured: dict[str, list[float]] = {}

    def count(self, name: str, value: float = 1, **tags: object) -> None:
        """Add under the name and its tags."""
        self.counts[name, *tags.values()] += value

    def gauge(self, name: str, value: float, **tags: object) -> None:
        """Keep every level."""
        self.levels.setdefault(name, []).append(value)

    def observe(self, name: str, value: float, **tags: object) -> None:
        """Keep every measurement."""
        self.measured.setdefault(name, []).append(value)


class VirtualCallers:
    """Calls that reach the ERP after a delay each, from `delays_s`, whether or not anybody still listens."""

    def __init__(self, gateway: ErpGateway, clock: VirtualClock, delays_s: Iterator[float]) -> None:
        self._gateway, self._clock, self._delays_s = gateway, clock, delays_s
        self._ended: list[Answered] = []
        self.under_way, self.most = 0, 0

    def terms(self) -> ErpTerms:
        """The ERP's own."""
        return self._gateway.terms()

    def start(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        """Let the call happen later."""
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self._clock.later(next(self._delays_s), lambda: self._end(ticket, call))

    def ended(self) -> list[Answered]:
        """What has happened."""
        ended, self._ended = self._ended, []
        return ended

    def wait(self, seconds: float) -> None:
        """Move the clock to the next end."""
        self._clock.sleep(self._clock.next_s(seconds))

    def close(self) -> None:
        """Nothing to let go of."""

    def _end(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        self.under_way -= 1
        self._ended.append(Answered(ticket, call(self._gateway)))


class Bench:
    """Books, an ERP, a clock, and as many posters one after another as a test needs."""

    def __init__(self, *faults: str, calls_per_minute: float = 600, books: type = MemoryBooks, **erp: object) -> None:
        self.clock, self.metrics = VirtualClock(), RecordingMetrics()
        self.books = books(self.clock.now_ms)
        self.erp = MemoryErp(faults=faults, now_ms=self.clock.now_ms, **erp)
        self.section = ErpSection(calls_per_minute=calls_per_minute, seal_age_s=1.0)
        self._epoch, self._commits = self.books.take_epoch("shard:0", "test").epoch, 0

    def commit(self, *documents: str, amount_minor: int = 700, events: int = 1, period: str = "2026-10") -> None:
        """One commit with a posting set for each document; an empty document makes a summary set."""
        rows = [
            line
            for n, document in enumerate(documents)
            for line in _set_rows(n, document, amount_minor, events, period)
        ]
        deltas = pl.DataFrame(rows, schema=DELTAS, orient="row")
        self._commit(Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts()))

    def open_later(self, opens_on: date) -> None:
        """A commit by which the shard posts for the entity from this day on."""
        nothing = Effects(empty(DELTAS), empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
        self._commit(nothing._replace(opened=(("mercy", opens_on),)))

    def _commit(self, effects: Effects) -> None:
        after = f"{self._commits}-0" if self._commits else START
        self._commits += 1
        self.books.commit(0, self._epoch, after, f"{self._commits}-0", 1, effects)

    def poster(
        self, callers: Callers | None = None, books: MemoryBooks | None = None, limits: Limits | None = None
    ) -> Poster:
        """A poster that has taken over; it makes calls at once unless it is given callers."""
        poster = Poster(
            books or self.books,
            callers or InlineCallers(self.erp),
            clock=self.clock,
            limits=limits or Limits(),
            erp_section=self.section,
            entities=["mercy"],
            holder="test",
            metrics=self.metrics,
        )
        poster.start()
        return poster

    def run(self, poster: Poster, until: Callable[[], bool] | None = None) -> None:
        """Step until that is so (or all has ended); fail when it never becomes so."""
        for _ in range(STEPS_MAX):
            if (until or self.settled)():
                return
            self.clock.sleep(poster.step())
        raise AssertionError(f"not there after {STEPS_MAX} steps: {self.books.entry_counts()}")

    def rests_s(self, poster: Poster) -> float:
        """How long the poster's ERP is to rest from now on."""
        return (poster.health().governor.paused_until_ms - self.clock.now_ms()) / 1000

    def settled(self) -> bool:
        """Whether nothing waits any more."""
        return not self.books.unclaimed_count(["mercy"]) and self.books.entry_counts().keys() <= ENDED

    def states(self) -> dict[str, str]:
        """Each entry's state in the books."""
        every = ["sealed", "in_flight", "unknown", "posted", "rejected", "parked"]
        return {d.entry.key: d.state for d in self.books.deliveries(["mercy"], every, 10_000)}

    def keys_at_erp(self) -> Counter:
        """How often the ERP holds each key."""
        return Counter(entry.key for _, entry in self.erp.moves)

    def booked_once(self) -> bool:
        """Whether the ERP holds every posting of the books, once."""
        ours = self.books.balances().select("account_code", "debit_minor", "credit_minor").rows()
        theirs = [(a.account_code, a.debit_minor, a.credit_minor) for a in self.erp.trial_balance()]
        return sorted(ours) == sorted(theirs) and set(self.keys_at_erp().values()) <= {1}


def _set_rows(n: int, document: str, amount_minor: int, events: int, period: str) -> list[tuple]:
    mode, lane, kind = ("immediate", 0, "refund_approved") if document else ("summary", 3, "charge_posted")
    head = (n, "mercy", "USD", period, date.fromisoformat(f"{period}-05"), mode, lane, kind, document, "north", "", "")
    legs = enumerate([("AR", "1100", "D"), ("GROSS_REV", "4000", "C")])
    return [(head[0], i, *head[1:], role, code, 1, side, amount_minor, events) for i, (role, code, side) in legs]
