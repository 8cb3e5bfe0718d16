"""Candidates: money without a trace is paired with exactly one remittance, after a while, whoever came first."""

from datetime import date
from itertools import permutations

import pytest
from unit.ledger.facts import DAY_MS, NOW_MS, fact, flagged, policy

from runtime.ledger.candidates import Candidates, CandidateTerms
from runtime.ledger.registers import Fact

HOUR_MS = 3_600_000
TERMS = CandidateTerms(derives="identified", several="several", decide_after_h=24, business_days=3, keep_days=60)


def remit(trace: str = "t1", amount_minor: int = 500, **columns: object) -> Fact:
    """A remittance that waits for its money."""
    return fact("remit", trace, amount_minor, **columns)


def money(deposit: str = "d1", amount_minor: int = 500, **columns: object) -> Fact:
    """Money that names no trace."""
    return fact("money", deposit, amount_minor, **columns)


def pairs(*facts: Fact, hours: float = 25, **answers: str) -> list[tuple[object, object]]:
    """Deposits and traces that are paired after so many hours."""
    register = Candidates(TERMS, policy(**answers))
    for one in facts:
        register.take(one, NOW_MS)
    register.age(NOW_MS + int(hours * HOUR_MS))
    return [(one.columns["document"], one.columns["reference"]) for one in register.drain().derived]


@pytest.mark.parametrize("order", list(permutations((remit(), money(), remit("t2", 501), money("d2", 7)))))
def test_candidates_pair_the_only_two_that_fit_in_any_order(order):
    """Equal amount, the same payer, and near dates on one remittance and one deposit are a pair."""
    assert pairs(*order) == [("d1", "t1")]


@pytest.mark.parametrize(("hours", "found"), [(24, []), (24.01, [("d1", "t1")])])
def test_candidates_are_decided_only_after_a_day(hours, found):
    """Before that, another one that fits may still come."""
    assert pairs(remit(), money(), hours=hours) == found


@pytest.mark.parametrize(
    "others",
    [
        (remit("t2"),),
        (money("d2"),),
        (fact("paid", "t1"),),
    ],
    ids=["two remittances", "two deposits", "paid by its trace"],
)
def test_candidates_that_are_not_unique_are_not_paired(others):
    """Two of either side, or a remittance whose money came, leave the pairing to people, whatever the order."""
    for order in permutations((remit(), money(), *others)):
        assert pairs(*order) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"counterparty": "aetna"},
        {"currency": "EUR"},
        {"entity": "grace"},
        {"effective_on": date(2026, 9, 15)},
    ],
    ids=["payer", "currency", "entity", "four business days"],
)
def test_candidates_that_differ_are_not_paired(columns):
    """Payer, currency, entity and dates must fit beside the amount."""
    assert pairs(remit(**columns), money()) == []


def test_candidates_of_nothing_wait_for_nothing():
    """A remittance of zero has no money, and money of zero no remittance."""
    assert pairs(remit(amount_minor=0), money(amount_minor=0)) == []


def test_candidates_by_an_alias_are_the_usual_payer_s():
    """Names that a policy maps to one payer are that payer."""
    assert pairs(remit(counterparty="b"), money(counterparty="B"), PAYER_ALIAS="blue") == [("d1", "t1")]


def test_candidates_derive_the_money_s_own_facts():
    """The derived event is the deposit's, with the remittance's trace."""
    register = Candidates(TERMS, policy())
    register.take(remit(), NOW_MS)
    register.take(money(effective_on=date(2026, 9, 22), occurred_ms=NOW_MS + 5), NOW_MS)
    register.age(NOW_MS + 2 * DAY_MS)
    derived = register.drain().derived[0]
    assert (derived.kind, derived.cause) == ("identified", "mercy/d1/ehr/money-d1-500")
    assert derived.columns == {
        "entity": "mercy",
        "document": "d1",
        "reference": "t1",
        "counterparty": "blue",
        "amount_minor": 500,
        "currency": "USD",
        "occurred_at": NOW_MS + 5,
        "effective_on": date(2026, 9, 22),
    }


def test_candidates_paired_once_are_gone():
    """A pair is told once, before and after a restart."""
    register, again = Candidates(TERMS, policy()), Candidates(TERMS, policy())
    register.take(remit(), NOW_MS)
    register.take(money(), NOW_MS)
    again.load(register.dump())
    assert again.dump() == register.dump()
    again.age(NOW_MS + 2 * DAY_MS)
    assert (len(again), len(again.drain().derived)) == (0, 1)
    again.age(NOW_MS + 3 * DAY_MS)
    assert again.drain().derived == []


def test_candidates_are_forgotten_after_their_time():
    """Neither halves nor paid traces are kept for ever."""
    register = Candidates(TERMS, policy())
    for one in (remit(), money("d2", 7), fact("paid", "t9")):
        register.take(one, NOW_MS)
    register.age(NOW_MS + 60 * DAY_MS + 1)
    assert len(register) == 0
    register.take(remit("t9", 7), NOW_MS + 61 * DAY_MS)
    assert len(register) == 1


def test_candidates_under_one_trace_are_each_payer_s_own():
    """Paid by its trace is the remittance of that payer alone; where the payment names none, of all."""
    other = remit(counterparty="aetna", amount_minor=700)
    deposits = (money(), money("d2", 700, counterparty="aetna"))
    for order in permutations((remit(), other, fact("paid", "t1", counterparty="aetna"), *deposits)):
        assert pairs(*order) == [("d1", "t1")]
    for order in permutations((remit(), other, fact("paid", "t1", counterparty=""), *deposits)):
        assert pairs(*order) == []


def test_candidates_that_several_fit_are_told_until_they_are_forgotten():
    """One exception while it lasts, about the deposit; after its time nothing is kept of either."""
    register, told = Candidates(TERMS, policy()), []
    for one in (remit(), remit("t2"), money()):
        register.take(one, NOW_MS)
    for days in (0.9, 1.1, 1.2, 61, 62):
        register.age(NOW_MS + int(days * DAY_MS))
        told.append(flagged(register.drain()))
    assert told == [[], [("several", "money-d1-500", 500, True)], [], [("several", "money-d1-500", 500, False)], []]
    assert len(register) == 0


def test_candidates_parts_of_one_deposit_are_paired_each_in_any_order():
    """Two checks under one bank reference are two halves: each finds its remittance, and both are told apart."""
    parts = (money(event_id="one"), money(event_id="two", amount_minor=700))
    for order in permutations((*parts, remit(), remit("t2", 700))):
        register = Candidates(TERMS, policy())
        for one in order:
            register.take(one, NOW_MS)
        register.load(register.dump())
        assert len(register) == 4
        register.age(NOW_MS + 25 * HOUR_MS)
        derived = register.drain().derived
        assert sorted((one.columns["reference"], one.columns["amount_minor"]) for one in derived) == [
            ("t1", 500),
            ("t2", 700),
        ]
        assert len({one.cause for one in derived}) == 2
        assert len(register) == 0


def test_candidates_parts_alike_of_one_deposit_are_left_to_people():
    """Two equal parts fit one remittance alike; who places the deposit ends what was told of both."""
    register = Candidates(TERMS, policy())
    for one in (money(event_id="one"), money(event_id="two"), remit()):
        register.take(one, NOW_MS)
    register.age(NOW_MS + 25 * HOUR_MS)
    marks = register.drain()
    assert (len(marks.derived), [one.raised for one in marks.flags]) == (0, [True, True])
    register.take(fact("applied", "d1"), NOW_MS)
    assert [one.raised for one in register.drain().flags] == [False, False]
