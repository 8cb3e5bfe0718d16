"""The rules of approval, the form of proposals, and what may be decided on which exception."""

from datetime import date

import polars as pl
import pytest

from adapters.settings import standard_rulebook_text
from runtime.errors import GovernanceError, SameSigner
from runtime.ledger import governance
from runtime.ledger.crosswalk import CrosswalkRow
from runtime.ledger.registers import ItemFlag
from runtime.ledger.rule_file import parse_rulebook
from runtime.schema import STAMPED
from runtime.step import Step, exception_id, moves

STANDARD = standard_rulebook_text()
RULEBOOK = parse_rulebook(STANDARD)
TYPES = governance.holding_types(RULEBOOK)
TABLE, CLASS = next((kind.classify, next(iter(kind.case))) for kind in RULEBOOK.kind.values() if kind.classify)
MASTER = governance.master_data(RULEBOOK, ["mercy", "lakeside"])


def rows(*given: dict) -> list[CrosswalkRow]:
    return governance.mapping_rows(given, MASTER)


def exception(type: str, event_id: str = "e-1", state: str = "open") -> dict:
    return {"exception_id": "a" * 16, "type": type, "source": "ehr", "event_id": event_id, "state": state}


# ── signers ──


@pytest.mark.parametrize("name", ["Ada", "ADA", " ada ", "Ａｄａ"])
def test_second_signer_is_never_the_first_however_it_is_written(name):
    """Case, blanks and the width of letters make no other person."""
    with pytest.raises(SameSigner):
        governance.second_signer(1, "Ada", name)


def test_second_signer_is_stored_trimmed():
    """A name keeps its letters and loses needless blanks."""
    assert governance.second_signer(1, "Ada", "  Grace \t Hopper ") == "Grace Hopper"


# ── mapping rows ──


def test_rows_of_every_sort_of_master_data_are_taken():
    """Accounts of roles, policies, classes and partners are rows alike; empty values count as absent."""
    given = [
        {"role": "CASH", "account": "1010", "entity": "mercy", "valid_from": "2026-07-01", "facility": ""},
        {"role": "POLICY_BAD_DEBT", "account": "BAD_DEBT", "department": None},
        {"role": "POLICY_PRICE_PERCENT", "account": "2"},
        {"role": f"CLASS_{TABLE}/CO-45", "account": CLASS},
        {"role": "SUPPLIER", "account": "acme", "counterparty": "acme"},
        {"role": "UNLISTED_ADJUSTMENT/OB", "account": "1450", "counterparty": "blue"},
    ]
    checked = rows(*given)
    assert checked[0] == CrosswalkRow(entity="mercy", role="CASH", account="1010", valid_from=date(2026, 7, 1))
    assert [row.role for row in checked] == [row["role"] for row in given]
    assert checked[4].counterparty == "acme"


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"role": "CASH"}, "row 2: .*account"),
        ({"account": "1"}, "row 2: .*role"),
        ({"role": "CASH", "account": 7}, r"row 2: .*\$\.account"),
        ({"role": "CASH", "account": "1", "unit": "x"}, "row 2: .*unit"),
        ({"role": "CASH", "account": "1", "valid_from": "soon"}, r"row 2: .*\$\.valid_from"),
        ({"role": "CASH", "account": "1", "entity": "nobody"}, "row 2: entity: 'nobody' is not a configured entity"),
        ({"role": "CASHH", "account": "1"}, "row 2: role: 'CASHH' is nothing that a rule asks for"),
        ({"role": "POLICY_BAD_DEBTS", "account": "BAD_DEBT"}, "row 2: role: .* is nothing that a rule asks for"),
        ({"role": "CLASS_nothing/CO-45", "account": "x"}, "row 2: role: .* is nothing that a rule asks for"),
        ({"role": f"CLASS_{TABLE}/", "account": CLASS}, "row 2: role: .* is nothing that a rule asks for"),
        ({"role": "UNLISTED_ADJUSTMENT/", "account": "1"}, "row 2: role: .* is nothing that a rule asks for"),
        ({"role": "UNLISTED_ADJUSTMENT", "account": "1"}, "row 2: role: .* is nothing that a rule asks for"),
        ({"role": f"CLASS_{TABLE}/CO-45", "account": "x"}, "row 2: account: 'x' is no answer to CLASS_"),
        (
            {"role": "POLICY_BAD_DEBT", "account": "NEVER"},
            "'NEVER' is no answer .*; known are BAD_DEBT, IMPL",
        ),
        ({"role": "CASH", "account": "1" * 65}, "row 2: account: .* has more than 64 characters"),
        ({"role": "AR_INS", "account": "2"}, "row 2: role: row 1 maps AR_INS at the same place and date"),
    ],
)
def test_wrong_row_is_named_with_its_field(spoiled, message):
    """A proposal with a wrong row is refused as a whole, and the sentence names row and field."""
    with pytest.raises(GovernanceError, match=message):
        rows({"role": "AR_INS", "account": "1200"}, spoiled)


@pytest.mark.parametrize("count", [0, governance.MAPPING_ROWS_MAX + 1])
def test_proposal_has_rows_and_not_too_many(count):
    """An empty proposal and one over the limit are refused."""
    with pytest.raises(GovernanceError, match=f"this one has {count}"):
        rows(*[{"role": "CASH", "account": "1"}] * count)


def test_equal_rows_are_stored_as_equal_text():
    """What is stored of rows does not depend on the order of their fields."""
    one, other = {"role": "CASH", "account": "1"}, {"account": "1", "role": "CASH"}
    assert governance.rows_json([one]) == governance.rows_json([other])


# ── decisions ──


def test_every_second_action_needs_two_persons_and_a_retry_where_the_rule_says_so():
    """Releasing and excluding are never one person's; retrying is, unless a type's rule asks for approval."""
    free, approved = "mapping_missing", "denial"
    known = {name: rule.__class__(**{**_fields(rule), "redrive": "free"}) for name, rule in RULEBOOK.exception.items()}
    known[approved] = known[approved].__class__(**{**_fields(known[approved]), "redrive": "approved"})
    assert not governance.needs_approval("retry", [free, "unheard of"], known)
    assert governance.needs_approval("retry", [free, approved], known)
    assert all(governance.needs_approval(action, [free], known) for action in ("release", "exclude"))


def _fields(rule: object) -> dict:
    return {name: getattr(rule, name) for name in rule.__struct_fields__}


def test_decision_over_many_exceptions_is_cut_into_parts():
    """No part exceeds the limit of one log entry, and together they are all of them, in order."""
    ids = [f"{n:016x}" for n in range(governance.DECISION_EXCEPTIONS_MAX + 1)]
    parts = governance.proposals("retry", ids)
    assert [len(part.exceptions) for part in parts] == [governance.DECISION_EXCEPTIONS_MAX, 1]
    assert [id for part in parts for id in part.exceptions] == ids
    assert governance.proposals("retry", []) == []


def test_held_event_can_be_decided_on_and_not_closed():
    """An exception that holds an event ends by what becomes of the event, never by hand."""
    held = exception("mapping_missing")
    governance.check_decidable(held, TYPES)
    with pytest.raises(GovernanceError, match="an event is held under it"):
        governance.check_closable(held, TYPES)


@pytest.mark.parametrize(
    "open_one", [exception("denial"), exception("feed_malformed", ""), exception("reconciliation_break", "")]
)
def test_exception_that_holds_nothing_can_be_closed_and_not_decided_on(open_one):
    """What was raised beside a booked event, or by no event, is ended by hand."""
    governance.check_closable(open_one, TYPES)
    with pytest.raises(GovernanceError, match="no event is held under it"):
        governance.check_decidable(open_one, TYPES)


def test_engine_tells_remarks_from_held_events_by_their_ids():
    """One type may hold an event or only speak of it: the engine's ids tell which it is."""
    step = Step("5-0")
    event = dict.fromkeys(STAMPED) | {"event_id": "e-1", "source": "ehr", "entity": "mercy", "currency": "USD"}
    event |= {"id_hash": 7, "digest": 8, "amount_minor": 100, "kind": "charge_posted"}
    step.excepted(moves(pl.DataFrame([event], schema=STAMPED), fault="unmatched_dispute"), 1_790_000_000_000)
    remark = ItemFlag("unmatched_dispute", "mercy", "ehr", "e-1", "USD", 100, True)
    step.flag([remark, remark._replace(cause="dispute")], 1_790_000_000_000)
    both = step.effects(0, 0).exceptions.with_columns(pl.lit("open").alias("state"))
    held = [row for row in both.iter_rows(named=True) if governance.holds_event(row, TYPES)]
    remarks = [row for row in both.iter_rows(named=True) if not governance.holds_event(row, TYPES)]
    assert (len(held), len(remarks)) == (1, 2)
    assert held[0]["exception_id"] == exception_id(("unmatched_dispute", 7))
    governance.check_decidable(held[0], TYPES)
    governance.check_closable(remarks[0], TYPES)


@pytest.mark.parametrize("type", ["erp_rejected", "erp_unknown_outcome", "erp_unauthorised"])
def test_exception_of_a_delivery_ends_with_its_entry(type):
    """Neither a decision nor a hand ends what an ERP said."""
    for check in (governance.check_decidable, governance.check_closable):
        with pytest.raises(GovernanceError, match="journal entry"):
            check(exception(type, "PS-1"), TYPES)


def test_exception_of_an_entry_that_stands_twice_at_the_erp_is_closed_by_hand():
    """Only a person knows that it was reversed there."""
    governance.check_closable(exception("reconciliation_break", "PS-1"), TYPES)


def test_ended_exception_is_left_alone():
    """What is resolved can be neither decided on nor closed."""
    for check in (governance.check_decidable, governance.check_closable):
        with pytest.raises(GovernanceError, match="is resolved already"):
            check(exception("denial", state="resolved"), TYPES)


@pytest.mark.parametrize(("role", "value"), [("POLICY_PRICE_PERCENT", "two"), ("POLICY_MATCH_LEVEL", "5")])
def test_governance_refuses_a_policy_value_that_matching_cannot_read(role: str, value: str) -> None:
    """A level or tolerance is checked when it is proposed, and the refusal names the field."""
    with pytest.raises(GovernanceError, match="account"):
        governance.mapping_rows([{"role": role, "account": value}], governance.master_data(RULEBOOK, {"mercy"}))
