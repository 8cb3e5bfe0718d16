"""Commands that are told to end before they are done: what they began is taken back."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from installed import PENSTOCK, Installed

from adapters import embedded


@contextmanager
def heard(number: signal.Signals) -> Iterator[None]:
    """What starts meanwhile hears the signal, though the tests themselves were started to ignore it, as by nohup."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_start_that_is_told_to_end_leaves_nothing_running(folder, demo_on_free_ports, number):
    """`penstock up` ends what it has started, as after Ctrl-C, and says so by its exit status."""
    penstock = Installed(folder, f"cut-{number}", demo_on_free_ports.replace('kind = "tryton"', 'kind = "none"'))
    try:
        command = [PENSTOCK, "up", "-c", str(penstock.config)]
        with heard(number):
            up = subprocess.Popen(command, env=penstock.marked.environment, stdout=subprocess.PIPE, text=True)
        with up:
            assert "log:" in up.stdout.readline()
            up.send_signal(number)
            up.stdout.read()  # to its end: whoever closes it ends the command otherwise
        assert up.returncode == 128 + number
        assert penstock.marked.names() == [] and not (penstock.data / "run.json").exists()
    finally:
        penstock.end()


def test_server_whose_starter_was_killed_is_in_nobodys_way(folder, demo_on_free_ports):
    """One that no record names is found by its folder: `down` ends it, and `up` starts all anew."""
    penstock = Installed(folder, "killed", demo_on_free_ports.replace('kind = "tryton"', 'kind = "none"'))
    try:
        for command in ("down", "up"):
            left = embedded.start_valkey(penstock.data / "log")
            penstock.run(command)
            assert not embedded.is_running(left)
    finally:
        penstock.end()
