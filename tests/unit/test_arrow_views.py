"""Views of texts: what may stand behind their nulls reaches nobody, whatever part of a column is looked at."""

import struct

import polars as pl
import pyarrow as pa
import pytest

from adapters.arrow_views import sound, written_bytes

LONG = "a text that no view holds by itself"
ASTRAY = struct.pack("<i4sii", 2**30, b"xxxx", 7, 2**30)


def views(*texts: str | None) -> pa.StringViewArray:
    """Texts of which the missing ones point nowhere."""
    given = pa.array(texts, pa.string_view())
    validity, held, *data = given.buffers()
    behind = bytearray(held.to_pybytes())
    for place in (i for i, text in enumerate(texts) if text is None):
        behind[16 * place : 16 * (place + 1)] = ASTRAY
    return pa.Array.from_buffers(given.type, len(given), [validity, pa.py_buffer(bytes(behind)), *data])


@pytest.mark.parametrize(("start", "rows"), [(0, 5), (1, 4), (2, 2), (3, 1)])
def test_arrow_views_sound_gives_the_values_of_any_slice(start: int, rows: int):
    """A part of a column has its own values, its nulls are empty, and only its own texts count as written."""
    texts = ["short", LONG, None, LONG, None]
    read = sound(views(*texts).slice(start, rows))
    wanted = texts[start : start + rows]
    assert pl.Series(read).to_list() == wanted
    assert written_bytes(read) == sum(map(len, filter(None, wanted)))


def test_arrow_views_sound_reaches_the_words_of_a_dictionary():
    """A dictionary's words are looked at as well, and its order stays."""
    coded = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1]), views(None, LONG), ordered=True)
    read = sound(coded)
    assert read.type == coded.type
    assert read.dictionary.buffers()[1].to_pybytes()[:16] == bytes(16)
    assert read.to_pylist() == [LONG, None, None, LONG]


def test_arrow_views_sound_leaves_what_needs_nothing():
    """Columns without nulls among views are given back as they are."""
    for column in (pa.array([1, None]), pa.array(["a", None]), views("a", LONG)):
        assert sound(column) is column
