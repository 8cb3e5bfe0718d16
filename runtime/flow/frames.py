"""Frames and control messages as bytes: what a log entry's body holds, and what a producer sends as Arrow.

Owns the encoding. A body is an Arrow IPC stream, so any Arrow library reads it, followed by a seal (magic and
xxHash64), which Arrow readers ignore. Never checks what the rows mean (`runtime.schema` does), nor routes them.
"""

import io
import struct
from collections.abc import Sequence
from itertools import groupby, pairwise

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from runtime.errors import FrameError
from runtime.schema import ARROW_STAMPED, Event
from runtime.words import plain

# Small frames gain nothing from compression, and its thread pools cost more than their whole decoding.
_COMPRESS_ROWS_MIN = 512
_WORDS_PART = 2  # a dictionary of more words than one for so many rows is no shorter than the texts
_VIEW = np.complex128  # a view's 16 bytes, as the type of that size that NumPy takes fastest
_STRING_BYTES_MAX = 2**31  # of one array whose offsets have four bytes
_SEAL = struct.Struct("<4sQ")
_MAGIC = b"PSTK"
_ONE_THREAD = pa.ipc.IpcReadOptions(use_threads=False)
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_LEAN_STAMPED = pa.schema(
    [(field.name, pa.string() if pa.types.is_large_string(field.type) else field.type) for field in ARROW_STAMPED]
)
_NAMES, _STRUCT, _SCHEMA = ARROW_STAMPED.names, pa.struct(_LEAN_STAMPED), _LEAN_STAMPED.serialize().to_pybytes()
_COMPRESSED = pa.ipc.IpcWriteOptions(use_threads=False, compression="lz4")


def encode(frame: pl.DataFrame) -> bytes:
    """A frame as a sealed Arrow IPC stream. Other threads may use the frame meanwhile."""
    sink = io.BytesIO()
    # Polars locks what it writes, and takes the interpreter's lock for each piece. A thread that has that one and asks
    # for the same frame would wait for ever, and all others for it; a clone has the same data and a lock of its own.
    own = frame.clone()
    own.write_ipc_stream(sink, compression="lz4" if frame.height >= _COMPRESS_ROWS_MIN else "uncompressed")
    return _sealed(sink.getvalue())


def encode_arrow(batch: pa.RecordBatch, coded_rows_min: int = _COMPRESS_ROWS_MIN) -> bytes:
    """The same of an Arrow batch, in which texts may be coded."""
    return encode_parts(batch, [batch.num_rows], coded_rows_min)[0]


def encode_parts(batch: pa.RecordBatch, ends: Sequence[int], coded_rows_min: int = _COMPRESS_ROWS_MIN) -> list[bytes]:
    """The same of each part of a batch, given where they end. Parts of fewer rows than `coded_rows_min` are written out
    and not compressed."""
    lean = pa.RecordBatch.from_arrays([_lean(column) for column in batch.columns], batch.schema.names)
    parts = (lean.slice(start, end - start) for start, end in pairwise([0, *ends]))
    return [_sealed(_stream(part, coded_rows_min)) for part in parts]


def _sealed(stream: bytes) -> bytes:
    return stream + _SEAL.pack(_MAGIC, xxhash.xxh64_intdigest(stream))


def _lean(column: pa.Array) -> pa.Array:
    """The column in the form that is least to compress: codes of one or two bytes, texts with offsets of four."""
    if pa.types.is_dictionary(column.type):
        words = column.dictionary
        if _WORDS_PART * len(words) <= len(column):
            narrow = pa.from_numpy_dtype(np.min_scalar_type(len(words)))
            return pa.DictionaryArray.from_arrays(column.indices.cast(narrow), words)
        column = plain(column)
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column


def _stream(batch: pa.RecordBatch, coded_rows_min: int) -> bytes:
    if batch.num_rows < coded_rows_min:
        small = pa.RecordBatch.from_arrays([plain(column) for column in batch.columns], batch.schema.names)
        return _small_stream(small, small.schema.serialize().to_pybytes())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_COMPRESSED) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _small_stream(batch: pa.RecordBatch, schema: bytes) -> bytes:
    """What a stream writer writes, in a quarter of the time that making one takes. `schema`: the batch's."""
    return schema + batch.serialize().to_pybytes() + _END_OF_STREAM


def encode_few(events: Sequence[Event], ends: Sequence[int]) -> list[bytes]:
    """`encode_parts` of few stamped events that are in no columns: of one struct each, as twenty-two arrays of a few
    values are slower to make than one."""
    structs = pa.array([dict(zip(_NAMES, event, strict=True)) for event in events], _STRUCT)
    batch = pa.RecordBatch.from_struct_array(structs)
    parts = (batch.slice(start, end - start) for start, end in pairwise([0, *ends]))
    return [_sealed(_small_stream(part, _SCHEMA)) for part in parts]


def decode_sealed(*bodies: bytes) -> pl.DataFrame:
    """Read back what `encode` wrote, one body after another, each column in one piece. FrameError on a missing or
    broken seal.

    Only for bytes from our own log: the seal finds damage, it does not keep out somebody who forges it.
    """
    if not all(map(_seal_holds, bodies)):
        raise FrameError("malformed_frame", "", "the seal is missing or broken")
    tables = [pa.ipc.open_stream(body, options=_ONE_THREAD).read_all() for body in bodies]
    names = tables[0].schema.names
    if any(table.schema.names != names for table in tables):
        raise FrameError("malformed_frame", "", "frames of one step have different columns")
    columns = [_in_one([chunk for table in tables for chunk in _chunks(table.column(name))]) for name in names]
    return pl.DataFrame(pa.table(columns, names))


def _chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks or [pa.nulls(0, column.type)]


def _in_one(chunks: Sequence[pa.Array]) -> pa.Array:
    """A column of its pieces; texts as views, which Polars takes as they are."""
    types = {chunk.type for chunk in chunks}
    if any(map(pa.types.is_dictionary, types)):
        runs = groupby(chunks, lambda chunk: pa.types.is_dictionary(chunk.type))
        pieces = [_written_out(list(run)) if is_coded else _in_one(list(run)) for is_coded, run in runs]
        return pieces[0] if len(pieces) == 1 else pa.concat_arrays([_as_views(piece) for piece in pieces])
    if types == {pa.string()} and sum(chunk.nbytes for chunk in chunks) < _STRING_BYTES_MAX:
        return pa.concat_arrays(chunks).cast(pa.string_view())
    texts = len(types) > 1 or types == {pa.string()}
    return pa.concat_arrays([_as_views(chunk) for chunk in chunks] if texts else chunks)


def _as_views(texts: pa.Array) -> pa.Array:
    return texts.cast(pa.string_view())


def _written_out(chunks: Sequence[pa.DictionaryArray]) -> pa.Array:
    """Coded texts as views, which share the words of all dictionaries."""
    dictionaries = [chunk.dictionary.cast(pa.string_view()) for chunk in chunks]
    _, words, *texts = pa.concat_arrays(dictionaries).buffers()
    # One view more than there are words: a last piece that has none, as all of its rows are null, takes that.
    words = np.frombuffer(words.to_pybytes() + bytes(np.dtype(_VIEW).itemsize), _VIEW)
    views, first, start = np.empty(sum(map(len, chunks)), _VIEW), 0, 0
    for chunk, dictionary in zip(chunks, dictionaries, strict=True):
        codes = pc.fill_null(chunk.indices, 0).to_numpy()
        # No code is too large, but only so NumPy writes straight to where it is told to.
        words[first:].take(codes, out=views[start : start + len(codes)], mode="clip")
        first, start = first + len(dictionary), start + len(codes)
    return pa.Array.from_buffers(pa.string_view(), len(views), [_validity(chunks), pa.py_buffer(views), *texts])


def _validity(chunks: Sequence[pa.DictionaryArray]) -> pa.Buffer | None:
    """Which rows of all pieces are not null; None where all are."""
    if not any(chunk.null_count for chunk in chunks):
        return None
    return pa.concat_arrays([chunk.indices.cast(pa.int32()) for chunk in chunks]).buffers()[0]


def _seal_holds(body: bytes) -> bool:
    if len(body) < _SEAL.size:
        return False
    magic, checksum = _SEAL.unpack_from(body, len(body) - _SEAL.size)
    return magic == _MAGIC and checksum == xxhash.xxh64_intdigest(memoryview(body)[: -_SEAL.size])


def decode(body: bytes) -> pl.DataFrame:
    """Read an Arrow IPC stream from anywhere. FrameError on anything else, without a word of its content."""
    # Polars' own reader trusts the lengths it finds and aborts the process on a hostile one; pyarrow's checks them.
    try:
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except Exception:
        raise FrameError("malformed_frame", "", "not an Arrow IPC stream") from None
    if not all(_flat(field.type) for field in table.schema):
        raise FrameError("malformed_frame", "", "a column has a type that no event column can be read from")
    return _to_polars(table)


def _flat(given: pa.DataType) -> bool:
    if pa.types.is_dictionary(given):
        return _text(given.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp, pa.types.is_date, pa.types.is_boolean)
    return _text(given) or pa.types.is_null(given) or any(test(given) for test in tests)


def _text(given: pa.DataType) -> bool:
    return pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given)


def _to_polars(table: pa.Table) -> pl.DataFrame:
    try:
        return pl.DataFrame(table)
    except (Exception, pl.exceptions.PanicException):
        raise FrameError("malformed_frame", "", "columns that can't be read") from None


def encode_control(message: dict) -> bytes:
    """A control message as JSON; equal messages give equal bytes."""
    return msgspec.json.encode(message, order="sorted")


def decode_control(body: bytes) -> dict:
    """Read a control message back. FrameError on anything but a JSON object."""
    try:
        return msgspec.json.decode(body, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FrameError("malformed_control", "", "not a JSON object") from None
