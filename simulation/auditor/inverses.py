"""What takes back what, told anew from all events that are alike, after each of them."""

from collections import Counter
from datetime import date
from typing import Any

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000
_Basis = tuple[date, date, int]  # effective day, posting day, version


class Inverses:
    """All events that may be taken back, by what they have in common."""

    def __init__(self, terms: Any, *_: Any) -> None:
        self._terms = terms
        self._alike: dict[tuple, dict[str, list]] = {}
        self._touched: dict[tuple, int] = {}  # in which time
        self._time, self._began_ms = 0, 0

    def basis(self, row: Row, ref: Any, own: _Basis) -> _Basis:
        """Keep an event; as of when it is posted."""
        if not row["amount_minor"]:
            return own
        place = (row["entity"], row[ref.key], row["kind"], row["currency"], abs(row["amount_minor"]))
        alike = (*place, *(row[name] or "" for name in ref.alike))
        ones = self._alike.setdefault(alike, {"came": [], "posted": []})
        self._touched[alike] = self._time
        sign = 1 if row["amount_minor"] > 0 else -1
        ones["came"].append((own, sign))
        asked = _left(ones["came"])
        for (on, *_), was in ones["posted"]:
            asked[on] -= was
        day = next(day for day, net in asked.items() if net)
        nets: Counter[_Basis] = Counter()
        for basis, was in ones["posted"]:
            nets[basis] += was
        there = [basis for basis, net in nets.items() if basis[0] == day and net * sign < 0]
        there = there or ([own] if day == own[0] else [basis for basis, _ in ones["came"] if basis[0] == day])
        ones["posted"].append((max(there), sign))
        return max(there)

    def age(self, now_ms: int) -> None:
        """Forget what was not touched in this time, nor in the one before, when another one begins."""
        self._began_ms = self._began_ms or now_ms
        if now_ms - self._began_ms > self._terms.keep_days * DAY_MS:
            self._time, self._began_ms = self._time + 1, now_ms
            for alike in [alike for alike, time in self._touched.items() if time < self._time - 1]:
                del self._alike[alike], self._touched[alike]


def _left(came: list[tuple[_Basis, int]]) -> Counter[date]:
    """What stands of each day, when each takes back the latest one of the other sign before its day."""
    standing: list[tuple[date, int]] = []
    for day in sorted({on for (on, *_), _ in came}):
        new = []
        for sign in (sign for (on, *_), sign in came if on == day):
            if standing and standing[-1][1] == -sign:
                standing.pop()
            else:
                new.append((day, sign))
        rest = sum(sign for _, sign in new)
        standing += [(day, 1 if rest > 0 else -1)] * abs(rest)
    left: Counter[date] = Counter()
    for day, sign in standing:
        left[day] += sign
    return left
