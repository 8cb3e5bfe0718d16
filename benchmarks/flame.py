"""Flame graphs of a worker and a gateway under full load: `python -m benchmarks.flame [--seconds 20]`.

Writes SVG files to benchmarks/out, drawn by py-spy, which looks into the processes from outside and needs the right to
do so (root, or ptrace allowed). Owns starting the load and finding the busiest process of each kind.
"""

import argparse
import asyncio
import subprocess
import sys
from pathlib import Path

import psutil

from actors.cli.installation import Installation
from benchmarks import measure, parts, prepared, workload
from benchmarks.bench_end_to_end import EVENTS, FRAME_ROWS, full_load
from benchmarks.watching import PROCESSES, Watch

OUT = measure.ROOT / "benchmarks" / "out"
RATE_HZ = 100
WARM_UP_S = 5.0


def main() -> int:
    """The command."""
    asked = _arguments()
    OUT.mkdir(parents=True, exist_ok=True)
    requests = prepared.arrow_requests(workload.month_end(EVENTS), FRAME_ROWS)
    with parts.penstock(asked.workers, asked.gateways) as installation:
        return asyncio.run(_drawn(installation, requests, asked))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flame", description="Flame graphs under load.")
    parser.add_argument("--seconds", type=float, default=20.0, help="that are sampled (default 20)")
    parser.add_argument("--workers", type=int, default=measure.Options().workers)
    parser.add_argument("--gateways", type=int, default=measure.Options().gateways)
    parser.add_argument("--native", action="store_true", help="show frames of compiled libraries, too")
    return parser.parse_args()


async def _drawn(installation: Installation, requests: list[bytes], asked: argparse.Namespace) -> int:
    watch, target = Watch(installation), installation.record().gateway
    rounds, warm_up = prepared.in_rounds(requests), lambda _watch: asyncio.sleep(WARM_UP_S)
    loading = asyncio.create_task(full_load(watch, target, rounds, asked.seconds + 2, warm_up))
    await asyncio.sleep(WARM_UP_S)
    kinds = {kind: start for start, kind in PROCESSES.items() if start.startswith("ray::")}
    drawing = [
        _draw(_busiest(installation, start), OUT / f"profile-{kind}.svg", asked) for kind, start in kinds.items()
    ]
    statuses = [await asyncio.to_thread(process.wait) for process in drawing]
    await loading
    await watch.close()
    for kind in kinds:
        print(f"benchmarks/out/profile-{kind}.svg")
    return max(statuses)


def _busiest(installation: Installation, title: str) -> int:
    """The process of this title that has used the most CPU time."""
    tree = psutil.Process(installation.record().ray.pid).children(recursive=True)
    named = [process for process in tree if title in " ".join(process.cmdline())]
    return max(named, key=lambda process: sum(process.cpu_times()[:2])).pid


def _draw(pid: int, path: Path, asked: argparse.Namespace) -> subprocess.Popen:
    command = [str(Path(sys.executable).parent / "py-spy"), "record", "--pid", str(pid), "--output", str(path)]
    command += ["--duration", str(round(asked.seconds)), "--rate", str(RATE_HZ), "--nonblocking"]
    return subprocess.Popen(command + (["--native"] if asked.native else []))


if __name__ == "__main__":
    sys.exit(main())
