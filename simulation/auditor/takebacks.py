"""What payers took back against what they announced, summed up anew after every fact."""

from datetime import date, timedelta
from typing import Any

Row = dict[str, Any]


class Takebacks:
    """All facts of each payer, in order, whatever he was called."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms, self._accounts, self._asks = terms, accounts, asks
        self._facts: dict[tuple, list[tuple[str, Row]]] = {}
        self._flagged: dict[tuple, tuple[Row, int]] = {}

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Count a letter, a refund or an adjustment."""
        if part == "adjusted" and (row["reason"] or "") not in self._terms.codes:
            return {}
        on = date(1970, 1, 1) + timedelta(milliseconds=now_ms)
        payer = self._usual((row["entity"], row["counterparty"] or "", row["currency"]), row, on)
        names = [one for one in self._facts if payer in (one, self._usual(one, row, on))]
        before = sum(_suspense(self._facts[one]) for one in names)
        facts = self._facts[payer] = [fact for one in names for fact in self._facts.pop(one)]
        for who, told in (self._flagged.pop(one) for one in names if one != payer and one in self._flagged):
            if told:
                self._asks.end(self._terms.baseless, who)
        facts.append((part, row))
        change = _suspense(facts) - before
        self._reflag(payer, facts)
        return {"measures": {"suspense": change, "based": -change}}

    def _usual(self, payer: tuple, row: Row, on: date) -> tuple:
        """A payer by his usual name on a day."""
        entity, name, currency = payer
        return entity, self._accounts.payer(row | {"entity": entity, "counterparty": name or None}, on), currency

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
