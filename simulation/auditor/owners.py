"""Whose a document is: the first account that was told of it, for a time."""

from typing import Any

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000
TOLD = ("account", "counterparty", "department", "facility")


class Owners:
    """What the first row of each document said that named an account."""

    def __init__(self, terms: Any, *_: Any) -> None:
        self._terms = terms
        self._first: dict[tuple[str, str], tuple[int, Row]] = {}  # with the time in which it came
        self._time, self._began_ms = 0, 0

    def note(self, row: Row, column: str) -> None:
        """Keep a row, unless the document has an owner."""
        self._first.setdefault((row["entity"], row[column]), (self._time, {name: row[name] for name in TOLD}))

    def filled(self, row: Row, column: str) -> Row:
        """A row with what the document's owner says in columns where it says nothing."""
        _, owner = self._first.get((row["entity"], row[column]), (0, row))
        return row | {name: owner[name] for name in TOLD if row[name] is None}

    def age(self, now_ms: int) -> None:
        """Forget what came neither in this time nor in the one before, when another one begins."""
        self._began_ms = self._began_ms or now_ms
        if now_ms - self._began_ms > self._terms.keep_days * DAY_MS:
            self._time, self._began_ms = self._time + 1, now_ms
            self._first = {of: told for of, told in self._first.items() if told[0] >= self._time - 1}
