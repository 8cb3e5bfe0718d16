"""Runs measurements, each in a process of its own, and shows their results.

Owns the command line, the order, and what people see. A measurement that fails or takes too long ends the run with
status 1, after the others.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Options, Result
from benchmarks.workload import MIXES

# name -> its module, and how many threads Polars may use in it (empty: as many as there are cores)
BENCHES = {
    "engine": ("bench_engine", "1"),
    "log": ("bench_log", ""),
    "commit": ("bench_commit", "1"),
    "gateway": ("bench_gateway", ""),
    "rows": ("bench_rows", ""),
    "single": ("bench_single", ""),
    "end_to_end": ("bench_end_to_end", "1"),
    "files": ("bench_files", "1"),
    "recovery": ("bench_recovery", "1"),
    "memory": ("bench_memory", "1"),
    "erp": ("bench_erp", "1"),
    "posting": ("bench_posting", "1"),
    "rss": ("bench_rss", "1"),
}
BY_ITSELF = ("rss",)  # takes as long as all others together
GRACE_S = 240.0  # for preparing the workload, starting and stopping parts
# What takes so long beside that, however short --seconds is: simulating, making a large file, filling a shard.
BESIDE_S = {"end_to_end": 120.0, "erp": 600.0, "posting": 600.0, "files": 600.0, "recovery": 600.0, "memory": 600.0}
_CHILD = (
    "import importlib, msgspec, os, signal, sys\n"
    "told = os.fdopen(os.dup(1), 'w')\n"
    "os.dup2(2, 1)\n"  # what parts of Penstock log is no result
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"  # so that what it started is ended
    "from benchmarks.measure import Options\n"
    "bench = importlib.import_module('benchmarks.' + sys.argv[1])\n"
    "for result in bench.results(msgspec.json.decode(sys.argv[2], type=Options)):\n"
    "    print(msgspec.json.encode(result).decode(), file=told, flush=True)\n"
)


def main() -> int:
    """The command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _arguments()
    options = Options(**{name: getattr(asked, name) for name in Options.__struct_fields__})
    names = [name for name in BENCHES if name not in BY_ITSELF] if asked.what == "all" else [asked.what]
    done, failed = [], []
    for name in names:
        try:
            for result in _run(name, options):
                done.append(measure.stamped(result))
                if not asked.json:
                    _progress(done[-1])
        except RuntimeError as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
    if asked.json:
        print(msgspec.json.format(msgspec.json.encode(done)).decode())
    else:
        _show(done)
    if asked.record:
        measure.record(done)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure Penstock.")
    parser.add_argument("what", nargs="?", default="all", choices=[*BENCHES, "all"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each measurement runs (default 10)")
    parser.add_argument("--minutes", type=float, default=Options().minutes, help="how long rss runs (default 30)")
    parser.add_argument("--seed", type=int, default=1, help="of the workload")
    parser.add_argument("--mix", default="month_end", choices=MIXES, help="of engine, log, commit and end_to_end")
    for name, value in (("workers", Options().workers), ("gateways", Options().gateways), ("shards", Options().shards)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"of end_to_end (default {value})")
    parser.add_argument("--record", action="store_true", help="append the results to benchmarks/history.jsonl")
    return parser.parse_args()


def _run(name: str, options: Options) -> Iterator[Result]:
    """Results of one measurement, as they come from its process. RuntimeError when it fails."""
    module, threads = BENCHES[name]
    command = [sys.executable, "-c", _CHILD, module, msgspec.json.encode(options).decode()]
    environment = {**os.environ, **({"POLARS_MAX_THREADS": threads} if threads else {})}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=measure.ROOT, text=True)
    previous = signal.signal(signal.SIGALRM, lambda *_: child.terminate())
    asked_s = options.minutes * 60 if name == "rss" else options.seconds
    signal.setitimer(signal.ITIMER_REAL, asked_s + GRACE_S + BESIDE_S.get(name, 0.0))
    try:
        for line in child.stdout:
            yield msgspec.json.decode(line, type=Result)
        if child.wait():
            raise RuntimeError(f"ended with status {child.returncode}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if child.poll() is None:
            child.terminate()
            child.wait()


# ── what people see ────────────────────────────────────────────────────────────────────────────────────────────────

COLUMNS = ("name", "case", "events/s", "p50 ms", "p99 ms", "rows", "fsync", "cores", "limit/s", "share", "load")
WIDTH = 150
err, out = Console(stderr=True), Console(width=WIDTH)


def _progress(result: Result) -> None:
    err.print(f"  {result.name} · {result.case}: {result.events_per_s:,.0f}/s", highlight=False)


def _show(results: list[Result]) -> None:
    if not results:
        return
    first = results[0]
    machine = first.machine
    out.print(
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, Python {machine.python}, "
        f"Polars {machine.polars}, commit {first.commit}",
        highlight=False,
    )
    table = Table(header_style="bold", box=box.MARKDOWN)  # as a README takes it
    for column in COLUMNS:
        table.add_column(column, no_wrap=True, justify="left" if column in ("name", "case", "fsync") else "right")
    for result in results:
        table.add_row(*_cells(result))
    out.print(table)
    for result in results:
        detail = ", ".join(f"{name} {ns}" for name, ns in result.ns_per_event.items())
        figures = ", ".join(f"{name} {value:,g}" for name, value in result.figures.items())
        notes = [
            result.note,
            figures,
            f"ns an event: {detail}" if detail else "",
            f"limit: {result.limit}" if result.limit else "",
        ]
        out.print(f"{result.name} · {result.case}: " + "; ".join(filter(None, notes)), highlight=False)
    if first.composition:
        mix = msgspec.structs.asdict(first.composition)
        out.print("workload: " + ", ".join(f"{name} {value}" for name, value in mix.items()), highlight=False)


def _cells(result: Result) -> list[str]:
    def number(value: float | None, form: str = ",.0f") -> str:
        return "" if value is None else format(value, form)

    return [
        result.name,
        result.case,
        number(result.events_per_s),
        number(result.p50_ms, ".2f"),
        number(result.p99_ms, ".2f"),
        number(result.frame_rows),
        result.fsync,
        str(result.cores),
        number(result.limit_events_per_s),
        number(result.share_of_limit, ".0%"),
        f"{result.load_1min:g}",
    ]


if __name__ == "__main__":
    sys.exit(main())
