"""Engine and naive model agree over fresh seeds of rows that get in each other's way."""

import os
import secrets
import time
from collections.abc import Iterator
from itertools import count

import pytest

from simulation.collisions import Collision, collide

SECONDS_VARIABLE = "PENSTOCK_COLLISIONS_SECONDS"
SECONDS = float(os.environ.get(SECONDS_VARIABLE) or 30)
DIFFERENCES_SHOWN = 5


def fresh() -> Iterator[Collision]:
    """As many fresh seeds as fit the time."""
    end = time.monotonic() + SECONDS
    for seed in count(secrets.randbelow(2**31)):
        yield collide(seed)
        if time.monotonic() > end:
            return


@pytest.mark.timeout(900)
def test_collisions_of_fresh_seeds_end_as_the_model_says(say):
    """Postings, states, exceptions, what waits and what is left of items, however steps are cut."""
    held = 0
    for collision in fresh():
        shown = [f"seed {collision.seed}:", *collision.differences[:DIFFERENCES_SHOWN], *collision.history]
        assert not collision.differences, "\n".join(shown)
        held += 1
    say(f"collided: {held} fresh seeds up to {collision.seed}")


def test_collisions_of_one_seed_are_the_same_history_each_time():
    """The seed decides."""
    assert collide(1) == collide(1)
    assert collide(1).history != collide(2).history
