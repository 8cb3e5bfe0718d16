"""The workload of the simulator: every kind is sent, and what belongs together meets."""

import random

from adapters.settings import standard_rulebook_text
from runtime.ledger.rule_file import parse_rulebook
from simulation.workload.flows import application, retold
from simulation.workload.stories import Stories

RULEBOOK = parse_rulebook(standard_rulebook_text())
ROWS = 6000


def told(teller, times: int = 60) -> list[list[dict]]:
    """So many stories of one teller."""
    stories = Stories(RULEBOOK, random.Random(7))
    stories.place = {"entity": "mercy", "currency": "USD"}
    return [teller(stories) for _ in range(times)]


def test_workload_holds_every_kind_that_a_source_may_send():
    """No kind of the rulebook is left out, so that the auditor has met all of them."""
    sent = {row["kind"] for story in Stories(RULEBOOK, random.Random(7)).tell(ROWS) for row in story}
    assert sent == {name for name, kind in RULEBOOK.kind.items() if not kind.derived}


def test_workload_applies_bank_money_to_remittances_that_are_there():
    """What somebody says of a deposit names that deposit, and remittances of just these amounts."""
    for money, *rows in told(application):
        applied = {(row["reference"], row["amount_minor"]) for row in rows if row["kind"] == "cash_applied"}
        remits = {(row["reference"], row["amount_minor"]) for row in rows if row["kind"] == "remittance_received"}
        assert applied == remits
        assert {row["correlation_id"] for row in rows if row["kind"] == "cash_applied"} == {money["document"]}


def test_workload_tells_some_money_twice_under_several_names():
    """Of some remittances the same money comes twice; now and then under another name of its payer, or under none."""
    tellings = [[row for row in story if row["kind"] == "eft_received"] for story in told(retold)]
    assert any(one["amount_minor"] == other["amount_minor"] for one, other in tellings)
    assert any(one["counterparty"] != other["counterparty"] for one, other in tellings)
