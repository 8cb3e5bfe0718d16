"""Coalescer: many callers, one piece of work, and each caller its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.coalescer import Apart, Coalescer


class Gate:
    """Work that notes its groups and waits until it is let through. An item below zero gets an exception."""

    def __init__(self, open: bool = True) -> None:
        self.groups: list[list[int]] = []
        self.passage = asyncio.Event()
        if open:
            self.passage.set()

    async def work(self, items: list[int]) -> Sequence[int | Exception]:
        self.groups.append(items)
        await self.passage.wait()
        return [item * 10 if item >= 0 else ValueError(str(item)) for item in items]


async def settle() -> None:
    """Let every task that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_coalescer_callers_at_the_same_time_share_one_group():
    """What is submitted together is worked on together, and each caller gets the result of its own item."""

    async def run() -> None:
        gate = Gate()
        coalescer = Coalescer(gate.work, weight_max=100, concurrency=1)
        assert await asyncio.gather(*(coalescer.submit(i, 1) for i in range(5))) == [0, 10, 20, 30, 40]
        assert gate.groups == [[0, 1, 2, 3, 4]]

    asyncio.run(run())


def test_coalescer_callers_while_work_is_under_way_go_together_next():
    """Whatever comes during one piece of work forms the next group."""

    async def run() -> None:
        gate = Gate(open=False)
        coalescer = Coalescer(gate.work, weight_max=100, concurrency=1)
        first = asyncio.create_task(coalescer.submit(1, 1))
        await settle()
        later = [asyncio.create_task(coalescer.submit(i, 1)) for i in (2, 3)]
        await settle()
        gate.passage.set()
        assert await asyncio.gather(first, *later) == [10, 20, 30]
        assert gate.groups == [[1], [2, 3]]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("weights", "groups"),
    [([5, 5, 5], [[0, 1], [2]]), ([20, 1], [[0], [1]]), ([1, 20, 1], [[0], [1], [2]])],
)
def test_coalescer_groups_never_exceed_the_weight(weights: list[int], groups: list[list[int]]):
    """A group is as heavy as allowed, except a single item that is heavier by itself."""

    async def run() -> None:
        gate = Gate()
        coalescer = Coalescer(gate.work, weight_max=10, concurrency=1)
        await asyncio.gather(*(coalescer.submit(i, weight) for i, weight in enumerate(weights)))
        assert gate.groups == groups

    asyncio.run(run())


def test_coalescer_exception_of_one_item_is_raised_for_its_caller_alone():
    """One caller's fault does not reach the others of its group."""

    async def run() -> None:
        coalescer = Coalescer(Gate().work, weight_max=100, concurrency=1)
        answers = await asyncio.gather(*(coalescer.submit(i, 1) for i in (1, -1, 2)), return_exceptions=True)
        assert answers[0] == 10 and answers[2] == 20
        assert isinstance(answers[1], ValueError)

    asyncio.run(run())


def test_coalescer_work_that_fails_is_raised_for_all_and_the_next_group_works():
    """A failed piece of work answers everybody who shared it, and nobody after."""

    async def run() -> None:
        gate = Gate()
        failures = [RuntimeError("once")]

        async def work(items: list[int]) -> Sequence[int | Exception]:
            if failures:
                raise failures.pop()
            return await gate.work(items)

        coalescer = Coalescer(work, weight_max=100, concurrency=1)
        answers = await asyncio.gather(*(coalescer.submit(i, 1) for i in (1, 2)), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["once", "once"]
        assert await coalescer.submit(3, 1) == 30

    asyncio.run(run())


def test_coalescer_caller_that_has_gone_is_left_out():
    """An item whose caller was cancelled while it waited is not worked on."""

    async def run() -> None:
        gate = Gate(open=False)
        coalescer = Coalescer(gate.work, weight_max=100, concurrency=1)
        tasks = [asyncio.create_task(coalescer.submit(1, 1))]
        await settle()
        tasks += [asyncio.create_task(coalescer.submit(i, 1)) for i in (2, 3)]
        await settle()
        tasks[1].cancel()
        await settle()
        gate.passage.set()
        assert await tasks[0] == 10 and await tasks[2] == 30
        assert gate.groups == [[1], [3]]

    asyncio.run(run())


def test_coalescer_without_callers_left_does_no_work():
    """When all who waited have gone there is no group, and who comes later is served."""

    async def run() -> None:
        gate = Gate()
        coalescer = Coalescer(gate.work, weight_max=100, concurrency=1)
        gone = asyncio.create_task(coalescer.submit(1, 1))
        await asyncio.sleep(0)
        gone.cancel()
        await settle()
        assert gate.groups == []
        assert await coalescer.submit(2, 1) == 20

    asyncio.run(run())


def test_coalescer_with_concurrency_works_on_several_groups_at_once():
    """With two groups allowed, a second one begins while the first waits, and a third does not."""

    async def run() -> None:
        gate = Gate(open=False)
        coalescer = Coalescer(gate.work, weight_max=1, concurrency=2)
        tasks = [asyncio.create_task(coalescer.submit(i, 1)) for i in range(3)]
        await settle()
        assert gate.groups == [[0], [1]]
        gate.passage.set()
        assert await asyncio.gather(*tasks) == [0, 10, 20]

    asyncio.run(run())


def test_coalescer_groups_begin_apart(monkeypatch: pytest.MonkeyPatch):
    """What comes soon after a group began goes together, though more groups may be under way."""
    pauses, over, really_sleep = [], asyncio.Event(), asyncio.sleep

    async def pause(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
            await over.wait()
        await really_sleep(0)

    async def run() -> None:
        gate = Gate(open=False)
        coalescer = Coalescer(gate.work, weight_max=100, concurrency=8, apart=Apart(60.0, 60.0, 100))
        callers = []
        for item in (1, 2, 3):
            callers.append(asyncio.create_task(coalescer.submit(item, 1)))
            await settle()
        assert gate.groups == [[1]]
        over.set()
        await settle()
        assert gate.groups == [[1], [2, 3]]
        gate.passage.set()
        assert await asyncio.gather(*callers) == [10, 20, 30]
        assert len(pauses) == 1 and 0 < pauses[0] <= 60.0

    monkeypatch.setattr(asyncio, "sleep", pause)
    asyncio.run(run())


def test_coalescer_heavy_group_is_followed_at_once(monkeypatch: pytest.MonkeyPatch):
    """After a group that is not light the next begins when it comes: such work does not hold up the loop."""

    async def pass_by(_seconds: float) -> None:
        pauses.append(_seconds)

    async def run() -> None:
        coalescer = Coalescer(Gate().work, weight_max=10, concurrency=1, apart=Apart(60.0, 60.0, 9))
        assert await asyncio.gather(*(coalescer.submit(item, 5) for item in range(4))) == [0, 10, 20, 30]
        before = len(pauses)
        assert await coalescer.submit(4, 10) == 40
        assert len(pauses) == before

    pauses: list[float] = []
    monkeypatch.setattr(asyncio, "sleep", pass_by)
    asyncio.run(run())
