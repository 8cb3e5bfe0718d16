"""Billing: write-offs and true-ups by two persons, bad debt under both policies, estimates, accounts in credit."""

from datetime import date

import polars as pl
import pytest
from unit.engine.builders import DAY_MS, NOW_MS, Run, charge, decision, event, mapping, tick

BAD_DEBT_FROM = date(2026, 9, 1)


def requested(amount_minor: int = 500, person: str = "Ann", reason: str = "CHARITY", **columns: object) -> dict:
    """A write-off that somebody asks for."""
    named = {"document": "w1", "reason": reason, "person": person} | columns
    return event("request", "write_off_requested", amount_minor, **named)


def approved(amount_minor: int = 500, person: str = "Bob", reason: str = "CHARITY", **columns: object) -> dict:
    """A write-off that somebody approves."""
    named = {"document": "w1", "reason": reason, "person": person} | columns
    return event("approval", "write_off_approved", amount_minor, **named)


@pytest.mark.parametrize(
    ("reason", "accounts"),
    [
        ("CHARITY_CARE", {"CHARITY": 500, "AR_SELF": -500}),
        ("SMALL_BALANCE", {"ADMIN_ADJ": 500, "AR_SELF": -500}),
        ("ADMINISTRATIVE", {"ADMIN_ADJ": 500, "AR_SELF": -500}),
        ("DENIAL_FINAL", {"DENIAL_ADJ": 500, "AR_INS": -500}),
    ],
)
def test_write_off_of_two_persons_posts_by_its_reason(reason, accounts):
    """A write-off that one person asks for and another approves goes to the account of its reason."""
    run = Run()
    run.take(requested(reason=reason), approved(reason=reason))
    assert run.states() == {"request": "excluded", "approval": "booked"}
    assert run.balances_of("mercy") == accounts


@pytest.mark.parametrize("approver", ["Ann Lee", " ann  lee", "ANN LEE", "\uff21nn Lee", "", " "])
def test_write_off_that_its_preparer_or_nobody_approves_is_refused(approver):
    """Preparer and approver are two persons, however the name is written; an unsigned approval counts for nothing."""
    run = Run()
    run.take(requested(person="Ann Lee"), approved(person=approver))
    assert run.state("approval") == "excepted"
    assert run.open_types() == ["approval_refused"]
    assert run.accounts() == {}


@pytest.mark.parametrize("order", [1, -1], ids=["request first", "approval first"])
def test_write_off_that_nobody_asked_for_by_name_is_refused(order):
    """A request without a person can't be approved: whoever approves it may have made it."""
    run = Run()
    unsigned = {name: value for name, value in requested().items() if name != "attributes"}
    for row in (unsigned, approved())[::order]:
        run.take(row)
    assert run.accounts() == {}
    assert run.open_types() == ["approval_refused"]


def test_write_off_refused_once_can_be_approved_by_somebody_else():
    """A refused approval uses nothing up: another person's approval books the write-off once."""
    run = Run()
    run.take(requested(), approved(person="Ann"))
    run.take(approved() | {"event_id": "second"})
    assert run.states() == {"request": "excluded", "approval": "excepted", "second": "booked"}
    assert run.balance("CHARITY") == 500


def test_write_off_approved_before_its_request_waits_for_it():
    """An approval that comes first is pending, is an exception after ten days, and books when the request comes."""
    run = Run()
    run.take(approved())
    assert run.state("approval") == "pending"
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert run.open_types() == ["write_off_without_request"]
    run.take(requested(), at_ms=NOW_MS + 11 * DAY_MS)
    assert run.state("approval") == "booked"
    assert run.open == {}


def test_write_off_of_another_amount_than_requested_is_an_exception():
    """An approval is of exactly what was asked for."""
    run = Run()
    run.take(requested(), approved(501))
    assert run.open_types() == ["approval_amount_differs"]
    assert run.accounts() == {}


OTHERWISE = {
    "reason": "DENIAL",
    "account": "token-2",
    "counterparty": "blue",
    "department": "or",
}


@pytest.mark.parametrize("order", [1, -1], ids=["request first", "approval first"])
@pytest.mark.parametrize("field", OTHERWISE)
def test_write_off_approved_otherwise_than_requested_is_held_naming_the_field(field, order):
    """An approval is of what was asked for, in whatever decides what it posts; the right one books afterwards."""
    run = Run()
    for row in (requested(), approved(**{field: OTHERWISE[field]}))[::order]:
        run.take(row)
    assert (run.open_types(), run.accounts()) == ([f"approval_{field}_differs"], {})
    run.take(approved() | {"event_id": "right"})
    assert run.state("right") == "booked"
    assert run.balances_of("mercy") == {"CHARITY": 500, "AR_SELF": -500}


@pytest.mark.parametrize("frames", [1, 2], ids=["together", "apart"])
def test_write_off_approved_at_another_facility_than_requested_is_held(frames):
    """Also the place decides what is posted: where both come to one shard they contradict each other."""
    run, rows = Run(), (requested(), approved(facility="south"))
    for row in [rows] if frames == 1 else zip(rows, strict=True):
        run.take(*row)
    assert run.open_types() == ["approval_facility_differs"]


@pytest.mark.parametrize("action", ["retry", "release"])
@pytest.mark.parametrize(
    ("amount_minor", "reason", "fault"),
    [(500, "DENIAL", "approval_reason_differs"), (400, "CHARITY", "approval_amount_differs")],
)
def test_write_off_approved_otherwise_cant_be_let_go(action, amount_minor, reason, fault):
    """Neither trying again nor letting go makes it what was asked for; after a restart it still is not."""
    run = Run()
    run.take(approved(amount_minor, reason=reason))
    run.restart()
    run.take(requested())
    run.restart()
    run.step(decision(1, action, *run.ids(fault)))
    assert (run.open_types(), run.accounts()) == ([fault], {})


def test_true_up_approved_for_another_estimate_than_requested_is_held():
    """A true-up asked for one estimate can't be booked against another."""
    run, columns = Run(), {"document": "t1", "facility": None}
    run.take(
        event("ask", "true_up_requested", 40, reason="DENIAL", person="Ann", **columns),
        event("sign", "true_up_approved", 40, reason="CONTRACTUAL", person="Bob", **columns),
    )
    assert (run.open_types(), run.accounts()) == (["approval_reason_differs"], {})


def test_write_off_request_that_nobody_approves_is_flagged_until_somebody_does():
    """A request is an exception after ten days, and ends when it is approved."""
    run = Run()
    run.take(requested())
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert run.open_types() == ["request_unapproved"]
    run.take(approved(), at_ms=NOW_MS + 12 * DAY_MS)
    assert run.open == {}


def test_write_off_for_a_reason_of_no_table_is_held_until_a_mapping_names_its_class():
    """A reason that is in no table has no account; a dated class of its own gives it one."""
    run = Run()
    run.take(requested(reason="HARDSHIP"), approved(reason="HARDSHIP"))
    assert run.open_types() == ["unclassified_code"]
    run.step(mapping(2, [{"role": "CLASS_write_off/HARDSHIP", "account": "charity"}]))
    assert run.open == {}
    assert run.balance("CHARITY") == 500


def test_write_off_that_gets_a_class_but_no_account_trades_its_exception():
    """A held event that is held again for another reason stands under that reason alone."""
    run = Run(mapped=False)
    run.take(requested(reason="HARDSHIP"), approved(reason="HARDSHIP"))
    run.step(mapping(1, [{"role": "CLASS_write_off/HARDSHIP", "account": "charity"}]))
    assert run.open_types() == ["mapping_missing"]
    run.step(mapping(2))
    assert run.open == {}
    assert run.state("approval") == "booked"


def test_bad_debt_goes_to_the_allowance_unless_a_policy_says_otherwise():
    """Self-pay that was never expected is taken from its allowance."""
    run = Run()
    run.take(event("e1", "bad_debt_transferred", 900), event("e2", "bad_debt_recovered", 100))
    assert run.balances_of("mercy") == {"IPC_ALLOW": 800, "AR_SELF": -900, "CASH": 100}


def test_bad_debt_policy_counts_from_its_date_by_accounting_date():
    """A policy that changes decides by each event's accounting date, and a recovery follows its own date."""
    run = Run()
    policy = {"role": "POLICY_BAD_DEBT", "account": "BAD_DEBT", "entity": "mercy", "valid_from": str(BAD_DEBT_FROM)}
    run.step(mapping(2, [policy]))
    run.take(
        event("before", "bad_debt_transferred", 900, effective_on=date(2026, 8, 31)),
        event("after", "bad_debt_transferred", 700, effective_on=BAD_DEBT_FROM),
        event("back", "bad_debt_recovered", 50, effective_on=BAD_DEBT_FROM),
        event("other", "bad_debt_transferred", 30, entity="grace", effective_on=BAD_DEBT_FROM),
    )
    assert run.balances_of("mercy") == {"IPC_ALLOW": 900, "BAD_DEBT": 650, "AR_SELF": -1600, "CASH": 50}
    assert run.balances_of("grace") == {"IPC_ALLOW": 30, "AR_SELF": -30}


@pytest.mark.parametrize(
    ("reason", "accounts"),
    [
        ("CONTRACTUAL", {"CONTRACTUAL": -40, "CONTR_ALLOW": 40}),
        ("PRICE_CONCESSION", {"IPC": -40, "IPC_ALLOW": 40}),
        ("DENIAL", {"DENIAL_ADJ": -40, "CONTR_ALLOW": 40}),
    ],
)
def test_true_up_of_two_persons_posts_the_change_of_its_estimate(reason, accounts):
    """A period's true-up may go down, is signed by two, and posts by what it estimates."""
    run = Run()
    columns = {"document": "t1", "reason": reason, "facility": None}
    run.take(
        event("ask", "true_up_requested", -40, person="Ann", **columns),
        event("sign", "true_up_approved", -40, person="Bob", **columns),
    )
    assert run.balances_of("mercy") == accounts


def test_true_up_approved_by_its_preparer_is_refused():
    """Finance's own estimates need a second person too."""
    run = Run()
    columns = {"document": "t1", "reason": "DENIAL", "person": "Ann"}
    run.take(event("ask", "true_up_requested", 40, **columns), event("sign", "true_up_approved", 40, **columns))
    assert run.open_types() == ["approval_refused"]


def test_contractual_allowance_is_booked_at_billing_and_released_at_remit():
    """Where the policy books allowances with the charge, the remittance's adjustment uses them up."""
    run = Run()
    run.step(mapping(2, [{"role": "POLICY_CONTRACTUAL", "account": "AT_BILLING"}]))
    claim = {"document": "c1", "reference": "r1", "counterparty": "blue"}
    run.take(
        charge("e1", 1000, counterparty="blue"),
        event("e2", "contractual_estimated", 300, counterparty="blue"),
        event("e3", "remittance_received", 700, document="r1", reference="t1", counterparty="blue"),
        event("e4", "claim_paid", 700, **claim),
        event("e5", "claim_adjusted", 300, reason="CO-45", **claim),
    )
    assert run.balances_of("mercy") == {"GROSS_REV": -1000, "CONTRACTUAL": 300, "REMIT_CLEARING": 700}


def test_account_in_credit_is_told_after_its_time_and_ends_when_it_is_moved():
    """An account that was paid too much is an exception until the excess becomes a debt to the patient."""
    run = Run()
    run.take(charge("e1", 100), event("e2", "payment_received", 130))
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == ["credit_balance"]
    run.take(event("e3", "credit_balance_moved", 30), at_ms=NOW_MS + 6 * DAY_MS)
    run.step(tick(NOW_MS + 7 * DAY_MS))
    assert run.open == {}
    assert (run.balance("PT_CREDIT"), run.balance("AR_SELF")) == (-30, 0)


def test_account_in_credit_is_told_with_what_it_is_in_credit_now():
    """What a patient may get back is more when more was paid too much, and less when some of it was moved."""
    run = Run()
    run.take(charge("e1", 100), event("e2", "payment_received", 130))
    told = [run.step(tick(NOW_MS + 6 * DAY_MS))]
    run.take(event("e3", "payment_received", 50))
    told += [run.step(tick(NOW_MS + days * DAY_MS)) for days in (7, 8)]
    run.take(event("e4", "credit_balance_moved", 60))
    told += [run.step(tick(NOW_MS + 9 * DAY_MS))]
    exceptions = pl.concat(effects.exceptions for effects in told)
    assert exceptions.select("type", "event_id", "amount_minor").rows() == [
        ("credit_balance", "e2", 30),
        ("credit_balance", "e2", 80),
        ("credit_balance", "e2", 20),
    ]
    assert run.open_types() == ["credit_balance"]


def test_account_paid_by_card_is_settled_where_it_was_charged():
    """Card money is booked for the entity; what it changes on the account travels there as a derived event."""
    run = Run()
    run.take(
        charge("e1", 100),
        event("a", "card_authorised", 100, document="a1"),
        event("c", "card_captured", 100, document="c1", reference="a1"),
        event("s", "card_settled", 100, document="c1", reference="p1"),
        event("p", "payout_paid", 100, document="p1"),
        event("more", "payment_received", 5),
    )
    assert run.relay() == [("account_settled", "mercy")]
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert "credit_balance" in run.open_types()
    run.take(charge("e2", 5), at_ms=NOW_MS + 6 * DAY_MS)
    run.step(tick(NOW_MS + 7 * DAY_MS))
    assert "credit_balance" not in run.open_types()
