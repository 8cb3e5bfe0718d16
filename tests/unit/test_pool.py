"""Work on a thread of Polars' pool: what it returns and raises arrives, once, and it may ask for more."""

import threading

import pytest

from runtime.pool import in_pool


def test_pool_what_the_work_returns_arrives():
    """The work runs once, on another thread, and the caller gets what it returned."""
    threads = []

    def work(one, other):
        threads.append(threading.get_ident())
        return one + other

    assert in_pool(work, 40, 2) == 42
    assert len(threads) == 1 and threads[0] != threading.get_ident()


@pytest.mark.parametrize("error", [ValueError("a fault of the work"), KeyboardInterrupt()])
def test_pool_what_the_work_raises_arrives(error):
    """An error reaches the caller as the object that was raised, not as one of Polars' own."""

    def work():
        raise error

    with pytest.raises(type(error)) as raised:
        in_pool(work)
    assert raised.value is error


def test_pool_work_may_ask_for_the_pool():
    """Work that runs there already may do the same again."""
    assert in_pool(lambda: in_pool(lambda: "inner")) == "inner"
