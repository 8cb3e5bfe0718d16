"""Packing: whatever form a producer's events have, the gateway reads the same events."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock.packing import FEW_ROWS, ROWS_PER_REQUEST, SubmitError, arrow_frame, pieces
from penstock.v1.events_pb2 import FinancialEvent

from adapters import wire
from runtime.limits import Limits
from runtime.schema import CODED, COLUMNS, WORD_COLUMNS, conform, with_plain_words

LIMITS = Limits()
MOMENT = datetime(2026, 10, 31, 12, 30, tzinfo=UTC)
ROW = {
    "event_id": "e1",
    "source": "ehr",
    "kind": "charge_posted",
    "entity": "H1",
    "amount_minor": 1250,
    "currency": "USD",
    "occurred_at": MOMENT,
    "effective_on": date(2026, 10, 30),
}


def as_message(row: dict) -> FinancialEvent:
    """The message of a row, field by field."""
    given = {name: value for name, value in row.items() if value is not None}
    if "occurred_at" in given:
        given["occurred_at_ms"] = given.pop("occurred_at")
    return FinancialEvent(**given)


def read(events: list) -> pl.DataFrame:
    """What a gateway reads of events that are sent so often that they go as frames."""
    requests = [piece.request for piece in pieces(events * (FEW_ROWS + 1), None)]
    assert all(request.WhichOneof("events") == "arrow_frame" for request in requests)
    sent = pl.concat(pl.DataFrame(with_plain_words(wire.from_arrow(r.arrow_frame, LIMITS))) for r in requests)
    assert sent.equals(pl.concat([sent.head(len(events))] * (FEW_ROWS + 1)))
    return sent.head(len(events))


_TEXTS = st.sampled_from([None, "", "x", "é", "H1"])
_NUMBERS = st.none() | st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)])
_ROWS = st.fixed_dictionaries(
    {},
    optional={name: _TEXTS for name, dtype in COLUMNS.items() if dtype == pl.String()}
    | dict.fromkeys(("amount_minor", "quantity", "occurred_at"), _NUMBERS)
    | {"effective_on": st.sampled_from([None, "", "2026-10-31"]), "schema_version": st.sampled_from([None, 0, 1, 2])},
)


@settings(max_examples=100)
@given(st.lists(_ROWS, min_size=1, max_size=6))
def test_packing_rows_and_messages_by_columns_are_the_events_that_messages_are(rows: list[dict]):
    """Read by columns, dictionaries and messages give the very events that a gateway reads from messages."""
    messages = [as_message(row) for row in rows]
    expected = pl.DataFrame(wire.from_rows(messages, LIMITS).events)
    assert read(rows).equals(expected)
    assert read(messages).equals(expected)


def test_packing_times_and_dates_of_python_are_read_as_they_are():
    """Aware times, in any zone, and dates mean what they say."""
    events = read([ROW, ROW | {"occurred_at": MOMENT.astimezone(timezone(timedelta(hours=-4))), "effective_on": None}])
    assert events["occurred_at"].to_list() == [MOMENT, MOMENT]
    assert events["effective_on"].to_list() == [date(2026, 10, 30), None]


@pytest.mark.parametrize("before_ms", [0, 86_400_000 * 365 * 60])
def test_packing_times_finer_than_milliseconds_are_those_of_a_frame(before_ms: int):
    """A row's time is the millisecond that it is in, never the next one, which may be another day's."""
    last = datetime(2026, 10, 31, 23, 59, 59, 999_600, UTC) - timedelta(milliseconds=before_ms)
    (piece,) = pieces(pl.DataFrame([ROW | {"occurred_at": last}]), None)
    framed = wire.from_arrow(piece.request.arrow_frame, LIMITS).column("occurred_at").to_pylist()
    (few,) = pieces([ROW | {"occurred_at": last}], None)
    singly = wire.from_rows(few.request.rows.events, LIMITS).events.column("occurred_at").to_pylist()
    assert read([ROW | {"occurred_at": last}])["occurred_at"].to_list() == singly == framed
    assert framed[0].date() == last.date()


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"amount_minor": 1.0}, "amount_minor"),
        ({"amount_minor": 2**63}, "amount_minor"),
        ({"occurred_at": datetime(2026, 1, 1)}, "occurred_at"),
        ({"event_id": 5}, "event_id"),
        ({"reason": "\ud800"}, "reason"),
        ({"surname": "x"}, "surname"),
    ],
)
@pytest.mark.parametrize("before", [2, 100])
def test_packing_names_the_row_and_column_that_no_event_can_hold(changes: dict, column: str, before: int):
    """What columns can't hold is looked for row by row, and named, in small requests and large ones."""
    with pytest.raises(SubmitError) as caught:
        list(pieces([*[ROW] * before, ROW | changes], before // 2 + 1))
    assert (caught.value.row, caught.value.column) == (before, column)


@pytest.mark.parametrize("value", [0, False])
def test_packing_value_that_is_no_text_is_named_also_among_blanks(value: object):
    """Only a blank text means nothing: whatever else is false is not left out in silence."""
    with pytest.raises(SubmitError) as caught:
        list(pieces([*[ROW | {"account": ""}] * 100, ROW | {"account": value}], None))
    assert (caught.value.row, caught.value.column) == (100, "account")


@pytest.mark.parametrize("odd", [{"effective_on": "31.10.2026"}, {"effective_on": "2026-W44-6"}])
def test_packing_text_that_is_no_date_is_left_to_the_gateway(odd: dict):
    """One row's unreadable date goes as rows, so that the gateway refuses this row alone."""
    (piece,) = pieces([*[ROW] * 100, ROW | odd], None)
    _, numbers, faults = wire.from_rows(piece.request.rows.events, LIMITS)
    assert numbers.tolist() == list(range(100))
    assert [(fault.row, fault.column) for fault in faults] == [(100, "effective_on")]


def test_packing_few_rows_are_sent_as_they_are():
    """A few events go as rows, which mean what the same events mean in a frame."""
    (piece,) = pieces([ROW] * FEW_ROWS, None)
    assert piece.request.WhichOneof("events") == "rows"
    sent = pl.DataFrame(wire.from_rows(piece.request.rows.events, LIMITS).events)
    assert sent.equals(read([ROW] * FEW_ROWS))


def test_packing_mixed_and_unusual_rows_are_sent_as_what_they_mean():
    """Messages between dictionaries, times between dates: looked at one by one, and sent in columns."""
    plain = {**ROW, "occurred_at": int(MOMENT.timestamp() * 1000), "effective_on": "2026-10-30"}
    events = read([as_message(plain), ROW | {"effective_on": MOMENT}, plain])
    assert events["occurred_at"].to_list() == [MOMENT] * 3
    assert events["effective_on"].to_list() == [date(2026, 10, 30), date(2026, 10, 31), date(2026, 10, 30)]


def test_packing_cuts_rows_into_requests_that_say_where_they_start():
    """Each request says which rows of the submission it holds."""
    cut = list(pieces((ROW for _ in range(ROWS_PER_REQUEST + 1)), None))
    assert [(piece.start, piece.rows) for piece in cut] == [(0, ROWS_PER_REQUEST), (ROWS_PER_REQUEST, 1)]


@pytest.mark.parametrize("form", [lambda texts: texts.cast(pa.string_view()), pa.Array.dictionary_encode])
def test_packing_table_is_sent_once_however_its_texts_are_held(form: Callable[[pa.Array], pa.Array]):
    """Each request holds the texts of its own rows, also where the table's rows share their buffers."""
    texts = [f"a text of some length, number {i}" for i in range(1_000)]
    columns = {"event_id": form(pa.array(texts))}
    columns |= {name: pa.repeat(ROW[name], len(texts)) for name in ("source", "kind", "entity", "currency")}
    columns |= {name: pa.repeat(5, len(texts)) for name in ("amount_minor", "occurred_at")}
    parts = [piece.request.arrow_frame for piece in pieces(pa.table(columns), 100)]
    read = [text for part in parts for text in wire.from_arrow(part, LIMITS).column("event_id").to_pylist()]
    assert read == texts
    assert max(map(len, parts)) < len("".join(texts))


@pytest.mark.parametrize("form", [pa.Table.to_reader, lambda table: table.to_batches()[0]])
def test_packing_batches_of_arrow_are_tables(form: Callable[[pa.Table], object]):
    """A batch, or a stream of batches, is sent as the table that it makes."""
    table = pa.table({"event_id": ["a", "b"], "amount_minor": [1, 2]})
    (piece,) = pieces(form(table), None)
    assert piece.request == next(pieces(table, None)).request


def test_packing_frame_has_its_words_in_dictionaries():
    """Columns of few words go as dictionaries, others as they are."""
    frame = conform(pl.DataFrame([ROW, ROW])).to_arrow(compat_level=pl.CompatLevel.oldest())
    read_back = wire.from_arrow(arrow_frame(frame), LIMITS)
    coded = {name for name in ROW if read_back.column(name).type == CODED}
    assert coded == set(WORD_COLUMNS) & set(ROW)
