"""Secrets: read from the file or the environment variable that the configuration names.

Owns reading them, and keeping a refresh token that its server replaces. Never logs one, and no error holds one.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from runtime.config import SecretSection
from runtime.errors import ConfigError


def read_secret(section: SecretSection, place: str) -> str:
    """The secret, or ConfigError naming `place`. Read anew each time, so that a replaced file counts."""
    if section.env:
        value = os.environ.get(section.env, "")
        if not value:
            raise ConfigError(f"{place}.env: the variable {section.env} is not set")
        return value
    return _read(Path(section.file), f"{place}.file")


class KeptToken:
    """A refresh token in a file. Each new one is on disk before anything is done with what came with it.

    A process that dies between the server's answer and the file leaves the old token there. Servers that replace tokens
    accept the last one for a while; one that does not wants a person to log in again.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """From reading the token to replacing it: several connections of one account share the file, and each token
        is good once."""
        descriptor = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> str:
        """The newest token. Raises ConfigError."""
        return _read(self._path, "erp.auth.refresh_token_file")

    def replace(self, token: str) -> None:
        """Keep this one, durably and all or nothing."""
        fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(self._path)
        _sync_folder(self._path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, place: str) -> str:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{place}: {path}: {reason}") from None
    if not value:
        raise ConfigError(f"{place}: {path} is empty")
    return value
