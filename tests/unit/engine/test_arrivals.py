"""Rows under way in one step: their places, and that rows foreseen are told as rows that are looked up."""

import numpy as np
import polars as pl
from unit.engine.builders import NOW_MS, event, stamped

from runtime.arrivals import NOWHERE, Arrivals, joined
from runtime.step import moves

EVENTS = [
    event("p1", "claim_paid", 70, document="c1", reference="r1", counterparty="blue"),
    event("s1", "claim_submitted", 100, document="c1"),
    event("s2", "claim_submitted", 200, document="c2"),
]
LATER_MS = NOW_MS + 5_000


def arrivals(*rows: dict, was: str | None = None) -> Arrivals:
    """Arrivals of which submitted claims have a register."""
    return Arrivals(moves(stamped(*rows), was), ["claim_submitted"], LATER_MS)


def test_arrivals_foreseen_are_the_same_to_matching_and_registers():
    """Tuples that are made beforehand are those that are made when they are asked for, in whatever order."""
    plain, foreseen = arrivals(*EVENTS), arrivals(*EVENTS)
    foreseen.foresee(np.arange(3))
    for places in (np.array([2, 0]), np.array([1]), NOWHERE):
        entering = places[plain.enters[places]]
        assert list(foreseen.events(places)) == list(plain.events(places))
        assert list(foreseen.facts(entering)) == list(plain.facts(entering))


def test_arrivals_added_later_stand_behind_the_others():
    """Rows that became ready meanwhile have places of their own, of which a frame is made in the order asked for."""
    came = arrivals(*EVENTS[:2])
    came.foresee(np.arange(2))
    released = moves(stamped(EVENTS[2]), "pending")
    places = came.add(released)
    assert came.frame(joined(places, np.array([0])))["event_id"].to_list() == ["s2", "p1"]
    assert came.enters.tolist() == [False, True, True]
    both = pl.concat([released, came.rows[[1]]])
    assert list(came.facts(joined(places, np.array([1])))) == list(Arrivals(both, [], LATER_MS).facts(np.arange(2)))


def test_arrivals_from_another_state_wait_from_now_on():
    """A row that came now waits since it was received, one that was held waits anew."""
    assert arrivals(EVENTS[0]).since_ms.tolist() == [NOW_MS]
    assert arrivals(EVENTS[0], was="excepted").since_ms.tolist() == [LATER_MS]
