"""A Ray of several nodes on this machine, of which any but the head can be lost at once.

Owns the nodes' processes: a head without workers, and nodes with room for all of them. Knows nothing of Penstock but
the names of the resources that place its parts.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from installed import Marked, short_folder, until

UP_WITHIN_S = 240.0  # the machine may be busy
# As in cluster.yaml: a lost node is known within seconds, not within a quarter of a minute.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Cluster:
    """A head, and the nodes that were added."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._marked = folder, Marked(folder, folder / "ray")
        self._nodes: list[subprocess.Popen] = []
        self._started = 0
        self.address = f"127.0.0.1:{_free_port()}"
        port = self.address.rpartition(":")[2]
        self._start("--head", "--port", port, "--temp-dir", str(folder / "ray"), resources={"control": 9, "ingress": 9})
        until(lambda: _listens(self.address), UP_WITHIN_S, "the head listens")

    def add_node(self) -> None:
        """A node with room for both workers."""
        self._start("--address", self.address, resources={"shard": 2})

    def _start(self, *words: str, resources: dict[str, int]) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block", "--disable-usage-stats"]
        command += ["--node-ip-address", "127.0.0.1", "--include-dashboard", "false"] if "--head" in words else []
        command += ["--num-cpus", "2", "--resources", json.dumps(resources), "--object-store-memory", str(100 * 2**20)]
        name = f"node-{self._started}.out"
        self._started += 1
        with (self._folder / name).open("ab") as out:
            node = subprocess.Popen(
                command,
                env=self._marked.environment | QUICK | {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._nodes.append(node)
        until(lambda: "Ray runtime started" in (self._folder / name).read_text(), UP_WITHIN_S, f"{name} is up")

    def node_of(self, pid: int) -> subprocess.Popen:
        """The node that this process belongs to."""
        parents = {parent.pid for parent in psutil.Process(pid).parents()}
        return next(node for node in self._nodes if node.pid in parents)

    def lose(self, node: subprocess.Popen) -> None:
        """SIGKILL of everything that runs on a node, at once, as when its power goes."""
        root = psutil.Process(node.pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)
        node.wait(timeout=20)
        self._nodes.remove(node)

    def end(self) -> None:
        """End every node."""
        self._marked.end()
        for node in self._nodes:
            node.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
        return True
    return False


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A head and two nodes."""
    with short_folder() as folder:
        (folder / "ray").mkdir()
        cluster = Cluster(folder)
        try:
            cluster.add_node()
            cluster.add_node()
            yield cluster
        finally:
            cluster.end()
