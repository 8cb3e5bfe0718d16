"""Claims: the newest status wins by day and rank, money and promises add up in any order, and a dump keeps all."""

from itertools import permutations

import pytest
from unit.ledger.facts import DAY_MS, NOW_MS, fact, flagged, policy

from runtime.ledger.claims import RANKS, Claims, ClaimTerms

TERMS = ClaimTerms(unmatched="unmatched", underpaid="underpaid", late="late", keep_days=10, answer_days=3)
UNAPPLIED = policy(POLICY_UNMATCHED_CLAIM="UNAPPLIED")


def claims(unapplied: bool = False) -> Claims:
    """No claims yet."""
    return Claims(TERMS, UNAPPLIED if unapplied else policy())


def test_claim_status_of_one_day_is_decided_by_rank_in_any_order():
    """The last status of a day is the highest rank, however the messages came."""
    for order in permutations(("submitted", "accepted", "adjudicated", "reversed", "corrected")):
        register = claims()
        for part in order:
            register.take(fact(part, "c1"), NOW_MS)
        told = [one.status for one in register.drain().told]
        assert told[-1] == "corrected"
        assert [RANKS[status] for status in told] == sorted(RANKS[status] for status in told)


HOUR_MS = 3_600_000
MIDNIGHT_MS = NOW_MS // DAY_MS * DAY_MS
RESENT = (("submitted", 8), ("rejected", 10), ("submitted", 12))


def status_of(order) -> str:
    """The status at last, of messages as part and hour."""
    register = claims()
    for part, hour in order:
        at = {"occurred_ms": MIDNIGHT_MS + hour * HOUR_MS, "event_id": f"{part}-{hour}"}
        register.take(fact(part, "c1", **at), NOW_MS)
    return register.drain().told[-1].status


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        (RESENT, "submitted"),
        ((*RESENT, ("accepted", 14)), "accepted"),
        ((("submitted", 8), ("rejected", 0)), "rejected"),
        ((("submitted", 8), ("acknowledged", 0), ("accepted", 0)), "accepted"),
        ((("accepted", 0), ("rejected", 0)), "rejected"),
        ((("accepted", 9), ("rejected", 9)), "rejected"),
        ((("rejected", 9), ("accepted", 11), ("adjudicated", 0)), "adjudicated"),
    ],
)
def test_claim_sent_again_after_a_rejection_of_the_day_counts_in_any_order(messages, status):
    """Up to a verdict the time of the day decides, a verdict without one comes last, and no order of arrival does."""
    assert {status_of(order) for order in permutations(messages)} == {status}


def test_claim_status_of_a_later_day_wins_over_any_rank():
    """A claim that was corrected may be submitted anew the day after."""
    register = claims()
    register.take(fact("corrected", "c1"), NOW_MS)
    register.take(fact("submitted", "c1", occurred_ms=NOW_MS + DAY_MS), NOW_MS)
    assert [one.status for one in register.drain().told] == ["corrected", "submitted"]


def test_claim_status_that_is_late_is_flagged_and_ended_at_once():
    """A late message is on record and asks nothing of anybody."""
    register = claims()
    register.take(fact("denied", "c1"), NOW_MS)
    register.take(fact("accepted", "c1", 5), NOW_MS)
    assert flagged(register.drain()) == [("late", "accepted-c1-5", 5, True), ("late", "accepted-c1-5", 5, False)]


def test_claim_told_names_kind_document_and_reason():
    """Consumers learn what happened to which claim, and why."""
    register = claims()
    register.take(fact("rejected", "c1", 7, reason="A7"), NOW_MS)
    told = register.drain().told[0]
    assert (told.status, told.kind, told.document, told.amount_minor, told.detail) == (
        "rejected",
        "kind_rejected",
        "c1",
        7,
        "A7",
    )


@pytest.mark.parametrize("order", list(permutations((("paid", 70), ("paid", -20), ("submitted", 0)))))
def test_claim_measures_add_up_to_nothing_unapplied_once_it_is_submitted(order):
    """What payments put into unapplied cash, the submission takes out, in every order."""
    register = claims(unapplied=True)
    found = [register.take(fact(part, "c1", amount), NOW_MS).measures for part, amount in order]
    assert sum(measures["unapplied"] for measures in found) == 0
    assert all(measures["identified"] == -measures["unapplied"] for measures in found)


def test_claim_that_nobody_submitted_is_flagged_by_what_stands_unapplied():
    """The exception grows and shrinks with the money, under a payment that is the same in every order."""
    ends = []
    for order in permutations((fact("paid", "c1", 70), fact("paid", "c1", 30), fact("paid", "c1", -20))):
        register = claims(unapplied=True)
        for one in order:
            register.take(one, NOW_MS)
        ends.append(flagged(register.drain())[-1])
    assert set(ends) == {("unmatched", "paid-c1--20", 80, True)}


def test_claim_money_that_comes_back_ends_its_exception():
    """A reversal of all that was paid leaves nothing unapplied."""
    register = claims(unapplied=True)
    register.take(fact("paid", "c1", 70), NOW_MS)
    register.drain()
    register.take(fact("paid", "c1", -70), NOW_MS)
    assert flagged(register.drain()) == [("unmatched", "paid-c1-70", 70, False)]


@pytest.mark.parametrize(
    ("paid", "patient", "missing", "detail"),
    [
        (0, 0, 100, "variance unpaid"),
        (80, 10, 10, "variance short_tenth"),
        (80, 11, 9, "variance short"),
        (80, 20, 0, ""),
        (120, 0, 0, ""),
    ],
)
def test_claim_is_underpaid_by_what_paid_and_patient_s_part_lack(paid, patient, missing, detail):
    """What the contract promises less both is missing; denials and contractual adjustments do not make up for it."""
    register = claims()
    for one in (
        fact("expected", "c1", 100),
        fact("paid", "c1", paid),
        fact("adjusted", "c1", patient, reason="PR-1"),
        fact("adjusted", "c1", 55, reason="CO-45"),
    ):
        register.take(one, NOW_MS)
    flags = register.drain().flags
    standing = [(flag.residual_minor, flag.detail) for flag in flags if flag.raised][-1:] if missing else []
    assert standing == ([(missing, detail)] if missing else [])
    assert bool(flags and flags[-1].raised) == bool(missing)


PAYING = (("expected", 100, ""), ("paid", 50, ""), ("adjusted", 20, "PR-1"), ("paid", 25, ""), ("paid", -50, ""))


@pytest.mark.parametrize("order", list(permutations(PAYING)))
def test_claim_variances_add_up_to_what_is_missing_in_the_end(order):
    """Whatever the order, the changes of each variance sum to what the claim lacks now, under its name alone."""
    register = claims()
    found = [register.take(fact(part, "c1", amount, reason=code), NOW_MS).measures for part, amount, code in order]
    sums = {name: sum(measures[name] for measures in found) for name in ("unpaid", "short_tenth", "short")}
    assert sums == {"unpaid": 0, "short_tenth": 55, "short": 0}


def test_claim_that_is_promised_and_never_paid_is_not_underpaid():
    """Without a payment there is nothing to compare: that is an unpaid claim, not an underpaid one."""
    register = claims()
    register.take(fact("expected", "c1", 100), NOW_MS)
    assert register.drain().flags == []


def test_claims_that_rest_are_forgotten_unless_something_is_wrong_with_them():
    """Memory follows the claims that still matter."""
    register = claims(unapplied=True)
    register.take(fact("accepted", "fine"), NOW_MS)
    register.take(fact("paid", "odd", 5), NOW_MS)
    register.age(NOW_MS + 10 * DAY_MS)
    assert len(register) == 2
    register.age(NOW_MS + 11 * DAY_MS)
    assert len(register) == 1


def test_claims_are_gone_through_once_a_day():
    """Time that enters every minute does not cost a look at every claim."""
    register = claims()
    register.age(NOW_MS + 20 * DAY_MS)
    register.take(fact("accepted", "c1"), NOW_MS)
    register.age(NOW_MS + 21 * DAY_MS - 1)
    assert len(register) == 1
    register.age(NOW_MS + 21 * DAY_MS)
    assert len(register) == 0


def test_claims_reloaded_go_on_alike():
    """A dump keeps status, sums, and what is flagged."""
    register, again = claims(unapplied=True), claims(unapplied=True)
    register.take(fact("paid", "c1", 70), NOW_MS)
    register.drain()
    again.load(register.dump())
    assert again.dump() == register.dump()
    measures = again.take(fact("submitted", "c1"), NOW_MS).measures
    assert measures == {"unapplied": -70, "identified": 70, "unpaid": 0, "short_tenth": 0, "short": 0}
    assert flagged(again.drain()) == [("unmatched", "paid-c1-70", 70, False)]


def rejection(batch: str = "42/0007", **columns: object):
    """A batch that was not taken."""
    return fact("batch_rejected", batch, document=batch, reason="R", **columns)


def test_claim_batches_survive_a_dump_and_are_told_claim_by_claim():
    """After a restart a rejection still finds the claims of its batch, and a claim that comes later its rejection."""
    first, second = claims(), claims()
    for number, batch in (("c2", "42/0007"), ("c1", "42/0007"), ("c3", "42/0008")):
        first.take(fact("submitted", number, reference=batch), NOW_MS)
    first.take(rejection("43/*"), NOW_MS)
    first.drain()
    second.load(first.dump())
    second.take(rejection(), NOW_MS)
    second.take(fact("submitted", "c4", reference="43/0001"), NOW_MS)
    told = [(one.status, one.document) for one in second.drain().told]
    assert told == [("batch_rejected", "c1"), ("batch_rejected", "c2"), ("batch_rejected", "c4")]


def test_claim_rejections_are_forgotten_with_the_claims():
    """What nothing has touched for long is forgotten, batches and their claims alike."""
    register = claims()
    register.take(fact("submitted", "c1", reference="42/0007"), NOW_MS)
    register.take(rejection("43/0001"), NOW_MS)
    register.age(NOW_MS + 11 * DAY_MS)
    register.drain()
    register.take(rejection(), NOW_MS)
    register.take(fact("submitted", "c2", reference="43/0001"), NOW_MS)
    assert [one.status for one in register.drain().told] == ["submitted"]
