"""Journal entries from posting sets: what is folded, what is kept apart, and what never changes on the way."""

from collections import Counter
from datetime import UTC, date, datetime
from typing import NamedTuple

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.effects import DELTAS
from runtime.ledger.journal import Draft, content_digest, counted, entry_key, numbered
from runtime.ledger.sealing import Gathering, Room, SealPolicy, plan_entries, whole_commits, within
from runtime.ports import JournalEntry, JournalLine
from runtime.schema import UTC_MS

NOW_MS = 1_800_000_000_000
UNCLAIMED = {**DELTAS, "shard": pl.Int32(), "position": pl.String(), "committed_at": UTC_MS}
POLICY = SealPolicy(entry_lines_max=4, seal_age_s=10.0)
RIPE = SealPolicy(entry_lines_max=4, seal_age_s=0.0)


class PostingSet(NamedTuple):
    """One balanced set: `pairs` are (debit account, credit account, amount)."""

    pairs: tuple[tuple[str, str, int], ...] = (("1100", "4000", 500),)
    entity: str = "mercy"
    period: str = "2026-10"
    document: str = ""
    facility: str = "north"
    kind: str = "charge_posted"
    lane: int = 3
    age_s: int = 60
    events: int = 1
    day: int = 5

    @property
    def mode(self) -> str:
        return "immediate" if self.document else "summary"


def unclaimed(*sets: PostingSet) -> pl.DataFrame:
    """The sets as `Books.unclaimed` gives them; the n-th lies at position "n-0" of shard 0."""
    return pl.DataFrame([line for n, s in enumerate(sets) for line in lines_of(n, s)], schema=UNCLAIMED, orient="row")


def lines_of(n: int, s: PostingSet) -> list[tuple]:
    """Rows of one set in UNCLAIMED columns."""
    posted_on, committed_at = date(2026, 10, s.day), datetime.fromtimestamp(NOW_MS / 1000 - s.age_s, UTC)
    head = (s.entity, "USD", s.period, posted_on, s.mode, s.lane, s.kind, s.document, s.facility, "", "")
    legs = [leg for debit, credit, amount in s.pairs for leg in ((debit, "D", amount), (credit, "C", amount))]
    return [
        (n, line_no, *head, "ROLE", account, 1, side, amount, s.events, 0, f"{n}-0", committed_at)
        for line_no, (account, side, amount) in enumerate(legs)
    ]


def plan(*sets: PostingSet, policy: SealPolicy = POLICY) -> list[Draft]:
    """All drafts for these sets."""
    return plan_entries(unclaimed(*sets), NOW_MS, policy, 99)


def sums(lines: list[JournalLine]) -> Counter:
    """Amount by account and side."""
    total: Counter = Counter()
    for line in lines:
        total[line.account_code, line.side] += line.amount_minor
    return total


def claimed(drafts: list[Draft]) -> list[int]:
    """Numbers of the sets in drafts, sorted."""
    return sorted(set_no for draft in drafts for _, _, set_no in draft.sets)


ACCOUNTS = st.sampled_from(["1000", "1100", "2000", "4000"])
PAIRS = st.lists(st.tuples(ACCOUNTS, ACCOUNTS, st.integers(1, 10**12)), min_size=1, max_size=4)
SETS = st.lists(
    st.builds(
        PostingSet,
        pairs=PAIRS.map(tuple),
        entity=st.sampled_from(["mercy", "lakeside"]),
        period=st.sampled_from(["2026-09", "2026-10"]),
        document=st.sampled_from(["", "", "PO-1", "PO-2"]),
        facility=st.sampled_from(["", "north", "south"]),
        kind=st.sampled_from(["charge_posted", "payment_received"]),
        lane=st.integers(0, 3),
        age_s=st.integers(0, 30),
        events=st.integers(1, 1000),
        day=st.integers(1, 30),
    ),
    max_size=25,
)


@given(SETS)
def test_plan_when_all_sets_are_ripe_claims_each_exactly_once(sets: list[PostingSet]) -> None:
    """No posting set is left behind or booked twice."""
    drafts = plan(*sets, policy=RIPE)
    assert claimed(drafts) == list(range(len(sets)))


@given(SETS)
def test_plan_before_all_sets_are_ripe_claims_none_twice(sets: list[PostingSet]) -> None:
    """Patience leaves sets behind but never splits or repeats one, and no immediate or aged one waits."""
    found = claimed(plan(*sets))
    due = {n for n, s in enumerate(sets) if s.mode == "immediate" or s.age_s >= POLICY.seal_age_s}
    assert len(found) == len(set(found))
    assert due <= set(found)


@given(SETS)
def test_plan_keeps_sums_and_balance(sets: list[PostingSet]) -> None:
    """Every entry balances, and over all entries each account has the sums of the input, to the cent."""
    drafts = plan(*sets, policy=RIPE)
    for draft in drafts:
        totals = sums(list(draft.lines))
        debits = sum(amount for (_, side), amount in totals.items() if side == "D")
        assert 2 * debits == totals.total()
    expected: Counter = Counter()
    for debit, credit, amount in (pair for s in sets for pair in s.pairs):
        expected[debit, "D"] += amount
        expected[credit, "C"] += amount
    assert sums([line for draft in drafts for line in draft.lines]) == expected


@given(SETS)
def test_plan_holds_line_limit_and_boundaries(sets: list[PostingSet]) -> None:
    """Only a set that alone is too large exceeds the limit, and no entry mixes entities, periods or documents."""
    for draft in plan(*sets):
        assert len(draft.lines) <= POLICY.entry_lines_max or len(draft.sets) == 1
        members = [sets[set_no] for _, _, set_no in draft.sets]
        assert {(s.entity, s.period, s.document) for s in members} == {(draft.entity, draft.period, draft.document)}


@given(SETS, st.randoms(use_true_random=False))
def test_plan_whatever_the_row_order_is_the_same(sets: list[PostingSet], random) -> None:
    """The plan is a function of the sets, not of the order in which the books happened to give their rows."""
    frame = unclaimed(*sets)
    order = list(range(frame.height))
    random.shuffle(order)
    assert plan_entries(frame, NOW_MS, POLICY, 99) == plan_entries(frame[order], NOW_MS, POLICY, 99)


def test_plan_of_nothing_is_empty() -> None:
    """No postings, no entries."""
    assert plan() == []


def test_plan_summary_sets_with_same_line_merge_and_count_events() -> None:
    """Sets of one ledger and period fold into shared lines, whose text counts the events of all of them."""
    [draft] = plan(PostingSet(events=150), PostingSet(events=3, day=9))
    assert draft.lines == (
        JournalLine("1100", "D", 1000, "north", "", "charge_posted, 153 events"),
        JournalLine("4000", "C", 1000, "north", "", "charge_posted, 153 events"),
    )
    assert draft.posted_on == date(2026, 10, 9)


def test_plan_set_with_two_deltas_on_one_line_counts_its_events_once() -> None:
    """Two roles of one set on the same account are one line and still the same events."""
    twice = PostingSet(pairs=(("1100", "4000", 5), ("1100", "4000", 7)), events=10)
    [draft] = plan(twice)
    assert [(line.amount_minor, counted(line.text)) for line in draft.lines] == [(12, ("charge_posted", 10))] * 2


def test_plan_sets_with_the_same_lines_share_an_entry_however_they_came() -> None:
    """Lines are what an entry has room for: sets that came by turns fold as if they had come together."""
    places = ("north", "south", "east", "west")
    drafts = plan(*(PostingSet(facility=places[n % 4], age_s=60 - n) for n in range(40)))
    assert [len(draft.lines) for draft in drafts] == [POLICY.entry_lines_max] * 2
    assert claimed(drafts) == list(range(40))


def test_plan_different_kinds_on_one_account_stay_apart() -> None:
    """The kind is part of a line's identity, so that counts can be read back."""
    [draft] = plan(PostingSet(), PostingSet(kind="charge_reversed"))
    assert [line.text.split(",")[0] for line in draft.lines] == ["charge_posted", "charge_reversed"] * 2


def test_plan_young_summary_waits_and_young_immediate_does_not() -> None:
    """Only summary postings gather."""
    sets = [PostingSet(age_s=1), PostingSet(document="PO-1", age_s=1, lane=0)]
    assert claimed(plan(*sets)) == [1]


def test_plan_young_group_that_fills_an_entry_is_sealed_as_far_as_it_fills() -> None:
    """A full entry gains nothing by waiting; what does not fill one waits on."""
    sets = [PostingSet(age_s=3, facility=name) for name in "abc"]
    assert claimed(plan(*sets)) == [0, 1]


def test_plan_set_larger_than_the_limit_is_one_entry() -> None:
    """A posting set is never split, as it would no longer balance."""
    large = PostingSet(pairs=tuple((f"1{n}", f"4{n}", 1) for n in range(5)), document="PO-1")
    [draft] = plan(large)
    assert len(draft.lines) == 10


def test_plan_of_a_set_whose_commit_lies_ahead_does_not_wait_for_that_hour() -> None:
    """A clock that was set back leaves a commit's age unknown: nothing gathers longer than clocks differ."""
    assert not plan(PostingSet(age_s=-30))
    assert claimed(plan(PostingSet(age_s=-3_600))) == [0]


def test_plan_orders_by_lane_then_age() -> None:
    """What is urgent by rule comes first, then what waits longest."""
    sets = [
        PostingSet(document="late", lane=1, age_s=5),
        PostingSet(document="early", lane=1, age_s=9),
        PostingSet(document="urgent", lane=0, age_s=1),
    ]
    assert [d.document for d in plan(*sets)] == ["urgent", "early", "late"]


def test_plan_limited_takes_the_most_urgent() -> None:
    """What does not fit a round is left in the books, to fold with what comes."""
    sets = [PostingSet(document=f"D-{n}", lane=n % 2, age_s=n) for n in range(6)]
    drafts = plan_entries(unclaimed(*sets), NOW_MS, POLICY, 2)
    assert [d.document for d in drafts] == ["D-4", "D-2"]


def test_whole_commits_leave_out_documents_that_the_limit_may_have_cut() -> None:
    """A document whose further sets lie beyond the limit waits, so that it becomes one entry; summaries need not."""
    frame = unclaimed(PostingSet(document="D-1"), PostingSet(document="D-2"), PostingSet(document="D-2"))
    seen = frame.with_columns(position=pl.when(pl.col("set_no") == 0).then(pl.lit("1-0")).otherwise(pl.lit("2-0")))
    assert set(whole_commits(seen.head(4), sets_max=2)["document"]) == {"D-1"}
    assert whole_commits(seen, sets_max=4).equals(seen)
    assert whole_commits(seen.with_columns(mode=pl.lit("summary")), sets_max=3).height == seen.height


def test_whole_commits_of_one_commit_beyond_the_limit_keeps_it() -> None:
    """A commit larger than the limit goes in parts rather than never."""
    frame = unclaimed(PostingSet(document="D-1"), PostingSet(document="D-2")).with_columns(position=pl.lit("1-0"))
    assert whole_commits(frame, sets_max=2).height == frame.height


def entry(**changes) -> JournalEntry:
    """A numbered entry of one plain set, with changes."""
    [draft] = plan(PostingSet())
    return msgspec.structs.replace(numbered(draft, 123), **changes)


def test_numbered_entry_has_key_and_digest_of_its_content() -> None:
    """Key and digest are fixed at sealing: the key by the number, the digest by the content alone."""
    assert entry().key == "PS-mercy-0000000123" == entry_key("mercy", 123)
    assert entry().digest == content_digest(entry(key="PS-mercy-0000000124", lane=0)) != ""


@pytest.mark.parametrize("change", [{"period": "2026-11"}, {"document": "X"}, {"posted_on": date(2026, 10, 6)}])
def test_digest_of_other_content_differs(change: dict) -> None:
    """The same key with other content can be told from a duplicate."""
    assert content_digest(entry(**change)) != entry().digest


def test_digest_is_stable_across_versions() -> None:
    """Digests are stored and compared later, so their encoding may never change."""
    assert entry().digest == "35f4fde79a04a6752daf9fd23496d959"


def test_numbered_unbalanced_draft_is_refused_by_key_without_amounts() -> None:
    """An entry that does not balance never leaves, and the error says where, not how much."""
    [draft] = plan(PostingSet())
    with pytest.raises(ValueError, match="PS-mercy-0000000007") as raised:
        numbered(draft._replace(lines=draft.lines[:1]), 7)
    assert "500" not in str(raised.value)


def test_counted_text_of_somebody_else_is_refused() -> None:
    """A line that Penstock did not write gives no counts."""
    with pytest.raises(ValueError):
        counted("Opening balance")


# ── policy by kind, closes, room ──


def test_plan_gathers_a_kind_until_its_interval_is_over() -> None:
    """Entries of such a kind are made at whole intervals, others at their age."""
    policy = SealPolicy(200, 1.0, {"charge_posted": Gathering(every_s=3600)})
    boundary_age_s = NOW_MS // 1000 % 3600
    assert not plan(PostingSet(age_s=boundary_age_s - 1), policy=policy)
    assert plan(PostingSet(age_s=boundary_age_s + 1), policy=policy)


def test_plan_of_what_ripens_takes_along_what_has_gathered() -> None:
    """One ripe set makes its whole group an entry: fewer, larger entries."""
    policy = SealPolicy(200, 1.0, {"charge_posted": Gathering(age_s=900)})
    sets = [PostingSet(age_s=5), PostingSet(age_s=2, kind="remit_payment")]
    [draft] = plan(*sets, policy=policy)
    assert len(draft.sets) == 2


def test_plan_of_a_closing_period_waits_for_nothing() -> None:
    """Its sets are ripe at once, those of other periods are not."""
    policy = SealPolicy(200, 900.0, closing=frozenset({("mercy", "2026-10")}))
    sets = [PostingSet(period="2026-10", age_s=0), PostingSet(period="2026-11", age_s=0)]
    assert [draft.period for draft in plan(*sets, policy=policy)] == ["2026-10"]


def test_plan_when_crowded_makes_entries_of_what_has_come() -> None:
    """More than can be looked at is the size at which gathering ends."""
    assert not plan(PostingSet(age_s=0), policy=SealPolicy(200, 900.0))
    assert plan_entries(unclaimed(PostingSet(age_s=0)), NOW_MS, SealPolicy(200, 900.0), 9, crowded=True)


def test_within_seals_every_immediate_draft_and_summaries_that_have_room() -> None:
    """What can't go with the next call is not sealed when it could still fold."""
    sets = [PostingSet(document=f"D-{n}", age_s=9, lane=0) for n in range(3)]
    sets += [PostingSet(period=f"2026-0{n}", age_s=9) for n in range(1, 5)]
    drafts = plan(*sets, policy=SealPolicy(200, 1.0))
    taken = within(drafts, Room(entries=5, lines=100))
    assert [draft.mode for draft in taken] == ["immediate"] * 3 + ["summary"] * 2
    assert [draft.mode for draft in within(drafts, Room(0, 0, empty=False))] == ["immediate"] * 3


def test_within_an_empty_call_one_entry_of_any_size_goes() -> None:
    """An entry that alone is larger than a call is not held back for ever."""
    drafts = plan(PostingSet(age_s=9), policy=SealPolicy(200, 1.0))
    assert within(drafts, Room(entries=5, lines=1)) == drafts
    assert within(drafts, Room(entries=5, lines=1, empty=False)) == []
