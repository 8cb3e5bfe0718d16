"""Inverses: what takes back what, told by all that came, and not by the order in which it came."""

from collections import Counter
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.ledger.facts import DAY_MS, NOW_MS, fact

from runtime.ledger.crosswalk import Basis
from runtime.ledger.inverses import Inverses, InverseTerms

FIRST = date(2026, 9, 1)
TERMS = InverseTerms(keep_days=10)


def basis(day: int, version: int = 1) -> Basis:
    """As of a day, when that version was the newest."""
    on = FIRST + timedelta(days=day)
    return Basis(on, on, version)


def posted(inverses: Inverses, sign: int, own: Basis, amount_minor: int = 300, **columns: object) -> Basis:
    """Where an event of a claim posts."""
    one = fact("adjusted", "c1", sign * amount_minor, **columns)
    return inverses.basis(one, "c1", ("counterparty",), own) or own


def left(*came: tuple[int, int]) -> dict[Basis, int]:
    """What stands by basis after events of these signs and days came in this order."""
    inverses, sums = Inverses(TERMS), Counter()
    for sign, day in came:
        sums[posted(inverses, sign, basis(day))] += sign
    return {one: net for one, net in sums.items() if net}


@given(
    st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(0, 4)), max_size=9).flatmap(
        lambda came: st.tuples(st.just(came), st.permutations(came))
    )
)
def test_inverses_leave_the_same_in_any_order_of_arrival(both):
    """What is left by day is a function of all that came, and of one sign for each day."""
    came, shuffled = both
    assert left(*came) == left(*shuffled)


@pytest.mark.parametrize(
    ("came", "leaves"),
    [
        (((1, 0), (-1, 3)), {}),
        (((1, 0), (-1, 3), (1, 3)), {basis(3): 1}),
        (((1, 0), (1, 2), (-1, 3)), {basis(0): 1}),
        (((1, 0), (-1, 3), (1, 3), (-1, 4)), {}),
        (((-1, 0), (1, 3)), {}),
        (((-1, 1), (-1, 3)), {basis(1): -1, basis(3): -1}),
    ],
    ids=[
        "reversal",
        "correction",
        "of two the latest",
        "correction reversed",
        "of a negative one",
        "without originals",
    ],
)
def test_inverses_take_back_the_latest_before_them(came, leaves):
    """A reversal takes back the latest that stands before it; a correction of its own day stands."""
    assert left(*came) == leaves


def test_inverse_posts_as_of_the_version_of_what_it_takes_back():
    """Of one day, too, it goes where the other one went, under the version of then."""
    inverses = Inverses(TERMS)
    posted(inverses, 1, basis(0, version=3))
    assert posted(inverses, -1, basis(0, version=5)) == basis(0, version=3)


@pytest.mark.parametrize("other", [{"amount_minor": 301}, {"counterparty": "green"}, {"currency": "EUR"}])
def test_inverse_of_something_else_takes_nothing_back(other):
    """Another amount, currency or column that must be alike is another thing."""
    inverses = Inverses(TERMS)
    posted(inverses, 1, basis(0))
    assert posted(inverses, -1, basis(3), **other) == basis(3)


def test_inverses_reloaded_go_on_alike_and_forget_what_rests():
    """A dump holds everything; what was not touched for two whole times is forgotten."""
    inverses, again = Inverses(TERMS), Inverses(TERMS)
    inverses.age(NOW_MS)
    posted(inverses, 1, basis(0))
    inverses.age(NOW_MS + 11 * DAY_MS)
    again.load(inverses.dump())
    assert (len(again), again.dump()) == (1, inverses.dump())
    assert posted(inverses, -1, basis(3)) == basis(0)
    again.age(NOW_MS + 22 * DAY_MS)
    assert len(again) == 0
    assert posted(again, -1, basis(3)) == basis(3)
