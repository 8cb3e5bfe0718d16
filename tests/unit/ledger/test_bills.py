"""Bills that look like others: which are held, which are looked at, and which are no repeats."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ledger.bills import Bills, BillTerms, one_edit_apart
from runtime.ledger.crosswalk import Place
from runtime.ledger.registers import Fact, Finding, Hold, Marks

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
DAY = date(2026, 10, 15)
SUSPECT, REVIEW = "duplicate_invoice_suspect", "duplicate_invoice_review"
TERMS = BillTerms(suspect=SUSPECT, review=REVIEW, payable="payable", alias_policy="SUPPLIER_ALIAS", keep_days=400)


def bill(number: str, amount_minor: int = 100_000, days: int = 0, supplier: str = "acme", **columns) -> Fact:
    """A bill of that number, so many days after the fifteenth."""
    key = f"{supplier}/{number}"
    given = {
        "id": 0,
        "kind": "invoice_received",
        "part": "bill",
        "key": key,
        "entity": "mercy",
        "amount_minor": amount_minor,
        "currency": "USD",
        "quantity": None,
        "document": key,
        "reference": "",
        "counterparty": supplier,
        "correlation_id": key,
        "reason": "",
        "facility": "",
        "department": "",
        "effective_on": DAY + timedelta(days),
        "occurred_ms": NOW_MS,
        "source": "erp",
        "event_id": key,
        "attributes": {},
    }
    return Fact(**(given | columns))


def register(terms: BillTerms = TERMS, aliases: Mapping[str, str] | None = None) -> Bills:
    """A register whose policy knows these aliases of suppliers."""

    def policy(name: str, place: Place) -> str:
        return (aliases or {}).get(place.counterparty, "") if name == "SUPPLIER_ALIAS" else ""

    return Bills(terms, policy)


def marks(bills: Bills, *facts: Fact) -> Marks:
    """What is told when these bills come."""
    for fact in facts:
        assert bills.take(fact, NOW_MS) == Finding()
    return bills.drain()


def faults(*facts: Fact, terms: BillTerms = TERMS, aliases: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """Exceptions of a history: type and bill."""
    told = marks(register(terms, aliases), *facts)
    held = [hold.key for hold in told.holds]
    bills = {fact.event_id for fact in facts if fact.part == "bill"}
    assert held == [flag.event_id for flag in told.flags if flag.fault == SUSPECT and flag.event_id in bills]
    return [(flag.fault, flag.event_id) for flag in told.flags]


# ── likeness ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", ["inv 0012", "INV.0012", "000INV0012", "Inv-00-12"])
def test_bills_same_number_written_otherwise_is_held(number):
    """Case, punctuation and leading zeros make no other number, whatever the amount and the date."""
    assert faults(bill("INV-0012"), bill(number, 7, days=90)) == [(SUSPECT, f"acme/{number}")]


@pytest.mark.parametrize("number", ["INV-012", "12", "---"])
def test_bills_another_number_is_not_held(number):
    """Zeros within a number count, and a number of punctuation alone is like no other."""
    assert faults(bill("INV-0012"), bill("...", 8, days=200), bill(number, 7, days=90)) == []


def test_bills_same_supplier_amount_and_date_hold_the_later_comer():
    """The same bill under another number is held and shown, with the bill that it looks like."""
    told = marks(register(), bill("A77"), bill("B900"))
    (flag,) = told.flags
    assert (flag.fault, flag.event_id, flag.residual_minor, flag.raised) == (SUSPECT, "acme/B900", 100_000, True)
    assert flag.detail == "same supplier, amount and date as acme/A77"
    assert told.holds == [Hold("payable", "mercy", "acme/B900", SUSPECT, True, flag.source, flag.event_id)]


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        (bill("B900", 100_000, 1), REVIEW),
        (bill("B900", 100_000, -7), REVIEW),
        (bill("B900", 100_000, 8), ""),
        (bill("B900", 101_010, 0), REVIEW),
        (bill("B900", 101_011, 0), ""),
        (bill("B900", 99_000, 7), REVIEW),
        (bill("A78", 5, 7), REVIEW),
        (bill("A78", 5, 8), ""),
        (bill("B900", 100_000, supplier="zenith"), ""),
        (bill("B900", 100_000, entity="grace"), ""),
        (bill("B900", 100_000, currency="EUR"), ""),
        (bill("A77", 100_000, key="acme/CR/A78", part="credit"), ""),
    ],
)
def test_bills_near_in_date_and_amount_or_number_are_looked_at(other, fault):
    """Within seven days, one percent or one character of the number is a review; anything further is nothing."""
    assert faults(bill("A77"), other) == ([(fault, other.event_id)] if fault else [])


def test_bills_same_number_under_another_name_of_the_supplier_is_held():
    """An alias of the supplier makes it the same bill, whatever its date and amount."""
    aliases = {"acme": "ACME", "acme-east": "ACME"}
    assert faults(bill("A77"), bill("A77", 7, 300, "acme-east"), aliases=aliases) == [(SUSPECT, "acme-east/A77")]
    assert faults(bill("A77"), bill("A77", 7, 300, "acme-east")) == []


def test_bills_same_number_is_told_of_the_earliest_one_also_after_a_restart():
    """The bill that is named is the first by date, however they came and whatever a snapshot kept of it."""
    aliases = dict.fromkeys(("acme", "acme-east", "acme-west"), "ACME")
    bills, restarted = register(aliases=aliases), register(aliases=aliases)
    marks(bills, bill("A77", 1, 2), bill("A77", 1, -2, "acme-east"), bill("A77", 1, 0, "acme-north"))
    restarted.load(bills.dump())
    third = bill("A77", 7, 300, "acme-west")
    told = marks(bills, third)
    assert told == marks(restarted, third)
    assert told.flags[0].detail == "same supplier and number as acme-east/A77"


def test_bills_same_document_is_held_whoever_it_is_said_to_be_from():
    """A document that came before, read under another supplier, is the same bill."""
    body = {"attributes": {"body": "6dcd4ce2"}}
    assert faults(bill("A77", **body), bill("X1", 7, 300, "zenith", **body)) == [(SUSPECT, "zenith/X1")]


@pytest.mark.parametrize("body", ["", None, 7])
def test_bills_without_a_document_hash_are_not_the_same_document(body):
    """What is unknown of two bills makes them no repeat."""
    unknown = {"attributes": {"body": body}}
    assert faults(bill("A77", **unknown), bill("X1", 7, 300, "zenith", **unknown)) == []


def test_bills_credit_memos_are_compared_with_each_other_and_never_held():
    """Credit memos have their own namespace; a repeated one is shown, and there is no payment to hold."""
    told = marks(register(), bill("A77"), bill("A77", part="credit"), bill("B900", part="credit"))
    assert [flag.event_id for flag in told.flags] == ["acme/B900"]
    assert told.holds == []


def test_bills_that_come_again_under_one_key_are_not_compared():
    """A second bill of one key was let go by a person, and raises nothing anew."""
    assert faults(bill("A77"), bill("A77")) == []


def test_bills_marked_once_by_the_strongest_reason():
    """A bill that resembles several is one exception, of the graver type."""
    assert faults(bill("A77"), bill("A78", 100_000, 3), bill("B900", 100_000, 3)) == [
        (REVIEW, "acme/A78"),
        (SUSPECT, "acme/B900"),
    ]


def test_bills_numbers_are_not_compared_where_the_terms_say_so():
    """Suppliers with consecutive numbers can be spared the comparison of numbers, and the bounds are the terms'."""
    apart = msgspec.structs.replace(TERMS, number_edits=0, days=2, percent="0.5")
    assert faults(bill("A77"), bill("A78", 5), terms=apart) == []
    assert faults(bill("A77"), bill("B900", 100_000, 3), terms=apart) == []
    assert faults(bill("A77"), bill("B900", 100_503, 2), terms=apart) == []
    assert faults(bill("A77"), bill("B900", 100_502, 2), terms=apart) == [(REVIEW, "acme/B900")]


def test_bill_terms_with_an_unreadable_percentage_are_refused():
    """A percentage that is none is an error of the rule file."""
    table = {"suspect": "a", "review": "b", "payable": "c", "alias_policy": "d", "keep_days": 1, "percent": "1 %"}
    with pytest.raises(msgspec.ValidationError, match="percent"):
        msgspec.convert(table, BillTerms)


def test_bill_terms_name_all_they_refer_to():
    """The rulebook can check that exceptions and policies are declared."""
    assert (TERMS.exceptions(), TERMS.policies()) == ({SUSPECT, REVIEW}, {"SUPPLIER_ALIAS"})


@given(st.text("AB1", max_size=5), st.text("AB1", max_size=5))
def test_bills_one_edit_apart_agrees_with_all_edits(one, other):
    """Two numbers are one edit apart exactly when some insertion, omission or change of one character says so."""
    omitted = {one[:at] + one[at + 1 :] for at in range(len(one))}
    added = {one[:at] + char + one[at:] for at in range(len(one) + 1) for char in "AB1"}
    changed = {one[:at] + char + one[at + 1 :] for at in range(len(one)) for char in "AB1"}
    assert one_edit_apart(one, other) == (other in (omitted | added | changed) - {one})


# ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bills_are_forgotten_after_their_days():
    """A bill that came too long ago is compared with nothing any more."""
    bills = register()
    marks(bills, bill("A77", attributes={"body": "6dcd4ce2"}))
    bills.age(NOW_MS + 400 * DAY_MS)
    assert len(bills) == 1
    bills.age(NOW_MS + 401 * DAY_MS)
    assert len(bills) == 0
    assert marks(bills, bill("B900", attributes={"body": "6dcd4ce2"})) == Marks()


def test_bills_young_ones_stay_when_old_ones_are_forgotten():
    """Forgetting a bill leaves what its successors share with others."""
    aliases, bills = {"acme": "ACME", "acme-east": "ACME", "acme-west": "ACME"}, None
    bills = register(aliases=aliases)
    marks(bills, bill("A77", 7))
    bills.take(bill("A77", 9, 50, "acme-east"), NOW_MS + 300 * DAY_MS)
    bills.age(NOW_MS + 401 * DAY_MS)
    bills.drain()
    assert len(bills) == 1
    (flag,) = marks(bills, bill("A77", 11, 90, "acme-west")).flags
    assert flag.detail == "same supplier and number as acme-east/A77"


histories = st.lists(
    st.builds(
        bill,
        number=st.sampled_from(["A77", "A78", "B900", "B9001"]),
        amount_minor=st.sampled_from([0, 100_000, 100_500, 250_000]),
        days=st.integers(-9, 9),
        supplier=st.sampled_from(["acme", "acme-east", "zenith"]),
        part=st.sampled_from(["bill", "credit"]),
        attributes=st.sampled_from([{}, {"body": "6dcd4ce2"}]),
    ),
    max_size=12,
)


def told(bills: Bills, facts: Sequence[Fact], now_ms: int) -> list:
    """Everything that a history tells, with the days passing."""
    heard = []
    for number, fact in enumerate(facts):
        bills.take(fact, now_ms + number * DAY_MS)
        bills.age(now_ms + number * DAY_MS)
        marked = bills.drain()
        heard += [*marked.flags, *marked.holds]
    return heard


@given(histories, st.integers(0, 12))
def test_bills_restart_between_two_bills_changes_nothing(facts, at):
    """A snapshot holds all that later bills are compared with, and when it will be forgotten."""
    aliases, terms = {"acme": "ACME", "acme-east": "ACME"}, msgspec.structs.replace(TERMS, keep_days=3)
    whole, first, second = (register(terms, aliases) for _ in range(3))
    before = told(first, facts[:at], NOW_MS)
    second.load(first.dump())
    after = told(second, facts[at:], NOW_MS + len(facts[:at]) * DAY_MS)
    assert before + after == told(whole, facts, NOW_MS)
    assert second.dump() == whole.dump()
