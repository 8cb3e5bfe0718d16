"""Simulations run in memory: starting Ray, opening a connection and sleeping are errors here."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest


@pytest.fixture(autouse=True, scope="module")
def _in_memory_only() -> Iterator[None]:
    """Make the outside unreachable while a module runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", _refuse("time.sleep"))
        for name in ("connect", "connect_ex", "bind"):
            patch.setattr(socket.socket, name, _refuse(f"socket.{name}"))
        yield


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*_args: Any, **_options: Any) -> NoReturn:
        raise AssertionError(f"not in a simulation: {what}")

    return refuse
