"""Plots as PNG files, each beside the JSON that it was drawn from.

Owns their look. Needs the extra `bench`; never measures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import msgspec

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  the backend must be chosen first
from matplotlib.ticker import EngFormatter  # noqa: E402

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> x, y


class Panel(NamedTuple):
    """One plot of several lines over a common x."""

    title: str
    lines: Lines
    y: str = ""
    steps: bool = False


class Span(NamedTuple):
    """A part of the x axis that is shaded and named."""

    begin: float
    end: float
    name: str


def write(path: Path, panels: Sequence[Panel], x: str, *, spans: Sequence[Span] = (), log_x: bool = False) -> None:
    """Panels one below the other as `path`.png, what they show as `path`.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(len(panels), 1, figsize=(10, 1 + 2.6 * len(panels)), sharex=True, squeeze=False)
    for panel, axis in zip(panels, axes[:, 0], strict=True):
        _draw(axis, panel, spans, log_x)
    axes[-1, 0].set_xlabel(x)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)
    told = {"x": x, "spans": [one._asdict() for one in spans], "panels": [one._asdict() for one in panels]}
    plain = msgspec.json.encode(told, enc_hook=lambda drawn: drawn.tolist())
    path.with_suffix(".json").write_bytes(msgspec.json.format(plain, indent=1))


def _draw(axis: plt.Axes, panel: Panel, spans: Sequence[Span], log_x: bool) -> None:
    for name, (xs, ys) in panel.lines.items():
        marker = "o" if log_x else None
        axis.plot(xs, ys, label=name, marker=marker, drawstyle="steps-post" if panel.steps else "default")
    for i, span in enumerate(spans):
        axis.axvspan(span.begin, span.end, alpha=0.10, color=f"C{i + 4}", label=span.name)
    if log_x:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(EngFormatter())
    axis.yaxis.set_major_formatter(EngFormatter())
    axis.set_ylim(bottom=0)
    axis.set_title(panel.title, loc="left")
    axis.set_ylabel(panel.y)
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small", ncols=2)
