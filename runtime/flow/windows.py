"""How many calls an ERP may have counted in its own windows: the last second, minute, day.

Owns the counting. It holds against fixed and sliding windows and whatever delay the network adds: a call is counted
from its start until a whole window after its end, as the ERP counted it somewhere between the two. Reads no clock.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

NEVER_MS = 2**63 - 1  # "a call must end first"
SLOTS = 60  # of a window: ends are kept by slots of its 60th part, rounded up


class WindowLimit(NamedTuple):
    """At most `calls` in any `length_ms`."""

    name: str
    length_ms: int
    calls: int


class CallWindow:
    """Counts ended calls of one window, by slots; what is under way is the caller's to know and to say.

    `ended` by a clock that has been set back by `ahead_ms` since counts as so much earlier, rounded to the later slot.
    """

    def __init__(self, limit: WindowLimit, ended: Mapping[int, int] | None = None, ahead_ms: int = 0) -> None:
        self.limit = limit
        self._slot_ms = max(1, limit.length_ms // SLOTS)
        self._ended = {slot - ahead_ms // self._slot_ms: calls for slot, calls in (ended or {}).items()}

    def end(self, at_ms: int, calls: int = 1) -> None:
        """So many calls ended then, or will have ended by then."""
        slot = at_ms // self._slot_ms
        self._ended[slot] = self._ended.get(slot, 0) + calls

    def forget(self, now_ms: int) -> None:
        """Let go of what no window holds any more."""
        self._ended = {slot: calls for slot, calls in self._ended.items() if self._leaves_ms(slot) > now_ms}

    def left(self, now_ms: int, under_way: int) -> int:
        """How many calls may start now."""
        counted = sum(calls for slot, calls in self._ended.items() if self._leaves_ms(slot) > now_ms)
        return max(0, self.limit.calls - under_way - counted)

    def free_at(self, now_ms: int, under_way: int) -> int:
        """When one more call may start: now or later, or NEVER_MS while those under way are the whole limit."""
        excess = under_way + sum(self._ended.values()) + 1 - self.limit.calls
        if under_way >= self.limit.calls:
            return NEVER_MS
        for slot in sorted(self._ended):
            if excess <= 0:
                break
            excess -= self._ended[slot]
            now_ms = max(now_ms, self._leaves_ms(slot))
        return now_ms

    def ended(self) -> dict[int, int]:
        """What a successor must know."""
        return dict(self._ended)

    def interval_ms(self) -> int:
        """The pace that never meets the limit."""
        return math.ceil(self.limit.length_ms / self.limit.calls)

    def _leaves_ms(self, slot: int) -> int:
        return (slot + 1) * self._slot_ms + self.limit.length_ms
