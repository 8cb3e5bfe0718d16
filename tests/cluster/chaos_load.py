"""Load on a gateway while everything behind it dies: billing in frames, and stories of every other flow in rows.

Owns the client's own record of what was acknowledged. What is not answered is sent again, with the same ids, until it
is; so at the end the record is all that was ever sent.
"""

import random
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import msgspec
import polars as pl
from penstock import Client, SubmitSummary, SubmitTimeout

from adapters.settings import standard_rulebook_text
from adapters.sources.month import billing_month
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.routing import shard_of
from simulation.scenario import scenario
from simulation.workload.deliveries import workload
from simulation.workload.rows import ENTITIES
from simulation.workload.stories import Stories

CURRENCY = "USD"  # of every entity: Tryton's companies have one each
SHARDS = 4
HOSPITALS = [  # one of each shard, so that every shard is always at work
    next((entity, name, CURRENCY) for name in map("clinic-{}".format, range(99)) if shard_of(entity, name, SHARDS) == i)
    for i, entity in zip(range(SHARDS), cycle(ENTITIES), strict=False)
]
BILLED_MAX = 20_000_000  # more than any run can send
CHAPTER_ROWS = 200
ANSWER_WITHIN_S = 20.0
FINISH_WITHIN_S = 180.0
RECORDED = ("source", "event_id", "kind", "amount_minor")
_SCHEMA = {"source": pl.String(), "event_id": pl.String(), "kind": pl.String(), "amount_minor": pl.Int64()}
_TROUBLE = {"repeat": 0.05, "conflict": 0.01, "invalid": 0.01, "lacking": 0.03, "shuffle": 0.1}


def rulebook() -> Rulebook:
    """The rules that the installation follows."""
    return parse_rulebook(standard_rulebook_text())


def billing(seed: int, frame_rows: int) -> Iterator[pl.DataFrame]:
    """Frames of a month's billing without end."""
    for block in billing_month(seed, events=BILLED_MAX, hospitals=HOSPITALS).frames():
        yield from block.iter_slices(frame_rows)


def stories(seed: int, rules: Rulebook) -> Iterator[list[dict[str, Any]]]:
    """Rows of every flow that the rulebook declares, in small deliveries: repeated, contradicted, spoilt, shuffled."""
    rng = random.Random(f"stories {seed}")
    teller, usual = Stories(rules, rng), scenario(seed, CHAPTER_ROWS)
    rates = msgspec.structs.replace(usual.rates, **_TROUBLE)
    chapter = msgspec.structs.replace(usual, rates=rates, feed_share=0.0, batch_rows_max=40)
    while True:
        for delivery in workload(teller.tell(CHAPTER_ROWS), chapter, rng).deliveries:
            yield [row | _in_one_currency(row) for row in delivery.rows]


def _in_one_currency(row: dict[str, Any]) -> dict[str, Any]:
    return {"currency": CURRENCY} if row["currency"] in ("USD", "EUR") else {}


class Load:
    """Threads that send, one for each kind of load, until they are told to stop."""

    def __init__(self, gateway: str, seed: int, rules: Rulebook, *, frame_rows: int, pause_s: float) -> None:
        parts = [billing(seed, frame_rows), stories(seed, rules)]
        self._senders = [_Sender(gateway, part, pause_s) for part in parts]

    def start(self) -> None:
        """Begin to send."""
        for sender in self._senders:
            sender.start()

    def halt(self, halted: bool) -> None:
        """Send nothing more for now, or go on. Returns when what was begun is answered."""
        for sender in self._senders:
            sender.halt(halted)

    @property
    def answered(self) -> int:
        """Rows that were answered so far."""
        return sum(sender.answered for sender in self._senders)

    def finish(self) -> None:
        """Stop after what is in hand; every request that was begun is answered."""
        for sender in self._senders:
            sender.finish()

    def acknowledged(self) -> pl.DataFrame:
        """Every distinct event that was accepted, or known already: columns RECORDED."""
        return pl.concat([part for sender in self._senders for part in sender.record()]).unique(maintain_order=True)

    def complaints(self) -> list[str]:
        """Answers that no fault of the surroundings explains."""
        return [complaint for sender in self._senders for complaint in sender.complaints]


class _Sender(threading.Thread):
    def __init__(self, gateway: str, parts: Iterator[pl.DataFrame | list[dict]], pause_s: float) -> None:
        super().__init__(daemon=True)
        self._gateway, self._parts, self._pause_s = gateway, parts, pause_s
        self._enough, self._going, self._resting = threading.Event(), threading.Event(), threading.Event()
        self._going.set()
        self._record: list[pl.DataFrame] = []
        self.answered, self.complaints = 0, []

    def run(self) -> None:
        """Send part after part; what ends it early is a complaint."""
        try:
            with Client(self._gateway, deadline_s=ANSWER_WITHIN_S) as client:
                for part in self._parts:
                    if self._wait() or self._enough.is_set():
                        return
                    self._take(part, self._sent(client, part))
        except BaseException as error:
            self.complaints.append(f"the load ended: {type(error).__name__}: {error}")
        finally:
            self._resting.set()

    def _wait(self) -> bool:
        """Pause between two parts, longer while halted; whether it is enough."""
        while not self._going.is_set():
            self._resting.set()
            if self._enough.wait(0.05):
                return True
        self._resting.clear()
        return self._enough.wait(self._pause_s)

    def _sent(self, client: Client, part: pl.DataFrame | list[dict]) -> SubmitSummary:
        until_s = time.monotonic() + FINISH_WITHIN_S
        while True:
            try:
                return client.submit(part)
            except SubmitTimeout:
                if time.monotonic() > until_s:
                    raise

    def _take(self, part: pl.DataFrame | list[dict], summary: SubmitSummary) -> None:
        rows = part if isinstance(part, pl.DataFrame) else pl.DataFrame(part, _SCHEMA, infer_schema_length=None)
        refused = {rejected.row for rejected in summary.results}
        for row in refused:
            if not rows["event_id"][row].startswith("spoilt-"):
                self.complaints.append(f"{rows['event_id'][row]} was refused")
        if summary.rows != len(rows):
            self.complaints.append(f"{len(rows)} rows were sent, {summary.rows} answered")
        kept = [row for row in range(len(rows)) if row not in refused] if refused else slice(None)
        self._record.append(rows.select(RECORDED)[kept].cast(_SCHEMA))
        self.answered += len(rows)

    def record(self) -> list[pl.DataFrame]:
        """What was acknowledged, part by part."""
        return list(self._record)

    def halt(self, halted: bool) -> None:
        """See Load."""
        if not halted:
            self._resting.clear()
            self._going.set()
            return
        self._going.clear()
        if not self._resting.wait(FINISH_WITHIN_S):
            raise AssertionError("the load was not answered in time")

    def finish(self) -> None:
        """See Load."""
        self._enough.set()
        self.join(timeout=FINISH_WITHIN_S)
        if self.is_alive():
            raise AssertionError("the load was not answered in time")
