"""The exceptions that a health system's finance works with: each row of the domain's table is a type."""

import pytest

from adapters.settings import standard_rulebook_text
from runtime.ledger.rule_file import parse_rulebook

TYPES = parse_rulebook(standard_rulebook_text()).exception
RC, FO, IS = "revenue_cycle", "finance_operations", "integration_support"
DAY_H, MONTH_H = 24, 720

# What happens, the type that it becomes, its owner, hours until it is looked at and until it is ended, and a word of
# what the runtime does by itself. An hour is the least that a triage may have.
TABLE = [
    ("file malformed", "file_malformed", IS, 1, DAY_H, "set aside"),
    ("batch not taken by its receiver", "batch_rejected", IS, 1, DAY_H, "send it again"),
    ("remittance out of balance", "remit_out_of_balance", RC, 4, 2 * DAY_H, "held"),
    ("same identity, other content", "event_conflict", IS, 4, DAY_H, "first content stands"),
    ("unknown payer", "unknown_payer", FO, 4, DAY_H, "mapped"),
    ("unknown payee", "unknown_payee", FO, 4, DAY_H, "mapped"),
    ("claim that nobody submitted", "unmatched_claim", RC, DAY_H, 5 * DAY_H, "unapplied cash"),
    ("remittance without money", "missing_eft", FO, DAY_H, 5 * DAY_H, ""),
    ("money without remittance", "missing_era", RC, DAY_H, 5 * DAY_H, "held"),
    ("money that fits several remittances", "eft_ambiguous", FO, DAY_H, 5 * DAY_H, "unapplied cash"),
    ("trace equal, amount not", "eft_amount_mismatch", FO, 4, 2 * DAY_H, "no plug"),
    ("unknown PLB code", "unknown_plb", RC, DAY_H, 5 * DAY_H, "suspense"),
    ("takeback without basis", "takeback_without_basis", RC, DAY_H, 5 * DAY_H, "suspense"),
    ("denial", "denial", RC, DAY_H, 5 * DAY_H, "approval"),
    ("underpayment", "underpayment", RC, 5 * DAY_H, MONTH_H, "variance"),
    ("account in credit", "credit_balance", RC, 5 * DAY_H, 2 * MONTH_H, "refund"),
    ("card payment of nobody", "unmatched_card_payment", FO, 4, 2 * DAY_H, "held"),
    ("card payment without an account", "card_payment_unapplied", FO, 4, 2 * DAY_H, "unapplied cash"),
    ("payout is not its sum", "payout_mismatch", FO, 4, 2 * DAY_H, "no plug"),
    ("chargeback", "chargeback", FO, DAY_H, 14 * DAY_H, "posted"),
    ("payment that was made before", "duplicate_payment_event", IS, 4, DAY_H, "held"),
    ("failure of a refund that nobody paid", "failure_without_payment", FO, 4, 2 * DAY_H, "held"),
    ("refund failed", "refund_failed", FO, DAY_H, 5 * DAY_H, "open again"),
    ("no mapping", "mapping_missing", FO, 4, DAY_H, "books by itself"),
    ("ERP refuses, for its period too", "erp_rejected", FO, 4, DAY_H, "parked"),
    ("ERP's answer was lost", "erp_unknown_outcome", IS, 0.25, 4, "before any re-send"),
    ("price does not match", "match_failed_price", FO, DAY_H, 5 * DAY_H, "payment held"),
    ("quantity does not match", "match_failed_quantity", FO, DAY_H, 5 * DAY_H, "payment held"),
    ("receipt does not match", "match_failed_receipt", FO, DAY_H, 5 * DAY_H, "payment held"),
    ("invoice twice", "duplicate_invoice_suspect", FO, DAY_H, 2 * DAY_H, "blocked"),
    ("other supplier than ordered", "vendor_mismatch", FO, DAY_H, 3 * DAY_H, "return to the supplier"),
    ("invoice without its order", "missing_po_reference", FO, DAY_H, 3 * DAY_H, "held"),
    ("approval overdue", "approval_overdue", FO, DAY_H, 3 * DAY_H, "escalate"),
    ("payment never confirmed", "payment_confirmation_lost", IS, 4, DAY_H, ""),
    ("implant used, not charged", "implant_uncharged", RC, DAY_H, 3 * DAY_H, ""),
    ("implant charged, not received", "implant_charged_unreceived", FO, DAY_H, 3 * DAY_H, ""),
    ("sums differ", "reconciliation_break", FO, DAY_H, DAY_H, ""),
    ("older than what is known", "late_out_of_order", IS, DAY_H, DAY_H, "ignored by rank"),
]


@pytest.mark.parametrize(("type", "owner", "triage_h", "resolve_h", "does"), [row[1:] for row in TABLE])
def test_exception_type_has_its_owner_its_due_times_and_what_happens_by_itself(type, owner, triage_h, resolve_h, does):
    """Each row of the table is a type of the standard rulebook with this owner, these hours and this action."""
    rule = TYPES[type]
    assert (rule.owner, rule.triage_h, rule.resolve_h) == (owner, triage_h, resolve_h)
    assert does in rule.action


@pytest.mark.parametrize("type", sorted(TYPES))
def test_exception_type_is_looked_at_before_it_must_be_ended(type):
    """No type is due before somebody had to look at it, and none is without an action in words."""
    rule = TYPES[type]
    assert 0 < rule.triage_h <= rule.resolve_h
    assert rule.action
