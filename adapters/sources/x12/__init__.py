"""X12: 835, 837, 277CA and 277, 999 and 997 and TA1, several interchanges and sets of any of them in one file.

Owns which of them a file is, and their readers. Adding a set is a class in a module of its own and a line in
`reading.SETS`. Why a set is quarantined, `findings` tells.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from adapters.sources.source import Chunk, Reader, SourceSettings
from adapters.sources.tokens import checked_key
from adapters.sources.x12.reading import ROWS_HELD_MAX, Reading
from adapters.sources.x12.segments import find_header

__all__ = ["FORMATS", "read", "recognise"]

# Format -> the sources whose sets it is about. Sets of other kinds in the same file are read as well; only their
# figures bear their own names.
_SOURCES = {
    "835": frozenset({"835"}),
    "837": frozenset({"837"}),
    "277ca": frozenset({"277ca", "277"}),
    "277": frozenset({"277ca", "277"}),
    "999": frozenset({"999"}),
    "x12": frozenset(),
}
_SET_CODE = re.compile(rb"(?<![A-Za-z0-9])ST([^A-Za-z0-9\s])(835|837|277|999|997)\1")
_FORMAT_OF = {b"835": "835", b"837": "837", b"277": "277", b"999": "999", b"997": "999"}
_ACKNOWLEDGED_CLAIMS = b"005010X214"
_BLANK = b"\xef\xbb\xbf \t\r\n"  # a byte order mark is no text either
_INTERCHANGE_ANSWER = re.compile(rb"(?<![A-Za-z0-9])TA1[^A-Za-z0-9\s]")


def read(
    path: Path, settings: SourceSettings, format: str = "x12", *, rows_held_max: int = ROWS_HELD_MAX
) -> Iterator[Chunk]:
    """Read the file in chunks. Raises FrameError for what is no X12, ConfigError without a token key."""
    checked_key(settings.token_key)
    yield from Reading(path, settings, _SOURCES[format], rows_held_max).chunks()


FORMATS: dict[str, Reader] = {name: partial(read, format=name) for name in _SOURCES}


def recognise(head: bytes) -> str:
    """The format that a file's first bytes show; "" when they are no X12.

    Where sets of several kinds lie in one file, the first of 835, 837, 277 and 999 names it.
    """
    start = find_header(head)
    if start < 0:
        return ""
    codes = {found[2] for found in _SET_CODE.finditer(head)}
    name = next((name for code, name in _FORMAT_OF.items() if code in codes), "")
    if name == "277" and _ACKNOWLEDGED_CLAIMS in head:
        return "277ca"
    # Elsewhere than at the start, a group's or a set's header may be words in a file of another kind.
    is_enveloped = head[start:].startswith(b"ISA") or not head[:start].strip(_BLANK)
    answered = "999" if _INTERCHANGE_ANSWER.search(head) else "x12"
    return name or (answered if is_enveloped else "")
