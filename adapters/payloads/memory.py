"""Raw payloads in memory, as they came: nothing is encrypted and nothing outlives the process.

Owns two dicts. Never fails otherwise than by what was kept and forgotten.
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from adapters.payloads.records import by_age, first_record, id_of
from runtime.errors import PayloadForgotten, PayloadUnknown
from runtime.ports import PayloadAct, PayloadRecord

DIGEST_BYTES = 32


class MemoryPayloadStore:
    """PayloadStore over dicts."""

    def __init__(self) -> None:
        self._payloads: dict[str, bytes] = {}
        self._records: dict[str, PayloadRecord] = {}

    def keep(self, chunks: Iterable[bytes], at_ms: int, by: str) -> PayloadRecord:
        """Keep a file's bytes. See PayloadStore."""
        payload = b"".join(chunks)
        digest = hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest()
        payload_id, act = id_of(digest), PayloadAct("kept", at_ms, by)
        self._payloads[payload_id] = payload
        known = self._records.get(payload_id)
        if known is None:
            return self._put(first_record(digest, len(payload), act))
        return known if known.is_kept else self._acted(known, act)

    def note_total(self, payload_id: str, control_total: str) -> PayloadRecord:
        """Add the control total to the evidence. See PayloadStore."""
        return self._put(msgspec.structs.replace(self._record(payload_id), control_total=control_total))

    def chunks(self, payload_id: str) -> Iterator[bytes]:
        """The plain bytes. See PayloadStore."""
        if not self._record(payload_id).is_kept:
            raise PayloadForgotten(f"payload {payload_id} was deleted on purpose; its evidence is there")
        yield self._payloads[payload_id]

    def forget(self, payload_id: str, at_ms: int, by: str) -> PayloadRecord:
        """Delete the payload and keep the evidence. See PayloadStore."""
        record = self._record(payload_id)
        self._payloads.pop(payload_id, None)
        return self._acted(record, PayloadAct("forgotten", at_ms, by)) if record.is_kept else record

    def records(self) -> list[PayloadRecord]:
        """The evidence of every payload. See PayloadStore."""
        return by_age(list(self._records.values()))

    def _record(self, payload_id: str) -> PayloadRecord:
        if payload_id not in self._records:
            raise PayloadUnknown("no payload has this id")
        return self._records[payload_id]

    def _acted(self, record: PayloadRecord, act: PayloadAct) -> PayloadRecord:
        return self._put(msgspec.structs.replace(record, acts=(*record.acts, act)))

    def _put(self, record: PayloadRecord) -> PayloadRecord:
        self._records[record.payload_id] = record
        return record
