"""An asyncio loop over virtual time: no selector, no threads, no waiting.

Owns turning what is ready now, and nothing that is due later. Work for threads is done on the spot, so that a run has
one order only. A loop that is dropped takes its tasks with it, as a process does.
"""

import asyncio
import contextvars
from asyncio import base_events
from collections.abc import Callable
from typing import Any

from simulation.clock import VirtualClock

RESOLUTION_S = 1e-6  # a timer so near is due; the base class's nanosecond gets lost in the seconds of some years


class VirtualLoop(base_events.BaseEventLoop):
    """Event loop of one simulated process."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._virtual = clock
        self._selector = self  # asked by the base class for input and output, of which there is none
        self._clock_resolution = RESOLUTION_S
        self.set_exception_handler(lambda *_: None)  # a dropped loop's tasks are no news

    def time(self) -> float:
        """Seconds that have elapsed."""
        return self._virtual.elapsed_ms / 1000

    def select(self, timeout: float | None) -> list:
        """Where the base class would wait: everything that is ready has run, so this turn ends."""
        if timeout is None or timeout > 0:
            self.stop()
        return []

    def turn(self) -> None:
        """Run all callbacks and timers that are due."""
        if not self.is_closed():
            self.run_forever()

    def call_soon(self, callback: Callable, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        """Put a callback in line; in a loop that is closed, nobody will ever call it."""
        if self.is_closed():
            return asyncio.Handle(callback, args, self, context)
        return super().call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: object, func: Callable, *args: Any) -> asyncio.Future:
        """Do it now."""
        answer = self.create_future()
        try:
            answer.set_result(contextvars.copy_context().run(func, *args))
        except BaseException as error:
            answer.set_exception(error)
        return answer

    def _process_events(self, event_list: list) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else wakes this loop."""
