"""What was set aside of a file, as events, so that somebody owns it.

Owns the identity of a part: the file's content and its place there, so that the same file again is a repeat. Holds no
value of the file.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

import polars as pl

from adapters.sources.source import Quarantined
from runtime.schema import COLUMNS, SCHEMA_VERSION

KIND = "document_quarantined"
UNDATED = datetime(1970, 1, 1, tzinfo=UTC)  # a part that can't be read has no date, and a repeat must be the same
_READ_BYTES = 1 << 20


def quarantine_events(
    path: Path, format: str, parts: Iterable[Quarantined], entity: str, currency: str
) -> pl.DataFrame:
    """One event a part: `document` is the file and the transaction, `reason` the first code found.

    `quantity` is the place of the segment, in thousandths like every quantity.
    """
    first: dict[int, Quarantined] = {}
    for part in parts:
        first.setdefault(part.transaction, part)
    named = _digest(path) if first else ""
    rows = [
        {
            "event_id": f"{named}:{part.transaction}",
            "source": format,
            "kind": KIND,
            "entity": entity,
            "document": f"{named}/{part.transaction}",
            "reason": part.code,
            "amount_minor": 0,
            "currency": currency,
            "quantity": part.segment * 1000,
            "occurred_at": UNDATED,
            "schema_version": SCHEMA_VERSION,
        }
        for part in first.values()
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


def _digest(path: Path) -> str:
    digest = blake2b(digest_size=8)
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
