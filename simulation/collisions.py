"""One shard beside its naive model, over crowds and stories of rows. No process dies here and no port fails.

Owns what a seed stands for: frames, how they are cut into steps, and what people and time do between them. The model
and the comparison are those of `penstock verify`: postings and states after each step, open exceptions, what waits and
what is left of items.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from adapters.books.memory import MemoryBooks
from runtime import schema, validation
from runtime.flow import frames
from runtime.ports import START, ArchivedStep, LogRecord
from runtime.shard import ShardEngine
from simulation.auditor.books import EXCEPTIONS_MAX, Auditor, differences
from simulation.auditor.keys import DAY_MS
from simulation.auditor.proof import CommitPostings, ShardProof
from simulation.scenario import AT_ONCE, START_MS
from simulation.simulator import standard_rulebook
from simulation.workload.crowd import Crowd
from simulation.workload.mappings import Mappings
from simulation.workload.rows import CURRENCIES, ENTITIES, OPENS_ON, Row
from simulation.workload.stories import Stories

ROWS = (4, 6, 8, 12, 20, 40, 120)
FRAME_ROWS_MAX = (2, 5, 50)
CUT = (0.1, 0.4, 1.0)  # after a frame: the step ends
CROWDED = 0.5  # of seeds; the others tell stories
APART = (0, 3, 10, 100)  # how far rows of stories get out of their order
ITEMS_MAX = (1_000, 1_000, 1_000, 3, 8)
PAUSES_MS = (DAY_MS // 10, 3 * DAY_MS, 20 * DAY_MS)
TICK, DECIDED, CLOSED, RESTARTED, MAPPED, RELAYED = 0.15, 0.12, 0.05, 0.05, 0.2, 0.3  # after a frame
PERIOD_OPENS = "2026-09-01"
ACTIONS = ("retry", "release", "exclude")
OVER_MS = 40 * DAY_MS


class Collision(NamedTuple):
    """What a seed came to: where engine and model differ, and what happened until then."""

    seed: int
    differences: list[str]
    history: list[str]


def collide(seed: int) -> Collision:
    """Run one seed to its end, or to the first step after which something differs."""
    run = _Run(seed)
    found = next((found for found in run.steps() if found), [])
    return Collision(seed, found, run.history)


class _Run:
    def __init__(self, seed: int) -> None:
        self._rng, self._rulebook = random.Random(f"collisions {seed}"), standard_rulebook()
        self._opens_on, self._items_max = dict.fromkeys(ENTITIES, OPENS_ON), self._rng.choice(ITEMS_MAX)
        self._engine = self._new_engine()
        self._proof = ShardProof(0, self._rulebook, self._opens_on, self._items_max)
        self._auditor = Auditor(self._rulebook, self._opens_on, self._items_max, shards=0)
        self._now_ms, self._records, self._decisions = START_MS, list[LogRecord](), 0
        self._books, self._position = MemoryBooks(lambda: self._now_ms), START
        self._epoch = self._books.take_epoch("shard:0", "here").epoch
        self._versions = list(enumerate(Mappings(self._rulebook, self._rng).versions(2), 1))
        self._derived: list[pl.DataFrame] = []
        entities = {name: schema.EntityTerms(currencies=frozenset(CURRENCIES)) for name in ENTITIES}
        self._vocabularies = {
            is_derived: schema.Vocabulary(kinds=self._rulebook.kind_terms(derived=is_derived), entities=entities)
            for is_derived in (False, True)
        }
        self.history: list[str] = []

    def steps(self) -> Iterator[list[str]]:
        """What differs after each step."""
        rng, rows = self._rng, self._rows()
        most, cut = rng.choice(FRAME_ROWS_MAX), rng.choice(CUT)
        self._map()
        while rows:
            size = rng.randrange(1, most + 1)
            self._send(rows[:size])
            rows = rows[size:]
            yield from self._something_happens()
            if rng.random() < cut:
                yield self._step()
        for action in ("release", "retry"):
            self._wait(OVER_MS)
            yield from self._decide(action)
            yield self._step()
        yield self._restart()
        self._proof.finish(self._books.totals())
        yield self._differing()

    def _rows(self) -> list[Row]:
        """A crowd, or stories whose rows come more or less out of their order."""
        rng, count = self._rng, self._rng.choice(ROWS)
        if rng.random() < CROWDED:
            return Crowd(self._rulebook, rng).rows(count)
        rows = [row for story in Stories(self._rulebook, rng).tell(count) for row in story]
        apart = rng.choice(APART)
        place = {row["event_id"]: at + rng.random() * apart for at, row in enumerate(rows)}
        return sorted(rows, key=lambda row: place[row["event_id"]])

    def _something_happens(self) -> Iterator[list[str]]:
        rng = self._rng
        if rng.random() < TICK:
            self._wait(rng.choice(PAUSES_MS))
        if rng.random() < DECIDED:
            yield from self._decide(rng.choice(ACTIONS))
        if rng.random() < CLOSED:
            self._tell({"type": "period", "entity": rng.choice(tuple(ENTITIES)), "opens_on": PERIOD_OPENS})
        if rng.random() < MAPPED and self._versions:
            self._map()
        if rng.random() < RELAYED and self._derived:
            self._relay()
        if rng.random() < RESTARTED:
            yield self._step()
            yield self._restart()

    # ── what comes through the log ─────────────────────────────────────────────────────────────────────────────────

    def _send(self, rows: list[Row]) -> None:
        self.history += map(_shown, rows)
        self._append(pl.DataFrame(rows, infer_schema_length=None), is_derived=False)

    def _relay(self) -> None:
        """What follows from events comes back, as the relay sends it."""
        derived, self._derived = pl.concat(self._derived), []
        self.history.append(f"{len(derived)} derived events")
        self._append(derived, is_derived=True)

    def _append(self, rows: pl.DataFrame, *, is_derived: bool) -> None:
        vocabulary = self._vocabularies[is_derived]
        valid = validation.validate(schema.conform(rows), vocabulary, self._now_ms).accepted.drop("row")
        if len(valid):
            self._records.append(LogRecord(self._next_position(), "events", len(valid), frames.encode(valid)))

    def _tell(self, message: Row) -> None:
        self.history.append(str(message))
        self._records.append(LogRecord(self._next_position(), "control", 0, frames.encode_control(message)))

    def _next_position(self) -> str:
        last = self._records[-1].position if self._records else self._position
        return f"{int(last.partition('-')[0]) + 1}-0"

    def _wait(self, ms: int) -> None:
        self._now_ms += ms
        self._tell({"type": "tick", "now_ms": self._now_ms})

    def _map(self) -> None:
        version, rows = self._versions.pop(0)
        self._tell({"type": "mapping", "version": version, "rows": rows})

    def _decide(self, action: str) -> Iterator[list[str]]:
        """On some of what is open after a step."""
        yield self._step()
        standing = self._books.exceptions(state="open", limit=EXCEPTIONS_MAX)["exception_id"].sort().to_list()
        if chosen := [id for id in standing if self._rng.random() < 0.5]:
            self._decisions += 1
            self._tell({"type": "decision", "number": self._decisions, "action": action, "exceptions": chosen})

    # ── the two beside each other ──────────────────────────────────────────────────────────────────────────────────

    def _step(self) -> list[str]:
        if not self._records:
            return []
        self.history.append("step")
        step, self._records = ArchivedStep(tuple(self._records)), []
        effects = self._engine.step(step.records)
        after, self._position = self._position, step.position
        self._books.commit(0, self._epoch, after, step.position, sum(one.rows for one in step.records), effects)
        self._derived += [effects.derived] if len(effects.derived) else []
        lines = effects.deltas.with_columns(entry_state=pl.lit(""))
        held = CommitPostings(step.position, lines) if len(lines) else None
        self._proof.take(step, held, effects.outcomes)
        return self._differing()

    def _restart(self) -> list[str]:
        """Another engine goes on from a snapshot."""
        self.history.append("restart")
        frozen = self._engine.freeze(self._position)
        self._proof.compare_snapshot(frozen.body(), frozen.run)
        self._engine = self._new_engine()
        self._engine.restore(frozen.body(), frozen.run)
        return self._differing()

    def _new_engine(self) -> ShardEngine:
        engine = ShardEngine(self._rulebook, self._opens_on, self._items_max)
        engine.intake.items.rows_min = self._rng.choice(AT_ONCE)
        return engine

    def _differing(self) -> list[str]:
        proved = [
            f"{one.what} {one.key} {one.event}: expected {one.expected}, found {one.found}"
            for one in self._proof.differences
        ]
        expected = self._auditor.expected_exceptions([self._proof.model])
        return [*proved, *differences("open exception", expected, self._auditor.open_exceptions(self._books))]


def _shown(row: Row) -> str:
    """A row's columns that are not empty."""
    return " ".join(f"{name}={value}" for name, value in row.items() if value is not None)
