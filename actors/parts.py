"""The shells that Ray runs: a thread around a part that blocks, an event loop around one that awaits.

Owns the life of a part inside its process: build it, run it, report on it, rebuild it after a failure with a growing
pause. Constructors can't fail, because Ray does not restart an actor whose constructor raised; what can fail happens
in the loop, which survives whatever is raised: a native library's panic is no Exception. Never decides anything that
a part decides.
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Protocol

import msgspec
import structlog

from runtime.errors import Fenced

BACKOFF_S_MAX = 30.0
CALL_TIMEOUT_S = 60.0
FOLLOWING_NICENESS = 10  # parts that follow give way to gateways and log, whose callers wait; where cores are busy


class Part(Protocol):
    """What a thread shell runs."""

    def start(self) -> None: ...

    def step(self) -> float: ...

    def close(self) -> None: ...


class PartHealth(msgspec.Struct, frozen=True):
    """A part's answer to a ping. `error_type` is the last failure's, empty while it runs."""

    name: str
    pid: int
    state: str
    steps: int
    error_type: str
    detail: dict | list | str | int | None


def _pause_s(failures: int) -> float:
    return min(2.0 ** min(failures, 10) / 4, BACKOFF_S_MAX)


class ThreadShell:
    """Runs a part's steps in one thread; answers pings and calls from others."""

    def __init__(self, name: str, build: Callable[[], Part], leave: Callable[[int], object] = os._exit) -> None:
        self._name, self._build, self._leave = name, build, leave
        self._part: Part | None = None
        self._state, self._steps, self._error = "starting", 0, ""
        self._calls: queue.Queue[tuple[str, Future]] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return self._name

    def _live(self) -> None:
        logger, failures = structlog.get_logger("part"), 0
        os.nice(FOLLOWING_NICENESS)
        while not self._stop.is_set():
            began = self._steps
            try:
                self._run()
            except Fenced:
                # Whoever was overtaken must not take over again. Ray starts an actor anew that is still wanted.
                self._state, self._error = "fenced", "Fenced"
                logger.warning("fenced", owner=self._name)
                self._leave(1)
            except BaseException as error:
                self._state, self._error = "failed", type(error).__name__
                logger.exception("part_failed", owner=self._name)
            self._close()
            failures = 0 if self._steps > began else failures + 1
            self._stop.wait(_pause_s(failures))

    def _run(self) -> None:
        self._part = self._build()
        self._part.start()
        self._state, self._error = "running", ""
        while not self._stop.is_set():
            self._answer_calls()
            wait_s = self._part.step()
            self._steps += 1
            if wait_s > 0:
                self._wait(wait_s)

    def _wait(self, seconds: float) -> None:
        """Wait, but not through a call or a stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._calls.empty() and not self._stop.is_set():
            self._stop.wait(min(left, 0.05))

    def _answer_calls(self) -> None:
        while not self._calls.empty():
            method, answer = self._calls.get()
            try:
                answer.set_result(getattr(self._part, method)())
            except BaseException as error:
                answer.set_exception(error)

    def _close(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        try:
            part.close()
        except BaseException:
            structlog.get_logger("part").exception("close_failed", owner=self._name)

    def health(self) -> PartHealth:
        """A ping's answer. It comes from another thread, so it is given while a step runs; hence it may lag by one."""
        report = getattr(self._part, "health", None)
        detail = msgspec.to_builtins(report()) if report else None
        return PartHealth(self._name, os.getpid(), self._state, self._steps, self._error, detail)

    def call(self, method: str) -> object:
        """Run one of the part's methods between two steps, and answer with its result."""
        answer: Future = Future()
        self._calls.put((method, answer))
        return answer.result(timeout=CALL_TIMEOUT_S)

    def stop(self) -> None:
        """Finish the step in hand, close the part, end the thread."""
        self._stop.set()
        self._thread.join(timeout=CALL_TIMEOUT_S)


class AsyncPart(Protocol):
    """What an event-loop shell runs."""

    async def start(self) -> None: ...

    async def run(self) -> None: ...

    async def close(self) -> None: ...


class AsyncShell:
    """Runs an asyncio part in the actor's own event loop."""

    def __init__(self, name: str, build: Callable[[], Awaitable[AsyncPart]]) -> None:
        self._name, self._build = name, build
        self._part: AsyncPart | None = None
        self._state, self._rounds, self._error = "starting", 0, ""
        self._task = asyncio.get_running_loop().create_task(self._live())

    def __repr__(self) -> str:
        return self._name

    async def _live(self) -> None:
        logger = structlog.get_logger("part")
        while True:
            try:
                self._part = await self._build()
                await self._part.start()
                self._state, self._error = "running", ""
                await self._part.run()
            except asyncio.CancelledError:
                await self._close()
                raise
            except BaseException as error:
                self._state, self._error = "failed", type(error).__name__
                logger.exception("part_failed", owner=self._name)
            await self._close()
            self._rounds += 1
            await asyncio.sleep(_pause_s(min(self._rounds, 4)))

    async def _close(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        try:
            await part.close()
        except asyncio.CancelledError:
            raise
        except BaseException:
            structlog.get_logger("part").exception("close_failed", owner=self._name)

    async def health(self) -> PartHealth:
        """A ping's answer, from the part's own loop: a blocked loop does not answer."""
        report = getattr(self._part, "health", None)
        detail = msgspec.to_builtins(report()) if report else None
        return PartHealth(self._name, os.getpid(), self._state, self._rounds, self._error, detail)

    async def stop(self) -> None:
        """Cancel the part and wait until it has closed."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
