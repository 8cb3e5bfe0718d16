"""Bad minutes, drawn from a seed: whatever can be killed dies at random under load, again and again.

Long, so it runs when it is asked for: `make chaos` (CHAOS_MINUTES and SEED in the environment). The seed gives the load
and the order of kills; what they hit on a real machine differs from run to run.
"""

import os
import random
import secrets
import time
from collections.abc import Callable

import pytest
from chaos_proof import prove
from chaos_rig import Rig, running_rig
from chaos_table import show
from installed import short_folder

MINUTES = float(os.environ.get("CHAOS_MINUTES") or 0)
SEED = int(os.environ.get("SEED") or secrets.randbelow(10**6))
AT_ONCE_MAX = 5  # ends between two proofs
PAUSE_S_MAX = 5.0
LOSE_EVERY = (0, 3, 10)  # answers of the ERP; 0: none

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not MINUTES, reason="takes minutes; run it with: make chaos"),
    pytest.mark.timeout(60 * MINUTES + 900),
]


def ends(rig: Rig, rng: random.Random) -> list[Callable[[], None]]:
    """What may happen."""
    worker = f"worker-{rng.randrange(rig.config.runtime.workers)}"
    return [
        lambda: rig.kill_worker(worker),
        lambda: rig.kill_worker(worker),
        rig.kill_gateway,
        rig.kill_poster,
        lambda: rig.kill_other("relay"),
        lambda: rig.kill_other("supervisor"),
        lambda: rig.hang_worker(worker),
        rig.kill_valkey,
        rig.kill_postgres,
        rig.kill_tryton,
    ]


def test_whatever_dies_at_random_what_was_acknowledged_is_booked_and_posted_once(pytestconfig):
    """Until the time is over: some ends in random order, then everything heals, drains and agrees."""
    rng = random.Random(SEED)
    with short_folder() as folder:
        with running_rig(folder, SEED, external_ref=rng.random() < 0.5) as rig:
            until_s = time.monotonic() + 60 * MINUTES
            while time.monotonic() < until_s:
                rig.proxy.lose_every(rng.choice(LOSE_EVERY), ("move.create", "move.post", "move.post_batch"))
                for _ in range(rng.randint(1, AT_ONCE_MAX)):
                    rng.choice(ends(rig, rng))()
                    time.sleep(rng.uniform(0, PAUSE_S_MAX))
                prove(rig)
            assert rig.wake_overtaken_worker() == 1
            prove(rig)
        show(rig, folder, pytestconfig)
