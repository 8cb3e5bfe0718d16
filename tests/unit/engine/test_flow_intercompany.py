"""Intercompany: money that one entity receives for another is booked by both or by neither."""

import pytest
from unit.engine.builders import DAY_MS, MAPPING, NOW_MS, Run, event, mapping, tick

ERA = {"reference": "era1", "counterparty": "blue", "facility": None}
HEADER = event("h", "remittance_received", 1000, document="era1", reference="T1", counterparty="blue", facility=None)
OURS = event("ours", "claim_paid", 600, document="c1", **ERA)
SHARE = event("share", "intercompany_share", 400, document="era1/grace", **(ERA | {"counterparty": "grace"}))
THEIRS = event("theirs", "claim_paid", 400, document="c2", entity="grace", **ERA)
MONEY = event("eft", "eft_received", 1000, document="dep1", reference="T1", facility=None)
ROWS = (HEADER, OURS, SHARE, THEIRS, MONEY)

MERCY = {"CASH": 1000, "AR_INS": -600, "DUE_TO": -400}
GRACE = {"DUE_FROM": 400, "AR_INS": -400}


def without(role: str, entity: str) -> list[dict]:
    """The mapping of both entities, less one role of one of them."""
    rows = [row | {"entity": name} for row in MAPPING for name in ("mercy", "grace")]
    return [row for row in rows if (row["role"], row["entity"]) != (role, entity)]


@pytest.mark.parametrize(
    "order", [ROWS, ROWS[::-1], (*ROWS[3:], *ROWS[:3])], ids=["usual", "backwards", "theirs first"]
)
def test_intercompany_share_is_booked_on_both_sides(order):
    """Both entities' journals balance by themselves, and what one owes the other is what the other is owed."""
    run = Run()
    for row in order:
        run.take(row)
        run.relay()
    assert run.balances_of("mercy") == MERCY
    assert run.balances_of("grace") == GRACE
    assert run.open == {}


def test_intercompany_share_relayed_twice_is_booked_once():
    """A derived event is named by its cause: relaying it again is a repeat."""
    run = Run()
    run.take(*ROWS)
    again = list(run._derived)
    run.relay()
    run._derived = again
    run.relay()
    assert run.balances_of("grace") == GRACE
    assert run.total("duplicate") > 0


@pytest.mark.parametrize(
    ("role", "entity", "fault"),
    [
        ("DUE_TO", "mercy", "mapping_missing"),
        ("DUE_FROM", "grace", "mapping_missing"),
        ("REMIT_CLEARING", "grace", "mapping_missing"),
    ],
)
def test_intercompany_share_whose_account_is_missing_is_booked_by_neither(role, entity, fault):
    """Without an account on either side neither entity has booked it; the mapping books both."""
    run = Run(mapped=False)
    run.step(mapping(1, without(role, entity)))
    run.take(*ROWS)
    run.relay()
    assert fault in run.open_types()
    assert (run.balance("DUE_TO"), run.balance("DUE_FROM")) == (0, 0)
    run.step(mapping(2, [row | {"entity": entity} for row in MAPPING if row["role"] == role]))
    run.relay()
    assert (run.balances_of("mercy"), run.balances_of("grace")) == (MERCY, GRACE)
    assert run.open == {}


def test_intercompany_share_of_claims_that_never_tie_is_booked_by_neither():
    """The other entity books nothing until its claims are its share, and then this one does nothing either."""
    run = Run()
    run.take(HEADER, OURS, SHARE, THEIRS | {"amount_minor": 399}, MONEY)
    run.relay()
    run.step(tick(NOW_MS + 4 * DAY_MS))
    assert (run.balance("DUE_TO"), run.balance("DUE_FROM")) == (0, 0)
    assert set(run.open_types()) == {"remit_out_of_balance"}
    assert run.balance("REMIT_CLEARING") == -400
    run.take(event("rest", "claim_paid", 1, document="c3", entity="grace", **ERA))
    run.relay()
    assert (run.balances_of("mercy"), run.balances_of("grace")) == (MERCY, GRACE)


def test_intercompany_share_carries_no_facility_to_the_other_entity():
    """A facility is its own entity's: what is derived for another one names none, or no door would let it in."""
    run = Run()
    effects = run.take(HEADER, OURS | {"facility": "north"}, SHARE | {"facility": "north", "department": "er"}, THEIRS)
    assert effects.derived.select("entity", "counterparty", "facility", "department").rows() == [
        ("grace", "mercy", None, None)
    ]


def test_intercompany_share_of_an_entity_that_nobody_knows_is_booked_by_neither():
    """What is derived for an entity that is not configured is let in by no door, and this side books nothing."""
    run = Run()
    effects = run.take(HEADER, OURS, SHARE | {"counterparty": "nowhere"}, MONEY)
    assert effects.derived["entity"].to_list() == ["nowhere"]
    assert run.balance("DUE_TO") == 0
    assert run.balance("REMIT_CLEARING") == -400
