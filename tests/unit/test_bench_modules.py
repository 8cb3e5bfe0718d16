"""The benchmarks fit the code that they measure: each can be imported, and Penstock's peer does the task exactly."""

import importlib
from pathlib import Path

import pytest

from benchmarks.peers import penstock_engine, rows, task, truth
from benchmarks.run import BENCHES, BY_ITSELF

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
OURS = ("actors", "adapters", "benchmarks", "penstock", "runtime")
# Locust's own process, and peers with an environment of their own.
ELSEWHERE = {"locustfile", "bytewax_flow", "faststream_redis", "flink_sql", "pathway_flow"}
MODULES = sorted(
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if path.stem not in ELSEWHERE
)
EVENTS = 20_000


@pytest.mark.parametrize("module", MODULES)
def test_every_module_finds_what_it_imports(module):
    """What a benchmark takes from the rest of the project is there."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in OURS:
            raise
        pytest.skip(f"{error.name} is not installed (the extra `bench`)")


def test_every_measurement_has_a_module():
    """Whatever the command line offers can be run."""
    assert {f"benchmarks.{module}" for module, _ in BENCHES.values()} <= set(MODULES)
    assert set(BY_ITSELF) <= set(BENCHES)


def test_penstock_does_the_peers_task_exactly(tmp_path):
    """Repeats, conflicts, what is held and every sum are those of the naive truth."""
    events = rows.events(EVENTS, seed=5)
    rows.write(events, tmp_path, "frames")
    outcome = penstock_engine.run(tmp_path / "full")
    found = {
        "repeats": outcome.repeats,
        "conflicts": sorted(outcome.conflicts),
        "held": sorted(outcome.held),
        "lines": task.by_account(outcome.sums),
    }
    expected = truth.outcome(events)
    assert truth.faults(found, expected) == ""
    assert expected["repeats"] and expected["held"]


def test_an_outcome_that_is_wrong_is_told_so():
    """A peer that loses a conflict, counts a repeat twice or is a cent off is shown as wrong."""
    right = {"repeats": 1, "conflicts": ["a/1"], "held": [], "lines": {"1200": 5, "4000": -5}}
    wrong = {"repeats": 2, "conflicts": [], "held": [], "lines": {"1200": 6, "4000": -5}}
    assert truth.faults(right, right) == ""
    assert truth.faults(wrong, right) == (
        "2 repeats instead of 1; 0 conflicts instead of 1, 1 of them missing; 1 of 2 sums differ"
    )
