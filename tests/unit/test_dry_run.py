"""`submit --dry-run`: what it shows of a file without anything running, and when it fails."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner
from unit.sources.x12_texts import claim, interchange, remittance, write

from actors.cli import app

GOOD = remittance("540", *claim("A1", "1", "1000*540*160", "CO*45*300", "PR*1*160"))
OWED = remittance("80", *claim("B2", "22", "-100*-80", "CO*45*-20"), trace="T2").replace("*80*C*", "*80*D*")
FORWARDED = remittance("75", *claim("C3", "1", "100*100"), "PLB*1234567893*20241231*FB:X*25", trace="T3")
WRONG = remittance("11", *claim("D4", "1", "10*10"), trace="T4")


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rehearsed(path: Path, *more: str) -> tuple[int, str]:
    """Exit status and answer."""
    result = CliRunner().invoke(app, ["submit", str(path), "--dry-run", *more])
    return result.exit_code, result.stdout


def test_dry_run_control_total_counts_every_set_that_could_be_read(tmp_path):
    """Sums are over all sets, set aside or not; what is owed counts negative; the set aside is named by its place."""
    status, answer = rehearsed(write(tmp_path, interchange(GOOD, OWED, FORWARDED, WRONG)), "--json")
    found = json.loads(answer)
    assert status == 0
    assert (found["format"], found["transactions"], found["claims"]) == ("835", 4, 4)
    assert (found["paid_minor"], found["claims_paid_minor"], found["plb_minor"]) == (54_600, 57_000, 2_500)
    assert found["events"] == {
        "claim_adjudicated": 3,
        "claim_adjusted": 3,
        "claim_paid": 3,
        "provider_adjusted": 1,
        "remittance_received": 3,
    }
    assert set(found["states"]) == {"accepted", "booked", "excluded"}
    assert found["quarantined"] == [{"transaction": 4, "segment": 2, "element": 2, "code": "transaction_unbalanced"}]
    clearing = [row for row in found["postings"] if row["role"] == "REMIT_CLEARING"]
    assert sum(row["debit_minor"] - row["credit_minor"] for row in clearing) == 54_000 - 8_000 + 7_500


def test_dry_run_names_rows_that_can_not_be_read_and_fails(tmp_path):
    """As when the file is sent, rejected rows are shown by place, column and code, never by value; the status is 1."""
    row = {"event_id": "a", "source": "s", "kind": "claim_paid", "entity": "default", "amount_minor": "Zoe Canary"}
    path = write(tmp_path, json.dumps(row) + "\n", "rows.jsonl")
    status, answer = rehearsed(path)
    assert status == 1
    assert "amount_minor" in answer and "wrong_type" in answer
    assert "Zoe" not in answer
    status, answer = rehearsed(path, "--json")
    assert (status, json.loads(answer)["faults"][0]["line"]) == (1, 1)


@pytest.mark.parametrize("format", ["", "835", "camt", "csv", "stripe", "ubl"])
def test_dry_run_of_what_is_no_file_ends_with_a_sentence(tmp_path, format):
    """A missing file, a folder or a pipe, which could be read only once, is refused whether its format is named."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", "", "pipe"):
        result = CliRunner().invoke(app, ["submit", str(tmp_path / name), "--dry-run", "--format", format])
        assert result.exit_code == 2
        assert "unreadable_file" in result.stderr and "Traceback" not in result.stderr


def test_dry_run_of_no_known_format_can_not_be_carried_out(tmp_path):
    """What is of no format that is read is an error, not an empty answer."""
    assert rehearsed(write(tmp_path, "nothing that is known"))[0] == 2
