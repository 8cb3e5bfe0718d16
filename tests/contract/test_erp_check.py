"""`penstock erp check`: rehearsed against a double, live against what the configuration names."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.cli import app
from adapters.clock import WallClock
from adapters.erp.doubles.business_central import BusinessCentralDouble
from adapters.erp.doubles.catalog import EXAMPLE_ACCOUNTS, EXAMPLE_COMPANY, example_ledger
from adapters.erp.doubles.server import SECRETS, DoubleServer

KIND = "business_central"
CONFIGURATION = """
[entities.general]
name = "General"
opens_on = 2026-01-01

[erp]
kind = "business_central"
url = "{url}"
companies = {{ general = "{company}" }}
auth = {{ kind = "oauth2_client", token_url = "{url}/oauth2/token", client_id = "double-client", \
secret = {{ env = "PENSTOCK_DOUBLE_SECRET" }} }}
"""


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["erp", "check", *words])
    return result.exit_code, result.output


def test_erp_check_rehearsed_keeps_every_check() -> None:
    """Without a configuration the adapter is checked against the double of its ERP, and all is kept."""
    status, output = run(KIND, "--json")
    told = json.loads(output)
    assert status == 0
    assert {finding["verdict"] for finding in told["findings"]} == {"kept"}
    assert not told["live"]


def test_erp_check_of_an_unknown_kind_says_which_there_are() -> None:
    """A kind without a double ends the command with a sentence."""
    status, output = run("abacus")
    assert status == 2
    assert KIND in output


def test_erp_check_live_books_nothing_unless_an_account_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live, the configured ERP is only asked; with --post a cent is booked on both sides of that account, once. What
    keeps it from being asked is named."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    double = BusinessCentralDouble(example_ledger(), clock=WallClock())
    file = tmp_path / "penstock.toml"
    with DoubleServer(double) as server:
        file.write_text(CONFIGURATION.format(url=server.url, company=EXAMPLE_COMPANY))
        status, _ = run(KIND, "--live", "--config", str(file))
        assert status == 0
        assert not double.ledger.documents
        status, _ = run(KIND, "--live", "--post", EXAMPLE_ACCOUNTS[0], "--config", str(file))
        assert status == 0
        assert len(double.ledger.documents) == 1
        monkeypatch.setenv("PENSTOCK_DOUBLE_SECRET", "not the secret")
        status, output = run(KIND, "--live", "--config", str(file))
        assert status == 1 and "token server: HTTP 401" in output
        monkeypatch.delenv("PENSTOCK_DOUBLE_SECRET")
        status, output = run(KIND, "--live", "--config", str(file))
        assert status == 2 and "erp.auth.secret.env" in output


def test_erp_check_live_of_another_kind_than_configured_is_refused(tmp_path: Path) -> None:
    """The name says what one expects to be connected to; a mistake is told before anything is sent."""
    file = tmp_path / "penstock.toml"
    file.write_text(CONFIGURATION.format(url="http://127.0.0.1:9", company=EXAMPLE_COMPANY))
    status, output = run("netsuite", "--live", "--config", str(file))
    assert status == 2
    assert "erp.kind" in output
