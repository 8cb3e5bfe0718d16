"""Work side by side in processes of their own, one core each.

Owns how such a process begins, and that it ends with whoever asked for it. Never says what it works on.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

SPAWN = multiprocessing.get_context("spawn")  # Polars does not outlive a fork
THREADS_VARIABLE = "POLARS_MAX_THREADS"  # one core a process, so that cores don't fight over each other's work


@contextmanager
def pool(processes: int, begin: Callable[..., object] | None = None, *given: object) -> Iterator[ProcessPoolExecutor]:
    """So many processes, each of which calls `begin(*given)` first. When the block ends, what has not begun is dropped,
    and what runs is waited for, unless whoever asked is told to end."""
    os.environ.setdefault(THREADS_VARIABLE, "1")
    executor = ProcessPoolExecutor(processes, mp_context=SPAWN, initializer=_begun, initargs=(begin, given))
    try:
        yield executor
    except (KeyboardInterrupt, SystemExit):
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begun(begin: Callable[..., object] | None, given: tuple) -> None:
    """Whoever asked may be killed; nobody runs on for them."""
    threading.Thread(target=_watch_parent, daemon=True).start()
    if begin:
        begin(*given)


def _watch_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
