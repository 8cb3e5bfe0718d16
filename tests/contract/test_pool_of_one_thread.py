"""A pool of one thread, in a process of its own, as its size is settled once: nobody waits for ever."""

import subprocess
import sys

# Work that lasts calls Polars again and again, and so does another thread.
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


def test_pool_other_threads_may_use_polars_meanwhile():
    """In a pool of one thread, nobody waits for ever for the interpreter's lock or for the thread."""
    environment = {"POLARS_MAX_THREADS": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", TWO_THREADS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "both have ended", done.stderr
