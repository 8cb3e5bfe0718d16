"""What an Arrow IPC stream or file says of its bodies, found without unpacking any of them.

Owns the few places of the format that pyarrow does not expose. Never reads an event.
"""

import struct
from collections.abc import Iterable

import pyarrow as pa

_FILE_END = struct.Struct("<I6s")
_BLOCK = struct.Struct("<qi4xq")  # of a file's index: offset, size of the metadata, size of the body
# Places of fields in the format's Message, RecordBatch, DictionaryBatch and Footer.
_HEADER_SLOT, _COMPRESSION_SLOT, _DATA_SLOT, _BLOCKS_SLOTS = 2, 3, 1, (2, 3)


def is_compressed(data: bytes, is_file: bool) -> bool:
    """Whether any body is compressed. Raises whatever hostile bytes lead to, when they are no Arrow at all."""
    return any(_has_compression(message) for message in (_file_messages if is_file else _stream_messages)(data))


def _has_compression(message: pa.Message) -> bool:
    header = memoryview(message.metadata)
    batch = _follow(header, _slot(header, _follow(header, 0), _HEADER_SLOT))
    if message.type == "dictionary":
        batch = _follow(header, _slot(header, batch, _DATA_SLOT))
    return message.type != "schema" and _slot(header, batch, _COMPRESSION_SLOT) != 0


def _stream_messages(data: bytes) -> Iterable[pa.Message]:
    reader = pa.ipc.MessageReader.open_stream(data)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _file_messages(data: bytes) -> Iterable[pa.Message]:
    end = len(data) - _FILE_END.size
    footer = memoryview(data)[end - _FILE_END.unpack_from(data, end)[0] : end]
    for slot in _BLOCKS_SLOTS:
        place = _slot(footer, _follow(footer, 0), slot)
        blocks = _follow(footer, place) if place else 0
        for number in range(_u32(footer, blocks) if place else 0):
            offset, metadata, body = _BLOCK.unpack_from(footer, blocks + 4 + number * _BLOCK.size)
            yield pa.ipc.read_message(memoryview(data)[offset : offset + metadata + body])


# The format's metadata are FlatBuffers: a table starts with the distance back to its vtable, which holds the place of
# each field in the table (0: not given). pyarrow verified the buffer, and does not expose these fields.


def _u32(buffer: memoryview, at: int) -> int:
    return struct.unpack_from("<I", buffer, at)[0]


def _follow(buffer: memoryview, at: int) -> int:
    return at + _u32(buffer, at)


def _slot(buffer: memoryview, table: int, slot: int) -> int:
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    size, _, *_ = struct.unpack_from("<HH", buffer, vtable)
    at = 4 + 2 * slot
    place = struct.unpack_from("<H", buffer, vtable + at)[0] if at < size else 0
    return table + place if place else 0
