"""Comma-separated text in chunks: the wanted columns as texts, with each row's line number.

Owns what a broken line is. Never turns a text into a number except exactly: see `minor_units`.
"""

import csv
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TextIO

import polars as pl

from adapters.sources.source import RowTest, SourceFault, divide
from runtime.errors import FrameError

LINE_CHARS_MAX = 1 << 16

# What stands for a longer line: a field that no csv reader takes, so that it is a fault and never a part of a row.
_OVERLONG = "x" * (csv.field_size_limit() + 1) + "\n"
_REPLACED = "\ufffd"  # what stands where the bytes are no UTF-8


class TextChunk(NamedTuple):
    """Columns as texts, empty ones null, plus `line`; and the lines that are no rows."""

    frame: pl.DataFrame
    faults: list[SourceFault]


def header_of(path: Path) -> list[str]:
    """The column names, or FrameError."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            return next(csv.reader(bounded_lines(file), strict=True), [])
        except csv.Error:
            raise FrameError("malformed", "", "line 1: not a header") from None


def read_text(path: Path, wanted: list[str], rows_max: int) -> Iterator[TextChunk]:
    """Chunks of at most rows_max lines. A broken line is a fault of its own, the next line goes on."""
    header = header_of(path)
    if len(set(header)) < len(header):
        raise FrameError("malformed", "", "line 1: two columns have the same name")
    missing = [name for name in wanted if name not in header]
    if missing:
        raise FrameError("missing_column", missing[0], "not in the header")
    pick = itemgetter(*(header.index(name) for name in wanted))
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = _lines(csv.reader(bounded_lines(file), strict=True), len(header))
        next(lines, None)
        while chunk := list(islice(lines, rows_max)):
            yield _chunk(chunk, wanted, pick)


def bounded_lines(file: TextIO) -> Iterator[str]:
    """The file's lines. One beyond the limit is not kept, and is none that a csv reader takes."""
    while line := file.readline(LINE_CHARS_MAX):
        is_whole = len(line) < LINE_CHARS_MAX or line.endswith(("\n", "\r"))
        while len(line) == LINE_CHARS_MAX and not line.endswith(("\n", "\r")):
            line = file.readline(LINE_CHARS_MAX)
        yield line if is_whole else _OVERLONG


def rows_of(reader) -> Iterator[tuple[int, list[str] | SourceFault]]:
    """A csv reader's rows with their line numbers. What is no separated text is a fault, and the next line goes on."""
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error:
            # The reader has skipped to where the quote or the size limit ended; it can go on from there.
            message = f"not separated text, skipped through line {reader.line_num}"
            yield line, SourceFault(line, "", "malformed", message)


def wrong_width(line: int, width: int, got: int) -> SourceFault:
    """A row with another number of columns than the header."""
    return SourceFault(line, "", "malformed", f"expected {width} columns, got {got}")


def _lines(reader, width: int) -> Iterator[tuple[int, list[str] | SourceFault]]:
    for line, row in rows_of(reader):
        if isinstance(row, SourceFault) or len(row) == width:
            yield line, row
        elif row:
            yield line, wrong_width(line, width, len(row))


def _chunk(lines: list[tuple[int, list[str] | SourceFault]], wanted: list[str], pick: itemgetter) -> TextChunk:
    faults = [row for _, row in lines if isinstance(row, SourceFault)]
    good = [(line, row) for line, row in lines if isinstance(row, list)]
    texts = zip(*(pick(row) for _, row in good), strict=True) if good else [()] * len(wanted)
    frame = pl.DataFrame(
        {"line": [line for line, _ in good], **dict(zip(wanted, texts, strict=True))},
        schema={"line": pl.Int64(), **dict.fromkeys(wanted, pl.String())},
    )
    tests = [RowTest(pl.col(n).str.contains(_REPLACED, literal=True), n, "malformed", "not UTF-8") for n in wanted]
    readable, broken = divide(frame, tests)
    empty_to_null = [pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in wanted]
    return TextChunk(readable.with_columns(empty_to_null), faults + broken)


def minor_units(column: pl.Expr, places: int) -> pl.Expr:
    """A decimal text as an integer of 10**-places, exactly; null when it is no such decimal or has more places."""
    parts = column.str.extract_groups(rf"^(-?)(\d{{1,15}})(?:\.(\d{{1,{places}}}))?$")
    whole = parts.struct.field("2").cast(pl.Int64()) * 10**places
    fraction = parts.struct.field("3").fill_null("0").str.pad_end(places, "0").cast(pl.Int64())
    sign = pl.when(parts.struct.field("1") == "-").then(-1).otherwise(1)
    return sign * (whole + fraction)
