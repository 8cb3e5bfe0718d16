"""`penstock demo`, as a newcomer gives it: the proof that it prints, and that nothing is left of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from installed import PENSTOCK, Marked

from adapters.sources.hospital_day import hospital_day

DEMO_TIMEOUT_S = 200.0
EVENTS = 10_000  # of the billing month: enough for many frames, small enough for a test
CARD_EXCEPTIONS = {"feed_malformed": 1, "event_conflict": 1, "payout_mismatch": 1}  # planted in the card stream
BILL, LAB_BILL = "ORTHO-SUPPLY/INV5501", "REFERENCE-LAB/L200"


@pytest.fixture(scope="module")
def demo(folder: Path):
    """A demonstration that has ended: how, with which report, and what it left running."""
    home = folder / "demo"
    home.mkdir()
    marked = Marked(folder, home)
    try:
        done = subprocess.run(
            [PENSTOCK, "demo", "--report", "report.json", "--events", str(EVENTS)],
            cwd=home,
            env=marked.environment,
            capture_output=True,
            text=True,
            timeout=DEMO_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        yield done.stdout, json.loads((home / "report.json").read_text()), marked.names()
    finally:
        marked.end()


def test_demo_report_of_a_run_is_balanced_to_the_cent(demo):
    """Every entity's sources, books and ERP agree to the cent, and none of them is empty."""
    _, report, _ = demo
    assert report["balanced"] is True
    assert {(row["entity"], row["currency"]) for row in report["totals"]} == {
        ("mercy", "USD"),
        ("lakeside", "USD"),
        ("synthea", "USD"),
    }
    for row in report["totals"]:
        assert row.keys() == {"entity", "currency", "source_minor", "books_minor", "erp_minor"}
        assert row["source_minor"] == row["books_minor"] == row["erp_minor"] > 0


def test_demo_report_of_a_run_counts_what_was_sent(demo):
    """The report counts events and entries: repeats and bad rows are among them, none is silent."""
    _, report, _ = demo
    assert report["events"].keys() == {"accepted", "duplicate", "rejected"}
    assert report["events"]["accepted"] > EVENTS and report["events"]["duplicate"] > 0
    assert report["events"]["rejected"] == 1
    assert report["journal_entries"] > 0 and 0 < report["seconds"] < DEMO_TIMEOUT_S


def test_demo_report_of_a_run_holds_exactly_the_exceptions_that_were_planted(demo):
    """The exceptions that the files and the card stream cause stand, so often, with their owners, and no others."""
    _, report, _ = demo
    lasting = {one.type: one.count for one in hospital_day().exception if one.lasts}
    assert report["exceptions"] == CARD_EXCEPTIONS | lasting
    assert {row["type"]: row["count"] for row in report["queue"]} == report["exceptions"]
    for row in report["queue"]:
        assert row["owner"] and row["action"] and row["standing"] == "in time" and row["due_at"]


def test_demo_report_of_a_run_tells_of_every_file_of_the_day(demo):
    """All files went in whole, the late one last, each with what it must book."""
    _, report, _ = demo
    day = hospital_day()
    assert [file["file"] for file in report["files"]] == [file.name for file in day.file]
    assert all(file["events"] and not file["quarantined"] for file in report["files"])
    for told, file in zip(report["files"], day.file, strict=True):
        sums = {(one["entity"], one["currency"]): one["minor"] for one in told["expected"]}
        assert sums == day.turnover(file)


def test_demo_report_of_a_run_names_two_persons_behind_the_mapping(demo):
    """Held events booked because one person proposed their mapping and another one approved it."""
    _, report, _ = demo
    assert report["mapped"]["events"] > 0
    assert report["mapped"]["author"] and report["mapped"]["approved_by"] not in ("", report["mapped"]["author"])


def test_demo_report_of_a_run_shows_a_hold_that_ended_by_itself(demo):
    """The late receipt resolved the failed match, and what the platform was told ends with the payment."""
    _, report, _ = demo
    assert report["matched"]["type"] == "match_failed_receipt" and report["matched"]["state"] == "resolved"
    assert report["matched"]["document"] == BILL
    told = [status for status in report["told"][BILL] if status != "posted"]
    assert told[0] == "received" and told[-1] == "paid"
    assert sorted(told[1:-1]) == ["approved", "match_failed"]  # in one step, events are told of before holds are


def test_demo_report_of_a_run_tells_the_platform_each_step_of_a_document(demo):
    """Orders, receipts, bills and payments are told of under their own numbers, up to their posting and payment."""
    _, report, _ = demo
    told = {document: [status for status in seen if status != "posted"] for document, seen in report["told"].items()}
    assert told[LAB_BILL] == ["received", "approved", "paid", "confirmed"]
    assert told["PO-7001/1"] == ["approved", "received", "received"]
    assert told["PO-7001/2"][:2] == ["approved", "received"]
    posted = {document for document, seen in report["told"].items() if "posted" in seen}
    assert posted >= {BILL, "GR-7001/1", "GR-7001/2", "GR-7002/1", "PAY-9001", "PAY-9002"}


def test_demo_output_of_a_run_tells_the_proof_and_what_to_do_next(demo):
    """The screen shows the totals, the files, what was told, the exceptions with their owners, and how to go on."""
    printed, report, _ = demo
    assert "balanced to the cent" in printed and "--keep" in printed
    for row in report["totals"]:
        assert row["entity"] in printed and f"{row['books_minor'] // 100:,}" in printed
    for shown in (*report["exceptions"], *report["told"], *(file["file"] for file in report["files"])):
        assert shown in printed
    assert "integration_support" in printed


def test_demo_process_after_its_end_leaves_nothing_running(demo):
    """No process that the demonstration started, at any depth, outlives it."""
    _, _, left = demo
    assert left == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_demo_check_for_what_is_left_finds_what_was_forgotten(folder):
    """The check itself works: a process with the mark, or in the data folder alone, would be found and ended."""
    home = folder / "lost"
    home.mkdir()
    marked, sleeper = Marked(folder, home), [sys.executable, "-c", "input()"]
    lost = [
        subprocess.Popen(sleeper, stdin=subprocess.PIPE, env=marked.environment),
        subprocess.Popen(sleeper, stdin=subprocess.PIPE, cwd=home),
    ]
    try:
        assert {process.pid for process in marked.running()} == {process.pid for process in lost}
    finally:
        marked.end()
        for process in lost:
            process.communicate()
    assert marked.running() == []
