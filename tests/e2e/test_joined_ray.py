"""Joining a Ray cluster that somebody else runs, and leaving it as it was."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme
import yaml
from installed import Installed, Marked, until
from penstock import Client

from adapters.tls import client_credentials

RAY_TIMEOUT_S = 60.0
CLUSTER = yaml.safe_load((Path(__file__).resolve().parents[2] / "cluster.yaml").read_text())
RESOURCES = {
    name: count
    for node in CLUSTER["available_node_types"].values()
    for name, count in node["resources"].items()
    if name != "CPU"
}


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    """Whether something takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@pytest.fixture(scope="module")
def ray(folder: Path) -> Iterator[tuple[Marked, int]]:
    """A Ray as cluster.yaml describes it, on one node, of which the head's part has no CPU: its processes, its port."""
    marked, port = Marked(folder, folder / "theirs"), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", str(folder / "theirs")]
    command += ["--include-dashboard", "false", "--metrics-export-port", str(free_port())]
    command += ["--num-cpus", "0", "--resources", json.dumps(RESOURCES), "--object-store-memory", str(100 * 2**20)]
    with (folder / "theirs.out").open("ab") as out:
        head = subprocess.Popen(
            command,
            env=marked.environment | {"RAY_AUTH_MODE": "disabled"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        until(lambda: listens(port) and "ray start" in (folder / "theirs.out").read_text(), RAY_TIMEOUT_S, "Ray is up")
        yield marked, port
    finally:
        marked.end()
        head.wait()


@pytest.fixture(scope="module")
def without_erp(demo_on_free_ports: str) -> str:
    """The configuration without Tryton."""
    assert 'kind = "tryton"' in demo_on_free_ports
    return demo_on_free_ports.replace('kind = "tryton"', 'kind = "none"')


@pytest.fixture(scope="module")
def encrypted(folder: Path, without_erp: str) -> str:
    """The same with a gateway that lets in only who shows a certificate."""
    authority, files = trustme.CA(), {"client_ca_file": folder / "ca.pem"}
    authority.cert_pem.write_to_path(str(files["client_ca_file"]))
    for who in ("", "client_"):
        signed = authority.issue_cert("127.0.0.1")
        files |= {f"{who}cert_file": folder / f"{who}cert.pem", f"{who}key_file": folder / f"{who}key.pem"}
        signed.cert_chain_pems[0].write_to_path(str(files[f"{who}cert_file"]))
        signed.private_key_pem.write_to_path(str(files[f"{who}key_file"]))
    tls = ", ".join(f'{setting} = "{path}"' for setting, path in files.items())
    assert "[gateway]" in without_erp
    return without_erp.replace("[gateway]", f"[gateway]\ntls = {{ {tls} }}", 1)


def parts_in(marked: Marked) -> list[psutil.Process]:
    """Processes of that Ray which run one of Penstock's parts."""
    names = [(process, " ".join(process.cmdline())) for process in marked.running()]
    return [process for process, name in names if "Shell" in name]


def test_joined_ray_runs_the_parts_and_outlives_them(folder, ray, encrypted, without_erp):
    """`penstock up --address` runs its parts on that Ray, where no second Penstock takes them for its own; `down` ends
    them and nothing that it did not start. Producers and commands come in with certificates."""
    theirs, port = ray
    penstock = Installed(folder, "joined", encrypted)
    try:
        where = penstock.json("up", "--address", f"127.0.0.1:{port}")
        assert where["dashboard"] == "" and len(parts_in(theirs)) == 6
        row = {"event_id": "e1", "source": "ehr", "kind": "charge_posted", "entity": "lakeside"}
        row |= {"facility": "lakeside-main", "account": "token-1", "currency": "USD", "amount_minor": 100}
        credentials = client_credentials(penstock.wiring().config.gateway.tls)
        with Client(where["gateway"], credentials=credentials) as client:
            assert client.submit([row | {"occurred_at": 1_790_000_000_000}]).durability == "fsync_always"
        assert penstock.json("status")["healthy"] is True
        with penstock.books() as books:
            until(lambda: books.balances().height == 2, RAY_TIMEOUT_S, "the event is booked")
        other = Installed(folder, "second", without_erp)
        other.run("up", "--address", f"127.0.0.1:{port}", status=2)
        assert not (other.data / "run.json").exists() and other.marked.names() == []
        assert penstock.json("status")["healthy"] is True
    finally:
        penstock.end()
    assert listens(port)
    until(lambda: not parts_in(theirs), 10, "the parts have ended")
    assert len(theirs.running()) > 3


def test_up_with_nobody_at_the_address_ends_with_a_sentence(folder, without_erp):
    """An address where no Ray answers ends the command with 2, and nothing is left of the start."""
    penstock = Installed(folder, "alone", without_erp)
    try:
        penstock.run("up", "--address", f"127.0.0.1:{free_port()}", status=2)
        assert not (penstock.data / "run.json").exists()
    finally:
        penstock.end()
