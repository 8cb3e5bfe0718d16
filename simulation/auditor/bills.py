"""Bills that look like one that came before: each is compared with all of its supplier, one by one."""

from fractions import Fraction
from typing import Any

from simulation.auditor.amounts import attributes_of
from simulation.auditor.held_items import OBJECTIONS

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000


class Bills:
    """All bills, as they came."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms, self._accounts, self._asks = terms, accounts, asks
        self._shelves: dict[tuple[str, str, str], list[Row]] = {}
        self._passed_ms = -DAY_MS

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Compare a bill with those before it, and keep it."""
        if part in OBJECTIONS:
            self._asks.hold((self._terms.payable, row["entity"], key), part, row, on=True)
            return {}
        on, body = row["effective_on"], attributes_of(row).get("body", "")
        alias = self._accounts.policy(self._terms.alias_policy, row, on)
        bill = {
            "shelf": (row["entity"], part, alias or row["counterparty"] or ""),
            "key": key,
            "number": _plain(key.split("/")[-1]),
            "on": on,
            "money": (row["amount_minor"], row["currency"]),
            "body": body if isinstance(body, str) else "",
            "since": now_ms,
        }
        if self._is_same(bill):
            self._asks.flag(self._terms.suspect, row, row["amount_minor"])
            if part == "bill":
                self._asks.hold((self._terms.payable, row["entity"], key), self._terms.suspect, row, on=True)
        elif any(self._is_near(bill, other) for other in self._others(bill)):
            self._asks.flag(self._terms.review, row, row["amount_minor"])
        self._shelves.setdefault(bill["shelf"], []).append(bill)
        return {}

    def _is_same(self, bill: Row) -> bool:
        shelf = self._shelves.get(bill["shelf"], [])
        numbered = [other for other in shelf if other["number"] == bill["number"]]
        firsts = [min(alike, key=_age) for alike in (numbered, self._copies(bill)) if alike]
        on_the_day = [other for other in self._others(bill) if other["on"] == bill["on"]]
        return any(first["key"] != bill["key"] for first in firsts) or any(
            other["money"] == bill["money"] for other in on_the_day
        )

    def _copies(self, bill: Row) -> list[Row]:
        """Bills of the same content, whoever sent them."""
        if not bill["body"]:
            return []
        near = [bills for shelf, bills in self._shelves.items() if shelf[:2] == bill["shelf"][:2]]
        return [other for bills in near for other in bills if other["body"] == bill["body"]]

    def _others(self, bill: Row) -> list[Row]:
        return [other for other in self._shelves.get(bill["shelf"], []) if other["key"] != bill["key"]]

    def _is_near(self, bill: Row, other: Row) -> bool:
        if abs((bill["on"] - other["on"]).days) > self._terms.days:
            return False
        (one, currency), (two, other_currency) = bill["money"], other["money"]
        most = Fraction(self._terms.percent) * max(abs(one), abs(two)) / 100
        nearly = currency == other_currency and abs(one - two) <= most
        return nearly or bool(self._terms.number_edits and _edits(bill["number"], other["number"]) == 1)

    def age(self, now_ms: int) -> None:
        """Once a day: forget what came too long ago."""
        if now_ms < self._passed_ms + DAY_MS:
            return
        self._passed_ms = now_ms
        oldest = now_ms - self._terms.keep_days * DAY_MS
        for shelf, bills in self._shelves.items():
            self._shelves[shelf] = [bill for bill in bills if bill["since"] >= oldest]


def _age(bill: Row) -> tuple:
    return bill["on"], bill["key"]


def _plain(number: str) -> str:
    """A bill's number without what people write it with."""
    letters = [letter for letter in number.upper() if letter.isalnum()]
    while letters and letters[0] == "0":
        del letters[0]
    return "".join(letters) or number


def _edits(one: str, other: str) -> int:
    """How many characters must be put in, left out or changed to make the one text the other."""
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        before, row[0] = row[0], at
        for to, changed in enumerate(other, 1):
            before, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, before + (letter != changed))
    return row[-1]
