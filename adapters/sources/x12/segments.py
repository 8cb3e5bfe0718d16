"""X12 bytes as segments: where they start and end, whichever separators an interchange chose.

Owns tokens, leniently: text and a byte order mark before the header, line ends and indentation anywhere, newlines as
terminators, a missing, short or overlong ISA, another interchange with other separators. Never judges what a segment
says, and keeps one block of a file at a time.

Own code, because no library serves: pyx12 4.0.0 reads 127,000 segments/s (some 6,000 claims/s for splitting alone),
refuses 6 of the 19 collected 835 files (short or missing ISA, text before it, bytes beyond ASCII) and quotes content
in its errors; linuxforhealth-x12 refuses valid files; edi-835-parser keeps the last BPR of several sets.

Segments leave with the same separators always, so that nobody behind this module asks which ones a file has, and the
same content under other separators is the same text. Bytes are read as Latin-1, one character each: nothing is
undecodable, and `values.text` gives UTF-8 its letters back.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from runtime.errors import FrameError

ELEMENT, SEGMENT, COMPONENT = "\x1d", "\x1e", "\x1f"
BLOCK_BYTES = 1 << 20
SEGMENT_BYTES_MAX = 1 << 22
_WINDOW_BYTES = 1 << 14  # within which an interchange shows its terminator
_LINE_ENDS = b"\r\n"
_DEFAULT_COMPONENT = b":"

_SEPARATOR = rb"([^A-Za-z0-9\s.,;\"'()-])"
_HEADER = re.compile(rb"(?<![A-Za-z0-9])(?:ISA|GS|ST)" + _SEPARATOR + rb"[A-Z0-9]{2,3}\1")
_ISA = re.compile(rb"(?s)ISA" + _SEPARATOR + rb"\d\d\1.{0,10}?\1\d\d\1")


class Delimiters(NamedTuple):
    """The separators of one interchange, each one byte."""

    element: bytes
    component: bytes
    terminator: bytes


class Block(NamedTuple):
    """A run of whole segments under the same separators, and where in the file it starts."""

    offset: int
    delimiters: Delimiters
    segments: list[str]


def find_header(head: bytes) -> int:
    """Where the first ISA, GS or ST starts, or -1."""
    found = _HEADER.search(head)
    return found.start() if found else -1


def detect(raw: bytes) -> Delimiters | None:
    """The separators of an interchange whose header starts `raw`; None when nothing tells where a segment ends.

    ST and IEA hold letters and digits only, so what follows them is the terminator. The ISA's own length does not
    tell: trimmed and padded ones are common.
    """
    element = _HEADER.match(raw)[1]
    separator = re.escape(element)
    plain = rb"(?:ST|IEA)(?:%s[A-Za-z0-9]*)+ *([^A-Za-z0-9 %s])" % (separator, separator)
    ending = re.search(rb"(?:^|[^A-Za-z0-9%s])%s" % (separator, plain), raw)
    if not ending:
        return None
    last = raw[: raw.find(ending[1])][-1:] if raw.startswith(b"ISA") else element
    return Delimiters(element, _DEFAULT_COMPONENT if last == element or last.isalnum() else last, ending[1])


def blocks(file: BinaryIO, offset: int = 0, delimiters: Delimiters | None = None) -> Iterator[Block]:
    """The file's segments from `offset` on. With `delimiters` a segment starts there; else the header is looked for.

    Raises FrameError where no header or no segment's end can be found.
    """
    file.seek(offset)
    raw = file.read(BLOCK_BYTES)
    if delimiters is None:
        start = find_header(raw)
        if start < 0:
            raise FrameError("malformed", "", "no X12 header")
        raw, offset = raw[start:], offset + start
    while raw or (raw := file.read(BLOCK_BYTES)):
        fresh = file.read(BLOCK_BYTES)
        raw += fresh
        used = 0
        for block, end in _whole(raw, bool(fresh), delimiters):
            used, delimiters = end, block.delimiters
            yield block._replace(offset=offset + block.offset)
        if not used and len(raw) > SEGMENT_BYTES_MAX:
            raise FrameError("malformed", "", f"a segment is longer than {SEGMENT_BYTES_MAX} bytes")
        raw, offset = raw[used:], offset + used


def _whole(raw: bytes, goes_on: bool, delimiters: Delimiters | None) -> Iterator[tuple[Block, int]]:
    """What of `raw` can be cut into whole segments, an interchange a block, and how much of it that uses up."""
    for start, end in pairwise([0, *_interchanges(raw), len(raw)]):
        is_last = goes_on and end == len(raw)
        if delimiters is None or _ISA.match(raw, start):
            if is_last and end - start < _WINDOW_BYTES:
                return
            # Another interchange's header says nothing about this one, unless nothing else does.
            until = len(raw) if delimiters is None else end
            delimiters = detect(raw[start : min(until, start + _WINDOW_BYTES)]) or delimiters
        if delimiters is None:
            raise FrameError("malformed", "", "no X12 segment terminator")
        if is_last:
            end = max(raw.rfind(byte, start) for byte in _endings(delimiters)) + 1
        if end > start:
            yield Block(start, delimiters, _split(raw[start:end], delimiters)), end


def _interchanges(raw: bytes) -> Iterator[int]:
    """Where further interchanges start: an ISA that is no element of another segment."""
    at = raw.find(b"ISA", 1)
    while at > 0:
        header = _ISA.match(raw, at)
        if header and (raw[at - 1] in _LINE_ENDS or raw[max(0, at - 64) : at].rstrip()[-1:] not in (header[1], b"")):
            yield at
        at = raw.find(b"ISA", at + 3)


def _endings(delimiters: Delimiters) -> list[bytes]:
    """Where newlines end segments, either of their two bytes does."""
    return [b"\r", b"\n"] if delimiters.terminator in _LINE_ENDS else [delimiters.terminator]


def _split(raw: bytes, delimiters: Delimiters) -> list[str]:
    table, dropped = _translation(delimiters)
    text = raw.translate(table, dropped).decode("latin-1")
    return [stripped for segment in text.split(SEGMENT) if (stripped := segment.strip(" "))]


@lru_cache(maxsize=64)
def _translation(delimiters: Delimiters) -> tuple[bytes, bytes]:
    """A byte table that gives the separators their fixed form and blanks other control bytes; and the bytes to drop.

    Line ends are dropped even inside elements: some senders wrap their files at 80 columns.
    """
    table = bytearray(range(256))
    table[:32], table[127] = b" " * 32, ord(" ")
    endings = _endings(delimiters)
    for byte, fixed in [
        (delimiters.component, COMPONENT),
        (delimiters.element, ELEMENT),
        *((ending, SEGMENT) for ending in endings),
    ]:
        table[byte[0]] = ord(fixed)
    return bytes(table), b"" if delimiters.terminator in _LINE_ENDS else _LINE_ENDS
