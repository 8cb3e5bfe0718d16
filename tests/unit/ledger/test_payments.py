"""Payments: what left the bank and came back, by payment, in any order."""

from itertools import permutations

import pytest
from unit.ledger.facts import NOW_MS, fact, policy

from runtime.ledger.payments import DAY_MS, Payments, PaymentTerms

TERMS = PaymentTerms(released="amount_minor - discount_minor", keep_days=10)


def payments() -> Payments:
    """Nothing was paid."""
    return Payments(TERMS, policy())


def released(amount_minor: int, **columns: object):
    """A release of the payment."""
    return fact("released", "PAY1", amount_minor, **columns)


def cleared(amount_minor: int, **columns: object):
    """The bank paid so much of it."""
    return fact("cleared", "PAY1", amount_minor, **columns)


def returned(amount_minor: int, **columns: object):
    """So much of it came back."""
    return fact("returned", "PAY1", amount_minor, **columns)


@pytest.mark.parametrize(
    ("facts", "recovered"),
    [
        ((released(100), cleared(100)), 0),
        ((released(100), returned(100)), 0),
        ((released(100), cleared(100), returned(100)), 100),
        ((released(60), released(40), cleared(100), returned(40)), 40),
        ((released(100), cleared(60), returned(40)), 0),
        ((released(100), cleared(60), returned(60)), 20),
        ((released(100, attributes={"discount_minor": 2}), cleared(98), returned(98)), 98),
        ((cleared(100), returned(30)), 30),
        ((released(100), cleared(100), cleared(100)), 0),
    ],
    ids=["paid", "returned unpaid", "both", "a part", "the other part", "overlap", "discount", "unreleased", "twice"],
)
def test_payment_that_came_back_is_cash_as_far_as_it_had_left_in_any_order(facts, recovered):
    """However they come, the changes add up to what was both paid and returned."""
    for order in permutations(facts):
        register = payments()
        assert sum(register.take(one, NOW_MS).measures["recovered"] for one in order) == recovered


@pytest.mark.parametrize("other", [{"entity": "grace"}, {"currency": "EUR"}, {"key": "PAY2"}])
def test_payments_of_other_numbers_entities_and_currencies_do_not_mix(other):
    """What came back of another payment says nothing of this one."""
    register = payments()
    register.take(released(100), NOW_MS)
    register.take(cleared(100), NOW_MS)
    assert register.take(returned(100)._replace(**other), NOW_MS).measures == {"recovered": 0}


def test_payment_is_forgotten_when_nothing_came_for_long():
    """A payment that rests is kept for its days, counted from the last that came."""
    register = payments()
    register.take(released(100), NOW_MS)
    register.take(cleared(100), NOW_MS + 5 * DAY_MS)
    register.age(NOW_MS + 12 * DAY_MS)
    assert len(register) == 1
    register.age(NOW_MS + 16 * DAY_MS)
    assert len(register) == 0


def test_payments_reloaded_go_on_alike():
    """A register from a snapshot answers as the one that it was taken of."""
    register, again = payments(), payments()
    for one in (released(100), cleared(100)):
        register.take(one, NOW_MS)
    again.load(register.dump())
    assert again.dump() == register.dump()
    assert again.take(returned(70), NOW_MS) == register.take(returned(70), NOW_MS)
