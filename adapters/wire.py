"""Turns what producers send into frames: protobuf rows, feed messages, Arrow.

Owns types and shapes: afterwards every column has its canonical type, or the row or the frame was refused with a code
and a column. Never decides whether a value is allowed (`runtime.validation` does), and never repeats one.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from adapters import arrow_metadata, arrow_views
from runtime.errors import FrameError
from runtime.limits import Limits
from runtime.ports import FeedMessage
from runtime.schema import (
    ARROW_COLUMNS,
    COLUMNS,
    SCHEMA_VERSION,
    UTC_MS,
    WORD_COLUMNS,
    Event,
    Fault,
    Few,
    Incoming,
    Parsed,
    conform,
    conform_arrow,
    told_name,
)
from runtime.words import plain

_INTEGERS = tuple(name for name, dtype in COLUMNS.items() if dtype.is_integer())
_INT64 = range(-(2**63), 2**63)
DAYS_REMEMBERED = 1_024


# ── protobuf rows ──────────────────────────────────────────────────────────────────────────────────────────────────

_FIELDS = {name: "occurred_at_ms" if name == "occurred_at" else name for name in COLUMNS}
_WITH_PRESENCE = ("amount_minor", "quantity", "occurred_at")
_read_row = attrgetter(*_FIELDS.values())
_EFFECTIVE_ON, _VERSION = map(list(COLUMNS).index, ("effective_on", "schema_version"))
_PRESENT = [(list(COLUMNS).index(name), _FIELDS[name]) for name in _WITH_PRESENCE]
_NULL_TEXT = pa.scalar(None, pa.large_string())
_EPOCH = date(1970, 1, 1).toordinal()
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def from_rows(events: Sequence[Any], limits: Limits) -> Incoming:
    """The events of `penstock.v1.FinancialEvent` messages. Only an accounting date can be unreadable there."""
    _check_rows(len(events), limits)
    if not events:
        raise FrameError("empty_frame", "", "a frame needs at least one event")
    rows = list(events)
    columns = {name: _column(name, list(map(attrgetter(field), rows)), rows) for name, field in _FIELDS.items()}
    columns["effective_on"], faults = _days(columns["effective_on"])
    read = pa.RecordBatch.from_arrays(list(columns.values()), schema=ARROW_COLUMNS)
    left = np.delete(np.arange(len(rows)), [fault.row for fault in faults])
    return Incoming(read.take(pa.array(left)) if faults else read, left, faults)


def _column(name: str, values: list, rows: Sequence[Any]) -> pa.Array:
    """A field of all messages; dates stay texts."""
    if name == "schema_version":
        values = [version or SCHEMA_VERSION for version in values] if 0 in values else values
    elif name in _WITH_PRESENCE:
        values = _unset_to_none(values, rows, _FIELDS[name])
    elif not any(values):
        return pa.nulls(len(values), pa.large_string())
    dtype = pa.large_string() if name == "effective_on" else ARROW_COLUMNS.field(name).type
    array = pa.array(values, dtype)
    return pc.replace_with_mask(array, pc.equal(array, ""), _NULL_TEXT) if "" in values else array


def from_few_rows(events: Sequence[Any]) -> Few:
    """`from_rows` of so few messages that columns would cost more than the events."""
    few = Few([], [], [])
    for row, event in enumerate(events):
        read = _event(event)
        if read is None:
            few.faults.append(Fault(row, *_NO_DAY.at("effective_on")))
        else:
            few.events.append(read)
            few.rows.append(row)
    return few


def _event(message: Any) -> Event | None:
    """One message's values; None when its accounting date can't be read."""
    values = [value or None for value in _read_row(message)]
    for place, field in _PRESENT:
        if values[place] is None and message.HasField(field):
            values[place] = 0
    values[_VERSION] = values[_VERSION] or SCHEMA_VERSION
    if values[_EFFECTIVE_ON]:
        day = _day_of(values[_EFFECTIVE_ON])
        if day is None:
            return None
        values[_EFFECTIVE_ON] = day.toordinal() - _EPOCH
    return tuple(values)


def _days(texts: pa.LargeStringArray) -> tuple[pa.Array, list[Fault]]:
    """Dates of texts, and the rows where a text is no date. Each distinct text is read once."""
    coded = texts.dictionary_encode()
    days = pa.array(map(_day_of, coded.dictionary.to_pylist()), pa.date32()).take(coded.indices)
    unread = np.flatnonzero(pc.and_not(texts.is_valid(), days.is_valid()).to_numpy(zero_copy_only=False))
    return days, [Fault(row, *_NO_DAY.at("effective_on")) for row in unread.tolist()]


@lru_cache(maxsize=DAYS_REMEMBERED)
def _day_of(text: str) -> date | None:
    """The date of a text like 2026-10-31; None when it is none. Most events are of few days."""
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None


def _unset_to_none(values: Sequence[int], events: Sequence[Any], field: str) -> Sequence[int | None]:
    if 0 not in values:
        return values
    return [value if value or event.HasField(field) else None for value, event in zip(values, events, strict=True)]


def _parsed(frame: pl.DataFrame, faults: list[Fault]) -> Parsed:
    """The frame without the rows at fault, the others numbered."""
    whole = conform(frame).hstack([pl.Series("row", np.arange(frame.height))])
    if not faults:
        return Parsed(whole, faults)
    return Parsed(whole.filter(~pl.col("row").is_in([fault.row for fault in faults])), faults)


def _check_rows(count: int, limits: Limits) -> None:
    if count > limits.frame_rows_max:
        raise FrameError("too_many_rows", "", f"at most {limits.frame_rows_max} events in one frame")


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.frame_bytes_max:
        raise FrameError("too_large", "", f"at most {limits.frame_bytes_max} bytes in one frame")


# ── feed messages ──────────────────────────────────────────────────────────────────────────────────────────────────

Record = dict[str, Any]


class _Unfit(NamedTuple):
    """What is wrong with one value, said without it."""

    code: str
    message: str

    def at(self, column: str) -> tuple[str, str, str]:
        return self.code, column, self.message


_NO_TEXT = _Unfit("wrong_type", "expected text")
_NO_INTEGER = _Unfit("wrong_type", "expected an integer")
_NO_INSTANT = _Unfit("wrong_type", "expected a time with its UTC offset, or integer milliseconds")
_NO_DAY = _Unfit("wrong_type", "expected a date like 2026-10-31")
_TOO_DEEP = _Unfit("too_deep", "too many values within each other")
_OVERFLOW = _Unfit("overflow", "larger than 64-bit signed")
_START, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_NO_OBJECT = ("malformed_json", "", "expected a JSON object")


def from_redis(messages: Sequence[FeedMessage]) -> Parsed:
    """A frame of feed messages: a field `event` with a JSON object, or one field a column, numbers as decimal text."""
    return _from_records([_feed_record(message.fields) for message in messages])


def _feed_record(fields: dict[bytes, bytes]) -> Record | Fault | None:
    if fields.keys() == {b"event"}:
        return _json_or_none(fields[b"event"])
    try:
        record: Record = {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        return Fault(0, "malformed_text", "", "expected UTF-8")
    for name in (*_INTEGERS, "occurred_at"):
        if re.fullmatch(r"-?\d{1,19}", record.get(name) or "", re.ASCII):
            record[name] = int(record[name])
    return {name: value for name, value in record.items() if value != ""}


def _json_or_none(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _from_records(found: Sequence[Any]) -> Parsed:
    """One frame of all records that can be read; the others become faults at their place."""
    faults: dict[int, Fault] = {}
    records: list[Record] = []
    for row, record in enumerate(found):
        fault = _misshapen(record)
        if fault:
            faults[row] = fault._replace(row=row)
        records.append({} if fault else record)
    columns = {name: _read_column(name, records, faults) for name in COLUMNS}
    frame = pl.DataFrame(columns, schema=COLUMNS)
    return _parsed(frame, [faults[row] for row in sorted(faults)])


def _misshapen(record: Any) -> Fault | None:
    if isinstance(record, Fault):
        return record
    if not isinstance(record, dict):
        return Fault(0, *_NO_OBJECT)
    for number, name in enumerate(record, 1):
        if name not in COLUMNS:
            place = told_name(name, number)
            return Fault(0, "unknown_column", place, "not a canonical column; put source data into attributes")
    return None


def _read_column(name: str, records: list[Record], faults: dict[int, Fault]) -> list[Any]:
    """The column's values in their canonical type; what can't be read is None and, first fault of its row, noted."""
    values = [record.get(name) for record in records]
    if name == "schema_version":
        values = [SCHEMA_VERSION if value is None else value for value in values]
    read, ready = _READERS.get(name) or _BY_TYPE[COLUMNS[name]]
    if set(map(type, values)) <= ready:
        return values
    for row, value in enumerate(values):
        result = None if value is None else read(value)
        if isinstance(result, _Unfit):
            faults.setdefault(row, Fault(row, *result.at(name)))
            result = None
        values[row] = result
    return values


def _text(value: Any) -> str | _Unfit:
    return value if isinstance(value, str) else _NO_TEXT


def _attributes(value: Any) -> str | _Unfit:
    if not isinstance(value, dict):
        return _text(value)
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:  # it writes no object as deep as it reads
        return _TOO_DEEP


def _integer(value: Any) -> int | _Unfit:
    if type(value) is not int:
        return _NO_INTEGER
    return value if value in _INT64 else _OVERFLOW


def _version(value: Any) -> int | _Unfit:
    number = _integer(value)
    return number if isinstance(number, _Unfit) or abs(number) < 2**31 else _OVERFLOW


def _instant(value: Any) -> int | datetime | _Unfit:
    if type(value) is int:
        return _integer(value)
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return _NO_INSTANT
    return _NO_INSTANT if moment.tzinfo is None else (moment - _START) // _MILLISECOND


def _day(value: Any) -> date | _Unfit:
    return (_day_of(value) if isinstance(value, str) else None) or _NO_DAY


# How a value is read, and the types of a column that needs no reading.
_Reader = tuple[Callable[[Any], Any], frozenset[type]]
_NONE = type(None)
_BY_TYPE: dict[pl.DataType, _Reader] = {
    pl.String(): (_text, frozenset((str, _NONE))),
    pl.Int64(): (_integer, frozenset((_NONE,))),
    UTC_MS: (_instant, frozenset((_NONE,))),
    pl.Date(): (_day, frozenset((_NONE,))),
    pl.Int32(): (_version, frozenset((_NONE,))),
}
_READERS: dict[str, _Reader] = {"attributes": (_attributes, frozenset((str, _NONE)))}


# ── Arrow ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_FILE_MAGIC = b"ARROW1\0\0"


def from_arrow(data: bytes, limits: Limits) -> pa.RecordBatch:
    """The canonical columns of one Arrow IPC stream or file.

    Everything that could grow on reading is refused first: compressed bodies, texts that many rows share, columns of
    nothing with a great many rows.
    """
    _check_bytes(len(data), limits)
    # The readers meet hostile bytes with whatever comes: Arrow's, Python's and Polars' own errors, and panics.
    try:
        table = _table_of(data)
        _check_rows(table.num_rows, limits)
        _check_columns(table)
        table.validate(full=True)
        return conform_arrow(_written_out(table, limits))
    except FrameError:
        raise
    except (Exception, pl.exceptions.PanicException):
        raise FrameError("malformed_frame", "", "not an Arrow IPC stream or file") from None


def _table_of(data: bytes) -> pa.Table:
    is_file = data.startswith(_FILE_MAGIC)
    reader = pa.ipc.open_file(data) if is_file else pa.ipc.open_stream(data)
    if arrow_metadata.is_compressed(data, is_file):
        raise FrameError("compressed", "", "send frames uncompressed, or compress the call")
    table = reader.read_all()
    table.validate()
    return table


def _check_columns(table: pa.Table) -> None:
    names = table.column_names
    for name, column in zip(names, table.columns, strict=True):
        if names.count(name) > 1:
            raise FrameError("duplicate_column", name[:64], "stands twice")
        if pa.types.is_nested(column.type):
            raise FrameError("wrong_type", name[:64], "nested columns are not events")
        if pa.types.is_timestamp(column.type) and column.type.unit == "s":
            raise FrameError("wrong_type", name[:64], "expected milliseconds or finer")


def _written_out(table: pa.Table, limits: Limits) -> pa.Table:
    """The table with plain texts for dictionaries, but for those of words, and with sound views, none larger than a
    frame may be when written out."""
    for place, field in enumerate(table.schema):
        read = _decoded if pa.types.is_dictionary(field.type) else _sound
        if pa.types.is_dictionary(field.type) or pa.types.is_string_view(field.type):
            chunks = [read(chunk, field.name, limits) for chunk in table.column(place).chunks]
            one = len(chunks) == 1 and field.name in WORD_COLUMNS
            table = table.set_column(place, field.name, pa.chunked_array(chunks if one else map(plain, chunks)))
    return table


def _decoded(texts: pa.DictionaryArray, column: str, limits: Limits) -> pa.Array:
    """Coded as events are coded, or written out where the dictionary is not as it has to be."""
    words = texts.dictionary
    if pa.types.is_string_view(words.type):
        words = _sound(words, column, limits)
    words = words.cast(pa.large_string())
    lengths = pc.binary_length(words)
    shortest, longest = pc.min_max(lengths).as_py().values()
    if (longest or 0) * len(texts) > limits.frame_bytes_max:
        _check_written_size(pc.sum(pc.take(lengths, texts.indices)).as_py() or 0, column, limits)
    blank = words.null_count or not shortest
    if blank or len(words) > len(texts) or pc.count_distinct(words).as_py() < len(words):
        return pc.take(words, texts.indices)
    return pa.DictionaryArray.from_arrays(texts.indices.cast(pa.int32()), words)


def _sound(texts: pa.StringViewArray, column: str, limits: Limits) -> pa.StringViewArray:
    texts = arrow_views.sound(texts)
    _check_written_size(arrow_views.written_bytes(texts), column, limits)
    return texts


def _check_written_size(size: int, column: str, limits: Limits) -> None:
    if size > limits.frame_bytes_max:
        raise FrameError("too_large", column[:64], f"more than {limits.frame_bytes_max} bytes when written out")
