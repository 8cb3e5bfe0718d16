"""Registers of a shard: which rows are entered, what is remembered until they are booked, and what a dump keeps."""

from unit.engine.builders import MAPPING, NOW_MS, OPENS_ON, RULEBOOK, event, stamped

from runtime.ledger.correlation import Correlation, facts_of
from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow

PAID = event("p", "claim_paid", 70, document="c1", reference="r1", counterparty="blue")
SUBMITTED = event("s", "claim_submitted", 100, document="c1")
UNAPPLIED = {"role": "POLICY_UNMATCHED_CLAIM", "account": "UNAPPLIED"}


def correlation(*rows: dict) -> Correlation:
    """The standard registers, with policies mapped."""
    crosswalk = Crosswalk()
    crosswalk.apply(1, [CrosswalkRow(**row) for row in (*MAPPING, *rows)])
    return Correlation(RULEBOOK, crosswalk, OPENS_ON)


def test_correlation_remembers_findings_until_their_events_are_booked():
    """What a register found is there for posting, and gone after it."""
    registers, rows = correlation(UNAPPLIED), stamped(PAID)
    assert registers.enter(facts_of(rows), NOW_MS) == [""]
    (id,) = rows["id_hash"]
    assert registers.findings[id].measures["unapplied"] == 70
    registers.booked([id])
    registers.booked([id])
    assert registers.findings == {}


def test_correlation_enters_a_row_once_while_it_is_held():
    """A row that is tried again, as its account was missing, is not counted twice."""
    registers, rows = correlation(UNAPPLIED), stamped(PAID)
    registers.enter(facts_of(rows), NOW_MS)
    registers.enter(facts_of(rows), NOW_MS)
    found = registers.enter(facts_of(stamped(SUBMITTED)), NOW_MS)
    assert found == [""]
    assert [finding.measures["identified"] for finding in registers.findings.values()] == [-70, 70]


def test_correlation_asks_policies_of_the_crosswalk_and_falls_back_to_defaults():
    """A policy that nobody mapped has the rulebook's answer."""
    registers, rows = correlation(), stamped(PAID)
    registers.enter(facts_of(rows), NOW_MS)
    assert [finding.measures["unapplied"] for finding in registers.findings.values()] == [0]


def test_correlation_passes_over_rows_whose_optional_key_is_empty_only():
    """A bill line without an order is entered, as its register divides it; a fault is not remembered."""
    registers = correlation()
    bill = {"correlation_id": "acme/1", "counterparty": "acme", "quantity": 1}
    rows = stamped(
        event("a", "invoice_line_billed", 9, document="acme/1/1", **bill),
        event("b", "invoice_line_billed", 9, document="acme/1/2", reference="ghost", **bill),
    )
    assert registers.enter(facts_of(rows), NOW_MS) == ["", "missing_po_reference"]
    assert [finding.measures["expense"] for finding in registers.findings.values()] == [9]


def test_correlation_drains_the_marks_of_every_register_once():
    """Flags, holds, derived events and statuses of all registers come together."""
    registers = correlation(UNAPPLIED)
    registers.enter(facts_of(stamped(PAID, SUBMITTED)), NOW_MS)
    marks = registers.drain()
    assert [flag.raised for flag in marks.flags] == [True, False]
    assert [one.status for one in marks.told] == ["submitted"]
    assert registers.drain() == ([], [], [], [], [])


def test_correlation_reloaded_goes_on_alike():
    """A dump keeps registers and findings."""
    registers, again = correlation(UNAPPLIED), correlation(UNAPPLIED)
    registers.enter(facts_of(stamped(PAID)), NOW_MS)
    registers.drain()
    again.load(registers.dump())
    assert again.dump() == registers.dump()
    assert again.findings == registers.findings
    again.enter(facts_of(stamped(SUBMITTED)), NOW_MS)
    assert [flag.raised for flag in again.drain().flags] == [False]
