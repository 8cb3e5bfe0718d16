"""Work on a thread of Polars' own pool.

Polars hands nearly every call to its pool. For a thread outside that is a switch to another thread and back, 70 to
130 µs of every call on few rows and far more where the cores are busy; for one inside it is nothing. Owns that detour,
and that what the work raises arrives as it was raised. Never decides how large the pool is (POLARS_MAX_THREADS does).

In a pool of one thread other threads' calls of Polars wait until the work is done. They wait without the interpreter's
lock, so the work goes on.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import polars as pl

_R = TypeVar("_R")
# One expression alone would be evaluated by whoever asks; of several each is the pool's.
_COLUMNS, _BESIDE = pl.DataFrame({"given": [0], "beside": [0]}), pl.col("beside") + 1


def in_pool(work: Callable[..., _R], *arguments: object) -> _R:
    """What `work` returns or raises, run once on a thread of the pool while the caller waits."""
    outcome: Future[_R] = Future()

    def run(column: pl.Series) -> pl.Series:
        try:
            outcome.set_result(work(*arguments))
        except BaseException as error:
            outcome.set_exception(error)
        return column

    _COLUMNS.select(pl.col("given").map_batches(run, return_dtype=pl.Int64()), _BESIDE)
    return outcome.result()
