"""The fence around unit tests itself."""

import asyncio
import socket
import time

import pytest


def test_unit_tests_connecting_binding_or_sleeping_fails():
    """A unit test that reaches out or waits fails at that call."""
    with pytest.raises(AssertionError, match="time.sleep"):
        time.sleep(0)
    with socket.socket() as door, pytest.raises(AssertionError, match="connect"):
        door.connect(("127.0.0.1", 9))
    with socket.socket() as door, pytest.raises(AssertionError, match="bind"):
        door.bind(("127.0.0.1", 0))


def test_unit_tests_asyncio_goes_on_working():
    """asyncio's loop, which wakes itself over a socket pair, works inside the fence."""
    assert asyncio.run(asyncio.to_thread(lambda: 7)) == 7
