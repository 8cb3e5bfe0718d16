"""Virtual time: one clock that only the simulation moves, and each process's own view of it.

Owns the difference between elapsed time, which never goes back, and wall time, which may jump.
"""


class VirtualClock:
    """Elapsed milliseconds, and the wall time that everybody reads."""

    def __init__(self, start_ms: int) -> None:
        self.elapsed_ms = 0
        self._wall_at_start_ms = start_ms

    @property
    def wall_ms(self) -> int:
        """What an honest clock shows."""
        return self._wall_at_start_ms + self.elapsed_ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.elapsed_ms += ms

    def jump(self, ms: int) -> None:
        """Set wall time forward or back; nothing elapses."""
        self._wall_at_start_ms += ms


class ProcessClock:
    """The Clock port of one process: wall time when it began, off by a constant, and what has elapsed since."""

    def __init__(self, clock: VirtualClock, skew_ms: int) -> None:
        self._clock = clock
        self._began_ms = clock.wall_ms - clock.elapsed_ms + skew_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970 as this process believes."""
        return self._began_ms + self._clock.elapsed_ms

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        self._clock.advance(round(seconds * 1000))
