"""One reading of an X12 file: sets are found, read, judged, and given on as frames.

Owns what becomes of a set: accepted whole, or quarantined whole, and the rest of the file goes on. The open set's
events are kept back until its end has shown that it holds. A set with more events than may be kept is judged without
them, and read a second time for them. Never says what a segment means.
"""

from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from adapters.sources.source import Chunk, Quarantined, SourceSettings
from adapters.sources.x12.accepted import Accepted
from adapters.sources.x12.envelope import Envelope
from adapters.sources.x12.findings import FINDINGS_PER_ENVELOPE_MAX
from adapters.sources.x12.segments import ELEMENT, SEGMENT, Block, Delimiters, blocks
from adapters.sources.x12.sets import Header, TransactionSet
from adapters.sources.x12.values import element, number
from adapters.sources.x12.x277 import ClaimStatuses
from adapters.sources.x12.x835 import Remittance
from adapters.sources.x12.x837 import ClaimBatch
from adapters.sources.x12.x999 import Acknowledgement, InterchangeAcknowledgement

ROWS_HELD_MAX = 200_000  # of one set: some 30,000 claims, where the standard asks for at most 10,000
_FINDINGS_HELD_MAX = 1_000
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

    source = "unread"

    def close(self, body: str) -> None:
        """Set it aside."""
        self.find(self.header.segment, 1, "unread_set")


class _Body(NamedTuple):
    """Where the content of a set starts: so many segments after an offset."""

    offset: int
    delimiters: Delimiters
    skipped: int


class _Large(NamedTuple):
    """An accepted set whose events were not kept."""

    header: Header
    start: _Body
    segments: int
    digest: str
    group: str | None


class Reading:
    """One reading. `sources` are those whose figures keep their plain names; those of others bear theirs before it."""

    def __init__(self, path: Path, settings: SourceSettings, sources: frozenset[str], rows_held_max: int) -> None:
        self._path, self._settings, self._sources = path, settings, sources
        self._rows_held_max = rows_held_max
        self._accepted = Accepted()
        self._large: list[_Large] = []
        self._quarantined: list[Quarantined] = []
        self._figures: Counter[str] = Counter()
        self._envelope = Envelope(self._find)
        self._envelope_findings = self._sets = 0
        self._first, self._next = 1, 1  # positions in the file: of the block's first segment, of the next one
        self._open: TransactionSet | None = None
        self._is_overfull = False
        self._outside = self._envelope.handlers | {"ST": self._on_set, "TA1": self._on_interchange_answer}
        self._within = {"SE": self._on_set_end} | dict.fromkeys(self._outside, self._on_lost_end)
        self._handlers = self._outside

    def chunks(self) -> Iterator[Chunk]:
        """Read the file once. Raises FrameError where it is no X12."""
        with self._path.open("rb") as file:
            for block in blocks(file):
                self._walk(block)
                yield from self._ready()
        self._end()
        yield from self._ready()
        yield from self._leave()

    # ── segments ────────────────────────────────────────────────────────────────────────────────────────────────

    def _walk(self, block: Block) -> None:
        self._block, self._first = block, self._next
        self._hashed = 0
        for position, segment in enumerate(block.segments, self._first):
            handle = self._handlers.get(segment.partition(ELEMENT)[0])
            if handle:
                handle(segment.split(ELEMENT), position)
            elif self._open is None:
                self._find(position, 0, "stray_segment")
        self._next = self._first + len(block.segments)
        if self._open:
            self._hash_to(self._next)
            self._bound_rows(self._open)

    def _bound_rows(self, transaction: TransactionSet) -> None:
        if self._is_overfull or len(transaction.rows) > self._rows_held_max:
            self._is_overfull = True
            transaction.rows.clear()

    def _hash_to(self, position: int) -> None:
        until = position - self._first
        content = SEGMENT.join((*self._block.segments[self._hashed : until], ""))
        self._digest.update(content.encode("latin-1"))
        self._hashed = until

    # ── sets ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_set(self, elements: list[str], position: int) -> None:
        self._sets += 1
        self._envelope.count_set(position)
        header = Header(self._sets, position, tuple(elements), self._envelope.group)
        self._open = SETS.get(header.code, _Unread)(header, self._settings)
        self._open.handlers.update(self._within)
        self._handlers = self._open.handlers
        self._hashed = position - self._first + 1
        self._body = _Body(self._block.offset, self._block.delimiters, self._hashed)
        # Keyed, because a hash of what is known but for one name would tell the name.
        self._digest = blake2b(digest_size=_BODY_BYTES, key=self._settings.token_key)
        self._is_overfull = False

    def _on_set_end(self, elements: list[str], position: int) -> None:
        header = self._open.header
        if number(element(elements, 1)) != position - header.segment + 1:
            self._open.find(position, 1, "wrong_segment_count")
        if element(elements, 2).strip() != header.control:
            self._open.find(position, 2, "wrong_set_number")
        self._close(position)

    def _on_lost_end(self, elements: list[str], position: int) -> None:
        """The next set or the envelope comes where SE should."""
        self._open.find(position, 0, "missing_se")
        self._close(position)
        self._handlers[elements[0]](elements, position)

    def _close(self, position: int) -> None:
        transaction, self._open, self._handlers = self._open, None, self._outside
        self._hash_to(position)
        digest = self._digest.hexdigest()
        transaction.close(digest)
        if self._is_overfull and not transaction.findings:
            segments = position - transaction.header.segment - 1
            self._large.append(_Large(transaction.header, self._body, segments, digest, transaction.group()))
            transaction.rows.clear()
        self._judge(transaction, digest)

    def _judge(self, transaction: TransactionSet, digest: str) -> None:
        prefix = "" if transaction.source in self._sources else f"{transaction.source}_"
        self._figures.update({f"{prefix}{name}": figure for name, figure in transaction.totals().items()})
        if transaction.findings:
            self._quarantined += transaction.findings
        else:
            self._take(transaction, digest, transaction.group())

    def _take(self, transaction: TransactionSet, digest: str, group: str | None) -> None:
        rows, transaction.rows = transaction.rows, []
        names, place = (transaction.identity(digest), group), transaction.place()
        self._accepted.take(rows, names, transaction.source, transaction.currency, place)

    def _on_interchange_answer(self, elements: list[str], position: int) -> None:
        answer = InterchangeAcknowledgement(Header(0, 1, ("TA1",), ()), self._settings)
        answer.read(elements, position)
        self._judge(answer, "")

    # ── envelope and end ────────────────────────────────────────────────────────────────────────────────────────

    def _find(self, position: int, index: int, code: str) -> None:
        self._figures["envelope_findings"] += 1
        self._envelope_findings += 1
        if self._envelope_findings <= FINDINGS_PER_ENVELOPE_MAX:
            self._quarantined.append(Quarantined(0, position, index, code))

    def _end(self) -> None:
        if self._open:
            self._open.find(self._next, 0, "missing_se")
            self._close(self._next)
        self._envelope.end(self._next)
        if not self._sets and not self._accepted:
            self._find(self._next, 0, "no_transaction_set")

    # ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _ready(self) -> Iterator[Chunk]:
        """Give on what is enough for a frame."""
        large, self._large = self._large, []
        for one in large:
            yield from self._read_again(one)
        if len(self._accepted) >= self._settings.rows_max or len(self._quarantined) > _FINDINGS_HELD_MAX:
            yield from self._leave()

    def _read_again(self, large: _Large) -> Iterator[Chunk]:
        transaction = SETS[large.header.code](large.header, self._settings)
        with self._path.open("rb") as file:
            found = blocks(file, large.start.offset, large.start.delimiters)
            segments = chain.from_iterable(block.segments for block in found)
            body = islice(segments, large.start.skipped, large.start.skipped + large.segments)
            for position, segment in enumerate(body, large.header.segment + 1):
                handle = transaction.handlers.get(segment.partition(ELEMENT)[0])
                if handle:
                    handle(segment.split(ELEMENT), position)
                if len(transaction.rows) >= self._settings.rows_max:
                    self._take(transaction, large.digest, large.group)
                    yield from self._leave()
        transaction.close(large.digest)
        self._take(transaction, large.digest, large.group)

    def _leave(self) -> Iterator[Chunk]:
        """All accepted rows, in frames of the size asked for; findings and figures go with the first."""
        frame = self._accepted.frame()
        for part in list(frame.iter_slices(self._settings.rows_max)) or [frame]:
            yield Chunk(part, [], self._quarantined, dict(self._figures))
            self._quarantined, self._figures = [], Counter()
