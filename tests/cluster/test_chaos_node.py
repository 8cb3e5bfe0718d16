"""A node of a Ray cluster is lost under load: its workers go on elsewhere, and what was acknowledged is there once."""

import os

import pytest
from chaos_cluster import running_cluster
from chaos_proof import prove
from chaos_rig import running_rig
from chaos_table import show
from installed import short_folder

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("CHAOS_MINUTES"), reason="starts three Ray nodes; run it with: make chaos"),
    pytest.mark.timeout(900),
]

SEED = 11


def test_node_lost_under_load_loses_nothing_and_books_nothing_twice(say):
    """Every process of a node with a worker dies at once; the other node takes over, and all agrees."""
    with short_folder() as folder, running_cluster() as cluster:
        with running_rig(folder, SEED, cluster=cluster) as rig:
            rig.lose_node()
            prove(rig)
        show(rig, folder, say)
