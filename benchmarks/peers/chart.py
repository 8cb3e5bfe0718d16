"""The bar chart of a run: events a second of each peer, on a logarithmic scale. Only draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

OURS, EXACT, WRONG = "#1f5fa8", "#8aa0b4", "#c0392b"


class Shown(Protocol):
    """What the chart needs of a figure."""

    name: str
    title: str
    durable: str
    events_per_s: float | None
    fault: str


def draw(figures: Sequence[Shown], path: Path) -> None:
    """A PNG of those that have a rate, the slowest first; a peer that was wrong is red and says so."""
    shown = sorted((f for f in figures if f.events_per_s), key=lambda f: f.events_per_s)
    if not shown:
        return
    chart, axes = pyplot.subplots(figsize=(10, 1.2 + 0.6 * len(shown)))
    labels = [f"{f.title}\n{'durable: ' + f.durable if f.durable != 'no' else 'nothing durable'}" for f in shown]
    colours = [WRONG if f.fault else OURS if f.title.startswith("Penstock") else EXACT for f in shown]
    bars = axes.barh(labels, [f.events_per_s for f in shown], color=colours)
    told = [f"{f.events_per_s:,.0f}" + (" (wrong)" if f.fault else "") for f in shown]
    axes.bar_label(bars, told, padding=4)
    axes.set(xscale="log", xlabel="events a second on one core: dedupe, card match, sums")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    chart.tight_layout()
    chart.savefig(path, dpi=120)
    pyplot.close(chart)
