"""Denials by claim, payer and reason, added up anew from all of them after each."""

from typing import Any

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000


class Denials:
    """All denials of each claim, and what was taken back of them."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms, self._asks = terms, asks
        self._denials: dict[tuple, Row] = {}

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Keep a denial; say whether more is denied than was taken back."""
        place = (row["entity"], key, row["counterparty"] or "", row["reason"], row["currency"])
        denial = self._denials.setdefault(place, {"rows": [], "flagged": None})
        denial["touched"] = now_ms
        denial["rows"].append(row)
        if denial["flagged"]:
            self._asks.end(self._terms.denied, denial["flagged"])
        amount, denial["flagged"] = sum(one["amount_minor"] for one in denial["rows"]), None
        if amount > 0:
            denied = [one for one in denial["rows"] if one["amount_minor"] > 0]
            first = min(denied, key=lambda one: (one["source"], one["event_id"], one["facility"] or ""))
            denial["flagged"] = first
            self._asks.flag(self._terms.denied, first, amount, first["facility"] or "")
        return {}

    def age(self, now_ms: int) -> None:
        """Forget what nothing has touched for long."""
        for place, denial in list(self._denials.items()):
            if now_ms - self._terms.keep_days * DAY_MS > denial["touched"]:
                del self._denials[place]
