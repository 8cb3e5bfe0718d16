"""One running Penstock: its embedded parts, its Ray, its actors, and the record by which later commands find them.

Owns starting and stopping. Ends only processes that it started, by the record; a Ray cluster that it joined is left as
it was, without Penstock's actors.
"""

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import msgspec
from penstock import Client

from actors.cli import belonging
from actors.cli.companies import companies
from actors.cli.configured import bring_mapping, check_mapping
from actors.cli.local_ray import (
    can_not_serve,
    end_ray,
    free_port,
    listens,
    ray_environment,
    ray_is_up,
    start_ray,
    wait_until_running,
)
from actors.cli.run_record import RunRecord
from actors.wiring import SUPERVISOR, Wiring, archive_root, check_erp, wiring_from
from adapters import embedded, settings
from adapters.archive.segments import fsync
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.erp.http.gateway import settings_of
from adapters.erp.tryton import TrytonSettings
from adapters.log import redis_streams
from adapters.tls import check_tls, client_credentials
from runtime.config import Config
from runtime.errors import BooksUnavailable, ConfigError, LogError, PenstockError
from runtime.ledger.rule_file import parse_rulebook

RECORD_EVERY_S = 0.2  # while parts start


class NotRunning(PenstockError):
    """No Penstock runs from this data folder."""


class Installation:
    """A data folder and what runs from it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Path(config.runtime.data_dir).absolute()
        self._record_path = self.folder / "run.json"

    # ── the record ──

    def record(self) -> RunRecord:
        """What runs; NotRunning when nothing does. ConfigError for a record that can't be read."""
        given = self.config.runtime.data_dir
        if not self._record_path.exists():
            raise NotRunning(f"nothing runs from {given}; start it with: penstock up")
        try:
            return msgspec.json.decode(self._record_path.read_bytes(), type=RunRecord)
        except msgspec.DecodeError:
            remedy = "end what runs from there, as after a crash of the machine nothing does; then remove that file"
            raise ConfigError(f"runtime.data_dir: run.json in {given} can't be read; {remedy}") from None

    def _write(self, record: RunRecord) -> None:
        fresh = self._record_path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(record))
        fresh.chmod(0o600)
        fsync(fresh)
        fresh.replace(self._record_path)

    def _record_if_any(self) -> RunRecord:
        return self.record() if self._record_path.exists() else RunRecord(host=socket.gethostname())

    def _left_behind(self) -> list[embedded.EmbeddedPart]:
        """Servers of this folder that run, whether a record names them or whoever started them died before."""
        servers = ("log", "valkey"), ("tryton", "tryton")
        return [part for at, name in servers if (part := embedded.left_behind(self.folder / at, name))]

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

    def client(self, target: str = "") -> Client:
        """A connection to the gateway of what runs, or to that one, as `[gateway.tls]` says."""
        return Client(target or self.record().gateway, credentials=client_credentials(self.config.gateway.tls))

    # ── up ──

    def up(self, say: Callable[[str], None], *, accept_loss: bool = False) -> RunRecord:
        """Start everything and wait until it answers. `say` is told each thing that is ready; `accept_loss`: go on with
        a log that has lost what is booked."""
        belonging.check_restored(self.folder)
        check_erp(self.config)
        check_tls(self.config.gateway.tls, self.config.gateway.called())
        check_mapping(self.config, parse_rulebook(settings.load_rulebook_text(self.config)))
        self._make_folders()
        with self._alone():
            if self.is_up():
                raise ConfigError(f"already running from {self.config.runtime.data_dir}; stop it with: penstock down")
            self._stop(self._record_if_any())
            return self._start(say, accept_loss)

    def _start(self, say: Callable[[str], None], accept_loss: bool) -> RunRecord:
        record = RunRecord(host=socket.gethostname())
        try:
            self._start_parts(record, say)
            archive, shards = Path(archive_root(self.config)), self.config.runtime.shards
            belonging.check(self._log_url, self._books_url, archive, shards, accept_loss=accept_loss)
            self._start_actors(record, say)
        except BaseException:
            with contextlib.suppress(OSError):  # a disk that is full, too
                self._write(record)
            self._stop(record)
            raise
        return record

    def _make_folders(self) -> None:
        folders = {"runtime.data_dir": self.folder, "archive.root": Path(archive_root(self.config))}
        for key, folder in folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{key}: {folder}: {error.strerror}; name a folder that can be made") from None
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(f"{key}: {folder}: can't be written to; name another folder, or let this user write")

    def _start_parts(self, record: RunRecord, say: Callable[[str], None]) -> None:
        """Log, books, ERP and Ray side by side: each takes seconds and none needs another. What has begun is written
        down meanwhile."""
        starts = [self._start_log, self._start_books, self._start_erp, self._start_ray]
        with ThreadPoolExecutor(len(starts)) as pool:
            running = [pool.submit(start, record) for start in starts]
            for one in running:
                while wait([one], RECORD_EVERY_S).not_done:
                    self._write(record)
                say(one.result())
                self._write(record)

    def _start_log(self, record: RunRecord) -> str:
        section = self.config.log
        url = section.url
        if not url:
            part = embedded.start_valkey(self.folder / "log", 0, section.fsync)
            record.parts.append(part)
            url = part.url
        try:
            redis_streams.create(url, self.config.runtime.shards)
        except LogError as error:
            raise ConfigError(f"log.url: {error}; see that it runs and takes this user's writes") from None
        self._log_url = url
        return f"log: {'Valkey' if not section.url else 'Redis'}, fsync {section.fsync}"

    def _start_books(self, record: RunRecord) -> str:
        self._books_url = books_url(self.config)
        try:
            upgrade(self._books_url)
        except BooksUnavailable as error:
            raise ConfigError(
                f"books.url: {error}; see that it runs, and is a database that this user may write"
            ) from None
        return f"books: {self._books_url.split(':', 1)[0]}"

    def _start_erp(self, record: RunRecord) -> str:
        section = self.config.erp
        record.erp_url, self._password_file = section.url, section.password_file
        if section.kind == "none":
            return "ERP: none"
        if section.url:
            return f"ERP: {section.kind}"
        part = self._start_tryton()
        record.parts.append(part)
        record.erp_url, self._password_file = part.url, str(embedded.tryton_password_file(self.folder / "tryton"))
        return "ERP: Tryton"

    def _start_tryton(self, port: int = 0) -> embedded.EmbeddedPart:
        external_ref = settings_of(TrytonSettings, self.config.erp).external_ref
        return embedded.start_tryton(self.folder / "tryton", companies(self.config), cache_folder(), external_ref, port)

    def _start_ray(self, record: RunRecord) -> str:
        address = self.config.runtime.ray_address
        if address:
            if address != "auto" and not listens(address):
                raise ConfigError(f"runtime.ray_address: no Ray answers at {address}; name the host:port of its head")
            record.ray_address = address
            return f"Ray: joined {address}"
        start_ray(self.folder, self.config, record)
        return "Ray: local, with its dashboard"

    def _start_actors(self, record: RunRecord, say: Callable[[str], None]) -> None:
        if proposed := self._bring_mapping():
            say(f"mapping: the configured one has changed; approve it: penstock mapping approve {proposed} --by NAME")
        port = self._gateway_port(is_local=record.ray is not None)
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
            run_folder=str(self.folder),
        )
        wiring.check()
        if not record.ray:
            self._take_vacant(record)
        record.gateway = f"{self.config.gateway.called()}:{port}"
        record.wiring = wiring.plain()
        self._write(record)
        with self.stage(record) as stage:
            stage.start(SUPERVISOR)
            wait_until_running(stage, stage.names)
            say(f"actors: {len(stage.names)} running, gRPC at {record.gateway}")

    def _take_vacant(self, record: RunRecord) -> None:
        """See that a joined Ray lets us in and runs no Penstock, whose parts would pass for ours."""
        with self.stage(record) as stage:
            if present := stage.present():
                raise ConfigError(
                    f"runtime.ray_address: a Penstock runs on this Ray already ({', '.join(present)}); "
                    "stop it where it was started, or name another Ray"
                )
            if record.ray_address == "auto":
                record.ray_address = stage.address

    def _gateway_port(self, *, is_local: bool) -> int:
        """The port to serve. Gateways of one Penstock share it, so nothing else would notice a second one there."""
        section = self.config.gateway
        if is_local and (wrong := can_not_serve(section.host, section.port)):
            raise ConfigError(f"gateway.host, gateway.port: {section.host}:{section.port}: {wrong}; choose others")
        if section.port and listens(f"{section.host}:{section.port}"):
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
        """A connection to Ray, closed at the end. NotRunning where there is none any more, or none for us."""
        record = record or self.record()
        if not ray_is_up(record):
            raise NotRunning(f"Ray does not run any more, at {record.ray_address}; start all again with: penstock up")
        os.environ.update(ray_environment(record))
        # Ray reads its environment when it is imported, and some only then.
        import ray

        from actors.bootstrap import part_specs
        from actors.ray_stage import NAMESPACE, RayStage

        try:
            ray.init(
                address=record.ray_address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="error",
                configure_logging=False,
            )
        except ConnectionError:
            remedy = "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            raise NotRunning(f"Ray takes no connection at {record.ray_address}; {remedy}") from None
        try:
            yield RayStage(part_specs(wiring_from(record.wiring)) if record.wiring else {})
        finally:
            ray.shutdown()

    # ── down ──

    def down(self) -> None:
        """Let the actors finish, then end what was started here, the log last."""
        if not self._left_behind():
            self.record()
        with self._alone():
            self._stop(self._record_if_any())

    def _stop(self, record: RunRecord) -> None:
        """All that this record names, and what was started again while the actors stopped."""
        if record.wiring and ray_is_up(record):
            self._stop_actors(record)
        with self._changing_parts():
            again = self._record_if_any().parts
            if record.ray:
                end_ray(self.folder, record.ray)
            for part in reversed(dict.fromkeys([*record.parts, *again, *self._left_behind()])):
                embedded.stop(part)
            self._record_path.unlink(missing_ok=True)

    def _stop_actors(self, record: RunRecord) -> None:
        """A Ray of ours ends anyway; on somebody else's the actors would stay for good where they are not reached."""
        with contextlib.suppress(*[NotRunning] if record.ray else []), self.stage(record) as stage:
            stage.stop([SUPERVISOR])
            stage.stop([name for name in stage.names if name != SUPERVISOR])

    # ── while it runs ──

    def start_dead_parts(self) -> None:
        """Start embedded servers that have died again, on the data and the port that they had; note their processes.

        Whoever is connected to them finds them there. Raises ConfigError for one that can't be started; NotRunning when
        all was stopped meanwhile.
        """
        with self._changing_parts():
            record = self.record()
            for number, part in enumerate(record.parts):
                if not embedded.is_running(part):
                    unrecorded = [one for one in self._left_behind() if one.url == part.url]
                    record.parts[number] = unrecorded[0] if unrecorded else self._start_again(part)
                    self._write(record)

    def _start_again(self, part: embedded.EmbeddedPart) -> embedded.EmbeddedPart:
        if part.name == "valkey":
            return embedded.start_valkey(self.folder / "log", part.port, self.config.log.fsync)
        return self._start_tryton(part.port)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one command at a time starts or stops this installation: a second one would take a start that is under
        way for one that was cut short. ConfigError for the second."""
        with (self.folder / "command.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                given = self.config.runtime.data_dir
                raise ConfigError(
                    f"another penstock up or down is at work on {given}; wait until it has ended"
                ) from None
            yield

    @contextlib.contextmanager
    def _changing_parts(self) -> Iterator[None]:
        """Only one process at a time starts or ends embedded servers of this installation."""
        with (self.folder / "parts.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


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
