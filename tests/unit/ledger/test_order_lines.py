"""Order lines: what is accrued and cleared, which bills are held, and that the order of arrival changes nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from fractions import Fraction
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ledger.crosswalk import Place
from runtime.ledger.line_matching import OrderLine, plain, price_of, worth
from runtime.ledger.order_lines import OrderLines, OrderTerms
from runtime.ledger.registers import Fact, Finding, Hold, ItemFlag, Marks
from runtime.ledger.tolerances import Check, tolerance

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
ORDER = "PO1/1"
MEASURES_OF_BILLS = {"cleared", "unreceived", "variance", "expense"}


def check(name: str, policy: str, most: str) -> Check:
    """A check whose exception is match_failed_NAME."""
    return Check(f"match_failed_{name}", f"POLICY_{policy}_PERCENT", most)


TERMS = OrderTerms(
    level="3",
    level_policy="POLICY_MATCH_LEVEL",
    alias_policy="SUPPLIER_ALIAS",
    payable="payable",
    price=check("price", "PRICE", "POLICY_PRICE_MINOR"),
    amount=check("price", "AMOUNT", "POLICY_AMOUNT_MINOR"),
    quantity=check("quantity", "QUANTITY", "POLICY_QUANTITY"),
    receipt=check("receipt", "RECEIPT", "POLICY_RECEIPT"),
    acceptance=check("acceptance", "RECEIPT", "POLICY_RECEIPT"),
    usage="billed_unused",
    supplier="vendor_mismatch",
    used="used_unreceived",
    unordered="order_line_unknown",
    keep_days=30,
)

# What each part's measures post: (debit, credit, measure).
POSTINGS = {
    "received": [("INVENTORY", "GRNI", "received"), ("GRNI", "INVOICED_NOT_RECEIVED", "cleared")],
    "billed": [
        ("GRNI", "AP", "cleared"),
        ("INVOICED_NOT_RECEIVED", "AP", "unreceived"),
        ("PPV", "AP", "variance"),
        ("EXPENSE", "AP", "expense"),
    ],
    "used": [("SUPPLY_EXPENSE", "INVENTORY", "cost")],
}
POSTINGS |= {"returned": POSTINGS["received"], "credited": POSTINGS["billed"], "ordered": [], "accepted": []}


def fact(name: str, part: str, quantity: str | None = None, amount_minor: int = 0, **columns) -> Fact:
    """A fact of order line PO1/1; quantity in units."""
    thousandths = None if quantity is None else int(Fraction(quantity) * 1000)
    bill = f"acme/{name}" if part in ("billed", "credited") else ""
    given = {
        "id": 0,
        "kind": part,
        "part": part,
        "key": ORDER,
        "entity": "mercy",
        "amount_minor": amount_minor,
        "currency": "USD",
        "quantity": thousandths,
        "document": f"{bill}/1" if bill else name,
        "reference": ORDER,
        "counterparty": "acme",
        "correlation_id": bill,
        "reason": "",
        "facility": "",
        "department": "",
        "effective_on": date(2026, 10, 5),
        "occurred_ms": NOW_MS,
        "source": "erp",
        "event_id": name,
        "attributes": {},
    }
    return Fact(**(given | columns))


def ordered(quantity: str | None = "100", price_minor: int | None = 1000, **columns) -> Fact:
    """The order: 100 units at 10.00, unless told otherwise."""
    amount_minor = columns.pop("amount_minor", int(Fraction(quantity or 0) * (price_minor or 0)))
    attributes = {} if price_minor is None else {"price_minor": price_minor}
    own = {"facility": "north", "department": "OR", "attributes": attributes} | columns
    return fact("order", "ordered", quantity, amount_minor, **own)


class Books:
    """Order lines, the balances that their measures post, and the exceptions and holds that are open."""

    def __init__(self, policies: Mapping[str, str] | None = None, terms: OrderTerms = TERMS) -> None:
        self._policies, self._terms = policies or {}, terms
        self.lines = OrderLines(terms, self._policy)
        self.balances: Counter[str] = Counter()
        self.flags: dict[tuple[str, str], ItemFlag] = {}
        self.holds: set[tuple[str, str]] = set()
        self.asked: list[Place] = []

    def _policy(self, name: str, place: Place) -> str:
        self.asked.append(place)
        return self._policies.get(f"{name} of {place.counterparty}", self._policies.get(name, ""))

    def take(self, *facts: Fact, now_ms: int = NOW_MS) -> Finding:
        """Take facts one by one, post what they measure, hear what they mark; the last one's finding."""
        finding = Finding()
        for each in facts:
            finding = self.lines.take(each, now_ms)
            self.post(each, finding)
            self.hear()
        return finding

    def post(self, each: Fact, finding: Finding) -> None:
        """Book a finding's measures; every measure must be posted somewhere."""
        lines = [] if finding.fault else POSTINGS[each.part]
        assert set(finding.measures) <= {measure for _, _, measure in lines}
        for debit, credit, measure in lines:
            self.balances[debit] += finding.measures[measure]
            self.balances[credit] -= finding.measures[measure]

    def hear(self) -> None:
        """Apply the marks: nothing begins twice, nothing ends that is not open."""
        marks = self.lines.drain()
        assert not marks.derived and not marks.told
        for flag in marks.flags:
            key = (flag.fault, flag.event_id)
            assert flag.raised == (key not in self.flags)
            if flag.raised:
                self.flags[key] = flag
            else:
                del self.flags[key]
        for hold in marks.holds:
            self._hold(hold)
        for flag, hold in marks.retold:
            assert flag.raised and (flag.fault, flag.event_id) in self.flags
            assert hold is None or (hold.key, hold.hold) in self.holds
            self.flags[flag.fault, flag.event_id] = flag

    def _hold(self, hold: Hold) -> None:
        assert (hold.item, hold.entity) == ("payable", "mercy")
        assert hold.on == ((hold.key, hold.hold) not in self.holds)
        (self.holds.add if hold.on else self.holds.remove)((hold.key, hold.hold))

    def restart(self) -> None:
        """Go on with what the dump holds."""
        state, self.lines = self.lines.dump(), OrderLines(self._terms, self._policy)
        self.lines.load(state)

    def open(self) -> list[tuple[str, str]]:
        """Exceptions that are open: type and event."""
        return sorted(self.flags)

    def end(self) -> tuple:
        """All that must not depend on the order of arrival."""
        return {a: b for a, b in self.balances.items() if b}, self.open(), sorted(self.holds)


def reasons(books: Books) -> set[str]:
    """The types of the exceptions that are open."""
    return {fault for fault, _ in books.flags}


# ── measures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_order_lines_bill_above_price_posts_the_variance():
    """90 received at 10.00 and billed at 10.40 clear 900.00 and vary by 36.00, until a credit memo gives it back."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "90"))
    assert books.balances == {"INVENTORY": 90_000, "GRNI": -90_000, "INVOICED_NOT_RECEIVED": 0}
    assert books.take(fact("b1", "billed", "90", 93_600)).measures == {
        "cleared": 90_000,
        "unreceived": 0,
        "variance": 3_600,
        "expense": 0,
    }
    assert books.take(fact("c1", "credited", None, 3_600)).measures == {
        "cleared": 0,
        "unreceived": 0,
        "variance": -3_600,
        "expense": 0,
    }
    assert books.end() == ({"INVENTORY": 90_000, "AP": -90_000}, [], [])


def test_order_lines_bill_before_receipt_clears_when_the_goods_come():
    """A bill that is ahead of its receipt waits on INVOICED_NOT_RECEIVED, and leaves GRNI at zero in the end."""
    books = Books()
    books.take(ordered(), fact("b1", "billed", "90", 90_000))
    assert books.balances["INVOICED_NOT_RECEIVED"] == 90_000
    assert books.take(fact("r1", "received", "90")).measures == {"received": 90_000, "cleared": 90_000}
    assert books.end() == ({"INVENTORY": 90_000, "AP": -90_000}, [], [])


def test_order_lines_return_after_bill_waits_for_its_credit_memo():
    """Goods sent back after they were billed are owed by the supplier until a credit memo of theirs comes."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "90"), fact("b1", "billed", "90", 90_000))
    books.take(fact("v1", "returned", "10"))
    assert books.end() == (
        {"INVENTORY": 80_000, "INVOICED_NOT_RECEIVED": 10_000, "AP": -90_000},
        [("match_failed_receipt", "b1")],
        [("acme/b1", "match_failed_receipt:1")],
    )
    books.take(fact("c1", "credited", "10", 10_000))
    assert books.end() == ({"INVENTORY": 80_000, "AP": -80_000}, [], [])


def test_order_lines_use_of_an_implant_costs_its_value_at_the_order_price():
    """Uses move cumulative value out of inventory, so that rounding never leaves a cent."""
    books = Books()
    books.take(ordered("3", None, amount_minor=1_000), fact("r1", "received", "3"))
    costs = [books.take(fact(f"u{n}", "used", "1")).measures["cost"] for n in range(3)]
    assert costs == [333, 334, 333]
    assert books.balances["INVENTORY"] == 0


def test_order_lines_of_level_two_expense_their_bills_and_accrue_nothing():
    """In a 2-way match receipts post nothing and a bill is expense, a credit memo less of it."""
    books = Books({"POLICY_MATCH_LEVEL": "2"})
    assert books.take(ordered(), fact("r1", "received", "5")).measures == {"received": 0, "cleared": 0}
    books.take(fact("b1", "billed", "100", 100_000), fact("c1", "credited", "10", 10_000))
    assert books.take(fact("u1", "used", "3")).measures == {"cost": 0}
    assert books.end() == ({"EXPENSE": 90_000, "AP": -90_000}, [], [])


def test_order_lines_bill_without_an_order_is_expense_and_leaves_no_state():
    """A bill line that names no order line is expense, and so is its credit."""
    books = Books()
    books.take(fact("b1", "billed", None, 500, key=""), fact("c1", "credited", None, 200, key=""))
    assert (len(books.lines), books.end()) == (0, ({"EXPENSE": 300, "AP": -300}, [], []))


def test_order_lines_ordered_by_amount_are_matched_by_amount():
    """A line without a quantity is received and billed in minor units, in as many ways as any other."""
    books = Books()
    books.take(ordered(None, None, amount_minor=50_000), fact("r1", "received", None, 20_000))
    books.take(fact("b1", "billed", "1", 30_000))
    assert (books.balances["GRNI"], books.balances["INVOICED_NOT_RECEIVED"]) == (0, 10_000)
    assert books.flags["match_failed_receipt", "b1"].residual_minor == 10_000


@pytest.mark.parametrize(
    ("attributes", "amount_minor", "quantity", "price"),
    [
        ({"price_minor": 1250}, 0, 1_000, Fraction(1250)),
        ({"price_minor": 1, "price": "0.0125", "price_per": "1"}, 0, 1_000, Fraction("1.25")),
        ({"price_minor": 4, "price": "12.5", "price_per": "300"}, 0, 1_000, Fraction(25, 6)),
        ({"price_minor": 4, "price": "1/3", "price_per": "1"}, 0, 1_000, Fraction(4)),
        ({"price_minor": 4, "price": "1.0", "price_per": "0"}, 0, 1_000, Fraction(4)),
        ({"price_minor": "4"}, 1_000, 3_000, Fraction(1000, 3)),
        ({}, 1_000, 3_000, Fraction(1000, 3)),
    ],
)
def test_order_lines_price_is_the_exactest_one_given(attributes, amount_minor, quantity, price):
    """A decimal price counts before a whole one, and amount by quantity where no price can be read."""
    assert price_of(amount_minor, quantity, "USD", attributes) == price


def test_order_lines_price_counts_in_the_minor_unit_of_its_currency():
    """0.5 is half a yen and five hundred fils."""
    attributes = {"price": "0.5", "price_per": "1"}
    assert price_of(0, 1_000, "JPY", attributes) == Fraction(1, 2)
    assert price_of(0, 1_000, "KWD", attributes) == 500


@pytest.mark.parametrize(
    ("quantity", "price", "minor"),
    [
        (1_000, "0.5", 1),
        (-1_000, "0.5", -1),
        (1_000, "0.49", 0),
        (333, "1000", 333),
        (1_500, "1", 2),
        (1_000, "-0.5", -1),
    ],
)
def test_order_lines_worth_is_rounded_half_up_away_from_zero(quantity, price, minor):
    """What is given back is worth what it was worth when it came."""
    assert worth(quantity, Fraction(price)) == minor


def test_order_lines_plain_quantity_has_no_needless_zeros():
    """Thousandths are told as people write them."""
    assert [plain(q) for q in (0, 90_000, -500, 1_250, 100)] == ["0", "90", "-0.5", "1.25", "0.1"]


# ── faults ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("odd", "fault"),
    [
        (fact("b9", "billed", "1", 1_000, currency="EUR"), "vendor_mismatch"),
        (fact("b9", "billed", "1", 1_000, counterparty="zenith"), "vendor_mismatch"),
        (fact("b9", "billed", "1", 1_000, key="PO2/1"), "order_line_unknown"),
        (fact("r9", "received", "1", entity="grace"), "order_line_unknown"),
        (fact("b1", "billed", "1", 1_000, event_id="again"), "duplicate_open_item"),
        (ordered(event_id="again"), "duplicate_open_item"),
        (fact("r9", "received", "1000000000000"), "match_failed_quantity"),
    ],
    ids=["currency", "supplier", "line", "entity", "bill line twice", "ordered twice", "scale"],
)
def test_order_lines_fact_that_does_not_fit_is_a_fault_and_not_kept(odd, fault):
    """Another currency or supplier, an unknown line, a repeated line and an absurd quantity change nothing."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "9"), fact("b1", "billed", "9", 9_000))
    before, state = books.end(), books.lines.dump()
    assert books.take(odd) == Finding(fault=fault)
    assert (books.end(), books.lines.dump()) == (before, state)


def test_order_lines_order_beyond_every_amount_is_refused():
    """An order whose value is an error of scale is a fault, not a line."""
    books = Books()
    assert books.take(ordered("1000000000", 10**9, amount_minor=1)).fault == "match_failed_quantity"
    assert len(books.lines) == 0


def test_order_lines_supplier_under_another_name_is_the_same():
    """A bill of a supplier's alias belongs to the supplier's order, whichever of the two the order names."""
    alias = {"SUPPLIER_ALIAS of acme": "ACME", "SUPPLIER_ALIAS of acme-east": "ACME"}
    assert not Books(alias).take(ordered(), fact("b1", "billed", "1", 1_000, counterparty="acme-east")).fault
    assert Books(alias).take(ordered(), fact("b1", "billed", "1", 1_000, counterparty="zen")).fault == "vendor_mismatch"


def test_order_lines_credit_memo_may_bear_the_number_of_a_bill():
    """Credit memos have numbers of their own, so the same number is no repeat."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "9"), fact("b1", "billed", "9", 9_000))
    assert not books.take(fact("b1", "credited", "1", 1_000, event_id="memo")).fault


def test_order_lines_finding_names_the_dimensions_that_the_event_lacks():
    """Facility and department are the order's where the event has none."""
    books = Books()
    books.take(ordered())
    there = books.take(fact("r1", "received", "1"))
    assert (there.facility, there.department) == ("north", "OR")
    there = books.take(fact("r2", "received", "1", facility="south", department="ICU"))
    assert (there.facility, there.department) == ("", "")


# ── holds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cure", [fact("r2", "received", "10"), fact("c1", "credited", "10", 10_000)])
def test_order_lines_bill_above_receipt_is_held_until_goods_or_credit_come(cure):
    """100 billed and 90 received fail by ten units; ten more received, or credited, end the hold by themselves."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "90"), fact("b1", "billed", "100", 100_000))
    assert books.holds == {("acme/b1", "match_failed_receipt:1")}
    flag = books.flags["match_failed_receipt", "b1"]
    assert (flag.residual_minor, flag.detail) == (10_000, "billed 100, received 90: 10 too many")
    books.take(cure)
    assert (books.open(), books.holds) == ([], set())


def test_order_lines_bills_together_above_the_order_hold_the_later_one():
    """Bills count by their date and number, not by when they came."""
    late = fact("b1", "billed", "60", 60_000, effective_on=date(2026, 10, 9))
    early = fact("b2", "billed", "50", 50_000)
    books = Books({"POLICY_MATCH_LEVEL": "2"})
    books.take(ordered(), late)
    assert books.holds == set()
    books.take(early)
    assert books.holds == {("acme/b1", "match_failed_quantity:1")}
    assert books.flags["match_failed_quantity", "b1"].detail == "billed 110, ordered 100: 10 too many"


def test_order_lines_fourth_way_counts_what_was_accepted():
    """In a 4-way match the rejected part of a receipt holds the bill, unless acceptance comes separately."""
    books = Books({"POLICY_MATCH_LEVEL": "4"})
    books.take(ordered(), fact("r1", "received", "90", attributes={"rejected": 20_000}))
    books.take(fact("b1", "billed", "90", 90_000))
    assert books.flags["match_failed_acceptance", "b1"].detail == "billed 90, accepted 70: 20 too many"
    books.take(fact("a1", "accepted", "85"))
    assert books.flags["match_failed_acceptance", "b1"].residual_minor == 5_000
    books.take(fact("a2", "accepted", "5"))
    assert books.open() == []


@pytest.mark.parametrize("order", [*permutations(("received", "accepted", "billed"))])
def test_order_lines_fourth_way_lets_only_what_was_accepted_pass(order):
    """What was received and not accepted may not be paid; when it is accepted the hold ends, whatever came first."""
    facts = {
        "received": fact("r1", "received", "90"),
        "accepted": fact("a1", "accepted", "90"),
        "billed": fact("b1", "billed", "90", 90_000),
    }
    books = Books({"POLICY_MATCH_LEVEL": "4"})
    books.take(ordered())
    for number, part in enumerate(order, 1):
        books.take(facts[part])
        is_held = "billed" in order[:number] and {*order[:number]} < {*facts}
        assert bool(books.holds) is is_held
        assert ("match_failed_acceptance", "b1") in books.open() or not is_held
    assert books.open() == []


def test_order_lines_fourth_way_takes_receipts_that_say_what_was_rejected():
    """A receipt that names its rejected part, none of it too, accepts the rest; one that says nothing accepts nothing,
    and in three ways all that was received may be paid."""
    found = {}
    for level in ("3", "4"):
        books = Books({"POLICY_MATCH_LEVEL": level})
        books.take(ordered(), fact("r1", "received", "60", attributes={"rejected": 0}), fact("r2", "received", "30"))
        books.take(fact("b1", "billed", "60", 60_000), fact("b2", "billed", "30", 30_000))
        books.restart()
        found[level] = books.open()
    assert found == {"3": [], "4": [("match_failed_acceptance", "b2")]}


def test_order_lines_returned_goods_are_the_rejected_ones_first():
    """Sending the rejected part back takes nothing from what was accepted."""
    books = Books({"POLICY_MATCH_LEVEL": "4"})
    books.take(ordered(), fact("r1", "received", "90", attributes={"rejected": 20_000}))
    books.take(fact("v1", "returned", "20"), fact("b1", "billed", "70", 70_000))
    assert books.open() == []
    books.take(fact("v2", "returned", "1"))
    assert reasons(books) == {"match_failed_receipt", "match_failed_acceptance"}


@pytest.mark.parametrize("rejected", ["20", True, -1, 90_001, None])
def test_order_lines_rejected_part_that_makes_no_sense_counts_as_all(rejected):
    """A rejection that can't be read, or is more than came, accepts nothing."""
    books = Books({"POLICY_MATCH_LEVEL": "4"})
    books.take(ordered(), fact("r1", "received", "90", attributes={"rejected": rejected}))
    books.take(fact("b1", "billed", "1", 1_000))
    assert books.open() == [("match_failed_acceptance", "b1")]


def test_order_lines_level_that_cant_be_read_is_the_strictest():
    """A match level that is none is four ways; none at all is the rulebook's."""
    rejected = fact("r1", "received", "9", attributes={"rejected": 9_000})
    found = {}
    for level in ("", "3", "5"):
        books = Books({"POLICY_MATCH_LEVEL": level})
        books.take(ordered(), rejected, fact("b1", "billed", "9", 9_000))
        found[level] = books.open()
    assert found == {"": [], "3": [], "5": [("match_failed_acceptance", "b1")]}


def test_order_lines_use_before_receipt_is_flagged_until_the_goods_come():
    """What was used and never received is an exception of the use; nothing is held for it."""
    books = Books()
    books.take(ordered(), fact("u1", "used", "2"))
    assert (books.open(), books.holds) == ([("used_unreceived", "u1")], set())
    assert books.flags["used_unreceived", "u1"].detail == "used 2, received 0: 2 too many"
    books.take(fact("r1", "received", "2"))
    assert books.open() == []


def test_order_lines_uses_above_receipt_flag_the_later_one():
    """Uses count by their date, not by when they came."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "2"))
    books.take(fact("u1", "used", "2", effective_on=date(2026, 10, 9)), fact("u2", "used", "1"))
    assert books.open() == [("used_unreceived", "u1")]


def test_order_lines_price_credit_ends_one_hold_and_not_two():
    """What was given back covers the earliest bill that is too dear, and is used up by it."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "80"))
    books.take(fact("b1", "billed", "40", 41_000), fact("b2", "billed", "40", 41_000))
    books.take(fact("c1", "credited", None, 1_000))
    assert books.holds == {("acme/b2", "match_failed_price:1")}


def test_order_lines_price_credit_ends_the_hold_of_the_price():
    """A bill above the order's price is held until what is too much has been given back."""
    books = Books({"POLICY_PRICE_MINOR": "5"})
    books.take(ordered(), fact("r1", "received", "90"), fact("b1", "billed", "90", 93_600))
    assert books.flags["match_failed_price", "b1"].detail == "billed 93600, ordered at 90000: 3600 minor units too much"
    books.take(fact("c1", "credited", None, 3_149))
    assert books.open() == [("match_failed_price", "b1")]
    books.take(fact("c2", "credited", None, 1))
    assert books.open() == []


def test_order_lines_rounding_of_a_fractional_price_is_no_difference():
    """Three at 0.3333 are billed as 1.00: at the order's price, though 1.00 by 3 is more than 0.3333."""
    price = {"price_minor": 33, "price": "0.3333", "price_per": "1"}
    books = Books()
    books.take(ordered("3", attributes=price), fact("r1", "received", "3"), fact("b1", "billed", "3", 100))
    assert books.end() == ({"INVENTORY": 100, "AP": -100}, [], [])


def test_order_lines_check_that_fails_and_passes_within_one_step_is_not_told():
    """Marks are net between two drains: what began and ended is nothing, what ended and began again goes on."""
    books = Books()
    books.lines.take(ordered(), NOW_MS)
    books.lines.take(fact("b1", "billed", "9", 9_000), NOW_MS)
    books.lines.take(fact("r1", "received", "9"), NOW_MS)
    assert books.lines.drain() == Marks()
    books.take(fact("v1", "returned", "1"))
    assert books.open() == [("match_failed_receipt", "b1")]
    books.lines.take(fact("r2", "received", "1"), NOW_MS)
    books.lines.take(fact("v2", "returned", "1"), NOW_MS)
    marks = books.lines.drain()
    assert (marks.flags, marks.holds) == ([], [])


def test_order_lines_check_that_fails_by_another_amount_is_told_anew():
    """A bill before its goods is too much by all of it, and after the first of them by what is still missing."""
    books = Books()
    books.take(ordered(), fact("b1", "billed", "9", 9_000))
    told = []
    for name, received in (("r1", "4"), ("r2", "2"), ("r3", "0")):
        told.append([(flag.residual_minor, flag.detail) for flag in books.flags.values()])
        books.take(fact(name, "received", received))
    assert told[0] == [(9_000, "billed 9, received 0: 9 too many")]
    assert told[1] == [(5_000, "billed 9, received 4: 5 too many")]
    assert told[2] == [(3_000, "billed 9, received 6: 3 too many")]
    assert books.lines.drain() == Marks()
    books.lines.take(fact("r4", "received", "1"), NOW_MS)
    books.lines.take(fact("r5", "received", "2"), NOW_MS)
    books.hear()
    assert (books.flags, books.holds) == ({}, set())


def test_order_lines_check_that_ends_and_fails_by_another_amount_within_one_step_is_told_anew():
    """It has gone on, and is told with what it is now; one that began with the step begins with that."""
    books = Books()
    books.take(ordered(), fact("b1", "billed", "9", 9_000))
    for name, part, quantity in (("r1", "received", "9"), ("v1", "returned", "1"), ("v2", "returned", "1")):
        books.lines.take(fact(name, part, quantity), NOW_MS)
    books.hear()
    assert [flag.residual_minor for flag in books.flags.values()] == [2_000]
    other = Books()
    other.lines.take(ordered(), NOW_MS)
    other.lines.take(fact("b1", "billed", "9", 9_000), NOW_MS)
    other.take(fact("r1", "received", "2"))
    assert [flag.residual_minor for flag in other.flags.values()] == [7_000]


# ── tolerances ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("percent", "most", "ceiling"),
    [
        ("", "", 1_000),
        ("0", "0", 1_000),
        ("0", "unlimited", 1_000),
        ("unlimited", "0", 1_000),
        ("unlimited", "unlimited", None),
        ("unlimited", "", None),
        ("2.5", "", 1_025),
        ("", "30", 1_030),
        ("2.5", "30", 1_025),
        ("5", "30", 1_030),
        ("5", "unlimited", 1_050),
        ("2,5", "30", 1_000),
        ("-1", "", 1_000),
        ("", "1.5", 1_000),
    ],
)
def test_tolerance_of_percent_and_amount_is_the_stricter_one(percent, most, ceiling):
    """None set allows nothing, "unlimited" everything, what can't be read nothing; of two the stricter counts."""
    assert tolerance(percent, most).ceiling(1_000) == ceiling


@pytest.mark.parametrize(
    ("policies", "amount_minor", "held"),
    [
        ({}, 90_000, False),
        ({}, 90_001, True),
        ({"POLICY_PRICE_PERCENT": "2.5"}, 92_250, False),
        ({"POLICY_PRICE_PERCENT": "2.5"}, 92_251, True),
        ({"POLICY_PRICE_MINOR": "5"}, 90_450, False),
        ({"POLICY_PRICE_MINOR": "5"}, 90_451, True),
        ({"POLICY_AMOUNT_MINOR": "500"}, 90_500, False),
        ({"POLICY_AMOUNT_MINOR": "500"}, 90_501, True),
        ({"POLICY_PRICE_PERCENT": "2.5", "POLICY_AMOUNT_MINOR": "500"}, 90_501, True),
        ({"POLICY_PRICE_PERCENT": "0", "POLICY_AMOUNT_MINOR": "500"}, 90_001, True),
        ({"POLICY_PRICE_PERCENT": "0", "POLICY_AMOUNT_MINOR": "unlimited"}, 90_001, True),
        ({"POLICY_PRICE_PERCENT": "unlimited"}, 900_000, False),
    ],
)
def test_order_lines_bill_within_price_and_amount_tolerance_passes(policies, amount_minor, held):
    """A bill line must keep its price tolerance and its amount tolerance, of those that are set."""
    books = Books(policies)
    books.take(ordered(), fact("r1", "received", "90"), fact("b1", "billed", "90", amount_minor))
    assert bool(books.holds) == held


@pytest.mark.parametrize(
    ("policies", "quantity", "held"),
    [
        ({"POLICY_RECEIPT_PERCENT": "10"}, "99", False),
        ({"POLICY_RECEIPT_PERCENT": "10"}, "99.001", True),
        ({"POLICY_RECEIPT_PERCENT": "10", "POLICY_RECEIPT": "5000"}, "96", True),
        ({"POLICY_RECEIPT": "unlimited"}, "100", False),
        ({"POLICY_RECEIPT": "unlimited"}, "101", True),
        ({"POLICY_RECEIPT": "unlimited", "POLICY_QUANTITY": "1000"}, "101", False),
    ],
)
def test_order_lines_bill_within_quantity_tolerances_passes(policies, quantity, held):
    """What is billed beyond receipt and beyond order is let pass as far as each one's own policy says."""
    books = Books(policies)
    books.take(ordered(), fact("r1", "received", "90"))
    books.take(fact("b1", "billed", quantity, int(Fraction(quantity) * 1000)))
    assert bool(books.holds) == held


def test_order_lines_policies_are_asked_for_the_order_place_and_the_bill_day():
    """A tolerance is the one of the order's facility and supplier on the day of the bill."""
    books = Books()
    books.take(ordered(), fact("b1", "billed", "1", 1_000, effective_on=date(2026, 11, 2)))
    assert books.asked[-1] == Place("mercy", "north", "OR", date(2026, 11, 2), "acme")


@pytest.mark.parametrize(
    ("name", "value", "is_fine"),
    [
        ("POLICY_MATCH_LEVEL", "4", True),
        ("POLICY_MATCH_LEVEL", "1", False),
        ("POLICY_PRICE_PERCENT", "2.5", True),
        ("POLICY_PRICE_PERCENT", "unlimited", True),
        ("POLICY_PRICE_PERCENT", "2,5", False),
        ("POLICY_PRICE_PERCENT", "", False),
        ("POLICY_AMOUNT_MINOR", "0", True),
        ("POLICY_AMOUNT_MINOR", "1.5", False),
        ("POLICY_RECEIPT", "-1", False),
        ("POLICY_CONTRACTUAL", "anything", True),
    ],
)
def test_order_terms_check_of_a_policy_says_what_is_wrong(name, value, is_fine):
    """A value that can't be read is told when it is proposed; other policies are not judged."""
    assert (TERMS.check_policy(name, value) == "") == is_fine


def test_order_terms_name_all_they_refer_to():
    """The rulebook can check that every exception is declared and every policy known."""
    assert {"duplicate_open_item", "match_failed_acceptance", "used_unreceived"} < TERMS.exceptions()
    assert {"POLICY_MATCH_LEVEL", "SUPPLIER_ALIAS", "POLICY_RECEIPT"} < TERMS.policies()


# ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_order_lines_square_line_is_forgotten_after_its_days():
    """A line that is billed as received is forgotten when it has rested; what comes later is an exception."""
    books = Books()
    books.take(ordered(), fact("r1", "received", "9"), fact("b1", "billed", "9", 9_000))
    books.lines.age(NOW_MS + 30 * DAY_MS)
    assert len(books.lines) == 1
    books.lines.age(NOW_MS + 31 * DAY_MS)
    assert len(books.lines) == 0
    assert books.take(fact("c1", "credited", "1", 1_000)).fault == "order_line_unknown"


@pytest.mark.parametrize(
    "last", [fact("r1", "received", "9"), fact("b1", "billed", "9", 9_000), fact("u1", "used", "1")]
)
def test_order_lines_line_with_something_open_is_never_forgotten(last):
    """Open receipts, unreceived bills and exceptions keep their line however long they take."""
    books = Books()
    books.take(ordered(), last)
    books.lines.age(NOW_MS + 1_000 * DAY_MS)
    assert len(books.lines) == 1


def test_order_lines_touch_makes_the_days_count_anew():
    """Whatever comes for a line starts its rest again, also after a restart."""
    books = Books()
    books.take(ordered())
    books.take(fact("a1", "accepted", "1"), now_ms=NOW_MS + 20 * DAY_MS)
    books.lines.age(NOW_MS + 40 * DAY_MS)
    books.restart()
    assert len(books.lines) == 1
    books.lines.age(NOW_MS + 51 * DAY_MS)
    assert len(books.lines) == 0


# ── every order of arrival ─────────────────────────────────────────────────────────────────────────────────────────

units = st.sampled_from(["1", "2.5", "3", "7.125", "10", "40", "0.001"])
days = st.integers(1, 4).map(lambda day: date(2026, 10, day))
choices = st.randoms(use_true_random=False)
PARTS = ["received", "received", "billed", "billed", "returned", "accepted", "credited", "used"]


@st.composite
def orders(draw) -> Fact:
    """An order of some quantity at some price, whole or fractional, or by amount alone."""
    quantity = draw(st.sampled_from(["10", "33.3", None]))
    price = draw(st.sampled_from([{"price_minor": 1000}, {"price_minor": 0, "price": "0.00333", "price_per": "1"}, {}]))
    return ordered(quantity, attributes=price, amount_minor=draw(st.integers(1, 5_000)))


@st.composite
def answers(draw) -> list[Fact]:
    """What may answer an order line, in the order in which it happened."""
    made = []
    for number in range(draw(st.integers(1, 10))):
        part = draw(st.sampled_from(PARTS))
        quantity = draw(units)
        if part in ("billed", "credited") and draw(st.integers(0, 4)) == 0:
            quantity = None
        attributes = {"rejected": 500} if part == "received" and draw(st.booleans()) else {}
        amount_minor = draw(st.sampled_from([0, 1, 300, 1000, 2500, 10_000])) if part != "used" else 0
        made.append(
            fact(f"{part[0]}{number}", part, quantity, amount_minor, effective_on=draw(days), attributes=attributes)
        )
    return made


policy_sets = st.fixed_dictionaries(
    {},
    optional={
        "POLICY_MATCH_LEVEL": st.sampled_from(["2", "3", "4"]),
        "POLICY_PRICE_PERCENT": st.sampled_from(["0", "2.5", "unlimited"]),
        "POLICY_AMOUNT_MINOR": st.sampled_from(["0", "50", "unlimited"]),
        "POLICY_RECEIPT": st.sampled_from(["500", "unlimited"]),
        "POLICY_QUANTITY_PERCENT": st.sampled_from(["5", "unlimited"]),
    },
)


def run(policies: Mapping[str, str], facts: Sequence[Fact]) -> Books:
    """Books that have taken these facts, heard after each."""
    books = Books(policies)
    books.take(*facts)
    return books


@given(policy_sets, orders(), answers(), choices)
def test_order_lines_any_order_of_arrival_ends_the_same(policies, order, made, choice: Random):
    """After the order, balances, open exceptions and holds depend on what came and not on when."""
    shuffled = choice.sample(made, len(made))
    assert run(policies, [order, *made]).end() == run(policies, [order, *shuffled]).end()


@given(policy_sets, orders(), answers())
def test_order_lines_open_receipts_are_the_balance_of_grni(policies, order, made):
    """After every fact GRNI is what was received less what of it was billed, at the order's price."""
    books = Books(policies)
    books.take(order)
    for each in made:
        books.take(each)
        ((_, line),) = books.lines._lines.seen(OrderLine)
        now = line.standing()
        assert -books.balances["GRNI"] == now.received - now.cleared
        assert 0 <= now.cleared <= now.received
        assert books.balances["INVENTORY"] == now.received - now.used
        assert books.balances["INVOICED_NOT_RECEIVED"] == now.billed - now.cleared


@given(policy_sets, orders(), answers())
def test_order_lines_measures_of_a_bill_sum_to_its_amount(policies, order, made):
    """Whatever a bill or credit memo meets, what it posts is its own amount."""
    books = Books(policies)
    books.take(order)
    for each in made:
        measures = books.take(each).measures
        if each.part in ("billed", "credited"):
            sign = 1 if each.part == "billed" else -1
            assert set(measures) == MEASURES_OF_BILLS
            assert sum(measures.values()) == sign * each.amount_minor


@given(policy_sets, orders(), answers(), st.integers(0, 10))
def test_order_lines_restart_between_two_facts_changes_nothing(policies, order, made, at):
    """A snapshot holds all that the following facts need."""
    whole, restarted = run(policies, [order, *made]), Books(policies)
    restarted.take(order, *made[:at])
    restarted.restart()
    restarted.take(*made[at:])
    assert restarted.end() == whole.end()
    assert restarted.lines.dump() == whole.lines.dump()


@given(policy_sets, orders(), answers(), choices)
def test_order_lines_marks_drained_seldom_end_the_same(policies, order, made, choice: Random):
    """How facts are cut into steps changes nothing of what is open in the end."""
    whole, cut = run(policies, [order, *made]), Books(policies)
    for each in (order, *made):
        cut.post(each, cut.lines.take(each, NOW_MS))
        if choice.random() < 0.3:
            cut.hear()
    cut.hear()
    assert cut.end() == whole.end()
