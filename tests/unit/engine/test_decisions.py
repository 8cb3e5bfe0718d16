"""Decisions of people and closed periods: what each action does to each sort of exception, and what it can't do."""

from datetime import date

import pytest
from unit.engine.builders import (
    DAY_MS,
    MAPPING,
    NOW_MS,
    Run,
    charge,
    decision,
    event,
    mapping,
    period,
    tick,
)

AUTHORISED = event("auth", "card_authorised", 100, document="a1")
CAPTURED = event("capture", "card_captured", 100, document="c1", reference="a1")
TOO_MUCH = event("more", "card_captured", 40, document="c2", reference="a1")
SETTLED = event("settle", "card_settled", 100, document="c1", reference="p1")
FEE = event("fee", "card_fee_charged", 3, document="f1", reference="p1")
PAYOUT = event("payout", "payout_paid", 97, document="p1")
PRICED = {"quantity": 1000, "attributes": {"price_minor": 1000}}
ORDER = event("order", "po_line_approved", 1000, document="PO1/1", counterparty="acme", **PRICED)
STRANGE = event("strange", "goods_received", document="R1", reference="PO1/1", quantity=1000, counterparty="odd")
OVERDUE_MS = NOW_MS + 40 * DAY_MS
ACTIONS = ("retry", "release", "exclude")


def decided(run: Run, action: str, *types: str, number: int = 1) -> None:
    """People decide on every open exception of these types."""
    assert run.ids(*types), "nothing is open to decide on"
    run.step(decision(number, action, *run.ids(*types)))


# ── waiting too long ───────────────────────────────────────────────────────────────────────────────────────────────


def overdue() -> Run:
    """A capture whose authorisation never came, and which nobody settled."""
    run = Run()
    run.take(CAPTURED)
    run.step(tick(OVERDUE_MS))
    assert run.open_types() == ["card_unsettled", "unmatched_card_payment"]
    return run


def test_overdue_event_tried_again_waits_anew():
    """Trying again gives it its time once more, and the exception ends until that is over."""
    run = overdue()
    decided(run, "retry", "unmatched_card_payment")
    assert (run.state("capture"), run.open_types()) == ("pending", ["card_unsettled"])
    run.step(tick(OVERDUE_MS + 31 * DAY_MS))
    assert run.open_types() == ["card_unsettled", "unmatched_card_payment"]


def test_overdue_event_let_go_goes_on_without_its_counterpart():
    """Let go, it needs its authorisation no more; what it opened can be used."""
    run = overdue()
    decided(run, "release", "unmatched_card_payment")
    assert (run.state("capture"), run.open_types()) == ("excluded", ["card_unsettled"])
    run.take(SETTLED, FEE, PAYOUT, at_ms=OVERDUE_MS)
    assert run.state("settle") == "booked"
    assert run.open == {}


def test_overdue_event_taken_out_takes_what_it_opened_with_it():
    """Excluded, it is gone: a settlement of it waits like one of a stranger's."""
    run = overdue()
    decided(run, "exclude", "unmatched_card_payment")
    assert (run.state("capture"), run.open) == ("excluded", {})
    run.take(AUTHORISED, SETTLED, FEE, PAYOUT, at_ms=OVERDUE_MS)
    assert run.state("settle") == "pending"


# ── amounts that do not fit ────────────────────────────────────────────────────────────────────────────────────────


def exceeding() -> Run:
    """Two captures of more than was authorised."""
    run = Run()
    run.take(AUTHORISED, CAPTURED, TOO_MUCH)
    assert run.open_types() == ["allocation_exceeded"]
    return run


@pytest.mark.parametrize(
    ("action", "state", "types"),
    [("retry", "excepted", ["allocation_exceeded"]), ("release", "excluded", []), ("exclude", "excluded", [])],
)
def test_excess_is_tried_in_vain_let_go_or_taken_out(action, state, types):
    """Trying again what still does not fit changes nothing; letting go and taking out end it."""
    run = exceeding()
    decided(run, action, "allocation_exceeded")
    assert (run.state("more"), run.open_types()) == (state, types)


def test_event_taken_out_gives_back_what_it_had_used():
    """A settlement in a payout that never ties used its capture up; taken out, the right one finds it whole."""
    run = Run()
    run.take(AUTHORISED, CAPTURED, SETTLED, event("wrong", "payout_paid", 1, document="p1"))
    run.step(tick(NOW_MS + 6 * DAY_MS))
    decided(run, "exclude", "payout_mismatch")
    assert run.total("excluded") == 4
    rows = (SETTLED | {"event_id": "right", "reference": "p2"}, PAYOUT | {"document": "p2", "amount_minor": 100})
    run.take(*rows, at_ms=NOW_MS + 6 * DAY_MS)
    assert run.state("right") == "booked"


def test_event_let_go_and_then_taken_out_gives_nothing_back():
    """What went on without using anything has nothing to return."""
    run = Run()
    run.take(SETTLED, event("wrong", "payout_paid", 1, document="p1"))
    run.step(tick(NOW_MS + 8 * DAY_MS))
    decided(run, "release", "unmatched_card_payment")
    run.step(tick(NOW_MS + 16 * DAY_MS))
    decided(run, "exclude", "payout_mismatch", number=2)
    run.take(AUTHORISED, CAPTURED, at_ms=NOW_MS + 16 * DAY_MS)
    twice = event("twice", "card_settled", 200, document="c1", reference="p2")
    run.take(twice, event("payout2", "payout_paid", 200, document="p2"), at_ms=NOW_MS + 16 * DAY_MS)
    assert run.state("twice") == "excepted"


# ── sums ───────────────────────────────────────────────────────────────────────────────────────────────────────────


UNTIED = ["payout_mismatch", "payout_mismatch", "payout_unpaid"]


def untied() -> Run:
    """A payout whose members are not its net."""
    run = Run()
    run.take(AUTHORISED, CAPTURED, SETTLED, PAYOUT)
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == UNTIED
    return run


def test_sum_that_does_not_tie_can_t_be_let_go():
    """Nobody can make a payout balance by saying so."""
    run = untied()
    decided(run, "release", "payout_mismatch")
    assert run.open_types() == UNTIED
    assert run.accounts() == {}


def test_sum_tied_by_taking_one_member_out_books_the_others():
    """A member that should not be there is taken out; then the sum is what was announced."""
    run = Run()
    run.take(AUTHORISED, CAPTURED, SETTLED, FEE, PAYOUT | {"amount_minor": 100})
    run.step(tick(NOW_MS + 6 * DAY_MS))
    fee = [id for id, (_, who) in run.open.items() if who == "fee"]
    run.step(decision(1, "exclude", *fee))
    assert run.states()["settle"] == "booked"
    assert run.balances_of("mercy") == {"CARD_CLEARING": 100, "AR_SELF": -100}
    assert run.open_types() == ["payout_unpaid"]


def test_members_taken_out_together_go_on_by_nothing_that_one_of_them_brings_about():
    """Without the fee the payment's sum would tie, but it is taken out, too."""
    run = Run()
    run.take(AUTHORISED, CAPTURED, FEE, SETTLED, PAYOUT | {"amount_minor": 100})
    run.step(tick(NOW_MS + 6 * DAY_MS))
    out = [id for id, (_, who) in run.open.items() if who in ("fee", "settle")]
    run.step(decision(1, "exclude", *out))
    assert (run.state("fee"), run.state("settle"), run.state("payout")) == ("excluded", "excluded", "excepted")
    assert run.accounts() == {}


def test_closing_event_taken_out_makes_room_for_the_right_one():
    """A wrong total is taken out, and the right one ties the same members."""
    run = untied()
    wrong = [id for id, what in run.open.items() if what == ("payout_mismatch", "payout")]
    run.step(decision(1, "exclude", *wrong))
    assert run.open_types() == ["payout_mismatch"]
    run.take(PAYOUT | {"event_id": "right", "amount_minor": 100}, at_ms=NOW_MS + 6 * DAY_MS)
    assert (run.state("settle"), run.state("right")) == ("booked", "excluded")


def test_every_closing_event_of_a_sum_is_taken_out_and_others_close_it():
    """Of two that announce parts of one remittance the second is of nothing, and is known to be there none the less."""
    run, header = Run(), {"document": "era1", "counterparty": "blue"}
    paid = event("paid", "claim_paid", 70, document="clm1", reference="era1", counterparty="blue")
    amounts = {"first": 100, "nothing": 0}
    wrong = [event(name, "remittance_received", of, reference=name, **header) for name, of in amounts.items()]
    run.take(paid, *wrong)
    run.step(tick(NOW_MS + 60 * DAY_MS))
    for number, name in enumerate(amounts):
        run.step(decision(number, "exclude", *(id for id, (_, who) in run.open.items() if who == name)))
    assert [run.state(name) for name in ("paid", *amounts)] == ["excepted", "excluded", "excluded"]
    run.take(event("right", "remittance_received", 70, reference="trn1", **header), at_ms=NOW_MS + 60 * DAY_MS)
    assert (run.state("paid"), run.state("right")) == ("booked", "excluded")


# ── approvals ──────────────────────────────────────────────────────────────────────────────────────────────────────


def refused(action: str) -> Run:
    """A refund approved by who asked for it, decided upon."""
    run = Run()
    columns = {"document": "r1", "person": "Ann"}
    run.take(event("ask", "refund_requested", 5, **columns), event("sign", "refund_approved", 5, **columns))
    assert run.open_types() == ["approval_refused"]
    decided(run, action, "approval_refused")
    return run


@pytest.mark.parametrize("action", ["retry", "release"])
def test_refused_approval_stays_refused(action):
    """Neither trying again nor letting go makes one person two."""
    run = refused(action)
    assert run.open_types() == ["approval_refused"]
    assert run.accounts() == {}


def test_refused_approval_taken_out_leaves_the_request_for_another():
    """Taken out, it is no approval; somebody else's still counts."""
    run = refused("exclude")
    assert run.open == {}
    run.take(event("other", "refund_approved", 5, document="r1", person="Bob"))
    assert run.state("other") == "booked"


# ── openers that came twice, and no room ───────────────────────────────────────────────────────────────────────────

TWIN = event("twin", "card_authorised", 60, document="a1", source="second")


@pytest.mark.parametrize(
    ("action", "left", "types"),
    [("retry", 100, ["duplicate_open_item"]), ("release", 160, []), ("exclude", 100, [])],
)
def test_second_opener_is_refused_joined_or_taken_out(action, left, types):
    """A second authorisation of a key stays refused, is one with the first when let go, or is gone."""
    run = Run()
    run.take(AUTHORISED, TWIN)
    decided(run, action, "duplicate_open_item")
    assert run.open_types() == types
    run.take(CAPTURED | {"amount_minor": left})
    assert run.state("capture") == "excluded"


def test_second_opener_tried_again_after_the_first_expired_opens_its_own():
    """Once the first item is forgotten, trying again is enough."""
    run = Run()
    run.take(AUTHORISED, TWIN)
    run.step(tick(NOW_MS + 31 * DAY_MS))
    decided(run, "retry", "duplicate_open_item")
    assert (run.state("twin"), run.open) == ("excluded", {})


def test_opener_without_room_is_tried_again_by_time_and_by_people():
    """What found no room gets in when there is some."""
    run = Run(open_items_max=1)
    run.take(AUTHORISED, AUTHORISED | {"event_id": "next", "document": "a2"})
    decided(run, "retry", "open_items_full")
    assert run.open_types() == ["open_items_full"]
    run.step(tick(NOW_MS + 31 * DAY_MS))
    assert (run.state("next"), run.open) == ("excluded", {})


# ── held for an account, a class, or by a register ─────────────────────────────────────────────────────────────────

ADJUSTED = event("odd", "claim_adjusted", 7, document="c1", reference="r1", reason="CO-999")
ERA = (
    event("era", "remittance_received", 10, document="r1", reference="t1"),
    event("paid", "claim_paid", 10, document="c1", reference="r1"),
)
UNMAPPED = mapping(1, [row for row in MAPPING if row["role"] != "GROSS_REV"])
HELD = {"mapping_missing": (charge("odd"),), "unclassified_code": (*ERA, ADJUSTED), "vendor_mismatch": (ORDER, STRANGE)}


def held(fault: str) -> Run:
    """A shard that holds something for this reason."""
    run = Run(mapped=False)
    run.step(UNMAPPED)
    run.take(*HELD[fault])
    assert run.open_types() == [fault]
    return run


@pytest.mark.parametrize("fault", HELD)
@pytest.mark.parametrize("action", ["retry", "release"])
def test_held_event_stays_held_while_its_reason_lasts(fault, action):
    """Trying in vain raises nothing again, and no decision lets an event go without account, class or supplier."""
    run = held(fault)
    before = dict(run.open)
    effects = run.step(decision(1, action, *run.ids(fault)))
    assert run.open == before
    assert effects.exceptions.is_empty()
    assert effects.totals.is_empty()


@pytest.mark.parametrize("fault", HELD)
def test_held_event_taken_out_is_excluded_for_good(fault):
    """Taken out, it is counted as excluded, its exception ends, and no later mapping books it."""
    run = held(fault)
    accounts = run.accounts()
    decided(run, "exclude", fault)
    assert run.open == {}
    run.step(mapping(2))
    assert run.accounts() == accounts
    assert run.total("excepted") == 0


def test_event_held_by_a_register_is_tried_again_alone():
    """A decision tries what it names; the register that refused it then takes it."""
    run = Run()
    run.take(STRANGE | {"counterparty": None, "reference": "PO2/1", "event_id": "other"}, ORDER, STRANGE)
    run.step(mapping(2, [{"role": "SUPPLIER_ALIAS", "account": "acme", "counterparty": "odd"}]))
    assert run.open == {}
    assert run.state("strange") == "booked"


def test_decision_on_waiting_and_held_events_at_once_tries_both():
    """What waited, goes on by the decision and is held in its turn does not disturb those that were held before."""
    run = Run(mapped=False)
    run.step(mapping(1, [row for row in MAPPING if row["role"] not in ("GROSS_REV", "PAYMENT_CLEARING")]))
    run.take(charge("odd"))
    run.take(event("bill", "invoice_received", 100, document="B1", counterparty="acme", person="ann"))
    run.take(event("line", "invoice_line_billed", 100, document="B1/1", correlation_id="B1"))
    run.take(event("approval", "invoice_approved", document="B1", person="bob"))
    run.take(event("payment", "payment_released", 150, document="P1", reference="B1"))
    run.take(event("return", "payment_returned", 60, document="X1", reference="P1", correlation_id="B1"))
    assert [run.state(name) for name in ("odd", "payment", "return")] == ["excepted"] * 3
    decided(run, "retry", "mapping_missing", "duplicate_payment_event")
    assert "duplicate_payment_event" not in run.open_types()
    run.step(mapping(2))
    assert [run.state(name) for name in ("odd", "payment", "return")] == ["booked"] * 3


# ── conflicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("action", "types"), [("retry", ["event_conflict"]), ("release", ["event_conflict"]), ("exclude", [])]
)
def test_conflict_is_never_booked_and_can_only_be_taken_out(action, types):
    """The first content of an id stands, whatever is decided of another."""
    run = Run()
    run.take(charge("e1", 100), charge("e1", 101))
    decided(run, action, "event_conflict")
    assert run.open_types() == types
    assert run.balance("GROSS_REV") == -100
    assert run.total("excluded") == (1 if action == "exclude" else 0)


def test_one_of_two_conflicts_of_an_id_is_taken_out():
    """A decision names a content, not an id."""
    run = Run()
    run.take(charge("e1", 100), charge("e1", 101), charge("e1", 102))
    run.step(decision(1, "exclude", run.ids("event_conflict")[0]))
    assert run.open_types() == ["event_conflict"]
    assert (run.total("excepted"), run.total("excluded")) == (1, 1)


# ── decisions themselves ───────────────────────────────────────────────────────────────────────────────────────────


def test_conflict_taken_out_leaves_what_a_register_knows_of_the_first_content():
    """The first content, which waits for an account, is not entered a second time: what was billed too much stays."""
    run = Run(mapped=False)
    run.step(mapping(1, [row for row in MAPPING if row["role"] != "GRNI"]))
    priced = {"attributes": {"price_minor": 1000}, "counterparty": "acme"}
    run.take(event("order", "po_line_approved", 2000, document="PO1/1", quantity=2000, **priced))
    receipt = event("receipt", "goods_received", 1000, document="R1", reference="PO1/1", quantity=1000, **priced)
    run.take(receipt)
    run.take(receipt | {"amount_minor": 1001})
    line = {"document": "B1/1", "reference": "PO1/1", "correlation_id": "B1", "quantity": 2000}
    run.take(event("line", "invoice_line_billed", 2000, **line, **priced))
    run.take(event("bill", "invoice_received", 2000, document="B1", counterparty="acme"))
    assert "match_failed_receipt" in run.open_types()
    decided(run, "exclude", "event_conflict")
    run.step(mapping(2))
    assert run.open_types() == ["match_failed_receipt"]


@pytest.mark.parametrize("action", ACTIONS)
def test_decision_on_exceptions_of_other_shards_changes_nothing(action):
    """A decision goes to every shard; what a shard does not know is not its concern."""
    run = held("mapping_missing")
    before = run.end()
    effects = run.step(decision(1, action, "0" * 16, "f" * 16))
    assert run.end() == before
    assert (effects.exceptions.height, effects.resolved, effects.outcomes.height) == (0, (), 0)


def test_decision_with_a_number_that_was_taken_is_passed_over_even_after_a_restart():
    """A decision that the log carries twice counts once, whatever it says the second time."""
    run = exceeding()
    decided(run, "retry", "allocation_exceeded")
    run.restart()
    run.step(decision(1, "exclude", *run.ids("allocation_exceeded")))
    assert run.state("more") == "excepted"
    decided(run, "exclude", "allocation_exceeded", number=2)
    assert run.state("more") == "excluded"


def test_decision_on_what_is_flagged_beside_an_event_changes_nothing():
    """A residual that nobody used is no held event: it ends when it is used."""
    run = Run()
    run.take(AUTHORISED, CAPTURED)
    run.step(tick(NOW_MS + 8 * DAY_MS))
    decided(run, "exclude", "card_unsettled")
    assert run.open_types() == ["card_unsettled"]


@pytest.mark.parametrize("action", ACTIONS)
def test_decision_on_an_exception_that_ended_changes_nothing(action):
    """What ended by itself before the decision came is over."""
    run = Run(mapped=False)
    run.take(charge("e1"))
    ids = run.ids("mapping_missing")
    run.step(mapping(1))
    before = run.end()
    run.step(decision(1, action, *ids))
    assert run.end() == before


# ── closed periods ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_period_closed_posts_what_is_dated_before_on_the_first_open_day():
    """After a close, earlier dates post on the new first day of that entity alone."""
    run = Run()
    run.step(period("2026-09-01"))
    august = {"effective_on": date(2026, 8, 20)}
    effects = run.take(charge("ours", **august), charge("theirs", entity="grace", **august))
    posted = effects.deltas.select("entity", "period", "posted_on").unique().sort("entity").rows()
    assert posted == [("grace", "2026-08", date(2026, 8, 20)), ("mercy", "2026-09", date(2026, 9, 1))]


def test_period_closed_counts_for_what_waited_before_it():
    """An event that was pending at the close is booked into the open period."""
    run = Run()
    july = {"effective_on": date(2026, 7, 5)}
    run.take(AUTHORISED, CAPTURED, SETTLED | july, FEE | july)
    run.step(period("2026-09-01"))
    effects = run.take(PAYOUT)
    assert set(effects.deltas["period"]) == {"2026-09"}


def test_period_never_opens_again_and_survives_a_restart():
    """An earlier day in a later message changes nothing, before and after a restart."""
    run = Run()
    run.step(period("2026-09-01"), period("2026-08-01"))
    run.restart()
    run.step(period("2026-08-15"))
    effects = run.take(charge("e1", effective_on=date(2026, 8, 20)))
    assert set(effects.deltas["posted_on"]) == {date(2026, 9, 1)}


def test_period_cut_off_is_told_to_the_books_with_the_day_that_holds():
    """Each message is answered by where the entity stands then, a repeat too; an unknown entity by nothing."""
    run = Run()
    assert run.step(period("2026-09-01")).opened == (("mercy", date(2026, 9, 1)),)
    late = run.step(period("2026-08-01"), period("2026-09-01", "elsewhere"))
    assert late.opened == (("mercy", date(2026, 9, 1)),)
    assert late.digest() != late._replace(opened=()).digest()
    assert run.take(charge("e2")).opened == ()


def test_period_of_an_entity_that_is_not_here_changes_nothing():
    """A close of another house's entity is not this one's."""
    run = Run()
    run.step(period("2026-09-01", "elsewhere"))
    effects = run.take(charge("e1", effective_on=date(2026, 8, 20)))
    assert set(effects.deltas["period"]) == {"2026-08"}
