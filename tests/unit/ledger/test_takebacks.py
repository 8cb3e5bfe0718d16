"""Takebacks: recoveries against what was announced, by payer, in any order."""

from collections.abc import Callable
from itertools import permutations

import pytest
from unit.ledger.facts import NOW_MS, fact, flagged, policy

from runtime.ledger.crosswalk import Place
from runtime.ledger.registers import Fact
from runtime.ledger.takebacks import Takebacks, TakebackTerms

TERMS = TakebackTerms(baseless="baseless", codes=("WO", "FB", "72"))


def takebacks() -> Takebacks:
    """No payer has said or taken anything."""
    return Takebacks(TERMS, policy())


def letter(amount_minor: int, **columns: object) -> Fact:
    """A letter that was approved."""
    return fact("basis", "fcn", amount_minor, **columns)


def taken(amount_minor: int, code: str = "WO", **columns: object) -> Fact:
    """A provider adjustment: positive is taken, negative announced."""
    return fact("adjusted", "era", amount_minor, reason=code, **columns)


@pytest.mark.parametrize(
    ("facts", "suspense"),
    [
        ((letter(100), taken(100)), 0),
        ((letter(100), taken(140)), 40),
        ((taken(-100, "FB"), taken(100, "FB")), 0),
        ((letter(100), fact("refunded", "chk", 100), taken(-100, "72"), taken(100)), 0),
        ((taken(50, "L6"), taken(10, "IR")), 0),
        ((taken(100), letter(60)), 40),
    ],
    ids=["letter", "more than the letter", "forwarded", "by check", "other codes", "letter of a part, later"],
)
def test_takeback_beyond_what_was_announced_is_suspense_in_any_order(facts, suspense):
    """However they come, the changes of suspense add up to what was taken without a basis."""
    for order in permutations(facts):
        register = takebacks()
        found = [register.take(one, NOW_MS).measures for one in order]
        assert sum(measures.get("suspense", 0) for measures in found) == suspense
        assert all(measures.get("based", 0) == -measures.get("suspense", 0) for measures in found)
        assert [raised for *_, raised in flagged(register.drain())][-1:] in ([[suspense > 0]] + [[]] * (not suspense))


def test_takeback_exception_names_the_newest_recovery_in_any_order():
    """Of several recoveries without a basis, the newest by its own time stands for all."""
    recoveries = [taken(amount, occurred_ms=NOW_MS + amount) for amount in (10, 20, 30)]
    for order in permutations(recoveries):
        register = takebacks()
        for one in order:
            register.take(one, NOW_MS)
        standing = [flag for flag in flagged(register.drain()) if flag[3]][-1]
        assert standing == ("baseless", "adjusted-era-30", 60, True)


def test_takeback_exception_ends_with_its_basis_and_not_before():
    """A part of the basis lowers the amount; the rest ends the exception."""
    register = takebacks()
    register.take(taken(100), NOW_MS)
    register.take(letter(60), NOW_MS)
    assert [flag[2:] for flag in flagged(register.drain())] == [(100, True), (100, False), (40, True)]
    register.take(letter(40), NOW_MS)
    assert [flag[2:] for flag in flagged(register.drain())] == [(40, False)]


@pytest.mark.parametrize("other", [{"counterparty": "aetna"}, {"currency": "EUR"}, {"entity": "grace"}])
def test_takebacks_of_payers_entities_and_currencies_do_not_mix(other):
    """What one payer announced to one entity in one currency is no basis for anything else."""
    register = takebacks()
    register.take(letter(100, **other), NOW_MS)
    assert register.take(taken(100), NOW_MS).measures["suspense"] == 100
    assert len(register) == 2


def aliased(*names: str) -> Callable[[str, Place], str]:
    """A policy by which these are names of aetna, as it is while they are there."""
    return lambda name, place: "aetna" if place.counterparty in names else ""


@pytest.mark.parametrize("facts", list(permutations((letter(100, counterparty="AET"), taken(100), taken(30)))))
def test_takeback_under_another_name_of_its_payer_is_based_on_his_letter_in_any_order(facts):
    """A letter names its payer as people do, a remittance by his number: both are his."""
    register, found = Takebacks(TERMS, aliased("AET", "blue")), []
    for one in facts:
        found.append(register.take(one, NOW_MS).measures["suspense"])
    assert sum(found) == 30
    assert [flag[2] for flag in flagged(register.drain()) if flag[3]][-1] == 30
    assert len(register) == 1


def test_takeback_under_a_name_that_is_mapped_later_is_its_payers_with_what_comes_next():
    """What stood in suspense under the other name leaves it then, and its exception ends."""
    names: list[str] = []
    register = Takebacks(TERMS, lambda name, place: "aetna" if place.counterparty in names else "")
    register.take(taken(100, counterparty="AET"), NOW_MS)
    register.take(letter(70, counterparty="aetna"), NOW_MS)
    assert [flag[2:] for flag in flagged(register.drain())] == [(100, True)]
    names.append("AET")
    assert register.take(letter(10, counterparty="aetna"), NOW_MS).measures == {"suspense": -80, "based": 80}
    assert [flag[2:] for flag in flagged(register.drain())] == [(100, False), (20, True)]


def test_takebacks_reloaded_go_on_alike():
    """A dump keeps balances and what is flagged."""
    register, again = takebacks(), takebacks()
    register.take(taken(100), NOW_MS)
    register.drain()
    again.load(register.dump())
    assert again.dump() == register.dump()
    assert again.take(letter(100), NOW_MS).measures == {"suspense": -100, "based": 100}
    assert [flag[2:] for flag in flagged(again.drain())] == [(100, False)]
