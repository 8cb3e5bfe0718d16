"""Remittances: clearing equals the total after each and zero after its money; takebacks; lockboxes; lost traces."""

from datetime import date
from itertools import permutations

import pytest
from unit.engine.builders import DAY_MS, MAPPING, NOW_MS, RULEBOOK, Run, decision, event, mapping, tick

from runtime.ports import LogRecord

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


@pytest.mark.parametrize("row", DAY[:3], ids=["header", "payment", "adjustment"])
def test_remittance_that_comes_again_with_other_content_is_its_own_exception(row):
    """The first content stands and posts; the other one is revenue cycle's to look at, and can be taken out."""
    run = Run()
    effects = run.take(*DAY, row | {"amount_minor": row["amount_minor"] + 1})
    assert (run.open_types(), effects.counts.conflict, clearing(run)) == (["remit_conflict"], 1, 540)
    assert RULEBOOK.exception["remit_conflict"].owner == "revenue_cycle"
    run.step(decision(1, "exclude", *run.ids("remit_conflict")))
    assert run.open_types() == []


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


BLUE, AETNA = (header("era1", 540), paid("era1", 540)), (header("era2", 70, "aetna"), paid("era2", 70, "c2", "aetna"))
SAME_TRACE = [
    *(row | ({"reference": "T1"} if row["kind"] == "remittance_received" else {}) for row in (*BLUE, *AETNA)),
    eft("era1", 540, counterparty="blue") | {"reference": "T1"},
    eft("era2", 70, counterparty="aetna") | {"reference": "T1"},
]


@pytest.mark.parametrize("named", [True, False], ids=["both banks name the payer", "neither does"])
def test_remittances_of_two_payers_under_one_trace_are_two(named):
    """Each gets its own money in any order of arrival, by the payer, or by the amount where the bank names none."""
    rows = [row if named or row["kind"] != "eft_received" else row | {"counterparty": None} for row in SAME_TRACE]
    for order in permutations(range(len(rows)), len(rows)):
        if order.index(1) < order.index(0) or order.index(3) < order.index(2):
            continue  # claims may come before their header: that is not asked here
        run = Run()
        for at in order:
            run.take(rows[at])
        assert run.balances_of("mercy") == {"CASH": 610, "AR_INS": -610}, order
        assert run.open == {}


def test_remittance_money_of_another_payer_is_not_taken_for_a_wrong_amount():
    """Money under the same trace that names another payer waits for that payer's remittance, across a restart."""
    run = Run()
    run.take(*SAME_TRACE[:2], SAME_TRACE[5])
    assert (run.open, run.state("era2-eft")) == ({}, "pending")
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert run.open_types() == ["missing_eft", "missing_era"]
    run.restart()
    run.take(*SAME_TRACE[2:5])
    assert (run.open, clearing(run)) == ({}, 0)


@pytest.mark.parametrize("payer", ["aetna", None])
def test_remittance_money_that_several_under_its_trace_fit_is_left_to_people(payer):
    """Two remittances, of two payers or one of nobody known, one trace, one amount, and a bank that names nobody: never
    guessed."""
    run = Run()
    second = header("era2", 540, reference="T1") | {"counterparty": payer}
    run.take(*SAME_TRACE[:2], second, paid("era2", 540, "c2", "aetna"))
    run.take(eft("era1", 540) | {"reference": "T1"})
    assert run.state("era1-eft") == "pending"
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert run.open_types() == ["missing_eft", "missing_eft", "missing_era"]


def test_remittance_of_the_same_payer_under_one_trace_is_one():
    """A trace is unique to its payer: a second remittance under it is an exception."""
    run = Run()
    run.take(*BLUE, header("era9", 7, reference="Tera1"))
    assert run.open_types() == ["duplicate_open_item"]


FRIDAY_MS = NOW_MS + 4 * DAY_MS


def test_remittance_and_money_wait_three_business_days():
    """What came on a Friday is missed on the Wednesday after it: Saturday and Sunday do not count."""
    run = Run()
    run.take(header("era1", 540), paid("era1", 540), eft("era2", 70), at_ms=FRIDAY_MS)
    for days, missed in ((4, []), (5, []), (5.01, ["missing_eft", "missing_era"])):
        run.step(tick(FRIDAY_MS + int(days * DAY_MS)))
        assert run.open_types() == missed


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


TELLINGS = (
    (header("era1", 540), paid("era1", 540)),
    (eft("era1", 540, counterparty="blue") | {"source": "nacha"},),
    (eft("era1", 540) | {"source": "bai2", "event_id": "other", "document": "other-ref"},),
)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_remittance_money_that_two_sources_tell_is_booked_once(order):
    """An ACH file and a statement tell the same money: whichever comes second is held as told twice, and only that."""
    run = Run()
    for at in order:
        run.take(*TELLINGS[at])
    assert run.balances_of("mercy") == {"CASH": 540, "AR_INS": -540}
    assert run.open_types() == ["eft_told_twice"]
    run.step(decision(1, "exclude", *run.ids("eft_told_twice")))
    run.step(tick(NOW_MS + 9 * DAY_MS))
    assert run.open == {}


def test_remittance_money_is_known_to_be_told_twice_for_two_months():
    """A month's statement comes long after the day's file, and over a restart; other amounts stay a difference."""
    run = Run()
    run.take(header("era1", 540), paid("era1", 540), eft("era1", 540))
    run.step(tick(NOW_MS + 40 * DAY_MS))
    run.restart()
    run.take(eft("era1", 540) | {"event_id": "again"}, eft("era1", 539) | {"event_id": "less"})
    assert run.open_types() == ["eft_amount_mismatch", "eft_told_twice"]
    assert (clearing(run), run.balance("CASH")) == (0, 540)


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


UNKNOWN = (header("era1", 440), paid("era1", 540), plb("era1", "OB", 100))
MAPPED_OB = {"role": "UNLISTED_ADJUSTMENT/OB", "account": "9999", "counterparty": "blue"}


@pytest.mark.parametrize("order", list(permutations(UNKNOWN)), ids=lambda rows: ",".join(r["kind"] for r in rows))
def test_remittance_with_an_unknown_code_leaves_its_total_in_clearing(order):
    """An adjustment whose code nobody knows stands in suspense, never in a default account, and is an exception."""
    run = Run()
    for row in order:
        run.take(row)
    run.relay()
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 440, "SUSPENSE": 100, "AR_INS": -540}
    assert run.open_types() == ["unknown_plb"]
    run.take(eft("era1", 440))
    assert clearing(run) == 0


@pytest.mark.parametrize("first", ["mapping", "event"])
@pytest.mark.parametrize("amount_minor", [100, -100], ids=["taken", "given"])
def test_remittance_code_goes_to_its_account_when_it_is_mapped(first, amount_minor):
    """What stood in suspense moves to the account of its own code, once, whichever comes first."""
    run, version = Run(), mapping(2, [MAPPED_OB])
    if first == "mapping":
        run.step(version)
    rows = (header("era1", 540 - amount_minor), paid("era1", 540), plb("era1", "OB", amount_minor))
    run.take(*rows)
    run.relay()
    run.restart()
    run.step(version)
    run.take(*rows)
    run.relay()
    assert run.accounts() == {
        ("mercy", "USD", "GL-REMIT_CLEARING"): 540 - amount_minor,
        ("mercy", "USD", "9999"): amount_minor,
        ("mercy", "USD", "GL-AR_INS"): -540,
    }
    assert run.open == {}


@pytest.mark.parametrize(
    "other",
    [
        {"role": "UNLISTED_ADJUSTMENT/OB", "counterparty": "aetna"},
        {"role": "UNLISTED_ADJUSTMENT"},
        {"role": "PROVIDER_ADJUSTMENT"},
    ],
    ids=["another payer", "every code", "the listed ones"],
)
def test_remittance_code_is_not_mapped_by_what_is_not_its_own(other):
    """A mapping of another payer's code, or of no code at all, moves nothing out of suspense."""
    run = Run()
    run.take(*UNKNOWN)
    run.relay()
    run.step(mapping(2, [{"account": "9999"} | other]))
    assert (run.balance("SUSPENSE"), run.open_types()) == (100, ["unknown_plb"])


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


def remarked(name: str, code: str, amount_minor: int, remarks: list, **columns: object) -> dict:
    """A claim's adjustment with the remarks of its level."""
    return adjusted(name, code, amount_minor, attributes={"line": 1, "remarks": remarks}, **columns)


@pytest.mark.parametrize(
    ("code", "remarks", "contractual"),
    [
        ("CO-97", ["M15"], 0),
        ("CO-97", ["N130", "N19"], 40),
        ("CO-97", ["N130"], 0),
        ("CO-97", [], 0),
        ("CO-97", [7, None], 0),
        ("CO-50", ["M15"], 0),
    ],
)
def test_remittance_remark_refines_a_code_where_the_table_has_the_pair(code, remarks, contractual):
    """CO-97 is a denial, unless a remark says that it is incidental to another service; other pairs change nothing."""
    run = Run()
    run.take(header("era1", 0), paid("era1", 0), remarked("era1", code, 40, remarks))
    assert run.balance("CONTRACTUAL") == contractual
    assert run.open_types() == ([] if contractual else ["denial"])


def test_remittance_pairs_are_mapped_by_payer_and_date_as_codes_are():
    """A mapped pair counts for its payer from its day on, before a mapped code, and both before the table."""
    pair = {"role": "CLASS_claim_adjustment/CO-45/N130", "account": "denial", "counterparty": "blue"}
    code = {"role": "CLASS_claim_adjustment/CO-97", "account": "denial", "counterparty": "blue"}
    run = Run()
    run.step(mapping(2, [pair | {"valid_from": "2026-09-21"}, code]))
    run.take(header("era1", 0), paid("era1", 0))
    run.take(
        remarked("era1", "CO-45", 10, ["N130"]) | {"event_id": "new"},
        remarked("era1", "CO-45", 20, ["N130"], effective_on=date(2026, 9, 20)) | {"event_id": "old"},
        remarked("era1", "CO-45", 40, ["N130"], counterparty="aetna") | {"event_id": "other"},
        remarked("era1", "CO-45", 80, ["N19"]) | {"event_id": "unpaired"},
        remarked("era1", "CO-97", 160, ["N19"]) | {"event_id": "mapped code"},
    )
    assert run.balance("CONTRACTUAL") == 140
    assert sorted(run.open.values()) == [("denial", "mapped code"), ("denial", "new")]


DENIED = tuple(adjusted("era1", "CO-50", minor) | {"event_id": f"d{minor}"} for minor in (100, -100, 60))


@pytest.mark.parametrize("order", list(permutations(DENIED)), ids=lambda rows: ",".join(r["event_id"] for r in rows))
def test_denial_lasts_until_its_reversal_in_any_order(order):
    """What stands denied of a claim for one reason is one exception; what was taken back raises none."""
    run = Run()
    run.take(header("era1", 0), paid("era1", 0))
    for row in order:
        run.take(row)
        run.restart()
    assert list(run.open.values()) == [("denial", "d100")]
    run.take(adjusted("era1", "CO-50", -60) | {"event_id": "rest"})
    assert run.open == {}


def test_denial_is_not_ended_by_the_reversal_of_another():
    """Another claim, reason or payer takes nothing back, and raises nothing by a negative amount."""
    run = Run()
    run.take(header("era1", 0), paid("era1", 0), DENIED[0])
    run.take(
        adjusted("era1", "CO-50", -100, claim="c2"),
        adjusted("era1", "CO-29", -100),
        adjusted("era1", "CO-50", -100, counterparty="aetna") | {"event_id": "aetna"},
    )
    assert list(run.open.values()) == [("denial", "d100")]


def test_denial_counts_once_when_its_code_was_held_before():
    """An adjustment that waited for its class is counted when it goes on, and its reversal ends what it raised."""
    run = Run()
    run.take(header("era1", 0), paid("era1", 0), adjusted("era1", "CO-252", 100))
    assert run.open_types() == ["unclassified_code"]
    run.step(mapping(2, [{"role": "CLASS_claim_adjustment/CO-252", "account": "denial"}]))
    assert run.open_types() == ["denial"]
    run.take(adjusted("era1", "CO-252", -100) | {"event_id": "back"})
    assert run.open == {}


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


@pytest.mark.parametrize("order", [1, -1], ids=["letter first", "approval first"])
def test_takeback_approved_for_another_payer_is_held_naming_the_field(order):
    """What one payer asks for is not owed to another."""
    run, (asked, signed) = Run(), letter(500)
    for row in (asked, signed | {"counterparty": "green"})[::order]:
        run.take(row)
    assert (run.open_types(), run.accounts()) == (["approval_counterparty_differs"], {})


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
    ("rows", "several"),
    [
        ((untraced("dep1"), *BLUE, header("era2", 540), paid("era2", 540, "c2")), ["eft_ambiguous"]),
        ((untraced("dep1"), untraced("dep2"), *BLUE), ["eft_ambiguous", "eft_ambiguous"]),
        ((untraced("dep1", payer="aetna"), *BLUE), []),
        ((untraced("dep1", 539), *BLUE), []),
        ((untraced("dep1", effective_on=date(2026, 9, 15)), *BLUE), []),
    ],
    ids=["two remittances", "two deposits", "another payer", "another amount", "four business days apart"],
)
def test_untraced_money_that_fits_none_or_several_is_left_to_people(rows, several):
    """What is not unambiguous is never guessed; each deposit that fits more than one is told."""
    run = Run()
    run.take(*rows)
    later(run, 30)
    assert run.balance("UNAPPLIED_CASH") == -sum(row["amount_minor"] for row in rows if "untraced" in row["kind"])
    assert run.relay() == []
    assert run.open_types() == several


def test_untraced_money_that_fits_several_stands_under_an_exception_until_one_alone_fits():
    """The trace of one of two remittances pays it: the other one is then the only one, and is found."""
    run = Run()
    run.take(untraced("dep1"), header("era1", 540), paid("era1", 540), header("era2", 540), paid("era2", 540, "c2"))
    later(run, 30)
    run.restart()
    assert run.open_types() == ["eft_ambiguous"]
    run.take(eft("era2", 540))
    later(run, 31)
    assert run.open == {}
    assert run.balances_of("mercy") == {"CASH": 1080, "AR_INS": -1080}


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


NICKNAME = mapping(2, [*MAPPING, {"role": "PAYER_ALIAS", "account": "blue", "counterparty": "1999"}])
NICKNAMED = (
    [*(dict(row) for row in (header("era1", 540), paid("era1", 540)))],
    [eft("era1", 540, counterparty="1999")],
    NICKNAME,
)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("days", [0, 5])
def test_remittance_and_traced_money_of_an_alias_meet_in_any_order(order, days):
    """Money that names its payer otherwise clears when all three are there, though days passed and the shard began
    anew; a remittance that its money has paid is no candidate."""
    run = Run()
    for at in order:
        one = NICKNAMED[at]
        run.take(*one) if isinstance(one, list) else run.step(one)
        run.restart()
        run.step(tick(NOW_MS + days * DAY_MS))
    assert run.balances_of("mercy") == {"CASH": 540, "AR_INS": -540}
    assert run.open == {}
    run.take(untraced("dep1"))
    later(run, 200)
    assert run.balance("UNAPPLIED_CASH") == -540


def test_remittance_money_of_a_name_without_an_alias_waits():
    """Another payer's money of the same trace and amount pays nothing, nor does an alias that begins later."""
    run = Run()
    run.take(header("era1", 540), paid("era1", 540), eft("era1", 540, counterparty="1999"))
    alias = {"role": "PAYER_ALIAS", "account": "blue", "counterparty": "1999", "valid_from": "2030-01-01"}
    run.step(mapping(2, [*MAPPING, alias]))
    assert (clearing(run), run.balance("CASH")) == (540, 0)
    run.step(tick(NOW_MS + 9 * DAY_MS))
    assert set(run.open_types()) == {"missing_era", "missing_eft"}


def test_remittance_money_whose_alias_fits_two_payers_waits():
    """Two remittances of one trace and sum, whose payers are one by alias: nobody but a person can tell which."""
    rows = [{"role": "PAYER_ALIAS", "account": "blue", "counterparty": name} for name in ("1999", "blue east")]
    run = Run()
    run.step(mapping(2, [*MAPPING, *rows]))
    other = header("era2", 540, payer="blue east") | {"reference": "Tera1"}
    run.take(header("era1", 540), paid("era1", 540), other, paid("era2", 540, "c2", payer="blue east"))
    run.take(eft("era1", 540, counterparty="1999"))
    assert (clearing(run), run.balance("CASH")) == (1080, 0)


def test_untraced_money_whose_trace_is_paid_too_does_not_book_twice():
    """When the traced money comes after the pairing, the second one is an exception, not cash applied twice."""
    run = Run()
    run.take(untraced("dep1"), header("era1", 540), paid("era1", 540))
    later(run, 30)
    run.take(eft("era1", 540))
    assert run.open_types() == ["eft_told_twice"]
    assert run.balance("CASH") == 540


# ── exact inverses ─────────────────────────────────────────────────────────────────────────────────────────────────

LATER = "2026-09-15"  # accounts, policies and a code's class are others from this day on


def remapped(version: int, valid_from: str = LATER) -> LogRecord:
    """Another account of the receivable and of CO-45's write-off, and CO-131 a denial."""
    rows = [
        {"role": "AR_INS", "account": "GL-AR_INS-new"},
        {"role": "POLICY_CONTRACTUAL", "account": "AT_BILLING"},
        {"role": "POLICY_UNMATCHED_CLAIM", "account": "UNAPPLIED"},
        {"role": "CLASS_claim_adjustment/CO-131", "account": "denial"},
    ]
    return mapping(version, [row | {"valid_from": valid_from} for row in rows])


def claim(name: str, sign: int, on: str) -> tuple[dict, ...]:
    """One claim in a remittance of its own on a day; a reversal of it when the sign is -1."""
    rows = (
        header(name, sign * 540),
        paid(name, sign * 540),
        adjusted(name, "CO-45", sign * 300),
        adjusted(name, "CO-131", sign * 70),
        adjusted(name, "PR-1", sign * 100),
    )
    return tuple(row | {"effective_on": date.fromisoformat(on)} for row in rows)


FIRST, BACK, ANEW = claim("era1", 1, "2026-09-01"), claim("era2", -1, "2026-09-20"), claim("era3", 1, "2026-09-21")


@pytest.mark.parametrize("order", list(permutations((FIRST, BACK, ANEW))))
def test_reversal_takes_back_what_was_posted_where_it_was_posted(order):
    """A policy, an account and a class that changed in between change nothing of it, in any order of arrival; the
    correction posts by what counts on its own day."""
    run = Run()
    run.step(remapped(2))
    for rows in order:
        run.take(*rows)
        run.restart()
    anew = {"REMIT_CLEARING": 540, "UNAPPLIED_CASH": -540, "CONTR_ALLOW": 300, "AR_SELF": 100, "AR_INS-new": -400}
    assert run.balances_of("mercy") == anew
    assert run.open_types().count("denial") == 1


@pytest.mark.parametrize("rows", [(FIRST, BACK), (BACK, FIRST)])
def test_reversal_and_its_original_leave_nothing_in_whatever_order_they_come(rows):
    """Whichever comes first posts by its own day; the other one where that did."""
    run = Run()
    run.step(remapped(2))
    for some in rows:
        run.take(*some)
    assert run.accounts() == {}
    assert run.open_types() == []


def test_reversal_after_a_mapping_that_reaches_back_posts_as_its_original_did():
    """A version that came between the two changes accounts from a day before both."""
    run = Run()
    run.take(*FIRST)
    run.step(remapped(2, "2026-08-01"))
    run.take(*BACK)
    assert run.accounts() == {}
    assert run.open_types() == []


def test_reversal_of_what_was_held_for_a_mapping_posts_where_that_came_to():
    """What had no account when it came posts by the first version that gave one, and so does its reversal."""
    run = Run(mapped=False)
    run.step(mapping(1, [row for row in MAPPING if row["role"] != "CONTRACTUAL"]))
    run.take(*FIRST)
    assert set(run.open_types()) == {"mapping_missing"}
    run.step(mapping(2, [{"role": "CONTRACTUAL", "account": "GL-first"}]))
    run.step(mapping(3, [{"role": "CONTRACTUAL", "account": "GL-second"}]))
    run.take(*BACK)
    assert run.accounts() == {}


def test_reversal_of_another_amount_payer_or_reason_posts_by_its_own_day():
    """Only what is the exact opposite is taken back."""
    run = Run()
    run.step(remapped(2))
    on = {"effective_on": date(2026, 9, 1)}
    run.take(header("era1", 0) | on, adjusted("era1", "CO-45", 300) | on)
    later = {"effective_on": date(2026, 9, 20)}
    run.take(
        header("era2", 0) | later,
        adjusted("era2", "CO-45", -299) | later,
        adjusted("era2", "CO-24", -300) | later,
        adjusted("era2", "CO-45", -300, counterparty="green") | later | {"event_id": "other"},
    )
    assert run.balances_of("mercy") == {"CONTRACTUAL": 300, "AR_INS": -300, "CONTR_ALLOW": -899, "AR_INS-new": 899}
