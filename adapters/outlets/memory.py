"""An outlet in memory, with faults on demand.

Owns what tests look at: the entries that a consumer would read. Never waits.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from runtime.errors import LogRefused, LogUnavailable
from runtime.ports import Told

# "refuse": LogRefused, nothing stored. "lose_call": LogUnavailable, nothing stored.
# "lose_answer": LogUnavailable, but stored.
PublishFault = Literal["none", "refuse", "lose_call", "lose_answer"]


class MemoryOutlet:
    """Outlet over a list. `plan` says how the next publications fail; while `away` is set, nothing is answered."""

    def __init__(self, length_max: int = 1_000_000, plan: Iterable[PublishFault] = ()) -> None:
        self._length_max, self._plan = length_max, deque(plan)
        self._newest = 0
        self.entries: list[Told] = []
        self.away = False

    def plan(self, *faults: PublishFault) -> None:
        """Add to the plan: one fault a publication."""
        self._plan.extend(faults)

    def lose(self) -> None:
        """Lose the stream with all that it knew."""
        self._newest, self.entries = 0, []

    def newest(self) -> int:
        """The highest number that the stream has ever held. See Outlet."""
        self._answer()
        return self._newest

    def publish(self, after: int, told: Sequence[Told]) -> int:
        """Append all of these if `after` is still the newest number. See Outlet."""
        self._answer()
        fault = self._plan.popleft() if self._plan else "none"
        if fault == "refuse":
            raise LogRefused("the consumer's server refused")
        if fault == "lose_call":
            raise LogUnavailable("the consumer's server did not answer")
        if told and after == self._newest:
            self._append(told)
        if fault == "lose_answer":
            raise LogUnavailable("the consumer's server did not answer")
        return self._newest

    def _append(self, told: Sequence[Told]) -> None:
        numbers = [self._newest, *(status.status_no for status in told)]
        if any(number >= following for number, following in zip(numbers, numbers[1:], strict=False)):
            raise LogRefused("the consumer's server refused")
        self._newest = numbers[-1]
        self.entries = [*self.entries, *told][-self._length_max :]

    def _answer(self) -> None:
        if self.away:
            raise LogUnavailable("the consumer's server did not answer")

    def close(self) -> None:
        """Nothing to close."""
