"""A real Valkey for contract tests: loopback, a free port, fsync always, its own folder, ended by its process id."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import redis

from adapters.embedded import EmbeddedPart, start_valkey, stop


class Valkey:
    """One server over one data folder; can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part: EmbeddedPart = start_valkey(folder)
        self.url = self._part.url
        self.port = int(self.url.split(":")[2].partition("/")[0])

    def kill(self) -> None:
        """End the server with SIGKILL."""
        os.kill(self._part.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(self._part.pid)], timeout=10)

    def start_again(self) -> None:
        """Start on what the killed one left."""
        self._part = start_valkey(self._folder, self.port)

    def client(self) -> redis.Redis:
        """A client for looking behind the port."""
        return redis.Redis.from_url(self.url, protocol=2)

    def full(self) -> None:
        """Leave the server no memory to store anything more."""
        with self.client() as client:
            client.config_set("maxmemory", "1mb")

    def roomy(self) -> None:
        """Take the memory limit away."""
        with self.client() as client:
            client.config_set("maxmemory", "0")

    def end(self) -> None:
        """Stop the server, if it runs."""
        stop(self._part)


@contextmanager
def running_valkey() -> Iterator[Valkey]:
    """A started server; stopped, and its folder removed, whatever happens inside."""
    folder = Path(tempfile.mkdtemp(prefix="vk"))
    try:
        server = Valkey(folder)
        try:
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
