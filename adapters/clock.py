"""The machine's clock, behind the Clock port. Shells and reports read it; the core is told the time."""

import time
from collections.abc import Callable
from functools import partial


def utc_now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


# Elapsed time that counts a sleeping machine's, too, where there is such a clock: a key's life goes on meanwhile.
elapsed_ns = partial(time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class WallClock:
    """The Clock port over the machine's clock: read once, and from then on the time that elapsed.

    When the machine's clock is set, a doubt about an ERP does not settle earlier and no pause lasts for hours; what was
    begun before keeps to the old time. Parts are built anew, with a new clock, when they restart.
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, elapsed_ns: Callable[[], int] = elapsed_ns) -> None:
        self._elapsed_ns = elapsed_ns
        self._began_ns = wall_ns() - elapsed_ns()

    def now_ms(self) -> int:
        """See Clock."""
        return (self._began_ns + self._elapsed_ns()) // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        time.sleep(seconds)
