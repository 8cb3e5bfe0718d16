"""Transaction sets of an X12 file, one at a time, with what their envelope says of them.

Owns where a set begins and ends, and its counts. Never reads what is in it. The envelope and its codes are those of the
claims family.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from adapters.sources.purchasing import QUANTITY_PLACES, Unfit, decimal_of, scaled
from adapters.sources.source import Quarantined
from adapters.sources.x12.envelope import Envelope
from adapters.sources.x12.findings import FINDINGS_PER_ENVELOPE_MAX
from adapters.sources.x12.segments import ELEMENT, blocks
from adapters.sources.x12.values import number, text

SEGMENTS_MAX = 200_000  # of one set


class Segment(NamedTuple):
    """One segment, with its position in its set, counted from 1 at ST."""

    position: int
    elements: list[str]

    @property
    def tag(self) -> str:
        return self.elements[0].strip()

    def at(self, index: int) -> str:
        """An element's text, "" where the segment is shorter."""
        return text(self.elements[index]) if index < len(self.elements) else ""

    def unfit(self, code: str, index: int) -> Unfit:
        """A fault whose place is that element."""
        return Unfit(code, self.position, index)

    def required(self, index: int) -> str:
        """An element that identifies something. Raises Unfit when it is empty."""
        found = self.at(index)
        if not found:
            raise self.unfit("missing_element", index)
        return found

    def decimal(self, index: int) -> Decimal:
        """An element with an explicit decimal point or none. Raises Unfit."""
        value = decimal_of(self.at(index))
        if value is None:
            raise self.unfit("bad_amount", index)
        return value

    def quantity(self, index: int) -> int:
        """A quantity in thousandths. Raises Unfit."""
        thousandths = scaled(self.decimal(index), QUANTITY_PLACES)
        if thousandths is None:
            raise self.unfit("bad_amount", index)
        return thousandths

    def pair(self, first: int, qualifier: str) -> str:
        """The value behind a qualifier, in a list of pairs that begins at `first`; "" without it."""
        places = (i for i in range(first, len(self.elements) - 1, 2) if self.at(i) == qualifier)
        return next((self.at(i + 1) for i in places), "")


class TransactionSet(NamedTuple):
    """The segments from ST to SE, both left out; `unfit` when the set is not whole."""

    ordinal: int
    code: str
    group: tuple[str, ...]
    segments: list[Segment]
    unfit: Unfit | None

    @property
    def sender(self) -> str:
        """GS02, or "" without a group."""
        return self.group[2] if len(self.group) > 2 else ""

    @property
    def receiver(self) -> str:
        """GS03, or "" without a group."""
        return self.group[3] if len(self.group) > 3 else ""

    def all(self, tag: str) -> list[Segment]:
        """Its segments of that tag."""
        return [segment for segment in self.segments if segment.tag == tag]

    def sole(self, tag: str) -> Segment:
        """The segment that a set of this kind has exactly once. Raises Unfit."""
        found = self.all(tag)
        if len(found) != 1:
            raise found[1].unfit("repeated_segment", 0) if found else Unfit(f"missing_{tag.lower()}", 1, 0)
        return found[0]


def transaction_sets(path: Path) -> Iterator[TransactionSet | Quarantined]:
    """The file's sets in order, and what is wrong in its envelope. Raises FrameError for what is no X12 at all."""
    collector = _Collector()
    with path.open("rb") as file:
        for block in blocks(file):
            for raw in block.segments:
                yield from collector.take(raw.split(ELEMENT))
    yield from collector.end()


class _Collector:
    """Holds one set while it is being read."""

    def __init__(self) -> None:
        self._sets = self._position = self._length = self._findings = 0
        self._found: list[Quarantined] = []
        self._envelope = Envelope(self._find)
        self._st: Segment | None = None
        self._segments: list[Segment] = []

    def take(self, elements: list[str]) -> Iterator[TransactionSet | Quarantined]:
        """One more segment of the file, and what it completes."""
        self._position += 1
        tag = elements[0].strip()
        if tag == "SE" and self._st:
            self._length += 1
            yield self._closed(self._end_fault(Segment(self._length, elements)))
        elif tag == "ST" or tag in self._envelope.handlers:
            yield from self._lost_end()
            self._open(tag, elements)
        elif self._st is None:
            self._find(self._position, 0, "stray_segment")
        else:
            self._length += 1
            if self._length <= SEGMENTS_MAX:
                self._segments.append(Segment(self._length, elements))
        yield from self._told()

    def end(self) -> Iterator[TransactionSet | Quarantined]:
        """The file ends: a set that is still open can't be whole, and an envelope that is may have lost some."""
        yield from self._lost_end()
        self._envelope.end(self._position + 1)
        if not self._sets:
            self._find(self._position + 1, 0, "no_transaction_set")
        yield from self._told()

    def _lost_end(self) -> Iterator[TransactionSet]:
        if self._st:
            yield self._closed(Unfit("missing_se", self._length, 0))

    def _find(self, position: int, index: int, code: str) -> None:
        self._findings += 1
        if self._findings <= FINDINGS_PER_ENVELOPE_MAX:
            self._found.append(Quarantined(0, position, index, code))

    def _told(self) -> Iterator[Quarantined]:
        found, self._found = self._found, []
        yield from found

    def _open(self, tag: str, elements: list[str]) -> None:
        if tag == "ST":
            self._st, self._segments, self._length = Segment(1, elements), [], 1
            self._sets += 1
            self._envelope.count_set(self._position)
        else:
            self._envelope.handlers[tag](elements, self._position)

    def _end_fault(self, se: Segment) -> Unfit | None:
        if self._length > SEGMENTS_MAX:
            return se.unfit("too_large", 0)
        if number(se.at(1)) != self._length:
            return se.unfit("wrong_segment_count", 1)
        return se.unfit("wrong_set_number", 2) if se.at(2) != self._st.at(2) else None

    def _closed(self, unfit: Unfit | None) -> TransactionSet:
        group = tuple(map(text, self._envelope.group))
        closed = TransactionSet(self._sets, self._st.at(1), group, self._segments, unfit)
        self._st, self._segments = None, []
        return closed
