"""Files in Penstock's own columns: JSON lines, CSV, Parquet and Arrow.

Owns reading them row by row with places for faults. Never validates an event: what can be read goes to the gateway.
Amounts and quantities are integers in all four; a decimal or a float is a fault, never rounded.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from adapters.arrow_views import sound
from adapters.sources.delimited import header_of, read_text
from adapters.sources.source import Chunk, Reader, RowTest, SourceFault, SourceSettings, divide
from runtime.errors import FrameError
from runtime.schema import COLUMNS, REQUIRED, SCHEMA_VERSION, UTC_MS, conform, told_name

LINE_BYTES_MAX = 64 * 1024

_INTEGER = r"^-?\d{1,19}$"
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_INSTANT = _INT64 | Annotated[datetime, msgspec.Meta(tz=True)]
_JSON_TYPES = {pl.String(): str, pl.Int64(): _INT64, pl.Int32(): _INT64, UTC_MS: _INSTANT, pl.Date(): date}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A JSON row as a type: the decoder's error then names the column, and no value.
_JsonRow = msgspec.defstruct(
    "_JsonRow",
    [
        (name, _JSON_TYPES[dtype] | None, SCHEMA_VERSION if name == "schema_version" else None)
        for name, dtype in COLUMNS.items()
    ],
    forbid_unknown_fields=True,
    gc=False,
)


def read_jsonl(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
    """One JSON object a line; instants as RFC 3339 text or integer milliseconds."""
    decoder = msgspec.json.Decoder(_JsonRow)
    rows, faults = [], []
    for number, line in _bounded_lines(path):
        row = _json_row(decoder, number, line)
        (faults if isinstance(row, SourceFault) else rows).append(row)
        if len(rows) + len(faults) >= settings.rows_max:
            yield Chunk(_frame_of(rows), faults)
            rows, faults = [], []
    if rows or faults:
        yield Chunk(_frame_of(rows), faults)


def _bounded_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Lines that hold anything; None instead of one beyond the limit, which is skipped and not kept."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                while line and not line.endswith(b"\n"):
                    line = file.readline(LINE_BYTES_MAX + 1)
                yield number, None
            elif line.strip():
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _json_row(decoder: msgspec.json.Decoder, number: int, line: bytes | None) -> msgspec.Struct | SourceFault:
    if line is None:
        return SourceFault(number, "", "too_long", f"at most {LINE_BYTES_MAX} bytes a line")
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        return _json_fault(number, str(error))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return SourceFault(number, "", "malformed", "not a JSON object")


def _json_fault(number: int, text: str) -> SourceFault:
    message, _, place = text.partition(" - at `$.")
    if unknown := re.search(r"unknown field `(.*)`", message):
        return SourceFault(number, told_name(unknown[1]), "unknown_column", "not a canonical column")
    column = place.rstrip("`")
    return SourceFault(number, column, "wrong_type" if column else "malformed", message)


def _frame_of(rows: list) -> pl.DataFrame:
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    columns["occurred_at"] = [_milliseconds(instant) for instant in columns["occurred_at"]]
    stored = {name: pl.Int64() if dtype in (UTC_MS, pl.Int32()) else dtype for name, dtype in COLUMNS.items()}
    return conform(pl.DataFrame(columns, schema=stored))


def _milliseconds(instant: int | datetime | None) -> int | None:
    if not isinstance(instant, datetime):
        return instant
    elapsed = instant - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1000 + elapsed.microseconds // 1000


def read_csv(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
    """Canonical columns by name in the header; instants as RFC 3339 text in UTC or integer milliseconds."""
    header = header_of(path)
    if unknown := [name for name in header if name not in COLUMNS]:
        place = told_name(unknown[0], header.index(unknown[0]) + 1)
        raise FrameError("unknown_column", place, "not a canonical column; put source data into attributes")
    if missing := [name for name in REQUIRED if name not in header]:
        raise FrameError("missing_column", missing[0], "every event needs this column")
    for text, broken in read_text(path, header, settings.rows_max):
        parsed = text.with_columns(_parsed(name).alias(f"_{name}") for name in header)
        good, faults = divide(parsed, [_csv_test(name) for name in header])
        frame = good.select(pl.col(f"_{name}").alias(name) for name in header)
        yield Chunk(conform(_with_version(frame)), sorted(broken + faults))


def _parsed(name: str) -> pl.Expr:
    """A text column in its own type; null where the text is not of it."""
    column, dtype = pl.col(name), COLUMNS[name]
    if dtype == pl.String():
        return column
    if dtype == pl.Date():
        return column.str.to_date("%Y-%m-%d", strict=False)
    integer = pl.when(column.str.contains(_INTEGER)).then(column).cast(pl.Int64(), strict=False)
    if dtype != UTC_MS:
        return integer.cast(dtype, strict=False)
    instant = column.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", strict=False)
    return pl.coalesce(integer.cast(pl.Datetime("ms")), instant.cast(pl.Datetime("ms"))).dt.replace_time_zone("UTC")


def _csv_test(name: str) -> RowTest:
    expected = {pl.Date(): "a date YYYY-MM-DD", UTC_MS: "YYYY-MM-DDTHH:MM:SSZ or integer milliseconds"}
    unread = pl.col(name).is_not_null() & pl.col(f"_{name}").is_null()
    return RowTest(unread, name, "wrong_type", f"expected {expected.get(COLUMNS[name], 'an integer')}")


def _with_version(frame: pl.DataFrame) -> pl.DataFrame:
    """An empty version means the present one, as does a missing column."""
    if "schema_version" not in frame.columns:
        return frame
    return frame.with_columns(pl.col("schema_version").fill_null(SCHEMA_VERSION))


def read_parquet(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
    """Row groups in batches. A column of a wrong type is a FrameError, as it is wrong in every row."""
    with _readable("parquet"), pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=settings.rows_max):
            yield Chunk(_conformed(batch), [])


def read_arrow(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
    """An Arrow IPC file or stream, batch by batch."""
    with _readable("arrow"), pa.memory_map(str(path)) as file:
        for batch in _batches(file):
            for start in range(0, batch.num_rows, settings.rows_max):
                yield Chunk(_conformed(batch.slice(start, settings.rows_max)), [])


def _batches(file: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    if not is_file:
        yield from pa.ipc.open_stream(file)
        return
    reader = pa.ipc.open_file(file)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def _conformed(batch: pa.RecordBatch) -> pl.DataFrame:
    # Only Arrow checks the lengths that a file claims; Polars would trust them.
    batch.validate(full=True)
    read = pa.RecordBatch.from_arrays([sound(column) for column in batch.columns], schema=batch.schema)
    return conform(pl.DataFrame(pl.from_arrow(read)))


@contextmanager
def _readable(form: str) -> Iterator[None]:
    """Turns the libraries' errors, whose texts may quote content, into a FrameError without any."""
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError):
        raise FrameError("malformed", "", f"not a readable {form} file") from None


FORMATS: dict[str, Reader] = {"jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet, "arrow": read_arrow}
_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}


def recognise(head: bytes) -> str:
    """The format that these first bytes show, or nothing."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    if text.startswith("{"):
        return "jsonl"
    header = {name.strip('" \r') for name in text.partition("\n")[0].split(",")}
    return "csv" if header & set(COLUMNS) else ""
