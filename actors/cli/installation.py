"""One running Penstock: its embedded parts, its Ray, its actors, and the record by which later commands find them.

Owns starting and stopping. Ends only processes that it started, by the record; a Ray cluster that it joined is left as
it was, without Penstock's actors.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil
import xxhash

from actors.cli.configured import bring_mapping
from actors.wiring import SUPERVISOR, Wiring, archive_root, wiring_from
from adapters import embedded, settings
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.erp.http.gateway import settings_of
from adapters.erp.tryton import TrytonSettings
from adapters.erp.tryton_setup import CompanySpec
from adapters.log import redis_streams
from runtime.config import Config
from runtime.errors import ConfigError, PenstockError
from runtime.ledger.rules import parse_rulebook

READY_TIMEOUT_S = 120.0
RAY_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # actors share the machine with the log and the ERP: not behind them
    "RAY_DEDUP_LOGS": "0",
    "RAY_BACKEND_LOG_LEVEL": "warning",
    "POLARS_MAX_THREADS": "1",  # a worker a core: more threads would only take each other's
    # Polars gives freed memory back after a second, and the kernel then clears it anew: a quarter of a worker's time.
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:20000,muzzy_decay_ms:20000",
}


class NotRunning(PenstockError):
    """No Penstock runs from this data folder."""


class RunRecord(msgspec.Struct, kw_only=True):
    """What was started, written as it starts, so that `down` can end a start that was cut short."""

    parts: list[embedded.EmbeddedPart] = []
    ray: embedded.EmbeddedPart | None = None
    ray_address: str = ""
    ray_token_file: str = ""
    dashboard_url: str = ""
    metrics_url: str = ""
    gateway: str = ""
    erp_url: str = ""
    wiring: dict | None = None


class Installation:
    """A data folder and what runs from it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Path(config.runtime.data_dir).absolute()
        self._record_path = self.folder / "run.json"

    # ── the record ──

    def record(self) -> RunRecord:
        """What runs; NotRunning when nothing does."""
        if not self._record_path.exists():
            raise NotRunning(f"nothing runs from {self.config.runtime.data_dir}; start it with: penstock up")
        return msgspec.json.decode(self._record_path.read_bytes(), type=RunRecord)

    def _write(self, record: RunRecord) -> None:
        fresh = self._record_path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(record))
        fresh.chmod(0o600)
        fresh.replace(self._record_path)

    def is_up(self) -> bool:
        """Whether what the record names still runs."""
        try:
            record = self.record()
        except NotRunning:
            return False
        ours = [*record.parts, *([record.ray] if record.ray else [])]
        return record.wiring is not None and all(embedded.is_running(part) for part in ours)

    def wiring(self) -> Wiring:
        """Where everything is."""
        record = self.record()
        if record.wiring is None:
            raise NotRunning("the last start was cut short; run: penstock down")
        return wiring_from(record.wiring)

    # ── up ──

    def up(self, say: Callable[[str], None]) -> RunRecord:
        """Start everything and wait until it answers. `say` is told each thing that is ready."""
        if self._record_path.exists():
            if self.is_up():
                raise ConfigError(f"already running from {self.config.runtime.data_dir}; stop it with: penstock down")
            self.down()
        self.folder.mkdir(parents=True, exist_ok=True)
        record = RunRecord()
        try:
            self._start_parts(record, say)
            self._start_actors(record, say)
        except BaseException:
            self._write(record)
            self.down()
            raise
        return record

    def _start_parts(self, record: RunRecord, say: Callable[[str], None]) -> None:
        """Log, books, ERP and Ray side by side: each takes seconds and none needs another."""
        starts = [self._start_log, self._start_books, self._start_erp, self._start_ray]
        with ThreadPoolExecutor(len(starts)) as pool:
            running = [pool.submit(start, record) for start in starts]
            for one in running:
                say(one.result())
                self._write(record)

    def _start_log(self, record: RunRecord) -> str:
        section = self.config.log
        url = section.url
        if not url:
            part = embedded.start_valkey(self.folder / "log", 0, section.fsync)
            record.parts.append(part)
            url = part.url
        redis_streams.create(url, self.config.runtime.shards)
        self._log_url = url
        return f"log: {'Valkey' if not section.url else 'Redis'}, fsync {section.fsync}"

    def _start_books(self, record: RunRecord) -> str:
        self._books_url = books_url(self.config)
        upgrade(self._books_url)
        return f"books: {self._books_url.split(':', 1)[0]}"

    def _start_erp(self, record: RunRecord) -> str:
        section = self.config.erp
        record.erp_url, self._password_file = section.url, section.password_file
        if section.kind == "none":
            return "ERP: none"
        if section.url:
            return f"ERP: {section.kind}"
        folder = self.folder / "tryton"
        external_ref = settings_of(TrytonSettings, section).external_ref
        part = embedded.start_tryton(folder, companies(self.config), cache_folder(), external_ref)
        record.parts.append(part)
        record.erp_url, self._password_file = part.url, str(embedded.tryton_password_file(folder))
        return "ERP: Tryton"

    def _start_ray(self, record: RunRecord) -> str:
        address = self.config.runtime.ray_address
        if address:
            if address != "auto" and not _listens(address):
                raise ConfigError(f"runtime.ray_address: no Ray answers at {address}; name the host:port of its head")
            record.ray_address = address
            return f"Ray: joined {address}"
        start_ray(self.folder, self.config, record)
        return "Ray: local, with its dashboard"

    def _start_actors(self, record: RunRecord, say: Callable[[str], None]) -> None:
        if proposed := self._bring_mapping():
            say(f"mapping: the configured one has changed; approve it: penstock mapping approve {proposed} --by NAME")
        port = self._gateway_port()
        wiring = Wiring(
            config=self.config,
            rulebook_text=settings.load_rulebook_text(self.config),
            log_url=self._log_url,
            books_url=self._books_url,
            archive_root=archive_root(self.config),
            erp_url=record.erp_url,
            erp_password_file=self._password_file,
            gateway_port=port,
            logs_folder=str(self.folder / "logs"),
        )
        wiring.check()
        record.gateway = f"{self.config.gateway.advertise or self.config.gateway.host}:{port}"
        record.wiring = wiring.plain()
        self._write(record)
        with self.stage(record) as stage:
            stage.start(SUPERVISOR)
            _wait_until_running(stage, stage.names)
            say(f"actors: {len(stage.names)} running, gRPC at {record.gateway}")

    def _gateway_port(self) -> int:
        """The port to serve. Gateways of one Penstock share it, so nothing else would notice a second one there."""
        section = self.config.gateway
        if section.port and _listens(f"{section.host}:{section.port}"):
            raise ConfigError(f"gateway.port: something serves {section.host}:{section.port} already; choose another")
        return section.port or free_port()

    def _bring_mapping(self) -> int:
        books = SqlBooks(self._books_url)
        try:
            return bring_mapping(books, self.config)
        finally:
            books.close()

    @contextlib.contextmanager
    def stage(self, record: RunRecord | None = None) -> Iterator:
        """A connection to Ray, closed at the end."""
        record = record or self.record()
        os.environ.update(_ray_environment(record))
        # Ray reads its environment when it is imported, and some only then.
        import ray

        from actors.bootstrap import part_specs
        from actors.ray_stage import NAMESPACE, RayStage

        ray.init(
            address=record.ray_address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="error",
            configure_logging=False,
        )
        try:
            yield RayStage(part_specs(wiring_from(record.wiring)) if record.wiring else {})
        finally:
            ray.shutdown()

    # ── down ──

    def down(self) -> None:
        """Let the actors finish, then end what was started here, the log last."""
        record = self.record()
        if record.wiring and _ray_is_up(record):
            with contextlib.suppress(ConnectionError), self.stage(record) as stage:
                stage.stop([SUPERVISOR])
                stage.stop([name for name in stage.names if name != SUPERVISOR])
        if record.ray:
            _end_tree(record.ray)
            shutil.rmtree(ray_home(self.folder), ignore_errors=True)
        for part in reversed(record.parts):
            embedded.stop(part)
        self._record_path.unlink()


# ── pieces ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def books_url(config: Config) -> str:
    """Where the books are: as configured, or SQLite in the data folder."""
    return config.books.url or f"sqlite:///{Path(config.runtime.data_dir).absolute() / 'books.sqlite'}"


def cache_folder() -> Path:
    """Where what is costly to make is kept between runs; it may be deleted at any time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a user without a home of its own
        return Path(tempfile.gettempdir()) / "penstock-cache"
    return folder


def companies(config: Config) -> list[CompanySpec]:
    """What the embedded Tryton must have: a company an entity, with every account that its mapping names.

    Not every row names one: policies and partners are rows, too.
    """
    roles = parse_rulebook(settings.load_rulebook_text(config)).roles()
    this_year = datetime.fromtimestamp(WallClock().now_ms() / 1000, UTC).year
    specs = []
    for name, entity in config.entities.items():
        named = [row for row in config.mapping if row.entity in ("*", name) and row.role in roles]
        accounts = sorted({(row.role, row.account) for row in named})
        specs.append(
            CompanySpec(
                entity=name,
                name=entity.name,
                currency=entity.currency,
                opens_on=entity.opens_on,
                years=tuple(range(entity.opens_on.year, max(this_year, entity.opens_on.year) + 2)),
                accounts=tuple(accounts),
            )
        )
    return specs


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


def ray_home(folder: Path) -> Path:
    """Ray's own folder. Its sockets lie below it, and their paths must be short: hence the temporary folder."""
    return Path(tempfile.gettempdir()) / f"penstock-{xxhash.xxh32_hexdigest(str(folder).encode())}"


def start_ray(folder: Path, config: Config, record: RunRecord) -> None:
    """A Ray head on the loopback interface, as a child that outlives this command."""
    port, dashboard = free_port(), free_port(config.runtime.dashboard_port)
    metrics = free_port(config.runtime.metrics_port)
    home = ray_home(folder)
    token = folder / "ray.token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(os.urandom(32).hex())
    record.ray_token_file, record.ray_address = str(token), f"127.0.0.1:{port}"
    record.dashboard_url = f"http://127.0.0.1:{dashboard}"
    record.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", str(home)]
    command += ["--include-dashboard", "true", "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    command += ["--metrics-export-port", str(metrics), "--object-store-memory", str(100 * 2**20)]
    with (folder / "ray.out").open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **RAY_ENVIRONMENT, **_ray_environment(record)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    record.ray = embedded.EmbeddedPart(
        "ray", process.pid, psutil.Process(process.pid).create_time(), record.ray_address
    )
    _wait_for_ray(process, dashboard)


def _wait_for_ray(process: subprocess.Popen, dashboard_port: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ConfigError("Ray did not start; see ray.out in the data folder")
        if _listens(f"127.0.0.1:{dashboard_port}"):
            return
        time.sleep(0.1)
    raise ConfigError(f"Ray did not answer within {READY_TIMEOUT_S:g} s; see ray.out in the data folder")


def _ray_is_up(record: RunRecord) -> bool:
    """Whether there is a Ray to talk to: looking for one that is gone would take it minutes."""
    return embedded.is_running(record.ray) if record.ray else _listens(record.ray_address)


def _listens(address: str) -> bool:
    """Whether something takes connections at this host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except (OSError, ValueError):
        return False
    return True


def _ray_environment(record: RunRecord) -> dict[str, str]:
    """What Ray's programs and its drivers must agree on."""
    common = {"RAY_USAGE_STATS_ENABLED": "0"}
    if not record.ray_token_file:
        return common
    # Ray listens on every interface, and whoever reaches its ports can run code: hence a token.
    return common | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": record.ray_token_file}


def _wait_until_running(stage, names: list[str]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    missing = names
    while time.monotonic() < deadline:
        health = stage.ping(names, 5.0)
        missing = [name for name in names if getattr(health.get(name), "state", "") != "running"]
        if not missing:
            return
        time.sleep(0.2)
    raise PenstockError(f"not running after {READY_TIMEOUT_S:g} s: {', '.join(missing)}; see the logs folder")


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
