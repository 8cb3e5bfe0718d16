"""What goes wrong at a double, and when: a plan, then a seeded chance.

Owns the choice alone; what a fault does is the double's.
"""

import random
from collections import Counter, deque
from collections.abc import Mapping
from typing import Literal, get_args

Fault = Literal[
    "none",
    "lose_request",  # the connection breaks before anything is done
    "lose_answer",  # it breaks after the commit
    "slow_commit",  # it breaks at once; the commit happens SLOW_COMMIT_S later
    "partial_batch",  # some items of a batch fail for no fault of theirs, where the ERP takes items one by one
    "throttle",  # refused as over the limit, though it was not
    "quota_cut",  # every window shrinks to a half for TROUBLE_S
    "closed_period",  # every period is closed for TROUBLE_S
    "maintenance",  # nothing is served for TROUBLE_S
    "expired_token",  # every token ends
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
TROUBLE_S = 30.0
SLOW_COMMIT_S = 20.0


class Trouble:
    """Faults of the coming write requests: those planned first, then by chance, from one seed."""

    def __init__(self, seed: int = 0, rates: Mapping[Fault, float] | None = None) -> None:
        self._chance, self._rates = random.Random(seed), dict(rates or {})
        self._planned: deque[Fault] = deque()
        self.met: Counter[Fault] = Counter()

    def plan(self, *faults: Fault) -> None:
        """Append to what the next write requests meet, one each."""
        unknown = set(faults) - set(FAULTS)
        if unknown:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        self._planned += faults

    def end(self) -> None:
        """No more faults."""
        self._planned.clear()
        self._rates = {}

    def next(self) -> Fault:
        """What this write request meets."""
        fault = self._planned.popleft() if self._planned else self._drawn()
        self.met[fault] += 1
        return fault

    def _drawn(self) -> Fault:
        point = self._chance.random()
        for fault, rate in self._rates.items():
            point -= rate
            if point < 0:
                return fault
        return "none"
