"""Cost as work grows: events a second against workers, frame size, facilities, remembered ids, accounts, open items.

`python -m benchmarks.growth [AXIS ...] [--short]` writes a plot and its figures for each axis to benchmarks/plots, a
short trial to benchmarks/out. Each point is measured in a process of its own, which also bounds its memory. All but
`workers` measure one engine on one core; a point that this machine's free memory does not allow is left out, and said
so.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from rich.console import Console

from benchmarks import measure, parts, prefilled, prepared, workload
from benchmarks.bench_end_to_end import FRAME_ROWS, full_load
from benchmarks.bench_engine import BUSIEST_SHARD
from benchmarks.plots import Panel, write
from benchmarks.watching import Watch
from runtime.config import Config
from runtime.ports import LogRecord
from runtime.shard import ShardEngine

PLOTS, TRIALS = measure.ROOT / "benchmarks" / "plots", measure.ROOT / "benchmarks" / "out"
EVENTS, SEED, STEP_ROWS, PASSES = 800_000, 1, 65_536, 2
STEPS_MAX = 60  # of small frames: enough to know their cost
WORKERS_S, POINT_S_MAX = 20.0, 1_800.0
IDS_BYTES = 120  # that a remembered id takes at most while a memory of so many is made: several copies of 16 bytes
SHORT_VALUES = 3
# axis -> its values; the shortest form takes the first ones
AXES: dict[str, tuple[int, ...]] = {
    "workers": (1, 2, 3, 4),
    "frame_rows": (1_024, 4_096, 16_384, 256, 65_536, 262_144),
    "facilities": (20, 200, 2_000, 20_000),
    "remembered_ids": (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000),
    "accounts": (10_000, 100_000, 1_000_000, 10_000_000),
    "open_items": (10_000, 100_000, 300_000, 1_000_000),
}
X = {
    "workers": "workers",
    "frame_rows": "rows of a frame, one frame a step",
    "facilities": "facilities",
    "remembered_ids": "ids remembered before",
    "accounts": "accounts with a balance",
    "open_items": "open items",
}
err = Console(stderr=True)


def main() -> int:
    """The command: all axes, some, or one point of one."""
    asked = _arguments()
    if asked.point is not None:
        print(_POINTS[asked.axes[0]](asked.point), flush=True)
        return 0
    failed = 0
    for axis in asked.axes or AXES:
        values = AXES[axis][:SHORT_VALUES] if asked.short else AXES[axis]
        found, left_out = _points(axis, sorted(values))
        failed += len(found) < len(values) - len(left_out)
        _write(TRIALS if asked.short else PLOTS, axis, found, left_out)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="Events a second as work grows.")
    parser.add_argument("axes", nargs="*", help=f"some of: {', '.join(AXES)} (default: all)")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_VALUES} values of each axis, a trial")
    parser.add_argument("--point", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := set(asked.axes) - set(AXES):
        parser.error(f"no such axis: {', '.join(sorted(unknown))}")
    return asked


def _points(axis: str, values: Sequence[int]) -> tuple[list[tuple[int, float]], list[int]]:
    """(value, events a second) of each point that could be measured, and the values that memory did not allow."""
    found, left_out = [], []
    for value in values:
        if axis == "remembered_ids" and value * IDS_BYTES > psutil.virtual_memory().available:
            left_out.append(value)
            continue
        command = [sys.executable, "-m", "benchmarks.growth", axis, "--point", str(value)]
        environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
        given = {"env": environment, "cwd": measure.ROOT, "stdout": subprocess.PIPE, "text": True}
        try:
            done = subprocess.run(command, timeout=POINT_S_MAX, check=True, **given)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            err.print(f"  {axis} {value:,}: {type(error).__name__}", highlight=False)
            continue
        found.append((value, float(done.stdout.splitlines()[-1])))
        err.print(f"  {axis} {value:,}: {found[-1][1]:,.0f}/s", highlight=False)
    return found, left_out


def _write(folder: Path, axis: str, found: list[tuple[int, float]], left_out: list[int]) -> None:
    xs, ys = [value for value, _ in found], [rate for _, rate in found]
    machine = measure.machine()
    title = f"events/s · {machine.cores} cores, {machine.memory_gib} GiB, commit {measure.commit()}"
    if left_out:
        title += f" · not enough memory for {', '.join(f'{value:,}' for value in left_out)}"
    line = {"the whole way" if axis == "workers" else "engine, one core": (xs, ys)}
    folder.mkdir(exist_ok=True)
    write(folder / f"growth_{axis}", [Panel(title, line, "events/s")], X[axis], log_x=axis != "workers")
    err.print(f"  {axis}: {(folder / f'growth_{axis}.png').relative_to(measure.ROOT)}", highlight=False)


# ── points ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _workers(count: int) -> float:
    load = workload.month_end(EVENTS, SEED)
    rounds = prepared.in_rounds(prepared.arrow_requests(load, FRAME_ROWS))
    told = os.dup(1)
    os.dup2(2, 1)  # what parts of Penstock print is no result
    with parts.penstock(count, gateways=1) as installation:

        async def measured() -> float:
            watch = Watch(installation)
            try:
                return (await full_load(watch, installation.record().gateway, rounds, WORKERS_S)).events_per_s
            finally:
                await watch.close()

        rate = asyncio.run(measured())
    os.dup2(told, 1)
    return rate


def _frame_rows(rows: int) -> float:
    config = workload.configuration()
    share = prepared.shard_rows(workload.month_end(EVENTS, SEED).rows, config, BUSIEST_SHARD)
    return _rate(lambda: prepared.engine(config), [[record] for record in prepared.records(share, rows)[:STEPS_MAX]])


def _facilities(count: int) -> float:
    """The same rows, their facilities drawn anew; the first are the busiest."""
    config, rows = workload.configuration(), _rows()
    drawn = (np.random.default_rng(SEED).random(len(rows)) ** 2 * count).astype(np.int64)
    named = pl.format("facility-{}", pl.Series("facility", drawn))
    rows = rows.with_columns(pl.when(pl.col("facility").is_not_null()).then(named).alias("facility"))
    return _rate(lambda: prepared.engine(config), _steps(rows))


def _remembered_ids(count: int) -> float:
    """The memory is put in as one run: remembering so many by steps would take an hour."""
    config, random = workload.configuration(), np.random.default_rng(SEED)
    ids = np.sort(random.integers(0, 2**64, count, np.uint64))

    def filled() -> ShardEngine:
        engine = prepared.engine(config)
        engine.intake.seen.load([(ids, ids)])
        return engine

    return _rate(filled, _steps(_rows()))


def _accounts(count: int) -> float:
    return _prefilled({"ids": max(count, 1_000_000), "accounts": count, "open_items": 0})


def _open_items(count: int) -> float:
    return _prefilled({"ids": count, "accounts": 1, "open_items": count})


def _prefilled(size: dict[str, int]) -> float:
    config = workload.configuration()
    state = prefilled.engine(config, **size).freeze()
    snapshot = state.body()

    def filled() -> ShardEngine:
        engine = prepared.engine(config)
        engine.restore(snapshot, state.run)
        return engine

    return _rate(filled, _steps(_rows()))


_POINTS: dict[str, Callable[[int], float]] = {
    "workers": _workers,
    "frame_rows": _frame_rows,
    "facilities": _facilities,
    "remembered_ids": _remembered_ids,
    "accounts": _accounts,
    "open_items": _open_items,
}


def _rows() -> pl.DataFrame:
    config: Config = workload.configuration()
    return prepared.shard_rows(workload.month_end(EVENTS, SEED).rows, config, BUSIEST_SHARD)


def _steps(rows: pl.DataFrame) -> list[list[LogRecord]]:
    return [[record] for record in prepared.records(rows, STEP_ROWS)]


def _rate(engine: Callable[[], ShardEngine], steps: Sequence[Sequence[LogRecord]]) -> float:
    """Events a second of the best of some passes, each with an engine of its own."""
    rows, best_s = sum(record.rows for step in steps for record in step), float("inf")
    for _ in range(PASSES):
        made, began = engine(), time.perf_counter()
        for step in steps:
            made.step(step)
        best_s = min(best_s, time.perf_counter() - began)
        del made
    return rows / best_s


if __name__ == "__main__":
    sys.exit(main())
