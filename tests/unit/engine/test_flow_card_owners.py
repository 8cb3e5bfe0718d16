"""Whose card money is: its own account's, else its capture's, else nobody's until somebody applies it."""

from itertools import permutations

import pytest
from unit.engine.builders import DAY_MS, MAPPING, NOW_MS, Run, decision, event, mapping, tick

NAMED = [*MAPPING, {"role": "APPLIED_CASH/RENT", "account": "GL-RENT"}]
NOBODY = {"account": None}
FROM_FILE = {"account": None, "facility": None}  # as a settlement file tells it


def sale(name: str, amount_minor: int, payout: str, **settled: object) -> tuple[dict, ...]:
    """A sale that is settled in a payout, by a row that says so much of whose it is."""
    return (
        event(f"{name}-a", "card_authorised", amount_minor, document=f"a-{name}"),
        event(f"{name}-c", "card_captured", amount_minor, document=f"c-{name}", reference=f"a-{name}"),
        event(f"{name}-s", "card_settled", amount_minor, document=f"c-{name}", reference=payout) | settled,
    )


def nobodys(name: str, amount_minor: int, payout: str) -> tuple[dict, ...]:
    """A sale of which nobody says whose it is."""
    return tuple(row | NOBODY for row in sale(name, amount_minor, payout))


def payout(name: str, net_minor: int) -> tuple[dict, dict]:
    """A payout, and its money at the bank."""
    return (
        event(f"{name}-p", "payout_paid", net_minor, document=name),
        event(f"{name}-b", "deposit_received", net_minor, document=f"b-{name}", reference=name),
    )


def application(amount_minor: int, payment: str, **columns: object) -> tuple[dict, dict]:
    """What one person asks for of a payment's money, and another one approves."""
    given = {"document": "app1", "reason": "RENT"} | columns
    return (
        event("asked", "cash_application_requested", amount_minor, person="Ann", correlation_id=payment, **given),
        event("signed", "cash_application_approved", amount_minor, person="Bob", **given),
    )


def lost(amount_minor: int, **columns: object) -> tuple[dict, dict, dict]:
    """A dispute that is lost."""
    return (
        event("open", "chargeback_opened", amount_minor, document="d1", reference="po2"),
        event("po2-p", "payout_paid", -amount_minor, document="po2"),
        event("lost", "chargeback_lost", amount_minor, document="d1") | NOBODY | columns,
    )


def started() -> Run:
    """A run whose mappings know of rent."""
    run = Run(mapped=False)
    run.step(mapping(1, NAMED))
    return run


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_payment_of_a_settlement_file_is_its_captures_in_any_order(order):
    """It lowers the receivable of the capture's account, at its facility, and tells the shard of that facility."""
    run = Run()
    rows = [*sale("x", 25000, "po1", **FROM_FILE), payout("po1", 25000)[0]]
    posted = [line for at in order for line in run.take(rows[at]).deltas.select("account_code", "facility").rows()]
    run.take(payout("po1", 25000)[1])
    assert run.balances_of("mercy") == {"AR_SELF": -25000, "CASH": 25000}
    assert sorted(posted) == [("GL-AR_SELF", "north"), ("GL-CARD_CLEARING", "north")]
    assert run.open == {}
    assert run.relay() == [("account_settled", "mercy")]
    told = run.relayed_rows[0]
    assert (told["account"], told["facility"], told["amount_minor"]) == ("token-1", "north", 25000)


def test_payment_keeps_what_it_says_itself():
    """Only what it leaves open is its capture's: of another facility it stays there, and totals stand at its own."""
    run = Run()
    rows = sale("x", 100, "po1", account=None, facility="south", counterparty="blue")
    run.take(*rows[:2])
    effects = run.take(rows[2], payout("po1", 100)[0])
    assert set(effects.deltas["facility"]) == {"south"}
    assert run.balance("AR_INS") == -100
    file = Run()
    file.take(*sale("x", 100, "po1", **FROM_FILE), payout("po1", 100)[0])
    assert {key[2] for key in file.totals if key[4] == "card_settled"} == {""}


def test_payment_that_was_held_for_a_mapping_is_its_captures_still():
    """What it became nobody's account has no say in: it is booked where its capture is when the account is mapped."""
    run = Run(mapped=False)
    run.step(mapping(1, [row for row in MAPPING if row["role"] != "AR_SELF"]))
    run.take(*sale("x", 100, "po1", **FROM_FILE), payout("po1", 100)[0])
    assert run.open_types() == ["mapping_missing"]
    run.restart()
    effects = run.step(mapping(2, [{"role": "AR_SELF", "account": "GL-AR_SELF"}]))
    assert set(effects.deltas.select("account_code", "facility").rows()) == {
        ("GL-AR_SELF", "north"),
        ("GL-CARD_CLEARING", "north"),
    }


def test_payments_of_one_payout_part_by_what_their_captures_say():
    """One is its capture's, one names an account itself, one is nobody's; what bounced goes back where it stood."""
    run = Run()
    bounced = event("x-r", "card_settled", -30, document="c-x", reference="po1") | FROM_FILE
    rows = (*sale("x", 100, "po1", **FROM_FILE), *sale("y", 20, "po1"), *nobodys("z", 7, "po1"), bounced)
    run.take(*rows, *payout("po1", 97))
    assert run.balances_of("mercy") == {"AR_SELF": -90, "UNAPPLIED_CASH": -7, "CASH": 97}
    assert list(run.open.values()) == [("card_payment_unapplied", "z-s")]


def test_owner_is_the_one_who_was_told_first():
    """A capture that is told once more, as somebody else's, is an exception and changes nothing."""
    run = Run()
    again = event("again", "card_captured", 100, document="c-x", reference="a-x", account="token-2", facility="south")
    run.take(*sale("x", 100, "po1")[:2], again)
    effects = run.take(sale("x", 100, "po1", **FROM_FILE)[2], payout("po1", 100)[0])
    assert set(effects.deltas["facility"]) == {"north"}


def test_owner_is_forgotten_after_two_times():
    """What settles a third of a year later is nobody's."""
    run = Run()
    run.take(*sale("x", 100, "po1")[:2])
    for days in (1, 62, 123):
        run.step(tick(NOW_MS + days * DAY_MS))
    run.take(sale("x", 100, "po1", **FROM_FILE)[2], payout("po1", 100)[0], at_ms=NOW_MS + 123 * DAY_MS)
    assert run.balance("UNAPPLIED_CASH") == -100


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_payment_of_nobodys_is_unapplied_cash_in_any_order(order):
    """Money of nobody's account lowers no receivable: it is a liability and an exception, and clearing is zero."""
    run = Run()
    rows = [*nobodys("x", 25000, "po1"), payout("po1", 25000)[0]]
    for at in order:
        run.take(rows[at])
    run.take(payout("po1", 25000)[1])
    assert run.balances_of("mercy") == {"UNAPPLIED_CASH": -25000, "CASH": 25000}
    assert list(run.open.values()) == [("card_payment_unapplied", "x-s")]
    assert run.relay() == [("card_money_unapplied", "mercy")]


def test_payment_of_nobodys_that_waited_too_long_ends_one_exception_and_raises_another():
    """When its capture comes late it is unmatched no more, and still nobody's."""
    run = Run()
    *sold, settled = nobodys("x", 100, "po1")
    run.take(settled, payout("po1", 100)[0])
    run.step(tick(NOW_MS + 8 * DAY_MS))
    assert "unmatched_card_payment" in run.open_types()
    run.take(*sold, at_ms=NOW_MS + 8 * DAY_MS)
    assert run.open_types().count("card_payment_unapplied") == 1
    assert "unmatched_card_payment" not in run.open_types()


@pytest.mark.parametrize(
    ("columns", "role"),
    [({"account": "token-1"}, "AR_SELF"), ({"account": None}, "RENT")],
    ids=["an account", "a reason"],
)
def test_payment_of_nobodys_is_applied_like_bank_money(columns, role):
    """Two persons bring it to an account, or where its reason is mapped; nobody has to be told of it any more."""
    run = started()
    run.take(*nobodys("x", 100, "po1"), payout("po1", 100)[0])
    run.take(*application(100, "c-x", **columns))
    assert run.balance("UNAPPLIED_CASH") == -100
    run.relay()
    assert run.balances_of("mercy") == {"CARD_CLEARING": 100, role: -100}
    run.step(tick(NOW_MS + 7 * DAY_MS))
    assert "unidentified_deposit" not in run.open_types()


def test_payment_of_nobodys_is_applied_once_and_told_while_it_is_not():
    """What is left of it after three business days is an exception; more than that nobody can apply."""
    run = started()
    run.take(*nobodys("x", 100, "po1"), payout("po1", 100)[0])
    run.relay()
    run.take(*application(101, "c-x", account=None))
    run.step(tick(NOW_MS + 7 * DAY_MS))
    assert "allocation_exceeded" in run.open_types()
    assert "unidentified_deposit" in run.open_types()
    assert run.balance("UNAPPLIED_CASH") == -100


def test_payment_of_a_payer_by_card_is_applied_to_its_remittance():
    """A payer may pay by card: what came so is the remittance's money when a person says so."""
    run = Run()
    run.take(*nobodys("x", 100, "po1"), payout("po1", 100)[0])
    header = {"document": "r1", "reference": "T1", "counterparty": "blue"}
    run.take(
        event("r1-h", "remittance_received", 100, **header),
        event("r1-p", "claim_paid", 100, document="c1", reference="r1", counterparty="blue"),
    )
    run.relay()
    run.take(event("says", "cash_applied", 100, document="says", reference="T1", correlation_id="c-x"))
    run.relay()
    assert run.balances_of("mercy") == {"CARD_CLEARING": 100, "AR_INS": -100}


@pytest.mark.parametrize("reference", ["c-x", None], ids=["named", "not named"])
def test_dispute_lost_over_a_payment_of_nobodys_takes_back_what_was_unapplied(reference):
    """Nobody is billed for money that was nobody's; where the payment is named, nobody can apply it any more."""
    run = started()
    run.take(*nobodys("x", 250, "po1"), payout("po1", 250)[0])
    run.relay()
    run.take(*lost(250, reference=reference))
    run.relay()
    assert run.balances_of("mercy") == {}
    run.take(*application(250, "c-x", account=None))
    assert ("allocation_exceeded" in run.open_types()) == (reference is not None)


def test_capture_let_go_without_its_money_settles_for_nobody():
    """A settlement that a person lets go before any capture came has no owner."""
    run = Run()
    settled = sale("x", 100, "po1", **FROM_FILE)[2]
    run.take(settled, payout("po1", 100)[0])
    run.step(tick(NOW_MS + 8 * DAY_MS))
    run.step(decision(1, "release", *run.ids("unmatched_card_payment")))
    assert run.balance("UNAPPLIED_CASH") == -100
