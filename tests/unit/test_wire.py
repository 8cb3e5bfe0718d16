"""Wire: every form that a producer may send becomes the same frame, and what can't be read is named, not guessed."""

import io
import struct
from datetime import UTC, date, datetime

import orjson
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock.v1.events_pb2 import FinancialEvent

from adapters import wire
from runtime.errors import FrameError
from runtime.limits import Limits
from runtime.ports import FeedMessage
from runtime.schema import ARROW_COLUMNS, CODED, COLUMNS, Fault, Parsed, conform, with_plain_words
from runtime.validation_singly import events_of

LIMITS = Limits()
SMALL = Limits(frame_rows_max=3, frame_bytes_max=20_000)
MOMENT = datetime(2026, 10, 31, 12, 30, tzinfo=UTC)
MOMENT_MS = int(MOMENT.timestamp() * 1000)
ROW = {
    "event_id": "e1",
    "source": "ehr",
    "kind": "charge_posted",
    "entity": "H1",
    "facility": "F1",
    "amount_minor": 1250,
    "currency": "USD",
    "quantity": 1000,
    "occurred_at": MOMENT_MS,
    "effective_on": "2026-10-30",
    "attributes": '{"a":1}',
}
REQUIRED_ONLY = {name: ROW[name] for name in ("event_id", "source", "kind", "entity", "currency")} | {
    "amount_minor": 0,
    "occurred_at": 0,
}


def expected(*rows: dict) -> pl.DataFrame:
    """The canonical frame of rows."""
    whole = [dict.fromkeys(COLUMNS) | {"schema_version": 1} | row for row in rows]
    frame = pl.DataFrame(whole, schema=COLUMNS | {"effective_on": pl.String(), "occurred_at": pl.Int64()})
    return conform(frame.with_columns(pl.col("effective_on").str.to_date()))


def message(row: dict) -> FinancialEvent:
    return FinancialEvent(**{"occurred_at_ms" if name == "occurred_at" else name: row[name] for name in row})


def parsed_rows(*rows: dict) -> tuple[pl.DataFrame, list[Fault]]:
    """What protobuf rows become, in the form that the other row forms have."""
    messages = [message(row) for row in rows]
    events, numbers, faults = wire.from_rows(messages, LIMITS)
    assert wire.from_few_rows(messages) == (events_of(events), numbers.tolist(), faults)
    return pl.DataFrame(events).with_columns(row=numbers), faults


def read(body: bytes, limits: Limits = LIMITS) -> pl.DataFrame:
    """What an Arrow body becomes."""
    return pl.DataFrame(with_plain_words(wire.from_arrow(body, limits)))


def flat(row: dict) -> dict[bytes, bytes]:
    return {name.encode(): str(value).encode() for name, value in row.items()}


def parsed_json(*rows: dict) -> Parsed:
    """What rows as JSON objects of a feed become."""
    return wire.from_redis(feed(*({b"event": orjson.dumps(row)} for row in rows)))


def feed(*fields: dict[bytes, bytes]) -> list[FeedMessage]:
    return [FeedMessage(f"{i}-0", given) for i, given in enumerate(fields)]


def arrow(table: pa.Table, *, file: bool = False, **options) -> bytes:
    sink = io.BytesIO()
    new = pa.ipc.new_file if file else pa.ipc.new_stream
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist([dict(row, effective_on=date(2026, 10, 30)) for row in rows])


# ── the same frame from every form ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "parsed",
    [
        lambda rows: parsed_rows(*rows),
        lambda rows: wire.from_redis(feed(*map(flat, rows))),
        lambda rows: parsed_json(*rows),
    ],
    ids=["protobuf", "redis_fields", "redis_event"],
)
def test_wire_row_forms_give_the_canonical_frame(parsed):
    """Protobuf and feed messages, as fields or as JSON, give the same numbered frame; zero is not nothing."""
    frame, faults = parsed([ROW, REQUIRED_ONLY])
    assert faults == []
    assert frame.drop("row").equals(expected(ROW, REQUIRED_ONLY))
    assert frame["row"].to_list() == [0, 1]


@pytest.mark.parametrize("file", [False, True])
def test_wire_arrow_forms_give_the_canonical_frame(file: bool):
    """Arrow streams and files give the same frame as rows do."""
    given = table(ROW, ROW | {"event_id": "e2"})
    assert read(arrow(given, file=file)).equals(expected(ROW, ROW | {"event_id": "e2"}))


def test_wire_arrow_written_by_polars_is_read():
    """Streams and files of Polars, which lays files out in its own way, are read too."""
    frame = expected(ROW, REQUIRED_ONLY)
    stream, file = io.BytesIO(), io.BytesIO()
    frame.write_ipc_stream(stream)
    frame.write_ipc(file)
    assert read(stream.getvalue()).equals(frame)
    assert read(file.getvalue()).equals(frame)


def test_wire_arrow_column_types_that_mean_the_same_give_the_same_events():
    """Canonical, kindred and missing columns are read alike, whether or not they need Polars to be understood."""
    plain = table(ROW | {"reason": "", "department": "é"}, ROW)
    large = [pa.field(f.name, pa.large_string() if pa.types.is_string(f.type) else f.type) for f in plain.schema]
    moment = plain.schema.get_field_index("occurred_at")
    kindred = (
        plain,
        plain.cast(pa.schema(large)),
        plain.set_column(moment, "occurred_at", plain["occurred_at"].cast(pa.timestamp("ms", "UTC"))),
        plain.set_column(
            moment, "occurred_at", plain["occurred_at"].cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("ns", "UTC"))
        ),
        plain.append_column("correlation_id", pa.nulls(2)),
        plain.append_column("schema_version", pa.array([1, 1], pa.uint8())),
        pa.concat_tables([plain.slice(0, 1), plain.slice(1)]),
    )
    for form in kindred:
        assert read(arrow(form)).equals(expected(ROW | {"reason": None, "department": "é"}, ROW)), form.schema


@pytest.mark.parametrize("column", ["kind", "account"])
@pytest.mark.parametrize(
    "words", [["W"], ["W", "unused"], ["", "W"], [None, "W"], ["W", "W"], ["W", *map(str, range(9))]]
)
def test_wire_arrow_dictionaries_are_texts(column: str, words: list):
    """Dictionary columns are read as the texts that they stand for, whatever else their dictionaries hold."""
    rows = [ROW | {column: "W"}, ROW | {column: words[0]}, ROW | {column: None}]
    codes = pa.array([len(words) - 1 if words[-1] == "W" else 0, 0, None], pa.int8())
    coded = pa.DictionaryArray.from_arrays(codes, pa.array(words))
    given = table(*rows)
    given = given.set_column(given.column_names.index(column), column, coded)
    assert read(arrow(given)).equals(expected(rows[0], ROW | {column: words[0] or None}, rows[2]))


def test_wire_arrow_dictionary_of_few_words_stays_one():
    """A sound dictionary of a column of words is not written out: the gateway would have to make it again."""
    given = table(ROW, ROW)
    coded = given.set_column(given.column_names.index("kind"), "kind", given["kind"].dictionary_encode())
    assert wire.from_arrow(arrow(coded), LIMITS).column("kind").type == CODED


def test_wire_json_takes_times_with_offset_and_attributes_as_object():
    """An ISO time with its offset is the same as milliseconds, an object is the same as its sorted text."""
    row = ROW | {"occurred_at": "2026-10-31T08:30:00-04:00", "attributes": {"b": 2, "a": 1}}
    frame, faults = parsed_json(row)
    assert faults == []
    assert frame["occurred_at"][0] == MOMENT
    assert frame["attributes"][0] == '{"a":1,"b":2}'


@pytest.mark.parametrize(
    "time", ["2004-06-01T12:00:00.{:03}Z", "2038-06-01T12:00:00.{:03}Z", "1969-06-01T12:00:00.{:03}9Z"]
)
def test_wire_json_times_are_exact_to_the_millisecond(time: str):
    """A time of a text is the millisecond that it is in, as it is of a frame's finer time: no float comes between."""
    texts = [time.format(ms) for ms in range(1_000)]
    rows = [ROW | {"event_id": text, "occurred_at": text} for text in texts]
    read, _ = parsed_json(*rows)
    finer = pl.Series([datetime.fromisoformat(text) for text in texts], dtype=pl.Datetime("us", "UTC"))
    assert (
        read["occurred_at"].to_list()
        == conform(read.drop("row").with_columns(occurred_at=finer))["occurred_at"].to_list()
    )
    assert [moment.microsecond // 1000 for moment in read["occurred_at"]] == list(range(1_000))


def test_wire_json_attributes_too_deep_to_write_are_a_fault_of_their_own():
    """An object of so many within each other that it can be read and not written spoils no other row."""
    deep = b'{"attributes":' + b'{"a":' * 400 + b"1" + b"}" * 401
    frame, faults = wire.from_redis(feed({b"event": deep}, flat(ROW)))
    assert frame["row"].to_list() == [1]
    assert [(fault.row, fault.code, fault.column) for fault in faults] == [(0, "too_deep", "attributes")]


def test_wire_empty_texts_mean_nothing():
    """An empty text is a missing one, in whatever form it came."""
    blank = ROW | {"department": "", "facility": ""}
    for frame, _ in (parsed_rows(blank), parsed_json(blank)):
        assert frame["department"].to_list() == frame["facility"].to_list() == [None]


# ── faults of single rows ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "code", "column"),
    [
        ({"amount_minor": 12.5}, "wrong_type", "amount_minor"),
        ({"amount_minor": 12.0}, "wrong_type", "amount_minor"),
        ({"amount_minor": "1250"}, "wrong_type", "amount_minor"),
        ({"amount_minor": True}, "wrong_type", "amount_minor"),
        ({"amount_minor": 2**63}, "overflow", "amount_minor"),
        ({"schema_version": 2**40}, "overflow", "schema_version"),
        ({"event_id": 17}, "wrong_type", "event_id"),
        ({"occurred_at": "2026-10-31T08:30:00"}, "wrong_type", "occurred_at"),
        ({"occurred_at": "yesterday"}, "wrong_type", "occurred_at"),
        ({"effective_on": "31.10.2026"}, "wrong_type", "effective_on"),
        ({"effective_on": 20391}, "wrong_type", "effective_on"),
        ({"effective_on": "2026-W44-6"}, "wrong_type", "effective_on"),
        ({"patient_name": "x"}, "unknown_column", "patient_name"),
        ({"Jane Doe": "x"}, "unknown_column", "column 12"),
    ],
)
def test_wire_json_row_that_can_not_be_read_is_a_fault_of_its_own(change: dict, code: str, column: str):
    """One unreadable object is left out and named; the objects around it are read."""
    frame, faults = parsed_json(ROW, ROW | change, ROW)
    assert frame["row"].to_list() == [0, 2]
    assert [(fault.row, fault.code, fault.column) for fault in faults] == [(1, code, column)]
    assert not any(str(value) in fault.message for fault in faults for value in change.values())


@pytest.mark.parametrize(
    ("fields", "code", "column"),
    [
        (flat(ROW | {"amount_minor": "12.50"}), "wrong_type", "amount_minor"),
        (flat(ROW | {"amount_minor": "1_250"}), "wrong_type", "amount_minor"),
        (flat(ROW | {"amount_minor": "9" * 19}), "overflow", "amount_minor"),
        (flat(ROW | {"amount_minor": "9" * 30}), "wrong_type", "amount_minor"),
        (flat(ROW | {"occurred_at": "noon"}), "wrong_type", "occurred_at"),
        (flat(ROW | {"shoe_size": "44"}), "unknown_column", "shoe_size"),
        ({b"source": b"\xff\xfe"}, "malformed_text", ""),
        ({b"event": b"{"}, "malformed_json", ""),
        ({b"event": b"[1]"}, "malformed_json", ""),
        ({b"event": b"{}", b"source": b"x"}, "unknown_column", "event"),
    ],
)
def test_wire_feed_message_that_can_not_be_read_is_a_fault_of_its_own(fields: dict, code: str, column: str):
    """One unreadable message is left out and named; the messages around it are read."""
    frame, faults = wire.from_redis(feed(flat(ROW), fields, flat(ROW)))
    assert frame["row"].to_list() == [0, 2]
    assert [(fault.row, fault.code, fault.column) for fault in faults] == [(1, code, column)]


def test_wire_feed_of_nothing_readable_gives_an_empty_frame_and_faults():
    """A batch of bad messages alone is no error of the reader."""
    frame, faults = wire.from_redis(feed({b"event": b"1"}, {}))
    assert frame.height == 1 and frame["event_id"].to_list() == [None]
    assert [fault.row for fault in faults] == [0]


@pytest.mark.parametrize("text", ["2026-13-01", "2026-1-5", "tomorrow", "2026-10-31T00:00"])
def test_wire_protobuf_row_without_readable_date_is_a_fault_of_its_own(text: str):
    """An accounting date that is none is never taken for a missing one, which would be filled in."""
    frame, faults = parsed_rows(ROW, ROW | {"effective_on": text})
    assert frame["row"].to_list() == [0]
    assert [(fault.row, fault.code, fault.column) for fault in faults] == [(1, "wrong_type", "effective_on")]


def test_wire_protobuf_amount_that_was_not_set_is_missing_not_zero():
    """A forgotten amount is null, so that validation rejects it."""
    row = {name: value for name, value in ROW.items() if name != "amount_minor"}
    assert parsed_rows(row)[0]["amount_minor"].to_list() == [None]


# ── faults of whole requests ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parse", "code"),
    [
        (lambda: wire.from_rows([], SMALL), "empty_frame"),
        (lambda: wire.from_rows([message(ROW)] * 4, SMALL), "too_many_rows"),
        (lambda: wire.from_arrow(arrow(table(*[ROW] * 4)), SMALL), "too_many_rows"),
        (lambda: wire.from_arrow(bytes(20_001), SMALL), "too_large"),
        (lambda: wire.from_arrow(b"", SMALL), "malformed_frame"),
        (lambda: wire.from_arrow(b"no Arrow at all", SMALL), "malformed_frame"),
        (lambda: wire.from_arrow(b"ARROW1\0\0", SMALL), "malformed_frame"),
        (lambda: wire.from_arrow(arrow(table(ROW))[:-300], SMALL), "malformed_frame"),
    ],
)
def test_wire_request_beyond_limits_or_shape_is_refused_whole(parse, code: str):
    """What is too large, empty or of no known shape is refused with its code."""
    with pytest.raises(FrameError) as caught:
        parse()
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        ("amount_minor", pa.array([12.5]), "wrong_type"),
        ("amount_minor", pa.array(["12"]), "wrong_type"),
        ("reason", pa.array([["a"]]), "wrong_type"),
        ("attributes", pa.array([{"a": 1}]), "wrong_type"),
        ("occurred_at", pa.array([1], pa.timestamp("s", "UTC")), "wrong_type"),
        ("occurred_at", pa.array([1], pa.timestamp("ms")), "wrong_type"),
        ("reason", pa.array([b"bytes"]), "wrong_type"),
        ("ssn", pa.array(["x"]), "unknown_column"),
    ],
)
def test_wire_arrow_column_of_wrong_type_refuses_the_frame(column: str, values: pa.Array, code: str):
    """A column of a type that could only be guessed at refuses the frame, and is named."""
    given = table(ROW)
    changed = given.drop_columns([column]) if column in given.column_names else given
    with pytest.raises(FrameError) as caught:
        wire.from_arrow(arrow(changed.append_column(column, values)), LIMITS)
    assert (caught.value.code, caught.value.column) == (code, column)


def test_wire_arrow_column_twice_refuses_the_frame():
    """Two columns of one name are not chosen between."""
    given = table(ROW)
    with pytest.raises(FrameError) as caught:
        wire.from_arrow(arrow(given.append_column("source", given["source"])), LIMITS)
    assert (caught.value.code, caught.value.column) == ("duplicate_column", "source")


@pytest.mark.parametrize("file", [False, True])
@pytest.mark.parametrize("coded", [False, True])
def test_wire_arrow_compressed_is_refused_unread(file: bool, coded: bool):
    """A compressed body, which may be a thousand times larger inside, is refused before it is unpacked."""
    given = table(*[ROW] * 100)
    if coded:
        given = given.set_column(2, "kind", given["kind"].dictionary_encode())
    with pytest.raises(FrameError) as caught:
        wire.from_arrow(arrow(given, file=file, compression="zstd"), LIMITS)
    assert caught.value.code == "compressed"


def test_wire_arrow_columns_of_nothing_do_not_escape_the_row_limit():
    """Null columns cost no bytes, however many rows they claim; the limit of rows holds for them."""
    nothing = pa.table({name: pa.nulls(10**9) for name in COLUMNS})
    with pytest.raises(FrameError) as caught:
        wire.from_arrow(arrow(nothing), LIMITS)
    assert caught.value.code == "too_many_rows"


@pytest.mark.parametrize("shared", ["dictionary", "view"])
def test_wire_arrow_text_that_many_rows_share_does_not_escape_the_byte_limit(shared: str):
    """One long value that every row points to counts for each of them."""
    rows = table(*[ROW | {"event_id": str(i)} for i in range(3)])
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 0, 0], pa.int32()), pa.array(["x" * 8_000]))
    column = codes if shared == "dictionary" else _views_of_one("x" * 8_000, 3)
    with pytest.raises(FrameError) as caught:
        wire.from_arrow(arrow(rows.append_column("reason", column)), SMALL)
    assert (caught.value.code, caught.value.column) == ("too_large", "reason")


def _views_of_one(text: str, rows: int) -> pa.Array:
    """A view column whose rows all point to the same bytes."""
    view = struct.pack("<i4sii", len(text), text[:4].encode(), 0, 0)
    buffers = [None, pa.py_buffer(view * rows), pa.py_buffer(text.encode())]
    return pa.Array.from_buffers(pa.string_view(), rows, buffers)


def test_wire_arrow_view_behind_a_null_is_never_followed():
    """What stands in a null's place may point anywhere; such a frame is read like any other."""
    astray = struct.pack("<i4sii", 1_000_000, b"xxxx", 7, 2**30)
    buffers = [pa.py_buffer(b"\x00"), pa.py_buffer(astray * 3), pa.py_buffer(b"")]
    column = pa.Array.from_buffers(pa.string_view(), 3, buffers)
    frame = read(arrow(table(ROW, ROW, ROW).append_column("reason", column)))
    assert frame["reason"].to_list() == [None, None, None]
    assert frame["reason"].to_arrow(compat_level=pl.CompatLevel.oldest()).null_count == 3


@settings(max_examples=300)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_wire_arrow_with_a_damaged_byte_is_a_frame_or_a_frame_error(place: int, byte: int, file: bool):
    """Whatever a damaged frame does, it gives a frame or a FrameError: no crash, no other exception."""
    body = bytearray(arrow(table(ROW, ROW | {"event_id": "e2"}), file=file))
    body[place % len(body)] = byte
    try:
        assert wire.from_arrow(bytes(body), LIMITS).schema == ARROW_COLUMNS
    except FrameError as error:
        assert error.code
