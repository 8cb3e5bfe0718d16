"""The contract of ErpGateway, held against every vendor's adapter and the double of its ERP."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from erp_vendors import ACCOUNTS, CURRENCIES, VENDORS, ErpBench, codes_of, entry, of_total

from adapters.erp.doubles.limits import Over
from adapters.erp.doubles.trouble import TROUBLE_S
from adapters.erp.http.fault import NoTrialBalance
from runtime.errors import ErpError
from runtime.ports import ErpAccount

NOT_APPLIED = {"throttled", "unavailable", "unauthorised"}


@pytest.fixture(params=VENDORS, ids=[vendor.name for vendor in VENDORS])
def erp(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ErpBench]:
    bench = ErpBench(request.param, tmp_path)
    yield bench
    bench.close()


# ── posting and finding again ──────────────────────────────────────────────────────────────────────────────────────


def test_vendor_post_of_a_balanced_entry_books_exactly_its_lines(erp: ErpBench) -> None:
    """A balanced entry is booked to the cent: each account, side and day as sent, under a number of the ERP."""
    sent = entry("PS-north-0000000007", (1, 33, -34), codes=("1200", "1010", "4000"))
    [outcome] = erp.post(sent)
    assert (outcome.key, outcome.code) == (sent.key, "posted")
    assert outcome.erp_ref
    [document] = erp.ledger.documents
    assert (document.company, document.booked_on) == ("c-north", sent.posted_on)
    assert [(line.account, line.debit, line.credit) for line in document.lines] == [
        ("1200", Decimal("0.01"), 0),
        ("1010", Decimal("0.33"), 0),
        ("4000", 0, Decimal("0.34")),
    ]


def test_vendor_post_of_a_large_amount_keeps_every_cent(erp: ErpBench) -> None:
    """An amount beyond what a float holds exactly arrives to the cent."""
    assert codes_of(erp.post(of_total(9_007_199_254_740_993))) == ["posted"]
    assert erp.booked() == {9_007_199_254_740_993: 1}


def test_vendor_post_of_many_answers_each_in_order(erp: ErpBench) -> None:
    """Entries of two entities go together; the outcomes come in the entries' order, and each is booked once."""
    entries = [of_total(100 + i, "south" if i % 3 else "north") for i in range(12)]
    outcomes = erp.post(*entries)
    assert [outcome.key for outcome in outcomes] == [each.key for each in entries]
    assert set(codes_of(outcomes)) == {"posted"}
    assert erp.booked() == {100 + i: 1 for i in range(12)}


def test_vendor_lookup_gives_what_the_post_gave(erp: ErpBench) -> None:
    """What was posted is found under its key with the same number, however often one asks; what was not is left out."""
    if not erp.gateway.terms().lookup:
        pytest.skip("this ERP can't be asked for a key")
    posted = {outcome.key: outcome for outcome in erp.post(of_total(5), of_total(6, "south"))}
    for _ in range(2):
        assert erp.gateway.lookup([*posted, "PS-north-0000000404"]) == posted
    assert erp.gateway.lookup([]) == {}


def test_vendor_post_of_a_key_again_is_as_the_terms_say(erp: ErpBench) -> None:
    """A key that the ERP keeps is booked once, the second answer being the first's; without keys it is booked twice."""
    first, second = erp.post(of_total(5)), erp.post(of_total(5))
    assert codes_of(second) == ["posted"]
    if erp.gateway.terms().native_key == "none":
        assert erp.booked() == {5: 2}
    else:
        assert erp.booked() == {5: 1}
        assert second == first


def test_vendor_lookup_by_a_new_connection_finds_the_same(erp: ErpBench) -> None:
    """A gateway that has seen nothing finds what another one posted: nothing is remembered here alone."""
    if not erp.gateway.terms().lookup:
        pytest.skip("this ERP can't be asked for a key")
    [posted] = erp.post(of_total(5))
    other = erp.connect()
    assert other.lookup([posted.key]) == {posted.key: posted}
    other.close()


def test_vendor_trial_balance_agrees_with_the_erps_books(erp: ErpBench) -> None:
    """Turnover by account and side is what the ERP holds, to the cent, for each entity in its currency."""
    erp.post(of_total(101), of_total(99_999), of_total(7, "south"))
    try:
        told = erp.gateway.trial_balance()
    except NoTrialBalance as none:
        pytest.skip(none.detail)
    held = [
        ErpAccount(entity, CURRENCIES[entity], account, int(debit.scaleb(2)), int(credit.scaleb(2)))
        for entity in CURRENCIES
        for account, (debit, credit) in erp.ledger.turnover(f"c-{entity}").items()
    ]
    assert sorted(told) == sorted(held)
    assert len(held) == 4


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"amounts": (100, -99)}, "differ"),
        ({"codes": ("1200", "9999")}, "9999"),
        ({"posted_on": date(2026, 1, 31)}, "2026-01-31"),
    ],
    ids=["unbalanced", "unknown_account", "closed_period"],
)
def test_vendor_post_of_a_faulty_entry_rejects_it_and_books_nothing(erp: ErpBench, fault: dict, said: str) -> None:
    """An entry that the ERP can't have is rejected with a reason that says what is wrong, and is nowhere afterwards."""
    [outcome] = erp.post(entry("PS-north-0000000001", **fault))
    assert outcome.code == "rejected"
    assert said in outcome.detail
    assert not erp.ledger.documents
    assert erp.gateway.lookup([outcome.key]) in ({}, None)


def test_vendor_post_in_a_foreign_currency_is_rejected(erp: ErpBench) -> None:
    """An entry in another currency than its company's is rejected before it is sent."""
    foreign = msgspec.structs.replace(entry("PS-south-0000000001", entity="south"), currency="USD")
    assert codes_of(erp.post(foreign)) == ["rejected"]
    assert not erp.ledger.documents


def test_vendor_post_of_good_and_bad_together_is_as_the_terms_say(erp: ErpBench) -> None:
    """One bad entry refuses all of its call where calls are whole, and itself alone where entries are judged apart.

    Where a job says which one was bad, the others are to be sent again.
    """
    good, bad = of_total(5), entry("PS-north-0000000002", (9, -9), codes=("1200", "9999"))
    outcomes = erp.post(good, bad)
    assert outcomes[1].code == "rejected"
    assert "9999" in outcomes[1].detail
    if erp.gateway.terms().entries_max > 1 and outcomes[0].code == "rejected":
        assert erp.gateway.terms().atomicity in ("all_or_nothing", "job")
        assert outcomes[0].detail == outcomes[1].detail
        assert not erp.ledger.documents
    elif outcomes[0].code in NOT_APPLIED:
        assert erp.gateway.terms().atomicity == "job"
        assert not erp.ledger.documents
    else:
        assert erp.gateway.terms().atomicity in ("per_item", "job")
        assert erp.booked() == {5: 1}


def test_vendor_entry_that_was_refused_can_be_sent_again(erp: ErpBench) -> None:
    """Once the reason is gone, the same entry under the same key is booked."""
    erp.ledger.closed = True
    erp.trouble("closed_period")
    assert codes_of(erp.post(of_total(5))) == ["rejected"]
    erp.clock.sleep(TROUBLE_S + 1)
    assert codes_of(erp.post(of_total(5))) == ["posted"]
    assert erp.booked() == {5: 1}


# ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_vendor_throttled_call_applies_nothing_and_says_so(erp: ErpBench) -> None:
    """A call over the limit is told as throttled, with the delay that the ERP asks for; the next one posts it."""
    erp.trouble("throttle")
    asked = erp.double.limited(Over("throttle", 1.0)).headers.get("Retry-After")
    [outcome] = erp.gateway.post([of_total(5)])
    assert outcome.code == "throttled"
    assert asked is None or outcome.retry_after_s == float(asked)
    assert not erp.ledger.documents
    assert codes_of(erp.post(of_total(5))) == ["posted"]


def test_vendor_answer_lost_after_commit_is_unknown_until_looked_up(erp: ErpBench) -> None:
    """An answer lost after the commit is unknown; after settling the entry is found or is still bookable, once."""
    erp.trouble("lose_answer")
    assert codes_of(erp.gateway.post([of_total(5)])) == ["unknown"]
    _resolve(erp)
    assert erp.booked() == {5: 1}


def test_vendor_request_that_never_arrived_is_unknown_and_not_found(erp: ErpBench) -> None:
    """A connection that broke before looks the same; after settling the key is absent and may be sent again."""
    erp.trouble("lose_request")
    assert codes_of(erp.gateway.post([of_total(5)])) == ["unknown"]
    assert not erp.ledger.documents
    _resolve(erp)
    assert erp.booked() == {5: 1}


def test_vendor_commit_after_the_answer_was_lost_is_found_after_settling(erp: ErpBench) -> None:
    """A call that goes on at the ERP after its connection broke has ended when settling is over, and is booked once."""
    erp.trouble("slow_commit")
    assert codes_of(erp.gateway.post([of_total(5)])) == ["unknown"]
    _resolve(erp)
    assert erp.booked() == {5: 1}


def _resolve(erp: ErpBench) -> None:
    """What delivery does with a doubt: settle, look up, send again what is not there."""
    erp.settle()
    found = erp.gateway.lookup([of_total(5).key]) if erp.gateway.terms().lookup else {}
    assert found is not None
    if not found:
        assert codes_of(erp.post(of_total(5))) == ["posted"]
    else:
        assert codes_of(list(found.values())) == ["posted"]


def test_vendor_partly_failed_batch_leaves_the_rest_to_be_sent(erp: ErpBench) -> None:
    """Items that fail for no fault of their own are not rejected: sent again, each is booked once."""
    erp.trouble("partial_batch")
    entries = [of_total(100 + i) for i in range(6)]
    outcomes = erp.post(*entries)
    assert "rejected" not in codes_of(outcomes)
    left = [each for each, outcome in zip(entries, outcomes, strict=True) if outcome.code != "posted"]
    erp.settle()
    assert set(codes_of(erp.post(*left))) <= {"posted"}
    assert erp.booked() == {100 + i: 1 for i in range(6)}


def test_vendor_down_for_maintenance_applies_nothing(erp: ErpBench) -> None:
    """An ERP in maintenance books nothing and can't be asked; afterwards the entry is posted."""
    erp.trouble("maintenance")
    [outcome] = erp.gateway.post([of_total(5)])
    assert outcome.code in {*NOT_APPLIED, "unknown"}
    assert not erp.gateway.lookup([outcome.key])
    erp.clock.sleep(TROUBLE_S + 1)
    _resolve(erp)
    assert erp.booked() == {5: 1}


def test_vendor_token_that_expired_is_renewed_within_the_call(erp: ErpBench) -> None:
    """A token that ended before its time costs a second try and nothing else; so does one that ends on time."""
    erp.post(of_total(5))
    erp.trouble("expired_token")
    assert codes_of(erp.post(of_total(6))) == ["posted"]
    erp.clock.sleep(86_400)
    assert codes_of(erp.post(of_total(7))) == ["posted"]
    assert erp.booked() == {5: 1, 6: 1, 7: 1}


def test_vendor_with_wrong_secret_is_unauthorised(erp: ErpBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused credentials apply nothing, and say so; reading with them raises."""
    monkeypatch.setenv("PENSTOCK_DOUBLE_SECRET", "not the secret")
    locked = erp.connect()
    assert codes_of(locked.post([of_total(5)])) == ["unauthorised"]
    assert locked.lookup([of_total(5).key]) in (None, {})
    with pytest.raises(ErpError):
        locked.trial_balance()
    assert not erp.ledger.documents
    locked.close()


def test_vendor_that_is_stopped_is_unavailable(erp: ErpBench) -> None:
    """A server that refuses connections has applied nothing, and can't be asked."""
    erp.server.close()
    assert codes_of(erp.gateway.post([of_total(5), of_total(6)])) == ["unavailable", "unavailable"]
    assert not erp.gateway.lookup([of_total(5).key])
    with pytest.raises(ErpError):
        erp.gateway.trial_balance()


def test_vendor_terms_are_overridden_for_one_account(erp: ErpBench) -> None:
    """What the configuration says of an account's limits stands over what the adapter declares."""
    limits = type(erp.section.limits)(per_minute=7, concurrency=2, settle_s=1.5)
    other = erp.connect(erp.section.model_copy(update={"limits": limits}))
    terms = other.terms()
    assert (terms.per_minute, terms.concurrency, terms.settle_s) == (7, 2, 1.5)
    assert terms.atomicity == erp.gateway.terms().atomicity
    other.close()


def test_vendor_accounts_of_the_suite_are_all_postable(erp: ErpBench) -> None:
    """Every account of the double takes both sides."""
    accounts = tuple(sorted(ACCOUNTS))
    assert codes_of(erp.post(entry("PS-north-0000000001", (1, -2, 3, -2), codes=accounts))) == ["posted"]
