"""Inputs that are files, and how one is recognised.

Owns the table of format families: adding one is a module with FORMATS and `recognise`, and its name here. Never
validates and never sends.
"""

import stat
from pathlib import Path

from adapters.sources import bank, cards, rows, synthea, ubl, x12, x12_procurement
from adapters.sources.source import (
    Chunk,
    ControlTotal,
    KindTotal,
    Quarantined,
    Reader,
    Source,
    SourceFault,
    SourceSettings,
)
from runtime.errors import FrameError

__all__ = [
    "FORMATS",
    "NAMES_ENTITIES",
    "Chunk",
    "ControlTotal",
    "KindTotal",
    "Quarantined",
    "Source",
    "SourceFault",
    "SourceSettings",
    "open_source",
    "recognise",
]

# Asked in this order, the most particular first: X12 of purchasing is X12, and a card report is a CSV.
_FAMILIES = (x12_procurement, x12, ubl, bank, cards, synthea, rows)
FORMATS: dict[str, Reader] = {name: reader for family in _FAMILIES for name, reader in family.FORMATS.items()}
NAMES_ENTITIES = frozenset(rows.FORMATS)  # formats whose rows name their entity
_HEAD_BYTES = 16_384


def recognise(path: Path) -> str:
    """The format that a file's content shows; "" when none does. FrameError for a file that can't be read."""
    return _recognised(_head(path))


def open_source(path: str | Path, format: str | None = None, **settings: object) -> Source:
    """Open a file of a named format, or of the one its content shows. `settings` are those of SourceSettings.

    Raises FrameError for a file that can't be read or whose format is not known.
    """
    head = _head(Path(path))
    name = format or _recognised(head)
    if name not in FORMATS:
        raise FrameError("unknown_format", "", f"{format or path}: not one of the known formats: {', '.join(FORMATS)}")
    return Source(Path(path), FORMATS[name], SourceSettings(**settings), name)


def _recognised(head: bytes) -> str:
    return next((found for family in _FAMILIES if (found := family.recognise(head))), "")


def _head(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe gives its content once, and most formats are read twice: the second reading would find nothing.
            raise FrameError("unreadable_file", "", f"{path}: not a regular file; save its content as one first")
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise FrameError("unreadable_file", "", f"{path}: {error.strerror}") from None
