"""Gathers what many callers ask for at once, so that the work is done once for all of them.

Owns who waits and who is answered. What comes while nothing is under way is worked on at once, and what comes meanwhile
goes together next. Never decides what the work is.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    weight: int
    answer: asyncio.Future


class Gather(NamedTuple):
    """How long callers gather after a group of at most this weight."""

    least_s: float
    most_s: float
    weight_max: int


class Coalescer(Generic[Item, Result]):
    """Runs `work` on groups of items, at most `concurrency` groups at once, each of at most `weight_max` in sum.

    `work` gives one result an item, in order; an exception among the results is raised for that item's caller alone,
    an exception raised by `work` for all callers of the group. A single item may be heavier than `weight_max`.

    After a light group whose callers were not alone, others gather: for as long as it took, within the bounds of
    `gather`. Light groups are worked on in the loop: if they followed each other at once, each would hold one or two of
    many callers, and their fixed cost would keep the loop from taking in the others.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        weight_max: int,
        concurrency: int,
        gather: Gather | None = None,
    ) -> None:
        self._work, self._weight_max, self._concurrency = work, weight_max, concurrency
        self._gather, self._gathers_until = gather or Gather(0.0, 0.0, -1), 0.0
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task] = set()  # the loop itself holds only weak references

    async def submit(self, item: Item, weight: int) -> Result:
        """Have the item worked on with whatever else waits; its own result."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, weight, answer))
        if self._running < self._concurrency:
            self._running += 1
            # A task begins after the callers that are ready now: what they submit joins its first group.
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if (left_s := self._gathers_until - loop.time()) > 0:
                    await asyncio.sleep(left_s)
                if group := self._next_group():
                    await self._work_off(group)
        finally:
            self._running -= 1

    async def _work_off(self, group: list[_Waiting[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            results = await self._work([waiting.item for waiting in group])
        except asyncio.CancelledError:
            for waiting in group:
                waiting.answer.cancel()
            raise
        # Polars panics are no Exception, and must not leave callers without an answer.
        except BaseException as error:
            results = [error] * len(group)
        for waiting, result in zip(group, results, strict=True):
            _answer(waiting.answer, result)
        alone = len(group) == 1 and not self._waiting
        if not alone and sum(waiting.weight for waiting in group) <= self._gather.weight_max:
            pause_s = min(max(loop.time() - began, self._gather.least_s), self._gather.most_s)
            self._gathers_until = loop.time() + pause_s

    def _next_group(self) -> list[_Waiting[Item, Result]]:
        group: list[_Waiting[Item, Result]] = []
        weight = 0
        while self._waiting and (not group or weight + self._waiting[0].weight <= self._weight_max):
            waiting = self._waiting.popleft()
            if not waiting.answer.done():  # its caller has gone
                group.append(waiting)
                weight += waiting.weight
        return group


def _answer(future: asyncio.Future, result: object) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
