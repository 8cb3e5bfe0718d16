"""What a measurement is: its figures, the machine, the commit, and how they are written down.

Owns the form of a result. Never measures anything itself.
"""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import psutil

from benchmarks.workload import Composition

ROOT = Path(__file__).resolve().parent.parent
HISTORY = ROOT / "benchmarks" / "history.jsonl"


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    cpu: str
    cores: int
    memory_gib: int
    python: str
    polars: str


class Result(msgspec.Struct, kw_only=True):
    """One measurement. `limit_events_per_s` is what the raw machinery named by `limit` does with the same bytes.

    `frame_rows` is what is sent at once; `figures` are further numbers, each with its unit in its name.
    """

    name: str
    case: str
    events_per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    frame_rows: int | None = None
    fsync: str = ""
    cores: int = 1
    limit: str = ""
    limit_events_per_s: float | None = None
    share_of_limit: float | None = None
    ns_per_event: dict[str, int] = {}
    figures: dict[str, float] = {}
    note: str = ""
    load_1min: float = 0.0
    composition: Composition | None = None
    machine: Machine | None = None
    commit: str = ""
    at: str = ""

    def __post_init__(self) -> None:
        self.load_1min = self.load_1min or round(os.getloadavg()[0], 2)
        if self.limit_events_per_s:
            self.share_of_limit = round(self.events_per_s / self.limit_events_per_s, 3)


class Options(msgspec.Struct, frozen=True):
    """What the command line asks of every measurement; each takes what concerns it."""

    seconds: float = 10.0
    seed: int = 1
    mix: str = "month_end"
    workers: int = 4
    gateways: int = 2
    shards: int = 8
    minutes: float = 30.0  # of rss


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 of some durations, as fields of a result."""
    if not len(seconds):
        return {}
    p50, p99 = np.percentile(np.asarray(seconds) * 1000, [50, 99])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def stamped(result: Result) -> Result:
    """The result with machine, commit and time."""
    result.machine, result.commit = machine(), commit()
    result.at = datetime.now(UTC).isoformat(timespec="seconds")
    return result


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        python=platform.python_version(),
        polars=pl.__version__,
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The checked-out commit, with + when files differ from it; empty outside a checkout."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if head and _git("status", "--porcelain", "--", "runtime", "actors", "adapters") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def record(results: Sequence[Result]) -> None:
    """Append results to the history."""
    with HISTORY.open("ab") as file:
        for result in results:
            file.write(msgspec.json.encode(result) + b"\n")
