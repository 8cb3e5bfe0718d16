"""Files in Penstock's own columns, and how a file's format is recognised."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from adapters.sources import FORMATS, open_source
from adapters.sources.delimited import LINE_CHARS_MAX
from adapters.sources.rows import LINE_BYTES_MAX
from runtime.errors import FrameError
from runtime.schema import conform, to_arrow

AT = datetime(2026, 10, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def sample() -> pl.DataFrame:
    """Five events with and without optional columns, one before 1970, one negative."""
    return conform(
        pl.DataFrame(
            {
                "event_id": ["a", "b", "c", "d", "e"],
                "source": "billing",
                "kind": "adjustment_posted",
                "entity": "mercy",
                "facility": ["mercy-general", "mercy-general", "mercy-west", None, "mercy-west"],
                "reason": ["a, quoted", 'with "marks"', "grüße", None, "plain"],
                "amount_minor": [1, -250, 0, 10**15, 99],
                "currency": "USD",
                "quantity": [1000, None, 1, None, 2500],
                "occurred_at": [AT, AT, datetime(1968, 1, 21, 0, 21, 58, 1000, tzinfo=UTC), AT, AT],
                "effective_on": [date(2026, 10, 1), None, date(1968, 1, 21), None, None],
                "attributes": ['{"room":"4"}', None, None, None, None],
            }
        )
    )


def write(frame: pl.DataFrame, form: str, path: Path) -> Path:
    """The frame as a file of that format."""
    if form == "jsonl":
        instants = frame.with_columns(pl.col("occurred_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
        instants.write_ndjson(path)
    elif form == "csv":
        frame.with_columns(pl.col("occurred_at").dt.epoch("ms")).write_csv(path)
    elif form == "parquet":
        frame.write_parquet(path, row_group_size=2)
    elif form == "arrow":
        frame.write_ipc(path)
    else:
        frame.write_ipc_stream(path)
    return path


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "arrow", "arrow stream"])
def test_rows_of_each_format_come_back_as_written(tmp_path: Path, form: str) -> None:
    """Each format is recognised by its content and gives the same canonical events, in frames within the bound."""
    source = open_source(write(sample(), form, tmp_path / "events"), rows_max=2)
    frames = list(source.frames())
    assert max(frame.height for frame in frames) <= 2
    assert pl.concat(frames).equals(sample())
    assert source.total().sums == {("mercy", "USD", "adjustment_posted"): (5, 10**15 - 150, 10**15 + 350)}
    assert (source.total().rows, source.faults) == (5, [])


def test_rows_csv_reads_instants_as_text(tmp_path: Path) -> None:
    """RFC 3339 instants and integer milliseconds mean the same in CSV."""
    path = tmp_path / "events.csv"
    head = "event_id,source,kind,entity,amount_minor,currency,occurred_at\n"
    path.write_text(head + "a,s,k,mercy,1,USD,2026-10-01T12:30:15.250Z\nb,s,k,mercy,1,USD,1790857815250\n")
    (frame,) = open_source(path).frames()
    assert frame["occurred_at"].to_list() == [AT, AT]


@pytest.mark.parametrize(
    ("line", "column", "code"),
    [
        ('{"event_id":"x","amount_minor":12.50}', "amount_minor", "wrong_type"),
        ('{"event_id":"x","amount_minor":12.0}', "amount_minor", "wrong_type"),
        ('{"event_id":"x","amount_minor":"12"}', "amount_minor", "wrong_type"),
        ('{"event_id":"x","amount_minor":92233720368547758070}', "amount_minor", "wrong_type"),
        ('{"event_id":"x","occurred_at":"2026-10-01T12:00:00"}', "occurred_at", "wrong_type"),
        ('{"event_id":"x","effective_on":"2026-02-30"}', "effective_on", "wrong_type"),
        ('{"event_id":"x","patient":"Jane"}', "patient", "unknown_column"),
        ('{"event_id":"x","Jane Doe":"surgery"}', "", "unknown_column"),
        ('{"event_id":"x"', "", "malformed"),
        ('["x"]', "", "malformed"),
        ('{"event_id":"' + "x" * LINE_BYTES_MAX + '"}', "", "too_long"),
    ],
)
def test_rows_wrong_json_line_rejects_itself(tmp_path: Path, line: str, column: str, code: str) -> None:
    """A wrong line is a fault with line, column and code; the lines around it are read."""
    lines = write(sample(), "jsonl", tmp_path / "events").read_text().splitlines()
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join([lines[0], line, "", lines[1]]) + "\n")
    source = open_source(path)
    (frame,) = source.frames()
    assert frame["event_id"].to_list() == ["a", "b"]
    assert [(fault.line, fault.column, fault.code) for fault in source.faults] == [(2, column, code)]
    assert source.total().rejected == 1 and "Jane" not in str(source.faults[0])


@pytest.mark.parametrize(
    ("amount", "occurred_at", "column"),
    [
        ("12.50", "1790857815250", "amount_minor"),
        ("1e3", "1790857815250", "amount_minor"),
        ("9223372036854775808", "1790857815250", "amount_minor"),
        ("12", "2026-10-01 12:30", "occurred_at"),
    ],
)
def test_rows_wrong_csv_cell_rejects_its_row(tmp_path: Path, amount: str, occurred_at: str, column: str) -> None:
    """An amount that is no 64-bit integer and an instant without a zone are faults, never guessed at."""
    path = tmp_path / "events.csv"
    head = "event_id,source,kind,entity,amount_minor,currency,occurred_at\n"
    path.write_text(head + f"a,s,k,mercy,{amount},USD,{occurred_at}\nb,s,k,mercy,7,USD,1790857815250\n")
    source = open_source(path)
    (frame,) = source.frames()
    assert frame["amount_minor"].to_list() == [7]
    (fault,) = source.faults
    assert (fault.line, fault.column, fault.code) == (2, column, "wrong_type")
    assert amount not in fault.message and occurred_at not in fault.message


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_rows_csv_line_without_end_rejects_itself_and_is_not_kept(tmp_path: Path, end: str) -> None:
    """A line beyond the limit is a fault at its number, whatever cells it would have; the others are read."""
    head = "event_id,source,kind,entity,amount_minor,currency,occurred_at,attributes\n"
    row = "{},s,k,mercy,7,USD,1790857815250,{}"
    path = tmp_path / "events.csv"
    path.write_text(head + row.format("a", "") + "\n" + row.format("b", "x" * LINE_CHARS_MAX) + end, newline="")
    if end:
        path.write_bytes(path.read_bytes() + row.format("c", "").encode())
    source = open_source(path)
    (frame,) = source.frames()
    assert frame["event_id"].to_list() == (["a", "c"] if end else ["a"])
    assert [(fault.line, fault.code) for fault in source.faults] == [(3, "malformed")]
    path.write_text(head.strip() + "," * LINE_CHARS_MAX, newline="")
    with pytest.raises(FrameError, match="malformed: line 1: not a header"):
        list(open_source(path).frames())


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("event_id,source,kind,entity,amount_minor,currency,occurred_at,patient", "unknown_column: patient"),
        ("event_id,Jane Doe,m4711,kind,entity,amount_minor", "unknown_column: column 2"),
        ("event_id,source,kind,entity,currency,occurred_at", "missing_column: amount_minor"),
        ("event_id,event_id,source,kind,entity,amount_minor,currency,occurred_at", "malformed"),
    ],
)
def test_rows_csv_with_wrong_header_is_refused(tmp_path: Path, header: str, code: str) -> None:
    """A header with a foreign, a missing or a doubled column is refused as a whole."""
    path = tmp_path / "events.csv"
    path.write_text(header + "\n")
    with pytest.raises(FrameError, match=code):
        list(open_source(path).frames())


def test_rows_parquet_with_float_amounts_is_refused(tmp_path: Path) -> None:
    """Amounts in floating point are refused, as no cast can tell what was meant."""
    path = tmp_path / "events.parquet"
    sample().with_columns(pl.col("amount_minor").cast(pl.Float64())).write_parquet(path)
    with pytest.raises(FrameError, match="wrong_type: amount_minor"):
        list(open_source(path).frames())


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_rows_truncated_binary_file_is_refused(tmp_path: Path, form: str) -> None:
    """A binary file that ends in the middle is a typed error and not the library's."""
    path = write(sample(), form, tmp_path / "events")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FrameError, match="malformed"):
        list(open_source(path).frames())


@pytest.mark.parametrize("rows_max", [50_000, 2])
def test_rows_arrow_null_may_hide_anything(tmp_path: Path, rows_max: int) -> None:
    """What stands behind a null is undefined; a view there that points nowhere must not be followed."""
    views = np.zeros((5, 4), np.int32)
    views[:, 0], views[:, 1], views[3] = 1, ord("x"), (2**30, 7, 7, 7)
    held = pa.py_buffer(np.packbits([1, 1, 1, 0, 1], bitorder="little"))
    departments = pa.Array.from_buffers(pa.string_view(), 5, [held, pa.py_buffer(views)])
    table = sample().drop("department").to_arrow().append_column("department", departments)
    path = tmp_path / "events.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    frame = pl.concat(open_source(path, rows_max=rows_max).frames())
    assert to_arrow(frame).column("department").to_pylist() == ["x", "x", "x", None, "x"]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_rows_binary_file_whose_names_are_no_text_is_refused(tmp_path: Path, form: str) -> None:
    """A column's name that is no UTF-8 is a typed error without what stands there."""
    path = write(sample(), form, tmp_path / "events")
    path.write_bytes(path.read_bytes().replace(b"department", b"depart\xff\xfe\xff\xfe"))
    with pytest.raises(FrameError, match="malformed"):
        list(open_source(path).frames())


def test_rows_empty_arrow_stream_gives_no_frame(tmp_path: Path) -> None:
    """A stream of no batches is zero events, not an error and not an empty frame."""
    path = tmp_path / "events.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, sample().to_arrow().schema):
        pass
    source = open_source(path)
    assert (list(source.frames()), source.total().rows) == ([], 0)


def test_open_source_unknown_content_lists_formats(tmp_path: Path) -> None:
    """A file of no known format, or a name that is none, is answered with the names of those that are."""
    path = tmp_path / "notes.txt"
    path.write_text("dear diary,\n")
    for given in (None, "xlsx"):
        with pytest.raises(FrameError) as refused:
            open_source(path, given)
        assert all(name in str(refused.value) for name in FORMATS)


def test_open_source_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that can't be opened is an error at once, before anything is sent."""
    with pytest.raises(FrameError, match="unreadable_file"):
        open_source(tmp_path / "absent.csv")


def test_source_read_twice_counts_once(tmp_path: Path) -> None:
    """A second reading starts a new control total, so a retry does not double it."""
    source = open_source(write(sample(), "jsonl", tmp_path / "events"))
    assert [len(list(source.frames())), len(list(source.frames()))] == [1, 1]
    assert source.total().events == 5
