"""A payout whose money the bank knows by a trace."""

from builders import Run, event


def payout(**columns: object) -> dict:
    return event("p", "payout_paid", 900, document="po-1", **columns)


def settled() -> dict:
    return event("s", "card_settled", 900, document="ca-1", reference="po-1")


def captured() -> list[dict]:
    return [
        event("a", "card_authorised", 900, document="au-1"),
        event("c", "card_captured", 900, document="ca-1", reference="au-1"),
    ]


def deposit(reference: str) -> dict:
    return event("d", "deposit_received", 900, document="dep-1", reference=reference)


def test_payout_with_a_trace_is_paid_by_the_deposit_that_names_it() -> None:
    """The deposit's reference is the trace, not the payout's own number; CARD_CLEARING is zero after it."""
    run = Run()
    run.take(*captured(), settled(), payout(correlation_id="ST-77"), deposit("ST-77"))
    assert (run.state("d"), run.balance("CARD_CLEARING"), run.balance("CASH")) == ("booked", 0, 900)


def test_payout_without_a_trace_is_paid_under_its_own_number() -> None:
    """Where no other name is told, the payout's number is what the deposit names."""
    run = Run()
    run.take(*captured(), settled(), payout(), deposit("po-1"))
    assert (run.state("d"), run.balance("CARD_CLEARING")) == ("booked", 0)
