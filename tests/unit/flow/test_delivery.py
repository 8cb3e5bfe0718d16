"""Delivery: what goes into a call, how a poisonous entry is found, and what doubt allows."""

from collections.abc import Sequence
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.flow.delivery import (
    CallBounds,
    Doubts,
    Isolation,
    after_lookup,
    call_bounds,
    gravest,
    judge,
    next_call,
)
from runtime.limits import Limits
from runtime.ports import ErpTerms, JournalEntry, JournalLine, Outcome

BOUNDS = CallBounds(lines_max=10, entries_max=4)


def entry(key: str, lines: int = 2, lane: int = 3) -> JournalEntry:
    """An entry of so many lines."""
    line = JournalLine("1100", "D", 1, "", "", "charge_posted, 1 events")
    return JournalEntry(
        key=key,
        digest="",
        entity="mercy",
        currency="USD",
        period="2026-10",
        posted_on=date(2026, 10, 5),
        mode="summary",
        lane=lane,
        document="",
        lines=(line,) * lines,
        sets=(),
    )


def keys(call: Sequence[JournalEntry]) -> list[str]:
    """The keys of a call."""
    return [e.key for e in call]


def all_codes(call: Sequence[JournalEntry], code: str) -> list[Outcome]:
    """The same outcome for each entry."""
    return [Outcome(e.key, code) for e in call]


def delivered(entries: list[JournalEntry], poison: set[str], bounds: CallBounds) -> tuple[list[str], list[str], int]:
    """Drive calls against an atomic ERP until nothing is left: posted keys, rejected keys, number of calls."""
    isolation, left, posted, rejected, calls = Isolation(), list(entries), [], [], 0
    while call := isolation.choose(left, bounds):
        calls += 1
        answered = all_codes(call, "rejected" if poison & set(keys(call)) else "posted")
        judged = judge(call, answered, atomic=True)
        isolation.learn(call, judged)
        posted += [o.key for o in judged.outcomes if o.code == "posted"]
        rejected += [o.key for o in judged.outcomes if o.code == "rejected"]
        left = [e for e in left if e.key not in {*posted, *rejected}]
    return posted, rejected, calls


def test_bounds_are_the_tighter_of_terms_and_limits() -> None:
    """Neither the ERP's maximum nor our own is exceeded."""
    terms = ErpTerms(native_key="permanent", atomicity="all_or_nothing", settle_s=1.0, lines_max=100, entries_max=1000, concurrency=1)
    assert call_bounds(terms, Limits(call_lines_max=400, call_entries_max=50)) == (100, 50)


@given(st.lists(st.integers(1, 14), max_size=40))
def test_calls_packed_in_turn_carry_all_in_order_within_bounds(sizes: list[int]) -> None:
    """Packing loses nothing, keeps the order, and only an entry that alone is too large exceeds the line limit."""
    entries = [entry(f"k{n}", lines) for n, lines in enumerate(sizes)]
    left, calls = entries, []
    while left:
        calls.append(next_call(left, BOUNDS))
        left = left[len(calls[-1]) :]
    assert [key for call in calls for key in keys(call)] == keys(entries)
    for call in calls:
        assert len(call) <= BOUNDS.entries_max
        assert len(call) == 1 or sum(len(e.lines) for e in call) <= BOUNDS.lines_max


def test_next_call_of_nothing_is_empty() -> None:
    """Nothing sealed, nothing sent."""
    assert next_call([], BOUNDS) == ()


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=5))
def test_isolation_parks_exactly_the_poisonous_entries(size: int, poison: set[int]) -> None:
    """All healthy entries of refused calls are posted, each once, and each poisonous one is rejected alone."""
    entries = [entry(f"k{n}") for n in range(size)]
    bad = {f"k{n}" for n in poison if n < size}
    posted, rejected, _ = delivered(entries, bad, CallBounds(1000, 50))
    assert sorted(posted) == sorted(set(keys(entries)) - bad)
    assert sorted(rejected) == sorted(bad)


def test_isolation_of_one_among_fifty_takes_few_calls() -> None:
    """Bisecting asks at most twice for each halving."""
    _, rejected, calls = delivered([entry(f"k{n}") for n in range(50)], {"k37"}, CallBounds(1000, 50))
    assert rejected == ["k37"]
    assert calls <= 1 + 2 * 6


def test_isolation_lets_a_more_urgent_lane_pass() -> None:
    """Finding a poisonous summary never delays an immediate entry."""
    isolation, call = Isolation(), (entry("a"), entry("b"))
    isolation.learn(call, judge(call, all_codes(call, "rejected"), atomic=True))
    assert keys(isolation.choose([entry("urgent", lane=0), *call], BOUNDS)) == ["urgent"]
    assert keys(isolation.choose([*call, entry("same lane")], BOUNDS)) == ["a"]


def test_isolation_keeps_a_group_that_was_throttled() -> None:
    """A call that was not applied teaches nothing: the same group is tried again."""
    isolation, call = Isolation(), tuple(entry(key) for key in "abcd")
    isolation.learn(call, judge(call, all_codes(call, "rejected"), atomic=True))
    half = isolation.choose(call, BOUNDS)
    isolation.learn(half, judge(half, all_codes(half, "throttled"), atomic=True))
    assert keys(isolation.choose(call, BOUNDS)) == keys(half) == ["a", "b"]


def test_isolation_forgets_what_became_unknown() -> None:
    """An entry in doubt is never sent again before it was looked up."""
    isolation, call = Isolation(), (entry("a"), entry("b"))
    isolation.learn(call, judge(call, all_codes(call, "rejected"), atomic=True))
    isolation.learn((call[0],), judge((call[0],), all_codes(call[:1], "unknown"), atomic=True))
    assert isolation.suspects() == {"b"}


def test_judge_refused_atomic_call_of_several_sends_all_back() -> None:
    """Nothing was applied and nobody is known to be at fault, so nothing is parked."""
    call = (entry("a"), entry("b"))
    judged = judge(call, all_codes(call, "rejected"), atomic=True)
    assert judged.isolate
    assert [o.code for o in judged.outcomes] == ["unavailable", "unavailable"]


@pytest.mark.parametrize(("size", "atomic"), [(1, True), (1, False), (2, False)])
def test_judge_rejection_of_an_entry_itself_parks_it(size: int, atomic: bool) -> None:
    """Alone, or where an ERP judges each entry by itself, a rejection is final."""
    call = tuple(entry(f"k{n}") for n in range(size))
    judged = judge(call, all_codes(call, "rejected"), atomic)
    assert not judged.isolate
    assert {o.code for o in judged.outcomes} == {"rejected"}


def test_judge_missing_outcome_is_unknown() -> None:
    """What an adapter does not answer for is in doubt, not lost."""
    judged = judge((entry("a"), entry("b")), [Outcome("a", "posted", "JE-1")], atomic=False)
    assert [(o.key, o.code) for o in judged.outcomes] == [("a", "posted"), ("b", "unknown")]


def test_gravest_of_a_mixed_call_is_what_the_governor_must_hear() -> None:
    """One throttled entry throttles, with the longest delay that any part asked for."""
    mixed = [Outcome("a", "posted"), Outcome("b", "throttled"), Outcome("c", "rejected", retry_after_s=9.0)]
    assert (gravest(mixed).code, gravest(mixed).retry_after_s) == ("throttled", 9.0)


def test_doubts_are_due_after_settling_and_oldest_first() -> None:
    """A lookup before the ERP's own time limit proves nothing, so none is made."""
    doubts = Doubts(settle_s=2.0)
    doubts.add("late", 500)
    doubts.add("early", 0)
    assert doubts.due(1_999, 10) == []
    assert doubts.due(2_000, 10) == ["early"]
    assert doubts.due(9_000, 10) == ["early", "late"]
    assert doubts.due(9_000, 1) == ["early"]


def test_doubts_that_ended_are_not_looked_up() -> None:
    """A known outcome needs no lookup; ending one that never was is nothing."""
    doubts = Doubts(settle_s=0)
    doubts.add("a", 0)
    doubts.end("a")
    doubts.end("never there")
    assert len(doubts) == 0 and doubts.due(1, 10) == []


def test_after_lookup_found_is_posted_and_absent_goes_back() -> None:
    """Found is found; absent after settling may be sent again."""
    outcomes = after_lookup(["a", "b"], {"a": Outcome("a", "posted", "JE-1")})
    assert [(o.key, o.code, o.erp_ref) for o in outcomes] == [("a", "posted", "JE-1"), ("b", "unavailable", "")]


def test_after_lookup_without_an_answer_changes_nothing() -> None:
    """An ERP that can't be asked proves nothing."""
    assert after_lookup(["a"], None) == []
