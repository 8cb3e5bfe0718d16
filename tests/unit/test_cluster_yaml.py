"""cluster.yaml is a cluster file that Ray accepts, and says what Penstock's actors need."""

import copy
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from runtime.config import RuntimeSection

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"
CLUSTER = yaml.safe_load(FILE.read_text())
CONTROL_PARTS = ("supervisor", "relay", "poster")  # each asks for one, and waits for ever where none is left


def accept(cluster: dict) -> dict:
    """Fill in the provider's defaults and validate, as `ray up` does before it calls the provider."""
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def test_cluster_yaml_as_shipped_is_accepted():
    """Ray's own preparation and validation take the file and keep its node types."""
    assert set(accept(CLUSTER)["available_node_types"]) == {"head", "worker"}


def test_cluster_yaml_head_carries_control_alone():
    """No work lands on the head: it offers no CPU, only the control resource; workers offer the other two."""
    nodes = accept(CLUSTER)["available_node_types"]
    assert nodes["head"]["resources"].keys() == {"CPU", "control"} and nodes["head"]["resources"]["CPU"] == 0
    assert nodes["head"]["resources"]["control"] >= len(CONTROL_PARTS)
    assert nodes["head"]["max_workers"] == 0
    assert set(nodes["worker"]["resources"]) == {"CPU", "shard", "ingress"}
    assert all(count > 0 for count in nodes["worker"]["resources"].values())


def test_cluster_yaml_metrics_port_is_the_configured_one():
    """Every node exports its metrics where the configuration says that Prometheus finds them."""
    port = f"--metrics-export-port={RuntimeSection().metrics_port}"
    for commands in (CLUSTER["head_start_ray_commands"], CLUSTER["worker_start_ray_commands"]):
        assert sum(port in command for command in commands) == 1


def test_cluster_yaml_holds_no_secret():
    """Outside its comments the file names no password, token value or key: secrets come with the node's own file."""
    settings = yaml.safe_dump(CLUSTER).lower()
    assert not [word for word in ("password", "://", "private_key", "auth_token=") if word in settings]


def _misspell(cluster: dict) -> None:
    cluster["max_worker"] = cluster.pop("max_workers")


def _misspell_node_key(cluster: dict) -> None:
    worker = cluster["available_node_types"]["worker"]
    worker["resource"] = worker.pop("resources")


def _halve_resource(cluster: dict) -> None:
    cluster["available_node_types"]["worker"]["resources"]["shard"] = 0.5


def _rename_head(cluster: dict) -> None:
    cluster["head_node_type"] = "haed"


def _exceed_maximum(cluster: dict) -> None:
    cluster["available_node_types"]["worker"]["min_workers"] = cluster["max_workers"] + 1


@pytest.mark.parametrize("spoil", [_misspell, _misspell_node_key, _halve_resource, _rename_head, _exceed_maximum])
def test_cluster_yaml_with_a_slip_is_refused(spoil: Callable[[dict], None]):
    """The check is worth having: a misspelt key, a fraction, a wrong head or impossible numbers are refused."""
    cluster = copy.deepcopy(CLUSTER)
    spoil(cluster)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        accept(cluster)
