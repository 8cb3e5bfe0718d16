"""One reading of an X12 file: sets are found, read, judged, and given on as frames.

Owns what becomes of a set: accepted whole, or quarantined whole, and the rest of the file goes on. Keeps the events of
the open set back until its end has shown that it holds. A set with more events than may be kept is judged without
keeping any, and read a second time for them. Never says what a segment means.
"""

from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import polars as pl

from adapters.sources.source import Chunk, Quarantined, SourceSettings
from adapters.sources.tokens import checked_key
from adapters.sources.x12.envelope import Envelope
from adapters.sources.x12.findings import FINDINGS_PER_ENVELOPE_MAX
from adapters.sources.x12.segments import ELEMENT, SEGMENT, Block, Delimiters, blocks
from adapters.sources.x12.sets import Accepted, Handler, Header, TransactionSet
from adapters.sources.x12.values import number
from adapters.sources.x12.x277 import ClaimStatuses
from adapters.sources.x12.x835 import Remittance
from adapters.sources.x12.x837 import ClaimBatch
from adapters.sources.x12.x999 import Acknowledgement, InterchangeAcknowledgement

ROWS_HELD_MAX = 200_000  # of one set, some 30,000 claims; TR3 asks for at most 10,000
_BODY_BYTES = 16

SETS: dict[str, type[TransactionSet]] = {
    "835": Remittance,
    "837": ClaimBatch,
    "277": ClaimStatuses,
    "999": Acknowledgement,
    "997": Acknowledgement,
}


class _Unread(TransactionSet):
    """A set of a kind that is not read here."""

    def close(self, body: str) -> None:
        """Set it aside."""
        self.find(self.header.segment, 1, "unread_set")


class _Large(NamedTuple):
    """An accepted set whose events were not kept: where its body starts, and how many segments it has."""

    header: Header
    offset: int
    delimiters: Delimiters
    skipped: int  # segments between `offset` and the body
    segments: int
    body: str
