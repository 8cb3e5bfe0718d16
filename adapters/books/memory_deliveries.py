"""The part of the books in memory that delivery and period close need: the twin of `deliveries`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from adapters.books.closing import check_cut_off, check_declared, check_not_closed, check_ordered
from adapters.books.posting_rows import LINE, nets_of
from runtime.effects import DELTAS
from runtime.flow.closing import MOVING
from runtime.ports import Delivery, EntryState, PeriodClose, PeriodLeft


class MemoryDeliveries:
    """Mixed into `MemoryBooks`, whose entries and sets it reads."""

    _entries: dict[str, Any]

    def __init__(self) -> None:
        self._governors: dict[str, str] = {}
        self._closes: dict[tuple[str, str], PeriodClose] = {}
        self._openings: dict[tuple[int, str], date] = {}  # of (shard, entity)

    def deliveries(
        self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int, period: str = ""
    ) -> list[Delivery]:
        """See Books."""
        chosen = [
            _delivery(held)
            for held in self._entries.values()
            if held.state in states and held.entry.entity in erp_entities and period in ("", held.entry.period)
        ]
        return sorted(chosen, key=lambda delivery: delivery.entry.lane)[:limit]

    def delivery_of(self, key: str) -> Delivery | None:
        """See Books."""
        return _delivery(self._entries[key]) if key in self._entries else None

    def governor(self, owner: str) -> str:
        """See Books."""
        return self._governors.get(owner, "")

    def save_governor(self, owner: str, epoch: int, governor: str) -> None:
        """See Books."""
        self._held(owner, epoch)
        self._governors[owner] = governor

    def order_close(self, entity: str, period: str, due_ms: int, by: str) -> None:
        """See Books."""
        known = self._closes.get((entity, period))
        check_ordered(known, entity, period)
        fresh = known or PeriodClose(entity, period, due_ms, by)
        self._closes[entity, period] = fresh._replace(due_ms=due_ms, ordered_by=by)

    def cut_off(self, entity: str, period: str, opens_on: date, by: str) -> None:
        """See Books."""
        close = self._closes.get((entity, period))
        if close is not None and close.state != "ordered":
            return
        check_cut_off(close, self.period_left(entity, period), entity, period, opens_on)
        self._closes[entity, period] = close._replace(state="cut_off", opens_on=opens_on, declared_by=by)

    def declare_closed(self, entity: str, period: str, shards: int) -> int:
        """See Books."""
        close = self._closes.get((entity, period))
        if close is not None and close.state == "declared":
            return close.number
        check_declared(close, self._behind(close, shards), self.period_left(entity, period), entity, period)
        number = 1 + max(known.number for known in self._closes.values())
        self._closes[entity, period] = close._replace(state="declared", number=number)
        return number

    def _behind(self, close: PeriodClose | None, shards: int) -> list[int]:
        if close is None or close.opens_on is None:
            return []
        opened = (self._openings.get((shard, close.entity), date.min) for shard in range(shards))
        return [shard for shard, opens_on in enumerate(opened) if opens_on < close.opens_on]

    def _refuse_closed(self, places: Iterable[tuple[str, str]]) -> None:
        for entity, period in sorted(set(places)):
            check_not_closed(self._closes.values(), entity, period)

    def _note_openings(self, shard: int, opened: Iterable[tuple[str, date]]) -> None:
        self._openings |= {(shard, entity): opens_on for entity, opens_on in opened}

    def closes(self) -> list[PeriodClose]:
        """See Books."""
        return sorted(self._closes.values(), key=lambda close: (close.due_ms, close.entity, close.period))

    def period_left(self, entity: str, period: str) -> PeriodLeft:
        """See Books."""
        sets = [key for key in self._waiting([entity]) if self._sets[key].get("period") == period]
        unposted = Counter(
            held.state
            for held in self._entries.values()
            if (held.entry.entity, held.entry.period) == (entity, period) and held.state not in ("posted", "replaced")
        )
        moving = (
            len(held.entry.lines)
            for held in self._entries.values()
            if (held.entry.entity, held.entry.period) == (entity, period) and held.state in MOVING
        )
        lines = sum(len(self._sets[key].lines) for key in sets) + sum(moving)
        return PeriodLeft(len(sets), dict(unposted), lines)

    def role_balances(self, entity: str, role: str, through: str) -> dict[tuple[str, str], int]:
        """See Books."""
        kept = [posting for key, posting in self._sets.items() if self._fate(key)[1] != "replaced"]
        chosen = [one for one in kept if one.get("entity") == entity and one.get("period") <= through]
        lines = (dict(zip(DELTAS, line, strict=True)) for posting in chosen for line in posting.lines)
        return nets_of(role, ((line["currency"], *(line[name] for name in LINE)) for line in lines))


def _delivery(held: Any) -> Delivery:
    return Delivery(held.entry, held.state, held.attempts, held.erp_ref, held.first_sent_ms, held.sent_ms, held.detail)
