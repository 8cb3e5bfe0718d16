"""Cuts what a producer hands over into requests, each with one Arrow frame or a few rows.

Owns the forms of events: dictionaries, messages, frames. Rows are read by columns, as that is several times cheaper,
for the producer and for the gateway, than sending them as they are; only a few go as they are, as a gateway takes them
one by one and appends those of many callers together. A request with a row that columns can't hold is looked through
row by row, and what can't be sent at all is named. Never sends anything.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter
from typing import Any, NamedTuple, Union

import pyarrow as pa
import pyarrow.compute as pc

from penstock.v1 import events_pb2 as v1

ROWS_PER_REQUEST = 8_192
FEW_ROWS = 64  # so many cost less as rows than a frame costs by itself
FRAME_ROWS_PER_REQUEST = 16_384
REQUEST_BYTES_MAX = 16 * 2**20
DAYS_REMEMBERED = 1_024

_INTEGERS = ("amount_minor", "quantity", "schema_version", "occurred_at_ms")
_WITH_PRESENCE = frozenset(("amount_minor", "quantity", "occurred_at_ms"))
_FIELDS = tuple(v1.FinancialEvent.DESCRIPTOR.fields_by_name)
_NAMES = {"occurred_at_ms": "occurred_at"}  # what a row calls a field whose name differs
_COLUMNS = frozenset(_NAMES.get(name, name) for name in _FIELDS)
_REQUIRED = ("event_id", "source", "kind", "entity", "amount_minor", "currency", "occurred_at")
# Columns of few words, which are sent as dictionaries: less to send, and the gateway needs them so.
_WORDS = frozenset(("source", "kind", "entity", "facility", "counterparty", "department", "reason", "currency"))
_NONE = type(None)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NO_TEXT = pa.scalar(None, pa.string())
_START, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)

Row = Mapping[str, Any]
Events = Union[Iterable[Row | v1.FinancialEvent], "polars.DataFrame", pa.Table]  # noqa: F821


class SubmitError(ValueError):
    """Events that can't be sent or read at all. `row` is None when all are concerned. Repeating is of no use."""

    def __init__(self, row: int | None, column: str, message: str, code: str = "") -> None:
        super().__init__(f"{'' if row is None else f'row {row}: '}{f'{column}: ' if column else ''}{message}")
        self.row, self.column, self.message, self.code = row, column, message, code


class Piece(NamedTuple):
    """A request, where its rows start in the submission, and how many they are."""

    request: v1.SubmitRequest
    start: int
    rows: int


class _Odd(Exception):
    """Values that are not all of the type that their column has: somebody must look at them one by one."""


def pieces(events: Events, rows_per_request: int | None) -> Iterator[Piece]:
    """The events as requests, in order. Raises SubmitError for what can't be sent."""
    if any(hasattr(events, name) for name in ("__arrow_c_stream__", "__dataframe__", "to_arrow")):
        yield from _frame_pieces(events, rows_per_request or FRAME_ROWS_PER_REQUEST)
        return
    start, rest = 0, iter(events)
    while rows := list(islice(rest, rows_per_request or ROWS_PER_REQUEST)):
        yield from _row_pieces(rows, start)
        start += len(rows)


def arrow_frame(table: pa.Table) -> bytes:
    """A table of events in the form that costs the gateway least: a stream of one batch, its words in dictionaries."""
    columns = [_packed(table.column(name), name) for name in table.column_names]
    batch = pa.RecordBatch.from_arrays(columns, table.column_names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _packed(column: pa.ChunkedArray, name: str) -> pa.Array:
    whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    # Views and dictionaries of a slice are sent with all texts of the table, so that no slice would be small enough.
    if pa.types.is_dictionary(whole.type) and len(whole.dictionary) > len(whole):
        whole = whole.dictionary_decode()
    if pa.types.is_string_view(whole.type):
        whole = whole.cast(pa.large_string())
    if name in _WORDS and (pa.types.is_string(whole.type) or pa.types.is_large_string(whole.type)):
        return whole.dictionary_encode()
    return whole


def _frame_pieces(frame: Any, rows_per_request: int) -> Iterator[Piece]:
    table = _table_of(frame)
    if "amount_minor" in table.column_names and not pa.types.is_integer(table.schema.field("amount_minor").type):
        raise SubmitError(0 if len(table) else None, "amount_minor", "expected whole minor units as integers")
    for start in range(0, len(table), rows_per_request):
        yield from _fitting(table.slice(start, rows_per_request), start, _arrow_request)


def _table_of(frame: Any) -> pa.Table:
    if hasattr(frame, "to_arrow"):
        return frame.to_arrow(compat_level=_plain_texts())
    return frame if isinstance(frame, pa.Table) else pa.table(frame)


def _plain_texts() -> Any:
    """Polars' level of Arrow without views, which a gateway would have to write out again."""
    from polars import CompatLevel

    return CompatLevel.oldest()


def _row_pieces(rows: list[Row | v1.FinancialEvent], start: int) -> Iterator[Piece]:
    yield from _fitting(*_form(rows, start))


def _form(rows: list[Row | v1.FinancialEvent], start: int) -> tuple[Any, int, Callable[[Any], v1.SubmitRequest]]:
    """The rows as a table or as messages, with what makes a request of them."""
    many = len(rows) > FEW_ROWS
    if many:
        with suppress(_Odd):
            return _columns_of_rows(rows), start, _arrow_request
    messages = [_message(row, start + i) for i, row in enumerate(rows)]
    if many:
        with suppress(_Odd):
            return _columns_of_messages(messages), start, _arrow_request
    return messages, start, _rows_request


def _fitting(part: Any, start: int, build: Callable[[Any], v1.SubmitRequest]) -> Iterator[Piece]:
    """The part as one request, or as two halves while it is too large."""
    request, rows = build(part), len(part)
    if rows == 1 or request.ByteSize() <= REQUEST_BYTES_MAX:
        yield Piece(request, start, rows)
        return
    half = rows // 2
    yield from chain(_fitting(part[:half], start, build), _fitting(part[half:], start + half, build))


def _rows_request(messages: list[v1.FinancialEvent]) -> v1.SubmitRequest:
    return v1.SubmitRequest(rows=v1.EventRows(events=messages))


def _arrow_request(table: pa.Table) -> v1.SubmitRequest:
    return v1.SubmitRequest(arrow_frame=arrow_frame(table))


# ── rows as columns ────────────────────────────────────────────────────────────────────────────────────────────────


def _columns_of_rows(rows: list[Row | v1.FinancialEvent]) -> pa.Table:
    if isinstance(rows[0], v1.FinancialEvent):
        return _columns_of_messages(rows)
    names: set[str] = set()
    try:
        for row in rows:
            names.update(row.keys())
        given = {name: [row.get(name) for row in rows] for name in names}
    except (AttributeError, TypeError):  # a message among the rows, or something else
        raise _Odd from None
    if not names <= _COLUMNS:
        raise _Odd
    return _table(given, len(rows))


def _columns_of_messages(messages: list[v1.FinancialEvent]) -> pa.Table:
    """Column by column: a message holds the types that it should, so only presence and days need a look."""
    if set(map(type, messages)) != {v1.FinancialEvent}:
        raise _Odd
    columns = {}
    for field in _FIELDS:
        values = list(map(attrgetter(field), messages))
        if any(values) or field in _WITH_PRESENCE or field in _REQUIRED:
            columns[_NAMES.get(field, field)] = _field_array(field, values, messages)
    wanted = {name: array for name, array in columns.items() if name in _REQUIRED or array.null_count < len(messages)}
    return pa.table(wanted)


def _field_array(field: str, values: list, messages: list[v1.FinancialEvent]) -> pa.Array:
    if field == "schema_version":
        return _versions(values)
    if field in _WITH_PRESENCE:
        if 0 in values:
            values = [v if v or m.HasField(field) else None for v, m in zip(values, messages, strict=True)]
        return pa.array(values, pa.int64())
    texts = pa.array(values, pa.string())
    if field == "effective_on":
        return _days_of(texts.dictionary_encode())
    # Whoever reads a frame takes a blank for nothing; among words it would keep the column from being a dictionary.
    return pc.replace_with_mask(texts, pc.equal(texts, ""), _NO_TEXT) if field in _WORDS and "" in values else texts


def _days_of(texts: pa.DictionaryArray) -> pa.Array:
    """Dates of texts, each distinct text read once."""
    days = [_day_of(text) if text else None for text in texts.dictionary.to_pylist()]
    return pa.array(days, pa.date32()).take(texts.indices)


def _table(given: Mapping[str, Sequence], rows: int) -> pa.Table:
    """The columns that hold anything, typed, and those that every event needs: a row that lacks one is refused alone,
    a frame as a whole."""
    wanted = {name: values for name, values in given.items() if name in _REQUIRED or any(v is not None for v in values)}
    missing = {name: [None] * rows for name in _REQUIRED if name not in wanted}
    return pa.table({name: _READERS.get(name, _texts)(values) for name, values in (wanted | missing).items()})


def _texts(values: Sequence) -> pa.Array:
    blanks_gone = [None if value == "" else value for value in values] if "" in values else values
    return _array(blanks_gone, {str, _NONE}, pa.string())


def _integers(values: Sequence) -> pa.Array:
    return _array(values, {int, _NONE}, pa.int64())


def _versions(values: Sequence) -> pa.Array:
    return _array([value or 1 for value in values], {int}, pa.int32())


def _moments(values: Sequence) -> pa.Array:
    if datetime in set(map(type, values)):
        try:
            values = [None if value is None else _milliseconds(value, 0) for value in values]
        except SubmitError:
            raise _Odd from None
    return _integers(values)


def _days(values: Sequence) -> pa.Array:
    types = set(map(type, values))
    if str in types and types <= {str, _NONE}:
        values = [_day_of(value) if value else None for value in values]
    return _array(values, {date, _NONE}, pa.date32())


@lru_cache(DAYS_REMEMBERED)
def _day_of(text: str) -> date:
    """The date of a text like 2026-10-31. Most events are of few days."""
    try:
        return date.fromisoformat(text if _DAY.fullmatch(text) else "")
    except ValueError:
        raise _Odd from None


def _array(values: Sequence, types: set[type], dtype: pa.DataType) -> pa.Array:
    if not set(map(type, values)) <= types:
        raise _Odd
    try:
        return pa.array(values, dtype)
    except (OverflowError, UnicodeError, pa.ArrowInvalid):
        raise _Odd from None


_READERS: dict[str, Callable[[Sequence], pa.Array]] = {
    "amount_minor": _integers,
    "quantity": _integers,
    "schema_version": _versions,
    "occurred_at": _moments,
    "effective_on": _days,
}


# ── rows one by one ────────────────────────────────────────────────────────────────────────────────────────────────


def _message(row: Row | v1.FinancialEvent, number: int) -> v1.FinancialEvent:
    if isinstance(row, v1.FinancialEvent):
        return row
    given = {name: value for name, value in row.items() if value is not None}
    if "occurred_at" in given:
        given["occurred_at_ms"] = _milliseconds(given.pop("occurred_at"), number)
    if isinstance(given.get("effective_on"), date):
        given["effective_on"] = given["effective_on"].isoformat()[:10]
    try:
        return v1.FinancialEvent(**given)
    except (TypeError, ValueError):
        raise _culprit(given, number) from None


def _milliseconds(value: Any, number: int) -> Any:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise SubmitError(number, "occurred_at", "a time needs its zone, or be integer milliseconds since 1970 in UTC")
    return (value - _START) // _MILLISECOND  # as a frame's finer times are cut, and exact: a float is not


def _culprit(given: Row, number: int) -> SubmitError:
    """Find the column that no message could be made of."""
    for name, value in given.items():
        column = _NAMES.get(name, name)
        if name not in _FIELDS:
            return SubmitError(number, str(column)[:64], "not a column of an event")
        try:
            v1.FinancialEvent(**{name: value})
        except (TypeError, ValueError):
            wanted = "a 64-bit integer (amounts are whole minor units)" if name in _INTEGERS else "text"
            return SubmitError(number, column, f"expected {wanted}, got {type(value).__name__}")
    return SubmitError(number, "", "not an event")
