"""`penstock simulate`: whole Penstocks in this process, over virtual time and ports that fail, from seeds.

Owns the options, the progress line and the summary. Runs nothing outside: no Ray, no socket, no file.
"""

import os
import secrets
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console

from simulation.simulator import EVENTS_DEFAULT, Outcome, report, simulate, smallest
from simulation.soak import Summary, soak

SEED_BELOW = 2**31


def command(
    *,
    seed: Annotated[
        int | None, typer.Option(help="The seed to run; the first of many. A fresh one by default.")
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Events of each run, at least.")] = EVENTS_DEFAULT,
    seeds: Annotated[int | None, typer.Option(min=1, help="Run so many seeds, one after another.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Go on with seeds for so long.")] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Go on until interrupted.")] = False,
    processes: Annotated[int, typer.Option(min=0, help="Processes for many seeds; 0: one a core.")] = 0,
    trace: Annotated[bool, typer.Option("--trace", help="Print every step of one seed.")] = False,
) -> None:
    """Run whole Penstocks through crashes, lost answers and bad ERPs, and audit every cent. Fails when a seed does."""
    out = Console(highlight=False, soft_wrap=True)
    first = secrets.randbelow(SEED_BELOW) if seed is None else seed
    if seeds is None and minutes is None and not forever:
        raise typer.Exit(_one(out, first, events, trace))
    if trace:
        raise typer.BadParameter("--trace shows one seed: leave out --seeds, --minutes and --forever")
    out.print(f"seeds from {first}")
    summary = soak(
        first,
        events,
        seeds=seeds,
        seconds=None if minutes is None else minutes * 60,
        processes=processes or os.cpu_count() or 1,
        show=lambda so_far, newest: _progress(out, so_far, newest),
    )
    _summarise(out, summary)
    for failed in summary.failures:
        out.print(report(smallest(failed.seed, failed.events)), markup=False)
    raise typer.Exit(1 if summary.failures else 0)


def _one(out: Console, seed: int, events: int, trace: bool) -> int:
    """One seed; the exit status."""
    outcome = simulate(seed, events, whole_trace=trace)
    if trace:
        out.print("\n".join(outcome.trace), markup=False)
    if outcome.finding:
        out.print(report(outcome), markup=False)
        return 1
    out.print(
        f"seed {seed}: {outcome.steps} steps, {len(outcome.faults)} faults, {outcome.virtual_s:,.0f} virtual seconds; "
        f"books, log, archive and ERP agree. History {outcome.digest}"
    )
    return 0


def _progress(out: Console, so_far: Summary, newest: Outcome) -> None:
    if newest.finding:
        out.print(f"seed {newest.seed}: {newest.finding.phase}: {newest.finding.what[0]}", markup=False)
    line = f"{so_far.seeds} seeds, {so_far.per_second:.1f}/s, {len(so_far.failures)} failed"
    if out.is_terminal:
        out.print(line, end="\r")
    elif so_far.seeds % 50 == 0:
        out.print(line)


def _summarise(out: Console, summary: Summary) -> None:
    out.print(
        f"{summary.seeds} seeds from {summary.first_seed} in {summary.seconds:.0f} s ({summary.per_second:.1f}/s): "
        f"{summary.seeds - len(summary.failures)} held, {len(summary.failures)} failed"
    )
    for what, times in sorted(_families(summary).items()):
        out.print(f"  {times:7} × {what}", markup=False)
    died = len(summary.crossed) - len(summary.survived)
    out.print(f"processes died at {died} of the {len(summary.crossed)} edges that they crossed")
    for edge in summary.survived:
        out.print(f"    never {edge}", markup=False)


def _families(summary: Summary) -> Counter[str]:
    """How often each fault happened; those at edges together, as the edges are told apart below."""
    families: Counter[str] = Counter()
    for what, times in summary.sometimes.items():
        verb, _, place = what.partition(" ")
        families[f"{verb} at an edge" if place.startswith(("before ", "after ")) else what] += times
    return families
