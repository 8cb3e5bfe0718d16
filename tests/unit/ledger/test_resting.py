"""Resting: values that are kept as bytes while nothing touches them are the same values."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from runtime.ledger.resting import BLOB_ENTRIES, Resting


class Outline(msgspec.Struct, array_like=True):
    """What comes first of a value."""

    count: int = 0


class Value(Outline, array_like=True):
    """A value that can be changed."""

    names: tuple[str, ...] = ()


def emptied() -> Resting[str, Value]:
    """Nothing yet."""
    return Resting(str, Value)


def said(resting: Resting[str, Value]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """All that is kept."""
    return {key: (value.count, value.names) for key, value in resting.seen(Value)}


ACTS = st.sampled_from(("add", "forget", "rest", "reload"))


@given(st.lists(st.tuples(ACTS, st.sampled_from("abc"))))
def test_resting_keeps_what_a_dictionary_would(acts):
    """However often all is laid to rest, looked through or loaded anew, each key has its newest value."""
    resting, expected = emptied(), {}
    for number, (act, key) in enumerate(acts):
        if act == "add":
            value = resting.get(key) or resting.put(key, Value())
            value.count, value.names = value.count + 1, (*value.names, str(number))
            count, names = expected.get(key, (0, ()))
            expected[key] = count + 1, (*names, str(number))
        elif act == "forget" and expected.pop(key, None):
            resting.forget(key)
        elif act == "rest":
            assert {key: one.count for key, one in resting.seen(Outline)} == {k: v[0] for k, v in expected.items()}
        elif act == "reload":
            again = emptied()
            again.load(resting.freeze()())
            resting = again
        assert len(resting) == len(expected)
        assert all((resting.get(key) is not None) == (key in expected) for key in "abc")
    assert said(resting) == expected


def test_resting_frozen_does_not_see_what_comes_after():
    """What was frozen is made bytes of later, when values have changed and others are there or gone."""
    resting, again = emptied(), emptied()
    for number in range(BLOB_ENTRIES + 1):
        resting.put(f"k{number}", Value(number))
    frozen, before = resting.freeze(), said(resting)
    resting.get("k7").count = -1
    resting.forget("k8")
    resting.put("new", Value())
    again.load(frozen())
    assert said(again) == before
    del before["k8"]
    assert said(resting) == before | {"k7": (-1, ()), "new": (0, ())}
