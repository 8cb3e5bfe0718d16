"""Denials: one exception for what stands denied of a claim for one reason, in any order, and a dump keeps all."""

from itertools import permutations

from unit.ledger.facts import DAY_MS, NOW_MS, fact, flagged, policy

from runtime.ledger.denials import Denials, DenialTerms

TERMS = DenialTerms(denied="denial", keep_days=10)


def denials() -> Denials:
    """Nothing denied yet."""
    return Denials(TERMS, policy())


def denied(amount_minor: int, **columns: object):
    """A denial of claim c1 for one reason, or its reversal."""
    return fact("adjusted", "c1", amount_minor, reason="CO-50", **columns)


def test_denial_names_the_least_event_in_any_order():
    """However denials and reversals come, what stands is one exception of one event, with its facility."""
    facts = [denied(minor, event_id=name, facility="north") for name, minor in (("b", 70), ("a", 50), ("c", -60))]
    for order in permutations(facts):
        register, standing = denials(), {}
        for one in order:
            register.take(one, NOW_MS)
        for flag in register.drain().flags:
            standing.pop(flag.event_id, None)
            if flag.raised:
                standing[flag.event_id] = (flag.residual_minor, flag.facility)
        assert standing == {"a": (60, "north")}


def test_denial_of_nothing_or_less_raises_nothing():
    """A reversal that comes first, or an amount of zero, is no denial."""
    register = denials()
    for minor in (0, -100, 100):
        register.take(denied(minor), NOW_MS)
    assert flagged(register.drain()) == []


def test_denial_of_another_currency_is_another():
    """Money of one currency takes back nothing of another."""
    register = denials()
    register.take(denied(100), NOW_MS)
    register.take(denied(-100, currency="EUR"), NOW_MS)
    assert flagged(register.drain()) == [("denial", "adjusted-c1-100", 100, True)]


def test_denials_that_nothing_touches_are_forgotten():
    """After its days a denial is forgotten, and its late reversal ends and raises nothing."""
    register = denials()
    register.take(denied(100), NOW_MS)
    register.drain()
    register.age(NOW_MS + 9 * DAY_MS)
    assert len(register) == 1
    register.age(NOW_MS + 11 * DAY_MS)
    assert len(register) == 0
    register.take(denied(-100), NOW_MS + 11 * DAY_MS)
    assert flagged(register.drain()) == []


def test_denials_survive_a_dump():
    """Another register goes on from a dump as the first would."""
    first, second = denials(), denials()
    first.take(denied(100), NOW_MS)
    second.load(first.dump())
    assert second.dump() == first.dump()
    second.take(denied(-100), NOW_MS)
    assert flagged(second.drain()) == [("denial", "adjusted-c1-100", 100, False)]
