"""What is particular to NetSuite: jobs that are asked for again, ended, or forgotten, and keys of odd characters."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from erp_vendors import VENDORS, ErpBench, codes_of, entry, of_total

from adapters.erp.doubles.exchange import json_answer
from adapters.erp.doubles.netsuite import JOB_S
from adapters.erp.doubles.trouble import TROUBLE_S


@pytest.fixture
def erp(tmp_path: Path) -> Iterator[ErpBench]:
    bench = ErpBench(next(vendor for vendor in VENDORS if vendor.name == "netsuite"), tmp_path)
    yield bench
    bench.close()


def test_netsuite_same_batch_again_is_the_same_job(erp: ErpBench) -> None:
    """A batch whose answer was lost, sent again at once, is answered with the job that already runs."""
    entries = [of_total(1), of_total(2)]
    erp.trouble("lose_answer")
    assert codes_of(erp.gateway.post(entries)) == ["unknown", "unknown"]
    again = erp.gateway.post(entries)
    assert codes_of(again) == ["accepted", "accepted"]
    assert [outcome.erp_ref.partition("/")[0] for outcome in again] == ["1", "1"]
    assert codes_of(erp.ended(again)) == ["posted", "posted"]
    assert erp.booked() == {1: 1, 2: 1}


@pytest.mark.parametrize("row", [{"id": "7"}, {"id": "7", "externalid": "another"}, {"externalid": of_total(1).key}])
def test_netsuite_query_that_does_not_name_its_keys_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict
) -> None:
    """Rows without the external ids that were asked for prove nothing, and make no lookup fail in another way."""
    vendor = next(vendor for vendor in VENDORS if vendor.name == "netsuite-suiteql")
    bench = ErpBench(vendor, tmp_path)
    monkeypatch.setattr(type(bench.double), "query", lambda *_: json_answer(200, {"items": [row], "hasMore": False}))
    assert bench.gateway.lookup([of_total(1).key]) is None
    bench.close()


def test_netsuite_same_batch_after_its_job_refused_it_is_a_new_job(erp: ErpBench) -> None:
    """Once the job has ended without them, the same entries make another one: its old refusal is not repeated."""
    erp.trouble("closed_period")
    entries = [of_total(1), of_total(2)]
    assert codes_of(erp.post(*entries)) == ["rejected", "rejected"]
    erp.clock.sleep(TROUBLE_S)
    assert codes_of(erp.post(*entries)) == ["posted", "posted"]
    assert erp.booked() == {1: 1, 2: 1}


def test_netsuite_same_batch_after_half_of_it_was_booked_books_the_rest(erp: ErpBench) -> None:
    """Of an ended job's entries only those that are not there are sent again."""
    erp.trouble("partial_batch")
    entries = [of_total(n) for n in range(1, 5)]
    assert codes_of(erp.post(*entries)) == ["posted", "unavailable"] * 2
    assert codes_of(erp.post(*entries)) == ["posted"] * 4
    assert erp.booked() == dict.fromkeys(range(1, 5), 1)


def test_netsuite_job_is_reported_to_a_connection_that_never_saw_it(erp: ErpBench) -> None:
    """What is kept of a job is enough for another process to read its report, good and bad entries alike."""
    accepted = erp.gateway.post([of_total(1), entry("PS-north-9", codes=("1200", "9999"))])
    refs = [outcome.erp_ref for outcome in accepted]
    other = erp.connect()
    assert other.progress(refs) == []
    erp.clock.sleep(JOB_S)
    assert codes_of(other.progress(refs)) == ["posted", "rejected"]
    other.close()


def test_netsuite_job_that_is_forgotten_leaves_its_entries_to_be_sent_again(erp: ErpBench) -> None:
    """A job that NetSuite no longer knows has ended: what it booked is found, the rest was not applied."""
    [posted] = erp.post(of_total(1))
    gone = [f"99/0/{posted.key}", "99/1/PS-north-0000000404"]
    assert codes_of(erp.gateway.progress(gone)) == ["posted", "unavailable"]


def test_netsuite_jobs_report_when_the_erp_is_away_says_so(erp: ErpBench) -> None:
    """An ERP that can't be asked gives no outcome of any entry, and its reason."""
    erp.server.close()
    [told] = erp.gateway.progress(["1/0/PS-north-1"])
    assert (told.key, told.code) == ("", "unavailable")


def test_netsuite_keys_that_differ_only_in_odd_characters_are_two(erp: ErpBench) -> None:
    """External ids have letters, digits, - and _; keys with others are told apart all the same."""
    one, other = entry("PS-a.b-1", (1, -1)), entry("PS-a_b-1", (2, -2))
    assert codes_of(erp.post(one, other)) == ["posted", "posted"]
    assert erp.booked() == {1: 1, 2: 1}
    assert set(erp.gateway.lookup([one.key, other.key]) or {}) == {one.key, other.key}
