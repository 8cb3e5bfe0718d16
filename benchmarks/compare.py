"""Two commits side by side on one machine: `python -m benchmarks.compare BASE [WHAT]`.

The base is checked out into a worktree that is removed again, with this commit's benchmarks laid over it, so that both
do the same work; `--own` keeps the base's. Runs take turns, and medians are compared, since neighbours and temperature
change a machine within minutes. Prints a table; changes nothing but the worktree.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.measure import ROOT, Result
from benchmarks.run import BENCHES

Key = tuple[str, str, int | None]
out, err = Console(width=150), Console(stderr=True)


def main() -> int:
    """The command: 0 when both could be measured."""
    asked = _arguments()
    found: dict[Path, dict[Key, list[Result]]] = {}
    with _worktree(asked.base, asked.own) as base:
        for turn in range(asked.rounds):
            for place in (base, ROOT) if turn % 2 == 0 else (ROOT, base):
                err.print(
                    f"  round {turn + 1} of {asked.rounds}: {'base' if place == base else 'here'}", highlight=False
                )
                for result in _measured(place, asked.what, asked.seconds):
                    key = (result.name, result.case, result.frame_rows)
                    found.setdefault(place, {}).setdefault(key, []).append(result)
        _show(found.get(base, {}), found.get(ROOT, {}), asked.base)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="Two commits side by side.")
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("what", nargs="?", default="engine", choices=[*BENCHES, "all"])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--own", action="store_true", help="measure the base with its own benchmarks")
    return parser.parse_args()


@contextlib.contextmanager
def _worktree(revision: str, own: bool) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pstk-") as folder:
        place = Path(folder) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), revision], check=True)
        try:
            if not own:
                shutil.rmtree(place / "benchmarks", ignore_errors=True)
                shutil.copytree(
                    ROOT / "benchmarks", place / "benchmarks", ignore=shutil.ignore_patterns("out", "plots")
                )
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def _measured(place: Path, what: str, seconds: float) -> list[Result]:
    # The environment is shared: what lies in the worktree must be found before what is installed.
    path = os.pathsep.join([str(place), str(place / "proto")])
    command = [sys.executable, "-m", "benchmarks.run", what, "--json", "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=place, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)
    if done.returncode:
        err.print(f"  not measured whole: status {done.returncode}", highlight=False)
    return msgspec.json.decode(done.stdout or b"[]", type=list[Result])


def _show(base: dict[Key, list[Result]], here: dict[Key, list[Result]], revision: str) -> None:
    table = Table(header_style="bold")
    for column in (
        "name",
        "case",
        "rows",
        f"{revision[:12]} events/s",
        "here events/s",
        "ratio",
        "base p99",
        "here p99",
    ):
        table.add_column(column, justify="left" if column in ("name", "case") else "right")
    for key in [key for key in here if key in base]:
        before, now = (median(result.events_per_s for result in side[key]) for side in (base, here))
        tails = [_tail(side[key]) for side in (base, here)]
        name, case, rows = key
        table.add_row(name, case, f"{rows or 0:,}", f"{before:,.0f}", f"{now:,.0f}", f"{now / before:.2f} ×", *tails)
    out.print(table)
    for key in sorted({*base} ^ {*here}, key=str):
        out.print(f"only {'here' if key in here else 'in the base'}: {key[0]} · {key[1]}", highlight=False)


def _tail(results: list[Result]) -> str:
    tails = [result.p99_ms for result in results if result.p99_ms is not None]
    return f"{median(tails):,.1f}" if tails else ""


if __name__ == "__main__":
    sys.exit(main())
