"""What is particular to Business Central: journals over several companies, drafts left behind, document numbers."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from erp_vendors import ACCOUNTS, VENDORS, ErpBench, codes_of, of_total

from adapters.erp.business_central import document_number
from adapters.erp.doubles.ledger import Company


@pytest.fixture
def erp(tmp_path: Path) -> Iterator[ErpBench]:
    bench = ErpBench(next(vendor for vendor in VENDORS if vendor.name == "business_central"), tmp_path)
    yield bench
    bench.close()


def close_south(erp: ErpBench) -> None:
    """South's year has ended; North's goes on."""
    erp.ledger.companies["c-south"] = Company("EUR", ACCOUNTS, date(2027, 1, 1))


def drafts(erp: ErpBench) -> list[str]:
    """The lines of journals that are not posted, by document number."""
    kept = erp.double.journals()
    return sorted(line.documentNumber for each in kept for line in each.journal.journalLines)


def test_business_central_call_whose_first_company_refuses_applies_nothing(erp: ErpBench) -> None:
    """While nothing of a call is posted, a refusal is everyone's, with one reason, and no journal stays behind."""
    close_south(erp)
    outcomes = erp.gateway.post([of_total(1, "south"), of_total(2), of_total(3)])
    assert codes_of(outcomes) == ["rejected"] * 3
    assert len({outcome.detail for outcome in outcomes}) == 1
    assert not erp.ledger.documents
    assert not erp.double.journals()


def test_business_central_call_whose_later_company_refuses_keeps_what_is_posted(erp: ErpBench) -> None:
    """What is posted stays posted. Of a later company, a single entry is refused, and several go back unsent."""
    close_south(erp)
    assert codes_of(erp.gateway.post([of_total(1), of_total(2, "south")])) == ["posted", "rejected"]
    several = erp.gateway.post([of_total(3), of_total(4, "south"), of_total(5, "south")])
    assert codes_of(several) == ["posted", "unavailable", "unavailable"]
    assert erp.booked() == {1: 1, 3: 1}
    assert not erp.double.journals()


def test_business_central_company_that_is_gone_refuses_its_own_entries(erp: ErpBench) -> None:
    """A company that does not exist is no ERP that is away: its entries are refused, and the others go on."""
    del erp.ledger.companies["c-south"]
    assert codes_of(erp.gateway.post([of_total(1), of_total(2, "south")])) == ["rejected", "rejected"]
    [outcome] = erp.gateway.post([of_total(2, "south")])
    assert outcome.code == "rejected" and "erp.companies" in outcome.detail
    assert codes_of(erp.post(of_total(1))) == ["posted"]


def test_business_central_lookup_beside_a_company_that_is_gone_tells_what_the_others_hold(erp: ErpBench) -> None:
    """What nobody can say stays in doubt; what the other company holds is found."""
    assert codes_of(erp.post(of_total(1))) == ["posted"]
    del erp.ledger.companies["c-south"]
    for ask in (erp.gateway.lookup, erp.gateway.shown):
        found = ask([of_total(1).key, of_total(2, "south").key])
        assert found[of_total(1).key].code == "posted"
        assert found[of_total(2, "south").key].code == "unknown"


def test_business_central_draft_left_behind_is_removed_by_the_lookup(erp: ErpBench) -> None:
    """A journal whose posting never arrived is found as a draft, removed, and its entries may be sent again."""
    erp.trouble("none", "lose_request")
    entries = [of_total(1), of_total(2)]
    assert codes_of(erp.gateway.post(entries)) == ["unknown", "unknown"]
    assert len(drafts(erp)) == 4
    assert erp.gateway.shown([of_total(1).key]) == {} and len(drafts(erp)) == 4
    erp.settle()
    assert erp.gateway.lookup([entry.key for entry in entries]) == {}
    assert not erp.double.journals()
    assert codes_of(erp.post(*entries)) == ["posted", "posted"]
    assert erp.booked() == {1: 1, 2: 1}


def test_business_central_lookup_of_more_lines_than_a_page_has_finds_every_document(
    erp: ErpBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a full page leaves out is not taken for absent, as it would be booked again."""
    monkeypatch.setattr("adapters.erp.doubles.business_central.PAGE_ROWS_MAX", 3)
    entries = [of_total(n) for n in range(1, 6)]
    erp.post(*entries)
    assert sorted(erp.gateway.lookup([entry.key for entry in [*entries, of_total(9)]])) == [e.key for e in entries]


def test_business_central_lookup_asks_for_no_more_rows_than_it_may_have(
    erp: ErpBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is too large is refused whenever it is asked for, so it is asked for in parts."""
    monkeypatch.setattr("adapters.erp.doubles.business_central.ANSWER_ROWS_MAX", 5)
    monkeypatch.setattr("adapters.erp.business_central.PAGE_ROWS", 5)
    entries = [of_total(n) for n in range(1, 6)]
    erp.post(*entries)
    assert sorted(erp.gateway.lookup([entry.key for entry in [*entries, of_total(9)]])) == [e.key for e in entries]


def test_business_central_lookup_leaves_other_drafts_alone(erp: ErpBench) -> None:
    """Only journals with one of the keys asked for are removed: another call may be at work on the others."""
    erp.trouble("none", "lose_request")
    erp.gateway.post([of_total(1)])
    erp.settle()
    assert erp.gateway.lookup([of_total(2).key]) == {}
    assert set(drafts(erp)) == {document_number(of_total(1).key)}


def test_business_central_posted_journals_leave_nothing_behind(erp: ErpBench) -> None:
    """A posted journal is empty, and is removed."""
    assert codes_of(erp.post(of_total(1), of_total(2, "south"))) == ["posted", "posted"]
    assert not erp.double.journals()


def test_business_central_document_of_another_key_is_not_taken_for_ours(erp: ErpBench) -> None:
    """Should two keys ever share a document number, the lookup gives no answer instead of a wrong one."""
    stranger = of_total(1)
    erp.post(stranger)
    [document] = erp.ledger.documents
    lines = tuple(line._replace(text=f"other {line.text}") for line in document.lines)
    erp.ledger.documents[0] = document._replace(lines=lines)
    assert erp.gateway.lookup([stranger.key]) is None


def test_business_central_document_number_fits_and_is_stable() -> None:
    """Keys of any length become 20 characters, the same in every version."""
    assert document_number("PS-mercy-0000000001") == document_number("PS-mercy-0000000001")
    assert len(document_number("PS-" + "x" * 64 + "-0000000001")) == 20
    assert document_number("PS-mercy-0000000001") != document_number("PS-mercy-0000000002")
