"""Compensation: an entry that was wrong is reversed and made anew, and what it says is never edited."""

from collections import Counter
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ledger.compensation import Mending, compensation
from runtime.ledger.journal import Draft, line_text, numbered
from runtime.ports import JournalEntry, JournalLine

OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)
ACCOUNTS = ("1000", "1100", "2000", "4000")


def entry_of(*amounts: tuple[str, str, int]) -> JournalEntry:
    """A posted summary of October: for each (debit account, credit account, amount) two lines."""
    lines = [
        JournalLine(account, side, amount, "north", "", line_text("charge_posted", 2))
        for debit, credit, amount in amounts
        for side, account in (("D", debit), ("C", credit))
    ]
    draft = Draft(
        "mercy", "USD", "2026-10", date(2026, 10, 5), "summary", 3, "", tuple(lines), ((0, "7-0", 1),), committed_ms=0
    )
    return numbered(draft, 7)


def sums(*drafts: Draft | JournalEntry) -> Counter:
    """Debits less credits by account."""
    total: Counter = Counter()
    for draft in drafts:
        for line in draft.lines:
            total[line.account_code] += line.amount_minor if line.side == "D" else -line.amount_minor
    return total


PAIRS = st.lists(
    st.tuples(st.sampled_from(ACCOUNTS), st.sampled_from(ACCOUNTS), st.integers(1, 10**9)), min_size=1, max_size=6
)


@given(PAIRS, st.dictionaries(st.sampled_from(ACCOUNTS), st.sampled_from([*ACCOUNTS, "9000"]), max_size=4))
def test_reversal_undoes_the_entry_and_the_replacement_stands_under_the_mended_accounts(
    pairs: list[tuple[str, str, int]], accounts: dict[str, str]
) -> None:
    """Entry and reversal come to nothing on every account; the replacement moves each amount to its new account, and
    both balance."""
    entry = entry_of(*pairs)
    plan = compensation(entry, "posted", Mending(NOVEMBER, accounts))
    assert not any(sums(entry, plan.reversal).values())
    mended = Counter()
    for account, amount in sums(entry).items():
        mended[accounts.get(account, account)] += amount
    assert {a: n for a, n in sums(plan.replacement).items() if n} == {a: n for a, n in mended.items() if n}
    assert all(sum(sums(numbered(draft, 8)).values()) == 0 for draft in plan)


def test_closed_period_dates_both_into_the_first_open_one() -> None:
    """Nothing is ever posted into a period that the ERP has closed."""
    plan = compensation(entry_of(("1100", "4000", 500)), "posted", Mending(NOVEMBER))
    assert {(draft.period, draft.posted_on) for draft in plan} == {("2026-11", NOVEMBER)}


def test_rejected_entry_has_nothing_to_reverse() -> None:
    """The ERP never held it, so only the new entry goes, for the same posting sets."""
    entry = entry_of(("1100", "4000", 500))
    plan = compensation(entry, "rejected", Mending(OCTOBER, {"4000": "4010"}))
    assert plan.reversal is None
    assert plan.replacement.sets == entry.sets
    assert numbered(plan.replacement, 8).digest != entry.digest


@pytest.mark.parametrize("state", ["sealed", "in_flight", "unknown", "parked"])
def test_entry_of_unknown_fate_is_not_replaced(state: str) -> None:
    """What may still be booked, or may be there already, must be settled first."""
    with pytest.raises(ValueError, match=f"it is {state}"):
        compensation(entry_of(("1100", "4000", 500)), state, Mending(NOVEMBER))


def test_mending_that_changes_nothing_is_refused() -> None:
    """The same entry again is a matter of sending it again."""
    with pytest.raises(ValueError, match="nothing was mended"):
        compensation(entry_of(("1100", "4000", 500)), "rejected", Mending(OCTOBER, {"5000": "5010"}))
