"""The doubles' own parts: books, limits and trouble, as the proof relies on them."""

from datetime import date
from decimal import Decimal

import pytest

from adapters.erp.doubles.ledger import Company, Ledger, Line, Refused
from adapters.erp.doubles.limits import RequestLimits, Window
from adapters.erp.doubles.trouble import FAULTS, Trouble

DAY = date(2026, 3, 5)


def line(account: str, amount: str) -> Line:
    units = Decimal(amount)
    return Line(account, max(units, Decimal(0)), max(-units, Decimal(0)))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger({"c": Company("USD", frozenset({"1", "2"}), date(2026, 1, 1), date(2026, 12, 31))})


@pytest.mark.parametrize(
    ("lines", "booked_on", "company", "currency", "reason"),
    [
        (["1 5.00", "2 -4.99"], DAY, "c", "", "unbalanced"),
        (["1 5.001", "2 -5.001"], DAY, "c", "", "unbalanced"),
        (["1 5", "3 -5"], DAY, "c", "", "unknown_account"),
        (["1 5", "2 -5"], date(2025, 12, 31), "c", "", "closed_period"),
        (["1 5", "2 -5"], DAY, "c", "EUR", "currency"),
        (["1 5", "2 -5"], DAY, "d", "", "no_company"),
        ([], DAY, "c", "", "no_lines"),
    ],
)
def test_ledger_refuses_what_no_erp_would_book(
    ledger: Ledger, lines: list[str], booked_on: date, company: str, currency: str, reason: str
) -> None:
    """Each rule of double entry refuses its own breach, and nothing is booked."""
    with pytest.raises(Refused) as refused:
        ledger.book(company, "k", booked_on, [line(*each.split()) for each in lines], currency)
    assert refused.value.reason == reason
    assert not ledger.documents


def test_ledger_keeps_documents_keys_and_turnover(ledger: Ledger) -> None:
    """What is booked is there under its key, counted, and summed by account and side."""
    for key in ("a", "b", "b"):
        ledger.book("c", key, DAY, [line("1", "0.10"), line("2", "-0.10")])
    assert ledger.keys() == {"a": 1, "b": 2}
    assert [document.number for document in ledger.by_key("b")] == ["c-2", "c-3"]
    assert ledger.turnover("c") == {"1": (Decimal("0.30"), 0), "2": (0, Decimal("0.30"))}


def test_limits_window_slides_and_counts_what_it_refuses() -> None:
    """Two in a second: the third is refused and told when there is room; after that it is admitted."""
    limits = RequestLimits([Window("second", 1.0, 2)])
    assert limits.admit(0, 1) is None
    assert limits.admit(400, 1) is None
    over = limits.admit(500, 1)
    assert over is not None
    assert (over.name, over.retry_after_s) == ("second", 0.5)
    assert limits.admit(1000, 1) is None
    assert (limits.refused["second"], limits.peaks["second"]) == (1, 2)


def test_limits_cut_on_order_is_counted_apart() -> None:
    """What only a cut quota refuses is no fault of the caller's, and does not count as exceeding the stated limit."""
    limits = RequestLimits([Window("minute", 60.0, 4)])
    limits.share = 0.5
    assert [limits.admit(0, 1) is None for _ in range(3)] == [True, True, False]
    assert (limits.cut["minute"], limits.refused["minute"]) == (1, 0)


def test_limits_concurrency_refuses_one_too_many() -> None:
    """Requests beyond those allowed at once are refused, and the peak is remembered."""
    limits = RequestLimits(concurrency=2)
    assert limits.admit(0, 2) is None
    assert limits.admit(0, 3) is not None
    assert limits.peaks["concurrency"] == 3


def test_trouble_from_one_seed_is_the_same_and_planned_faults_come_first() -> None:
    """Equal seeds give equal faults, so a failure can be run again; what is planned is met before."""
    rates = {fault: 0.1 for fault in FAULTS if fault != "none"}
    one, other = Trouble(7, rates), Trouble(7, rates)
    one.plan("maintenance", "lose_answer")
    assert [one.next(), one.next()] == ["maintenance", "lose_answer"]
    drawn = [one.next() for _ in range(200)]
    assert drawn == [other.next() for _ in range(200)]
    assert set(drawn) == set(FAULTS)
    one.end()
    assert {one.next() for _ in range(50)} == {"none"}


def test_trouble_of_an_unknown_name_is_refused() -> None:
    """A fault that does not exist is an error, not a silence."""
    with pytest.raises(ValueError, match="lose_anwser"):
        Trouble().plan("lose_anwser")
