"""What all tests share: where the sample data lies that the repository itself does not hold, and a way to tell figures.

Tests run in several processes at once. What starts a whole installation runs one after the other in one of them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

REPOSITORY = Path(__file__).resolve().parent.parent
INSTALLING = ("tests/cluster/", "tests/e2e/")
SAID = pytest.StashKey[list[str]]()

# How long an example takes says something about the machine, not about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Have a place for what tests tell."""
    config.stash[SAID] = []


class Queues(LoadScopeScheduling):
    """Which tests run one after the other in one process: those of a file, and all that start installations, which
    would take each other's cores."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "installations" if file.startswith(INSTALLING) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Queues:
    """Hand out tests by queues."""
    return Queues(config, log)


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Tell people something: it stands at the end of the run, whichever process a test ran in."""
    return pytestconfig.stash[SAID].append


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was told in a process of its own to the one that people see."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["said"] = session.config.stash[SAID]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what was told in another process."""
    node.config.stash[SAID] += getattr(node, "workeroutput", {}).get("said", [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show what was told."""
    for said in config.stash[SAID]:
        terminalreporter.write_line(said)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Find a file of the shared samples by its path under them, or skip the test that asks."""
    root = Path(os.environ.get("PENSTOCK_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"sample {name} is not there; set PENSTOCK_SHARED_DATA to the folder that holds it")
        return path

    return find
