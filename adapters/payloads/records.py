"""How the evidence of a payload comes about, the same for every store."""

from runtime.ports import PayloadAct, PayloadRecord

ID_DIGITS = 32


def id_of(digest: bytes) -> str:
    """The id of a payload with this digest: the first half of it, in hexadecimal digits."""
    return digest.hex()[:ID_DIGITS]


def first_record(digest: bytes, size: int, act: PayloadAct) -> PayloadRecord:
    """The evidence of what is kept for the first time."""
    return PayloadRecord(payload_id=id_of(digest), digest=digest.hex(), size=size, control_total="", acts=(act,))


def by_age(records: list[PayloadRecord]) -> list[PayloadRecord]:
    """Records in the order of their first keeping."""
    return sorted(records, key=lambda record: (record.acts[0].at_ms, record.payload_id))
