"""Columns of texts as Arrow views: what must be done before Polars may read those that somebody else has made.

Owns the layout of a view, which pyarrow does not expose. Never decides how long a text may be, nor what it means.
"""

import numpy as np
import pyarrow as pa

_VIEW_INTS = 4  # a view is sixteen bytes, the first four of them the text's length


def sound(column: pa.Array) -> pa.Array:
    """The same values. Nulls among views point nowhere: what stands behind one is checked by nobody, and read by Polars
    wherever it points."""
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, sound(column.dictionary), ordered=column.type.ordered)
    if not pa.types.is_string_view(column.type) or not column.null_count:
        return column
    held = column.is_valid().to_numpy(zero_copy_only=False)
    views = _views(column).copy()
    views[~held] = 0
    validity = np.packbits(held, bitorder="little")
    _, _, *texts = column.buffers()
    return pa.Array.from_buffers(column.type, len(column), [pa.py_buffer(validity), pa.py_buffer(views), *texts])


def written_bytes(texts: pa.StringViewArray) -> int:
    """How long sound texts are when each is written out, however many rows share the bytes of one."""
    return int(_views(texts)[:, 0].sum(dtype=np.int64))


def _views(texts: pa.StringViewArray) -> np.ndarray:
    ints = np.frombuffer(texts.buffers()[1], np.int32, _VIEW_INTS * (texts.offset + len(texts)))
    return ints.reshape(-1, _VIEW_INTS)[texts.offset :]
