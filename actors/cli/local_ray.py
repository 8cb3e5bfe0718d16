"""A Ray head on this machine: its start, what it and its drivers must agree on, its end.

Owns its folder and its ports. Never touches a Ray that somebody else runs.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import xxhash

from actors.cli.run_record import RunRecord
from adapters import embedded, settings
from runtime.config import Config
from runtime.errors import ConfigError, PenstockError

READY_TIMEOUT_S = 120.0
STARTS_MAX = 3
SAID_LINES = 20  # of ray.out, shown when it does not start
RAY_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # actors share the machine with the log and the ERP: not behind them
    "RAY_DEDUP_LOGS": "0",
    "RAY_BACKEND_LOG_LEVEL": "warning",
    "POLARS_MAX_THREADS": "1",  # a worker a core: more threads would only take each other's
    # Polars gives freed memory back after a second, and the kernel then clears it anew: a quarter of a worker's time.
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:20000,muzzy_decay_ms:20000",
}


def ray_home(folder: Path) -> Path:
    """Ray's own folder. Its sockets lie below it, and their paths must be short: hence the temporary folder."""
    return Path(tempfile.gettempdir()) / f"penstock-{xxhash.xxh32_hexdigest(str(folder).encode())}"


def start_ray(folder: Path, config: Config, record: RunRecord) -> None:
    """A Ray head on the loopback interface, as a child that outlives this command.

    Nobody can hold a free port for Ray until it listens there: a head that lost one, or a part of it, is started anew.
    Raises ConfigError with what Ray said last.
    """
    for _ in range(STARTS_MAX):
        process, dashboard = _start_head(folder, config, record)
        if _comes_up(process, dashboard):
            return
        end_ray(folder, record.ray)
    raise ConfigError(f"Ray did not start in {STARTS_MAX} attempts; ray.out in the data folder ends:\n{_said(folder)}")


def _start_head(folder: Path, config: Config, record: RunRecord) -> tuple[subprocess.Popen, int]:
    """The head's process, and the port of its dashboard."""
    port, dashboard = free_port(), free_port(config.runtime.dashboard_port)
    metrics = free_port(config.runtime.metrics_port)
    home = ray_home(folder)
    token = folder / "ray.token"
    if not token.exists():
        settings.create_key(token)
    record.ray_token_file, record.ray_address = str(token), f"127.0.0.1:{port}"
    record.dashboard_url = f"http://127.0.0.1:{dashboard}"
    record.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", str(home)]
    command += ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    # Ray's own range for workers, 10002 to 19999, would keep configured ports out of it.
    command += ["--min-worker-port", "0", "--max-worker-port", "0"]
    command += ["--metrics-export-port", str(metrics), "--object-store-memory", str(100 * 2**20)]
    with (folder / "ray.out").open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **RAY_ENVIRONMENT, **ray_environment(record)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    record.ray = embedded.EmbeddedPart(
        "ray", process.pid, psutil.Process(process.pid).create_time(), record.ray_address
    )
    return process, dashboard


def _comes_up(process: subprocess.Popen, dashboard_port: int) -> bool:
    """Wait until the head listens; whether it did before it ended."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if _serves(process, dashboard_port):
            return True
        time.sleep(0.1)
    raise ConfigError(f"Ray did not answer within {READY_TIMEOUT_S:g} s; see ray.out in the data folder")


def _serves(process: subprocess.Popen, port: int) -> bool:
    """Whether a child of that process listens on the port, and not somebody who had it already."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            sockets = child.net_connections("tcp")
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets):
                return True
    return False


def _said(folder: Path) -> str:
    """The last that Ray said."""
    said = (folder / "ray.out").read_text(errors="replace").splitlines()
    return "\n".join(said[-SAID_LINES:])


def end_ray(folder: Path, part: embedded.EmbeddedPart) -> None:
    """End the head and all that it started, and forget its folder."""
    _end_tree(part)
    shutil.rmtree(ray_home(folder), ignore_errors=True)


def ray_is_up(record: RunRecord) -> bool:
    """Whether there is a Ray to talk to: looking for one that is gone would take it minutes."""
    if record.ray:
        return embedded.is_running(record.ray)
    return record.ray_address == "auto" or listens(record.ray_address)


def ray_environment(record: RunRecord) -> dict[str, str]:
    """What Ray's programs and its drivers must agree on."""
    common = {"RAY_USAGE_STATS_ENABLED": "0"}
    if not record.ray_token_file:
        return common
    # Ray listens on every interface, and whoever reaches its ports can run code: hence a token.
    return common | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": record.ray_token_file}


def _end_tree(part: embedded.EmbeddedPart) -> None:
    """End a process of ours and all that it started. At once: when Ray ends, its actors have, and it keeps nothing."""
    if not embedded.is_running(part):
        return
    root = psutil.Process(part.pid)
    tree = [root, *root.children(recursive=True)]
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(tree, timeout=5)


def listens(address: str) -> bool:
    """Whether something takes connections at this host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except (OSError, ValueError):
        return False
    return True


def can_not_serve(host: str, port: int) -> str:
    """Why nothing could serve there on this machine; empty where something could."""
    try:
        for family, kind, *_, place in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def free_port(wanted: int = 0) -> int:
    """A free loopback port: the wanted one if it is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ConfigError("no free port on the loopback interface")


def wait_until_running(stage: Any, names: list[str]) -> None:
    """Return when all of these actors run; PenstockError names those that do not."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    missing = names
    while time.monotonic() < deadline:
        health = stage.ping(names, 5.0)
        missing = [name for name in names if getattr(health.get(name), "state", "") != "running"]
        if not missing:
            return
        time.sleep(0.2)
    raise PenstockError(f"not running after {READY_TIMEOUT_S:g} s: {', '.join(missing)}; see the logs folder")
