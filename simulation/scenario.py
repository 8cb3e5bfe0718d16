"""What a seed picks before anything runs: sizes, limits, clocks, which faults there are and how often.

Owns the swarm: every run has some faults and lacks others, so that no fault hides another for good.
"""

import random
from typing import NamedTuple

import msgspec

from runtime.ledger.step_matching import ROWS_MIN
from runtime.limits import Limits
from runtime.ports import ErpTerms
from simulation.edges import Edge, edges

START_MS = 1_790_000_000_000  # 2026-09-21, 14:13:20 UTC
BLIND = 0.2  # of ERPs: nothing can be found by its key
AT_ONCE = (0, 0, 6, ROWS_MIN)  # rows from which a step matches whole columns; a run's steps are far below the usual
TARGETS = 5  # edges that a run crashes or fails at in any case


class Rates(msgspec.Struct, frozen=True):
    """How often each thing happens: at an edge, at a turn, or to a row. 0: never in this run."""

    crash: float  # at an edge: the process dies
    fail: float  # at an edge: the port fails, before or after its work is done
    pause: float  # at an edge: the process hangs until its successor has been at work
    jump: float  # at an edge: wall time jumps
    delay: float  # of an awaited answer
    outage: float  # at a turn: a port is away, or full, for a while
    kill: float  # at a turn: a process dies between two steps
    move: float  # at a turn: another worker takes a shard over
    leap: float  # at a turn: hours pass in which nobody moves
    erp: float  # of a call: the ERP does not simply post it
    decide: float  # at a turn: people decide on exceptions
    close: float  # at a turn: people order or declare the close of a period
    repeat: float  # of a row: sent once more
    conflict: float  # of a row: its id is sent with other content
    invalid: float  # of a row: it is no event
    lacking: float  # of a row: never sent
    shuffle: float  # of a row: sent out of its order


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one run is made of."""

    seed: int
    events: int
    shards: int
    workers: int
    gateways: int
    batch_rows_max: int
    columns_rows_min: int  # rows from which a step matches whole columns
    singly: float  # of requests at a door: their events are taken one by one, as a few rows are
    feed_share: float
    limits: Limits
    erp_terms: ErpTerms
    calls_per_minute: float
    seal_age_s: float
    tick_s: float
    silence_s: float
    skew_ms_max: int
    answer_limit_s: float
    mapping_versions: int
    mend: float  # how often people look after refused and parked journal entries, at a turn
    rates: Rates
    targets: tuple["Target", ...]


class Target(NamedTuple):
    """An edge at whose nth crossing something happens for certain."""

    edge: Edge
    crossing: int
    what: str  # "crash" | "fail"


def scenario(seed: int, events: int) -> Scenario:
    """The run that a seed stands for."""
    rng = random.Random(f"scenario {seed}")
    return Scenario(
        seed=seed,
        events=events,
        shards=rng.choice((1, 2, 3)),
        workers=rng.choice((1, 1, 2, 3)),
        gateways=rng.choice((1, 2)),
        batch_rows_max=rng.choice((5, 12, 40)),
        columns_rows_min=_apart(seed, "columns").choice(AT_ONCE),
        singly=_apart(seed, "singly").choice((0.0, 0.5, 1.0)),
        feed_share=rng.choice((0.0, 0.3, 0.3, 1.0)),
        limits=_limits(rng),
        erp_terms=_terms(rng, _apart(seed, "lookup")),
        calls_per_minute=rng.choice((20.0, 120.0, 600.0, 6000.0)),
        seal_age_s=rng.choice((0.0, 1.0, 20.0)),
        tick_s=rng.choice((600.0, 3600.0)),
        silence_s=rng.choice((3.0, 10.0)),
        skew_ms_max=rng.choice((0, 500, 60_000)),
        answer_limit_s=rng.choice((1.0, 5.0)),
        mapping_versions=rng.choice((1, 2, 4)),
        mend=_apart(seed, "mend").choice((0.0, 0.01, 0.05)),
        rates=_rates(rng),
        targets=_targets(seed, rng),
    )


def _limits(rng: random.Random) -> Limits:
    rows = rng.choice((4, 32, 256))
    lag = rng.choice((rows, 10 * rows, 1_000_000))
    return Limits(
        frame_rows_max=rows,
        step_rows_max=rows,
        shard_lag_resume_at_rows=lag,
        shard_lag_pause_at_rows=2 * lag,
        log_rows_pause_at=max(2 * lag, rng.choice((100, 8_000_000))),
        gateway_recent_ids_max=rng.choice((8, 64, 100_000)),
        feed_batch_rows_max=rng.choice((1, 7, 50)),
        checkpoint_commits_max=rng.choice((1, 3, 20)),
        checkpoint_age_s_max=rng.choice((2.0, 10.0)),
        entry_lines_max=rng.choice((2, 6, 200)),
        call_lines_max=400,
        call_entries_max=rng.choice((1, 4, 50)),
        seal_sets_max=rng.choice((3, 20, 20_000)),
        open_items_max=rng.choice((30, 5_000_000, 5_000_000)),
    )


def _apart(seed: int, what: str) -> random.Random:
    """Chance of its own: what came later to the scenario leaves the rest of a seed as it was."""
    return random.Random(f"{what} {seed}")


def _terms(rng: random.Random, of_lookup: random.Random) -> ErpTerms:
    return ErpTerms(
        native_key=rng.choice(("none", "none", "windowed", "permanent")),
        key_life_s=600.0,
        lookup=of_lookup.random() >= BLIND,
        atomicity=rng.choice(("all_or_nothing", "per_item", "job")),
        settle_s=rng.choice((1.0, 5.0, 30.0)),
        lines_max=rng.choice((20, 200)),
        entries_max=rng.choice((2, 50)),
        concurrency=1,
        per_minute=rng.choice((0, 0, 30)),
    )


def _rates(rng: random.Random) -> Rates:
    def sometimes(*rates: float) -> float:
        return rng.choice((0.0, *rates))

    return Rates(
        crash=sometimes(0.003, 0.01),
        fail=sometimes(0.005, 0.02),
        pause=sometimes(0.003, 0.01),
        jump=sometimes(0.004),
        delay=sometimes(0.1, 0.5),
        outage=sometimes(0.004),
        kill=sometimes(0.004),
        move=sometimes(0.006),
        leap=sometimes(0.002, 0.01),
        erp=sometimes(0.1, 0.5),
        decide=sometimes(0.005, 0.03),
        close=sometimes(0.005),
        repeat=sometimes(0.05, 0.3),
        conflict=sometimes(0.02, 0.1),
        invalid=sometimes(0.02, 0.1),
        lacking=sometimes(0.02, 0.1),
        shuffle=sometimes(0.1, 1.0),
    )


def _targets(seed: int, rng: random.Random) -> tuple[Target, ...]:
    """Consecutive seeds take consecutive edges, so that some seeds in a row leave none out."""
    every = edges()
    chosen = [every[(seed * TARGETS + i) % len(every)] for i in range(TARGETS)]
    return tuple(Target(edge, rng.choice((1, 1, 2, 5)), rng.choice(("crash", "crash", "fail"))) for edge in chosen)
