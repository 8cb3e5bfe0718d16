"""Claims: the newest status by day and rank, money of unknown claims under both policies, underpayment."""

from itertools import permutations

import pytest
from unit.engine.builders import DAY_MS, NOW_MS, Run, event, mapping, tick

UNAPPLIED = mapping(2, [{"role": "POLICY_UNMATCHED_CLAIM", "account": "UNAPPLIED"}])
CLAIM = {"document": "clm1", "counterparty": "blue"}
SUBMITTED = event("submit", "claim_submitted", 1000, **CLAIM)
HEADER = event("header", "remittance_received", 700, document="era1", reference="trn1", counterparty="blue")
PAID = event("paid", "claim_paid", 700, reference="era1", **CLAIM)


def at(day: int, row: dict) -> dict:
    """The same event, so many days later."""
    return row | {"occurred_at": NOW_MS + day * DAY_MS}


def test_claim_tells_each_step_of_its_life():
    """Every message that is not older than what is known is told to consumers, once."""
    run = Run()
    run.take(SUBMITTED, event("ack", "claim_acknowledged", **CLAIM))
    run.take(at(1, event("yes", "claim_accepted", **CLAIM)))
    run.take(at(9, event("adj", "claim_adjudicated", 700, reference="era1", reason="1", **CLAIM)))
    assert [status for status, *_ in run.statuses] == ["submitted", "acknowledged", "accepted", "adjudicated"]
    assert set(run.states().values()) <= {"booked", "excluded"}


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (at(2, event("n", "claim_accepted", **CLAIM)), at(1, event("o", "claim_denied", reason="x", **CLAIM))),
        (event("n", "claim_accepted", **CLAIM), event("o", "claim_acknowledged", **CLAIM)),
        (event("n", "claim_corrected", **CLAIM), event("o", "claim_reversed", **CLAIM)),
    ],
    ids=["by day", "by rank of one day", "correction after reversal"],
)
def test_claim_status_that_comes_late_changes_nothing_and_ends_by_itself(newer, older):
    """An older status never overwrites a newer one: it is noted, and nobody has to end that."""
    run = Run()
    run.take(newer)
    told = list(run.statuses)
    effects = run.take(older)
    assert effects.exceptions["type"].to_list() == ["late_out_of_order"]
    assert run.open == {}
    assert run.statuses == told


def test_claim_reversal_is_told_as_such():
    """An adjudication whose claim status is 22 reverses an earlier one."""
    run = Run()
    run.take(event("adj", "claim_adjudicated", -700, reference="era1", reason="22", **CLAIM))
    assert [status for status, *_ in run.statuses] == ["reversed"]


SENT = SUBMITTED | {"reference": "42/0007"}
REJECTED = event("999", "batch_acknowledged", document="42/0007", reason="R", counterparty="blue")


@pytest.mark.parametrize("order", [(SENT, REJECTED), (REJECTED, SENT)], ids=["usual", "backwards"])
@pytest.mark.parametrize("document", ["42/0007", "42/*"], ids=["set", "whole group"])
def test_claim_of_a_rejected_batch_was_not_submitted(order, document):
    """A batch that was not taken is an exception for somebody, and consumers learn it of its claims."""
    run = Run()
    for row in order:
        run.take(row | ({"document": document} if row is REJECTED else {}))
        run.restart()
    assert list(run.open.values()) == [("batch_rejected", "999")]
    assert run.statuses[-1][:2] == ("batch_rejected", "clm1")


@pytest.mark.parametrize(
    ("reason", "type"),
    [("A", None), ("E", None), ("P", "batch_rejected"), ("X", "batch_rejected"), ("?", "unclassified_code")],
)
def test_batch_verdict_decides_whether_somebody_must_look(reason, type):
    """What was taken asks nothing of anybody; a verdict that nobody knows is held."""
    run = Run()
    run.take(SENT, REJECTED | {"reason": reason, "document": "7/1"})
    assert run.open_types() == ([type] if type else [])
    assert [status for status, *_ in run.statuses] == ["submitted"]


RESENT = at(1, SENT | {"event_id": "again", "reference": "43/0001"})


@pytest.mark.parametrize(
    ("rows", "last"),
    [
        ((SENT, event("yes", "claim_accepted", **CLAIM)), "accepted"),
        ((SENT, RESENT), "submitted"),
        ((at(-11, SENT),), "submitted"),
        ((at(1, SENT),), "submitted"),
        ((SENT | {"reference": "42/0008"},), "submitted"),
        ((SENT | {"reference": "421/0007"},), "submitted"),
    ],
    ids=["accepted", "sent again", "of long ago", "sent later", "other set", "other group"],
)
def test_batch_rejection_undoes_nothing_but_the_submission_that_it_answers(rows, last):
    """Whatever is newer than the submission stays, in any order; batch numbers come again after some days."""
    for order in permutations((*rows, REJECTED)):
        run = Run()
        for row in order:
            run.take(row)
        assert run.statuses[-1][0] == last


@pytest.mark.parametrize("order", list(permutations((SUBMITTED, HEADER, PAID))), ids=lambda rows: rows[0]["event_id"])
def test_claim_money_without_claim_goes_to_the_receivable_by_default(order):
    """Unless a policy says otherwise, claims of other systems are paid like known ones."""
    run = Run()
    for row in order:
        run.take(row)
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 700, "AR_INS": -700}
    assert run.open == {}


@pytest.mark.parametrize(
    "order", list(permutations((SUBMITTED, HEADER, PAID))), ids=lambda rows: "-".join(row["event_id"] for row in rows)
)
def test_claim_money_of_unknown_claims_ends_in_the_receivable_once_they_are_known(order):
    """Under the other policy money waits as unapplied cash; in every order of arrival it ends where it belongs."""
    run = Run()
    run.step(UNAPPLIED)
    for row in order:
        run.take(row)
        run.restart()
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 700, "AR_INS": -700}
    assert run.open == {}


def test_claim_money_of_a_claim_that_nobody_submitted_is_an_exception():
    """Until the claim is known its money is unapplied cash, under an exception of revenue cycle."""
    run = Run()
    run.step(UNAPPLIED)
    run.take(HEADER, PAID)
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 700, "UNAPPLIED_CASH": -700}
    assert [run.open[id] for id in run.ids("unmatched_claim")] == [("unmatched_claim", "paid")]
    run.take(SUBMITTED)
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 700, "AR_INS": -700}
    assert run.open == {}


def test_claim_that_is_paid_twice_without_being_known_moves_both():
    """Two payments, one of them a reversal, are one sum that the submission applies."""
    run = Run()
    run.step(UNAPPLIED)
    run.take(HEADER, PAID)
    run.take(
        event("header2", "remittance_received", -200, document="era2", reference="trn2", counterparty="blue"),
        event("back", "claim_paid", -200, reference="era2", **CLAIM),
    )
    assert run.balance("UNAPPLIED_CASH") == -500
    run.take(SUBMITTED)
    assert (run.balance("UNAPPLIED_CASH"), run.balance("AR_INS")) == (0, -500)


EXPECTED = event("promise", "claim_expected", 1000, **CLAIM)
PATIENT = event("part", "claim_adjusted", 200, reason="PR-1", reference="era1", **CLAIM)


@pytest.mark.parametrize("order", list(permutations((EXPECTED, HEADER, PAID, PATIENT))))
def test_claim_paid_less_than_the_contract_promises_is_an_underpayment(order):
    """What is paid and what the patient owes together must reach the contract's amount, in any order of arrival."""
    run = Run()
    for row in order:
        run.take(row)
    assert sorted(run.open.values()) == [("underpayment", "paid")]


SECOND = {"document": "clm1", "counterparty": "medigap", "reference": "era2"}
SECONDARY = (  # of the 200.00 that the first payer left to the patient, 180.00 and the rest
    event("header2", "remittance_received", 180, document="era2", reference="trn2", counterparty="medigap"),
    event("paid2", "claim_paid", 180, **SECOND),
    event("prior2", "claim_adjusted", 900, reason="OA-23", **SECOND),
    event("part2", "claim_adjusted", 20, reason="PR-2", **SECOND),
)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize(("alias", "types"), [("", ["underpayment"]), ("blue", [])], ids=["another", "the same"])
def test_claim_underpayment_is_not_made_good_by_what_another_payer_pays(order, alias, types):
    """A second payer pays of the patient's part, and not what the first one still owes; the same payer's other name
    does."""
    run, rows = Run(), ((EXPECTED,), (HEADER, PAID, PATIENT), SECONDARY)
    if alias:
        run.step(mapping(2, [{"role": "PAYER_ALIAS", "counterparty": "medigap", "account": alias}]))
    for at in order:
        run.take(*rows[at])
    assert run.open_types() == types
    assert sum(net for key, net in run.variances.items() if key[-1]) == (100 if types else 0)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_claim_promised_anew_is_held_to_the_newest_promise_in_any_order(order):
    """A price that was found to be lower is what counts, also when the first one comes after it."""
    lower = event("promise2", "claim_expected", 600, **CLAIM) | {"occurred_at": NOW_MS + 1}
    rows, run = (EXPECTED, lower, HEADER, PAID), Run()
    for at in order:
        run.take(rows[at])
    assert run.open == {}
    assert not any(net for key, net in run.variances.items() if key[-1])


def test_claim_underpayment_tells_its_variance_and_ends_when_the_rest_is_paid():
    """The exception's amount is what is missing now; the payment of the rest ends it."""
    run = Run()
    effects = run.take(EXPECTED, HEADER, PAID, PATIENT)
    told = effects.exceptions.filter(effects.exceptions["type"] == "underpayment")
    assert told.select("amount_minor", "detail").rows() == [(100, "variance short_tenth")]
    rest = {"document": "era2", "reference": "trn2", "counterparty": "blue"}
    run.take(
        event("header2", "remittance_received", 100, **rest),
        event("rest", "claim_paid", 100, reference="era2", **CLAIM),
    )
    assert run.open == {}


def test_claim_that_nothing_touches_is_forgotten_after_its_time():
    """A claim is remembered for two years; a message after that starts anew."""
    run = Run()
    run.take(event("yes", "claim_accepted", **CLAIM))
    run.step(tick(NOW_MS + 731 * DAY_MS))
    run.take(event("ack", "claim_acknowledged", **CLAIM), at_ms=NOW_MS + 731 * DAY_MS)
    assert [status for status, *_ in run.statuses] == ["accepted", "acknowledged"]
