"""Calls of several requests that take too long: whoever took over has looked up by then, so the rest is not sent."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from erp_vendors import VENDORS, ErpBench, Vendor, codes_of, of_total

from adapters.erp.doubles.exchange import Answer
from adapters.erp.http.fault import ErpFault

BY_NAME = {vendor.name: vendor for vendor in VENDORS}
SEVERAL = (BY_NAME["xero"], BY_NAME["quickbooks"], BY_NAME["fusion"])
Open = Callable[[Vendor], ErpBench]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    benches: list[ErpBench] = []

    def open_one(vendor: Vendor) -> ErpBench:
        benches.append(ErpBench(vendor, tmp_path))
        return benches[-1]

    yield open_one
    for bench in benches:
        bench.close()


def slowed(bench: ErpBench, monkeypatch: pytest.MonkeyPatch, handler: str, seconds: float) -> None:
    """Let each request of this handler take so long, by the clock that everybody shares."""
    answered = getattr(bench.double, handler)

    def slow(*given: object, **named: object) -> Answer:
        bench.clock.sleep(seconds)
        return answered(*given, **named)

    monkeypatch.setattr(bench.double, handler, slow)


@pytest.mark.parametrize("vendor", SEVERAL, ids=[vendor.name for vendor in SEVERAL])
def test_late_request_of_a_call_is_not_sent(opened: Open, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first request that takes longer than the call's other ones may wait leaves those unsent, as nothing applied."""
    bench = opened(vendor)
    slowed(bench, monkeypatch, "_handled", bench.gateway.terms().begins_s + 1)
    outcomes = bench.gateway.post([of_total(5), of_total(6, "south")])
    assert codes_of(outcomes)[1] == "unavailable"
    assert "too long ago" in outcomes[1].detail
    monkeypatch.undo()
    assert codes_of(bench.ended(outcomes[:1])) == ["posted"]
    assert bench.booked() == {5: 1}
    assert codes_of(bench.post(of_total(6, "south"))) == ["posted"]


def test_late_posting_of_a_journal_that_is_there_goes_on(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Business Central posts late is a journal that every lookup removes first, so it needs no deadline."""
    bench = opened(BY_NAME["business_central"])
    slowed(bench, monkeypatch, "batch", bench.gateway.terms().begins_s + 1)
    assert codes_of(bench.post(of_total(5), of_total(6, "south"))) == ["posted", "posted"]
    assert bench.booked() == {5: 1, 6: 1}


def test_late_token_makes_a_call_too_late(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token server that took too long counts like any request before; the next call has the token already."""
    bench = opened(BY_NAME["business_central"])
    tokens = bench.double.access.token
    monkeypatch.setattr(
        bench.double.access,
        "token",
        lambda request, now_ms: (answer := tokens(request, now_ms)) and (bench.clock.sleep(99), answer)[1],
    )
    [outcome] = bench.post(of_total(5))
    assert (outcome.code, bench.ledger.documents) == ("unavailable", [])
    assert codes_of(bench.post(of_total(5))) == ["posted"]


def test_late_journal_is_found_posted_or_removed_for_good(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that a former sender posts while somebody looks its documents up is found, not sent again."""
    bench = opened(BY_NAME["business_central"])
    former, journals = bench.connect(), bench.double.list_journals
    monkeypatch.setattr(former.http, "send", _without_posting(former.http.send))
    assert codes_of(former.post([of_total(5)])) == ["unknown"]
    [left] = bench.double.journals()

    def posted_meanwhile(*given: object, **named: object) -> Answer:
        bench.double.post_journal(*given, "c-north", left.id)
        monkeypatch.setattr(bench.double, "list_journals", journals)
        return journals(*given, **named)

    monkeypatch.setattr(bench.double, "list_journals", posted_meanwhile)
    assert set(bench.gateway.lookup([of_total(5).key]) or {}) == {of_total(5).key}
    former.close()


def _without_posting(send: Callable) -> Callable:
    def sent(request: object, **named: object) -> object:
        if request.path.endswith("Microsoft.NAV.post"):  # type: ignore[attr-defined]
            raise ErpFault("unknown", "it is under way")
        return send(request, **named)

    return sent
