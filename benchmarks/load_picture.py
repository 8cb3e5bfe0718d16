"""What a load looked like: events each second from the offer to the ERP, what waited, how entries folded, refusals.

Owns putting three clocks together: the client's record, samples of the log, and the instants that the books keep.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sqlalchemy import create_engine, text

from actors.cli.installation import Installation
from benchmarks.load_record import Client, Noted
from benchmarks.plots import Panel, Span, write

WIDTH_S = 2  # of the intervals over which rates are taken
_BOOKED = "SELECT committed_at_ms / 1000, SUM(events) FROM posting_sets GROUP BY 1 ORDER BY 1"
_OF_ENTRIES = "FROM posting_sets s JOIN entries e ON e.key = s.entry_key"
_POSTED = f"SELECT e.updated_at_ms / 1000, SUM(s.events) {_OF_ENTRIES} WHERE e.state = 'posted' GROUP BY 1 ORDER BY 1"
_SEALED = f"SELECT e.sealed_at_ms / 1000, COUNT(DISTINCT e.key), COUNT(*) {_OF_ENTRIES} GROUP BY 1 ORDER BY 1"


class Sample(NamedTuple):
    """What the running Penstock said at one moment: rows in the books, rows of the log that are not."""

    at_s: float
    committed: int
    waiting: int


class Curve(NamedTuple):
    """Something counted up over time: seconds since the beginning, and how much until then."""

    at_s: np.ndarray
    total: np.ndarray

    def rate(self, edges: np.ndarray) -> np.ndarray:
        """How much each second, between the edges."""
        return np.diff(self.at(edges)) / np.diff(edges)

    def at(self, moments: np.ndarray) -> np.ndarray:
        """How much until each moment."""
        return np.interp(moments, self.at_s, self.total, left=0) if len(self.at_s) else np.zeros(len(moments))


def drawn(
    path: Path,
    installation: Installation,
    client: Client,
    samples: Sequence[Sample],
    *,
    began_s: float,
    spans: Sequence[tuple[str, float, float]],
) -> dict[str, float]:
    """Write the plots; acceptance and drain in figures."""
    engine = create_engine(installation.wiring().books_url)
    with engine.connect() as connection:
        booked, posted, sealed = (connection.execute(text(sql)).all() for sql in (_BOOKED, _POSTED, _SEALED))
    engine.dispose()
    curves = {
        "offered": _of_client(client, began_s, "offered"),
        "accepted": _of_client(client, began_s, "accepted"),
        "committed": Curve(
            np.array([one.at_s - began_s for one in samples]), np.array([one.committed for one in samples], float)
        ),
        "booked": _counted(booked, began_s),
        "posted at the ERP": _counted(posted, began_s),
    }
    last_s = max([curve.at_s[-1] for curve in curves.values() if len(curve.at_s)])
    edges = np.arange(0, last_s + 2 * WIDTH_S, WIDTH_S)
    panels = [
        Panel(
            "events each second", {name: (edges[1:], curve.rate(edges)) for name, curve in curves.items()}, "events/s"
        ),
        _waiting(curves, samples, began_s, edges),
        _folding(sealed, began_s),
        _refusals(client, began_s, edges),
    ]
    write(path, panels, "seconds", spans=[Span(begin, end, name) for name, begin, end in spans])
    return _figures(curves, client, spans)


def _of_client(client: Client, began_s: float, name: str) -> Curve:
    at_s = np.array([noted.at_s - began_s for noted in client.noted])
    return Curve(at_s, np.array([getattr(noted, name) for noted in client.noted], float))


def _counted(rows: Sequence[tuple[int, int]], began_s: float) -> Curve:
    """From seconds and how much came in each: all of it by the end of that second."""
    at_s = np.array([second + 1 - began_s for second, _ in rows], float)
    return Curve(at_s, np.cumsum([float(events) for _, events in rows]))


def _waiting(curves: dict[str, Curve], samples: Sequence[Sample], began_s: float, edges: np.ndarray) -> Panel:
    in_log = ([one.at_s - began_s for one in samples], [one.waiting for one in samples])
    unposted = np.maximum(curves["booked"].at(edges) - curves["posted at the ERP"].at(edges), 0)
    return Panel("what waits", {"in the log": in_log, "booked, not posted": (edges, unposted)}, "events")


def _folding(sealed: Sequence[tuple[int, int, int]], began_s: float) -> Panel:
    at_s = [second - began_s for second, *_ in sealed]
    return Panel(
        "folding", {"posting sets in an entry": (at_s, [sets / entries for _, entries, sets in sealed])}, "sets"
    )


def _refusals(client: Client, began_s: float, edges: np.ndarray) -> Panel:
    refused, asked_s = (_of_client(client, began_s, name) for name in ("refused_calls", "asked_s"))
    calls = refused.rate(edges)
    each = np.divide(asked_s.rate(edges), calls, out=np.zeros(len(calls)), where=calls > 0)
    lines = {"refused calls each second": (edges[1:], calls), "delay asked for, seconds": (edges[1:], each)}
    return Panel("refusals", lines, "")


def _figures(curves: dict[str, Curve], client: Client, spans: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Acceptance apart from drain. The month end is the time between the ERP's end and its return."""
    last: Noted = client.noted[-1]
    _, begin, end = spans[0]
    peak = np.array([begin, end])
    offered, accepted, posted = (curves[name] for name in ("offered", "accepted", "posted at the ERP"))
    return {
        "offered_events": last.offered,
        "accepted_events": last.accepted,
        "offered_per_s_at_month_end": round(float(offered.rate(peak)[0])),
        "accepted_per_s_at_month_end": round(float(accepted.rate(peak)[0])),
        "posted_events": round(float(posted.total[-1])) if len(posted.total) else 0,
        "refused_calls": last.refused_calls,
        "broken_calls": last.broken_calls,
        "answered_after_the_load_s": round(float(accepted.at_s[-1] - spans[-1][2]), 1),
    }
