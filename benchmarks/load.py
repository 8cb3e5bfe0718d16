"""A month end on a Penstock of its own: load, an ERP that goes away and comes back with half its quota, and the proof.

`python -m benchmarks.load [--seconds 600] [--events-per-s 5000]`. Starts everything, runs Locust with its live console,
puts the ERP out and back, waits until all is posted, compares the client's own record with books and ERP, derives
everything anew as `penstock verify` does, and writes report and plots. Ends what it started, also when interrupted.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
from rich.console import Console

from actors.cli.draining import Draining, Left, pause_s
from actors.cli.installation import Installation
from adapters.books.sql import SqlBooks
from adapters.erp.doubles.catalog import doubles
from benchmarks import load_picture, load_proof, load_record, measure, parts
from benchmarks.erp_double import Erp, erp_double
from benchmarks.load_picture import Sample
from benchmarks.measure import Result
from benchmarks.watching import Watch

OUT = measure.ROOT / "benchmarks" / "out" / "load"
# Parts of the whole time: the ERP answers nothing, then it is back with half its quota until the end.
OUTAGE_BEGINS, OUTAGE_ENDS, QUOTA_AFTER = 0.45, 0.60, 0.5
SAMPLE_S, POLL_S, STARTED_S, STOP_S = 1.0, 0.5, 120.0, 150
TELL_S = 10.0
DRAIN_S_MIN, DRAIN_PART_MAX = 120.0, 3.0  # how long draining may take, in parts of the load's time
WORKERS, GATEWAYS = 2, 1
SETTINGS = ("PENSTOCK_LOAD_SECONDS", "PENSTOCK_LOAD_EVENTS_PER_S", "PENSTOCK_LOAD_RECORD")  # of the locustfile
err = Console(stderr=True)


def main() -> int:
    """The command: 0 when everything agrees."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    record = asked.out / "client.jsonl"
    os.environ.update(zip(SETTINGS, (str(asked.seconds), str(asked.events_per_s), str(record)), strict=True))
    with erp_double(asked.erp) as erp, parts.penstock(WORKERS, GATEWAYS, erp=erp.section) as installation:
        began_s, samples = _run(installation, erp, asked.seconds, record)
        client = load_record.read(record)
        ended_s, left = _drain(installation, max(DRAIN_S_MIN, asked.seconds * DRAIN_PART_MAX))
        proof = load_proof.proved(installation, client, erp.ask("report"), left, derive=asked.verify)
        spans = _spans(asked.seconds)
        picture = load_picture.drawn(asked.out / "load", installation, client, samples, began_s=began_s, spans=spans)
    result = Result(
        name="load",
        case=f"month end at {asked.events_per_s * 10:,.0f} events/s",
        events_per_s=picture["accepted_per_s_at_month_end"],
        fsync=parts.FSYNC,
        cores=os.cpu_count() or 1,
        figures=picture | proof.figures | {"drained_after_the_load_s": round(ended_s - began_s - asked.seconds, 1)},
        note="; ".join(proof.differences) or "nothing lost, nothing twice",
    )
    _tell(measure.stamped(result), asked.out, asked.record)
    return 1 if proof.differences else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="A month end, and its proof.")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the load (default 600)")
    parser.add_argument("--events-per-s", type=float, default=5_000.0, help="of an ordinary day (default 5000)")
    parser.add_argument("--erp", default="xero", choices=sorted(doubles()), help="which double (default xero)")
    parser.add_argument("--no-verify", dest="verify", action="store_false", help="do not derive everything anew")
    parser.add_argument("--out", type=Path, default=OUT, help="where report, plots and figures go")
    parser.add_argument("--record", action="store_true", help="append the result to benchmarks/history.jsonl")
    return parser.parse_args()


def _tell(result: Result, folder: Path, to_history: bool) -> None:
    (folder / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    for name, value in result.figures.items():
        err.print(f"  {name} {value:,g}", highlight=False)
    err.print(f"{result.note}; report, plots and figures are in {os.path.relpath(folder)}", highlight=False)
    if to_history:
        measure.record([result])


# ── the load ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _run(installation: Installation, erp: Erp, seconds: float, record: Path) -> tuple[float, list[Sample]]:
    """The whole load; when it began, and what was seen meanwhile and until its last request was answered. Locust puts
    its report beside the record."""
    samples: list[Sample] = []
    over = threading.Event()
    sampling = threading.Thread(target=lambda: asyncio.run(_sample(installation, samples, over)))
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--headless"]
    command += ["--host", installation.record().gateway, "--stop-timeout", str(STOP_S)]
    command += ["--html", str(record.resolve().with_name("report.html"))]
    locust = subprocess.Popen(command, cwd=measure.ROOT)
    try:
        began_s = _begun(record, locust)
        sampling.start()
        for at, line in ((OUTAGE_BEGINS, "out"), (OUTAGE_ENDS, "back"), (OUTAGE_ENDS, f"quota {QUOTA_AFTER}")):
            time.sleep(max(began_s + at * seconds - time.time(), 0))
            err.print(f"ERP: {line}", highlight=False)
            erp.tell(line)
        locust.wait(timeout=seconds + STOP_S + STARTED_S)
    finally:
        over.set()
        if locust.poll() is None:
            locust.terminate()
            locust.wait()
    sampling.join()
    return began_s, samples


def _begun(record: Path, locust: subprocess.Popen) -> float:
    """Wait until there are users."""
    until = time.time() + STARTED_S
    while time.time() < until and locust.poll() is None:
        if record.exists() and (noted := load_record.read(record).noted) and noted[-1].users:
            return noted[-1].at_s
        time.sleep(POLL_S)
    raise TimeoutError("Locust did not begin")


async def _sample(installation: Installation, samples: list[Sample], over: threading.Event) -> None:
    watch = Watch(installation)
    while not over.is_set():
        samples.append(Sample(time.time(), await watch.committed(), await watch.waiting()))
        await asyncio.sleep(SAMPLE_S)
    await watch.close()


def _drain(installation: Installation, seconds: float) -> tuple[float, Left]:
    """Wait until nothing is on the way, or for so long; when that was, and what is left."""
    books, until, told_s = SqlBooks(installation.wiring().books_url), time.time() + seconds, 0.0
    draining = Draining(installation.wiring(), books)
    try:
        while True:
            asked_s, left = time.time(), draining.left()
            if not any(left) or asked_s > until:
                return time.time(), left
            if asked_s > told_s + TELL_S:
                told_s = asked_s
                err.print(f"draining: {left}", highlight=False)
            time.sleep(pause_s(time.time() - asked_s))
    finally:
        draining.close()
        books.close()


def _spans(seconds: float) -> list[tuple[str, float, float]]:
    return [
        ("ERP away", OUTAGE_BEGINS * seconds, OUTAGE_ENDS * seconds),
        ("half the quota", OUTAGE_ENDS * seconds, seconds),
    ]


if __name__ == "__main__":
    sys.exit(main())
