"""The comparison of sources, books and ERP: what counts as balanced, and where a difference is shown."""

import polars as pl
import pytest

from runtime.effects import TOTALS
from runtime.ledger.reconciliation import expected, reconcile
from runtime.ports import ErpAccount

MERCY = ("mercy", "USD")
BALANCES = {
    "entity": pl.String(),
    "currency": pl.String(),
    "account_code": pl.String(),
    "debit_minor": pl.Int64(),
    "credit_minor": pl.Int64(),
    "posted_debit_minor": pl.Int64(),
    "posted_credit_minor": pl.Int64(),
}


def balances(*rows: tuple) -> pl.DataFrame:
    """Books' balances: (account, debit, credit, posted debit, posted credit) of mercy, or rows with their side."""
    return pl.DataFrame([(*MERCY, *row) if len(row) == 5 else row for row in rows], schema=BALANCES, orient="row")


def erp(*rows: tuple[str, int, int]) -> list[ErpAccount]:
    """An ERP's trial balance of mercy."""
    return [ErpAccount(*MERCY, *row) for row in rows]


POSTED = balances(("1110", 500, 20, 500, 20), ("4010", 20, 500, 20, 500))
IN_ERP = erp(("1110", 500, 20), ("4010", 20, 500))


def test_reconcile_with_equal_sides_is_balanced():
    """When source, books and ERP turn over the same, there is one balanced row and no break."""
    result = reconcile({MERCY: 520}, POSTED, IN_ERP)
    (row,) = result.totals
    assert result.balanced and result.breaks == []
    assert (row.source_minor, row.books_minor, row.erp_minor, row.waiting_minor) == (520, 520, 520, 0)


def test_reconcile_of_an_entity_that_posts_to_no_erp_compares_sources_and_books():
    """What gathers in the books on purpose is no difference; what the sources say of it still must be there."""
    for source, balanced in ((520, True), (521, False)):
        result = reconcile({MERCY: source}, POSTED, [], posting=["lakeside"])
        assert result.balanced == balanced and result.breaks == []
        assert not result.totals[0].posts


@pytest.mark.parametrize("account", range(2))
@pytest.mark.parametrize("cents", [-1, 1])
def test_reconcile_with_one_cent_off_in_the_erp_names_the_account(account, cents):
    """A single cent on one account of the ERP breaks the balance, and that account is named with both figures."""
    theirs = list(IN_ERP)
    theirs[account] = theirs[account]._replace(debit_minor=theirs[account].debit_minor + cents)
    result = reconcile({MERCY: 520}, POSTED, theirs)
    (broken,) = result.breaks
    assert not result.balanced and broken.account_code == theirs[account].account_code
    assert broken.erp_debit_minor - broken.books_debit_minor == cents


def test_reconcile_with_amounts_swapped_between_accounts_finds_both():
    """Equal turnover on the wrong accounts is no balance."""
    swapped = erp(("1110", 20, 500), ("4010", 500, 20))
    result = reconcile({MERCY: 520}, POSTED, swapped)
    assert not result.balanced and [found.account_code for found in result.breaks] == ["1110", "4010"]
    assert result.totals[0].balanced


def test_reconcile_with_a_source_that_sent_more_is_not_balanced():
    """What a source sent and nobody booked shows in the totals."""
    result = reconcile({MERCY: 521}, POSTED, IN_ERP)
    assert not result.balanced and result.breaks == []


def test_reconcile_with_entries_on_their_way_shows_what_waits():
    """What the books hold and the ERP was not told yet is waiting, and no break of an account."""
    result = reconcile({MERCY: 520}, balances(("1110", 500, 20, 0, 0), ("4010", 20, 500, 0, 0)), [])
    assert not result.balanced and result.breaks == []
    assert (result.totals[0].erp_minor, result.totals[0].waiting_minor) == (0, 520)


def test_reconcile_with_an_account_that_only_the_erp_has_finds_it():
    """Something posted in the ERP by another hand is a break."""
    result = reconcile({MERCY: 520}, POSTED, [*IN_ERP, *erp(("9999", 5, 5))])
    assert not result.balanced and [found.account_code for found in result.breaks] == ["9999"]


def test_reconcile_with_a_side_of_nothing_leaves_it_out():
    """An entity without any turnover has no row."""
    assert reconcile({("idle", "USD"): 0, MERCY: 520}, POSTED, IN_ERP).totals[0].entity == "mercy"
    assert reconcile({}, balances(), []).balanced


def test_reconcile_keeps_entities_and_currencies_apart():
    """A surplus of one side never makes up for what another lacks."""
    euro = ("mercy", "EUR", "1110", 500, 500, 500, 500)
    result = reconcile({MERCY: 520, ("mercy", "EUR"): 520}, balances(euro), IN_ERP)
    assert not result.balanced and {row.currency for row in result.totals} == {"USD", "EUR"}
    assert not any(row.balanced for row in result.totals)


def totals(*rows: tuple[str, str, int]) -> pl.DataFrame:
    """Control totals of mercy: (kind, state, cents)."""
    given = [("ehr", "mercy", "north", "USD", kind, state, 1, minor) for kind, state, minor in rows]
    return pl.DataFrame(given, schema=TOTALS, orient="row")


def test_expected_of_control_totals_is_what_was_accepted_and_not_kept_back():
    """What waits, is held or excluded is not expected in the books, and repeats never were."""
    given = totals(
        ("charge_posted", "accepted", 1000),
        ("charge_posted", "booked", 700),
        ("charge_posted", "pending", 100),
        ("charge_posted", "excepted", 150),
        ("charge_posted", "excluded", 50),
        ("charge_posted", "duplicate", 9000),
    )
    assert expected(given, {"charge_posted": 1}) == {MERCY: 700}


def test_expected_of_a_kind_with_two_pairs_is_twice_its_amount():
    """A rule that posts two pairs debits its events' amounts twice."""
    given = totals(("claim_paid", "accepted", 100), ("charge_posted", "accepted", 10))
    assert expected(given, {"claim_paid": 2, "charge_posted": 1}) == {MERCY: 210}
