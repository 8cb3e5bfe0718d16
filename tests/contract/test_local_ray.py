"""The Ray head of this machine, when a port that was free is taken before Ray listens there."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import short_folder

from actors.cli import local_ray
from actors.cli.run_record import RunRecord
from runtime.config import Config
from runtime.errors import ConfigError

CONFIG = Config.model_validate(
    {
        "runtime": {"dashboard_port": 0, "metrics_port": 0},
        "entities": {"mercy": {"name": "Mercy", "opens_on": "2026-07-01"}},
    }
)
FREE_PORT = local_ray.free_port
DASHBOARD = 1  # which of the ports that a start asks for


class Ports:
    """Free ports, but for the dashboard's of the first `lost` starts: somebody else serves that."""

    def __init__(self, taken: int, lost: int) -> None:
        self._taken, self._lost = taken, lost
        self.asked = 0

    def free(self, wanted: int = 0) -> int:
        """Stands in for `local_ray.free_port`."""
        start, which = divmod(self.asked, 3)
        self.asked += 1
        return self._taken if start < self._lost and which == DASHBOARD else FREE_PORT(wanted)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else serves."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        yield somebody.getsockname()[1]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder; Ray's own lies in it, too."""
    with short_folder() as path:
        monkeypatch.setattr(local_ray.tempfile, "gettempdir", lambda: str(path))
        yield path


def test_head_that_loses_a_port_is_started_anew(folder, taken, monkeypatch):
    """Where somebody else listens on the dashboard's port by then, the next attempt takes others, and all ends."""
    ports, record = Ports(taken, lost=1), RunRecord(host="here")
    monkeypatch.setattr(local_ray, "free_port", ports.free)
    try:
        local_ray.start_ray(folder, CONFIG, record)
        assert local_ray.ray_is_up(record)
        assert record.dashboard_url != f"http://127.0.0.1:{taken}"
        assert ports.asked == 6
    finally:
        local_ray.end_ray(folder, record.ray)
    assert not local_ray.ray_is_up(record)


def test_head_that_never_comes_up_says_what_ray_said(folder, taken, monkeypatch):
    """After the last attempt the error holds the end of Ray's own output, and nothing of Ray runs."""
    ports, record = Ports(taken, lost=local_ray.STARTS_MAX), RunRecord(host="here")
    monkeypatch.setattr(local_ray, "free_port", ports.free)
    with pytest.raises(ConfigError, match=f"Failed to bind to 127.0.0.1:{taken}"):
        local_ray.start_ray(folder, CONFIG, record)
    assert not local_ray.ray_is_up(record)


def test_head_takes_a_dashboard_port_from_the_range_that_rays_workers_have_by_default(folder):
    """Any free port may be configured: Ray refuses one that it has set aside for its workers."""
    asked, record = next(port for port in range(18265, 19999) if FREE_PORT(port) == port), RunRecord(host="here")
    runtime = CONFIG.runtime.model_copy(update={"dashboard_port": asked})
    try:
        local_ray.start_ray(folder, CONFIG.model_copy(update={"runtime": runtime}), record)
        assert record.dashboard_url == f"http://127.0.0.1:{asked}"
    finally:
        local_ray.end_ray(folder, record.ray)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_interface_that_this_machine_has_not_is_known_before_a_gateway_tries_it(host):
    """A gateway would try again and again, and the command wait for two minutes."""
    assert local_ray.can_not_serve(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_interface_of_this_machine_is_taken(host, taken):
    """A port that somebody serves is not."""
    assert local_ray.can_not_serve(host, 0) == ""
    assert local_ray.can_not_serve("127.0.0.1", taken) == "Address already in use"
