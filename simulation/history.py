"""What happened in a run, line by line, and its hash.

Owns the form of a line. Holds no payload: arguments appear as fingerprints, so that a history may be shown to anybody.
"""

import hashlib
from collections import deque
from typing import Any

import msgspec
import polars as pl
import xxhash

from runtime.effects import Effects

KEPT_LINES = 60
KEPT_ERRORS = 5


class History:
    """Every line goes into the hash; the last ones, or all of them, are kept to be shown."""

    def __init__(self, whole: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.lines: deque[str] = deque(maxlen=None if whole else KEPT_LINES)
        self.happened: list[str] = []  # faults, as they came
        self.errors: deque[str] = deque(maxlen=KEPT_ERRORS)  # logged by parts
        self.steps = 0

    def note(self, at_ms: int, who: str, what: str, *args: Any) -> None:
        """One line."""
        self.steps += 1
        marks = "".join(f" {fingerprint(arg)}" for arg in args)
        line = f"{self.steps:6} {at_ms / 1000:12.3f}s {who}: {what}{marks}"
        self._hash.update(line.encode())
        self.lines.append(line)

    def fault(self, at_ms: int, who: str, what: str) -> None:
        """One line that tells of trouble."""
        self.note(at_ms, who, f"!! {what}")
        self.happened.append(self.lines[-1])

    def log(self, method: str, event: str, error_type: str) -> None:
        """Something that a part logged."""
        told = f"{event} {error_type}".strip()
        self.note(0, "log", f"{method} {told}")
        if method in ("error", "exception", "critical") and told not in self.errors:
            self.errors.append(told)

    def digest(self) -> str:
        """Equal for equal histories."""
        return self._hash.hexdigest()


def fingerprint(value: Any) -> str:
    """A short text that is the same for the same value, in every process."""
    if isinstance(value, str | int | float) or value is None:
        return str(value)
    if isinstance(value, Effects):
        return value.digest()[:8]
    return _digest(msgspec.msgpack.encode(value, enc_hook=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, pl.DataFrame):
        return value.write_csv()
    raise NotImplementedError(type(value).__name__)


def _digest(encoded: bytes) -> str:
    return xxhash.xxh64_hexdigest(encoded)[:8]
