"""Bad minutes, drawn from a seed: whatever can be killed dies at random under load, again and again.

Long, so it runs when it is asked for: `make chaos` (CHAOS_MINUTES and SEED in the environment). The seed gives the load
and the order of kills; what they hit on a real machine differs from run to run.
"""

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator

import pytest
from chaos_cluster import running_cluster
from chaos_proof import prove
from chaos_rig import Rig, running_rig
from chaos_table import show
from installed import short_folder

MINUTES = float(os.environ.get("CHAOS_MINUTES") or 0)
SEED = int(os.environ.get("SEED") or secrets.randbelow(10**6))
AT_ONCE_MAX = 6  # faults between two proofs
PAUSE_S_MAX = 5.0
LOSE_EVERY = (0, 3, 10)  # answers of the ERP; 0: none

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not MINUTES, reason="takes minutes; run it with: make chaos"),
    pytest.mark.timeout(60 * MINUTES + 1500),
]

# What may happen. Each stands for one fault, waits until that is healed, and notes how long it took.
FAULTS: tuple[Callable[[Rig, str], None], ...] = (
    lambda rig, worker: rig.kill_worker(worker),
    lambda rig, _: rig.kill_gateway(),
    lambda rig, _: rig.kill_poster(),
    lambda rig, _: rig.kill_other("relay"),
    lambda rig, _: rig.kill_other("supervisor"),
    lambda rig, worker: rig.hang_worker(worker),
    lambda rig, _: rig.wake_overtaken_worker(),
    lambda rig, _: rig.kill_valkey(),
    lambda rig, _: rig.kill_postgres(),
    lambda rig, _: rig.kill_tryton(),
    lambda rig, _: rig.lose_an_answer(),
    lambda rig, _: rig.lose_node(),
)


def drawn(rng: random.Random) -> Iterator[Callable[[Rig, str], None]]:
    """Faults without end: in any order, but none a second time before each was there once."""
    while True:
        yield from rng.sample(FAULTS, len(FAULTS))


def test_whatever_dies_at_random_what_was_acknowledged_is_booked_and_posted_once(say):
    """Until the time is over and each fault was there: some in random order, then everything heals, drains, agrees."""
    rng = random.Random(SEED)
    faults, happened = drawn(rng), 0
    with short_folder() as folder, running_cluster() as cluster:
        with running_rig(folder, SEED, cluster=cluster, external_ref=rng.random() < 0.5) as rig:
            until_s = time.monotonic() + 60 * MINUTES
            while time.monotonic() < until_s or happened < len(FAULTS):
                rig.lose_answers(rng.choice(LOSE_EVERY))
                for _ in range(rng.randint(2, AT_ONCE_MAX)):
                    next(faults)(rig, f"worker-{rng.randrange(rig.config.runtime.workers)}")
                    happened += 1
                    time.sleep(rng.uniform(0, PAUSE_S_MAX))
                prove(rig)
        show(rig, folder, say)
