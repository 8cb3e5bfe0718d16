"""Bank money that no flow claims: it is told after three business days, and people apply it, at most what came."""

from itertools import permutations

import polars as pl
import pytest
from unit.engine.builders import DAY_MS, MAPPING, NOW_MS, Run, decision, event, mapping, tick

NAMED = [*MAPPING, {"role": "APPLIED_CASH/RENT", "account": "GL-RENT"}]


def credit(amount_minor: int, name: str = "dep1", kind: str = "bank_credit_received", **columns: object) -> dict:
    """Money on the bank account."""
    return event(name, kind, amount_minor, document=name, account=None, **columns)


def debit(amount_minor: int) -> dict:
    """Money off the bank account."""
    return event("deb1", "bank_debit_made", amount_minor, document="deb1", account=None)


def applied(name: str, trace: str, amount_minor: int, deposit: str = "dep1") -> dict:
    """Somebody says of which remittance a deposit is."""
    return event(name, "cash_applied", amount_minor, document=name, reference=trace, correlation_id=deposit)


def application(
    amount_minor: int, side: str = "cash", person: str = "Bob", deposit: str = "dep1", **columns: object
) -> tuple[dict, dict]:
    """What one person asks for and another one approves."""
    given = {"document": "app1", "reason": "RENT", "account": None} | columns
    return (
        event("asked", f"{side}_application_requested", amount_minor, person="Ann", correlation_id=deposit, **given),
        event("signed", f"{side}_application_approved", amount_minor, person=person, **given),
    )


def remittance(name: str, amount_minor: int) -> tuple[dict, dict]:
    """A remittance by check, and its only claim."""
    header = {"document": name, "reference": f"T{name}", "counterparty": "blue"}
    return (
        event(f"{name}-h", "remittance_received", amount_minor, **header),
        event(f"{name}-p", "claim_paid", amount_minor, document=f"c-{name}", reference=name, counterparty="blue"),
    )


def later(run: Run, days: int) -> None:
    """Let so many days go by, and relay what follows."""
    run.step(tick(NOW_MS + days * DAY_MS))
    run.relay(at_ms=NOW_MS + days * DAY_MS)


def taken(*rows: dict) -> Run:
    """A run that has taken these rows one by one, with what followed of each."""
    run = Run(mapped=False)
    run.step(mapping(1, NAMED))
    for row in rows:
        run.take(row)
        run.relay()
    return run


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (credit(350), "unidentified_deposit"),
        (credit(350, kind="untraced_eft_received", counterparty="blue"), "unidentified_deposit"),
        (debit(350), "unidentified_debit"),
    ],
    ids=["credit", "claim money without a trace", "debit"],
)
def test_bank_money_that_nobody_applies_is_told_after_three_business_days(row, told):
    """It is booked at once; after three business days it is an exception, until somebody applies it."""
    run = taken(row)
    assert abs(run.balance("CASH")) == 350
    later(run, 3)
    assert run.open == {}
    later(run, 4)
    assert run.open_types() == [told]


def test_bank_money_that_is_applied_in_part_is_told_with_what_is_left():
    """What somebody has still to apply is the exception's amount, also when another part of the deposit is told."""
    run = taken(credit(350))
    later(run, 4)
    told = [run.take(applied("a1", "Tera1", 100)), run.take(credit(30, name="more") | {"document": "dep1"})]
    exceptions = pl.concat(effects.exceptions for effects in told)
    assert exceptions.select("type", "event_id", "amount_minor").rows() == [
        ("unidentified_deposit", "dep1", 250),
        ("unidentified_deposit", "dep1", 280),
    ]
    assert run.open_types() == ["unidentified_deposit"]


@pytest.mark.parametrize("kind", ["bank_credit_received", "untraced_eft_received"])
def test_bank_deposit_of_two_checks_is_applied_to_both_remittances_in_any_order(kind):
    """Where the bank tells only the sum, a person says which remittances it is of: nothing is left in clearing."""
    rows = [credit(350, kind=kind), applied("a1", "Tera1", 100), applied("a2", "Tera2", 250)]
    rows += [*remittance("era1", 100), *remittance("era2", 250)]
    for order in permutations(range(3)):
        run = taken(*(rows[at] for at in order), *rows[3:])
        later(run, 20)
        assert run.balances_of("mercy") == {"CASH": 350, "AR_INS": -350}, order
        assert run.open == {}


def test_bank_deposit_is_applied_at_most_once():
    """More than what is left of a deposit is an exception, and posts nothing."""
    run = taken(credit(350), *remittance("era1", 300), *remittance("era2", 100))
    run.take(applied("a1", "Tera1", 300), applied("a2", "Tera2", 100))
    run.relay()
    assert run.balances_of("mercy") == {"CASH": 350, "UNAPPLIED_CASH": -50, "REMIT_CLEARING": 100, "AR_INS": -400}
    assert run.open_types() == ["allocation_exceeded"]


@pytest.mark.parametrize("days", [1, 7], ids=["at once", "when the deposit is used up and forgotten"])
def test_bank_money_applied_by_mistake_is_applied_anew_when_that_is_taken_out(days):
    """A trace that nobody's remittance has: taken out, it gives the money back, which is told until it is applied."""
    run = taken(credit(100), *remittance("r1", 90), *remittance("r2", 100))
    run.take(applied("a1", "Tr1", 100))
    run.relay()
    assert run.open_types() == ["eft_amount_mismatch"]
    run.step(tick(NOW_MS + days * DAY_MS))
    run.step(decision(1, "exclude", *run.ids("eft_amount_mismatch")))
    assert run.relay(at_ms=NOW_MS + days * DAY_MS) == [("cash_unassigned", "mercy")]
    later(run, days + 6)
    assert "unidentified_deposit" in run.open_types()
    run.take(applied("a2", "Tr2", 100), at_ms=NOW_MS + (days + 6) * DAY_MS)
    run.relay(at_ms=NOW_MS + (days + 6) * DAY_MS)
    assert run.balance("UNAPPLIED_CASH") == 0
    assert run.open_types() == ["missing_eft"]


def test_bank_money_assigned_is_given_back_once_and_not_when_it_is_booked():
    """Nothing follows from an exclusion of what a person did not assign, nor from a second decision on it."""
    run = taken(credit(100), *remittance("r1", 100))
    run.take(applied("a1", "Tr1", 100), applied("a3", "Tr9", 50, deposit="none"))
    run.relay()
    later(run, 7)
    for number in (1, 2):
        run.step(decision(number, "exclude", *run.ids("application_without_money")))
    assert run.relay() == []
    assert run.balance("UNAPPLIED_CASH") == 0


def test_bank_money_that_a_person_has_applied_is_not_paired_again():
    """A remittance that would have fit waits for its own money."""
    money = credit(540, kind="untraced_eft_received", counterparty="blue")
    run = taken(*remittance("era2", 540), *remittance("era1", 540), money, applied("a1", "Tera1", 540))
    later(run, 2)
    run.restart()
    later(run, 6)
    assert run.balances_of("mercy") == {"CASH": 540, "REMIT_CLEARING": 540, "AR_INS": -1080}
    assert run.open_types() == ["missing_eft"]


def test_bank_money_for_an_account_goes_to_its_receivable():
    """Two persons apply it: the account that the application names owes less."""
    run = taken(credit(350), *application(300, account="token-1"))
    assert run.balances_of("mercy") == {"CASH": 350, "UNAPPLIED_CASH": -50, "AR_SELF": -300}
    assert [row["kind"] for row in run.relayed_rows] == ["account_settled"]


def test_bank_money_of_another_reason_goes_where_that_reason_is_mapped():
    """Out of unapplied cash and out of suspense, to the account of the role APPLIED_CASH/REASON; else it is held."""
    run = taken(credit(350), *application(350))
    assert run.balances_of("mercy") == {"CASH": 350, "RENT": -350}
    run = taken(debit(350), *application(350, "debit", deposit="deb1"))
    assert run.balances_of("mercy") == {"CASH": -350, "RENT": 350}
    later(run, 20)
    assert run.open == {}
    run = taken(credit(350), *application(350, reason="ELSE"))
    assert run.open_types() == ["mapping_missing"]


@pytest.mark.parametrize("side", ["cash", "debit"])
def test_bank_money_is_applied_by_a_second_person(side):
    """Who asked may not approve, and what is approved by nobody is told."""
    money, deposit = (credit(350), "dep1") if side == "cash" else (debit(350), "deb1")
    asked, signed = application(350, side, person="Ann", deposit=deposit)
    run = taken(money, asked, signed)
    assert run.open_types() == ["approval_refused"]
    assert run.balance("RENT") == 0
    run = taken(money, asked)
    later(run, 11)
    assert run.open_types() == ["request_unapproved"]


def test_bank_entries_of_one_reference_are_one_deposit():
    """Parts of a batch share the bank's reference: all are booked, and their sum may be applied."""
    run = taken(credit(100), credit(250) | {"event_id": "part2"}, *application(350))
    assert run.balances_of("mercy") == {"CASH": 350, "RENT": -350}
    assert run.open == {}


MONEY = {"cash": (credit(100), "dep1"), "debit": (debit(100), "deb1")}


@pytest.mark.parametrize("side", MONEY)
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_bank_money_is_applied_at_most_as_far_as_it_came(side, order):
    """A request beyond the money is an exception, and its approval books nothing, before and after it is taken out."""
    money, deposit = MONEY[side]
    rows = [money, *application(350, side, deposit=deposit)]
    run = taken(*(rows[at] for at in order))
    run.restart()
    assert (run.balance("RENT"), run.open_types()) == (0, ["allocation_exceeded"])
    run.step(decision(1, "exclude", *run.ids("allocation_exceeded")))
    run.take(application(350, side, person="Eve")[1] | {"event_id": "more"})
    later(run, 11)
    assert run.balance("RENT") == 0
    assert "application_without_request" in run.open_types()


@pytest.mark.parametrize("side", MONEY)
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_bank_money_is_applied_when_it_has_come(side, order):
    """A request and its approval wait for their money, whichever comes first."""
    money, deposit = MONEY[side]
    asked, signed = application(100, side, deposit=deposit)
    rows = [money, asked, signed]
    run = taken(*(rows[at] for at in order if rows[at] is not money))
    assert run.accounts() == {}
    later(run, 11)
    assert "request_unapproved" not in run.open_types()
    run.restart()
    run.take(money)
    assert abs(run.balance("RENT")) == 100
    later(run, 25)
    assert run.open == {}


def test_bank_money_approved_before_it_came_can_not_be_let_go():
    """Nobody books an application whose request waits for its money."""
    run = taken(*application(100))
    later(run, 12)
    assert run.open_types() == ["application_without_money", "application_without_request"]
    run.step(decision(1, "release", *run.ids("application_without_money", "application_without_request")))
    assert run.accounts() == {}
    run.take(credit(100))
    assert run.balances_of("mercy") == {"CASH": 100, "RENT": -100}


FOREIGN = {
    "deposits": (credit(100), credit(250, currency="EUR") | {"event_id": "part2"}),
    "debits": (debit(100), debit(250) | {"event_id": "part2", "currency": "EUR"}),
}


@pytest.mark.parametrize("rows", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("order", [1, -1], ids=["dollars first", "euros first"])
def test_bank_money_of_two_currencies_is_never_one_deposit(rows, order):
    """Of one reference the first currency stands; nobody can add the other one to it, by trying again or letting go."""
    first, second = rows[::order]
    run = taken(first, second)
    for number, action in enumerate(("retry", "release")):
        run.step(decision(number, action, *run.ids("duplicate_open_item")))
        assert (run.state(second["event_id"]), run.open_types()) == ("excepted", ["duplicate_open_item"])
    asked = application(350, "cash" if rows is FOREIGN["deposits"] else "debit", deposit=first["document"])
    run.take(*(row | {"currency": first["currency"]} for row in asked))
    assert run.balance("RENT") == 0
    assert run.open_types() == ["allocation_exceeded", "duplicate_open_item"]


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_bank_money_in_parts_without_a_trace_is_paired_part_by_part(order):
    """Parts of one bank entry may be of two remittances: each is found its own, whichever part came first."""
    parts = [
        credit(amount, kind="untraced_eft_received", counterparty="blue") | {"event_id": f"part{amount}"}
        for amount in (100, 250)
    ]
    run = taken(*remittance("era1", 100), *remittance("era2", 250), *(parts[at] for at in order))
    later(run, 2)
    later(run, 20)
    assert run.balances_of("mercy") == {"CASH": 350, "AR_INS": -350}
    assert run.open == {}


def withdrawn(amount_minor: int, side: str = "cash", deposit: str = "dep1") -> dict:
    """A request that is withdrawn."""
    given = {"document": "app1", "correlation_id": deposit, "account": None}
    return event("back", f"{side}_application_withdrawn", amount_minor, **given)


@pytest.mark.parametrize("side", ["cash", "debit"])
@pytest.mark.parametrize("days", [0, 20], ids=["at once", "when it stood unapproved for long"])
def test_application_that_is_withdrawn_leaves_the_money_to_another_one(side, days):
    """The wrong account was asked for: it can't be approved any more, and the right one is asked for and approved."""
    asked, signed = application(100, side)
    money = credit(100) if side == "cash" else debit(100)
    asked, deposit = asked | {"correlation_id": money["document"]}, money["document"]
    run = taken(money, asked)
    run.step(tick(NOW_MS + days * DAY_MS))
    run.take(withdrawn(100, side, deposit), at_ms=NOW_MS + days * DAY_MS)
    run.relay(at_ms=NOW_MS + days * DAY_MS)
    assert "request_unapproved" not in run.open_types()
    again = application(100, side, document="app2", reason="RENT")
    rows = (again[0] | {"event_id": "asked2", "correlation_id": deposit}, again[1] | {"event_id": "signed2"})
    run.take(*rows, at_ms=NOW_MS + days * DAY_MS)
    assert abs(run.balance("RENT")) == 100
    run.take(signed, at_ms=NOW_MS + days * DAY_MS)
    assert "approval_amount_differs" in run.open_types()
    assert abs(run.balance("RENT")) == 100


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_application_is_withdrawn_or_approved_and_never_both(order):
    """Whichever comes first counts; the other one stands under an exception that nobody can let go."""
    rows = (credit(100), *application(100), withdrawn(100))
    run = taken(*(rows[at] for at in order))
    approved = order.index(2) < order.index(3)
    assert run.balances_of("mercy") == {"CASH": 100, "RENT" if approved else "UNAPPLIED_CASH": -100}
    assert run.open_types() == ["approval_amount_differs"]
    run.step(decision(1, "release", *run.ids("approval_amount_differs")))
    assert run.open_types() == ["approval_amount_differs"]


def test_withdrawal_of_another_deposit_gives_nothing_back():
    """Nobody makes money that can be applied out of a slip."""
    run = taken(credit(100), application(100)[0], withdrawn(100, deposit="dep2"))
    assert run.open_types() == ["withdrawal_differs"]
    later(run, 7)
    run.take(
        *(row | {"event_id": f"x{row['event_id']}", "document": "app2"} for row in application(100, deposit="dep2"))
    )
    assert run.balance("UNAPPLIED_CASH") == -100
