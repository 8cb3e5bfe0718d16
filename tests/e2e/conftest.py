"""One installation with everything real, Tryton included, for all end-to-end tests; and what was sent to it.

Tests leave it as they found it: running, drained, and able to take more.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from installed import Installed, short_folder, until
from penstock import Client

from adapters import settings
from adapters.feeds.redis_feed import undelivered

UNSETTLED = ("sealed", "in_flight", "unknown")
DRAIN_TIMEOUT_S = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is end to end."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where all data of the session lies. Tryton's template alone is kept in the user's cache, as in daily use."""
    with short_folder() as path:
        yield path


@pytest.fixture(scope="session")
def demo_on_free_ports() -> str:
    """The demonstration's configuration, with ports that nobody else has."""
    text = settings.DEMO_FILE.read_text()
    for old, new in {
        'data_dir = ".penstock/demo"': 'data_dir = "{data_dir}"\ndashboard_port = 0\nmetrics_port = 0',
        "[log]": "[gateway]\nport = 0\n\n[log]",
    }.items():
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.fixture(scope="session")
def installed(folder: Path, demo_on_free_ports: str) -> Iterator[Installed]:
    """A Penstock that is up, with Tryton behind it."""
    penstock = Installed(folder, "one", demo_on_free_ports)
    try:
        penstock.run("up")
        yield penstock
    finally:
        penstock.end()


@pytest.fixture
def client(installed: Installed) -> Iterator[Client]:
    """The public client, connected."""
    with Client(installed.record().gateway) as connected:
        yield connected


@pytest.fixture(scope="session")
def drained(installed: Installed) -> Callable[[], None]:
    """Waits until nothing is on its way: no feed message, no row, no posting set, no entry."""
    wiring = installed.wiring()
    (feed,) = wiring.config.feeds

    def left(client: Client) -> int:
        with installed.books() as books:
            messages = undelivered(wiring.log_url, feed.stream, feed.group)
            rows = sum(shard.waiting for shard in client.status().shards)
            sets = books.unclaimed_count(wiring.config.erp_entities())
            entries = books.entry_counts()
        return messages + rows + sets + sum(entries.get(state, 0) for state in UNSETTLED)

    def wait() -> None:
        with Client(installed.record().gateway) as client:
            until(lambda: not left(client), DRAIN_TIMEOUT_S, "everything is booked and posted")

    return wait
