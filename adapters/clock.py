"""The machine's clock, behind the Clock port. Shells and reports read it; the core is told the time."""

import time


def utc_now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


class WallClock:
    """The Clock port over the machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return utc_now_ms()

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        time.sleep(seconds)
