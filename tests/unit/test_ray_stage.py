"""Where Ray places a part: what its actor holds of the node that it runs on."""

from actors.ray_stage import held


def test_part_on_a_ray_without_our_resources_holds_a_little_cpu():
    """A local Ray, or somebody's own, knows none of them."""
    assert held("shard", {"CPU", "memory"}) == {"num_cpus": 0.01}


def test_part_in_a_cluster_of_ours_holds_its_resource_and_no_cpu():
    """A head has no CPU to give: who asked for some would wait there for ever."""
    assert held("control", {"control", "memory"}) == {"num_cpus": 0, "resources": {"control": 1}}


def test_part_whose_nodes_are_on_their_way_waits_for_them():
    """A cluster begins with its head alone; what is placed then stays so, and asks for the nodes that it needs."""
    assert held("shard", {"control", "memory"}) == {"num_cpus": 0, "resources": {"shard": 1}}
