"""Proves one shard: derives it anew from its steps and compares, commit by commit, with what books and archive hold.

Owns the walk and its findings: the first commit from which postings or states differ, with the event and its place in
the log where one can be named. Keeps the naive model of one shard, and of books and archive no more than one commit.
Reads nothing by itself: steps, postings and outcomes come in as iterators, in the order of the log.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import NamedTuple

import msgspec
import polars as pl

from runtime.flow import frames
from runtime.ledger.item_table import key_of
from runtime.ledger.open_items import residuals
from runtime.ledger.rules import Rulebook
from runtime.ports import ArchivedStep, Buffer, position_key
from runtime.runs import run_of
from runtime.shard import Snapshot
from simulation.auditor.books import POSTING_KEYS, totals_of
from simulation.auditor.shard import ENDS, AuditedShard, total_key

DIFFERENCES_MAX = 20  # of one shard and sort; more are counted only
_STANDING = pl.when(pl.col("fault") == "").then(pl.lit("pending")).otherwise(pl.lit("excepted")).alias("state")
_ACCOUNT = tuple(POSTING_KEYS.index(name) for name in ("entity", "currency", "account_code", "side"))
_ENTITY, _KIND, _DOCUMENT = (POSTING_KEYS.index(name) for name in ("entity", "kind", "document"))


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was derived. `position` is the commit or log entry where it starts; `event` the
    source and id of the first event concerned, empty where none is."""

    what: str
    key: str
    expected: str
    found: str
    shard: int = -1
    position: str = ""
    event: str = ""


class CommitPostings(NamedTuple):
    """What books hold of one commit: its lines, columns DELTAS and more."""

    position: str
    lines: pl.DataFrame


class FollowedShard(AuditedShard):
    """The naive model, which also says which rows its last step moved."""

    def __init__(self, rulebook: Rulebook, opens_on: dict[str, date], items_max: int) -> None:
        super().__init__(rulebook, opens_on, items_max)
        self.moved: set[int] = set()

    def _stand(self, number: int, state: str, fault: str) -> None:
        if (self.states[number], self.faults[number]) != (state, fault):
            super()._stand(number, state, fault)
            self.moved.add(number)


class ShardProof:
    """One shard, from its first step on."""

    def __init__(self, shard: int, rulebook: Rulebook, opens_on: Mapping[str, date], items_max: int) -> None:
        self.shard = shard
        self.model = FollowedShard(rulebook, dict(opens_on), items_max)
        self.differences: list[Difference] = []
        self.counts: Counter[str] = Counter()
        self.position = "0-0"
        self._told: list[str] = []  # each row's state after the last step
        self._steps: list[str] = []  # where each step ended
        self._came = array("L")  # the step that each row came with
        self._numbers: dict[tuple[int, int], int] = {}  # id hash and digest -> row number
        self.balances: Counter[tuple] = Counter()  # minor units by entity, currency, account and side
        self._found: Counter[str] = Counter()
        self._firsts: dict[tuple, tuple[str, str]] = {}  # by place in the control totals: step and event

    def take(self, step: ArchivedStep, held: CommitPostings | None, outcomes: pl.DataFrame | None) -> None:
        """One step, and what books hold of its commit (None: nothing). `outcomes`: None where the archive has none
        yet."""
        self.model.moved.clear()
        self.model.booked = Counter()
        self.model.take(step.records)
        self.position = step.position
        self._note_arrivals(step.position)
        self._compare_postings(step, held)
        self._add_up()
        if outcomes is not None:
            self._compare_outcomes(step, held, outcomes)
        self._let_go()
        self.counts["steps"] += 1
        self.counts["events"] += sum(record.rows for record in step.records)

    def _let_go(self) -> None:
        """Keep of rows that have come to their end no more than what is counted."""
        for number in self.model.moved:
            self._told[number] = self.model.states[number]
        ended = [number for number in self.model.moved if self.model.states[number] in ENDS]
        for row in (self.model.rows[number] for number in ended):
            if row:
                self._numbers.pop((row["id_hash"], row["digest"]), None)
        self.model.let_go(ended)

    def finish(self, totals: pl.DataFrame) -> None:
        """Compare the shard's control totals, once all steps are taken."""
        expected, found = self.model.totals(), totals_of(totals)
        for key in _differing(expected, found):
            self._differ("control total", key, expected[key], found[key], self._firsts.get(key[:5], ("", "")))

    def compare_snapshot(self, body: bytes, run: Callable[[str], Buffer]) -> None:
        """Compare what waits, and how many contents are remembered, with a snapshot of this very position and its
        runs."""
        snapshot = msgspec.msgpack.decode(body, type=Snapshot)
        parked = frames.decode_sealed(snapshot.parked).with_columns(_STANDING)
        held = frames.decode_sealed(snapshot.held).with_columns(pl.lit("excepted").alias("state"))
        columns = ("source", "event_id", "digest", "state", "fault")
        found = Counter(row for frame in (parked, held) for row in frame.select(columns).iter_rows())
        expected: Counter[tuple] = Counter()
        for row, state, fault in zip(self.model.rows, self.model.states, self.model.faults, strict=True):
            if state in ("pending", "excepted"):
                expected[row["source"], row["event_id"], row["digest"], state, fault] += 1
        for key in _differing(expected, found):
            first = self._first(lambda row, of=key: (row["source"], row["event_id"], row["digest"]) == of[:3])
            self._differ("waiting row", key[:2] + key[3:], expected[key], found[key], first)
        remembered = sum(len(run_of(run(name), "<u8")[0]) for name in snapshot.ids)
        if remembered != len(self.model.rows):
            self._differ("remembered events", (), len(self.model.rows), remembered, (self.position, ""))
        self._compare_items(residuals(snapshot.items))
        self.counts["waiting rows"] += sum(found.values())

    def _compare_items(self, left: dict[tuple[int, int], int]) -> None:
        """Items by their hashed keys, as a snapshot names them; told by their keys where the model has them."""
        items = {key_of(key): (key, item) for key, item in self.model.matching.items.items()}
        found, expected = Counter(left), Counter({hashed: item["left"] for hashed, (_, item) in items.items()})
        for hashed in _differing(expected, found):
            key, item = items.get(hashed, (hashed, None))
            event = f"{item['row']['source']} {item['row']['event_id']}" if item else ""
            self._differ("open item", key, expected.get(hashed), found.get(hashed), (self.position, event))
        self.counts["open items"] += len(found)

    # ── one commit ──

    def _add_up(self) -> None:
        """Only what accounts have is kept of a step: documents would grow without end."""
        for key, amount in self.model.booked.items():
            self.balances[tuple(key[at] for at in _ACCOUNT)] += amount

    def _note_arrivals(self, position: str) -> None:
        for number in range(len(self._told), len(self.model.rows)):
            row = self.model.rows[number]
            self._numbers[row["id_hash"], row["digest"]] = number
            if (place := total_key(row)) not in self._firsts:
                self._firsts[place] = (position, f"{row['source']} {row['event_id']}")
            self._told.append("")
            self._came.append(len(self._steps))
        self._steps.append(position)

    def _compare_postings(self, step: ArchivedStep, held: CommitPostings | None) -> None:
        found: Counter[tuple] = Counter()
        if held:
            sets = held.lines.select("set_no", "events", "entry_state").unique()
            self.counts["posting sets"] += sets.height
            self.counts["events in ERP documents"] += sets.filter(pl.col("entry_state") == "posted")["events"].sum()
            for *key, amount in held.lines.select(*POSTING_KEYS, "amount_minor").iter_rows():
                found[tuple(key)] += amount
        concerned = [(*self._concerned(step, key), key) for key in _differing(self.model.booked, found)]
        for _, position, event, key in sorted(concerned, key=lambda one: one[0]):
            self._differ("posting", key, self.model.booked[key], found[key], (position, event))

    def _concerned(self, step: ArchivedStep, key: tuple) -> tuple[int, str, str]:
        """Where a posting of this step comes from: the first event that fits, by its row in the step, and its entry."""
        fitting = {
            (row["source"], row["event_id"])
            for row in (self.model.rows[number] for number in sorted(self.model.moved))
            if row["entity"] == key[_ENTITY] and row["kind"] == key[_KIND]
        }
        came = 0
        for record in step.records:
            if record.type == "events":
                for at, row in enumerate(frames.decode_sealed(record.body).select("source", "event_id").iter_rows()):
                    if row in fitting:
                        return came + at, record.position, " ".join(row)
                came += record.rows
        return -1, step.position, " ".join(min(fitting, default=()))

    def _compare_outcomes(self, step: ArchivedStep, held: CommitPostings | None, outcomes: pl.DataFrame) -> None:
        last: dict[int, str] = {}
        for id_hash, digest, state in outcomes.select("id_hash", "digest", "state").iter_rows():
            number = self._numbers.get((id_hash, digest), -1)
            last[number] = state
        for number in sorted({n for n in self.model.moved if self.model.states[n] != self._told[n]} | last.keys()):
            expected = self.model.states[number] if number >= 0 else "unknown"
            found = last.get(number, "" if number < 0 else self._told[number])
            if expected != found:
                event = self._event_of(number)
                self._differ("archived state", (event,), expected, found, (step.position, event))
        self.counts["outcomes"] += outcomes.height
        self._compare_sets(step, held, outcomes)

    def _event_of(self, number: int) -> str:
        """The event of a row, by its number; "" for none."""
        row = self.model.rows[number] if number >= 0 else None
        return f"{row['source']} {row['event_id']}" if row else ""

    def _compare_sets(self, step: ArchivedStep, held: CommitPostings | None, outcomes: pl.DataFrame) -> None:
        """Every booked event is in a set that books hold, and every set holds so many."""
        booked = outcomes.filter((pl.col("state") == "booked") & (pl.col("set_no") >= 0))
        named = Counter(booked["set_no"].to_list())
        sets = held.lines.select("set_no", "events").unique().rows() if held else []
        for set_no in _differing(named, Counter(dict(sets))):
            event = booked.filter(pl.col("set_no") == set_no).select("id_hash", "digest").head(1).rows()
            where = (step.position, self._event_of(self._numbers.get(event[0], -1)) if event else "")
            self._differ("events of a posting set", (set_no,), named[set_no], dict(sets).get(set_no, 0), where)

    # ── findings ──

    def _first(self, fits: Callable[[dict], bool]) -> tuple[str, str]:
        """The step that the first fitting row came with, and the row's event."""
        for number, row in enumerate(self.model.rows):
            if row and fits(row):
                return self._steps[self._came[number]], f"{row['source']} {row['event_id']}"
        return "", ""

    def _differ(self, what: str, key: tuple, expected: object, found: object, where: tuple[str, str]) -> None:
        """Note a difference; `where` is the position and the event where it starts."""
        self._found[what] += 1
        self.counts["differences"] += 1
        if self._found[what] <= DIFFERENCES_MAX:
            self.differences.append(
                Difference(
                    what=what,
                    key=" ".join(str(part) for part in key),
                    expected=str(expected),
                    found=str(found),
                    shard=self.shard,
                    position=where[0],
                    event=where[1],
                )
            )


def _differing(expected: Counter, found: Counter) -> list:
    return sorted((key for key in expected.keys() | found.keys() if expected[key] != found[key]), key=str)


def runs_of(body: bytes) -> list[str]:
    """The names of the runs of ids that a snapshot goes with."""
    return msgspec.msgpack.decode(body, type=Snapshot).ids


def postings_by_commit(pages: Iterable[pl.DataFrame]) -> Iterator[tuple[int, CommitPostings]]:
    """(shard, what it committed) from pages of posting lines, in their order; a page may end within a commit."""
    carried: pl.DataFrame | None = None
    for page in pages:
        whole = page if carried is None else pl.concat([carried, page])
        *commits, carried = whole.partition_by("shard", "position", maintain_order=True)
        yield from map(_commit_of, commits)
    if carried is not None:
        yield _commit_of(carried)


def _commit_of(lines: pl.DataFrame) -> tuple[int, CommitPostings]:
    return lines["shard"][0], CommitPostings(lines["position"][0], lines)


class Aligned:
    """An iterator of (position, thing) in the order of positions, asked for one position after another."""

    def __init__(self, found: Iterator[tuple[str, object]]) -> None:
        self._found = found
        self._next = next(found, None)

    def at(self, position: str) -> tuple[object | None, list[str]]:
        """What stands at this position, and the positions before it that nobody asked for."""
        passed = []
        while self._next and position_key(self._next[0]) < position_key(position):
            passed.append(self._next[0])
            self._next = next(self._found, None)
        if self._next and position_key(self._next[0]) == position_key(position):
            thing, self._next = self._next[1], next(self._found, None)
            return thing, passed
        return None, passed

    def rest(self) -> list[str]:
        """Positions that nobody asked for."""
        left = [self._next[0]] if self._next else []
        return left + [position for position, _ in self._found]
