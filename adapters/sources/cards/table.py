"""Settlement files as tables of texts: columns by name, whatever their order, separator and raggedness.

Owns what a row is. A row that lacks cells at its end, or has empty ones too many, is a row; the arithmetic after it
tells whether something is missing. Never turns a text into a number.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import polars as pl

from adapters.sources.delimited import bounded_lines, rows_of, wrong_width
from adapters.sources.source import RowTest, SourceFault, divide
from runtime.errors import FrameError

HEADER_CHARS_MAX = 1 << 16

_REPLACED = "\ufffd"  # what stands where the bytes are no UTF-8
_SEPARATORS = ",;\t"

Names = Mapping[str, Sequence[str]]  # our name of a column -> what it may be called in a header, best first


class Header(NamedTuple):
    """Where the columns are: `places` from 0, by our names."""

    separator: str
    width: int
    places: Mapping[str, int]


class TableChunk(NamedTuple):
    """Columns as texts, empty and absent ones null, plus `line`; and the lines that are no rows."""

    frame: pl.DataFrame
    faults: list[SourceFault]


def read_header(path: Path, names: Names, required: Sequence[str]) -> Header:
    """Find the columns. Raises FrameError for a header without a required one."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline(HEADER_CHARS_MAX)
    separator = max(_SEPARATORS, key=line.count)
    cells = [cell.strip().lower() for cell in next(csv.reader([line], delimiter=separator), [])]
    places = {
        ours: cells.index(name)
        for ours, theirs in names.items()
        if (name := next((t for t in theirs if t in cells), ""))
    }
    for name in required:
        if name not in places:
            raise FrameError("missing_column", names[name][0], "not in the header")
    return Header(separator, len(cells), places)


def read_table(path: Path, names: Names, header: Header, rows_max: int) -> Iterator[TableChunk]:
    """Chunks of at most rows_max lines. A broken line is a fault of its own, the next line goes on."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = _lines(csv.reader(bounded_lines(file), delimiter=header.separator, strict=True), header.width)
        next(lines, None)
        while part := list(islice(lines, rows_max)):
            yield _chunk(part, names, header)


def _lines(reader, width: int) -> Iterator[tuple[int, list[str] | SourceFault]]:
    for line, row in rows_of(reader):
        if isinstance(row, SourceFault):
            yield line, row
        elif any(cell.strip() for cell in row[width:]):
            yield line, wrong_width(line, width, len(row))
        elif any(cell.strip() for cell in row):
            yield line, row[:width] + [""] * (width - len(row))


def _chunk(lines: list[tuple[int, list[str] | SourceFault]], names: Names, header: Header) -> TableChunk:
    faults = [row for _, row in lines if isinstance(row, SourceFault)]
    good = [(line, row) for line, row in lines if isinstance(row, list)]
    present = header.places
    columns = {name: [row[place] for _, row in good] for name, place in present.items()}
    frame = pl.DataFrame(
        {"line": [line for line, _ in good], **columns},
        schema={"line": pl.Int64(), **dict.fromkeys(present, pl.String())},
    )
    tests = [RowTest(pl.col(n).str.contains(_REPLACED, literal=True), n, "malformed", "not UTF-8") for n in present]
    readable, broken = divide(frame, tests)
    stripped = pl.col(list(present)).str.strip_chars()
    absent = [pl.lit(None, pl.String()).alias(name) for name in names if name not in present]
    return TableChunk(
        readable.with_columns(pl.when(stripped != "").then(stripped)).with_columns(absent), faults + broken
    )
