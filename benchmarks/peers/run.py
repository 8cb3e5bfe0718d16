"""Runs the peers one after another, compares what each found with the truth, and shows their figures.

Owns the command line, the pinning to one core, the limits of time, and what people see. A peer that can't run is shown
with the reason, one that is wrong with what is wrong; neither gets a ratio. Ends every process that it starts.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from adapters import embedded
from benchmarks import measure
from benchmarks.peers import chart, rows, truth

EVENTS, SECONDS = 500_000, 180.0
STOP_S = 20.0
OUT = measure.ROOT / "benchmarks" / "out"
VENVS = measure.ROOT / ".venv-peers"
REASON_CHARS_MAX = 160
ONE_THREAD = (
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PATHWAY_THREADS",
    "UV_THREADPOOL_SIZE",
)


class Peer(NamedTuple):
    """One row of the table. `share`: of the events that were asked for. `venv`: "" is the project's own."""

    title: str
    module: str
    form: str
    venv: str = ""
    share: float = 1.0
    durable: str = "no"
    needs: str = ""


PEERS = {
    "flink": Peer("Flink SQL, streaming", "flink_sql", "csv_bare", "flink", needs="java"),
    "pathway": Peer("Pathway, static", "pathway_flow", "csv", "pathway"),
    "bytewax": Peer("Bytewax", "bytewax_flow", "jsonl", "bytewax"),
    "ray": Peer("Ray actor, a call an event", "ray_actor", "jsonl", share=0.04),
    "faststream": Peer(
        "FastStream, a transaction a message",
        "faststream_redis",
        "jsonl",
        "faststream",
        share=0.02,
        durable="Redis fsync, SQL each event",
        needs="valkey",
    ),
    "asyncio": Peer("asyncio loop and SQLite", "asyncio_loop", "jsonl", durable="SQL each 10,000"),
    "engine": Peer("Penstock, engine alone", "penstock_engine", "frames", share=2.0),
    "durable": Peer(
        "Penstock, gRPC to books", "penstock_durable", "frames", share=2.0, durable="log fsync, SQL each step"
    ),
}
OURS = ("engine", "durable")
NOT_PYTHON = ("flink",)  # its own operators run in Java


class Figure(msgspec.Struct):
    """What became of one peer. `fault` is "" when it was exact; without a rate it says why there is none."""

    name: str
    title: str
    events: int
    durable: str
    cores: int = 1
    events_per_s: float | None = None
    seconds: float | None = None
    ratio: float | None = None  # to the best Python peer that was exact
    ratio_to_flink: float | None = None
    fault: str = ""


class Report(msgspec.Struct):
    """A whole run."""

    figures: list[Figure]
    machine: measure.Machine
    commit: str
    load_1min: float
    core: int


class Timing(msgspec.Struct):
    """What a peer prints."""

    seconds: float
    small_s: float


def main() -> int:
    """The command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = _arguments()
    names = asked.only or list(PEERS)
    report = Report([], measure.machine(), measure.commit(), round(os.getloadavg()[0], 2), asked.core)
    with tempfile.TemporaryDirectory(prefix="peers-") as place:
        for name in names:
            report.figures.append(_measured(name, asked, Path(place) / name))
            shutil.rmtree(Path(place) / name, ignore_errors=True)
            print(f"  {_line(report.figures[-1])}", file=sys.stderr)
    _compare(report.figures)
    OUT.mkdir(exist_ok=True)
    encoded = msgspec.json.format(msgspec.json.encode(report))
    (OUT / "peers.json").write_bytes(encoded)
    chart.draw(report.figures, OUT / "peers.png")
    if asked.json:
        print(encoded.decode())
    else:
        _show(report)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.run", description="The same work by other tools.")
    parser.add_argument("--events", type=int, default=EVENTS, help=f"for a share of 1 (default {EVENTS:,})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the most that one peer may take in all")
    parser.add_argument("--only", action="append", choices=list(PEERS), help="this one; may be given again")
    parser.add_argument("--core", type=int, default=max(_cores()), help="the core on which every peer runs")
    parser.add_argument("--seed", type=int, default=1, help="of the workload")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


# ── one peer ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _measured(name: str, asked: argparse.Namespace, root: Path) -> Figure:
    peer = PEERS[name]
    events = max(round(asked.events * peer.share), rows.EVENTS_MIN)
    figure = Figure(name, peer.title, events, peer.durable)
    figure.fault = _missing(peer)
    if figure.fault:
        return figure
    made = rows.events(events, asked.seed)
    root.mkdir()
    rows.write(made, root, peer.form)
    try:
        timing = _run(peer, root, asked)
    except (RuntimeError, TimeoutError) as error:
        figure.fault = str(error)
        return figure
    figure.fault = truth.faults(msgspec.json.decode((root / "outcome.json").read_bytes()), truth.outcome(made))
    figure.seconds = round(timing.seconds, 3)
    figure.events_per_s = round((events - rows.SMALL) / max(timing.seconds - timing.small_s, 1e-9))
    return figure


def _missing(peer: Peer) -> str:
    """Why a peer can't run here."""
    if peer.needs == "java" and not shutil.which("java"):
        return "skipped: no Java on the path"
    if not _python(peer).exists():
        return f"skipped: no {VENVS.name}/{peer.venv}; make it by `make peers`"
    return ""


def _python(peer: Peer) -> Path:
    return VENVS / peer.venv / "bin" / "python" if peer.venv else Path(sys.executable)


def _run(peer: Peer, root: Path, asked: argparse.Namespace) -> Timing:
    """What the peer printed. RuntimeError when it failed, TimeoutError when it took too long."""
    command = [str(_python(peer)), "-m", f"benchmarks.peers.{peer.module}", str(root)]
    with _parts(peer, root, asked.core) as more, (root / "errors").open("w+") as errors, _on(asked.core):
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **dict.fromkeys(ONE_THREAD, "1"), **more},
            cwd=measure.ROOT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = child.communicate(timeout=asked.seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"did not end in {asked.seconds:g} s") from None
        finally:
            _end(child)
        if child.returncode:
            errors.seek(0)
            said = [line.strip() for line in errors if line.strip()] or [f"status {child.returncode}"]
            raise RuntimeError(f"failed: {said[-1][:REASON_CHARS_MAX]}")
    return msgspec.json.decode(printed.strip().splitlines()[-1], type=Timing)


def _end(child: subprocess.Popen) -> None:
    """End a peer and all that it started: politely, then by force. Its session is its own."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def _parts(peer: Peer, root: Path, core: int) -> Iterator[dict[str, str]]:
    """The environment of a peer, and the server that it needs, on the same core."""
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    if peer.needs != "valkey":
        yield ray
        return
    with _on(core):
        part = embedded.start_valkey(root / "valkey", fsync="always")
    try:
        yield {"PEERS_REDIS_URL": part.url}
    finally:
        embedded.stop(part)


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}


@contextlib.contextmanager
def _on(core: int) -> Iterator[None]:
    """What is started inside runs on this core alone, with its children (anywhere, where none can be chosen)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ── what people see ────────────────────────────────────────────────────────────────────────────────────────────────


def _compare(figures: list[Figure]) -> None:
    """Ratios to the best Python peer and to Flink, among those that were exact."""
    exact = [figure for figure in figures if figure.events_per_s and not figure.fault]
    python = [figure.events_per_s for figure in exact if figure.name not in (*OURS, *NOT_PYTHON)]
    flink = [figure.events_per_s for figure in exact if figure.name in NOT_PYTHON]
    for figure in exact:
        figure.ratio = round(figure.events_per_s / max(python), 4) if python else None
        figure.ratio_to_flink = round(figure.events_per_s / max(flink), 4) if flink else None


def _line(figure: Figure) -> str:
    rate = f"{figure.events_per_s:,.0f}/s" if figure.events_per_s else "no figure"
    return f"{figure.title}: {rate}, {figure.fault or 'exact'}"


def _show(report: Report) -> None:
    out, machine = Console(width=150), report.machine
    out.print(f"{machine.cpu}, core {report.core} alone, load {report.load_1min:g}, commit {report.commit}")
    table = Table(header_style="bold", box=box.MARKDOWN)  # as a README takes it
    for column in ("peer", "events", "events/s", "to the best", "to Flink", "cores", "durable", "exact"):
        table.add_column(column, justify="left" if column in ("peer", "durable", "exact") else "right")
    for figure in report.figures:
        table.add_row(
            figure.title,
            f"{figure.events:,}",
            f"{figure.events_per_s:,.0f}" if figure.events_per_s else "",
            f"{figure.ratio:.2g} ×" if figure.ratio else "",
            f"{figure.ratio_to_flink:.2g} ×" if figure.ratio_to_flink else "",
            str(figure.cores),
            figure.durable,
            figure.fault or "exact",
        )
    out.print(table)
    out.print(f"{(OUT / 'peers.json').relative_to(measure.ROOT)}, {(OUT / 'peers.png').relative_to(measure.ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
