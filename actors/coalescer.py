"""Gathers what many callers ask for at once, so that the work is done once for all of them.

Owns who waits and who is answered. What comes while nothing is under way is worked on at once, or as soon as it may be,
and what comes meanwhile goes together next. Never decides what the work is.
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


class Apart(NamedTuple):
    """How long after each other groups begin, at least and at most, after one of at most this weight."""

    least_s: float
    most_s: float
    weight_max: int


AT_ONCE = Apart(0.0, 0.0, 0)


class Coalescer(Generic[Item, Result]):
    """Runs `work` on groups of items, at most `concurrency` groups at once, each of at most `weight_max` in sum.

    `work` gives one result an item, in order; an exception among the results is raised for that item's caller alone,
    an exception raised by `work` for all callers of the group. A single item may be heavier than `weight_max`.

    With `apart` a group begins half as long after the one before as the last took, within these bounds, if that was
    light. Light groups are worked on in the loop: otherwise each of many callers could get one of its own, and the
    fixed cost of many groups would keep the loop from taking in the others.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        weight_max: int,
        concurrency: int,
        apart: Apart = AT_ONCE,
    ) -> None:
        self._work, self._weight_max, self._concurrency = work, weight_max, concurrency
        self._apart, self._apart_s = apart, apart.least_s
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._running, self._gathering, self._may_begin_s = 0, False, 0.0
        self._tasks: set[asyncio.Task] = set()  # the loop itself holds only weak references

    async def submit(self, item: Item, weight: int) -> Result:
        """Have the item worked on with whatever else waits; its own result."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, weight, answer))
        self._begin()
        return await answer

    def _begin(self) -> None:
        """Have a group gather, if somebody waits and none does."""
        if not self._waiting or self._gathering or self._running >= self._concurrency:
            return
        self._gathering = True
        self._running += 1
        # A task begins after the callers that are ready now: what they submit joins its group.
        task = asyncio.get_running_loop().create_task(self._run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            await self._gather()
            if group := self._next_group():
                self._begin()
                await self._work_off(group)
        finally:
            self._running -= 1
        self._begin()

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            if (left_s := self._may_begin_s - loop.time()) > 0:
                await asyncio.sleep(left_s)
        finally:
            self._gathering = False
        self._may_begin_s = loop.time() + self._apart_s

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
        light = sum(waiting.weight for waiting in group) <= self._apart.weight_max
        half_s = (loop.time() - began) / 2
        self._apart_s = min(max(half_s, self._apart.least_s), self._apart.most_s) if light else 0.0

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
