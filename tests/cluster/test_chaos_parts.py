"""Everything real, under load, killed part by part: what was acknowledged is booked and posted once, and all agrees."""

from collections.abc import Callable, Iterator

import pytest
from chaos_proof import prove
from chaos_rig import LOSE_EVERY, Rig, running_rig
from chaos_table import show
from installed import short_folder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SEED = 7


@pytest.fixture(scope="module")
def rig(say: Callable[[str], None]) -> Iterator[Rig]:
    """One installation for all of these; its recovery times are said at the end."""
    with short_folder() as folder:
        with running_rig(folder, SEED, frame_rows=100) as running:
            yield running
        show(running, folder, say)


def test_worker_that_wakes_up_after_its_successor_is_fenced_and_ends_itself(rig):
    """One that hangs is replaced; one that nobody can kill finds its commit refused when it wakes up, and leaves."""
    rig.hang_worker("worker-1")
    rig.wake_overtaken_worker()


def test_everything_killed_under_load_loses_nothing_and_books_and_posts_nothing_twice(rig):
    """Parts and servers die by SIGKILL and answers of the ERP get lost; all that was acknowledged is there once."""
    rig.kill_worker("worker-0")
    rig.kill_gateway()
    rig.lose_answers(LOSE_EVERY)
    rig.kill_poster()
    rig.kill_other("relay")
    rig.kill_valkey()
    rig.kill_other("supervisor")
    rig.kill_postgres()
    rig.kill_tryton()
    rig.lose_an_answer()
    prove(rig)
