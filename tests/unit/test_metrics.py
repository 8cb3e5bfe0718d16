"""The metrics table and the shell that records into it."""

import pytest

from actors.metrics import METRICS, RayMetrics


class Recorded:
    """Stands for one of Ray's metrics and keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, dict[str, str]]] = []

    def record(self, value: float, tags: dict[str, str]) -> None:
        self.calls.append((value, tags))

    inc = set = observe = record


@pytest.fixture
def metrics() -> tuple[RayMetrics, dict[str, Recorded]]:
    """Metrics whose recordings the test can read."""
    shell, made = RayMetrics(), {name: Recorded() for name in METRICS}
    shell._made = made
    return shell, made


def test_metrics_declared_names_reach_ray_with_text_tags(metrics):
    """Each verb records its value with its tags as texts, as Ray demands."""
    shell, made = metrics
    shell.count("erp_calls", 2, outcome="posted")
    shell.gauge("shard_lag_rows", 7, shard=3)
    shell.observe("step_seconds", 0.25)
    assert made["erp_calls"].calls == [(2, {"outcome": "posted"})]
    assert made["shard_lag_rows"].calls == [(7, {"shard": "3"})]
    assert made["step_seconds"].calls == [(0.25, {})]


def test_metrics_count_of_zero_adds_nothing(metrics):
    """Counting zero is allowed and records nothing, though Ray's counter refuses a zero."""
    shell, made = metrics
    shell.count("events_in", 0)
    assert made["events_in"].calls == []


@pytest.mark.parametrize(
    ("verb", "name", "tags"),
    [
        ("count", "events_inn", {}),
        ("count", "shard_lag_rows", {"shard": 1}),
        ("gauge", "events_in", {}),
        ("observe", "open_items", {"shard": 1}),
        ("gauge", "open_items", {}),
        ("count", "events_in", {"account": "4711"}),
    ],
)
def test_metrics_undeclared_name_type_or_tag_is_an_error(metrics, verb, name, tags):
    """A misspelt name, the wrong verb, a missing or an extra tag never records silently."""
    with pytest.raises(ValueError, match=name):
        getattr(metrics[0], verb)(name, 1, **tags)


def test_metrics_declared_histograms_alone_have_rising_buckets():
    """The table is well formed: buckets for histograms only, in rising order."""
    for name, declared in METRICS.items():
        assert bool(declared.buckets) == (declared.type == "histogram"), name
        assert list(declared.buckets) == sorted(set(declared.buckets)), name
