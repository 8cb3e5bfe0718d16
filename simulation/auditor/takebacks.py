"""What payers took back against what they announced, summed up anew after every fact."""

from typing import Any

Row = dict[str, Any]


class Takebacks:
    """All facts of each payer, in order."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms, self._asks = terms, asks
        self._facts: dict[tuple, list[tuple[str, Row]]] = {}
        self._flagged: dict[tuple, tuple[Row, int]] = {}

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Count a letter, a refund or an adjustment."""
        if part == "adjusted" and (row["reason"] or "") not in self._terms.codes:
            return {}
        payer = (row["entity"], row["counterparty"] or "", row["currency"])
        facts = self._facts.setdefault(payer, [])
        before = _suspense(facts)
        facts.append((part, row))
        change = _suspense(facts) - before
        self._reflag(payer, facts)
        return {"measures": {"suspense": change, "based": -change}}

    def _reflag(self, payer: tuple, facts: list[tuple[str, Row]]) -> None:
        recoveries = [row for part, row in facts if part != "basis" and row["amount_minor"] > 0]
        owed, (who, told) = _suspense(facts), self._flagged.get(payer, ({}, 0))
        newest = max(recoveries, key=_in_time, default={})
        if (owed, newest if owed else {}) == (told, who):
            return
        if told:
            self._asks.end(self._terms.baseless, who)
        if owed:
            self._asks.flag(self._terms.baseless, newest, owed)
        self._flagged[payer] = (newest if owed else {}, owed)

    def age(self, now_ms: int) -> None:
        """Nothing changes with time."""


def _suspense(facts: list[tuple[str, Row]]) -> int:
    announced = sum(row["amount_minor"] if part == "basis" else -row["amount_minor"] for part, row in facts)
    return max(0, -announced)


def _in_time(row: Row) -> tuple:
    return row["occurred_at"], row["source"], row["event_id"]
