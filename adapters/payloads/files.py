"""Raw payloads as files under one folder.

    payloads/<id>.enc     the encrypted bytes, see adapters/payloads/cipher.py
    payloads/<id>.json    the evidence: digest, size, control total, what was done when and by whom

Owns the names and the order of writing: the evidence first, then the payload is given its name, or deleted. So there
is never a payload that no evidence accounts for. A keeping that was cut short is found damaged, and keeping the file
again ends it; a payload whose deletion was cut short is not given any more, and forgetting it again ends that. Each
file is written whole under another name, made durable, and renamed. Never holds the key longer than a call.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from adapters.payloads import cipher
from adapters.payloads.records import ID_DIGITS, by_age, first_record, id_of
from runtime.errors import PayloadDamaged, PayloadError, PayloadForgotten, PayloadUnknown
from runtime.ports import PayloadAct, PayloadRecord

FOLDER = "payloads"
LEFTOVER_AGE_MS = 24 * 3_600_000  # a temporary file of this age belongs to a writer that died
_ID = re.compile(f"[0-9a-f]{{{ID_DIGITS}}}")


class FilePayloadStore:
    """PayloadStore over a local (or mounted) folder. `key` gives 32 bytes; it is asked for only where it is needed."""

    def __init__(self, root: str | Path, key: Callable[[], bytes]) -> None:
        self._folder = Path(root) / FOLDER
        self._key = key

    def keep(self, chunks: Iterable[bytes], at_ms: int, by: str) -> PayloadRecord:
        """Store a file's bytes, durable on return. See PayloadStore.

        A copy that is there already stays, unless its head can't be proven under the present key: then this one
        takes its place.
        """
        self._prepare(at_ms)
        key = self._key()
        with self._whole_file() as (file, give_name):
            content = cipher.encrypt(chunks, file, key)
            record = self._kept(content, PayloadAct("kept", at_ms, by))
            if not self._is_proven(record.payload_id, key):
                give_name(self._payload(record.payload_id))
        return record

    def _kept(self, content: cipher.Content, act: PayloadAct) -> PayloadRecord:
        known = self._record_or_none(id_of(content.digest))
        if known is None:
            return self._write_record(first_record(content.digest, content.size, act))
        return known if known.is_kept else self._acted(known, act)

    def note_total(self, payload_id: str, control_total: str) -> PayloadRecord:
        """Add the control total to the evidence. See PayloadStore."""
        return self._write_record(msgspec.structs.replace(self._record(payload_id), control_total=control_total))

    def chunks(self, payload_id: str) -> Iterator[bytes]:
        """The plain bytes, in order, each part proven before it is given. See PayloadStore."""
        if not self._record(payload_id).is_kept:
            raise PayloadForgotten(f"payload {payload_id} was deleted on purpose; its evidence is there")
        try:
            file = self._payload(payload_id).open("rb")
        except OSError as error:
            raise PayloadDamaged(f"payload {payload_id} can't be read: {error.strerror}") from None
        with file:
            content, opened = cipher.proven(file, self._key())
            if id_of(content.digest) != payload_id:
                raise PayloadDamaged(f"under the name of payload {payload_id} lies another one")
            yield from cipher.decrypt(file, content, opened)

    def forget(self, payload_id: str, at_ms: int, by: str) -> PayloadRecord:
        """Delete the payload for good and keep the evidence. See PayloadStore."""
        record = self._record(payload_id)
        if record.is_kept:
            record = self._acted(record, PayloadAct("forgotten", at_ms, by))
        self._payload(payload_id).unlink(missing_ok=True)
        _fsync(self._folder)
        return record

    def records(self) -> list[PayloadRecord]:
        """The evidence of every payload. See PayloadStore."""
        return by_age([self._record(path.stem) for path in self._folder.glob("*.json")])

    # ── evidence ──

    def _record(self, payload_id: str) -> PayloadRecord:
        record = self._record_or_none(payload_id)
        if record is None:
            raise PayloadUnknown(f"no payload has the id {payload_id[:ID_DIGITS]!r}; see: penstock payload list")
        return record

    def _record_or_none(self, payload_id: str) -> PayloadRecord | None:
        if not _ID.fullmatch(payload_id):
            return None
        try:
            return msgspec.json.decode(self._evidence(payload_id).read_bytes(), type=PayloadRecord)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            raise PayloadDamaged(f"the evidence of payload {payload_id} can't be read") from None

    def _acted(self, record: PayloadRecord, act: PayloadAct) -> PayloadRecord:
        return self._write_record(msgspec.structs.replace(record, acts=(*record.acts, act)))

    def _write_record(self, record: PayloadRecord) -> PayloadRecord:
        with self._whole_file() as (file, give_name):
            file.write(msgspec.json.encode(record))
            give_name(self._evidence(record.payload_id))
        return record

    # ── files ──

    def _payload(self, payload_id: str) -> Path:
        return self._folder / f"{payload_id}.enc"

    def _evidence(self, payload_id: str) -> Path:
        return self._folder / f"{payload_id}.json"

    def _is_proven(self, payload_id: str, key: bytes) -> bool:
        try:
            with self._payload(payload_id).open("rb") as file:
                return id_of(cipher.proven(file, key)[0].digest) == payload_id
        except (OSError, PayloadError):
            return False

    def _prepare(self, now_ms: int) -> None:
        """Make the folder, and clear what writers that died have left; no head was written, so nobody can read it."""
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _fsync(self._folder.parent)
        for left in self._folder.glob(".*.tmp"):
            with suppress(FileNotFoundError):  # its writer lives, and has just given it its name
                if now_ms - left.stat().st_mtime * 1000 > LEFTOVER_AGE_MS:
                    left.unlink()

    @contextmanager
    def _whole_file(self) -> Iterator[tuple[BinaryIO, Callable[[Path], None]]]:
        """A file to write, readable by its owner alone, and a way to give it its name, durably; else it is dropped."""
        handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self._folder)
        temporary = Path(name)

        def give_name(path: Path) -> None:
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
            _fsync(self._folder)

        try:
            with os.fdopen(handle, "wb") as file:
                yield file, give_name
        finally:
            temporary.unlink(missing_ok=True)


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
