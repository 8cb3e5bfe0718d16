"""Sources and operators: they hand in what the workload says, until each event is acknowledged.

Owns what a good client does: the same ids again after a lost answer, a pause when it is told to wait. Keeps the list
of what was acknowledged, which the auditor holds against the log.
"""

import random
from typing import Any, NamedTuple

import msgspec
import polars as pl

from runtime.errors import LogError, Pressure
from runtime.ledger.rules import Rulebook
from runtime.schema import COLUMNS
from simulation.processes import GatewayProcess
from simulation.workload.deliveries import Delivery, Workload
from simulation.workload.mappings import Mappings
from simulation.workload.rows import Row
from simulation.world import GATEWAY, World

UNDER_WAY_MAX = 3
RETRY_MS = 300
MALFORMED = b"{not json"
_SENT = {name: type for name, type in COLUMNS.items() if name != "schema_version"} | {"occurred_at": pl.Int64()}


class Attempt(NamedTuple):
    """A request under way."""

    delivery: Delivery
    process: GatewayProcess
    task: Any
    until_ms: int


class Producers:
    """All sources, as one errand between turns."""

    def __init__(self, world: World, workload: Workload) -> None:
        self._world, self._left = world, list(workload.deliveries)
        self._spoilt = {row["event_id"] for row in workload.spoilt}
        self._rng = random.Random(f"producers {world.scenario.seed}")
        self._chance = random.Random(f"singly {world.scenario.seed}")
        self._under_way: list[Attempt] = []
        self._retry_ms: dict[int, int] = {}
        self.acknowledged: list[Row] = []
        self.complaints: list[str] = []  # answers that are wrong
        self.messages: dict[str, Row | None] = {}  # feed message -> its row, None for what is no event

    @property
    def done(self) -> bool:
        """Whether everything was handed in and answered."""
        return not self._left and not self._under_way

    def unanswered(self) -> list[int]:
        """Deliveries that are not done."""
        return [d.number for d in self._left] + [a.delivery.number for a in self._under_way]

    def __call__(self) -> None:
        """Look after what is under way, begin what is due."""
        self._under_way = [attempt for attempt in self._under_way if not self._ended(attempt)]
        now_ms = self._world.clock.elapsed_ms
        for delivery in self._left[: UNDER_WAY_MAX - len(self._under_way)]:
            if max(delivery.not_before_ms, self._retry_ms.get(delivery.number, 0)) <= now_ms:
                self._begin(delivery)

    def _begin(self, delivery: Delivery) -> None:
        if delivery.way == "feed":
            self._left.remove(delivery)
            self._write(delivery)
            return
        doors = [p for n, p in sorted(self._world.processes.items()) if n.startswith(GATEWAY) and not p.dead]
        if doors:
            self._left.remove(delivery)
            door = self._rng.choice(doors)
            until_ms = self._world.clock.elapsed_ms + round(self._world.scenario.answer_limit_s * 1000)
            frame = pl.DataFrame([{name: row.get(name) for name in _SENT} for row in delivery.rows], schema=_SENT)
            singly = self._chance.random() < self._world.scenario.singly
            self._under_way.append(Attempt(delivery, door, door.submit(frame, singly=singly), until_ms))

    def _write(self, delivery: Delivery) -> None:
        """Write to the feed's stream, where nobody answers."""
        for row in delivery.rows:
            given = {name: value for name, value in row.items() if value is not None}
            self.messages[self._world.stream.add({b"event": msgspec.json.encode(given)})] = row
            if self._world.faults.chance(self._world.scenario.rates.invalid / 2):
                self.messages[self._world.stream.add({b"event": MALFORMED})] = None

    def _ended(self, attempt: Attempt) -> bool:
        """Whether a request has ended, one way or another."""
        now_ms, delivery = self._world.clock.elapsed_ms, attempt.delivery
        if attempt.process.dead or now_ms > attempt.until_ms:
            self._world.faults.happened("sent again after no answer")
            return self._again(delivery, now_ms)
        if not attempt.task.done():
            return False
        error = attempt.task.exception()
        if isinstance(error, Pressure | LogError):
            if isinstance(error, Pressure):
                self._world.faults.happened("told to wait")
            return self._again(delivery, now_ms + RETRY_MS)
        if error is not None:
            self.complaints.append(f"delivery {delivery.number} was answered with {type(error).__name__}: {error}")
            return True
        self._take_receipt(delivery, attempt.task.result())
        return True

    def _again(self, delivery: Delivery, at_ms: int) -> bool:
        self._retry_ms[delivery.number] = at_ms
        self._left.insert(self._rng.randrange(min(len(self._left), UNDER_WAY_MAX) + 1), delivery)
        return True

    def _take_receipt(self, delivery: Delivery, receipt: Any) -> None:
        refused = set(receipt.rejected["row"].to_list())
        answered = sorted([*receipt.accepted.tolist(), *receipt.duplicates.tolist(), *refused])
        if answered != list(range(len(delivery.rows))):
            self.complaints.append(f"delivery {delivery.number}: not each row was answered once")
        for number, row in enumerate(delivery.rows):
            if (row["event_id"] in self._spoilt) != (number in refused):
                self.complaints.append(f"{row['event_id']}: {'refused' if number in refused else 'taken'} wrongly")
            elif number not in refused:
                self.acknowledged.append(row)


class Operator:
    """Whoever maintains the crosswalk: a first version before the start, others while everything runs."""

    def __init__(self, world: World, rulebook: Rulebook) -> None:
        self._world, self._rng = world, random.Random(f"operator {world.scenario.seed}")
        versions = Mappings(rulebook, self._rng).versions(world.scenario.mapping_versions)
        gaps_ms = [0, *(self._rng.choice((500, 5_000, 60_000)) for _ in versions[1:])]
        self._left = [(sum(gaps_ms[: i + 1]), rows) for i, rows in enumerate(versions)]
        self()

    @property
    def done(self) -> bool:
        """Whether every version was proposed."""
        return not self._left

    def __call__(self) -> None:
        """Propose what is due."""
        while self._left and self._left[0][0] <= self._world.clock.elapsed_ms:
            _, rows = self._left.pop(0)
            self._world.books.add_mapping(msgspec.json.encode(rows).decode(), "operator")
