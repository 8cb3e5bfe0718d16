"""The real parts that are measured: a log, a gateway process, a whole Penstock; each ended when its block ends.

Owns temporary folders and child processes, on the loopback interface and free ports only. Never measures.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from actors.cli.installation import Installation
from adapters import embedded
from adapters.books.migrations import upgrade
from adapters.log import redis_streams
from benchmarks import workload
from benchmarks.measure import ROOT
from benchmarks.prepared import SHARDS

FSYNC = "always"
WITHOUT_LIMIT = 2**40  # rows: where nobody commits, lag must not stop the producer


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for this measurement."""
    with tempfile.TemporaryDirectory(prefix="pstk-") as made:
        yield Path(made)


@contextmanager
def log() -> Iterator[str]:
    """A fresh log with fsync on every write; its URL."""
    with folder() as place:
        part = embedded.start_valkey(place, 0, FSYNC)
        try:
            redis_streams.create(part.url, SHARDS)
            yield part.url
        finally:
            embedded.stop(part)


@contextmanager
def books() -> Iterator[str]:
    """Fresh books in SQLite; their URL."""
    with folder() as place:
        url = f"sqlite:///{place / 'books.sqlite'}"
        upgrade(url)
        yield url


@contextmanager
def gateway() -> Iterator[tuple[str, str]]:
    """One gateway process over a log that nobody reads: its address and the log's URL."""
    with log() as url:
        command = [sys.executable, "-m", "benchmarks.serve", url]
        environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT, text=True)
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}", url
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def penstock(workers: int, gateways: int, shards: int = SHARDS, **sections: dict) -> Iterator[Installation]:
    """A whole Penstock on real Ray; `sections` are added to its configuration, which names no ERP by itself."""
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        config = workload.configuration(
            runtime={"data_dir": str(place), "shards": shards, "workers": workers, "dashboard_port": 0},
            log={"fsync": FSYNC},
            gateway={"port": 0, "count": gateways},
            **{"erp": {"kind": "none"}, **sections},
        )
        installation, ending = Installation(config), signal.getsignal(signal.SIGTERM)
        installation.up(lambda _ready: None)
        signal.signal(signal.SIGTERM, ending)  # Ray has set its own, which ends the process at once
        try:
            yield installation
        finally:
            installation.down()
