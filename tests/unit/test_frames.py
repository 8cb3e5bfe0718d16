"""Frames and control messages as bytes."""

import io
from datetime import UTC, date, datetime

import polars as pl
import pyarrow as pa
import pytest

from runtime.errors import FrameError
from runtime.flow import frames
from runtime.flow.frames import (
    decode,
    decode_control,
    decode_sealed,
    encode,
    encode_arrow,
    encode_control,
    encode_few,
    encode_parts,
)
from runtime.schema import STAMPED, to_arrow, with_coded_words
from runtime.validation_singly import events_of


def stamped(rows: int) -> pl.DataFrame:
    moment = datetime(2026, 10, 1, tzinfo=UTC)
    row = dict.fromkeys(STAMPED) | {"source": "epic", "amount_minor": -5, "occurred_at": moment, "received_at": moment}
    row |= {"effective_on": date(2026, 10, 1), "id_hash": 2**64 - 1, "digest": 0, "account": "patient-4711"}
    return pl.DataFrame([row | {"event_id": f"e{i}"} for i in range(rows)], schema=STAMPED)


class Shared(pl.DataFrame):
    """A frame that another thread uses: to write it would lock it, perhaps against who holds the interpreter's lock."""

    def clone(self) -> pl.DataFrame:
        return pl.DataFrame(self.get_columns())

    def write_ipc_stream(self, *_args: object, **_options: object) -> None:
        raise AssertionError("a frame that others may use was written itself")


def test_frame_that_others_use_is_written_as_a_copy_of_its_own() -> None:
    """A snapshot is written beside the shard, which goes on with the same frame: neither ever waits for the other."""
    frame = stamped(3)

    assert encode(Shared(frame.get_columns())) == encode(frame)


@pytest.mark.parametrize("rows", [0, 1, 511, 4_000])
@pytest.mark.parametrize("read", [decode, decode_sealed])
def test_frame_survives_the_way_there_and_back(rows: int, read) -> None:
    """Every canonical column comes back as it was, in small and large frames, through either reader."""
    frame = stamped(rows)

    assert read(encode(frame)).equals(frame)
    assert read(encode(frame)).schema == frame.schema


def test_encode_of_equal_frames_gives_equal_bytes() -> None:
    """The encoding is a function of the rows, so it may be hashed and compared."""
    assert encode(stamped(3)) == encode(stamped(3))


def test_encode_of_a_slice_holds_only_its_rows() -> None:
    """A part of a large frame does not drag the whole along."""
    wide = stamped(4_000).with_columns(document=pl.col("event_id") + "-with-a-document-number-of-some-length")

    alone = pl.DataFrame(wide[:100].to_dicts(), schema=wide.schema)
    assert len(encode(wide[:100])) < 1.1 * len(encode(alone))


@pytest.mark.parametrize("rows", [0, 1, 511, 4_000])
@pytest.mark.parametrize("read", [decode, decode_sealed])
def test_arrow_batch_is_read_as_the_frame_that_it_was(rows: int, read) -> None:
    """A batch encoded without Polars is the same frame to whoever reads the log."""
    frame = stamped(rows)

    assert read(encode_arrow(to_arrow(frame))).equals(frame)
    assert read(encode_arrow(to_arrow(frame))).schema == frame.schema


@pytest.mark.parametrize("start", [0, 1_000])
@pytest.mark.parametrize("rows", [100, 1_000])
def test_encode_of_a_slice_of_a_batch_holds_only_its_rows(start: int, rows: int) -> None:
    """A part of a batch, first or later, does not drag the whole along."""
    wide = stamped(4_000).with_columns(document=pl.col("event_id") + "-with-a-document-number-of-some-length")
    part = to_arrow(wide).slice(start, rows)

    alone = to_arrow(pl.DataFrame(wide[start : start + rows].to_dicts(), schema=wide.schema))
    assert len(encode_arrow(part)) < 1.1 * len(encode_arrow(alone))
    assert decode_sealed(encode_arrow(part)).equals(wide[start : start + rows])


@pytest.mark.parametrize("words", [0, 1, 200, 300, 3_000])
@pytest.mark.parametrize("rows", [100, 4_000])
def test_coded_batch_is_read_as_the_texts_that_it_means(words: int, rows: int) -> None:
    """Columns of words, however many, with nulls and with words that no row uses, come back as texts."""
    texts = [f"word-{i % words}" if words and i % 3 else None for i in range(4_050)]
    frame = stamped(4_050).with_columns(pl.Series("reason", texts, pl.String()))
    part = with_coded_words(to_arrow(frame)).slice(50, rows)

    assert decode_sealed(encode_arrow(part)).equals(frame[50 : 50 + rows])
    ends = [rows // 3, rows]
    bodies = encode_parts(part, ends)
    assert pl.concat(map(decode_sealed, bodies)).equals(frame[50 : 50 + rows])
    assert [decode_sealed(body).height for body in bodies] == [ends[0], rows - ends[0]]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_bodies_read_together_are_the_frames_one_after_another(order: tuple[int, ...]) -> None:
    """Coded and plain entries, empty ones and those of Polars are one frame, each column of it in one piece."""
    texts = [f"word-{i % 7}" if i % 3 else None for i in range(3_000)]
    frame = stamped(3_000).with_columns(pl.Series("reason", texts, pl.String()), document=pl.lit("longer than a view"))
    coded = with_coded_words(to_arrow(frame[:2_000]))
    parts = [frame[:2_000], frame[2_000:2_400], frame[2_400:], frame.clear()]
    bodies = [encode_arrow(coded), encode_arrow(to_arrow(parts[1])), encode(parts[2]), encode(parts[3])]

    read = decode_sealed(*(bodies[at] for at in order))
    assert read.equals(pl.concat([parts[at] for at in order]))
    assert read.schema == frame.schema
    assert read.n_chunks() == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 1)])
def test_pieces_of_a_coded_column_may_have_no_words(order: tuple[int, ...]) -> None:
    """A column whose rows are all null in one frame has no words there, wherever among others that frame stands."""
    some = stamped(3_000).with_columns(pl.Series("reason", [f"word-{i % 4}" for i in range(3_000)]))
    pieces = [some, some.with_columns(reason=pl.lit(None, pl.String()))]
    bodies = [encode_arrow(with_coded_words(to_arrow(pieces[at]))) for at in order]
    assert decode_sealed(*bodies).equals(pl.concat(pieces[at] for at in order))


def test_bodies_of_different_columns_are_not_read_together() -> None:
    """No column of a later frame is left out silently."""
    with pytest.raises(FrameError, match="different columns"):
        decode_sealed(encode(stamped(1).drop("account")), encode(stamped(1)))


def test_texts_too_long_for_one_array_are_read_together_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the offsets of one array would not do, texts are joined as views."""
    monkeypatch.setattr(frames, "_STRING_BYTES_MAX", 100)
    frame = stamped(600).with_columns(document=pl.lit("longer than a view"))
    bodies = [encode_arrow(to_arrow(part)) for part in (frame[:300], frame[300:])]
    assert decode_sealed(*bodies).equals(frame)


@pytest.mark.parametrize("read", [decode, decode_sealed])
def test_few_events_are_read_as_the_frame_that_they_are_in_columns(read) -> None:
    """Events without columns come back as the parts of a frame do, value by value and type by type."""
    batch = to_arrow(stamped(5))
    parts = [read(body) for body in encode_few(events_of(batch), [2, 5])]
    expected = [read(body) for body in encode_parts(batch, [2, 5])]
    assert all(part.equals(other) for part, other in zip(parts, expected, strict=True))
    assert parts[0].schema == expected[0].schema
    assert pl.concat(parts).equals(stamped(5))


def test_encoded_frame_is_a_plain_arrow_stream_to_others() -> None:
    """Any Arrow library reads a log entry's body, seal and all."""
    assert pa.ipc.open_stream(encode(stamped(2))).read_all().num_rows == 2


def test_decode_reads_an_arrow_stream_of_another_library() -> None:
    """Producers send plain Arrow: several batches, dictionaries, narrow integers."""
    table = pa.table({"event_id": ["a", "b"], "kind": pa.array(["x", "x"]).dictionary_encode(), "n": pa.array([1, 2])})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=1) + table.to_batches():
            writer.write_batch(batch)

    assert decode(sink.getvalue())["event_id"].to_list() == ["a", "b", "a", "b"]


@pytest.mark.parametrize("read", [decode, decode_sealed])
@pytest.mark.parametrize("body", [b"", b"x", b"PSTK" * 8, b"\xff\xff\xff\xff" + b"\x7f" * 20, b'{"event_id": "4711"}'])
def test_decode_of_other_bytes_is_malformed_without_echo(body: bytes, read) -> None:
    """Bytes that are no frame are refused by code, and the text repeats nothing of them."""
    with pytest.raises(FrameError) as refused:
        read(body)

    assert (refused.value.code, refused.value.column) == ("malformed_frame", "")
    assert "4711" not in str(refused.value)


def test_decode_of_a_cut_frame_is_malformed() -> None:
    """A frame cut inside its rows is never read as a shorter one."""
    whole = encode(stamped(600))
    for length in range(0, len(whole) - 32, 97):
        with pytest.raises(FrameError, match="malformed_frame"):
            decode(whole[:length])


def test_decode_sealed_finds_any_changed_byte() -> None:
    """One flipped bit anywhere breaks the seal."""
    whole = encode(stamped(2))
    for place in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        with pytest.raises(FrameError, match="seal"):
            decode_sealed(bytes(damaged))


def test_decode_of_damaged_frames_never_does_worse_than_refuse() -> None:
    """Whatever a damaged length claims, decode gives a frame or FrameError, and never takes the process down."""
    whole = encode(stamped(2))
    outcomes = {_read_or_refuse(whole, place, value) for place in range(0, len(whole), 3) for value in (0x7F, 0xFF)}

    assert outcomes == {"read", "malformed_frame"}


def _read_or_refuse(whole: bytes, place: int, value: int) -> str:
    damaged = bytearray(whole)
    damaged[place] = value
    try:
        decode(bytes(damaged))
    except FrameError as error:
        return error.code
    return "read"


@pytest.mark.parametrize("column", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"x"])])
def test_decode_refuses_types_that_no_event_has(column: pa.Array) -> None:
    """Nested and binary columns are refused before anything looks into them."""
    sink = io.BytesIO()
    table = pa.table({"attributes": column})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    with pytest.raises(FrameError, match="type"):
        decode(sink.getvalue())


def test_control_message_survives_whatever_its_order() -> None:
    """Control messages come back equal, and equal ones have equal bytes."""
    message = {"type": "tick", "at_ms": 1_760_000_000_000, "nested": {"b": [1, None], "a": True}}

    assert decode_control(encode_control(message)) == message
    assert encode_control({"a": 1, "b": 2}) == encode_control({"b": 2, "a": 1})


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b'{"a": ', b"\xff{}", b"[" * 100_000])
def test_control_of_other_bytes_is_malformed(body: bytes) -> None:
    """Anything but a JSON object is refused by code."""
    with pytest.raises(FrameError) as refused:
        decode_control(body)

    assert refused.value.code == "malformed_control"
