"""Validation: which rows are events, what is said of those that are not, and which frames are refused whole."""

import struct
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import limits
from runtime.errors import FrameError
from runtime.schema import (
    COLUMNS,
    STAMPED,
    UTC_MS,
    EntityTerms,
    Few,
    KindTerms,
    Validated,
    Vocabulary,
    conform,
    to_arrow,
    with_coded_words,
    with_plain_words,
)
from runtime.validation import check_columns, check_few, check_singly, validate
from runtime.validation_singly import events_of

RECEIVED = datetime(2026, 11, 1, tzinfo=UTC)
RECEIVED_MS = int(RECEIVED.timestamp() * 1000)
VOCABULARY = Vocabulary(
    kinds={
        "charge": KindTerms(requires=("facility", "account"), sign="positive"),
        "adjustment": KindTerms(requires=(), sign="any"),
    },
    entities={
        "H1": EntityTerms(currencies=frozenset({"USD"}), facilities=frozenset({"F1", "F2"})),
        "H2": EntityTerms(currencies=frozenset({"EUR", "USD"})),
    },
)
GOOD = {
    "event_id": "e1",
    "source": "ehr",
    "kind": "charge",
    "entity": "H1",
    "facility": "F1",
    "account": "tok1",
    "amount_minor": 100,
    "currency": "USD",
    "occurred_at": RECEIVED - timedelta(days=1),
}


def frame(*rows: dict) -> pl.DataFrame:
    """A conformed frame of rows, each a good one with changes."""
    return conform(pl.DataFrame([dict.fromkeys(COLUMNS) | {"schema_version": 1} | GOOD | row for row in rows], COLUMNS))


def check(*rows: dict) -> Validated:
    """What becomes of the rows; the same whether they are judged one by one or by whole columns."""
    given = frame(*rows)
    singly, columns = (way(to_arrow(given), VOCABULARY, RECEIVED_MS) for way in (check_singly, check_columns))
    assert singly.accepted.equals(with_plain_words(columns.accepted))
    assert singly.rows.tolist() == columns.rows.tolist()
    assert singly.rejected.equals(columns.rejected)
    of_coded = check_singly(with_coded_words(to_arrow(given)), VOCABULARY, RECEIVED_MS)
    assert singly.accepted.equals(of_coded.accepted)
    few = check_few(Few(events_of(to_arrow(given)), list(range(len(rows))), []), VOCABULARY, RECEIVED_MS)
    assert few.accepted == events_of(singly.accepted)
    assert few.rows == singly.rows.tolist()
    assert few.rejected.equals(singly.rejected)
    return validate(given, VOCABULARY, RECEIVED_MS)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"amount_minor": 0},
        {"amount_minor": limits.AMOUNT_MINOR_MAX},
        {"kind": "adjustment", "amount_minor": -limits.AMOUNT_MINOR_MAX},
        {"kind": "adjustment", "facility": None, "account": None},
        {"kind": "adjustment", "facility": "", "account": ""},
        {"entity": "H2", "facility": "anywhere", "currency": "EUR"},
        {"event_id": "é" * limits.EVENT_ID_CHARS_MAX},
        {"reason": "é" * limits.TEXT_CHARS_MAX},
        {"attributes": "line\nbreak\x1f" + "x" * (limits.ATTRIBUTES_CHARS_MAX - 11)},
        {"quantity": -1},
        {"quantity": limits.QUANTITY_MAX},
        {"quantity": -limits.QUANTITY_MAX},
        {"occurred_at": datetime(1900, 1, 1, tzinfo=UTC)},
        {"occurred_at": RECEIVED + timedelta(days=limits.FUTURE_DAYS_MAX)},
        {"effective_on": date(1900, 1, 1)},
        {"effective_on": RECEIVED.date() + timedelta(days=limits.FUTURE_DAYS_MAX)},
    ],
)
def test_validation_row_within_every_rule_is_accepted(change: dict):
    """What the rules allow, up to their very edge, is accepted."""
    accepted, rejected = check(change)
    assert rejected.rows() == []
    assert accepted["event_id"].to_list() == [change.get("event_id", "e1")]


@pytest.mark.parametrize(
    ("change", "code", "column"),
    [
        *(({name: None}, "missing_value", name) for name in ("event_id", "source", "kind", "entity", "currency")),
        ({"event_id": ""}, "missing_value", "event_id"),
        ({"amount_minor": None}, "missing_value", "amount_minor"),
        ({"occurred_at": None}, "missing_value", "occurred_at"),
        ({"facility": None}, "missing_value", "facility"),
        ({"account": ""}, "missing_value", "account"),
        ({"event_id": "x" * 129}, "too_long", "event_id"),
        ({"department": "é" * 257}, "too_long", "department"),
        ({"attributes": "x" * 4097}, "too_long", "attributes"),
        ({"document": "a\x1fb"}, "control_character", "document"),
        ({"source": "ehr\x7f"}, "control_character", "source"),
        ({"reason": "\x00"}, "control_character", "reason"),
        ({"kind": "unheard"}, "unknown_kind", "kind"),
        ({"entity": "H9"}, "unknown_entity", "entity"),
        ({"currency": "EUR"}, "unknown_currency", "currency"),
        ({"facility": "F9"}, "unknown_facility", "facility"),
        ({"amount_minor": -1}, "negative_amount", "amount_minor"),
        ({"amount_minor": limits.AMOUNT_MINOR_MAX + 1}, "out_of_range", "amount_minor"),
        ({"kind": "adjustment", "amount_minor": -limits.AMOUNT_MINOR_MAX - 1}, "out_of_range", "amount_minor"),
        ({"quantity": limits.QUANTITY_MAX + 1}, "out_of_range", "quantity"),
        ({"quantity": -(2**63)}, "out_of_range", "quantity"),
        ({"occurred_at": datetime(1899, 12, 31, 23, 59, 59, tzinfo=UTC)}, "out_of_range", "occurred_at"),
        ({"occurred_at": RECEIVED + timedelta(days=366, seconds=1)}, "out_of_range", "occurred_at"),
        ({"effective_on": date(1899, 12, 31)}, "out_of_range", "effective_on"),
        ({"effective_on": RECEIVED.date() + timedelta(days=367)}, "out_of_range", "effective_on"),
        ({"schema_version": 2}, "unknown_version", "schema_version"),
        ({"schema_version": None}, "unknown_version", "schema_version"),
    ],
)
def test_validation_row_that_breaks_a_rule_is_rejected_and_its_neighbours_are_not(change: dict, code: str, column: str):
    """Each rule names its code and column for the row that breaks it, and for no other."""
    accepted, rejected = check({"event_id": "before"}, change, {"event_id": "after"})
    assert accepted["event_id"].to_list() == ["before", "after"]
    assert accepted["row"].to_list() == [0, 2]
    assert rejected.select("row", "code", "column").rows() == [(1, code, column)]


def test_validation_row_with_several_faults_names_the_first():
    """One row is rejected once, for the fault that comes first in the order of the rules."""
    rejected = check({"amount_minor": -1, "currency": "XXX", "reason": "a\tb", "source": ""}).rejected
    assert rejected.rows() == [(0, "e1", "missing_value", "source", "must be filled")]


def test_validation_message_never_holds_the_value():
    """What is said of a bad value does not repeat it."""
    secret = "Jane Doe 1970"
    changes = ({"facility": secret}, {"kind": secret}, {"entity": secret}, {"reason": secret * 30})
    for row in check(*changes).rejected.iter_rows():
        assert not any(secret in str(value) for value in row)


def test_validation_too_long_id_is_reported_shortened():
    """The report of a bad row stays small however long its id was."""
    assert len(check({"event_id": "x" * 100_000}).rejected["event_id"][0]) == limits.EVENT_ID_CHARS_MAX


def test_validation_accepted_rows_are_stamped():
    """Accepted rows have every stamped column, the time of receipt, and the accounting date of their UTC day."""
    accepted = check(
        {"occurred_at": datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)}, {"effective_on": date(2026, 9, 1)}
    )[0]
    assert dict(accepted.drop("row").schema) == STAMPED
    assert accepted["effective_on"].to_list() == [date(2026, 10, 31), date(2026, 9, 1)]
    assert accepted["received_at"].to_list() == [RECEIVED, RECEIVED]


def test_validation_empty_and_missing_texts_are_the_same_event():
    """An empty text means nothing, so it makes no other digest than a missing one."""
    digests = check({"reason": None}, {"reason": ""}, {"reason": "x"}).accepted["digest"].to_list()
    assert digests[0] == digests[1] != digests[2]


def test_validation_extreme_times_are_rejected_not_overflown():
    """The largest and smallest times that 64 bits hold are out of range like any other."""
    rows = frame({}, {}).with_columns(pl.Series("occurred_at", [2**63 - 1, -(2**63)]).cast(UTC_MS))
    for way in (check_singly, check_columns):
        rejected = way(to_arrow(rows), VOCABULARY, RECEIVED_MS).rejected
        assert rejected["column"].to_list() == ["occurred_at", "occurred_at"]


def test_validation_of_many_rows_is_that_of_few():
    """Beyond some number of rows whole columns are judged: verdicts, times and hashes stay what they are."""
    few = [{"event_id": f"e{i}", "amount_minor": i - 3} for i in range(8)]
    many = check(*(few * 20))
    one, repeated = check(*few), (pl.col("row") % len(few)).alias("row")
    assert many.accepted.with_columns(repeated).equals(pl.concat([one.accepted] * 20))
    assert many.rejected.with_columns(repeated).equals(pl.concat([one.rejected] * 20))


def test_validation_control_character_behind_a_null_hides_none_in_the_open():
    """What lies in the bytes of missing attributes is not taken for what stands in another column."""
    attributes = pa.Array.from_buffers(
        pa.large_string(), 1, [pa.py_buffer(b"\x00"), pa.py_buffer(struct.pack("<qq", 0, 9)), pa.py_buffer(b"\x01" * 9)]
    )
    given = to_arrow(frame({"reason": "a\tb"}))
    hiding = given.set_column(given.schema.get_field_index("attributes"), "attributes", attributes)
    assert check_columns(hiding, VOCABULARY, RECEIVED_MS).rejected["code"].to_list() == ["control_character"]


def test_validation_empty_frame_is_refused():
    """A frame without rows is a fault of the whole request."""
    with pytest.raises(FrameError) as caught:
        validate(frame({}).head(0), VOCABULARY, RECEIVED_MS)
    assert caught.value.code == "empty_frame"


@pytest.mark.parametrize(
    ("change", "code", "column"),
    [
        (lambda f: f.with_columns(zebra=1), "unknown_column", "zebra"),
        (lambda f: f.drop("currency"), "missing_column", "currency"),
        (lambda f: f.with_columns(pl.col("amount_minor").cast(pl.Float64())), "wrong_type", "amount_minor"),
        (lambda f: f.with_columns(pl.col("amount_minor").cast(pl.Decimal(20, 2))), "wrong_type", "amount_minor"),
        (lambda f: f.with_columns(pl.col("amount_minor").cast(pl.String())), "wrong_type", "amount_minor"),
        (lambda f: f.with_columns(amount_minor=True), "wrong_type", "amount_minor"),
        (lambda f: f.with_columns(pl.lit(2**63, pl.UInt64()).alias("amount_minor")), "overflow", "amount_minor"),
        (lambda f: f.with_columns(event_id=1), "wrong_type", "event_id"),
        (lambda f: f.with_columns(pl.lit([1]).alias("reason")), "wrong_type", "reason"),
        (lambda f: f.with_columns(pl.col("occurred_at").dt.replace_time_zone(None)), "wrong_type", "occurred_at"),
        (lambda f: f.with_columns(effective_on=pl.lit("2026-01-01")), "wrong_type", "effective_on"),
    ],
)
def test_validation_frame_of_other_shape_is_refused_with_the_column(change, code: str, column: str):
    """Columns of a wrong name or type refuse the frame and are named; amounts come from integers only."""
    with pytest.raises(FrameError) as caught:
        conform(change(frame({})))
    assert (caught.value.code, caught.value.column) == (code, column)


def test_validation_frame_of_kindred_types_conforms_to_the_same_events():
    """Narrow integers, categories, other time units and plain milliseconds mean the same; optional columns may lack."""
    plain = frame({"schema_version": 1})
    given = plain.select(*GOOD).with_columns(
        pl.col("kind").cast(pl.Categorical()),
        pl.col("amount_minor").cast(pl.Int16()),
        pl.col("occurred_at").cast(pl.Int64()),
    )
    assert conform(given).equals(plain)
    assert conform(given.with_columns(plain["occurred_at"].dt.cast_time_unit("ns"))).equals(plain)


_TEXTS = st.sampled_from([None, "", "H1", "H2", "F1", "USD", "EUR", "charge", "adjustment", "x" * 300, "a\x1fb", "é"])
_ROWS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("event_id", "kind", "entity", "facility", "account", "reason", "currency"), _TEXTS),
        "amount_minor": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
        "quantity": st.none() | st.integers(-(2**63), 2**63 - 1),
        "occurred_at": st.none() | st.datetimes(datetime(1890, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
        "effective_on": st.none() | st.dates(date(1890, 1, 1), date(2040, 1, 1)),
        "schema_version": st.sampled_from([None, 1, 2]),
        "attributes": st.sampled_from([None, "", "{}", "a\x7f\n", "x" * 5_000]),
    },
)


@settings(max_examples=60)
@given(st.lists(_ROWS, min_size=1, max_size=8))
def test_validation_of_a_row_does_not_depend_on_its_neighbours(rows: list[dict]):
    """Shortcuts over whole columns change nothing: each row alone is judged as it is among the others."""
    together = check(*rows)
    alone = [check(row) for row in rows]
    assert together.accepted.height + together.rejected.height == len(rows)
    assert together.accepted["digest"].to_list() == [d for one in alone for d in one.accepted["digest"]]
    assert together.rejected.drop("row").rows() == [r for one in alone for r in one.rejected.drop("row").iter_rows()]
