"""Which parts of a running Penstock must be started or replaced, and which worker hosts which shard: target and
observation in, actions out.

Owns the plan. Never starts or moves anything: the supervisor carries it out. Reads no clock: times are arguments.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

BUSY_MIN = 0.5  # of a worker's time, below which nobody waits for it
STEP_S = 0.08  # what a step and its commit take where the cores are busy, however few the rows
RELIEF_MIN = 0.1  # of the busiest worker's load: less is not worth the replay that a move costs


class Observed(NamedTuple):
    """What is known of a part now: whether it exists, when it last answered a ping, when it was started or replaced.

    `lacking_since_ms`: since when something is its to do that nobody does; 0 while there is nothing.
    """

    exists: bool
    answered_at_ms: int
    started_at_ms: int
    lacking_since_ms: int = 0


class Action(NamedTuple):
    """Start a part that is not there, or replace one that does not answer or does not do all of its work."""

    name: str
    what: Literal["start", "replace"]


class Move(NamedTuple):
    """A shard, and the worker that is to host it."""

    shard: int
    worker: str


def plan(target: Sequence[str], observed: Mapping[str, Observed], now_ms: int, silence_ms_max: int) -> list[Action]:
    """What to do so that every part of the target runs, answers, and does what is its to do.

    A part is given the same time after a start as between two answers, so a slow starter is not replaced for ever.
    """
    actions = []
    for name in target:
        seen = observed.get(name)
        if seen is None or not seen.exists:
            actions.append(Action(name, "start"))
        elif now_ms - max(_sound_at_ms(seen), seen.started_at_ms) > silence_ms_max:
            actions.append(Action(name, "replace"))
    return actions


def _sound_at_ms(seen: Observed) -> int:
    """When a part last answered that it lacks nothing."""
    return min(seen.answered_at_ms, seen.lacking_since_ms) if seen.lacking_since_ms else seen.answered_at_ms


def shards_of(worker: int, workers: int, shards: int) -> list[int]:
    """The shards that a worker hosts: neighbours. A scope's shard is its hash modulo their number, so every W-th shard
    of W workers would hold the scopes of one remainder, and more shards would spread the load no better."""
    return list(range(worker * shards // workers, (worker + 1) * shards // workers))


def hosts(placed: Mapping[int, str], workers: Sequence[str], shards: int) -> dict[str, list[int]]:
    """The shards of each worker: those placed with it, and its neighbours of those placed with nobody who is there."""
    host = {shard: name for i, name in enumerate(workers) for shard in shards_of(i, len(workers), shards)}
    host |= {shard: name for shard, name in placed.items() if shard in host and name in workers}
    return {name: [shard for shard in range(shards) if host[shard] == name] for name in workers}


def by_rows(busy: Mapping[int, float], steps_per_s: Mapping[int, float]) -> dict[int, float]:
    """The share of a worker's time that each shard's rows take. A step costs STEP_S however few they are, so a worker
    that has little to do is busy nearly all the time, too: that time it would spare if it had more to do."""
    return {shard: max(share - STEP_S * steps_per_s.get(shard, 0.0), 0.0) for shard, share in busy.items()}


def relief(busy: Mapping[int, float], hosted: Mapping[str, Sequence[int]]) -> Move | None:
    """The one move from the busiest worker to the idlest that helps most; None where nobody needs help, or none would.

    `busy`: the share of a worker's time that each shard takes (`by_rows`).
    """
    load = {name: sum(busy.get(shard, 0.0) for shard in shards) for name, shards in hosted.items()}
    busiest, idlest = max(load, key=load.__getitem__), min(load, key=load.__getitem__)

    def most_after(shard: int) -> float:
        moved = busy.get(shard, 0.0)
        return max(load[busiest] - moved, load[idlest] + moved)

    if load[busiest] < BUSY_MIN:
        return None
    best = min(hosted[busiest], key=most_after)
    return Move(best, idlest) if most_after(best) <= load[busiest] * (1 - RELIEF_MIN) else None
