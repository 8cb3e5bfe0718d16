"""Cards: payouts clear to zero, refunds in parts and back, disputes won and lost, reserves, negative payouts."""

from itertools import permutations

import pytest
from unit.engine.builders import DAY_MS, NOW_MS, Run, decision, event, tick


def sale(name: str, amount_minor: int, payout: str) -> tuple[dict, ...]:
    """A sale that is settled in a payout."""
    return (
        event(f"{name}-a", "card_authorised", amount_minor, document=f"a-{name}"),
        event(f"{name}-c", "card_captured", amount_minor, document=f"c-{name}", reference=f"a-{name}"),
        event(f"{name}-s", "card_settled", amount_minor, document=f"c-{name}", reference=payout),
    )


def member(name: str, kind: str, amount_minor: int, payout: str, document: str = "") -> dict:
    """One line of a payout."""
    return event(name, kind, amount_minor, document=document or name, reference=payout)


def payout(name: str, net_minor: int) -> tuple[dict, dict]:
    """A payout, and its money at the bank."""
    return (
        event(f"{name}-p", "payout_paid", net_minor, document=name),
        event(f"{name}-b", "deposit_received", net_minor, document=f"b-{name}", reference=name),
    )


def refund(amount_minor: int) -> tuple[dict, dict]:
    """A refund that one person asks for and another approves."""
    return (
        event("ask", "refund_requested", amount_minor, document="r1", person="Ann"),
        event("sign", "refund_approved", amount_minor, document="r1", person="Bob"),
    )


def test_payout_of_sales_and_fees_clears_to_zero():
    """Gross sales less fees is what the bank gets; nothing is left in clearing."""
    run = Run()
    rows = [*sale("x", 25000, "po1"), member("fee", "card_fee_charged", 755, "po1"), *payout("po1", 24245)]
    run.take(*rows)
    assert run.balances_of("mercy") == {"AR_SELF": -25000, "MERCHANT_FEES": 755, "CASH": 24245}


DISPUTE = (
    member("open", "chargeback_opened", 25000, "po2", "d1"),
    member("cost", "chargeback_fee_charged", 1500, "po2", "d1"),
    *payout("po2", -26500),
)
WON = (member("won", "chargeback_won", 25000, "po3", "d1"), *payout("po3", 25000))
LOST = (event("lost", "chargeback_lost", 25000, document="d1"),)


@pytest.mark.parametrize(
    ("ending", "accounts"),
    [
        (WON, {"CHARGEBACK_FEES": 1500, "CASH": -1500}),
        (LOST, {"CHARGEBACK_FEES": 1500, "CASH": -26500, "AR_SELF": 25000}),
    ],
    ids=["won", "lost"],
)
def test_dispute_takes_the_money_and_gives_it_back_or_bills_again(ending, accounts):
    """A dispute is a receivable and an exception while it is open; a negative payout leaves the bank."""
    run = Run()
    run.take(*DISPUTE)
    assert run.balances_of("mercy") == {"DISPUTED_RECEIVABLE": 25000, "CHARGEBACK_FEES": 1500, "CASH": -26500}
    assert run.open_types() == ["chargeback"]
    run.restart()
    run.take(*ending)
    assert run.balances_of("mercy") == accounts
    assert run.open == {}


@pytest.mark.parametrize("account", ["token-1", None], ids=["named", "nobody's"])
def test_dispute_lost_is_owed_by_the_account_again(account):
    """Who pays what a lost dispute took back has not paid too much; where no account is named, none owes it."""
    run = Run()
    run.take(event("e1", "charge_posted", 25000), *sale("x", 25000, "po1"), *payout("po1", 25000))
    run.take(*DISPUTE, LOST[0] | {"account": account})
    assert ("account_charged", "mercy") in run.relay() or account is None
    run.take(event("e2", "payment_received", 25000))
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert ("credit_balance" in run.open_types()) == (account is None)


def test_dispute_won_in_part_tells_what_is_still_open():
    """The exception's amount is what is still disputed, until the rest of it ends, too."""
    run = Run()
    run.take(*DISPUTE)
    part = run.take(*(row | {"amount_minor": 10000} for row in WON))
    assert part.exceptions.select("type", "amount_minor").rows() == [("chargeback", 15000)]
    run.take(LOST[0] | {"amount_minor": 15000})
    assert run.open == {}


def test_dispute_that_ends_before_it_is_known_leaves_no_exception():
    """A dispute whose end comes first is never open."""
    run = Run()
    run.take(*LOST)
    run.take(*DISPUTE)
    assert run.open == {}
    assert run.balance("DISPUTED_RECEIVABLE") == 0


def test_dispute_that_nobody_opened_is_an_exception():
    """A lost dispute without its beginning waits for it, and is told after its time."""
    run = Run()
    run.take(*LOST)
    run.step(tick(NOW_MS + 121 * DAY_MS))
    assert run.open_types() == ["unmatched_dispute"]


def test_refund_in_parts_uses_up_what_was_approved():
    """An approved refund may be paid in parts, and never beyond what was approved; people take out what exceeds it."""
    run = Run()
    run.take(*refund(400), *(member(f"part{n}", "refund_paid", 150, "po1", "r1") for n in range(3)))
    assert run.state("part2") == "excepted"
    assert run.open_types() == ["allocation_exceeded"]
    run.take(member("rest", "refund_paid", 100, "po1", "r1"), event("p", "payout_paid", -400, document="po1"))
    assert run.state("part0") == "pending"
    run.step(decision(1, "exclude", *run.ids("allocation_exceeded")))
    assert run.state("part2") == "excluded"
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "CARD_CLEARING": -400}
    assert run.open == {}


def test_refund_without_approval_is_not_booked():
    """Money that leaves without an approval is an exception after its time."""
    run = Run()
    run.take(member("out", "refund_paid", 100, "po1", "r1"), event("p", "payout_paid", -100, document="po1"))
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert "refund_without_approval" in run.open_types()
    assert run.accounts() == {}


def test_refund_that_nobody_pays_is_told_until_it_is_paid():
    """An approved refund is an exception after ten days, and ends when its money leaves."""
    run = Run()
    run.take(*refund(400))
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert run.open_types() == ["refund_unpaid"]
    check = event("check", "refund_paid_by_check", 400, document="r1", reference="chk1")
    run.take(check, at_ms=NOW_MS + 11 * DAY_MS)
    assert run.open == {}


@pytest.mark.parametrize("order", [1, -1], ids=["request first", "approval first"])
@pytest.mark.parametrize("field", ["account", "counterparty", "department", "facility"])
def test_refund_approved_for_another_than_asked_is_held_naming_the_field(field, order):
    """A refund approved for another account or place than it was asked for pays nobody."""
    run, (ask, sign) = Run(), refund(500)
    for row in (ask, sign | {field: "south"})[::order]:
        run.take(row)
    assert (run.open_types(), run.accounts()) == ([f"approval_{field}_differs"], {})


def test_refund_approved_by_who_asked_for_it_is_refused():
    """Preparer and approver of a refund are two persons."""
    run = Run()
    ask, sign = refund(400)
    run.take(ask, sign | {"attributes": ask["attributes"]})
    assert run.open_types() == ["approval_refused"]


BACK = (
    *refund(400),
    member("out", "refund_paid", 400, "po1", "r1"),
    event("p1", "payout_paid", -400, document="po1"),
    event("back", "refund_failed", 400, document="r1", reason="CARD_EXPIRED"),
)


@pytest.mark.parametrize("order", list(permutations(range(5))))
def test_refund_that_fails_opens_the_debt_again(order):
    """In any order of arrival, a refund that came back is owed again and can be paid once more."""
    run = Run()
    for at in order:
        run.take(BACK[at])
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "REFUND_PAYABLE": -400}
    assert run.open_types() == ["refund_failed"]
    run.take(event("check", "refund_paid_by_check", 400, document="r1", reference="chk1"))
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "CASH": -400}


def test_refund_by_check_that_fails_comes_back_as_cash():
    """A returned check is cash again, and the debt is open."""
    run = Run()
    run.take(
        *refund(400),
        event("check", "refund_paid_by_check", 400, document="r1", reference="chk1"),
        event("back", "refund_failed", 400, document="r1", reason="CHECK_RETURNED"),
    )
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "REFUND_PAYABLE": -400}


TOLD_AGAIN = {
    "by another source": event("again", "refund_failed", 400, document="r1", reason="CARD_EXPIRED", source="processor"),
    "as a line of a payout": member("again", "refund_returned", 400, "po2", "r1"),
}


@pytest.mark.parametrize("again", TOLD_AGAIN.values(), ids=TOLD_AGAIN)
@pytest.mark.parametrize("order", [1, -1], ids=["after", "before"])
def test_refund_that_fails_is_booked_once_however_often_it_is_told(again, order):
    """The second telling is an exception, not a second reversal, and gives nothing back that could be paid again."""
    run = Run()
    back = event("p2", "payout_paid", 400, document="po2")
    run.take(*BACK[:4])
    for row in (BACK[4], again, back)[::order]:
        run.take(row)
        run.restart()
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "REFUND_PAYABLE": -400}
    assert run.open_types() == ["duplicate_payment_event", "refund_failed"]
    checks = [event(f"check{n}", "refund_paid_by_check", 400, document="r1", reference=f"chk{n}") for n in (1, 2)]
    run.take(*checks)
    assert [run.state(row["event_id"]) for row in checks] == ["booked", "excepted"]
    run.step(decision(1, "exclude", *run.ids("duplicate_payment_event")))
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "CASH": -400}


def test_refund_that_fails_again_after_it_was_paid_again_is_booked():
    """Two payments of one refund may fail, each once."""
    run = Run()
    check, bounced = ("refund_paid_by_check", 400), ("refund_failed", 400)
    run.take(*refund(400))
    for number in (1, 2):
        run.take(event(f"check{number}", *check, document="r1", reference=f"chk{number}"))
        run.take(event(f"back{number}", *bounced, document="r1", reason="CHECK_RETURNED"))
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "REFUND_PAYABLE": -400}
    run.take(event("back3", *bounced, document="r1", reason="CHECK_RETURNED"))
    assert run.open_types() == ["duplicate_payment_event", "refund_failed", "refund_failed"]


def test_refund_taken_out_of_the_books_can_not_come_back():
    """A payment that people take out leaves nothing that a failure could take back, and others what they paid."""
    run = Run()
    check = event("check", "refund_paid_by_check", 100, document="r1", reference="chk1")
    run.take(*refund(400), check, check | {"event_id": "much", "amount_minor": 400})
    run.step(decision(1, "exclude", *run.ids("allocation_exceeded")))
    back = event("back", "refund_failed", 400, document="r1", reason="CHECK_RETURNED")
    run.take(back, back | {"event_id": "part", "amount_minor": 100})
    assert (run.state("back"), run.state("part")) == ("excepted", "booked")


def test_refund_that_fails_and_was_never_paid_is_told():
    """A failure waits for the payment that it takes back."""
    run = Run()
    run.take(*refund(400), BACK[4])
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert "failure_without_payment" in run.open_types()
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "REFUND_PAYABLE": -400}


def test_reserve_is_held_back_and_released_through_payouts():
    """What the processor keeps back is a receivable until a later payout releases it."""
    run = Run()
    run.take(*sale("x", 1000, "po1"), member("hold", "reserve_held", 100, "po1"), *payout("po1", 900))
    assert run.balances_of("mercy") == {"AR_SELF": -1000, "PROCESSOR_RESERVE": 100, "CASH": 900}
    run.take(member("free", "reserve_released", 100, "po2"), *payout("po2", 100))
    assert run.balances_of("mercy") == {"AR_SELF": -1000, "CASH": 1000}


def test_payout_whose_money_differs_is_held_without_a_plug():
    """A deposit that is not the payout's net is an exception; clearing shows what is missing."""
    run = Run()
    bank = payout("po1", 1000)[1] | {"amount_minor": 999}
    run.take(*sale("x", 1000, "po1"), payout("po1", 1000)[0], bank)
    assert run.open_types() == ["payout_mismatch"]
    assert (run.balance("CARD_CLEARING"), run.balance("CASH")) == (1000, 0)


CHECK = event("check", "refund_paid_by_check", 400, document="r1", reference="chk1")
ASKED, SIGNED = refund(400)
REFUSALS = {
    "approval_refused": SIGNED | {"attributes": ASKED["attributes"]},
    "approval_account_differs": SIGNED | {"account": "token-2"},
    "approval_amount_differs": SIGNED | {"amount_minor": 500},
}


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("fault", REFUSALS)
def test_refund_whose_approval_was_refused_is_not_paid(fault, order):
    """What was not approved pays nobody, in any order, nor when the approval is taken out; another one may."""
    rows, run = [ASKED, REFUSALS[fault], CHECK], Run()
    for at in order:
        run.take(rows[at])
        run.restart()
    assert (run.accounts(), run.open_types()) == ({}, [fault])
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert run.open_types() == sorted([fault, "refund_without_approval", "request_unapproved"])
    run.step(decision(1, "release", *run.ids("refund_without_approval")))
    run.step(decision(2, "exclude", *run.ids(fault)))
    assert run.accounts() == {}
    run.take(SIGNED | {"event_id": "again"}, at_ms=NOW_MS + 11 * DAY_MS)
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "CASH": -400}
    assert run.open == {}


@pytest.mark.parametrize("order", [1, -1], ids=["let go first", "taken out first"])
def test_refund_approved_anew_is_paid_when_the_refused_approval_is_out(order):
    """A right approval beside a refused one pays no more than it approves, and only when the other one is out."""
    run = Run()
    run.take(ASKED, REFUSALS["approval_refused"], SIGNED | {"event_id": "again"}, CHECK)
    assert run.open_types() == ["approval_refused", "duplicate_open_item"]
    again = ("release" if order == 1 else "retry", run.ids("duplicate_open_item"))
    for number, (action, ids) in enumerate([again, ("exclude", run.ids("approval_refused"))][::order], 1):
        run.step(decision(number, action, *ids))
    run.take(CHECK | {"event_id": "much"})
    assert run.balances_of("mercy") == {"PT_CREDIT": 400, "CASH": -400}
    assert run.open_types() == ["allocation_exceeded"]


@pytest.mark.parametrize("again", [False, True], ids=["not paid again", "paid again"])
def test_refund_return_taken_out_before_its_payout_opens_no_debt(again):
    """A refund is paid once, where its return is taken out; what was paid on the word of that stays paid."""
    returned, check = member("back", "refund_returned", 400, "po2", "r1"), CHECK | {"event_id": "more"}
    run = Run()
    run.take(*refund(400), CHECK, returned, *([check] if again else []))
    run.restart()
    run.step(tick(NOW_MS + 6 * DAY_MS))
    run.step(decision(1, "exclude", *run.ids("payout_mismatch")))
    if not again:
        run.take(check, at_ms=NOW_MS + 6 * DAY_MS)
    assert run.state("back") == "excluded"
    assert run.state("more") == ("booked" if again else "excepted")
    bounced = event("bounced", "refund_failed", 400, document="r1", reason="CHECK_RETURNED")
    run.take(bounced)
    assert run.state("bounced") == "booked"
