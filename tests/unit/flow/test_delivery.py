"""Delivery: what goes into a call, how a poisonous entry is found, and what is done next."""

from collections.abc import Sequence
from datetime import date

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from runtime.flow.calls import CallBounds, Isolation, call_bounds, next_call
from runtime.flow.delivery import ASK_FIRST_S, ASK_MAX_S, JOB_SILENCE_S, Ask, Desk, LookUp, Send
from runtime.flow.outcomes import CALL_START_WITHIN_S, judge
from runtime.limits import Limits
from runtime.ports import Delivery, ErpTerms, JournalEntry, JournalLine, Outcome

BOUNDS = CallBounds(lines_max=10, entries_max=4)
T0 = 1_800_000_000_000
ATOMIC = ErpTerms(
    native_key="none", atomicity="all_or_nothing", settle_s=2.0, lines_max=100, entries_max=1000, concurrency=1
)


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
        judged = judge(ATOMIC, call, answered)
        isolation.learn(call, judged)
        posted += [o.key for o in judged.outcomes if o.code == "posted"]
        rejected += [o.key for o in judged.outcomes if o.code == "rejected"]
        left = [e for e in left if e.key not in {*posted, *rejected}]
    return posted, rejected, calls


def test_bounds_are_the_tighter_of_terms_and_limits() -> None:
    """Neither the ERP's maximum nor our own is exceeded."""
    assert call_bounds(ATOMIC, Limits(call_lines_max=400, call_entries_max=50)) == (100, 50, 0)


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


def test_next_call_keeps_within_bytes() -> None:
    """Where an ERP bounds a call's body, entries are counted by more bytes than they take."""
    entries = [entry(f"k{n}", lines=2) for n in range(5)]
    assert keys(next_call(entries, CallBounds(1000, 1000, 5_000))) == ["k0", "k1"]


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
    isolation.learn(call, judge(ATOMIC, call, all_codes(call, "rejected")))
    assert keys(isolation.choose([entry("urgent", lane=0), *call], BOUNDS)) == ["urgent"]
    assert keys(isolation.choose([*call, entry("same lane")], BOUNDS)) == ["a"]


def test_isolation_keeps_a_group_that_was_throttled() -> None:
    """A call that was not applied teaches nothing: the same group is tried again."""
    isolation, call = Isolation(), tuple(entry(key) for key in "abcd")
    isolation.learn(call, judge(ATOMIC, call, all_codes(call, "rejected")))
    half = isolation.choose(call, BOUNDS)
    isolation.learn(half, judge(ATOMIC, half, all_codes(half, "throttled")))
    assert keys(isolation.choose(call, BOUNDS)) == keys(half) == ["a", "b"]


def test_isolation_forgets_what_became_unknown() -> None:
    """An entry in doubt is never sent again before it was looked up."""
    isolation, call = Isolation(), (entry("a"), entry("b"))
    isolation.learn(call, judge(ATOMIC, call, all_codes(call, "rejected")))
    isolation.learn((call[0],), judge(ATOMIC, (call[0],), all_codes(call[:1], "unknown")))
    assert isolation.suspects() == {"b"}


def test_isolation_tries_two_groups_at_once_but_each_entry_in_one_call() -> None:
    """While one half is under way, the other may go; what is under way is never chosen again."""
    isolation, call = Isolation(), tuple(entry(key) for key in "abcd")
    isolation.learn(call, judge(ATOMIC, call, all_codes(call, "rejected")))
    assert keys(isolation.choose(call, BOUNDS, busy={"a", "b"})) == ["c", "d"]
    assert isolation.choose(call, BOUNDS, busy=set("abcd")) == ()


# ── the desk ──


def terms(**changed: object) -> ErpTerms:
    """A keyless all-or-nothing ERP, but for what is changed."""
    return msgspec.structs.replace(ATOMIC, **changed)


def desk(**changed: object) -> Desk:
    """A desk at such an ERP."""
    return Desk(terms(**changed), BOUNDS)


def delivery(key: str, state: str = "sealed", erp_ref: str = "", attempts: int = 0, sent_ms: int = 0) -> Delivery:
    """Where an entry's delivery stands."""
    return Delivery(entry(key), state, attempts, erp_ref, sent_ms, sent_ms)


def sent(at: Desk, *keys_: str, code: str, now_ms: int = T0, erp_ref: str = "") -> list[Outcome]:
    """Send entries that nothing is known of yet in one call, all answered alike."""
    action = at.choose([delivery(key) for key in keys_], now_ms)
    at.began(action, now_ms)
    return at.sent(action, [Outcome(e.key, code, erp_ref) for e in action.call], now_ms)


def after(seconds: float) -> int:
    """So long after the beginning."""
    return T0 + round(seconds * 1000)


def test_desk_never_sends_what_is_under_way() -> None:
    """Each entry is in one call only, however many calls are made at once."""
    at, waiting = desk(), [delivery(key) for key in "abcdef"]
    first = at.choose(waiting, T0)
    at.began(first, T0)
    second = at.choose(waiting, T0)
    at.began(second, T0)
    assert [keys(first.call), keys(second.call)] == [list("abcd"), list("ef")]
    assert at.choose(waiting, T0) is None


def test_desk_without_a_key_looks_up_after_settling_and_only_then_lets_go() -> None:
    """A lookup too early would prove nothing; afterwards found is posted and absent goes back."""
    at = desk()
    sent(at, "a", "b", code="unknown")
    assert at.due(after(1.9)) is None
    action = at.due(after(2.0))
    assert action == LookUp(("a", "b"))
    at.began(action, after(2.0))
    assert at.due(after(2.0)) is None
    outcomes = at.looked_up(action, {"a": Outcome("a", "posted", "JE-1")}, after(2.1))
    assert [(o.key, o.code) for o in outcomes] == [("a", "posted"), ("b", "unavailable")]
    assert at.due(after(60)) is None


def test_desk_doubts_anew_what_a_lookup_has_left_in_doubt() -> None:
    """A lookup that brings a draft to its end, and hears no answer to that, is followed by another after settling."""
    at = desk()
    sent(at, "a", "b", code="unknown")
    action = at.due(after(2.0))
    at.began(action, after(2.0))
    outcomes = at.looked_up(action, {"a": Outcome("a", "posted", "JE-1"), "b": Outcome("b", "unknown")}, after(2.1))
    assert [(o.key, o.code) for o in outcomes] == [("a", "posted"), ("b", "unknown")]
    assert at.due(after(4.0)) is None
    assert at.due(after(4.1)) == LookUp(("b",))


def test_desk_asks_for_no_more_keys_than_one_lookup_takes() -> None:
    """Lookups are batched as the ERP says, longest waiting first."""
    at = desk(lookup_keys_max=1)
    sent(at, "late", code="unknown", now_ms=after(1))
    sent(at, "early", code="unknown", now_ms=T0)
    assert at.due(after(9)) == LookUp(("early",))


def test_desk_makes_a_lookup_in_vain_again_later_and_by_halves() -> None:
    """A key that can't be asked for is found apart from the others, and holds up none of them."""
    at, now, left, lookups = desk(lookup_keys_max=4), T0, set("abcd"), 0
    sent(at, *"abcd", code="unknown")
    while left != {"c"}:
        now += 1_000
        if action := at.due(now):
            lookups += 1
            at.began(action, now)
            found = {key: Outcome(key, "posted", "JE") for key in action.keys}
            left -= {o.key for o in at.looked_up(action, None if "c" in action.keys else found, now)}
    assert lookups < 10
    assert at.progress().unknown == 1
    asked = at.due(after(9_999))
    at.began(asked, after(9_999))
    at.looked_up(asked, None, after(9_999))
    assert at.due(after(9_999)) is None
    assert at.due(after(9_999 + ASK_MAX_S)) == LookUp(("c",))


def test_desk_under_a_permanent_key_sends_the_same_call_again_without_a_lookup() -> None:
    """One call answers and mends at once, and waits for no settling time."""
    at = desk(native_key="permanent", settle_s=900.0)
    sent(at, "a", "b", code="unknown")
    action = at.due(after(1))
    assert isinstance(action, Send) and keys(action.call) == ["a", "b"]


def test_desk_relies_on_a_windowed_key_only_inside_its_life() -> None:
    """After its life the key protects nothing: then only a lookup helps."""
    at = desk(native_key="windowed", key_life_s=360.0)
    sent(at, "a", code="unknown")
    assert isinstance(at.due(after(300)), Send)
    assert at.due(after(335)) == LookUp(("a",))


def test_desk_knows_the_first_use_of_a_key_from_the_books() -> None:
    """A key that was used before a restart is not younger for it."""
    at = desk(native_key="windowed", key_life_s=360.0, lookup=False)
    at.recall([delivery("a", "unknown", attempts=1, sent_ms=after(-300))], T0)
    assert isinstance(at.due(after(20)), Send)
    assert at.due(after(40)) is None
    assert [o.code for o in at.give_up(after(40))] == ["parked"]


def test_desk_does_not_rely_on_another_process_s_clock_where_a_lookup_can_tell() -> None:
    """The clock may have been set since a predecessor used a windowed key, so its age is not known."""
    at = desk(native_key="windowed", key_life_s=360.0)
    at.recall([delivery("a", "unknown", attempts=1, sent_ms=after(-1))], T0)
    assert at.due(after(1)) is None
    assert at.due(after(15)) == LookUp(("a",))


def test_desk_whose_send_was_chosen_too_long_ago_does_not_stand_by_it() -> None:
    """A key's life is judged when the call begins, not when it was chosen."""
    at = desk(native_key="windowed", key_life_s=360.0)
    sent(at, "a", code="unknown")
    action = at.due(after(300))
    assert isinstance(action, Send)
    assert at.stands(action, after(300)) and not at.stands(action, after(335))
    assert at.stands(at.due(after(335)), after(9_999))


def test_desk_without_key_and_lookup_parks() -> None:
    """Nothing can prove what became of the call, so a person looks and nothing is sent."""
    at = desk(lookup=False)
    sent(at, "a", code="unknown")
    assert [(o.key, o.code) for o in at.give_up(after(1))] == [("a", "parked")]
    assert at.due(after(9_999)) is None and at.give_up(after(9_999)) == []


def test_desk_takes_over_what_was_in_flight_as_unknown_and_waits_for_a_frozen_sender() -> None:
    """A stopped sender may wake up as long as its calls may start, so settling begins after that."""
    at = desk()
    outcomes = at.recall([delivery("a", "in_flight", attempts=1, sent_ms=T0)], T0)
    assert [(o.key, o.code) for o in outcomes] == [("a", "unknown")]
    assert at.due(after(CALL_START_WITHIN_S + 6.9)) is None
    assert at.due(after(CALL_START_WITHIN_S + 7.0)) == LookUp(("a",))


def test_desk_finds_jobs_again_and_asks_for_them() -> None:
    """What an ERP had accepted before a restart is neither doubted nor sent again: its job is asked for."""
    at = desk(atomicity="job")
    assert at.recall([delivery(key, "in_flight", "job-7", 1, T0) for key in "ab"], T0) == []
    assert at.due(T0) == Ask(("job-7",))
    at.began(Ask(("job-7",)), T0)
    outcomes = at.asked(Ask(("job-7",)), [Outcome("a", "posted", "JE-1"), Outcome("b", "posted", "JE-2")], T0)
    assert [(o.key, o.erp_ref) for o in outcomes] == [("a", "JE-1"), ("b", "JE-2")]
    assert at.progress().in_jobs == 0


def test_desk_asks_less_and_less_often_for_a_slow_job() -> None:
    """A job that has not ended is asked for again, later each time."""
    at, asked_at, now_ms = desk(atomicity="job"), [], T0
    sent(at, "a", code="accepted", erp_ref="job-1")
    while len(asked_at) < 4:
        now_ms += 500
        if action := at.due(now_ms):
            at.began(action, now_ms)
            at.asked(action, [], now_ms)
            asked_at.append((now_ms - T0) / 1000)
    assert asked_at == [ASK_FIRST_S, 2 * ASK_FIRST_S, 4 * ASK_FIRST_S, 8 * ASK_FIRST_S]


def test_desk_doubts_a_job_that_keeps_silent_and_what_its_report_leaves_out() -> None:
    """Nothing waits for ever, and nothing that was accepted is taken as absent."""
    at = desk(atomicity="job")
    sent(at, "a", "b", code="accepted", erp_ref="job-1")
    action = at.due(after(2))
    at.began(action, after(2))
    outcomes = at.asked(action, [Outcome("a", "posted", "JE-1")], after(2))
    assert [(o.key, o.code) for o in outcomes] == [("a", "posted"), ("b", "unknown")]
    sent(at, "c", code="accepted", erp_ref="job-2", now_ms=after(3))
    assert [(o.key, o.code) for o in at.give_up(after(3 + JOB_SILENCE_S))] == [("c", "unknown")]


def test_desk_takes_a_job_apart_that_refuses_all_for_one_reason() -> None:
    """Where one bad line rejects the whole group, the good ones are found by halves."""
    at = desk(atomicity="job")
    sent(at, "a", "b", "c", "d", code="accepted", erp_ref="job-1")
    action = at.due(after(2))
    at.began(action, after(2))
    outcomes = at.asked(action, [Outcome(key, "rejected", detail="EF04") for key in "abcd"], after(2))
    assert {o.code for o in outcomes} == {"unavailable"}
    assert keys(at.choose([delivery(key) for key in "abcd"], after(2)).call) == ["a", "b"]


def test_desk_does_not_believe_a_refusal_of_what_was_sent_before() -> None:
    """An entry in doubt that is sent again and refused may be there from the first time: only a lookup tells."""
    at = desk(native_key="permanent")
    sent(at, "a", code="unknown")
    action = at.due(after(1))
    at.began(action, after(1))
    outcomes = at.sent(action, [Outcome("a", "rejected", detail="period closed")], after(1))
    assert [(o.key, o.code) for o in outcomes] == [("a", "unknown")]
    assert at.due(after(1.5)) is None
    assert at.due(after(3)) == LookUp(("a",))


def test_desk_keeps_a_doubt_through_an_answer_that_nothing_was_applied() -> None:
    """That the second call was throttled says nothing of the first."""
    at = desk(native_key="permanent")
    sent(at, "a", code="unknown")
    action = at.due(after(1))
    at.began(action, after(1))
    assert [o.code for o in at.sent(action, [Outcome("a", "throttled")], after(1))] == ["unknown"]
    assert isinstance(at.due(after(60)), Send)


def test_desk_gives_back_a_call_that_was_not_made() -> None:
    """A call that would have started too late leaves fresh entries sealed and doubted ones in doubt."""
    at = desk(native_key="permanent")
    action = at.choose([delivery("a")], T0)
    at.began(action, T0)
    assert [o.code for o in at.left_out(action, "too late")] == ["unavailable"]
    sent(at, "b", code="unknown")
    again = at.due(after(1))
    at.began(again, after(1))
    assert [o.code for o in at.left_out(again, "too late")] == ["unknown"]
