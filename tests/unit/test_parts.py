"""The shells around parts: they build, run, report, rebuild after any failure, answer calls, and stop in good order."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import polars as pl
import pytest
import structlog

from actors import parts
from actors.parts import AsyncShell, ThreadShell
from runtime.errors import Fenced

PATIENCE_S = 10.0  # how long a thread may take; never reached but by a fault
FAILURES = [RuntimeError, Fenced, pl.exceptions.PanicException]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch) -> Iterator[None]:
    """Rebuild without a pause, and keep the log from the screen."""
    monkeypatch.setattr(parts, "_pause_s", lambda failures: 0.0)
    with structlog.testing.capture_logs():
        yield


def until(is_so: Callable[[], bool]) -> None:
    """Return when that is so; the thread under test makes it so."""
    turn = threading.Event()
    for _ in range(int(PATIENCE_S * 1000)):
        if is_so():
            return
        turn.wait(0.001)
    raise AssertionError("it never became so")


class Turnstile:
    """A part whose steps the test lets through one by one. `failures` are raised by the next methods of that name."""

    def __init__(self, **failures: type[BaseException]) -> None:
        self.failures = failures
        self.open = threading.Semaphore(0)
        self.done: list[str] = []
        self.inside = False

    def build(self) -> "Turnstile":
        """The builder: this same object again and again."""
        self._do("build")
        return self

    def start(self) -> None:
        self._do("start")

    def step(self) -> float:
        self.inside = True
        self.open.acquire(timeout=PATIENCE_S)
        self.inside = False
        self._do("step")
        return 0.0

    def report(self) -> str:
        """What a call asks for."""
        assert not self.inside, "called in the middle of a step"
        self._do("report")
        return "as asked"

    def health(self) -> dict:
        return {"steps": self.done.count("step")}

    def close(self) -> None:
        self._do("close")

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.failures:
            raise self.failures.pop(what)(what)

    def let(self, steps: int) -> None:
        """Let steps through and wait until they are done."""
        before = self.done.count("step")
        self.open.release(steps)
        until(lambda: self.done.count("step") == before + steps)


class Sleeper(Turnstile):
    """A part with nothing to do for an hour."""

    def step(self) -> float:
        self._do("step")
        return 3600.0


@pytest.fixture
def shell() -> Iterator[Callable[[Turnstile], ThreadShell]]:
    """Makes thread shells, and stops them whatever happens."""
    made: list[tuple[ThreadShell, Turnstile]] = []

    def make(part: Turnstile, leave: Callable[[int], object] = lambda status: None) -> ThreadShell:
        made.append((ThreadShell("part-0", part.build, leave), part))
        return made[-1][0]

    yield make
    for each, part in made:
        part.open.release(1000)
        each.stop()


def test_thread_shell_fenced_leaves_its_process(shell):
    """A part that was overtaken ends its process, so that it can't take over again; other failures do not."""
    left: list[int] = []
    part = Turnstile(step=Fenced)
    shell(part, left.append)
    part.open.release(1)
    until(lambda: left == [1])


def test_thread_shell_with_a_sound_part_builds_it_once_and_steps(shell):
    """A part is built, started, and stepped for as long as it does not fail."""
    part = Turnstile()
    running = shell(part)
    part.let(3)
    assert part.done == ["build", "start", "step", "step", "step"]
    health = running.health()
    assert (health.name, health.state, health.error_type, health.detail) == ("part-0", "running", "", {"steps": 3})


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: error.__name__)
@pytest.mark.parametrize("where", ["build", "start", "step"])
def test_thread_shell_with_a_part_that_fails_builds_it_anew(shell, where, error):
    """Whatever fails, with an error or with a native library's panic, the part is closed and built again."""
    part = Turnstile(**{where: error})
    running = shell(part)
    part.open.release(3)
    until(lambda: part.done.count("build") == 2 and part.done.count("step") >= 2)
    assert running.health().state == "running"
    assert part.done.count("close") == (0 if where == "build" else 1)


def test_thread_shell_with_a_part_that_can_not_be_closed_builds_it_anew(shell):
    """A part that fails twice, the second time while it is closed, is built again all the same."""
    part = Turnstile(step=RuntimeError, close=RuntimeError)
    shell(part)
    part.open.release(2)
    until(lambda: part.done.count("build") == 2)


def test_thread_shell_with_a_part_that_keeps_failing_says_so(shell, monkeypatch):
    """While a part can't be built, health is answered and names the error's type."""
    monkeypatch.setattr(parts, "_pause_s", lambda failures: PATIENCE_S)
    running = shell(Turnstile(build=ValueError))
    until(lambda: running.health().state == "failed")
    assert running.health().error_type == "ValueError"


def test_thread_shell_asked_during_a_step_answers_health_at_once(shell):
    """A ping does not wait for the step in hand, so that a long step is not taken for a hang."""
    part = Turnstile()
    running = shell(part)
    until(lambda: part.inside)
    assert running.health().state == "running" and part.inside


def test_thread_shell_called_runs_the_method_between_two_steps(shell):
    """A call waits for the step in hand, then runs in the part's own thread, and its result comes back."""
    part, answers = Turnstile(), []
    running = shell(part)
    until(lambda: part.inside)
    caller = threading.Thread(target=lambda: answers.append(running.call("report")))
    caller.start()
    until(lambda: not running._calls.empty())
    part.open.release()
    caller.join(PATIENCE_S)
    assert answers == ["as asked"] and part.done[-2:] == ["step", "report"]


def test_thread_shell_called_while_it_waits_wakes_up(shell):
    """A part that has nothing to do for an hour answers a call without delay."""
    part = Sleeper()
    running = shell(part)
    until(lambda: "step" in part.done)
    assert running.call("report") == "as asked"


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: error.__name__)
def test_thread_shell_called_in_vain_tells_the_caller_and_goes_on(shell, error):
    """A method that fails fails for its caller; the part goes on as it was."""
    part = Sleeper(report=error)
    running = shell(part)
    with pytest.raises(error):
        running.call("report")
    assert running.call("report") == "as asked" and part.done.count("build") == 1


def test_thread_shell_stopped_closes_the_part_and_steps_no_more(shell):
    """Stopping wakes the part, lets it close, and ends its thread."""
    part = Sleeper()
    running = shell(part)
    until(lambda: "step" in part.done)
    running.stop()
    assert part.done[-1] == "close" and not running._thread.is_alive()


# ── event loops ────────────────────────────────────────────────────────────────────────────────────────────────────


class Looped:
    """An asyncio part that runs until it is cancelled. `failures` are raised by the next methods of that name."""

    def __init__(self, **failures: type[BaseException]) -> None:
        self.failures, self.done, self.running = failures, [], asyncio.Event()

    async def build(self) -> "Looped":
        """The builder: this same object again and again."""
        await self._do("build")
        return self

    async def start(self) -> None:
        await self._do("start")

    async def run(self) -> None:
        await self._do("run")
        self.running.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        await self._do("close")

    async def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.failures:
            raise self.failures.pop(what)(what)


async def running(part: Looped) -> AsyncShell:
    """A shell whose part has come to run."""
    shell = AsyncShell("part-0", part.build)
    async with asyncio.timeout(PATIENCE_S):
        await part.running.wait()
    return shell


def in_loop(claim: Callable[[], Awaitable[None]]) -> None:
    """Run a claim in an event loop of its own."""
    asyncio.run(claim())


def test_async_shell_stopped_closes_its_part():
    """A part runs until it is stopped, and is closed then."""

    async def claim() -> None:
        part = Looped()
        shell = await running(part)
        assert (await shell.health()).state == "running"
        await shell.stop()
        assert part.done == ["build", "start", "run", "close"]

    in_loop(claim)


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: error.__name__)
@pytest.mark.parametrize("where", ["build", "start", "run"])
def test_async_shell_with_a_part_that_fails_builds_it_anew(where, error):
    """Whatever fails, with an error or with a native library's panic, the part is closed and built again."""

    async def claim() -> None:
        part = Looped(**{where: error})
        shell = await running(part)
        health = await shell.health()
        assert (health.state, health.error_type, part.done.count("build")) == ("running", "", 2)
        await shell.stop()

    in_loop(claim)


def test_async_shell_with_a_part_that_can_not_be_closed_builds_it_anew():
    """A part that fails twice, the second time while it is closed, is built again all the same."""

    async def claim() -> None:
        part = Looped(run=RuntimeError, close=RuntimeError)
        shell = await running(part)
        assert part.done.count("build") == 2
        await shell.stop()

    in_loop(claim)
