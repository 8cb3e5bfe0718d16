"""The exceptions that a health system's finance works with: each row of the domain's table is a type."""

import pytest

from adapters.settings import standard_rulebook_text
from runtime.ledger.ageing import ageing
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import ExceptionType

TYPES = parse_rulebook(standard_rulebook_text()).exception
RC, FO, IS = "revenue_cycle", "finance_operations", "integration_support"


def hours(count: float) -> tuple[float, int]:
    """A target in hours, round the clock."""
    return count, 0


def days(count: int) -> tuple[float, int]:
    """A target in business days."""
    return 0, count


# Each row of the domain's table, the types that it becomes, their owner, when one is looked at and when it is ended, a
# word of what the runtime does by itself, and whether trying again needs a second person. An hour is the least that
# the triage of what goes by itself may have.
TABLE = [
    ("file malformed", "file_malformed", IS, hours(1), days(1), "set aside", "free"),
    ("batch not taken by its receiver", "batch_rejected", IS, hours(1), days(1), "send it again", "free"),
    ("remittance out of balance", "remit_out_of_balance", RC, hours(4), days(2), "held", "free"),
    ("same identity, other content", "event_conflict", IS, hours(4), days(1), "first content stands", "free"),
    ("same remittance, other content", "remit_conflict", RC, hours(4), days(1), "first content stands", "free"),
    ("unknown payer", "unknown_payer", FO, hours(4), days(1), "mapped", "free"),
    ("unknown payee", "unknown_payee", FO, hours(4), days(1), "mapped", "free"),
    ("claim that nobody submitted", "unmatched_claim", RC, days(1), days(5), "unapplied cash", "free"),
    ("remittance without money", "missing_eft", FO, days(1), days(5), "", "free"),
    ("money without remittance", "missing_era", RC, days(1), days(5), "held", "free"),
    ("money that fits several remittances", "eft_ambiguous", FO, days(1), days(5), "unapplied cash", "free"),
    ("bank money of nobody", "unidentified_deposit", FO, days(1), days(5), "unapplied cash", "free"),
    ("bank debit of nobody", "unidentified_debit", FO, days(1), days(5), "suspense", "free"),
    ("application of money that has not come", "application_without_money", FO, hours(4), days(1), "held", "free"),
    ("application that nobody asked for", "application_without_request", FO, hours(4), days(1), "held", "free"),
    ("trace equal, amount not", "eft_amount_mismatch", FO, hours(4), days(2), "no plug", "free"),
    ("money that another source told", "eft_told_twice", IS, days(1), days(5), "exclude it", "approved"),
    ("unknown PLB code", "unknown_plb", RC, days(1), days(5), "suspense", "free"),
    ("takeback without basis", "takeback_without_basis", RC, days(1), days(5), "suspense", "free"),
    ("denial", "denial", RC, days(1), days(5), "approval", "free"),
    ("underpayment", "underpayment", RC, days(5), hours(30 * 24), "variance", "free"),
    ("account in credit", "credit_balance", RC, days(5), hours(60 * 24), "refund", "free"),
    ("card payment of nobody", "unmatched_card_payment", FO, hours(4), days(2), "held", "free"),
    ("card payment without an account", "card_payment_unapplied", FO, hours(4), days(2), "unapplied cash", "free"),
    ("payout is not its sum", "payout_mismatch", FO, hours(4), days(2), "no plug", "free"),
    ("chargeback", "chargeback", FO, days(1), hours(14 * 24), "posted", "free"),
    ("payment that was made before", "duplicate_payment_event", IS, hours(4), days(1), "held", "approved"),
    ("failure of a refund that nobody paid", "failure_without_payment", FO, hours(4), days(2), "held", "free"),
    ("refund failed", "refund_failed", FO, days(1), days(5), "open again", "free"),
    ("no mapping", "mapping_missing", FO, hours(4), days(1), "books by itself", "free"),
    ("ERP refuses, for its period too", "erp_rejected", FO, hours(4), days(1), "parked", "free"),
    ("ERP does not answer", "erp_timeout", IS, hours(1), hours(4), "by itself", "free"),
    ("ERP's answer was lost", "erp_unknown_outcome", IS, hours(0.25), hours(4), "before any re-send", "free"),
    ("price does not match", "match_failed_price", FO, days(1), days(5), "payment held", "free"),
    ("quantity does not match", "match_failed_quantity", FO, days(1), days(5), "payment held", "free"),
    ("receipt does not match", "match_failed_receipt", FO, days(1), days(5), "payment held", "free"),
    ("invoice twice", "duplicate_invoice_suspect", FO, days(1), days(2), "blocked", "approved"),
    ("other supplier than ordered", "vendor_mismatch", FO, days(1), days(3), "return to the supplier", "approved"),
    ("invoice without its order", "missing_po_reference", FO, days(1), days(3), "held", "free"),
    ("approval overdue", "approval_overdue", FO, days(1), days(3), "escalate", "free"),
    ("payment never confirmed", "payment_confirmation_lost", IS, hours(4), days(1), "", "free"),
    ("implant used, not charged", "implant_uncharged", RC, days(1), days(3), "", "free"),
    ("implant charged, not received", "implant_charged_unreceived", FO, days(1), days(3), "", "free"),
    ("sums differ", "reconciliation_break", FO, days(1), days(1), "", "free"),
    ("older than what is known", "late_out_of_order", IS, days(1), days(1), "ignored by rank", "free"),
]


@pytest.mark.parametrize(("type", "owner", "triage", "resolve", "does", "redrive"), [row[1:] for row in TABLE])
def test_exception_type_has_its_owner_its_due_times_and_what_happens_by_itself(
    type, owner, triage, resolve, does, redrive
):
    """Each row of the table is a type of the standard rulebook with this owner, these targets and this action."""
    rule = TYPES[type]
    assert (rule.owner, rule.redrive) == (owner, redrive)
    assert ((rule.triage_h, rule.triage_days), (rule.resolve_h, rule.resolve_days)) == (triage, resolve)
    assert does in rule.action
    assert rule.severity


@pytest.mark.parametrize("type", sorted(TYPES))
def test_exception_type_is_looked_at_before_it_must_be_ended(type):
    """No type is due before somebody had to look at it, and none is without an action in words."""
    rule = TYPES[type]
    monday_ms = 1_790_000_000_000
    triage = ExceptionType(
        owner=rule.owner, severity="low", action="", resolve_h=rule.triage_h, resolve_days=rule.triage_days, triage_h=1
    )
    assert monday_ms < ageing(monday_ms, monday_ms, triage).due_at_ms <= ageing(monday_ms, monday_ms, rule).due_at_ms
    assert rule.action
