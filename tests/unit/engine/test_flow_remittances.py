"""Remittances: clearing equals the total after each and zero after its money; takebacks; lockboxes; lost traces."""

from datetime import date
from itertools import permutations

import pytest
from unit.engine.builders import DAY_MS, MAPPING, NOW_MS, Run, event, mapping, tick

HOUR_MS = 3_600_000


def header(name: str, total: int, payer: str = "blue", **columns: object) -> dict:
    """A remittance: document `name`, trace `T<name>`."""
    return event(f"{name}-h", "remittance_received", total, document=name, reference=f"T{name}", counterparty=payer) | {
        **columns
    }


def paid(name: str, amount_minor: int, claim: str = "c1", payer: str = "blue") -> dict:
    """A claim's payment in a remittance."""
    columns = {"document": claim, "reference": name, "counterparty": payer}
    return event(f"{name}-{claim}-paid", "claim_paid", amount_minor, **columns)


def adjusted(name: str, code: str, amount_minor: int, claim: str = "c1", **columns: object) -> dict:
    """A claim's adjustment in a remittance."""
    named = {"document": claim, "reference": name, "reason": code, "counterparty": "blue"} | columns
    return event(f"{name}-{claim}-{code}", "claim_adjusted", amount_minor, **named)


def plb(name: str, code: str, amount_minor: int, payer: str = "blue", **columns: object) -> dict:
    """A provider-level adjustment: positive takes money away."""
    named = {"reference": name, "reason": code, "counterparty": payer, "document": "fcn1"} | columns
    return event(f"{name}-{code}-{amount_minor}", "provider_adjusted", amount_minor, **named)


def eft(name: str, amount_minor: int, **columns: object) -> dict:
    """The bank's money for a remittance."""
    return event(f"{name}-eft", "eft_received", amount_minor, document=f"dep-{name}", reference=f"T{name}", **columns)


def letter(amount_minor: int) -> tuple[dict, dict]:
    """A payer's letter, and its approval by a second person."""
    columns = {"document": "fcn1", "counterparty": "blue"}
    return (
        event("letter", "takeback_letter_received", amount_minor, person="Ann", **columns),
        event("signed", "takeback_approved", amount_minor, person="Bob", **columns),
    )


def clearing(run: Run) -> int:
    """What stands in REMIT_CLEARING."""
    return run.balance("REMIT_CLEARING")


# ── the total, and its money ───────────────────────────────────────────────────────────────────────────────────────

DAY = (
    header("era1", 540),
    paid("era1", 540),
    adjusted("era1", "CO-45", 300),
    adjusted("era1", "PR-1", 100),
    adjusted("era1", "PR-2", 60),
)


@pytest.mark.parametrize("order", [DAY, DAY[::-1], (*DAY[2:], *DAY[:2])], ids=["usual", "backwards", "turned"])
def test_remittance_leaves_its_total_in_clearing_until_the_money_comes(order):
    """After a remittance REMIT_CLEARING is its announced total, after its deposit zero."""
    run = Run()
    for row in order:
        run.take(row)
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 540, "CONTRACTUAL": 300, "AR_SELF": 160, "AR_INS": -1000}
    run.take(eft("era1", 540))
    assert clearing(run) == 0
    assert run.balance("CASH") == 540


def test_remittance_of_the_worked_example_returns_every_clearing_account_to_zero():
    """Payment, reversal with forwarded balance, recovery: after three remittances only cash and claims remain."""
    run = Run()
    run.take(*DAY, eft("era1", 540))
    run.take(
        header("era2", 0),
        paid("era2", -540, "c1"),
        adjusted("era2", "CO-45", -300),
        adjusted("era2", "PR-1", -160),
        paid("era2", 400, "c1b"),
        adjusted("era2", "CO-45", 300, "c1b"),
        adjusted("era2", "CO-97", 140, "c1b"),
        adjusted("era2", "PR-1", 160, "c1b"),
        plb("era2", "FB", -140),
    )
    assert (clearing(run), run.balance("PAYER_TAKEBACK")) == (0, -140)
    run.take(header("era3", 760), paid("era3", 900, "c9"), plb("era3", "FB", 140), eft("era3", 760))
    assert (clearing(run), run.balance("PAYER_TAKEBACK"), run.balance("SUSPENSE")) == (0, 0, 0)
    assert run.balance("CASH") == 540 + 760
    assert run.open_types() == ["denial"]


def test_remittance_that_does_not_add_up_is_held_whole_and_then_told():
    """As long as claims and adjustments are not the total, nothing of it is booked; after three days it is told."""
    run = Run()
    run.take(header("era1", 541), paid("era1", 540), adjusted("era1", "CO-45", 300))
    assert run.accounts() == {}
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert set(run.open_types()) == {"remit_out_of_balance", "missing_eft"}
    run.take(paid("era1", 1, "c2"))
    assert set(run.open_types()) == {"missing_eft"}
    assert clearing(run) == 541


def test_remittance_of_nothing_awaits_no_money():
    """A zero-pay remittance is booked, and nothing is missing after it."""
    run = Run()
    run.take(header("era1", 0), paid("era1", 0), adjusted("era1", "PR-1", 100))
    run.step(tick(NOW_MS + 9 * DAY_MS))
    assert run.open == {}
    assert run.balances_of("mercy") == {"AR_SELF": 100, "AR_INS": -100}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_remittance_and_deposit_clear_in_any_order(order):
    """Bank money before or after the remittance ends the same."""
    rows = (header("era1", 540), paid("era1", 540), eft("era1", 540))
    run = Run()
    for at in order:
        run.take(rows[at])
    assert run.balances_of("mercy") == {"CASH": 540, "AR_INS": -540}


def test_remittance_without_money_and_money_without_remittance_are_told_after_three_days():
    """Each half waits three days for the other."""
    run = Run()
    run.take(header("era1", 540), paid("era1", 540), eft("era2", 70))
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert run.open_types() == ["missing_eft", "missing_era"]
    run.take(eft("era1", 540), header("era2", 70), paid("era2", 70, "c2"))
    assert run.open == {}
    assert clearing(run) == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=["remittance first", "money first"])
def test_remittance_money_of_another_amount_is_an_exception_without_a_plug(order):
    """The trace is right and the amount is not: held, and the right money still fits."""
    rows = (header("era1", 540), paid("era1", 540), eft("era1", 539))
    run = Run()
    for at in order:
        run.take(rows[at])
    assert run.open_types() == ["eft_amount_mismatch"]
    assert (clearing(run), run.balance("CASH")) == (540, 0)
    run.take(eft("era1", 540) | {"event_id": "right"})
    assert clearing(run) == 0


def test_remittance_of_an_unknown_payer_is_held_only_where_payers_are_mapped():
    """A house that lists no payers takes all of them; one that does holds strangers until they are mapped."""
    run = Run()
    run.take(header("era1", 1, payer="odd"), paid("era1", 1, payer="odd"))
    assert run.open == {}
    run.step(mapping(2, [{"role": "PAYER", "account": "blue", "counterparty": "blue"}]))
    run.take(header("era2", 2), paid("era2", 2, "c2"))
    assert run.open == {}
    run.take(header("era3", 3, payer="odd"), paid("era3", 3, "c3", payer="odd"))
    assert [run.open[id] for id in run.ids("unknown_payer")] == [("unknown_payer", "era3-h")]
    run.step(mapping(3, [{"role": "PAYER", "account": "odd", "counterparty": "odd"}]))
    assert run.open == {}
    assert run.state("era3-h") == "excluded"


def test_remittance_adjustment_code_that_no_account_knows_is_held_until_it_is_mapped():
    """A provider adjustment never goes to a default account: its code is held, then booked by its own mapping."""
    run = Run()
    run.take(header("era1", 440), paid("era1", 540), plb("era1", "OB", 100))
    assert run.open_types() == ["unknown_plb"]
    run.step(mapping(2, [{"role": "PROVIDER_ADJUSTMENT", "account": "9999"}]))
    assert run.open == {}
    assert clearing(run) == 440


@pytest.mark.parametrize(
    ("code", "role"),
    [("L6", "INTEREST_INCOME"), ("IR", "TAX_WITHHELD"), ("LE", "LEVY_EXPENSE"), ("CT", "CAPITATION_REV")],
)
@pytest.mark.parametrize("amount_minor", [25, -25], ids=["taken", "given"])
def test_remittance_adjustment_posts_by_its_code_and_sign(code, role, amount_minor):
    """A positive adjustment reduces the payment, a negative one adds to it; either leaves the total in clearing."""
    run = Run()
    run.take(header("era1", 540 - amount_minor), paid("era1", 540), plb("era1", code, amount_minor))
    assert run.balance(role) == amount_minor
    assert clearing(run) == 540 - amount_minor


def test_remittance_class_of_a_code_differs_by_payer_and_date():
    """A mapping of a code's class counts for its payer from its day on; others keep the table's."""
    rows = [{"role": "CLASS_claim_adjustment/CO-45", "account": "denial", "counterparty": "blue"}]
    run = Run()
    run.step(mapping(2, [rows[0] | {"valid_from": "2026-09-21"}]))
    run.take(header("era1", 0), paid("era1", 0))
    run.take(
        adjusted("era1", "CO-45", 10) | {"event_id": "new"},
        adjusted("era1", "CO-45", 20, effective_on=date(2026, 9, 20)) | {"event_id": "old"},
        adjusted("era1", "CO-45", 40, counterparty="aetna") | {"event_id": "other"},
    )
    assert run.balance("CONTRACTUAL") == 60
    assert sorted(run.open.values()) == [("denial", "new")]


# ── what payers take back ──────────────────────────────────────────────────────────────────────────────────────────


def test_takeback_at_once_is_forwarded_and_recovered_later():
    """P1: the balance that a remittance forwards is a liability until a later one recovers it."""
    run = Run()
    run.take(header("era1", 0), paid("era1", -140), plb("era1", "FB", -140))
    assert (clearing(run), run.balance("PAYER_TAKEBACK")) == (0, -140)
    run.take(header("era2", 760), paid("era2", 900, "c2"), plb("era2", "FB", 140), eft("era2", 760))
    assert run.balances_of("mercy") == {"CASH": 760, "AR_INS": -760}
    assert run.open == {}


def test_takeback_by_letter_is_recovered_against_its_liability():
    """P2: an approved letter opens the receivable again; the recovery clears the liability."""
    run = Run()
    run.take(*letter(140))
    assert run.balances_of("mercy") == {"AR_INS": 140, "PAYER_TAKEBACK": -140}
    run.take(header("era2", 760), paid("era2", 900, "c2"), plb("era2", "WO", 140))
    assert (run.balance("PAYER_TAKEBACK"), run.balance("SUSPENSE"), clearing(run)) == (0, 0, 760)
    assert run.open_types() == []


def test_takeback_letter_may_be_booked_as_an_allowance():
    """A policy says what a letter takes back from: the receivable, or the contractual allowance."""
    run = Run()
    run.step(mapping(2, [{"role": "POLICY_TAKEBACK", "account": "CONTRACTUAL"}]))
    run.take(*letter(140))
    assert run.balances_of("mercy") == {"CONTRACTUAL": 140, "PAYER_TAKEBACK": -140}


def test_takeback_letter_paid_by_check_nets_to_nothing_in_the_remittance():
    """P2 by check: 72 acknowledges the check and WO offsets it; nothing is left and nothing is in suspense."""
    run = Run()
    run.take(*letter(140))
    run.take(event("check", "payer_refunded", 140, document="chk1", counterparty="blue"))
    assert run.balances_of("mercy") == {"AR_INS": 140, "CASH": -140}
    run.take(header("era2", 900), paid("era2", 900, "c2"), plb("era2", "72", -140), plb("era2", "WO", 140))
    assert (run.balance("PAYER_TAKEBACK"), run.balance("SUSPENSE"), clearing(run)) == (0, 0, 900)
    assert run.open == {}


def test_takeback_with_reversal_and_announcement_is_recovered_later():
    """P3: reversal and correction now with WO of the same amount, so that cash is unaffected; WO again later."""
    run = Run()
    run.take(header("era1", 0), paid("era1", -540), paid("era1", 400, "c1b"), plb("era1", "WO", -140))
    assert (clearing(run), run.balance("PAYER_TAKEBACK")) == (0, -140)
    run.take(header("era2", 760), paid("era2", 900, "c2"), plb("era2", "WO", 140))
    assert (run.balance("PAYER_TAKEBACK"), run.balance("SUSPENSE"), clearing(run)) == (0, 0, 760)


def test_takeback_without_basis_stands_in_suspense_until_its_letter_comes():
    """A recovery that nobody announced is suspense, under an exception, until its letter comes."""
    run = Run()
    run.take(header("era2", 760), paid("era2", 900, "c2"), plb("era2", "WO", 140))
    assert (run.balance("SUSPENSE"), run.balance("PAYER_TAKEBACK"), clearing(run)) == (140, 0, 760)
    assert run.open_types() == ["takeback_without_basis"]
    run.restart()
    run.take(*letter(140))
    assert (run.balance("SUSPENSE"), run.balance("PAYER_TAKEBACK"), run.balance("AR_INS")) == (0, 0, -760)
    assert run.open == {}


def test_takeback_beyond_its_basis_is_suspense_only_by_the_excess():
    """A letter of a part is a basis of that part."""
    run = Run()
    run.take(*letter(100))
    effects = run.take(header("era2", 760), paid("era2", 900, "c2"), plb("era2", "WO", 140))
    assert (run.balance("SUSPENSE"), run.balance("PAYER_TAKEBACK")) == (40, 0)
    assert effects.exceptions.select("type", "amount_minor").rows() == [("takeback_without_basis", 40)]


def test_takeback_of_one_payer_is_no_basis_for_another():
    """What one payer announced, another one can't take."""
    run = Run()
    run.take(*letter(140))
    run.take(header("era2", 760, "aetna"), paid("era2", 900, "c2", "aetna"), plb("era2", "WO", 140, "aetna"))
    assert run.open_types() == ["takeback_without_basis"]


def test_takeback_letter_signed_by_one_person_is_no_basis():
    """A letter is approved by somebody else than who entered it."""
    run = Run()
    entered, signed = letter(140)
    run.take(entered, signed | {"attributes": entered["attributes"]})
    assert run.open_types() == ["approval_refused"]
    assert run.accounts() == {}


def test_takeback_approved_without_its_letter_waits_and_is_told():
    """An approval of a letter that nobody entered is an exception after ten days, and no basis until then."""
    run = Run()
    entered, signed = letter(140)
    run.take(signed)
    run.step(tick(NOW_MS + 11 * DAY_MS))
    assert run.open_types() == ["takeback_without_letter"]
    assert run.accounts() == {}
    run.take(entered, at_ms=NOW_MS + 11 * DAY_MS)
    assert run.open == {}
    assert run.balance("PAYER_TAKEBACK") == -140


# ── lockboxes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def check(name: str, amount_minor: int) -> dict:
    """One check of a lockbox deposit."""
    columns = {"document": f"chk-{name}", "reference": f"T{name}", "correlation_id": "box1"}
    return event(f"{name}-check", "check_deposited", amount_minor, **columns)


BOX = (
    header("era1", 540),
    paid("era1", 540),
    header("era2", 60),
    paid("era2", 60, "c2"),
    check("era1", 540),
    check("era2", 60),
    event("box", "lockbox_deposited", 600, document="box1"),
)


@pytest.mark.parametrize("order", [BOX, BOX[::-1], (*BOX[4:], *BOX[:4])], ids=["usual", "backwards", "bank first"])
def test_lockbox_of_several_checks_clears_every_remittance(order):
    """One deposit of many checks settles each remittance by its check, and leaves no clearing account open."""
    run = Run()
    for row in order:
        run.take(row)
    assert run.balances_of("mercy") == {"CASH": 600, "AR_INS": -600}


def test_lockbox_that_is_not_the_sum_of_its_checks_is_held():
    """A deposit that differs from its checks books neither, and is told after three days."""
    run = Run()
    run.take(*BOX[:6], BOX[6] | {"amount_minor": 601})
    assert (clearing(run), run.balance("CASH"), run.balance("LOCKBOX_CLEARING")) == (600, 0, 0)
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert set(run.open_types()) == {"lockbox_mismatch"}


# ── money that lost its trace ──────────────────────────────────────────────────────────────────────────────────────


def untraced(name: str, amount_minor: int = 540, payer: str | None = "blue", **columns: object) -> dict:
    """Claim money of a payer without a trace."""
    return event(name, "untraced_eft_received", amount_minor, document=name, counterparty=payer, **columns)


def later(run: Run, hours: float) -> None:
    """Let so many hours go by, and relay what follows."""
    run.step(tick(NOW_MS + int(hours * HOUR_MS)))
    run.relay(at_ms=NOW_MS + int(hours * HOUR_MS))


@pytest.mark.parametrize("money_first", [True, False])
def test_untraced_money_is_paired_with_the_only_remittance_that_fits(money_first):
    """After a day, money that fits exactly one remittance of its payer is applied to it; before, it is unapplied."""
    rows = [(untraced("dep1"),), (header("era1", 540), paid("era1", 540))]
    run = Run()
    for step in rows if money_first else rows[::-1]:
        run.take(*step)
    later(run, 24)
    assert run.balances_of("mercy") == {"CASH": 540, "UNAPPLIED_CASH": -540, "REMIT_CLEARING": 540, "AR_INS": -540}
    run.restart()
    later(run, 24.1)
    assert run.balances_of("mercy") == {"CASH": 540, "AR_INS": -540}
    later(run, 24 * 9)
    assert run.open == {}


@pytest.mark.parametrize(
    "rows",
    [
        (untraced("dep1"), header("era1", 540), paid("era1", 540), header("era2", 540), paid("era2", 540, "c2")),
        (untraced("dep1"), untraced("dep2"), header("era1", 540), paid("era1", 540)),
        (untraced("dep1", payer="aetna"), header("era1", 540), paid("era1", 540)),
        (untraced("dep1", 539), header("era1", 540), paid("era1", 540)),
        (untraced("dep1", effective_on=date(2026, 9, 15)), header("era1", 540), paid("era1", 540)),
    ],
    ids=["two remittances", "two deposits", "another payer", "another amount", "four business days apart"],
)
def test_untraced_money_that_fits_none_or_several_is_left_to_people(rows):
    """What is not unambiguous is never guessed."""
    run = Run()
    run.take(*rows)
    later(run, 30)
    assert run.balance("UNAPPLIED_CASH") == -sum(row["amount_minor"] for row in rows if "untraced" in row["kind"])
    assert run.relay() == []


def test_untraced_money_is_not_paired_with_a_remittance_whose_money_came():
    """A remittance that was paid by its trace is no candidate any more, even when the trace came first."""
    run = Run()
    run.take(eft("era1", 540), header("era1", 540), paid("era1", 540), untraced("dep1"))
    later(run, 30)
    assert run.balance("UNAPPLIED_CASH") == -540


def test_untraced_money_of_a_payer_by_another_name_is_paired():
    """An alias of a payer, mapped to its usual name, counts as that payer."""
    run = Run()
    run.step(mapping(2, [*MAPPING, {"role": "PAYER_ALIAS", "account": "blue", "counterparty": "BLUE CROSS"}]))
    run.take(untraced("dep1", payer="BLUE CROSS"), header("era1", 540), paid("era1", 540))
    later(run, 30)
    assert run.balances_of("mercy") == {"CASH": 540, "AR_INS": -540}


def test_untraced_money_whose_trace_is_paid_too_does_not_book_twice():
    """When the traced money comes after the pairing, the second one is an exception, not cash applied twice."""
    run = Run()
    run.take(untraced("dep1"), header("era1", 540), paid("era1", 540))
    later(run, 30)
    run.take(eft("era1", 540))
    assert run.open_types() == ["eft_amount_mismatch"]
    assert run.balance("CASH") == 540
