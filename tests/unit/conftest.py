"""Unit tests run in memory: starting Ray, opening a connection and sleeping are errors here."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest


@pytest.fixture(autouse=True, scope="module")
def _in_memory_only() -> Iterator[None]:
    """Make the outside unreachable while a unit test module runs. asyncio's own socket pair goes on working."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", _refuse("time.sleep: use a clock that the test moves"))
        for name in ("connect", "connect_ex", "bind"):
            patch.setattr(socket.socket, name, _refuse(f"socket.{name}: use the memory twin of the port"))
        if "ray" in sys.modules:
            patch.setattr(sys.modules["ray"], "init", _refuse("ray.init: test the plain class"))
        yield
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "a unit test started Ray"


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*_args: Any, **_options: Any) -> NoReturn:
        raise AssertionError(f"not in a unit test: {what}")

    return refuse
