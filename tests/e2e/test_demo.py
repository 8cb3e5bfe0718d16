"""`penstock demo`, as a newcomer gives it: the proof that it prints, and that nothing is left of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from installed import PENSTOCK, Marked

DEMO_TIMEOUT_S = 200.0
EVENTS = 10_000  # of the billing month: enough for many frames, small enough for a test


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
    """The report counts events, exceptions and entries: repeats and bad rows are among them, none is silent."""
    _, report, _ = demo
    assert report["events"].keys() == {"accepted", "duplicate", "rejected"}
    assert report["events"]["accepted"] > EVENTS and report["events"]["duplicate"] > 0
    assert report["events"]["rejected"] >= 1
    assert report["exceptions"].keys() >= {"feed_malformed", "event_conflict", "payout_mismatch"}
    assert "mapping_missing" not in report["exceptions"] and report["held_then_booked"] > 0
    assert report["journal_entries"] > 0 and 0 < report["seconds"] < DEMO_TIMEOUT_S


def test_demo_output_of_a_run_tells_the_proof_and_what_to_do_next(demo):
    """The screen shows the totals, the exceptions with their owners, and how to look around."""
    printed, report, _ = demo
    assert "balanced to the cent" in printed and "--keep" in printed
    for row in report["totals"]:
        assert row["entity"] in printed and f"{row['books_minor'] // 100:,}" in printed
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
