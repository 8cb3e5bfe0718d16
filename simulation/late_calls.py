"""Calls that a part has made beside it, carried out later: what a thread does, without one.

Owns the order: a call is carried out, after all that were asked for before it, when somebody asks for the second time
whether it is done, or needs its result. So the part goes on meanwhile, and every run of a seed is the same.
"""

from collections import deque
from collections.abc import Callable
from typing import Any


class LateCall:
    """The future of a call."""

    def __init__(self, queue: deque["LateCall"], call: Callable, args: tuple) -> None:
        self._queue, self._call, self._args = queue, call, args
        self._asked = False
        self._ended = False
        self._answer: Any = None
        self._error: Exception | None = None

    def done(self) -> bool:
        """Whether it has been carried out; at the second time it is."""
        if self._asked and not self._ended:
            self._carry_out_through()
        self._asked = True
        return self._ended

    def result(self) -> Any:
        """What came of it. Raises what it raised."""
        if not self._ended:
            self._carry_out_through()
        if self._error:
            raise self._error
        return self._answer

    def _carry_out_through(self) -> None:
        while not self._ended:
            self._queue.popleft()._carry_out()

    def _carry_out(self) -> None:
        self._ended = True
        try:
            self._answer = self._call(*self._args)
        except Exception as error:
            self._error = error


class LateCalls:
    """Takes calls, and carries none out by itself."""

    def __init__(self) -> None:
        self._queue: deque[LateCall] = deque()

    def submit(self, call: Callable, *args: Any) -> LateCall:
        """Take a call; its future."""
        taken = LateCall(self._queue, call, args)
        self._queue.append(taken)
        return taken

    def shutdown(self, wait: bool = True) -> None:
        """Carry out what is left."""
        while wait and self._queue:
            self._queue.popleft()._carry_out()
