"""Inputs that are files, and how one is recognised.

Owns the table of formats: adding one is a reader and a line here. Never validates and never sends.
"""

from pathlib import Path

from adapters.sources import rows, synthea
from adapters.sources.source import Chunk, ControlTotal, KindTotal, Reader, Source, SourceFault, SourceSettings
from runtime.errors import FrameError
from runtime.schema import COLUMNS

__all__ = ["FORMATS", "Chunk", "ControlTotal", "KindTotal", "Source", "SourceFault", "SourceSettings", "open_source"]

FORMATS: dict[str, Reader] = {
    "synthea": synthea.read,
    "jsonl": rows.read_jsonl,
    "csv": rows.read_csv,
    "parquet": rows.read_parquet,
    "arrow": rows.read_arrow,
}
_HEAD_BYTES = 4096
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}


def open_source(path: str | Path, format: str | None = None, **settings: object) -> Source:
    """Open a file of a named format, or of the one its content shows. `settings` are those of SourceSettings.

    Raises FrameError for a file that can't be read or whose format is not known.
    """
    head = _head(Path(path))
    name = format or _recognise(head)
    if name not in FORMATS:
        raise FrameError("unknown_format", "", f"known formats: {', '.join(FORMATS)}")
    return Source(Path(path), FORMATS[name], SourceSettings(**settings), name)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise FrameError("unreadable_file", "", f"{path}: {error.strerror}") from None


def _recognise(head: bytes) -> str:
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if text.startswith("{"):
        return "jsonl"
    header = {name.strip('" \r') for name in text.partition("\n")[0].split(",")}
    if header.issuperset(synthea.SIGNATURE):
        return "synthea"
    return "csv" if header & set(COLUMNS) else ""
