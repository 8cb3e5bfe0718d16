"""Implants and outsourced tests: what is bought, used, billed and charged must meet."""

from itertools import permutations

import pytest
from unit.engine.builders import DAY_MS, NOW_MS, Run, decision, event, mapping, tick

from runtime import limits

PIECE = 1000


def ordered(pieces: int = 1) -> dict:
    """An order of implants at 500.00."""
    columns = {"document": "PO1/1", "counterparty": "acme", "quantity": pieces * PIECE}
    return event("order", "po_line_approved", pieces * 50_000, attributes={"price_minor": 50_000}, **columns)


def received(pieces: int = 1) -> dict:
    """Implants that came."""
    return event("receipt", "goods_received", document="R1", reference="PO1/1", quantity=pieces * PIECE)


def used(pieces: int = 1, kind: str = "implant_used") -> dict:
    """Implants used in a case, or wasted there."""
    return event(kind, kind, document="case1/PO1/1", reference="PO1/1", quantity=pieces * PIECE, department="or")


def charged(pieces: int = 1) -> dict:
    """Implants on a patient's account."""
    columns = {"document": "ch1", "reference": "case1/PO1/1", "quantity": pieces * PIECE, "department": "or"}
    return event("charge", "implant_charged", pieces * 90_000, **columns)


def later(run: Run, days: float) -> list[str]:
    """The open exceptions after so many days."""
    run.step(tick(NOW_MS + int(days * DAY_MS)))
    return run.open_types()


IMPLANT = (ordered(), received(), used(), charged())


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
def test_implant_is_received_used_and_charged_in_any_order(order, together):
    """The case's cost leaves the inventory at the order's price, and the patient is charged, whatever came first."""
    run, rows = Run(), [IMPLANT[at] for at in order]
    for step in [rows] if together else [[row] for row in rows]:
        run.take(*step)
    assert run.balances_of("mercy") == {
        "GRNI": -50_000,
        "SUPPLY_EXPENSE": 50_000,
        "AR_SELF": 90_000,
        "GROSS_REV": -90_000,
    }
    assert later(run, 5) == []


@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
@pytest.mark.parametrize(
    ("policy", "answer", "accounts"),
    [
        ("POLICY_RECEIVED_GOODS", "EXPENSE", {"GRNI": -50_000, "SUPPLY_EXPENSE": 50_000}),
        ("POLICY_MATCH_LEVEL", "2", {}),
    ],
    ids=["when received", "when billed"],
)
def test_implant_that_is_expense_before_its_use_costs_once_and_leaves_no_inventory(policy, answer, accounts, together):
    """What was never in stock can't leave it: the use posts nothing, and still awaits its charge."""
    for order in permutations(IMPLANT):
        run = Run()
        run.step(mapping(2, [{"role": policy, "account": answer}]))
        for step in [order] if together else [[row] for row in order]:
            run.take(*step)
        assert run.balances_of("mercy") == accounts | {"AR_SELF": 90_000, "GROSS_REV": -90_000}
        assert later(run, 5) == []


@pytest.mark.parametrize("pieces", [2**62, -(2**62)])
def test_quantity_that_no_door_takes_any_more_stops_no_shard(monkeypatch, pieces):
    """A log may hold quantities from before they had a bound: they count as nothing, and their sums end no step."""
    monkeypatch.setattr(limits, "QUANTITY_MAX", 2**63)
    run = Run()
    run.take(*IMPLANT)
    for name in ("a", "b", "c"):
        run.take(charged() | {"event_id": name, "document": name, "quantity": pieces})
    run.engine.freeze().body()
    assert run.balances_of("mercy")["AR_SELF"] == 4 * 90_000


def test_implant_used_and_never_charged_is_lost_revenue_until_it_is_charged():
    """A use that nobody charged in three days is an exception without an amount (pieces are no money); the charge
    ends it."""
    run = Run()
    run.take(*IMPLANT[:3])
    flagged = run.step(tick(NOW_MS + 4 * DAY_MS)).exceptions
    assert flagged.select("type", "event_id", "amount_minor").rows() == [("implant_uncharged", "implant_used", 0)]
    run.take(charged(), at_ms=NOW_MS + 4 * DAY_MS)
    assert run.open == {}


def test_implant_charged_and_never_used_is_an_exception_beside_its_charge():
    """A charge does not wait for the use; without one it is told, and ends when the use comes."""
    run = Run()
    run.take(charged())
    assert run.state("charge") == "booked"
    assert later(run, 4) == ["implant_charged_unreceived"]
    run.take(*IMPLANT[:3], at_ms=NOW_MS + 4 * DAY_MS)
    assert run.open == {}


def test_implant_charged_twice_is_an_exception():
    """More is charged than was used."""
    run = Run()
    run.take(*IMPLANT, charged() | {"event_id": "again", "document": "ch2"})
    assert run.open_types() == ["implant_charged_unreceived"]


def test_implant_used_without_receipt_is_an_exception_until_it_comes():
    """A use of what nobody received is told, posts its cost, and ends with the receipt."""
    run = Run()
    run.take(ordered(), used(), charged())
    assert run.open_types() == ["implant_charged_unreceived"]
    assert run.balance("SUPPLY_EXPENSE") == 50_000
    run.take(received())
    assert run.open == {}


def test_implant_of_no_order_waits_for_it():
    """Consignment: a use may come first, waits for the order, and is told after three days."""
    run = Run()
    run.take(used())
    assert run.state("implant_used") == "pending"
    assert "missing_po_reference" in later(run, 4)
    run.take(ordered(), received(), charged(), at_ms=NOW_MS + 4 * DAY_MS)
    assert run.open == {}


def test_implant_wasted_costs_and_is_charged_to_nobody():
    """What is wasted leaves the inventory and awaits no charge."""
    run = Run()
    run.take(ordered(), received(), used(kind="implant_wasted"))
    assert run.balances_of("mercy") == {"GRNI": -50_000, "SUPPLY_EXPENSE": 50_000}
    assert later(run, 5) == []


CONSIGNED = (
    ordered(3) | {"attributes": '{"price_minor": 50000, "bill_only": true}'},
    received(3),
    used(2),
    event("head", "invoice_received", 150_000, document="acme/7", counterparty="acme"),
    event(
        "line",
        "invoice_line_billed",
        150_000,
        quantity=3 * PIECE,
        document="acme/7/1",
        reference="PO1/1",
        correlation_id="acme/7",
        counterparty="acme",
    ),
)


@pytest.mark.parametrize("order", list(permutations(range(5)))[::7])
def test_implant_of_a_consignment_is_not_paid_beyond_its_use(order):
    """Billed three and used two, in any order: recorded, told with the difference, and held until the third is used."""
    run = Run()
    for at in order:
        run.take(CONSIGNED[at])
    assert list(run.open.values()) == [("implant_billed_unused", "line")]
    payment = event("pay", "payment_released", 150_000, document="P1", reference="acme/7")
    run.take(event("ok", "invoice_approved", document="acme/7", person="Ann"), payment)
    assert (run.state("pay"), run.balance("AP")) == ("pending", -150_000)
    run.restart()
    run.take(used(1, "implant_wasted") | {"document": "case2/PO1/1"})
    assert (run.state("pay"), run.open) == ("booked", {})


def test_implant_of_the_stock_may_be_billed_before_it_is_used():
    """What is bought into the stock is billed as received, whatever was used of it."""
    run = Run()
    run.take(ordered(3), *CONSIGNED[1:])
    assert run.open == {}


def test_implant_use_is_told_to_consumers():
    """Billing learns what was received and what was used of an order's line."""
    run = Run()
    run.take(*IMPLANT)
    assert [status for status, document, _ in run.statuses if document == "PO1/1"] == ["approved", "received", "used"]


# ── outsourced tests ───────────────────────────────────────────────────────────────────────────────────────────────

KEY = "acc1/80053"


def asked(tests: int = 1) -> dict:
    """A test ordered from a laboratory at 12.00."""
    columns = {"document": KEY, "counterparty": "lab", "quantity": tests * PIECE}
    return event("ask", "lab_ordered", tests * 1_200, attributes={"price_minor": 1_200}, **columns)


def billed(tests: int = 1, amount_minor: int = 1_200, of: str = "lab/9", supplier: str = "lab") -> tuple[dict, dict]:
    """The laboratory's bill."""
    columns = {"document": f"{of}/1", "reference": KEY, "correlation_id": of, "counterparty": supplier}
    return (
        event(f"head-{of}", "invoice_received", amount_minor, document=of, counterparty=supplier),
        event(f"line-{of}", "lab_line_billed", amount_minor, quantity=tests * PIECE, **columns),
    )


def charge_of(tests: int = 1, name: str = "ch1") -> dict:
    """A test on a patient's account."""
    return event(f"charge-{name}", "lab_charged", tests * 4_000, document=name, reference=KEY, quantity=tests * PIECE)


TEST = (asked(), *billed(), charge_of())


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_lab_order_bill_and_charge_meet_in_any_order(order):
    """Order, bill and charge end with the purchased service, the payable and the revenue, and nothing open."""
    run = Run()
    for at in order:
        run.take(TEST[at])
    assert run.balances_of("mercy") == {
        "PURCHASED_SERVICES": 1_200,
        "AP": -1_200,
        "AR_SELF": 4_000,
        "GROSS_REV": -4_000,
    }
    assert set(later(run, 44)) <= {"approval_overdue"}


def test_lab_test_that_nobody_ordered_is_held_and_told():
    """A billed or charged test without an order is an exception of each; the bill waits, the charge does not."""
    run = Run()
    run.take(*billed(), charge_of())
    assert (run.state("line-lab/9"), run.state("charge-ch1")) == ("pending", "booked")
    later(run, 4)
    told = sorted(event_id for type, event_id in run.open.values() if type == "lab_unordered")
    assert told == ["charge-ch1", "line-lab/9"]
    run.take(asked(), at_ms=NOW_MS + 4 * DAY_MS)
    assert "lab_unordered" not in run.open_types()


def test_lab_test_that_is_never_billed_is_told_for_the_accrual():
    """What the laboratory has not billed after its time is an exception."""
    run = Run()
    run.take(asked(), charge_of())
    assert later(run, 44) == []
    assert later(run, 46) == ["lab_uninvoiced"]


def test_lab_test_that_is_never_charged_is_told():
    """A test that nobody charged to the patient is an exception until somebody does."""
    run = Run()
    run.take(asked(), *billed())
    assert "lab_uncharged" in later(run, 4)
    run.take(charge_of(), at_ms=NOW_MS + 4 * DAY_MS)
    assert "lab_uncharged" not in run.open_types()


def test_lab_test_at_another_price_than_the_contract_is_held_from_payment():
    """The price is the contract's; a dearer bill is recorded and its payment held."""
    run = Run()
    run.take(asked(), *billed(amount_minor=1_201))
    assert run.open_types() == ["lab_price_mismatch"]
    run.take(
        event("ok", "invoice_approved", document="lab/9", person="Ann"),
        event("pay", "payment_released", 1_201, document="P1", reference="lab/9"),
    )
    assert run.state("pay") == "pending"


def test_lab_test_billed_twice_is_an_exception():
    """A second bill of the same test is recorded, told, and not paid."""
    run = Run()
    run.take(*TEST, *billed(of="lab/10", amount_minor=1_200))
    assert "lab_billed_twice" in run.open_types()


def test_lab_test_charged_twice_is_an_exception():
    """A second charge of the same test is told."""
    run = Run()
    run.take(*TEST, charge_of(name="ch2"))
    assert run.open_types() == ["lab_charged_twice"]


def test_lab_test_billed_by_another_laboratory_is_held():
    """The bill's supplier must be the one that the test was ordered from."""
    run = Run()
    run.take(asked(), *billed(of="other/9", supplier="other"))
    assert "vendor_mismatch" in run.open_types()


@pytest.mark.parametrize(
    "charge",
    [charged(), event("charge", "lab_charged", 90_000, document="ch1", reference="A1/80053", quantity=PIECE)],
    ids=["implant", "test"],
)
@pytest.mark.parametrize("paid_first", [False, True])
def test_charge_of_a_service_counts_in_what_the_account_owes(charge, paid_first):
    """An account that paid exactly what it was charged for an implant or a test never stands in credit."""
    run = Run()
    rows = [charge, event("paid", "payment_received", 90_000, person="ada")]
    for row in rows[::-1] if paid_first else rows:
        run.take(row)
        run.relay()
    assert ("account_charged", "mercy") in {(row["kind"], row["entity"]) for row in run.relayed_rows}
    assert "credit_balance" not in later(run, 8)
    run.take(event("more", "payment_received", 1), at_ms=NOW_MS + 8 * DAY_MS)
    assert "credit_balance" in later(run, 15)


@pytest.mark.parametrize("order", [1, -1], ids=["order first", "line first"])
def test_lab_line_taken_out_of_a_bill_that_never_came_may_be_billed_again(order):
    """What a line used without waiting for it is there again, or is asked for no more, when the line is taken out."""
    run, (head, line) = Run(), billed()
    for row in (asked(), line)[::order]:
        run.take(row)
    assert "bill_out_of_balance" in later(run, 4)
    run.restart()
    run.step(decision(1, "exclude", *run.ids("bill_out_of_balance")))
    run.take(head, line | {"event_id": "again"}, at_ms=NOW_MS + 4 * DAY_MS)
    assert (run.state("line-lab/9"), run.state("again")) == ("excluded", "booked")
    assert "lab_billed_twice" not in run.open_types()


def test_lab_line_taken_out_before_its_order_came_asks_for_nothing():
    """An order that comes after an unordered line was taken out is billed by the next one."""
    run, (head, line) = Run(), billed()
    run.take(line)
    assert later(run, 4) == ["lab_unordered"]
    run.step(decision(1, "exclude", *run.ids("lab_unordered")))
    assert run.open == {}
    run.take(asked(), head, line | {"event_id": "again"}, at_ms=NOW_MS + 4 * DAY_MS)
    assert run.state("again") == "booked"
    assert "lab_billed_twice" not in run.open_types()
