"""Words: columns of few distinct words."""

import pyarrow as pa

from runtime.words import pairs_of, words_of

NAMES = pa.array(["a", None, "b", "a"])


def test_words_of_a_column_give_each_row_the_meaning_of_its_word():
    """A meaning is asked for once a word, a missing one included, and told for every row."""
    asked = []
    meanings = words_of(NAMES).map(lambda word: asked.append(word) or word == "a", bool)
    assert meanings.tolist() == [True, False, False, True]
    assert asked == ["a", "b", None]


def test_words_in_pairs_stand_for_what_stands_together():
    """Pairs are the distinct combinations of a row's words."""
    pairs = pairs_of(words_of(NAMES), words_of(pa.array(["x", "x", "y", "x"])))
    assert pairs.words == [("a", "x"), (None, "x"), ("b", "y")]
    assert pairs.codes.tolist() == [0, 1, 2, 0]


def test_words_of_nothing_mean_nothing():
    """An empty column has no words, alone and in pairs."""
    none = words_of(pa.array([], pa.large_string()))
    assert pairs_of(none, none).map(len, int).tolist() == []
