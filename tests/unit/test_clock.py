"""The machine's clock as shells read it."""

from adapters.clock import WallClock

HOUR_NS = 3_600 * 10**9


class Machine:
    """A clock that is set, and time that elapses."""

    wall_ns, elapsed_ns = 1_790_000_000 * 10**9, 77 * 10**9

    def pass_by(self, ns: int) -> None:
        """Let time elapse."""
        self.wall_ns += ns
        self.elapsed_ns += ns

    def clock(self) -> WallClock:
        """A clock that a process begins with now."""
        return WallClock(lambda: self.wall_ns, lambda: self.elapsed_ns)


def test_clock_that_is_set_while_a_process_lives_goes_on_evenly() -> None:
    """Neither forward nor back: what the process measures is what elapsed."""
    machine = Machine()
    clock = machine.clock()
    for jump_ns in (HOUR_NS, -3 * HOUR_NS):
        before_ms = clock.now_ms()
        machine.wall_ns += jump_ns
        machine.pass_by(2 * 10**9)
        assert clock.now_ms() - before_ms == 2_000


def test_clock_of_a_new_process_shows_what_the_machine_shows() -> None:
    """What was set meanwhile counts from the next start on."""
    machine = Machine()
    machine.clock()
    machine.wall_ns -= HOUR_NS
    assert machine.clock().now_ms() == machine.wall_ns // 1_000_000
