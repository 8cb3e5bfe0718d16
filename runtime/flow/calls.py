"""What goes into one call: as many entries as fit, and by halves those of which one must be found out.

Owns packing, and the groups that are tried apart. Never says why; `delivery` does.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from runtime.flow.outcomes import NOT_APPLIED, Call, Judged
from runtime.limits import Limits
from runtime.ports import ErpTerms, JournalEntry

ENTRY_BYTES, LINE_BYTES = 1_024, 512  # more than any ERP's form of an entry and of a line takes


class CallBounds(NamedTuple):
    """How much one call may carry. 0 bytes: no limit."""

    lines_max: int
    entries_max: int
    bytes_max: int = 0


def call_bounds(terms: ErpTerms, limits: Limits) -> CallBounds:
    """The tighter of what the ERP takes and what we allow."""
    return CallBounds(
        min(terms.lines_max, limits.call_lines_max),
        min(terms.entries_max, limits.call_entries_max),
        terms.bytes_max,
    )


def next_call(entries: Iterable[JournalEntry], bounds: CallBounds) -> Call:
    """As many entries from the front as fit; the first goes even if it alone is too large, as it can't be split."""
    call, lines, size = [], 0, 0
    for entry in entries:
        lines += len(entry.lines)
        size += ENTRY_BYTES + LINE_BYTES * len(entry.lines)
        full = lines > bounds.lines_max or len(call) >= bounds.entries_max or 0 < bounds.bytes_max < size
        if call and full:
            break
        call.append(entry)
    return tuple(call)


class Isolation:
    """Entries of refused calls, to be sent again by halves until each poisonous one stands alone.

    Lost in a crash, it is found again: the same entries are refused together once more.
    """

    def __init__(self) -> None:
        self._groups: list[Call] = []

    def suspects(self) -> set[str]:
        """Keys that wait to be tried apart."""
        return {entry.key for group in self._groups for entry in group}

    def choose(
        self,
        sealed: Sequence[JournalEntry],
        bounds: CallBounds,
        busy: Collection[str] = (),
        admitted: Collection[str] | None = None,
    ) -> Call:
        """The next call: the newest group that is not under way, unless fresh entries of a more urgent lane wait.
        `admitted`: the entities that a group may be of."""
        suspects = self.suspects()
        fresh = [entry for entry in sealed if entry.key not in suspects and entry.key not in busy]
        ready = (g for g in reversed(self._groups) if g[0].key not in busy)
        group = next((g for g in ready if admitted is None or all(e.entity in admitted for e in g)), ())
        if group and not (fresh and fresh[0].lane < group[0].lane):
            return group
        return next_call(fresh, bounds)

    def add(self, group: Call) -> None:
        """Try this group apart from all others."""
        self._groups.append(group)

    def split(self, group: Call) -> None:
        """Try its halves apart."""
        half = (len(group) + 1) // 2
        self._groups += [part for part in (group[half:], group[:half]) if part]

    def forget(self, keys: Collection[str]) -> None:
        """Leave these out of every group."""
        kept = (tuple(entry for entry in group if entry.key not in keys) for group in self._groups)
        self._groups = [group for group in kept if group]

    def learn(self, call: Call, judged: Judged) -> None:
        """Split a refused call; keep of a tried group what was not applied; forget the rest of it."""
        tried = call in self._groups
        if tried:
            self._groups.remove(call)
        if judged.isolate:
            self.split(call)
        elif tried:
            codes = {outcome.key: outcome.code for outcome in judged.outcomes}
            back = tuple(entry for entry in call if codes[entry.key] in NOT_APPLIED)
            self._groups += [back] if back else []
