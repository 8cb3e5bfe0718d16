"""What of a payment came back after the bank had paid it, added up anew from all that was told of it."""

from typing import Any

from simulation.auditor.amounts import sum_of

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000


class Payments:
    """All facts of each payment."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms = terms
        self._facts: dict[tuple, list[tuple[str, Row]]] = {}
        self._touched: dict[tuple, int] = {}
        self._passed_ms = -DAY_MS

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Keep a release, a clearing or a return."""
        payment = (row["entity"], key, row["currency"])
        facts = self._facts.setdefault(payment, [])
        before, self._touched[payment] = self._again_cash(facts), now_ms
        facts.append((part, row))
        return {"measures": {"recovered": self._again_cash(facts) - before}}

    def _again_cash(self, facts: list[tuple[str, Row]]) -> int:
        """What left and came back: the part of both sums that is more than was released."""
        released = sum(sum_of(self._terms.released, row) for part, row in facts if part == "released")
        cleared, returned = (
            sum(row["amount_minor"] for part, row in facts if part == name) for name in ("cleared", "returned")
        )
        return max(0, min(cleared, returned, cleared + returned - released))

    def age(self, now_ms: int) -> None:
        """Once a day: forget payments of which nothing was told for long."""
        if now_ms < self._passed_ms + DAY_MS:
            return
        self._passed_ms = now_ms
        oldest = now_ms - self._terms.keep_days * DAY_MS
        for payment in [one for one, touched in self._touched.items() if touched < oldest]:
            del self._facts[payment], self._touched[payment]
