"""What is one vendor's own, beside the contract that all keep: keys of a request, groups of a file, realms' tokens."""

from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from erp_vendors import ErpBench, Vendor, codes_of, entry, of_total

from adapters.erp.doubles.access import REFRESH_TOKEN
from adapters.erp.doubles.exchange import Answer, Request, json_answer
from adapters.erp.doubles.fusion import FusionDouble
from adapters.erp.doubles.ledger import Line
from adapters.erp.doubles.quickbooks import REQUEST_ID_LIFE_S
from adapters.erp.doubles.rest import REFERENCE_SETTINGS
from adapters.erp.doubles.trouble import TROUBLE_S
from adapters.erp.fusion import FusionGateway
from adapters.erp.http.fault import ErpFault
from runtime.errors import ConfigError

Open = Callable[..., ErpBench]


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[Open]:
    """Opens a bench for a vendor with these settings, and closes it."""
    opened = []

    def open_(name: str, **settings: Any) -> ErpBench:
        opened.append(ErpBench(Vendor(name, name, settings), tmp_path))
        return opened[-1]

    yield open_
    for bench in opened:
        bench.close()


# ── QuickBooks ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_quickbooks_requestid_of_an_entry_brings_back_its_first_answer(open_bench: Open) -> None:
    """With a stated life of requestids, an entry in doubt is sent again at once, and is booked once."""
    erp = open_bench("quickbooks", mode="single", requestid_life_s=REQUEST_ID_LIFE_S)
    assert (erp.gateway.terms().native_key, erp.gateway.terms().key_life_s) == ("windowed", REQUEST_ID_LIFE_S)
    erp.trouble("lose_answer")
    assert codes_of(erp.post(of_total(5))) == ["unknown"]
    assert codes_of(erp.post(of_total(5))) == ["posted"]
    assert erp.booked() == {5: 1}


def test_quickbooks_refusal_under_a_requestid_ends_with_its_life(open_bench: Open) -> None:
    """An ERP that repeats refusals refuses a mended entry until its requestid is forgotten, and then books it once."""
    erp = open_bench("quickbooks", mode="single", requestid_life_s=REQUEST_ID_LIFE_S)
    erp.trouble("closed_period")
    assert codes_of(erp.post(of_total(5))) == ["rejected"]
    erp.clock.sleep(TROUBLE_S + 1)
    assert codes_of(erp.post(of_total(5))) == ["rejected"]
    erp.clock.sleep(REQUEST_ID_LIFE_S)
    assert codes_of(erp.post(of_total(5))) == ["posted"]
    assert erp.booked() == {5: 1}


def test_quickbooks_without_a_stated_life_relies_on_no_requestid(open_bench: Open) -> None:
    """By default a key is none, because nobody has stated how long QuickBooks knows one."""
    assert open_bench("quickbooks").gateway.terms().native_key == "none"
    assert open_bench("quickbooks", mode="single").gateway.terms().native_key == "none"


def test_quickbooks_items_beyond_the_limit_are_throttled_one_by_one(open_bench: Open) -> None:
    """A batch that runs into the limit half-way is booked so far; the rest is throttled and can be sent again."""
    erp = open_bench("quickbooks")
    entries = [of_total(1_000 + i) for i in range(510)]
    outcomes = erp.post(*entries)
    assert codes_of(outcomes).count("posted") == 500
    left = [each for each, outcome in zip(entries, outcomes, strict=True) if outcome.code == "throttled"]
    erp.clock.sleep(61)
    assert set(codes_of(erp.post(*left))) == {"posted"}
    assert erp.booked() == {1_000 + i: 1 for i in range(510)}


def test_quickbooks_turnover_is_of_our_own_entries_alone(open_bench: Open) -> None:
    """A journal entry of the customer's, under a number that begins like ours, is in no sum."""
    erp = open_bench("quickbooks")
    erp.post(of_total(5))
    before = erp.gateway.trial_balance()
    lines = [Line("1010", Decimal(7), Decimal(0)), Line("1200", Decimal(0), Decimal(7))]
    theirs = erp.ledger.book("c-north", "for the PS department", date(2026, 3, 5), lines)
    erp.double._numbers[theirs.number] = "PS-2026"
    assert erp.gateway.trial_balance() == before


def test_quickbooks_document_number_of_two_keys_is_told_apart_by_the_note(open_bench: Open) -> None:
    """A document under the same number that is not the entry's is not taken for it."""
    erp = open_bench("quickbooks")
    erp.post(of_total(5))
    [document] = erp.ledger.documents
    erp.ledger.documents[0] = document._replace(key="somebody else's note")
    assert erp.gateway.lookup([of_total(5).key]) == {}


def test_quickbooks_realm_keeps_its_own_refresh_token(open_bench: Open, tmp_path: Path) -> None:
    """With a file for each realm, the token that a realm's server replaces is kept in that realm's file."""
    erp = open_bench("quickbooks")
    (tmp_path / "c-north.token").write_text(REFRESH_TOKEN)
    auth = erp.section.auth.model_copy(update={"refresh_token_file": str(tmp_path / "{realm}.token")})
    gateway = erp.connect(erp.section.model_copy(update={"auth": auth}))
    assert codes_of(gateway.post([of_total(5), of_total(6, "south")])) == ["posted", "unauthorised"]
    assert (tmp_path / "c-north.token").read_text() != REFRESH_TOKEN
    gateway.close()


# ── Fusion ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fusion_report_that_names_nobody_refuses_the_group_with_one_reason(open_bench: Open) -> None:
    """Where the report does not say which entry was bad, all are refused alike, so that delivery tries them apart."""
    erp = open_bench("fusion")
    assert isinstance(erp.double, FusionDouble)
    erp.double.report_names_batches = False
    good, bad = of_total(5), entry("PS-north-0000000002", (9, -9), codes=("1200", "9999"))
    first, second = erp.post(good, bad)
    assert (first.code, second.code) == ("rejected", "rejected")
    assert first.detail == second.detail
    assert "EF04" in first.detail


def test_fusion_reason_says_each_line_of_a_report_once(open_bench: Open) -> None:
    """Every line of a bad entry is reported alike; the reason says it once."""
    erp = open_bench("fusion")
    [outcome] = erp.post(entry("PS-north-0000000001", codes=("none", "none")))
    assert outcome.detail.count("EF04") == 1


def test_fusion_refused_group_is_never_imported_with_a_later_one(open_bench: Open) -> None:
    """Lines that stay in the interface table after a refusal are not booked when the same entries are sent again."""
    erp = open_bench("fusion")
    entries = [of_total(5), of_total(6)]
    erp.trouble("closed_period")
    assert codes_of(erp.post(*entries)) == ["rejected", "rejected"]
    erp.clock.sleep(TROUBLE_S + 1)
    assert codes_of(erp.post(*entries)) == ["posted", "posted"]
    assert erp.booked() == {5: 1, 6: 1}


def test_fusion_waits_for_posting_where_it_is_told_to(open_bench: Open) -> None:
    """Set to wait for posting, an imported entry stays accepted until its batch is posted; a lookup finds it anyway."""
    erp = open_bench("fusion", posted_when="posted")
    assert isinstance(erp.double, FusionDouble)
    [outcome] = erp.gateway.post([of_total(5)])
    erp.clock.sleep(60)
    assert erp.gateway.progress([outcome.erp_ref]) == []
    assert codes_of(list((erp.gateway.lookup([outcome.key]) or {}).values())) == ["posted"]
    erp.double.post_batches()
    assert codes_of(erp.gateway.progress([outcome.erp_ref])) == ["posted"]


def test_fusion_job_with_no_end_says_nothing(open_bench: Open) -> None:
    """A job that runs has no outcomes, and one that the ERP does not know has none either."""
    erp = open_bench("fusion")
    [outcome] = erp.gateway.post([of_total(5)])
    assert erp.gateway.progress([outcome.erp_ref, '["999",["PS-north-0000000009"]]']) == []


# ── plain REST ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rest_known_key_with_other_content_is_rejected(open_bench: Open) -> None:
    """An ERP that says that a key had other content has not booked this one, and nobody is told that it has."""
    erp = open_bench("rest")
    erp.post(of_total(5))
    assert codes_of(erp.post(entry(of_total(5).key, (7, -7)))) == ["rejected"]
    assert erp.booked() == {5: 1}


def test_rest_refusal_of_a_known_reference_is_looked_up(open_bench: Open) -> None:
    """Where the description says which refusal means a known entry, that entry is posted under its first number."""
    erp = open_bench("rest", **REFERENCE_SETTINGS)
    first, again = erp.post(of_total(5)), erp.post(of_total(5))
    assert codes_of(again) == ["posted"]
    assert again == first
    assert erp.booked() == {5: 1}


def test_rest_description_that_is_wrong_is_named_at_the_start(open_bench: Open) -> None:
    """A gateway with a wrong description does not open, and the error names the key."""
    erp = open_bench("rest")
    settings = {**erp.section.settings, "lookup": {"path": "/api/journals", "items": {"key": "reference"}}}
    with pytest.raises(ConfigError, match=r"erp\.settings\.lookup"):
        erp.connect(erp.section.model_copy(update={"settings": settings}))


@pytest.mark.parametrize(("code", "means"), [("closed_period", "rejected"), ("strange", "unknown")])
def test_rest_answer_of_a_success_without_its_reference_is_none(
    open_bench: Open, monkeypatch: pytest.MonkeyPatch, code: str, means: str
) -> None:
    """An ERP that says no with the status 200 has booked nothing that it names: its error tells, or nobody knows."""
    erp = open_bench("rest", errors={"code": "error.code", "meanings": [{"code": "closed", "means": "rejected"}]})
    monkeypatch.setattr(erp.double, "create", lambda request: json_answer(200, {"error": {"code": code}}))
    [outcome] = erp.gateway.post([of_total(5)])
    assert (outcome.code, code in outcome.detail) == (means, True)


@pytest.mark.parametrize("code", ["unauthorised", "throttled"])
@pytest.mark.parametrize(("name", "handler"), [("quickbooks", "_query"), ("xero", "_journals")])
def test_lookup_beside_a_company_that_does_not_serve_us_tells_what_others_hold(
    open_bench: Open, monkeypatch: pytest.MonkeyPatch, name: str, handler: str, code: str
) -> None:
    """What is found is posted, and what is not is in doubt, as it may be where nobody was let in."""
    erp = open_bench(name)
    posted = erp.post(of_total(5))[0]
    asked, shut = getattr(type(erp.gateway), handler), {"c-south"}

    def refused(gateway: object, company: str, text: str) -> list:
        if company in shut:
            raise ErpFault(code, "HTTP 4xx")
        return asked(gateway, company, text)

    monkeypatch.setattr(type(erp.gateway), handler, refused)
    found = erp.gateway.lookup([posted.key, of_total(6, "south").key]) or {}
    assert found.pop(posted.key) == posted
    assert codes_of(list(found.values())) == ["unknown"]
    shut.add("c-north")
    assert erp.gateway.lookup([posted.key]) is None


def test_xero_tenant_of_two_entities_is_asked_once(open_bench: Open) -> None:
    """An entry of a tenant that two entities share is one entry, not a doubled one."""
    erp = open_bench("xero")
    [posted] = erp.post(of_total(5))
    section = erp.section.model_copy(update={"companies": dict.fromkeys(("north", "south"), "c-north")})
    other = erp.connect(section)
    assert other.lookup([posted.key]) == {posted.key: posted}
    other.close()


@pytest.mark.parametrize(
    ("name", "settings", "handler"),
    [("netsuite", {"mode": "single"}, "create"), ("business_central", {}, "post_journal")],
)
def test_page_of_somebody_else_in_the_place_of_an_answer_books_nothing(
    open_bench: Open, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict, handler: str
) -> None:
    """A proxy's page with the status 200 is no word of the ERP's, so nobody knows what became of the call."""
    erp = open_bench(name, **settings)
    page = Answer(200, b"<html>The service is being updated</html>")
    monkeypatch.setattr(erp.double, handler, lambda request, **named: page)
    assert codes_of(erp.gateway.post([of_total(5)])) == ["unknown"]


def test_rest_lookup_whose_answer_is_one_page_of_several_finds_all(
    open_bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that a page lacks may stand on the next one: it is asked for again, and not taken for absent."""
    erp = open_bench("rest")
    posted = {outcome.key: outcome for outcome in erp.post(*(of_total(5 + n) for n in range(5)))}
    whole = erp.double.find

    def paged(request: Request) -> Answer:
        return json_answer(200, {"data": msgspec.json.decode(whole(request).body)["data"][:2]})

    monkeypatch.setattr(erp.double, "find", paged)
    assert erp.gateway.lookup([*posted, "PS-north-0000000404"]) == posted
    assert erp.gateway.lookup(["PS-north-0000000404"]) == {}


@pytest.mark.parametrize(
    "change", [{"items": {"key": "reference"}}, {"path": "/api/jurnals"}, {"items": {"at": "rows", "key": "reference"}}]
)
def test_rest_lookup_that_is_described_wrongly_proves_no_absence(open_bench: Open, change: dict) -> None:
    """An answer that is not as described is none: a key is only absent where the ERP has said so."""
    erp = open_bench("rest")
    settings = {**erp.section.settings, "lookup": {**erp.section.settings["lookup"], **change}}
    gateway = erp.connect(erp.section.model_copy(update={"settings": settings}))
    erp.post(of_total(5))
    assert gateway.lookup([of_total(5).key]) is None
    gateway.close()


def test_fusion_job_that_can_not_be_asked_for_hides_no_other(open_bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs that are asked for together, what one answers wrongly says nothing of the others."""
    erp = open_bench("fusion")
    jobs = [erp.gateway.post([of_total(5 + n)])[0].erp_ref for n in range(3)]
    erp.clock.sleep(600)
    batches = FusionGateway._batches
    bad = of_total(5).key

    def spoiled(gateway: FusionGateway, key: str) -> list:
        if key == bad:
            raise ErpFault("unavailable", "HTTP 400")
        return batches(gateway, key)

    monkeypatch.setattr(FusionGateway, "_batches", spoiled)
    assert codes_of(erp.gateway.progress(jobs)) == ["posted", "posted"]
    assert [(o.key, o.code) for o in erp.gateway.progress(jobs[:1])] == [("", "unavailable")]


def test_fusion_job_that_succeeded_without_its_batch_is_in_doubt(open_bench: Open) -> None:
    """A job's good end proves nothing by itself: an entry whose batch is not there is looked up later."""
    erp = open_bench("fusion")
    assert isinstance(erp.double, FusionDouble)
    [outcome] = erp.gateway.post([of_total(5)])
    erp.clock.sleep(60)
    erp.double.hide_batches = True
    assert codes_of(erp.gateway.progress([outcome.erp_ref])) == ["unknown"]
