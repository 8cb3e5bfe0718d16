"""Pathway: tables over a CSV file, in static mode: one pass, all rows at once, results at the end.

Tuned: static instead of streaming mode (no commits every so often: faster, but nothing is known before the end); one
worker thread; typed schema; only ids that come more than once are joined back to look for conflicts. `seq`, the row's
place in the file, says which event came first. Not durable: persistence is off.
"""

import csv
import functools
import operator
import tempfile
from pathlib import Path

import pathway as pw
from pathway.internals.parse_graph import G

from benchmarks.peers.task import LINKS, Outcome, measure, name_of


class Event(pw.Schema):
    """A row of the file: `seq`, then every column. What is empty is an empty text."""

    seq: int
    event_id: str
    source: str
    kind: str
    entity: str
    facility: str
    account: str
    document: str
    reference: str
    counterparty: str
    department: str
    reason: str
    amount_minor: int
    currency: str
    quantity: str
    occurred_at: int
    effective_on: str
    correlation_id: str
    schema_version: int
    attributes: str


NUMBERS = ("amount_minor", "occurred_at", "schema_version")
NEEDED = ("seq", "source", "event_id", "kind", "entity", "facility", "document", "reference", "department")
LINKED = tuple(LINKS)


def _is_any(column: pw.ColumnExpression, names: tuple[str, ...]) -> pw.ColumnExpression:
    return functools.reduce(operator.or_, (column == name for name in names))


def _narrow(events: pw.Table) -> pw.Table:
    """Only the columns that the task needs, and the whole content as one text."""
    texts = (events[n].to_string() if n in NUMBERS else events[n] for n in Event.column_names() if n != "seq")
    content = functools.reduce(lambda whole, text: whole + "|" + text, texts)
    period = events.effective_on.str.slice(0, 7)
    return events.select(*(events[n] for n in NEEDED), events.amount_minor, period=period, content=content)


def _deduped(events: pw.Table) -> tuple[pw.Table, pw.Table]:
    """First events, and the others with whether their content is the first one's."""
    ids = events.groupby(events.source, events.event_id).reduce(
        first=pw.reducers.argmin(events.seq), count=pw.reducers.count()
    )
    firsts = ids.with_id(ids.first)
    pw.universes.promise_is_subset_of(firsts, events)
    first = events.restrict(firsts)
    originals = first.restrict(firsts.filter(firsts.count > 1))
    others = events.join(originals, pw.left.source == pw.right.source, pw.left.event_id == pw.right.event_id)
    same = pw.left.content == pw.right.content
    differing = others.select(pw.left.source, pw.left.event_id, seq=pw.left.seq, first=pw.right.seq, same=same)
    return first, differing.filter(differing.seq != differing.first)


def _matched(first: pw.Table) -> tuple[pw.Table, pw.Table]:
    """Rows that are ready, and rows that are held."""
    plain = first.filter(~_is_any(first.kind, LINKED))
    authorised, captured, settled = (first.filter(first.kind == kind) for kind in LINKED)
    captured_ready = _with_counterpart(captured, captured.reference, authorised)
    settled_ready = _with_counterpart(settled, settled.document, captured)
    parts = (plain, authorised, captured_ready, settled_ready)
    pw.universes.promise_are_pairwise_disjoint(*parts)  # each is of another kind
    ready = pw.Table.concat(*parts)
    return ready, first.difference(ready)


def _with_counterpart(rows: pw.Table, key: pw.ColumnReference, counterparts: pw.Table) -> pw.Table:
    """The rows whose key is the document of a counterpart."""
    opened = counterparts.groupby(counterparts.document).reduce(counterparts.document)
    found = rows.join(opened, key == opened.document, id=pw.left.id).select(pw.left.seq)
    return rows.restrict(found)


def run(folder: Path) -> Outcome:
    """The task over a folder of events."""
    G.clear()
    events = pw.io.csv.read(folder / "rows.csv", schema=Event, mode="static")
    first, others = _deduped(_narrow(events))
    ready, held = _matched(first)
    keys = (ready.entity, ready.facility, ready.department, ready.period, ready.kind)
    sums = ready.groupby(*keys).reduce(*keys, amount=pw.reducers.sum(ready.amount_minor))
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        pw.io.csv.write(others, out / "others.csv")
        pw.io.csv.write(held.select(held.source, held.event_id), out / "held.csv")
        pw.io.csv.write(sums, out / "sums.csv")
        pw.run(monitoring_level=pw.MonitoringLevel.NONE)
        others, held, sums = (_read(out / f"{name}.csv") for name in ("others", "held", "sums"))
    conflicts = [name_of(row["source"], row["event_id"]) for row in others if row["same"] == "False"]
    return Outcome(
        len(others) - len(conflicts),
        conflicts,
        [name_of(row["source"], row["event_id"]) for row in held],
        {tuple(row[key.name] for key in keys): int(row["amount"]) for row in sums},
    )


def _read(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    measure(run)
