"""Everything real, under load, killed part by part: what was acknowledged is booked and posted once, and all agrees."""

import os
from collections.abc import Iterator

import pytest
from chaos_proof import prove
from chaos_rig import Rig, running_rig
from chaos_table import show
from installed import short_folder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SEED = 7
LOST_EVERY = 4  # answers of the ERP


@pytest.fixture(scope="module")
def rig(pytestconfig: pytest.Config) -> Iterator[Rig]:
    """One installation for all of these; its recovery times are shown at the end."""
    with short_folder() as folder:
        with running_rig(folder, SEED) as running:
            yield running
        show(running, folder, pytestconfig)


def test_parts_killed_under_load_lose_nothing_and_book_nothing_twice(rig):
    """Worker, gateway, poster, relay and supervisor die by SIGKILL; all that was acknowledged is there once."""
    rig.kill_worker("worker-0")
    rig.kill_gateway()
    rig.kill_poster()
    rig.kill_other("relay")
    rig.kill_other("supervisor")
    prove(rig)


def test_worker_that_wakes_up_after_its_successor_is_fenced_and_ends_itself(rig):
    """One that hangs is replaced; one that nobody can kill finds its commit refused when it wakes up, and leaves."""
    rig.hang_worker("worker-1")
    assert rig.wake_overtaken_worker() == 1
    prove(rig)


@pytest.mark.skipif(not os.environ.get("CHAOS_MINUTES"), reason="takes minutes; run it with: make chaos")
def test_servers_killed_under_load_lose_nothing_and_post_nothing_twice(rig):
    """Valkey, PostgreSQL and Tryton die by SIGKILL while the ERP's answers get lost; every key is in the ERP once."""
    rig.proxy.lose_every(LOST_EVERY, ("account.move.create", "account.move.post"))
    rig.kill_valkey()
    rig.kill_postgres()
    rig.kill_tryton()
    rig.lose_an_answer()
    prove(rig)
