"""Work on a thread of Polars' pool: what it returns and raises arrives, once, and nobody waits for ever."""

import subprocess
import sys
import threading

import pytest

from runtime.pool import in_pool

# Run in a process of its own, as a pool's size is settled once: in a pool of one thread, work that lasts calls Polars
# again and again, and so does another thread.
TWO_THREADS = """
import threading
import polars as pl
from runtime.pool import in_pool

frame = pl.DataFrame({"number": range(1_000), "text": list(map(str, range(1_000)))})

def use():
    for _ in range(50):
        frame.filter(pl.col("number") > 3).select("text", "number").group_by("text").agg(pl.len())

other = threading.Thread(target=use)
other.start()
for _ in range(5):
    in_pool(use)
other.join()
print("both have ended")
"""


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


def test_pool_other_threads_may_use_polars_meanwhile():
    """In a pool of one thread, nobody waits for ever for the interpreter's lock or for the thread."""
    environment = {"POLARS_MAX_THREADS": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", TWO_THREADS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "both have ended", done.stderr
