"""The poster's sealing: which posting sets it reads from the books, and when it makes entries of them.

Owns those reads and their number. What becomes one entry is `sealing`'s to say; calling an ERP is the poster's.
"""

from collections.abc import Sequence

import polars as pl

from runtime.config import ErpSection
from runtime.flow.calls import CallBounds
from runtime.ledger.journal import SET, Draft, numbered
from runtime.ledger.sealing import Gathering, Room, SealPolicy, next_due_ms, plan_entries, whole_commits, within
from runtime.limits import Limits
from runtime.ports import Books, JournalEntry, Metrics, PeriodClose

FULL_READ_MS = 2_000  # between two reads of everything that waits, while nothing of it is ripe
LOOK_CALLS = 8  # a first look reads as many sets as so many calls take entries
LOOKS_MAX = 30  # that a backlog is sealed in, as far as a look may be as large as that takes
CALLS_AHEAD = 16  # to seal for at once where more waits than was looked at: to look at it takes as long as some calls
COUNT_EVERY_S, COUNT_SETS_FREE = 1.0, 50_000  # between two counts of what waits, longer by as many times as it is more


class Sealer:
    """Seals for one owner and epoch. `sets_waiting` is what waits, as far as it was counted."""

    def __init__(
        self,
        books: Books,
        owner: str,
        epoch: int,
        *,
        metrics: Metrics,
        bounds: CallBounds,
        limits: Limits,
        section: ErpSection,
        entities: Sequence[str],
    ) -> None:
        self._books, self._owner, self._epoch, self._metrics = books, owner, epoch, metrics
        self._bounds, self._entities = bounds, tuple(entities)
        kinds = {kind: Gathering(s.age_s, s.every_s) for kind, s in section.gathering.items()}
        lines_max = min(limits.entry_lines_max, bounds.lines_max)
        self._policy = SealPolicy(lines_max, section.seal_age_s, kinds)
        self._limits = limits
        self._look_sets = min(limits.seal_sets_max, LOOK_CALLS * bounds.entries_max)
        self._unripe_until_ms = 0  # nothing of all that waits is ripe before
        self._counted_ms = 0
        self._committed_ms: dict[str, int] = {}  # of entries sealed here, for their latency
        self.sets_waiting = 0

    def seal(
        self,
        now_ms: int,
        call: Sequence[JournalEntry],
        waiting: Sequence[JournalEntry],
        closes: Sequence[PeriodClose],
        admitted: Sequence[str],
    ) -> bool:
        """Seal what the next call has room for beside `call`, of these entities, urgent periods first; whether anything
        was sealed.

        While sealed entries wait beside that call, only immediate ones are worth sealing; while many wait, only those
        of a more urgent lane than the last of them.
        """
        closing = frozenset((close.entity, close.period) for close in closes)
        policy = self._policy._replace(closing=closing)
        room = _room(self._bounds, call, waiting)
        enough = len(call) + len(waiting) >= 2 * self._bounds.entries_max
        lane = waiting[-1].lane if enough else None
        drafts: list[Draft] = []
        urgent = [((close.entity,), close.period) for close in closes if close.entity in admitted]
        for entities, period in [*urgent, (admitted, "")]:
            first = self._books.unclaimed_lane(entities, period)
            if first is None or (lane is not None and first >= lane):
                continue
            if drafts := self._drafts(now_ms, entities, period, policy, room):
                break
        if lane is not None:
            drafts = [draft for draft in drafts if draft.lane < lane]
        if drafts:
            self._store(drafts)
        return bool(drafts)

    def forget(self, key: str) -> int | None:
        """When the oldest set of an entry sealed here was committed; asked once, when the entry is done with."""
        return self._committed_ms.pop(key, None)

    def count(self, now_ms: int) -> None:
        """See how much waits, ever less often the more it is: counting takes time in proportion. Told again and again,
        whether anything may be sealed or not: while an ERP is away it is what one wants to know."""
        every_ms = COUNT_EVERY_S * 1000 * (1 + self.sets_waiting / COUNT_SETS_FREE)
        if now_ms - self._counted_ms >= every_ms:
            self.sets_waiting, self._counted_ms = self._books.unclaimed_count(self._entities), now_ms
        self._metrics.gauge("deltas_waiting", self.sets_waiting)

    def _drafts(self, now_ms: int, entities: Sequence[str], period: str, policy: SealPolicy, room: Room) -> list[Draft]:
        entries_max = 2 * self._bounds.entries_max
        first = self._books.unclaimed(entities, self._look_sets, period)
        complete = first.select(SET).unique().height < self._look_sets
        if (first["mode"] == "immediate").all():
            # Immediate ones never fold, so nothing is lost by sealing all that was read.
            return within(plan_entries(whole_commits(first, self._look_sets), now_ms, policy, self._look_sets), room)
        if complete:
            return within(plan_entries(first, now_ms, policy, entries_max), room)
        if room.entries and now_ms >= self._unripe_until_ms:
            return self._planned_from_all(now_ms, entities, period, policy, room)
        first = whole_commits(first, self._look_sets).filter(pl.col("mode") == "immediate")
        return within(plan_entries(first, now_ms, policy, entries_max), room)

    def _planned_from_all(
        self, now_ms: int, entities: Sequence[str], period: str, policy: SealPolicy, room: Room
    ) -> list[Draft]:
        sets_max = self._sets_max()
        everything = self._books.unclaimed(entities, sets_max, period)
        crowded = everything.select(SET).unique().height >= sets_max
        whole = whole_commits(everything, sets_max)
        calls = CALLS_AHEAD if crowded else 1
        drafts = plan_entries(whole, now_ms, policy, 2 * calls * self._bounds.entries_max, crowded)
        self._unripe_until_ms = 0 if drafts else min(now_ms + FULL_READ_MS, next_due_ms(everything, policy))
        return within(drafts, room._replace(entries=room.entries * calls, lines=room.lines * calls))

    def _sets_max(self) -> int:
        """How many sets one look takes. The more wait, the more fold into an entry: a long backlog needs no more calls
        than a short one."""
        return min(max(self._limits.seal_sets_max, self.sets_waiting // LOOKS_MAX), self._limits.seal_backlog_sets_max)

    def _store(self, drafts: list[Draft]) -> None:
        """Dying before `seal` leaves a gap in the numbers and nothing else."""
        first = self._books.next_entry_no(self._owner, self._epoch, len(drafts))
        entries = [numbered(draft, first + i) for i, draft in enumerate(drafts)]
        self._books.seal(self._owner, self._epoch, entries)
        self._committed_ms |= {e.key: draft.committed_ms for e, draft in zip(entries, drafts, strict=True)}
        self.sets_waiting = max(0, self.sets_waiting - sum(len(draft.sets) for draft in drafts))
        self._metrics.count("entries_sealed", len(entries))


def _room(bounds: CallBounds, call: Sequence[JournalEntry], waiting: Sequence[JournalEntry]) -> Room:
    if waiting:
        return Room(0, 0, empty=False)
    lines = sum(len(entry.lines) for entry in call)
    return Room(bounds.entries_max - len(call), bounds.lines_max - lines, empty=not call)
