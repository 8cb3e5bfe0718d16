"""What to send in one call, and what its outcomes mean: packing, isolation of a poisonous entry, doubt.

Owns the rules of delivery as plain functions and two small memories that may be lost: nothing in them is needed after
a crash, because an entry's state in the books says all. Never calls an ERP, and never re-sends what is in doubt.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from runtime.limits import Limits
from runtime.ports import ErpTerms, JournalEntry, Outcome, OutcomeCode

Call = tuple[JournalEntry, ...]

# Of outcomes that differ within a call, the one that the governor must hear.
_GRAVEST: tuple[OutcomeCode, ...] = ("unauthorised", "throttled", "unavailable", "unknown", "rejected", "posted")
_NOT_APPLIED = ("throttled", "unavailable", "unauthorised")


class CallBounds(NamedTuple):
    """How much one call may carry."""

    lines_max: int
    entries_max: int


class Judged(NamedTuple):
    """What becomes of a call: the outcomes to record, and whether its entries must be tried apart."""

    outcomes: list[Outcome]
    isolate: bool


def call_bounds(terms: ErpTerms, limits: Limits) -> CallBounds:
    """The tighter of what the ERP takes and what we allow."""
    return CallBounds(
        min(terms.lines_max, limits.call_lines_max),
        min(terms.entries_max, limits.call_entries_max),
    )


def next_call(entries: Iterable[JournalEntry], bounds: CallBounds) -> Call:
    """As many entries from the front as fit; the first goes even if it alone is too large, as it can't be split."""
    call, lines = [], 0
    for entry in entries:
        lines += len(entry.lines)
        if call and (lines > bounds.lines_max or len(call) >= bounds.entries_max):
            break
        call.append(entry)
    return tuple(call)


def judge(call: Call, answered: Sequence[Outcome], atomic: bool) -> Judged:
    """What to record of a call's outcomes.

    An atomic call of several that is refused says nothing of any one of them, and applied nothing: all go back.
    """
    by_key = {outcome.key: outcome for outcome in answered}
    outcomes = [by_key.get(e.key) or Outcome(e.key, "unknown", detail="the call gave no outcome") for e in call]
    if not (atomic and len(call) > 1 and all(outcome.code == "rejected" for outcome in outcomes)):
        return Judged(outcomes, isolate=False)
    return Judged([outcome._replace(code="unavailable") for outcome in outcomes], isolate=True)


def gravest(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a call as a whole, with the longest delay that any part of it asks for."""
    worst = min(outcomes, key=lambda outcome: _GRAVEST.index(outcome.code))
    return worst._replace(retry_after_s=max(outcome.retry_after_s for outcome in outcomes))


class Isolation:
    """Entries of refused calls, to be sent again by halves until each poisonous one stands alone.

    Lost in a crash, it is found again: the same entries are refused together once more.
    """

    def __init__(self) -> None:
        self._groups: list[Call] = []

    def suspects(self) -> set[str]:
        """Keys that wait to be tried apart."""
        return {entry.key for group in self._groups for entry in group}

    def choose(self, sealed: Sequence[JournalEntry], bounds: CallBounds) -> Call:
        """The next call: the newest group, unless fresh entries of a more urgent lane wait."""
        suspects = self.suspects()
        fresh = [entry for entry in sealed if entry.key not in suspects]
        if self._groups and not (fresh and fresh[0].lane < self._groups[-1][0].lane):
            return self._groups[-1]
        return next_call(fresh, bounds)

    def learn(self, call: Call, judged: Judged) -> None:
        """Split a refused call; keep of a tried group what was not applied; forget the rest of it."""
        tried = call in self._groups
        if tried:
            self._groups.remove(call)
        if judged.isolate:
            half = (len(call) + 1) // 2
            self._groups += [call[half:], call[:half]]
        elif tried:
            codes = {outcome.key: outcome.code for outcome in judged.outcomes}
            back = tuple(entry for entry in call if codes[entry.key] in _NOT_APPLIED)
            self._groups += [back] if back else []


class Doubts:
    """Entries of unknown outcome, and when a lookup first proves something: `settle_s` after the answer was lost."""

    def __init__(self, settle_s: float) -> None:
        self._settle_ms = round(settle_s * 1000)
        self._due: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: str, now_ms: int) -> None:
        """An answer was lost, at the latest now."""
        self._due[key] = now_ms + self._settle_ms

    def end(self, key: str) -> None:
        """The entry's outcome is known."""
        self._due.pop(key, None)

    def due(self, now_ms: int, keys_max: int) -> list[str]:
        """Keys that may be looked up now, longest waiting first."""
        ripe = [key for key, due_ms in self._due.items() if due_ms <= now_ms]
        return sorted(ripe, key=self._due.__getitem__)[:keys_max]


def after_lookup(keys: Sequence[str], found: Mapping[str, Outcome] | None) -> list[Outcome]:
    """What a lookup made after settling proves: found is found, absent may be sent again, no answer proves nothing."""
    if found is None:
        return []
    absent = "looked up after its time limit: not there"
    return [found.get(key) or Outcome(key, "unavailable", detail=absent) for key in keys]
