"""Amounts: sums of names are read and evaluated exactly, and what is no sum is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import RulebookError
from runtime.ledger import amounts
from runtime.limits import AMOUNT_MINOR_MAX
from simulation.auditor.amounts import attributes_of as modelled

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("amount_minor", ((1, "amount_minor"),)),
        ("- tax_minor", ((-1, "tax_minor"),)),
        ("-tax_minor+a", ((-1, "tax_minor"), (1, "a"))),
        ("a - b + c2", ((1, "a"), (-1, "b"), (1, "c2"))),
        ("+ a", ((1, "a"),)),
    ],
)
def test_sum_of_names_is_read_with_its_signs(text, terms):
    """Names are joined by plus and minus, with or without spaces between."""
    assert amounts.terms(text) == terms


@pytest.mark.parametrize("text", ["", "a b", "2 * a", "a - ", "A", "a + 5", "a, b", "_a", "a "])
def test_what_is_no_sum_of_names_is_refused(text):
    """Numbers, products, capitals and loose ends are no sums."""
    with pytest.raises(RulebookError, match="amount"):
        amounts.terms(text)


@given(parts=st.lists(st.tuples(st.sampled_from((1, -1)), NAMES, st.integers(-(10**12), 10**12)), min_size=1))
def test_sum_evaluates_to_what_its_terms_add_up_to(parts):
    """However it is written, a sum is the sum of its signed names."""
    text = " ".join(f"{'+' if sign > 0 else '-'} {name}" for sign, name, _ in parts)
    values = {name: value for _, name, value in parts}
    expected = sum(sign * values[name] for sign, name, _ in parts)
    assert amounts.evaluate(amounts.terms(text), own=values, given={}) == expected
    assert amounts.evaluate(amounts.terms(text), own={}, given=values) == expected


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        (5, 5),
        (-5, -5),
        (AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX),
        (AMOUNT_MINOR_MAX + 1, 0),
        (-AMOUNT_MINOR_MAX - 1, 0),
        (True, 0),
        ("5", 0),
        (5.0, 0),
        (None, 0),
        ([5], 0),
    ],
)
def test_attribute_counts_only_as_a_whole_number_in_range(value, counted):
    """A text, a fraction, a truth or a number beyond all amounts counts as zero."""
    assert amounts.whole(value) == counted


@pytest.mark.parametrize("text", [None, "", "{", "[1]", '"a"', "5", "null"])
def test_attributes_that_are_no_table_are_none(text):
    """Attributes that can't be read, or are no object, are as good as absent."""
    assert amounts.attributes_of(text) == {}


@pytest.mark.parametrize("text", ['{"a":' + "[" * 4_000, '{"a":' + "[" * 100 + "]" * 100 + ', "b": "]]"}'])
def test_attributes_deeper_than_any_stack_are_none(text):
    """Too many lists within each other are not read at all, so that it never depends on whose stack has room."""
    assert amounts.attributes_of(text) == modelled({"attributes": text}) == {}


def test_attributes_with_many_brackets_are_read_when_they_are_not_deep():
    """What stands beside each other, or in a text, is not deep."""
    text = '{"a": "\\"' + "[" * 500 + '", "b": [' + ",".join(["[{}]"] * 300) + '], "tax_minor": 5}'
    assert amounts.attributes_of(text)["tax_minor"] == 5
    assert amounts.attributes_of(text) == modelled({"attributes": text})


@pytest.mark.parametrize(
    "odd", ["NaN", "-Infinity", "1e400", '"\\ud800"', '{"a": "\\ud800", "a": 1}', "01", '"\\ud83d\\ude00"']
)
def test_attributes_that_readers_differ_on_mean_the_same_to_the_model(odd):
    """Engine and model of the proof take the same texts for readable: else a proof tells of differences that aren't."""
    text = f'{{"person": "Ann", "odd": {odd}}}'
    assert amounts.attributes_of(text) == modelled({"attributes": text})


def test_attributes_are_read_as_they_came():
    """What an object holds is handed on as it is."""
    assert amounts.attributes_of('{"tax_minor": 5, "person": "Ann"}') == {"tax_minor": 5, "person": "Ann"}
