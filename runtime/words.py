"""Columns of few distinct words: what follows from a word is found out once for the word, not once for the row.

Owns the coding of such columns, and from which number of rows on it pays. Never knows what a word means. A coded column
is an Arrow dictionary; its dictionary may hold words that no row uses.
"""

from collections.abc import Callable, Container
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPREAD = 0x9E3779B97F4A7C15  # an odd number: multiplied by it, hashes of few words differ in every bit
SINGLY_ROWS_MAX = 64  # so many values are gone through one by one in the time of a few calls on whole columns


class Words(NamedTuple):
    """The distinct words (None is one) and for each row the place of its word among them."""

    words: list[Any]
    codes: np.ndarray

    def map(self, meaning: Callable[[Any], Any], dtype: type) -> np.ndarray:
        """For each row what its word means."""
        return np.array([meaning(word) for word in self.words], dtype)[self.codes]

    def are(self, some: Container[Any]) -> np.ndarray:
        """For each row whether its word is one of these."""
        return np.array([word in some for word in self.words], bool)[self.codes]


def coded(column: pa.Array) -> pa.DictionaryArray:
    """The column as a dictionary, as it is if it is one."""
    return column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)


def plain(column: pa.Array) -> pa.Array:
    """A coded column written out; any other as it is."""
    return column.dictionary.take(column.indices) if pa.types.is_dictionary(column.type) else column


def words_of(column: pa.Array) -> Words:
    """A column's words."""
    column = coded(column)
    words, codes = column.dictionary.to_pylist(), column.indices
    if column.null_count:
        return Words([*words, None], pc.fill_null(codes, len(words)).to_numpy())
    return Words(words, codes.to_numpy())


def pairs_of(first: Words, second: Words) -> Words:
    """The pairs that stand together in a row, as words."""
    count = len(second.words)
    coded = pc.dictionary_encode(pa.array(first.codes.astype(np.int64) * count + second.codes))
    pairs = [(first.words[pair // count], second.words[pair % count]) for pair in coded.dictionary.to_pylist()]
    return Words(pairs, coded.indices.to_numpy())
