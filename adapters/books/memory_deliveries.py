"""The part of the books in memory that delivery and period close need: the twin of `deliveries`."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

from adapters.books.closing import check_declared, check_ordered
from runtime.ports import Delivery, EntryState, PeriodClose, PeriodLeft


class MemoryDeliveries:
    """Mixed into `MemoryBooks`, whose entries and sets it reads."""

    _entries: dict[str, Any]

    def __init__(self) -> None:
        self._governors: dict[str, str] = {}
        self._closes: dict[tuple[str, str], PeriodClose] = {}

    def deliveries(
        self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int, period: str = ""
    ) -> list[Delivery]:
        """See Books."""
        chosen = [
            Delivery(held.entry, held.state, held.attempts, held.erp_ref, held.first_sent_ms, held.sent_ms)
            for held in self._entries.values()
            if held.state in states and held.entry.entity in erp_entities and period in ("", held.entry.period)
        ]
        return sorted(chosen, key=lambda delivery: delivery.entry.lane)[:limit]

    def governor(self, owner: str) -> str:
        """See Books."""
        return self._governors.get(owner, "")

    def save_governor(self, owner: str, epoch: int, governor: str) -> None:
        """See Books."""
        self._held(owner, epoch)
        self._governors[owner] = governor

    def order_close(self, entity: str, period: str, due_ms: int, by: str) -> None:
        """See Books."""
        check_ordered(self._closes.get((entity, period)), entity, period)
        self._closes[entity, period] = PeriodClose(entity, period, due_ms, by)

    def declare_closed(self, entity: str, period: str, opens_on: date, by: str) -> int:
        """See Books."""
        close = self._closes.get((entity, period))
        if close is not None and close.state == "declared":
            return close.number
        check_declared(close, self.period_left(entity, period), entity, period, opens_on)
        number = 1 + max(known.number for known in self._closes.values())
        declared = close._replace(state="declared", number=number, opens_on=opens_on, declared_by=by)
        self._closes[entity, period] = declared
        return number

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
        return PeriodLeft(len(sets), dict(unposted))
