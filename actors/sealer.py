"""The poster's sealing: which posting sets it reads from the books, and when it makes entries of them.

Owns those reads and their number. What becomes one entry is `sealing`'s to say; calling an ERP is the poster's.
"""

from collections.abc import Sequence

import polars as pl

from runtime.config import ErpSection
from runtime.flow.delivery import CallBounds
from runtime.ledger.journal import SET, Draft, numbered
from runtime.ledger.sealing import Gathering, Room, SealPolicy, plan_entries, whole_commits, within
from runtime.limits import Limits
from runtime.ports import Books, JournalEntry, Metrics, PeriodClose

FULL_READ_S = 0.5  # between two reads of everything that waits, while nothing of it is ripe
LOOK_CALLS = 8  # a first look reads as many sets as so many calls take entries


class Sealer:
    """Seals for one owner and epoch. `sets_waiting` is what the last look counted."""

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
        self._sets_max = limits.seal_sets_max
        self._look_sets = min(limits.seal_sets_max, LOOK_CALLS * bounds.entries_max)
        self._unripe_ms = 0  # when everything was read last and nothing was ripe
        self._committed_ms: dict[str, int] = {}  # of entries sealed here, for their latency
        self.sets_waiting = 0

    def seal(
        self, now_ms: int, call: Sequence[JournalEntry], waiting: Sequence[JournalEntry], closes: Sequence[PeriodClose]
    ) -> bool:
        """Seal what the next call has room for beside `call`, urgent periods first; whether anything was sealed.

        While sealed entries wait beside that call, only immediate ones are worth sealing; while many wait, only those
        of a more urgent lane than the last of them.
        """
        self.sets_waiting = self._books.unclaimed_count(self._entities)
        self._metrics.gauge("deltas_waiting", self.sets_waiting)
        if not self.sets_waiting:
            return False
        closing = frozenset((close.entity, close.period) for close in closes)
        policy = self._policy._replace(closing=closing)
        room = _room(self._bounds, call, waiting)
        drafts: list[Draft] = []
        for entity, period in [*((close.entity, close.period) for close in closes), ("", "")]:
            entities = (entity,) if entity else self._entities
            if drafts := self._drafts(now_ms, entities, period, policy, room):
                break
        if len(call) + len(waiting) >= 2 * self._bounds.entries_max:
            drafts = [draft for draft in drafts if draft.lane < waiting[-1].lane]
        if drafts:
            self._store(drafts)
        return bool(drafts)

    def forget(self, key: str) -> int | None:
        """When the oldest set of an entry sealed here was committed; asked once, when the entry is done with."""
        return self._committed_ms.pop(key, None)

    def _drafts(self, now_ms: int, entities: Sequence[str], period: str, policy: SealPolicy, room: Room) -> list[Draft]:
        entries_max = 2 * self._bounds.entries_max
        first = self._books.unclaimed(entities, self._look_sets, period)
        complete = first.select(SET).unique().height < self._look_sets
        if complete or (first["mode"] == "immediate").all():
            first = whole_commits(first, self._look_sets)
        elif not room.entries or now_ms - self._unripe_ms < FULL_READ_S * 1000:
            first = whole_commits(first, self._look_sets).filter(pl.col("mode") == "immediate")
        else:
            return self._planned_from_all(now_ms, entities, period, policy, room)
        return within(plan_entries(first, now_ms, policy, entries_max), room)

    def _planned_from_all(
        self, now_ms: int, entities: Sequence[str], period: str, policy: SealPolicy, room: Room
    ) -> list[Draft]:
        everything = self._books.unclaimed(entities, self._sets_max, period)
        crowded = everything.select(SET).unique().height >= self._sets_max
        whole = whole_commits(everything, self._sets_max)
        drafts = plan_entries(whole, now_ms, policy, 2 * self._bounds.entries_max, crowded)
        self._unripe_ms = 0 if drafts else now_ms
        return within(drafts, room)

    def _store(self, drafts: list[Draft]) -> None:
        """Dying before `seal` leaves a gap in the numbers and nothing else."""
        first = self._books.next_entry_no(self._owner, self._epoch, len(drafts))
        entries = [numbered(draft, first + i) for i, draft in enumerate(drafts)]
        self._books.seal(self._owner, self._epoch, entries)
        self._committed_ms |= {e.key: draft.committed_ms for e, draft in zip(entries, drafts, strict=True)}
        self._metrics.count("entries_sealed", len(entries))


def _room(bounds: CallBounds, call: Sequence[JournalEntry], waiting: Sequence[JournalEntry]) -> Room:
    if waiting:
        return Room(0, 0, empty=False)
    lines = sum(len(entry.lines) for entry in call)
    return Room(bounds.entries_max - len(call), bounds.lines_max - lines, empty=not call)
