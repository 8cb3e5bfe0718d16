"""Purchasing and payables: matches in two, three and four ways, holds, duplicates, credit memos, payments."""

from datetime import date
from itertools import permutations

import polars as pl
import pytest
from unit.engine.builders import DAY_MS, MAPPING, NOW_MS, VOCABULARY, Run, decision, event, events, mapping, tick

from runtime import schema, validation

UNIT = 1000
PRICE = 1000  # ten a unit


def ordered(units: int = 100, price: int = PRICE, line: str = "PO1/1", **columns: object) -> dict:
    """An order's line."""
    named = {"document": line, "counterparty": "acme", "quantity": units * UNIT} | columns
    return event(f"order-{line}", "po_line_approved", units * price, attributes={"price_minor": price}, **named)


def received(
    units: int, name: str = "R1", line: str = "PO1/1", kind: str = "goods_received", **columns: object
) -> dict:
    """A receipt, an acceptance or a return of an order's line."""
    return event(f"{kind}-{name}", kind, document=name, reference=line, quantity=units * UNIT, **columns)


def bill(
    amount_minor: int, name: str = "acme/77", supplier: str = "acme", kind: str = "invoice_received", **columns: object
) -> dict:
    """The head of an invoice or credit memo."""
    return event(f"head-{name}", kind, amount_minor, document=name, counterparty=supplier, **columns)


def billed(
    units: int | None, amount_minor: int, of: str = "acme/77", line: str | None = "PO1/1", **columns: object
) -> dict:
    """A line of an invoice."""
    quantity = None if units is None else units * UNIT
    named = {"document": f"{of}/1", "reference": line, "correlation_id": of, "counterparty": "acme"} | columns
    return event(f"line-{of}-{line}", "invoice_line_billed", amount_minor, quantity=quantity, **named)


def credited(units: int | None, amount_minor: int, of: str = "acme/C1", line: str | None = "PO1/1") -> dict:
    """A line of a credit memo."""
    quantity = None if units is None else units * UNIT
    named = {"document": f"{of}/1", "reference": line, "correlation_id": of, "counterparty": "acme"}
    return event(f"line-{of}", "credit_memo_line_billed", amount_minor, quantity=quantity, **named)


def approved(name: str = "acme/77", person: str = "Ann") -> dict:
    """A bill's approval."""
    return event(f"ok-{name}-{person}", "invoice_approved", document=name, person=person)


def paid(amount_minor: int, name: str = "acme/77", payment: str = "PAY1", **columns: object) -> dict:
    """A bill's payment."""
    return event(f"pay-{payment}", "payment_released", amount_minor, document=payment, reference=name, **columns)


def let_go(hold: str, person: str = "Bob", name: str = "acme/77") -> dict:
    """The release of a hold."""
    return event(f"free-{hold}-{person}", "hold_released", document=name, reason=hold, person=person)


GOODS = (ordered(), received(100), billed(100, 100_000), bill(100_000))


# ── the match ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_match_failure_is_told_with_what_is_missing_now_until_it_is_let_go():
    """A bill before its goods: the exception shows what is still too much, and does not come again once let go."""
    run = Run()
    run.take(ordered(), billed(100, 100_000), bill(100_000))
    seen = [
        run.take(received(units, f"R{units}")).exceptions.select("type", "amount_minor").rows() for units in (30, 20)
    ]
    assert seen == [[("match_failed_receipt", 70_000)], [("match_failed_receipt", 50_000)]]
    run.restart()
    run.take(let_go("match_failed_receipt"), approved())
    assert run.open == {}
    assert run.take(received(10, "R10")).exceptions.is_empty()
    run.take(received(40, "R40"))
    assert run.open == {}


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
def test_purchase_posts_the_same_in_every_order_of_arrival(order, together):
    """Order, receipt and invoice in any order end with the goods against the payable, and no receipt open."""
    run, rows = Run(), [GOODS[at] for at in order]
    for step in [rows] if together else [[row] for row in rows]:
        run.take(*step)
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "AP": -100_000}
    assert run.open == {}


def test_purchase_received_and_not_billed_is_exactly_what_grni_says():
    """GRNI is the value of open receipts at the order's price, after every event."""
    run = Run()
    run.take(ordered())
    open_receipts = []
    for row in (
        received(60, "R1"),
        received(30, "R2"),
        billed(50, 52_000),
        received(10, "R3", kind="goods_returned"),
        billed(40, 40_000, of="acme/78"),
    ):
        run.take(row, *([bill(row["amount_minor"], row["correlation_id"])] if "correlation_id" in row else ()))
        open_receipts.append(-run.balance("GRNI"))
    assert open_receipts == [60_000, 90_000, 40_000, 30_000, 0]
    assert (run.balance("INVOICED_NOT_RECEIVED"), run.balance("PPV")) == (10_000, 2_000)


def test_purchase_billed_ten_units_more_than_received_is_recorded_and_not_paid():
    """Order 100, receipt 90, invoice 100: the match fails by ten, holds the payment, and ends with the receipt."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000))
    flagged = [run.open[id] for id in run.ids("match_failed_receipt")]
    assert flagged == [("match_failed_receipt", "line-acme/77-PO1/1")]
    run.take(approved(), paid(100_000))
    assert run.state("pay-PAY1") == "pending"
    assert run.balances_of("mercy") == {"INVENTORY": 90_000, "INVOICED_NOT_RECEIVED": 10_000, "AP": -100_000}
    run.restart()
    run.take(received(10, "R2"))
    assert run.state("pay-PAY1") == "booked"
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "PAYMENT_CLEARING": -100_000}
    assert run.open == {}


def test_purchase_tells_consumers_what_the_match_held():
    """The payables platform learns that the bill came, and then that its match failed."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000))
    about_bill = [(status, detail) for status, document, detail in run.statuses if document == "acme/77"]
    assert about_bill == [("received", ""), ("match_failed", "match_failed_receipt:1")]


def test_bill_two_lines_of_which_bear_one_number_is_held_when_both_fail():
    """Holds of the same name from two lines don't take each other back: the payment waits."""
    run = Run()
    orders = (ordered(10), ordered(10, line="PO2/1"))
    lines = (billed(10, 10_000), billed(10, 10_000, line="PO2/1"))
    run.take(*orders, *lines, bill(20_000), approved())
    assert len(run.ids("match_failed_receipt")) == 2
    run.take(paid(20_000))
    assert run.state("pay-PAY1") == "pending"


@pytest.mark.parametrize("number", ["acme/77/1", "acme/77/2"])
def test_payment_does_not_slip_through_between_two_holds_of_one_step(number):
    """Where one line's hold ends and another one's begins at once, also under the same name, no payment passes."""
    run = Run()
    run.take(ordered(10), ordered(10, line="PO2/1"), received(9), received(10, "R2", line="PO2/1"))
    run.take(billed(10, 10_000), billed(10, 10_000, line="PO2/1", document=number), bill(20_000), approved())
    run.take(paid(20_000))
    run.take(received(1, "R3"), received(1, "T1", line="PO2/1", kind="goods_returned"))
    assert run.ids("match_failed_receipt") and run.state("pay-PAY1") == "pending"
    run.take(received(1, "R4", line="PO2/1"))
    assert run.open == {} and run.state("pay-PAY1") == "booked"


def test_payment_in_the_frame_of_its_failing_bill_does_not_pass_the_hold():
    """A payment that comes together with a bill, whose match fails, waits like one that comes later."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000), approved(), paid(100_000))
    assert run.state("pay-PAY1") == "pending"


@pytest.mark.parametrize(
    ("level", "rows", "fault"),
    [
        ("2", (billed(100, 100_000),), ""),
        ("2", (billed(101, 101_000),), "match_failed_quantity"),
        ("2", (billed(100, 100_001),), "match_failed_price"),
        ("3", (received(100), billed(100, 100_000)), ""),
        ("3", (received(99), billed(100, 100_000)), "match_failed_receipt"),
        (
            "4",
            (received(100), received(99, "A1", kind="goods_accepted"), billed(100, 100_000)),
            "match_failed_acceptance",
        ),
        ("4", (received(100), received(100, "A1", kind="goods_accepted"), billed(100, 100_000)), ""),
        ("4", (received(100, attributes={"rejected": 1000}), billed(100, 100_000)), "match_failed_acceptance"),
        ("4", (received(100, attributes={"rejected": 0}), billed(100, 100_000)), ""),
        ("4", (received(100), billed(100, 100_000)), "match_failed_acceptance"),
    ],
)
def test_purchase_is_matched_in_the_ways_that_its_policy_says(level, rows, fault):
    """Two ways compare with the order, three with receipts, four with what was accepted."""
    run = Run()
    run.step(mapping(2, [{"role": "POLICY_MATCH_LEVEL", "account": level}]))
    run.take(ordered(), *rows, bill(rows[-1]["amount_minor"]))
    assert set(run.open_types()) == ({fault} if fault else set())


@pytest.mark.parametrize(
    ("percent", "most", "amount_minor", "passes"),
    [
        ("2", None, 102_000, True),
        ("2", None, 102_001, False),
        (None, "500", 100_400, True),
        ("2", "10", 102_000, False),
        ("unlimited", None, 900_000, True),
        ("0", "unlimited", 100_001, False),
    ],
)
def test_purchase_price_tolerance_is_the_stricter_of_two(percent, most, amount_minor, passes):
    """Of a percentage and an amount the stricter counts; nothing is allowed by "0", everything by "unlimited"."""
    policies = {"POLICY_PRICE_PERCENT": percent, "POLICY_PRICE_MINOR": most}
    run = Run()
    run.step(mapping(2, [{"role": role, "account": told} for role, told in policies.items() if told]))
    run.take(ordered(), received(100), billed(100, amount_minor), bill(amount_minor))
    assert run.open_types() == ([] if passes else ["match_failed_price"])
    assert run.balance("PPV") == amount_minor - 100_000


def test_invoice_before_its_order_waits_and_is_told():
    """A bill of an order that has not come waits, is an exception after three days, and books when it comes."""
    run = Run()
    run.take(billed(100, 100_000), bill(100_000))
    assert run.state("line-acme/77-PO1/1") == "pending"
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert "missing_po_reference" in run.open_types()
    run.take(ordered(), received(100), at_ms=NOW_MS + 4 * DAY_MS)
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "AP": -100_000}
    assert run.open_types() == []


def test_receipt_in_the_frame_of_its_order_but_before_it_is_entered_after_it():
    """The order of rows in a frame does not decide whether a receipt finds its order."""
    run = Run()
    run.take(received(100), ordered())
    assert run.states() == {"goods_received-R1": "booked", "order-PO1/1": "excluded"}


def test_what_time_makes_ready_goes_on_in_the_order_in_which_it_became_so():
    """A bill's line that came first waits for its head, too: the receipt is ready before it, so the line clears it."""
    run = Run(open_items_max=2)
    run.take(*(event(name, "card_authorised", 5, document=name) for name in ("a", "b")))
    run.take(billed(100, 100_000), received(100))
    run.take(ordered(), bill(100_000))
    assert run.open_types() == ["open_items_full"] * 2
    posted = run.step(tick(NOW_MS + 31 * DAY_MS)).deltas
    cleared = posted.filter(pl.col("role") == "GRNI", pl.col("side") == "D")
    assert cleared["kind"].to_list() == ["invoice_line_billed"]


def test_invoice_of_another_supplier_than_the_order_is_held_until_it_is_tried_again():
    """A bill line of a stranger is held; mapped as another name of the supplier, it books."""
    run = Run()
    run.take(
        ordered(), received(100), billed(100, 100_000, counterparty="ACME Corp"), bill(100_000, supplier="ACME Corp")
    )
    assert run.open_types() == ["vendor_mismatch"]
    assert run.balance("AP") == 0
    run.step(mapping(2, [*MAPPING, {"role": "SUPPLIER_ALIAS", "account": "acme", "counterparty": "ACME Corp"}]))
    assert run.open == {}
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "AP": -100_000}


def test_held_bill_line_that_is_tried_again_tells_what_its_match_finds():
    """What a register finds while a held row is tried again is not lost: the match fails, and the bill is held."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000, counterparty="ACME Corp"), bill(100_000))
    run.step(mapping(2, [*MAPPING, {"role": "SUPPLIER_ALIAS", "account": "acme", "counterparty": "ACME Corp"}]))
    assert run.open_types() == ["match_failed_receipt"]
    run.take(approved(), paid(100_000))
    assert run.state("pay-PAY1") == "pending"


def test_invoice_of_an_unknown_supplier_is_held_only_where_suppliers_are_mapped():
    """A house that maps suppliers holds the bills and orders of others whole, and books them by their mapping."""
    run = Run()
    run.step(mapping(2, [{"role": "SUPPLIER", "account": "acme", "counterparty": "acme"}]))
    run.take(bill(5, "odd/1", "odd"), billed(None, 5, "odd/1", None), bill(7), billed(None, 7, "acme/77", None))
    assert run.open_types() == ["unknown_supplier"]
    assert (run.balance("PURCHASE_EXPENSE"), run.balance("AP")) == (7, -7)
    run.step(mapping(3, [{"role": "SUPPLIER", "account": "odd", "counterparty": "odd"}]))
    assert (run.open, run.balance("PURCHASE_EXPENSE"), run.balance("AP")) == ({}, 12, -12)


def test_invoice_without_order_is_expense_beside_its_tax_and_charges():
    """What is bought without an order is expense; tax, freight, charges, allowances and prepayments go apart."""
    head = {"tax_minor": 750, "freight_minor": 300, "charge_minor": 50, "allowance_minor": 20, "prepaid_minor": 100}
    run = Run()
    run.take(bill(10_980, attributes=head), billed(None, 10_000, line=None))
    assert run.balances_of("mercy") == {
        "TAX": 750,
        "FREIGHT": 300,
        "OTHER_CHARGES": 30,
        "PREPAYMENT": -100,
        "PURCHASE_EXPENSE": 10_000,
        "AP": -10_980,
    }


def test_invoice_whose_lines_are_not_its_total_is_held_whole():
    """A bill that does not add up books nothing, and is told after three days."""
    run = Run()
    run.take(bill(10_001), billed(None, 10_000, line=None))
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert set(run.open_types()) == {"bill_out_of_balance"}
    assert run.accounts() == {}


# ── holds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_payment_waits_for_approval_and_the_bill_says_so_after_its_time():
    """No bill is paid unapproved; an approval that is overdue is an exception, and the approval pays it."""
    run = Run()
    run.take(*GOODS, paid(100_000))
    assert run.state("pay-PAY1") == "pending"
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == ["approval_overdue", "payment_on_hold"]
    run.take(approved(), at_ms=NOW_MS + 6 * DAY_MS)
    assert run.state("pay-PAY1") == "booked"
    assert run.open == {}


def test_payment_s_confirmation_and_clearing_are_awaited_from_its_release_on():
    """While a payment is held nobody can confirm or clear it: both times run from the tick before its release."""
    run = Run()
    run.take(*GOODS, paid(100_000))
    for day in (4, 12):
        run.step(tick(NOW_MS + day * DAY_MS))
    run.restart()
    assert run.open_types() == ["approval_overdue", "payment_on_hold"]
    run.take(approved(), at_ms=NOW_MS + 12 * DAY_MS)
    run.step(tick(NOW_MS + 15 * DAY_MS))
    assert run.open == {}
    run.step(tick(NOW_MS + 16 * DAY_MS))
    assert run.open_types() == ["payment_confirmation_lost"]
    run.step(tick(NOW_MS + 23 * DAY_MS))
    assert run.open_types() == ["payment_confirmation_lost", "payment_uncleared"]


def test_approval_without_a_person_is_refused():
    """An approval that nobody signed lets nothing go."""
    run = Run()
    run.take(*GOODS, event("ok", "invoice_approved", document="acme/77"), paid(100_000))
    assert run.open_types() == ["approval_refused"]
    assert run.state("pay-PAY1") == "pending"


def test_hold_of_a_failed_match_is_released_by_a_second_person():
    """Who entered the bill can't release its hold; another person can, and the payment goes."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000, person="Bob"))
    run.take(approved(), paid(100_000), let_go("match_failed_receipt:1", "Bob"))
    assert run.state("pay-PAY1") == "pending"
    assert "approval_refused" in run.open_types()
    run.take(let_go("match_failed_receipt:1", "Eve"))
    assert run.state("pay-PAY1") == "booked"


def test_hold_that_a_person_released_is_not_set_again():
    """A released hold stays released, although the match goes on failing."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000))
    run.take(let_go("match_failed_receipt:1"))
    run.take(received(5, "R2", kind="goods_returned"), approved(), paid(100_000))
    assert run.state("pay-PAY1") == "booked"


@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["released first", "received first"])
def test_exception_ends_once_when_its_hold_is_released_and_its_cause_ends(order, together):
    """A person's release ends a hold's exception, the missing receipt has nothing left to end; or the reverse."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000))
    rows = [(let_go("match_failed_receipt:1"), received(10, "R2"))[at] for at in order]
    for step in [rows] if together else [[row] for row in rows]:
        run.take(*step)
    assert "match_failed_receipt" not in run.open_types()
    run.restart()
    run.take(approved(), paid(100_000))
    assert run.state("pay-PAY1") == "booked"


def test_exception_ends_with_its_cause_although_its_bill_was_paid_and_forgotten():
    """A return makes a paid bill's match fail; goods that come after the bill is forgotten end that exception."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    run.take(received(10, "R2", kind="goods_returned"))
    assert "match_failed_receipt" in run.open_types()
    run.step(tick(NOW_MS + 500 * DAY_MS))
    run.step(tick(NOW_MS + 1_000 * DAY_MS))
    assert "match_failed_receipt" in run.open_types()
    run.take(received(10, "R3"), at_ms=NOW_MS + 1_000 * DAY_MS)
    assert "match_failed_receipt" not in run.open_types()


def test_bill_taken_out_leaves_its_holds_for_the_right_one():
    """A head with a wrong total is taken out, overdue approval and all; the right one's payment is held as before."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000))
    run.take(billed(1, 1_000, of="acme/78"), bill(9_999, "acme/78"))
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types().count("approval_overdue") == 2
    wrong = [id for id, what in run.open.items() if what == ("bill_out_of_balance", "head-acme/78")]
    run.step(decision(1, "exclude", *wrong))
    assert run.open_types().count("approval_overdue") == 1
    right = bill(1_000, "acme/78") | {"event_id": "right"}
    run.take(right, approved("acme/78"), paid(1_000, "acme/78"), at_ms=NOW_MS + 6 * DAY_MS)
    assert (run.state("right"), run.state("pay-PAY1")) == ("booked", "pending")


def test_payment_of_more_than_the_bill_is_held():
    """A bill is paid up to its amount; what exceeds it is another payment of the same."""
    run = Run()
    run.take(*GOODS, approved())
    run.take(paid(100_000), paid(100_000, payment="PAY2"))
    assert run.open_types() == ["duplicate_payment_event"]
    assert run.balance("PAYMENT_CLEARING") == -100_000


def test_bill_that_nobody_pays_is_told_after_its_time():
    """A payable that is open for ninety days is an exception."""
    run = Run()
    run.take(*GOODS, approved())
    run.step(tick(NOW_MS + 91 * DAY_MS))
    assert run.open_types() == ["invoice_unpaid"]


def test_rejected_invoice_is_an_exception_and_told():
    """Who rejects an invoice tells the supplier's channel, and somebody owns it."""
    run = Run()
    run.take(*GOODS, event("no", "invoice_rejected", document="acme/77", reason="DAMAGED"))
    assert run.open_types() == ["invoice_rejected"]
    assert ("rejected", "acme/77", "DAMAGED") in run.statuses


OBJECTIONS = [("invoice_rejected", "rejection"), ("invoice_disputed", "dispute")]


@pytest.mark.parametrize(("kind", "hold"), OBJECTIONS)
@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("together", [True, False], ids=["one frame", "one by one"])
def test_objection_holds_the_payment_of_an_approved_bill_in_any_order_of_arrival(kind, hold, order, together):
    """Before the bill, its approval, or after both: recorded is the bill, and paid only after a second person."""
    run = Run()
    parts = (GOODS, (approved(),), (event("no", kind, document="acme/77", reason="DAMAGED"),))
    rows = [row for at in order for row in parts[at]]
    for some in [[*rows, paid(100_000)]] if together else [[row] for row in (*rows, paid(100_000))]:
        run.take(*some)
    assert (run.state("pay-PAY1"), run.balance("AP")) == ("pending", -100_000)
    assert run.open_types() == [kind]
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == [kind, "payment_on_hold"]
    run.restart()
    run.take(let_go(hold))
    assert (run.state("pay-PAY1"), run.open_types()) == ("booked", [kind])
    assert not any(status == "match_failed" for status, *_ in run.statuses)


@pytest.mark.parametrize(("kind", "hold"), OBJECTIONS)
@pytest.mark.parametrize("is_first", [False, True], ids=["approval first", "objection first"])
@pytest.mark.parametrize("comes_last", [(), GOODS], ids=["bill before", "bill with them"])
def test_approval_does_not_let_a_waiting_payment_pass_the_objection_of_its_frame(kind, hold, is_first, comes_last):
    """The payment was there before: an approval and an objection that come in one frame leave it held."""
    run, pair = Run(), [approved(), event("no", kind, document="acme/77", reason="DAMAGED")]
    run.take(paid(100_000), *(() if comes_last else GOODS))
    run.take(*(pair[::-1] if is_first else pair), *comes_last)
    assert (run.state("pay-PAY1"), run.balance("AP"), run.open_types()) == ("pending", -100_000, [kind])
    run.take(let_go(hold))
    assert run.state("pay-PAY1") == "booked"


@pytest.mark.parametrize(("kind", "hold"), OBJECTIONS)
def test_objection_after_the_payment_is_an_exception_and_holds_the_bill_once_it_is_open_again(kind, hold):
    """What is paid stays paid; when the payment comes back, the bill is not paid again before somebody lets it go."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    run.take(event("no", kind, document="acme/77", reason="DAMAGED"))
    assert (run.state("pay-PAY1"), run.open_types()) == ("booked", [kind])
    back = {"document": "rt1", "reference": "PAY1", "correlation_id": "acme/77"}
    run.take(event("back", "payment_returned", 100_000, **back), paid(100_000, payment="PAY2"))
    assert run.state("pay-PAY2") == "pending"
    run.take(let_go(hold))
    assert run.state("pay-PAY2") == "booked"


# ── duplicates ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bill_of_the_same_number_is_blocked_until_two_persons_let_it_go():
    """The same number again books nothing; released by decision, both are one payable of both amounts."""
    run = Run()
    run.take(*GOODS)
    run.take(bill(5_000, source="ocr") | {"event_id": "again"})
    assert run.open_types() == ["duplicate_invoice_suspect"]
    assert run.state("again") == "excepted"
    run.step(decision(1, "release", *run.ids("duplicate_invoice_suspect")))
    assert run.state("again") == "pending"
    run.take(billed(None, 5_000, line=None, document="acme/77/2"))
    assert run.state("again") == "booked"
    run.take(approved(), paid(105_000))
    assert run.state("pay-PAY1") == "booked"


def test_bill_of_the_same_number_is_blocked_long_after_the_first_was_paid():
    """A paid bill's number is remembered for two years."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    run.step(tick(NOW_MS + 200 * DAY_MS))
    run.take(bill(100_000, source="ocr") | {"event_id": "again"}, at_ms=NOW_MS + 200 * DAY_MS)
    assert "duplicate_invoice_suspect" in run.open_types()
    run.step(tick(NOW_MS + 731 * DAY_MS))
    run.take(bill(100_000, source="fax") | {"event_id": "much later"}, at_ms=NOW_MS + 731 * DAY_MS)
    assert run.state("much later") == "pending"


def test_bill_of_the_same_amount_and_date_is_recorded_and_not_paid():
    """A strong likeness holds the later bill's payment until a second person releases it."""
    run = Run()
    run.take(bill(5_000, "acme/1"), billed(None, 5_000, "acme/1", None))
    run.take(bill(5_000, "acme/900"), billed(None, 5_000, "acme/900", None))
    assert run.balance("AP") == -10_000
    assert run.open_types() == ["duplicate_invoice_suspect"]
    run.take(approved("acme/1"), approved("acme/900"), paid(5_000, "acme/1", "P1"), paid(5_000, "acme/900", "P2"))
    assert (run.state("pay-P1"), run.state("pay-P2")) == ("booked", "pending")
    run.take(let_go("duplicate_invoice_suspect", name="acme/900"))
    assert run.state("pay-P2") == "booked"


def test_bill_of_nearly_the_same_amount_is_reviewed_and_can_be_paid():
    """A faint likeness is looked at, and holds nothing."""
    run = Run()
    run.take(bill(5_000, "acme/1"), billed(None, 5_000, "acme/1", None))
    run.take(bill(5_020, "acme/900"), billed(None, 5_020, "acme/900", None))
    assert run.open_types() == ["duplicate_invoice_review"]
    run.take(approved("acme/900"), paid(5_020, "acme/900"))
    assert run.state("pay-PAY1") == "booked"


# ── credit memos ───────────────────────────────────────────────────────────────────────────────────────────────────

MEMO = {"name": "acme/C1", "kind": "credit_memo_received"}


def test_credit_memo_for_the_price_takes_back_the_variance():
    """Billed at 10.40, credited 0.40 a unit without a quantity, and paid the rest: no variance is left."""
    run = Run()
    run.take(ordered(90), received(90), billed(90, 93_600), bill(93_600))
    assert (run.balance("PPV"), run.open_types()) == (3_600, ["match_failed_price"])
    run.take(bill(3_600, reference="acme/77", **MEMO), credited(None, 3_600))
    assert run.open == {}
    run.take(approved(), paid(90_000))
    assert run.balances_of("mercy") == {"INVENTORY": 90_000, "PAYMENT_CLEARING": -90_000}


def test_credit_memo_for_goods_ends_a_hold_of_quantity():
    """Ten units too many, credited with their quantity, let the payment of the rest go."""
    run = Run()
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000), approved(), paid(90_000))
    assert run.state("pay-PAY1") == "pending"
    run.take(bill(10_000, reference="acme/77", **MEMO), credited(10, 10_000))
    assert run.state("pay-PAY1") == "booked"
    assert run.balances_of("mercy") == {"INVENTORY": 90_000, "PAYMENT_CLEARING": -90_000}
    assert run.open == {}


def test_credit_memo_after_the_payment_is_money_that_the_supplier_owes():
    """A bill that is paid has nothing left to correct: the payable stands on the other side."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    run.take(bill(3_600, reference="acme/77", **MEMO), credited(None, 3_600))
    assert run.state("head-acme/C1") == "booked"
    assert run.balances_of("mercy") == {
        "INVENTORY": 100_000,
        "PAYMENT_CLEARING": -100_000,
        "AP": 3_600,
        "PPV": -3_600,
    }


MEMOED = (bill(3_600, reference="acme/77", **MEMO), credited(None, 3_600))


@pytest.mark.parametrize("at", range(4))
def test_credit_memo_lowers_what_is_payable_once_a_payment_came_back(at):
    """Before or after the payment, its clearing and its return: only the rest of the bill can be paid again."""
    run = Run()
    steps = [(paid(96_400),), (cleared(96_400),), (returned(96_400),)]
    steps.insert(at, MEMOED)
    for rows in ((*GOODS, approved()), *steps, (paid(96_401, payment="PAY2"),)):
        run.take(*rows)
        run.restart()
    assert (run.state("pay-PAY2"), run.balance("AP")) == ("excepted", -96_400)
    run.take(paid(96_400, payment="PAY3"))
    assert (run.state("pay-PAY3"), run.balance("AP")) == ("booked", 0)
    run.step(tick(NOW_MS + 91 * DAY_MS))
    assert "invoice_unpaid" not in run.open_types()


def test_credit_memo_of_a_bill_paid_in_full_is_left_out_when_the_payment_came_back():
    """A memo that found nothing left still counts: of the payment that came back so much is not owed."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000), cleared(100_000))
    run.take(*MEMOED)
    run.step(tick(NOW_MS + 91 * DAY_MS))
    assert "invoice_unpaid" not in run.open_types()
    run.take(returned(100_000), paid(100_000, payment="PAY2"), at_ms=NOW_MS + 91 * DAY_MS)
    assert (run.state("pay-PAY2"), run.balance("AP")) == ("excepted", -96_400)
    run.take(paid(96_400, payment="PAY3"), at_ms=NOW_MS + 91 * DAY_MS)
    assert (run.state("pay-PAY3"), run.balance("AP")) == ("booked", 0)


@pytest.mark.parametrize("kind", ["invoice_received", "credit_memo_received"])
def test_negative_bill_is_refused_at_the_door(kind):
    """A negative invoice comes as a credit memo: as an invoice it would leave the bill that it corrects payable."""
    frame = schema.conform(pl.DataFrame([bill(-5, "acme/9", kind=kind)], infer_schema_length=None))
    rejected = validation.validate(frame, VOCABULARY, NOW_MS).rejected
    assert rejected["column"].to_list() == ["amount_minor"]


def test_credit_memo_of_the_bill_s_own_number_is_another_document():
    """Credit memos have a namespace of their own."""
    run = Run()
    run.take(*GOODS, bill(3_600, kind="credit_memo_received", reference="acme/77") | {"event_id": "memo"})
    assert run.state("memo") == "pending"


def test_credit_memo_gives_back_tax_and_charges():
    """What a bill's head took is given back by a credit memo's head, with the opposite sides."""
    head = {"tax_minor": 75, "freight_minor": 30, "charge_minor": 5}
    run = Run()
    run.take(bill(1_110, attributes=head, **MEMO), credited(None, 1_000, line=None))
    assert run.balances_of("mercy") == {
        "TAX": -75,
        "FREIGHT": -30,
        "OTHER_CHARGES": -5,
        "PURCHASE_EXPENSE": -1_000,
        "AP": 1_110,
    }


# ── payments ───────────────────────────────────────────────────────────────────────────────────────────────────────


def cleared(amount_minor: int, payment: str = "PAY1") -> dict:
    """The bank has paid."""
    return event(f"clear-{payment}", "payment_cleared", amount_minor, document=f"st-{payment}", reference=payment)


def test_payment_with_discount_clears_by_what_was_paid():
    """A discount reduces what leaves the bank, and the payable by the whole amount."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000, attributes={"discount_minor": 2_000}))
    assert run.balances_of("mercy") == {
        "INVENTORY": 100_000,
        "PAYMENT_CLEARING": -98_000,
        "PURCHASE_DISCOUNT": -2_000,
    }
    run.take(cleared(98_000))
    assert (run.balance("PAYMENT_CLEARING"), run.balance("CASH")) == (0, -98_000)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["payment first", "bank first"])
def test_payment_clears_in_either_order(order):
    """The bank's news of a payment may come before the payment's own."""
    run = Run()
    rows = (paid(100_000), cleared(100_000))
    run.take(*GOODS, approved())
    for at in order:
        run.take(rows[at])
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "CASH": -100_000}


def test_payment_returned_opens_the_bill_again():
    """A returned payment is an exception; the bill is owed again and can be paid once more."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    back = {"document": "rt1", "reference": "PAY1", "correlation_id": "acme/77"}
    run.take(event("back", "payment_returned", 100_000, **back))
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "AP": -100_000}
    assert run.open_types() == ["payment_returned"]
    run.take(paid(100_000, payment="PAY2"))
    assert run.state("pay-PAY2") == "booked"
    assert ("returned", "acme/77", "") in run.statuses


@pytest.mark.parametrize("discount_minor", [2_000, 0], ids=["taken again", "lost"])
@pytest.mark.parametrize("has_cleared", [False, True], ids=["returned", "cleared and returned"])
def test_payment_with_discount_that_comes_back_leaves_the_whole_bill_owed(discount_minor, has_cleared):
    """What came back and its discount are owed again: the bill can be paid once more, with a discount or without."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000, attributes={"discount_minor": 2_000}))
    back = {
        "document": "rt1",
        "reference": "PAY1",
        "correlation_id": "acme/77",
        "attributes": {"discount_minor": 2_000},
    }
    run.take(*[cleared(98_000)] * has_cleared, event("back", "payment_returned", 98_000, **back))
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "AP": -100_000}
    run.take(paid(100_000, payment="PAY2", attributes={"discount_minor": discount_minor}))
    assert run.state("pay-PAY2") == "booked"
    assert (run.balance("AP"), run.balance("PURCHASE_DISCOUNT")) == (0, -discount_minor)


def test_payment_returned_that_is_told_twice_opens_the_bill_once():
    """The second telling is an exception, and leaves nothing that could be paid once more."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    back = {"document": "rt1", "reference": "PAY1", "correlation_id": "acme/77"}
    run.take(*(event(f"back{n}", "payment_returned", 100_000, **back) for n in (1, 2)))
    run.take(*(paid(100_000, payment=f"PAY{n}") for n in (2, 3)))
    assert [run.state(f"pay-PAY{n}") for n in (2, 3)] == ["booked", "excepted"]
    assert run.balance("AP") == 0


def returned(amount_minor: int, name: str = "acme/77", payment: str = "PAY1") -> dict:
    """What the bank sends back of a payment."""
    named = {"document": f"rt-{name}", "reference": payment, "correlation_id": name}
    return event(f"back-{name}", "payment_returned", amount_minor, **named)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
def test_payment_returned_after_or_before_it_cleared_is_cash_again_and_opens_the_bill(order, together):
    """Release, clearing and return in any order: clearing and bank are as before, the bill is owed."""
    run, rows = Run(), [(paid(100_000), cleared(100_000), returned(100_000))[at] for at in order]
    run.take(*GOODS, approved())
    for step in [rows] if together else [[row] for row in rows]:
        run.take(*step)
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "AP": -100_000}
    run.restart()
    run.take(event("ok", "payment_confirmed", 100_000, document="cf1", reference="PAY1"))
    run.step(tick(NOW_MS + 12 * DAY_MS))
    assert run.open_types() == ["payment_returned"]
    run.take(paid(100_000, payment="PAY2"), at_ms=NOW_MS + 12 * DAY_MS)
    assert run.state("pay-PAY2") == "booked"


def test_payment_returned_long_after_it_cleared_is_booked_at_once():
    """A return that comes two months later finds its payment, and posts from cash to the payable."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000), cleared(100_000))
    run.step(tick(NOW_MS + 60 * DAY_MS))
    run.take(returned(100_000), at_ms=NOW_MS + 60 * DAY_MS)
    assert run.state("back-acme/77") == "booked"
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "AP": -100_000}


@pytest.mark.parametrize("kind", ["payment_cleared", "payment_returned"])
def test_payment_that_is_cleared_or_returned_twice_is_held(kind):
    """The bank can't pay or send back more than was released."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    for number in range(2):
        named = {"document": f"st{number}", "reference": "PAY1", "correlation_id": "acme/77"}
        run.take(event(f"bank{number}", kind, 100_000, **named))
    assert (run.state("bank1"), run.ids("allocation_exceeded") != []) == ("excepted", True)


OTHER = (bill(5_000, "odd/1", "odd"), billed(None, 5_000, "odd/1", None, counterparty="odd"), approved("odd/1"))
RUN = (
    paid(100_000, attributes={"discount_minor": 2_000}),
    paid(5_000, "odd/1") | {"event_id": "pay-odd"},
    cleared(103_000),
    event("told", "payment_confirmed", 105_000, document="cf1", reference="PAY1"),
)


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
def test_payment_of_several_bills_is_cleared_and_confirmed_by_its_sum_in_any_order(order, together):
    """Two suppliers' bills in one payment: one clearing and one confirmation, before or after any part."""
    run, rows = Run(), [RUN[at] for at in order]
    run.take(*GOODS, approved(), *OTHER)
    for step in [rows] if together else [[row] for row in rows]:
        run.take(*step)
        run.restart()
    run.step(tick(NOW_MS + 12 * DAY_MS))
    assert run.open == {}
    assert run.balances_of("mercy") == {
        "INVENTORY": 100_000,
        "PURCHASE_EXPENSE": 5_000,
        "PURCHASE_DISCOUNT": -2_000,
        "CASH": -103_000,
    }


def test_payment_of_several_bills_of_which_one_comes_back_owes_that_one_again():
    """One of two is returned after all has cleared: so much is cash again, and the other bill stays paid."""
    run = Run()
    run.take(*GOODS, approved(), *OTHER, *RUN, returned(5_000, "odd/1"))
    assert (run.balance("CASH"), run.balance("AP"), run.balance("PAYMENT_CLEARING")) == (-98_000, -5_000, 0)
    run.take(paid(5_000, "odd/1", "PAY2"), paid(1, payment="PAY3"))
    assert (run.state("pay-PAY2"), run.state("pay-PAY3")) == ("booked", "excepted")


def test_payment_number_in_another_currency_is_not_added():
    """Two currencies are not one payment: the second is an exception, and takes nothing with it when it goes."""
    run = Run()
    run.take(*GOODS, approved(), paid(60_000))
    run.take(paid(40_000, currency="EUR") | {"event_id": "other"})
    assert run.open_types() == ["duplicate_open_item"]
    run.step(decision(1, "exclude", *run.ids("duplicate_open_item")))
    run.take(cleared(60_000))
    assert (run.state("clear-PAY1"), run.balance("CASH")) == ("booked", -60_000)


def test_payment_that_nobody_confirms_or_clears_is_told():
    """Three days without confirmation and ten without the bank are exceptions, which end when the news comes."""
    run = Run()
    run.take(*GOODS, approved(), paid(100_000))
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert run.open_types() == ["payment_confirmation_lost"]
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert run.open_types() == ["payment_confirmation_lost", "payment_uncleared"]
    confirmed = {"document": "cf1", "reference": "PAY1", "correlation_id": "acme/77"}
    run.take(event("ok", "payment_confirmed", 100_000, **confirmed), cleared(100_000), at_ms=NOW_MS + 11 * DAY_MS)
    assert run.open == {}
    assert ("confirmed", "acme/77", "") in run.statuses


def test_payment_without_invoice_is_told_and_never_booked():
    """Money that leaves for a bill that nobody has is an exception."""
    run = Run()
    run.take(paid(100_000))
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == ["payment_without_invoice"]
    assert run.accounts() == {}


def test_bank_s_news_of_a_payment_that_nobody_released_is_told():
    """Money that left without a payment is an exception, and not booked."""
    run = Run()
    run.take(cleared(100_000))
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert run.open_types() == ["payment_unreleased"]
    assert run.accounts() == {}


@pytest.mark.parametrize(
    ("on", "reversed_on"),
    [("2026-08-31", "2026-09-01"), ("2026-12-31", "2027-01-01"), ("2026-05-31", "2026-06-01")],
    ids=["month", "year", "closed month"],
)
def test_service_accrued_at_a_period_s_end_is_reversed_on_the_first_day_after_it(on, reversed_on):
    """An accrual is reversed by itself and once, in the next period; one of a closed period leaves nothing there."""
    run = Run()
    run.take(event("a", "service_accrued", 900, document="ac1", facility="north", effective_on=date.fromisoformat(on)))
    assert run.accounts() != {}
    run.relay()
    assert [row["kind"] for row in run.relayed_rows] == ["service_accrual_reversed"]
    assert [str(row["effective_on"]) for row in run.relayed_rows] == [reversed_on]
    assert (run.accounts(), run.total("booked")) == ({}, 2)
    run.relay()
    assert run.total("booked") == 2


# ── what is not booked is not paid ─────────────────────────────────────────────────────────────────────────────────


UNORDERED = (bill(1_000), billed(1, 1_000, line="NOPO/1"))
STRANGE = (ordered(), received(100), bill(100_000, supplier="other"), billed(100, 100_000, counterparty="other"))
UNEVEN = (ordered(), received(100), bill(120_000), billed(100, 100_000))
TAXED = (bill(105_000, attributes={"tax_minor": 5_000}), billed(None, 100_000, line=None))


@pytest.mark.parametrize("rows", [UNORDERED, STRANGE, UNEVEN], ids=["unordered", "other supplier", "uneven"])
@pytest.mark.parametrize("is_paid_first", [False, True])
def test_bill_not_booked_is_not_paid(rows, is_paid_first):
    """A bill of which anything waits or is held is approved and not paid, whichever comes first; nobody lets it go."""
    run, payment = Run(), (approved(), paid(rows[-1]["amount_minor"]))
    for row in (*payment, *rows) if is_paid_first else (*rows, *payment):
        run.take(row)
    assert run.state("pay-PAY1") == "pending"
    run.step(tick(NOW_MS + 6 * DAY_MS))
    run.step(decision(1, "release", *run.ids("payment_on_hold", "bill_out_of_balance")))
    assert (run.state("pay-PAY1"), run.balance("PAYMENT_CLEARING"), run.balance("AP")) == ("excepted", 0, 0)


@pytest.mark.parametrize("order", list(permutations(range(5))))
@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
def test_bill_is_paid_when_its_last_line_is_booked_in_every_order_of_arrival(order, together):
    """Order, bill, approval and payment end alike in any order: the payment goes out once all is recorded."""
    sent = (ordered(1), bill(1_000), billed(1, 1_000), approved(), paid(1_000))
    run, rows = Run(), [sent[at] for at in order]
    run.take(received(1))
    for step in [rows] if together else [[row] for row in rows]:
        run.take(*step)
    run.restart()
    assert run.state("pay-PAY1") == "booked"
    assert run.balances_of("mercy") == {"INVENTORY": 1_000, "PAYMENT_CLEARING": -1_000}


@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
@pytest.mark.parametrize("later", ["dispute", "memo"])
def test_bill_is_paid_before_a_later_frame_touches_it_however_steps_are_cut(later, together):
    """A payment that only waits for the books goes out, although the same step holds or lowers its bill."""
    run = Run()
    run.take(ordered(1), received(1))
    disputed = event("dispute", "invoice_disputed", document="acme/77", reason="price")
    memo = bill(400, "acme/C1", kind="credit_memo_received", reference="acme/77")
    rows = {"dispute": [disputed], "memo": [memo, credited(None, 400, line=None)]}[later]
    frames = events(bill(1_000), billed(1, 1_000), approved(), paid(1_000)), events(*rows)
    for step in [frames] if together else [[frame] for frame in frames]:
        run.step(*step)
    assert run.state("pay-PAY1") == "booked"
    assert run.balance("PAYMENT_CLEARING") == -1_000


@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
def test_bill_takes_its_payment_before_that_comes_back_however_steps_are_cut(together):
    """What a return gives back does not make room for its own payment, a cent too much, while that waits for the
    books."""
    run = Run()
    run.take(ordered(1), received(1))
    rows = (bill(1_000), billed(1, 1_000), returned(1_001), approved(), paid(1_001))
    for step in [rows] if together else [[row] for row in rows]:
        run.take(*step)
    assert run.state("pay-PAY1") == "excepted"
    assert run.open_types() == ["duplicate_payment_event", "payment_returned"]


def test_bill_of_a_stranger_is_paid_when_its_line_books():
    """A line that its register held, and that books by a mapping after a restart, lets the payment go by itself."""
    run = Run()
    run.take(*STRANGE, approved(), paid(100_000))
    run.restart()
    run.step(mapping(2, [*MAPPING, {"role": "SUPPLIER_ALIAS", "account": "acme", "counterparty": "other"}]))
    assert run.state("pay-PAY1") == "booked"
    assert run.balances_of("mercy") == {"INVENTORY": 100_000, "PAYMENT_CLEARING": -100_000}


@pytest.mark.parametrize("missing", ["PURCHASE_EXPENSE", "TAX"])
def test_bill_held_for_an_account_is_paid_when_that_is_mapped(missing):
    """Head or line without an account: nothing is paid until the mapping is there, and then by itself."""
    run = Run(mapped=False)
    run.step(mapping(1, [row for row in MAPPING if row["role"] != missing]))
    run.take(*TAXED, approved(), paid(105_000))
    assert run.state("pay-PAY1") == "pending"
    run.step(mapping(2, MAPPING))
    assert run.state("pay-PAY1") == "booked"
    assert run.balances_of("mercy") == {"PURCHASE_EXPENSE": 100_000, "TAX": 5_000, "PAYMENT_CLEARING": -105_000}


def test_bill_of_which_a_line_was_taken_out_is_never_paid():
    """A line that people exclude after its bill tied is never recorded, and so the bill is not paid."""
    run = Run()
    run.take(*STRANGE, approved(), paid(100_000))
    run.step(decision(1, "exclude", *run.ids("vendor_mismatch")))
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == ["payment_on_hold"]
    assert run.balance("PAYMENT_CLEARING") == 0


# ── releases ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hold", ["match_failed_receipt", "match_failed_receipt:1"])
@pytest.mark.parametrize("is_first", [False, True])
def test_hold_is_released_by_its_plain_name_and_its_exception_ends(hold, is_first):
    """A release that comes before or after the hold that it names lets it go; nothing of it stays open."""
    run = Run()
    if is_first:
        run.take(let_go(hold))
    run.take(ordered(), received(90), billed(100, 100_000), bill(100_000), approved(), paid(100_000))
    assert run.state("pay-PAY1") == ("booked" if is_first else "pending")
    run.restart()
    if not is_first:
        run.take(let_go(hold))
    assert (run.state(f"free-{hold}-Bob"), run.state("pay-PAY1"), run.open) == ("excluded", "booked", {})


def test_release_of_a_plain_name_lets_go_the_holds_of_all_lines():
    """Two lines fail alike: one release of that name ends both holds and both exceptions."""
    run = Run()
    run.take(ordered(10), ordered(10, line="PO2/1"), billed(10, 10_000))
    run.take(billed(10, 10_000, line="PO2/1", document="acme/77/2"), bill(20_000), approved(), paid(20_000))
    assert len(run.ids("match_failed_receipt")) == 2
    run.take(let_go("match_failed_receipt"))
    assert (run.state("pay-PAY1"), run.open) == ("booked", {})


@pytest.mark.parametrize("hold", ["nonsense", "unbooked"])
def test_release_of_no_hold_waits_and_becomes_an_exception(hold):
    """Who releases what is not there, or what nobody may, is told so, and consumers are told nothing."""
    run = Run()
    run.take(bill(1_000), billed(1, 1_000, line="NOPO/1"), approved(), let_go(hold))
    assert run.state(f"free-{hold}-Bob") == "pending"
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert "payment_on_hold" in run.open_types()
    assert "released" not in [status for status, *_ in run.statuses]
