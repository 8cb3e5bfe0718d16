"""Compensation: an entry that was wrong is reversed and booked anew, and what it says is never edited."""

from collections import Counter
from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.effects import DELTAS
from runtime.ledger.compensation import is_restated, redated, remapped, restatement, reversal, totals_of
from runtime.ledger.crosswalk import CrosswalkRow, Mapped
from runtime.ledger.journal import Draft, line_text, numbered
from runtime.ledger.remapping import Ambiguous, PostedTo, Remapping
from runtime.ports import JournalEntry, JournalLine

OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)
ROLES = ("CASH", "AR", "AP", "REV")
FIRST = [CrosswalkRow(role=role, account=f"1-{role}") for role in ROLES]


def entry_of(postings: pl.DataFrame) -> JournalEntry:
    """The entry of October that holds these postings."""
    lines = tuple(
        JournalLine(row["account_code"], row["side"], row["amount_minor"], "north", "", line_text("charge_posted", 2))
        for row in postings.iter_rows(named=True)
    )
    draft = Draft("mercy", "USD", "2026-10", date(2026, 10, 5), "summary", 3, "", lines, ((0, "7-0", 0),), 0)
    return numbered(draft, 7)


def postings_of(*pairs: tuple[str, str, int]) -> pl.DataFrame:
    """One posting set: for each (debit role, credit role, amount) two lines, under the first mapping."""
    head = ("mercy", "USD", "2026-10", date(2026, 10, 5), "summary", 3, "charge_posted", "", "north", "", "")
    rows = [
        (0, number, *head, role, f"1-{role}", 1, side, amount, 2)
        for number, (role, side, amount) in enumerate(
            (role, side, amount) for debit, credit, amount in pairs for side, role in (("D", debit), ("C", credit))
        )
    ]
    lines = pl.DataFrame(rows, schema=DELTAS, orient="row")
    return lines.with_columns(pl.lit(0).alias("shard"), pl.lit("7-0").alias("position"))


def sums(lines: pl.DataFrame) -> Counter:
    """Debits less credits by account."""
    total: Counter = Counter()
    for account, side, amount in lines.select("account_code", "side", "amount_minor").iter_rows():
        total[account] += amount if side == "D" else -amount
    return total


PAIRS = st.lists(
    st.tuples(st.sampled_from(ROLES), st.sampled_from(ROLES), st.integers(1, 10**9)), min_size=1, max_size=6
)


@given(PAIRS, st.sets(st.sampled_from(ROLES)))
def test_reversal_undoes_the_entry_and_the_restatement_stands_under_the_mapping_of_now(
    pairs: list[tuple[str, str, int]], mended: set[str]
) -> None:
    """Postings and reversal come to nothing on every account; the restatement has each amount under its role's account
    of now; both balance, and the control totals count both once accepted and once booked."""
    postings = postings_of(*pairs)
    entry = entry_of(postings)
    remapping = Remapping([(1, FIRST), (2, [CrosswalkRow(role=role, account=f"2-{role}") for role in mended])])
    now = remapped(postings, remapping)
    back, instead = reversal(entry, postings, OCTOBER), restatement(entry, now, OCTOBER)
    undone = sums(postings)
    undone.update(sums(back))
    assert not any(undone.values())
    wanted = Counter()
    for account, amount in sums(postings).items():
        role = account[2:]
        wanted[f"2-{role}" if role in mended else account] += amount
    assert {a: n for a, n in sums(instead).items() if n} == {a: n for a, n in wanted.items() if n}
    assert not sum(sums(back).values()) and not sum(sums(instead).values())
    assert is_restated(postings, now) == any({debit, credit} & mended for debit, credit, _ in pairs)
    debits = sum(amount for _, _, amount in pairs)
    totals = totals_of(pl.concat([back, instead]))
    assert Counter(totals.select("state", "events", "amount_minor").rows()) == Counter(
        {("accepted", 1, debits): 2, ("booked", 1, debits): 2}
    )


def test_both_are_dated_into_the_first_open_period() -> None:
    """Nothing is ever posted into a period that was closed, and an open one keeps the day."""
    postings = postings_of(("AR", "REV", 500))
    entry = entry_of(postings)
    late, soon = reversal(entry, postings, NOVEMBER), restatement(entry, postings, OCTOBER)
    assert set(late.select("period", "posted_on").rows()) == {("2026-11", NOVEMBER)}
    assert set(soon.select("period", "posted_on").rows()) == {("2026-10", date(2026, 10, 5))}


def test_redated_entry_has_the_same_lines_and_sets() -> None:
    """An entry whose period is closed goes into the open one whole; one that lies there already is nothing new."""
    entry = entry_of(postings_of(("AR", "REV", 500)))
    draft = redated(entry, NOVEMBER)
    assert (draft.period, draft.posted_on, draft.lines, draft.sets) == ("2026-11", NOVEMBER, entry.lines, entry.sets)
    with pytest.raises(ValueError, match="nothing was mended"):
        redated(entry, OCTOBER)


def posted(account: str, version: int = 1, facility: str = "") -> PostedTo:
    """A line of the receivable in October."""
    return PostedTo("AR", "mercy", facility, "", date(2026, 10, 5), Mapped(account, version))


def test_mapping_of_now_is_the_one_of_the_same_place_and_day() -> None:
    """A newer version counts where it fits; one of another entity, of another facility or of a later day does not."""
    others = [
        CrosswalkRow(role="AR", account="X", entity="lakeside"),
        CrosswalkRow(role="AR", account="S", facility="south"),
        CrosswalkRow(role="AR", account="L", valid_from=NOVEMBER),
    ]
    remapping = Remapping([(1, FIRST), (2, others)])
    assert remapping.now(posted("1-AR", facility="north")) == Mapped("1-AR", 1)
    mended = Remapping([(1, FIRST), (2, others), (3, [CrosswalkRow(role="AR", account="3-AR", entity="mercy")])])
    assert mended.now(posted("1-AR", facility="north")) == Mapped("3-AR", 3)


def test_line_that_does_not_tell_its_place_is_not_guessed() -> None:
    """Where the dropped facility or counterparty decides on the account of now, nobody can say it from the line."""
    split = [CrosswalkRow(role="AR", account=f"4-{payer}", counterparty=payer) for payer in ("blue", "red")]
    remapping = Remapping([(1, FIRST), (2, split)])
    with pytest.raises(Ambiguous, match="stands for several now"):
        remapping.now(posted("1-AR"))


def test_account_of_one_counterparty_leads_to_that_counterpartys() -> None:
    """An answer that only one place can have been given is asked for that place alone."""
    first = [*FIRST, CrosswalkRow(role="AR", account="1-blue", counterparty="blue")]
    second = [CrosswalkRow(role="AR", account="2-blue", counterparty="blue"), CrosswalkRow(role="AR", account="2-AR")]
    remapping = Remapping([(1, first), (2, second)])
    assert remapping.now(posted("1-blue")) == Mapped("2-blue", 2)
