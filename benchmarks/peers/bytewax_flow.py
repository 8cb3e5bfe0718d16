"""Bytewax: a dataflow on one worker, its state in three keyed, stateful operators.

Tuned: keyed by entity, as a repeat and its counterpart always have the same one (a key for each event id would make a
state object of each); batches of 1,000 lines; decoding a batch at a time; sums are emitted once, at the end.
Not durable: without a recovery store, which would snapshot the states at intervals.
"""

from collections import Counter
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, run_main

from benchmarks.peers.rows_in_python import Matcher, Row, decode
from benchmarks.peers.task import Outcome, measure

BATCH = 1_000


def _decoded(lines: list[str]) -> list[tuple[str, tuple[Row, int]]]:
    rows = [(decode(line), hash(line)) for line in lines]
    return [(row.entity, (row, content)) for row, content in rows]


class _Kept(StatefulBatchLogic):
    """A state that is kept to the end."""

    def snapshot(self) -> dict:
        return self.__dict__


class Dedupe(_Kept):
    """New rows go on; what is none goes on as (what it is, its name)."""

    def __init__(self, _resumed: dict | None) -> None:
        self.seen: dict[tuple[str, str], int] = {}

    def on_batch(self, values: list[tuple[Row, int]]) -> tuple[list, bool]:
        out = []
        for row, content in values:
            known = self.seen.setdefault((row.source, row.event_id), content)
            if known is content:
                out.append(row)
            else:
                out.append(("repeat" if known == content else "conflict", row.name))
        return out, self.RETAIN


class Match(_Kept):
    """Rows that are ready; at the end the names of those that are held."""

    def __init__(self, _resumed: dict | None) -> None:
        self.matcher = Matcher()

    def on_batch(self, values: list[Row]) -> tuple[list, bool]:
        return [ready for row in values for ready in self.matcher.take(row)], self.RETAIN

    def on_eof(self) -> tuple[list, bool]:
        return [("held", name) for name in self.matcher.held()], self.RETAIN


class Sum(_Kept):
    """At the end, the sums of the entity."""

    def __init__(self, _resumed: dict | None) -> None:
        self.sums: Counter = Counter()

    def on_batch(self, values: list[Row]) -> tuple[list, bool]:
        for row in values:
            self.sums[row.key] += row.amount_minor
        return [], self.RETAIN

    def on_eof(self) -> tuple[list, bool]:
        return list(self.sums.items()), self.RETAIN


def _is_row(item: tuple[str, object]) -> bool:
    return isinstance(item[1], Row)


def run(folder: Path) -> Outcome:
    """The task over a folder of events."""
    faults, summed = [], []
    flow = Dataflow("events")
    lines = op.input("lines", flow, FileSource(folder / "rows.jsonl", batch_size=BATCH))
    rows = op.flat_map_batch("decode", lines, _decoded)
    judged = op.branch("judged", op.stateful_batch("dedupe", rows, Dedupe), _is_row)
    matched = op.branch("matched", op.stateful_batch("match", judged.trues, Match), _is_row)
    sums = op.stateful_batch("sum", matched.trues, Sum)
    op.output("faults", op.merge("others", judged.falses, matched.falses), TestingSink(faults))
    op.output("sums", sums, TestingSink(summed))
    run_main(flow)
    of = {what: [name for _, (kind, name) in faults if kind == what] for what in ("repeat", "conflict", "held")}
    return Outcome(len(of["repeat"]), of["conflict"], of["held"], dict(item for _, item in summed))


if __name__ == "__main__":
    measure(run)
