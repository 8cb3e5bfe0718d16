"""The mender: whoever finds a dead server starts a program that starts it again, once, and not for ever."""

from collections.abc import Callable

import pytest

from actors import mender
from actors.mender import ROUNDS_BETWEEN_MAX, Mender


class Program:
    """A started program that ends when it is told to."""

    def __init__(self, started: list["Program"], command: list[str]) -> None:
        self.command, self.status = command, None
        started.append(self)

    def poll(self) -> int | None:
        return self.status


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Programs that were started, in order."""
    programs: list[Program] = []

    def start(command: list[str], **_how: object) -> Program:
        return Program(programs, command)

    monkeypatch.setattr(mender.subprocess, "Popen", start)
    return programs


def mending(dead: list[str]) -> Callable[[], None]:
    """A mender of a folder whose dead servers are these."""
    return Mender("/folder", lambda: dead)


def test_mender_with_everything_alive_starts_nothing(started):
    """While no server has died, nothing is started."""
    mending([])()
    assert started == []


def test_mender_that_finds_a_dead_server_starts_one_program_for_the_folder(started):
    """A dead server has a program started on the installation's folder, and while it runs no second one."""
    mend = mending(["valkey"])
    mend()
    mend()
    assert [program.command[-2:] for program in started] == [["actors.cli.mending", "/folder"]]


def test_mender_after_a_program_that_ended_well_looks_again_at_once(started):
    """A server that dies again is started again without a pause."""
    mend = mending(["valkey"])
    mend()
    started[0].status = 0
    mend()
    assert len(started) == 2


def test_mender_whose_programs_fail_tries_ever_more_rarely_and_never_gives_up(started):
    """What does not start is tried again after pauses that grow up to a bound."""
    mend, rounds = mending(["valkey"]), []
    for number in range(400):
        before = len(started)
        mend()
        if len(started) > before:
            rounds.append(number)
            started[-1].status = 1
    pauses = [later - earlier for earlier, later in zip(rounds, rounds[1:], strict=False)]
    assert pauses[:3] == [2, 4, 8] and pauses[-1] == ROUNDS_BETWEEN_MAX + 1 == max(pauses)
