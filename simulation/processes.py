"""The processes of a simulated Penstock: each runs one real part, dies at once, and comes back as Ray would bring it.

Owns the life of a part as `actors.parts` lives it (build, run, rebuild after a failure, leave when fenced), without
its threads. Decides nothing that a part decides.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import polars as pl

from actors.answers import Receipt
from actors.feed_reader import FeedReader
from actors.gateway import Gateway
from runtime.errors import Fenced
from runtime.schema import Few, conform
from simulation.clock import VirtualClock
from simulation.event_loop import VirtualLoop
from simulation.faults import CrashedError

REBUILD_MS = 500
FAULTS = (Exception, pl.exceptions.PanicException)


class PartHealth(NamedTuple):
    """An answer to a ping."""

    name: str
    state: str
    detail: Any = None


class ThreadProcess:
    """A process around a part that blocks. `pausable`: it may hang in the middle of a call and wake up later."""

    pausable = True

    def __init__(self, name: str, clock: VirtualClock, build: Callable[["ThreadProcess"], Any]) -> None:
        self.name, self._clock, self._build = name, clock, build
        self.part: Any = None
        self.dead = self.hung = False
        self.due_ms = clock.elapsed_ms
        self.turns = 0
        self.failed_with = ""

    def turn(self) -> float:
        """One step; seconds until the next."""
        self.turns += 1
        try:
            if self.part is None:
                part = self._build(self)
                part.start()
                self.part = part
            return self.part.step()
        except CrashedError:
            self.dead = True
        except Fenced:
            self.dead = True
        except FAULTS as error:
            self.failed_with = f"{type(error).__name__}: {error}"
            self.part = None
        return REBUILD_MS / 1000

    def health(self) -> PartHealth | None:
        """What a ping answers."""
        if self.hung or self.dead:
            return None
        report = getattr(self.part, "health", None)
        detail = msgspec.to_builtins(report()) if report else None
        return PartHealth(self.name, "running" if self.part else "starting", detail)

    def end(self) -> None:
        """The process is gone."""
        self.dead = True


class LoopProcess:
    """A process around a part that awaits, in an event loop of its own."""

    pausable = False

    def __init__(self, name: str, clock: VirtualClock, build: Callable[["LoopProcess"], Any]) -> None:
        self.name, self._clock = name, clock
        self.loop = VirtualLoop(clock)
        self.dead = self.hung = False
        self.due_ms = clock.elapsed_ms
        self.part = build(self)

    def turn(self) -> float:
        """Whatever is ready."""
        self.loop.turn()
        if self.dead:
            self.end()
        return 0.0

    def health(self) -> PartHealth | None:
        """What a ping answers."""
        return None if self.dead else PartHealth(self.name, "running")

    def end(self) -> None:
        """The process is gone, and all that it was about to do."""
        self.dead = True
        if not self.loop.is_closed():
            for coroutine in (task.get_coro() for task in asyncio.all_tasks(self.loop)):
                if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                    coroutine.close()  # it had not begun, and never will
            self.loop.close()


class GatewayProcess(LoopProcess):
    """A door."""

    part: Gateway

    def submit(self, frame: pl.DataFrame, *, singly: bool = False) -> Any:
        """Begin a request; its task. `singly`: its events are taken one by one."""
        self.due_ms = self._clock.elapsed_ms
        return self.loop.create_task(self._submit_few(frame) if singly else self.part.submit(frame))

    async def _submit_few(self, frame: pl.DataFrame) -> Receipt:
        """What the gRPC service does with a request of a few rows."""
        async with self.part.hold(frame.estimated_size()):
            return await self.part.store_few(_few_of(frame))


def _few_of(frame: pl.DataFrame) -> Few:
    """Events as the wire reads them from a few rows: times and days are integers."""
    plain = conform(frame).with_columns(pl.col("occurred_at").dt.epoch("ms"), pl.col("effective_on").to_physical())
    return Few(plain.rows(), list(range(len(plain))), [])


class FeedProcess(LoopProcess):
    """A feed reader, run until something ends it."""

    part: FeedReader

    def __init__(self, name: str, clock: VirtualClock, build: Callable[["LoopProcess"], FeedReader]) -> None:
        super().__init__(name, clock, build)
        self._running = self.loop.create_task(self.part.run())

    def turn(self) -> float:
        """Go on reading; a reader that failed is started anew by whoever looks after it."""
        super().turn()
        if self._running.done() and not self.dead:
            self.end()
        return 0.0
