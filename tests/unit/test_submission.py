"""`submit`: what it says of a file whose parts are not all taken."""

import json
from pathlib import Path

import pytest
from penstock import SubmitSummary
from penstock.client import Rejected
from typer.testing import CliRunner
from unit.sources.x12_texts import claim, interchange, remittance, write

from actors.cli import app, installation, submission

GOOD = remittance("540", *claim("A1", "1", "1000*540*160", "CO*45*300", "PR*1*160"))
WRONG = remittance("11", *claim("D4", "1", "10*10"), trace="T4")


class Gateway:
    """A client of a gateway that takes every kind but those it was told to refuse."""

    refuses: tuple[str, ...] = ()

    def __init__(self, target: str, *, credentials: object) -> None:
        self.target = target

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, frame) -> SubmitSummary:
        bad = frame.filter(frame["kind"].is_in(list(self.refuses)))["event_id"].to_list()
        results = [Rejected(row, event_id, "unknown_kind", "kind", "refused") for row, event_id in enumerate(bad)]
        return SubmitSummary(accepted=frame.height - len(bad), rejected=len(bad), results=results)


@pytest.fixture(autouse=True)
def _configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "penstock.toml").write_text('[entities.north]\nname = "North"\nopens_on = 2024-01-01\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installation, "Client", Gateway)


def submitted(path: Path, *more: str) -> tuple[int, str]:
    """Exit status and answer."""
    result = CliRunner().invoke(app, ["submit", str(path), "--target", "nowhere:1", *more])
    return result.exit_code, result.stdout


def test_submit_names_the_parts_that_are_set_aside(tmp_path: Path) -> None:
    """A set that does not tie is told with its place and code, in a table as in JSON, beside what was accepted."""
    path = write(tmp_path, interchange(GOOD, WRONG))
    status, answer = submitted(path)
    assert status == 0
    assert "set aside: 1" in answer and "penstock exceptions list" in answer and "transaction_unbalanced" in answer
    told = json.loads(submitted(path, "--json")[1])
    assert (told["accepted"], told["rejected"], told["quarantined"]) == (5, 0, 1)
    assert told["set_aside"] == [{"transaction": 2, "segment": 2, "element": 2, "code": "transaction_unbalanced"}]


def test_submit_tells_of_so_many_rejected_rows_and_counts_all(tmp_path: Path, monkeypatch) -> None:
    """However many rows a gateway rejects, no more of them are kept than an answer may hold; the count is whole."""
    monkeypatch.setattr(submission, "REJECTS_REPORTED_MAX", 2)
    monkeypatch.setattr(Gateway, "refuses", ("claim_adjusted", "claim_paid"))
    status, answer = submitted(write(tmp_path, interchange(GOOD)), "--json")
    assert (status, json.loads(answer)["rejected"], len(json.loads(answer)["rejects"])) == (1, 3, 2)


@pytest.mark.parametrize(("currency", "shown"), [("JPY", " 540 "), ("USD", " 540.00 "), ("KWD", " 540.000 ")])
def test_submit_shows_money_with_the_decimals_of_its_currency(currency: str, shown: str, tmp_path: Path) -> None:
    """The control total reads as the file does, whichever currency it is in."""
    (tmp_path / "penstock.toml").write_text(
        f'[entities.north]\nname = "North"\nopens_on = 2024-01-01\ncurrency = "{currency}"\n'
    )
    _, answer = submitted(write(tmp_path, interchange(GOOD)))
    assert sum(shown in line for line in answer.splitlines()) == 2  # claim_paid and remittance_received


def test_submit_fails_when_what_is_set_aside_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is neither booked nor an exception would be lost: the command says so and fails."""
    monkeypatch.setattr(Gateway, "refuses", ("document_quarantined",))
    status, answer = submitted(write(tmp_path, interchange(GOOD, WRONG)), "--json")
    assert (status, json.loads(answer)["rejected"]) == (1, 1)


def test_submit_in_a_format_that_is_unknown_names_the_known_ones(tmp_path: Path) -> None:
    """A misspelt format is what is wrong, not the entity that such a file would not name."""
    with (tmp_path / "penstock.toml").open("a") as config:
        config.write('[entities.south]\nname = "South"\nopens_on = 2024-01-01\n')
    path = write(tmp_path, interchange(WRONG))
    done = CliRunner().invoke(app, ["submit", str(path), "--format", "853", "--target", "nowhere:1"])
    assert done.exit_code == 2
    assert "853" in done.stderr and "835" in done.stderr and "--entity" not in done.stderr
