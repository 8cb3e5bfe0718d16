"""How rows reach Penstock: packed into batches for a door or a feed, out of order, repeated, contradicted, spoilt.

Owns what sources do wrong, and the list of what was right: the auditor asks it which events must have come.
"""

import random
from typing import NamedTuple

from simulation.scenario import Scenario
from simulation.workload.rows import CURRENCIES, Row

SPOILT = ({"kind": "no_such_kind"}, {"entity": "nobody"}, {"currency": "XXX"}, {"amount_minor": 10**15}, {"source": ""})
MIXED = 0.15  # of rows, where currencies are mixed


class Delivery(NamedTuple):
    """Rows to hand in together, by which way, not before which moment."""

    number: int
    rows: list[Row]
    way: str  # "door" | "feed"
    not_before_ms: int


class Workload(NamedTuple):
    """All that sources send."""

    deliveries: list[Delivery]
    valid: list[Row]
    spoilt: list[Row]


def workload(stories: list[list[Row]], scenario: Scenario, rng: random.Random) -> Workload:
    """Pack stories into deliveries."""
    rates = scenario.rates
    sent = [row for story in _interleaved(stories, rng) for row in story if rng.random() >= rates.lacking]
    sent = _mixed(sent, random.Random(f"currencies {scenario.seed}"))
    valid = _shuffled(sent + [_contradiction(row, rng) for row in sent if rng.random() < rates.conflict], rates, rng)
    repeats = [row for row in valid if rng.random() < rates.repeat]
    spoilt = [_spoilt(row, rng) for row in sent if rng.random() < rates.invalid]
    rows = _strewn(_strewn(valid, repeats, rng), spoilt, rng)
    return Workload(_packed(rows, scenario, rng), valid, spoilt)


def _interleaved(stories: list[list[Row]], rng: random.Random) -> list[list[Row]]:
    """Stories run beside each other: one row of each in turn, in the order of each."""
    running, told = [list(story) for story in stories], []
    while running:
        chosen = running[rng.randrange(min(len(running), 6))]
        told.append([chosen.pop(0)])
        running = [story for story in running if story]
    return told


def _mixed(rows: list[Row], rng: random.Random) -> list[Row]:
    """In some runs, some rows come in another currency than those that they belong to."""
    share = rng.choice((0.0, MIXED))
    return [row | {"currency": rng.choice(CURRENCIES)} if rng.random() < share else row for row in rows]


def _contradiction(row: Row, rng: random.Random) -> Row:
    return row | {"amount_minor": abs(row["amount_minor"]) + rng.randrange(1, 9)}


def _spoilt(row: Row, rng: random.Random) -> Row:
    return row | {"event_id": f"spoilt-{row['event_id']}"} | rng.choice(SPOILT)


def _shuffled(rows: list[Row], rates: object, rng: random.Random) -> list[Row]:
    """Rows of which some are moved to another place."""
    moved = [row for row in rows if rng.random() < rates.shuffle]
    chosen = {id(row) for row in moved}
    return _strewn([row for row in rows if id(row) not in chosen], moved, rng)


def _strewn(rows: list[Row], others: list[Row], rng: random.Random) -> list[Row]:
    mixed = list(rows)
    for row in others:
        mixed.insert(rng.randrange(len(mixed) + 1), row)
    return mixed


def _packed(rows: list[Row], scenario: Scenario, rng: random.Random) -> list[Delivery]:
    deliveries, at_ms = [], 0
    while rows:
        size = rng.randrange(1, min(scenario.batch_rows_max, scenario.limits.frame_rows_max) + 1)
        way = "feed" if rng.random() < scenario.feed_share else "door"
        deliveries.append(Delivery(len(deliveries), rows[:size], way, at_ms))
        rows, at_ms = rows[size:], at_ms + rng.choice((0, 0, 20, 500, 3_000))
    again = [d for d in deliveries if rng.random() < scenario.rates.repeat / 3]
    late = [d._replace(number=len(deliveries) + i, not_before_ms=at_ms + 1_000 * i) for i, d in enumerate(again)]
    return deliveries + late
