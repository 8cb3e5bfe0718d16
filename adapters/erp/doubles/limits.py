"""The limits that a double holds, and its own count of who came near them.

Owns sliding windows and the requests in flight. What it counts is what the proof of pacing is measured by.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple


class Window(NamedTuple):
    """At most `calls_max` requests in any `seconds`."""

    name: str
    seconds: float
    calls_max: int


class Over(NamedTuple):
    """Which limit a request would exceed, and when there is room again."""

    name: str
    retry_after_s: float


CONCURRENCY = "concurrency"


class RequestLimits:
    """Counts admitted requests. `refused` is how many each limit has refused, `peaks` the most that it has admitted.

    `share` below 1 cuts every window's quota to that part, as a vendor may on a busy day; what is refused because of
    the cut alone is counted in `cut`, not in `refused`.
    """

    def __init__(self, windows: Iterable[Window] = (), concurrency: int = 0) -> None:
        self._windows = [(window, deque[int]()) for window in windows]
        self._concurrency = concurrency
        self.share = 1.0
        self.refused: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()

    def reduce(self, factor: float) -> None:
        """From now on every window's quota is this part of what it was, as for a smaller account."""
        self._windows = [
            (window._replace(calls_max=round(window.calls_max * factor)), admitted)
            for window, admitted in self._windows
        ]

    def admit(self, now_ms: int, in_flight: int) -> Over | None:
        """Count this request, or say which limit refuses it. `in_flight` counts it too."""
        self.peaks[CONCURRENCY] = max(self.peaks[CONCURRENCY], in_flight)
        if self._concurrency and in_flight > self._concurrency:
            self.refused[CONCURRENCY] += 1
            return Over(CONCURRENCY, 0.0)
        for window, admitted in self._windows:
            while admitted and admitted[0] <= now_ms - window.seconds * 1000:
                admitted.popleft()
            if len(admitted) >= max(1, int(window.calls_max * self.share)):
                counted = self.refused if len(admitted) >= window.calls_max else self.cut
                counted[window.name] += 1
                return Over(window.name, (admitted[0] - now_ms) / 1000 + window.seconds)
        for window, admitted in self._windows:
            admitted.append(now_ms)
            self.peaks[window.name] = max(self.peaks[window.name], len(admitted))
        return None
