"""What follows from settled events: derived rows with ids from their cause, and statuses told once."""

from datetime import date

import pytest
from unit.engine.builders import DERIVED_VOCABULARY, NOW_MS, RULEBOOK, charge, event, stamped

from runtime import schema, validation
from runtime.effects import DERIVED, STATUSES
from runtime.ledger.following import Following
from runtime.ledger.registers import Deriving

FOLLOWING = Following(RULEBOOK)
SHARE = event(
    "s",
    "intercompany_share",
    400,
    document="d",
    reference="r",
    counterparty="grace",
    department="er",
    attributes='{"a":1}',
)


def test_events_that_derive_nothing_are_followed_by_nothing():
    """A charge has no derived event and no status, and both frames keep their columns."""
    rows = stamped(charge("e1"))
    assert dict(FOLLOWING.derived(rows).schema) == DERIVED
    assert dict(FOLLOWING.told(rows).schema) == STATUSES
    assert FOLLOWING.derived(rows).is_empty()
    assert FOLLOWING.told(rows).is_empty()


def test_derived_event_for_a_counterparty_changes_places_with_it():
    """Entity and counterparty swap; facility and department are the first entity's and stay behind."""
    row = FOLLOWING.derived(stamped(SHARE)).row(0, named=True)
    assert (row["kind"], row["source"]) == ("intercompany_due", "penstock")
    assert (row["entity"], row["counterparty"]) == ("grace", "mercy")
    assert (row["facility"], row["department"]) == (None, None)
    assert (row["amount_minor"], row["reference"], row["attributes"]) == (400, "r", '{"a":1}')


def test_derived_event_for_the_same_entity_keeps_its_places():
    """What a card sale changes on an account goes to the account's own facility."""
    sale = event("s", "card_settled", 100, document="c", reference="p", counterparty="blue")
    row = FOLLOWING.derived(stamped(sale)).row(0, named=True)
    assert (row["kind"], row["entity"], row["facility"], row["account"]) == (
        "account_settled",
        "mercy",
        "north",
        "token-1",
    )
    assert row["counterparty"] == "blue"


@pytest.mark.parametrize(("reference", "document"), [("acme/7", "acme/7"), (None, "acme/C1")])
def test_credit_memo_that_names_no_bill_is_told_as_itself(reference, document):
    """Consumers are told of the bill that it corrects, or else of the memo."""
    memo = {"document": "acme/C1", "reference": reference, "counterparty": "acme"}
    told = FOLLOWING.told(stamped(event("m", "credit_memo_received", 100, **memo)))
    assert told.select("status", "document").rows() == [("credited", document)]


@pytest.mark.parametrize("column", ["account", "facility"])
def test_nothing_is_derived_where_a_needed_column_is_empty(column):
    """A card sale without account or facility changes no account."""
    rows = stamped(event("s", "card_settled", 100, document="c", reference="p") | {column: None})
    assert "account_settled" not in FOLLOWING.derived(rows)["kind"]


@pytest.mark.parametrize(("account", "follows"), [(None, ["card_money_unapplied"]), ("token-1", ["account_settled"])])
def test_what_follows_of_nobodys_events_does_not_follow_of_others(account, follows):
    """Of a card sale one thing or the other, as it names an account or none."""
    rows = stamped(event("s", "card_settled", 100, document="c", reference="p") | {"account": account})
    assert FOLLOWING.derived(rows)["kind"].to_list() == follows


def test_derived_event_is_named_by_its_cause():
    """The same cause derives the same id, another one another."""
    one, again, other = (
        FOLLOWING.derived(stamped(row))["event_id"][0] for row in (SHARE, SHARE, SHARE | {"event_id": "t"})
    )
    assert one == again != other
    assert one.startswith("intercompany_due:")


def test_what_registers_derive_is_let_in_however_long_its_keys_are():
    """A derived event's id fits the door's limit, whatever texts it is made of, and differs by cause."""
    columns = {
        "entity": "mercy",
        "document": "d" * 256,
        "reference": "r" * 256,
        "amount_minor": 5,
        "currency": "USD",
        "occurred_at": NOW_MS,
        "effective_on": date(2026, 9, 21),
    }
    derived = FOLLOWING.derivings([Deriving("eft_identified", f"mercy/{'d' * 255}{n}", columns) for n in range(2)])
    checked = validation.validate(schema.conform(derived), DERIVED_VOCABULARY, NOW_MS)
    assert checked.rejected.is_empty()
    assert derived["event_id"].n_unique() == 2


def test_registers_that_derive_nothing_give_an_empty_frame():
    """No derivation is a frame without rows."""
    assert dict(FOLLOWING.derivings([]).schema) == DERIVED


def test_status_is_about_the_document_that_its_rule_names():
    """A payment tells of the bill that it pays, under its own event, once however often it is asked."""
    paid = event("p", "payment_released", 90, document="PAY1", reference="acme/77", counterparty="acme")
    told = FOLLOWING.told(stamped(paid))
    row = told.row(0, named=True)
    assert (row["status"], row["document"], row["flow"], row["event_id"]) == ("paid", "acme/77", "payables", "p")
    assert FOLLOWING.told(stamped(paid))["status_id"].to_list() == told["status_id"].to_list()


def test_statuses_of_one_frame_come_in_the_order_of_the_rulebook():
    """An order is approved before its goods are received."""
    rows = stamped(
        event("r", "goods_received", document="R1", reference="PO1/1", quantity=1),
        event("o", "po_line_approved", document="PO1/1", counterparty="acme", quantity=1),
    )
    assert FOLLOWING.told(rows)["status"].to_list() == ["approved", "received"]
