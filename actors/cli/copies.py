"""Backups: a copy of everything, made while it runs, from which a whole Penstock can be made anew.

    manifest.json   what there is, with the digest of every file; written last: without it, this is no backup
    books/          the database as it was at one instant
    archive/        the segments and snapshots that those books name, and the payloads
    log/            each shard's entries after its checkpoint in those books, up to the log's end
    config.json     the configuration and the rules in force, to read; restoring uses the one that it is given
    keys/           the key of the tokens and that of the payloads, only when asked for

The order is what makes it consistent:

1. Hold the log. From here on no entry is trimmed, no snapshot forgotten, no segment merged. What was gone by now is
   older than a checkpoint that is in the books already.
2. The books, at one instant. They name, of each shard, a checkpoint and a position.
3. The archive: the snapshot of that checkpoint and all segments up to it are there, as they were before the books named
   it. Later segments are left out: they tell of commits that these books do not know.
4. The log, last: everything after the checkpoint up to the present end. So every event that was acknowledged before the
   copy began is in the books or in the log, and so is all that recovery replays.

What is restored goes on like a process that died at the instant of step 2: it replays, finds what was committed, and
takes the rest of the log. What the ERP was sent since is in doubt and is looked up before anything is sent again.
Owns that order. Decides nothing about what the parts hold.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from actors.cli import belonging
from actors.cli.installation import Installation, NotRunning, books_url
from actors.wiring import archive_root
from adapters import embedded, settings
from adapters.archive import copying as archive_copying
from adapters.archive import steps
from adapters.archive.segments import fsync
from adapters.books import chain_check
from adapters.books import copying as books_copying
from adapters.clock import utc_now_ms
from adapters.log import copying as log_copying
from adapters.log.redis_streams import RedisLogReader
from runtime.config import Config
from runtime.errors import ConfigError
from runtime.ports import ArchivedStep, CopiedShard, LogRecord

FORM = 1  # of the folder; another one is refused
MANIFEST = "manifest.json"
KEY_FILES = ("token.key", "payload.key")
HASH_BYTES = 2**20


class Manifest(msgspec.Struct, kw_only=True):
    """What a backup is."""

    form: int
    began_ms: int
    ended_ms: int
    shards: int
    stands: list[CopiedShard]
    log_ends: dict[int, str]
    heads: dict[str, tuple[int, str]]  # of the audit trail, as `penstock verify --chain --heads` takes them
    files: dict[str, tuple[int, str]]  # path -> bytes, BLAKE2b


Say = Callable[[str], None]


def backup(installation: Installation, folder: Path, with_keys: bool, say: Say) -> Manifest:
    """Copy everything into an empty folder. ConfigError, NotRunning, LogError, BooksUnavailable."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder.name} is not empty; name a new folder for each backup")
    folder.mkdir(parents=True, exist_ok=True)
    config, log_url = installation.config, _log_url(installation)
    began_ms, shards = utc_now_ms(), config.runtime.shards
    with log_copying.held(log_url):
        stands = books_copying.copy(_books_url(installation), folder / "books")
        say(f"books: {len(stands)} shards")
        files = archive_copying.copy(Path(archive_root(config)), folder / "archive", stands)
        say(f"archive: {files:,} files")
        ends = log_copying.ends(log_url, shards)
        say(f"log: {_copy_log(log_url, folder / 'log', stands, ends):,} rows after the checkpoints")
    _copy_configuration(config, folder, with_keys)
    manifest = Manifest(
        form=FORM,
        began_ms=began_ms,
        ended_ms=utc_now_ms(),
        shards=shards,
        stands=stands,
        log_ends=ends,
        heads=_heads(folder),
        files={name: _digest(folder / name) for name in _names(folder)},
    )
    _write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def restore(config: Config, folder: Path, say: Say) -> Manifest:
    """Make a Penstock from a backup, to be started with `up`. ConfigError names what is in the way."""
    manifest = check(folder)
    if manifest.shards != config.runtime.shards:
        raise ConfigError(f"runtime.shards: the backup has {manifest.shards}, and S can't change")
    data, archive = Path(config.runtime.data_dir), Path(archive_root(config))
    belonging.check_restored(data)
    if (data / "run.json").exists():
        raise ConfigError(f"something runs from {config.runtime.data_dir}; restore into an empty folder")
    if archive.exists() and any(archive.iterdir()):
        raise ConfigError("archive.root: there is an archive already; restore into an empty folder")
    books_copying.check_target(folder / "books", books_url(config))
    data.mkdir(parents=True, exist_ok=True)
    unfinished = data / belonging.RESTORING
    unfinished.touch()
    fsync(data)
    if (folder / "archive").is_dir():
        shutil.copytree(folder / "archive", archive, dirs_exist_ok=True)
    say("archive restored")
    say(f"log restored: {_fill_log(config, folder, manifest):,} rows after the checkpoints")
    for name in KEY_FILES:
        if (folder / "keys" / name).exists():
            shutil.copy2(folder / "keys" / name, data / name)
    books_copying.restore(folder / "books", books_url(config), utc_now_ms(), "penstock restore")
    unfinished.unlink()  # until here nothing starts on what is there
    say("books restored")
    return manifest


def check(folder: Path) -> Manifest:
    """The manifest of a backup whose files are all there and unchanged. ConfigError."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ConfigError(f"{folder.name} holds no finished backup: {MANIFEST} is missing") from None
    except msgspec.DecodeError:
        raise ConfigError(f"{folder.name}: {MANIFEST} can't be read") from None
    if manifest.form != FORM:
        raise ConfigError(f"{folder.name} was made by another version of penstock")
    for name, known in manifest.files.items():
        if not (folder / name).exists() or _digest(folder / name) != known:
            raise ConfigError(f"{folder.name}: {name} is missing or was changed since the backup was made")
    return manifest


# ── pieces ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _log_url(installation: Installation) -> str:
    if installation.is_up():
        return installation.wiring().log_url
    if not installation.config.log.url:
        raise NotRunning("a backup is made while Penstock runs; start it with: penstock up")
    return installation.config.log.url


def _books_url(installation: Installation) -> str:
    return installation.wiring().books_url if installation.is_up() else books_url(installation.config)


def _copy_log(url: str, folder: Path, stands: list[CopiedShard], ends: dict[int, str]) -> int:
    """Each shard's entries after its checkpoint (from the start, if nobody has owned it yet); how many rows."""
    folder.mkdir()
    rows, known = 0, {stand.shard: stand for stand in stands}
    with contextlib.closing(RedisLogReader(url)) as reader:
        for shard, end in ends.items():
            after = known[shard].checkpoint if shard in known else "0-0"
            pages = log_copying.copied(reader, shard, after, end)
            counted = _Counted(ArchivedStep(tuple(page)) for page in pages)
            path = folder / f"shard={shard:04d}.parquet"
            steps.write(counted, path)
            fsync(path)
            rows += counted.rows
    return rows


class _Counted:
    """Steps passing by, and how many rows they had."""

    def __init__(self, passing: Iterator[ArchivedStep]) -> None:
        self._passing, self.rows = passing, 0

    def __iter__(self) -> Iterator[ArchivedStep]:
        for step in self._passing:
            self.rows += sum(record.rows for record in step.records)
            yield step


def _fill_log(config: Config, folder: Path, manifest: Manifest) -> int:
    with _log_to_fill(config) as url, contextlib.closing(log_copying.LogFiller(url, manifest.shards)) as filler:
        known = {stand.shard: stand for stand in manifest.stands}
        rows = 0
        for shard in range(manifest.shards):
            stand = known.get(shard) or CopiedShard(shard, "0-0", "0-0", "", 0, 0)
            rows += filler.fill(stand, _pages(folder / "log" / f"shard={shard:04d}.parquet"))
        return rows


def _pages(path: Path) -> Iterator[tuple[LogRecord, ...]]:
    return (step.records for step in steps.read(path))


@contextlib.contextmanager
def _log_to_fill(config: Config) -> Iterator[str]:
    """The log's address: as configured, or the embedded one's, started for as long as this takes."""
    if config.log.url:
        yield config.log.url
        return
    part = embedded.start_valkey(Path(config.runtime.data_dir).absolute() / "log", 0, "always")
    try:
        yield part.url
    finally:
        embedded.stop(part)


def _copy_configuration(config: Config, folder: Path, with_keys: bool) -> None:
    told: dict[str, Any] = {"config": config.model_dump(mode="json"), "rulebook": settings.load_rulebook_text(config)}
    _write(folder / "config.json", msgspec.json.format(msgspec.json.encode(told)))
    if not with_keys:
        return
    (folder / "keys").mkdir(mode=0o700)
    for name in KEY_FILES:
        path = Path(config.runtime.data_dir) / name
        if path.exists():
            shutil.copy2(path, folder / "keys" / name)
            (folder / "keys" / name).chmod(0o600)


def _heads(folder: Path) -> dict[str, tuple[int, str]]:
    """Heads of the audit trail in the copy, where it can be opened as it is."""
    copy = folder / "books" / books_copying.SQLITE_FILE
    return chain_check.check(f"sqlite:///{copy}").heads if copy.exists() else {}


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> tuple[int, str]:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while part := file.read(HASH_BYTES):
            digest.update(part)
    return path.stat().st_size, digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    fsync(path)
    fsync(path.parent)
