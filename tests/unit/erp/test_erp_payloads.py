"""The forms that entries take: Fusion's file by its columns, QuickBooks' journal entry, and settings that are wrong."""

import base64
import csv
import io
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from adapters.erp import fusion, quickbooks, tryton
from adapters.erp.http.gateway import ErpConnection
from runtime.config import ErpSection
from runtime.errors import ConfigError
from runtime.ports import JournalEntry, JournalLine


class NoClock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return 1_800_000_000_000

    def sleep(self, seconds: float) -> None:
        """Stand still."""


def connection(kind: str, settings: dict[str, Any], **section: Any) -> ErpConnection:
    """A connection to an address where nobody is."""
    given = {"kind": kind, "url": "http://127.0.0.1:1", "companies": {"north": "300"}, "settings": settings, **section}
    return ErpConnection(ErpSection.model_validate(given), ("north",), NoClock(), {"north": "USD"})


def entry(key: str = "PS-north-0000000001", codes: tuple[str, str] = ("01-000-1200", "01-000-4000")) -> JournalEntry:
    """A debit and a credit of 1,234.05."""
    sides = zip(codes, "DC", strict=True)
    return JournalEntry(
        key=key,
        digest="d",
        entity="north",
        currency="USD",
        period="2026-03",
        posted_on=date(2026, 3, 5),
        mode="summary",
        lane=3,
        document="",
        lines=tuple(JournalLine(code, side, 123_405, "f1", "lab", "charges, 7 events") for code, side in sides),
        sets=(),
    )


def test_fusion_file_has_each_value_in_its_column() -> None:
    """The file has no heading, 149 columns, and every value where the template has it, amounts as decimals."""
    gateway = fusion.open_gateway(connection("fusion", {"journal_source": "Hospital"}))
    with zipfile.ZipFile(io.BytesIO(gateway._file([entry()], 77))) as archive:
        assert archive.namelist() == ["GlInterface.csv"]
        debit, credit = csv.reader(io.StringIO(archive.read("GlInterface.csv").decode(), newline=""))
    gateway.close()
    assert {at: text for at, text in enumerate(debit) if text} == {
        0: "NEW",
        1: "300",
        2: "2026/03/05",
        3: "Hospital",
        4: "Penstock",
        5: "USD",
        6: "2026/03/05",
        7: "A",
        8: "01",
        9: "000",
        10: "1200",
        38: "1234.05",
        42: "PS-north-0000000001",
        43: "PS-north-0000000001",
        45: "PS-north-0000000001",
        51: "charges, 7 events f1 lab",
        66: "77",
    }
    assert (len(debit), len(credit), credit[10], credit[38], credit[39]) == (149, 149, "4000", "", "1234.05")


def test_fusion_file_of_the_same_entries_is_the_same() -> None:
    """No clock of the machine is in the file."""
    gateway = fusion.open_gateway(connection("fusion", {}))
    assert base64.b64encode(gateway._file([entry()], 1)) == base64.b64encode(gateway._file([entry()], 1))
    gateway.close()


def test_fusion_group_differs_by_entries_and_fits_its_column() -> None:
    """Two calls in one millisecond have different groups of at most 18 digits."""
    gateway = fusion.open_gateway(connection("fusion", {}))
    groups = {gateway._group([entry(f"PS-north-{i}")]) for i in range(50)}
    gateway.close()
    assert len(groups) == 50
    assert all(len(str(group)) <= 18 for group in groups)


def test_fusion_account_without_its_segments_is_refused_before_it_is_sent() -> None:
    """An account that has not the stated number of segments is named, and nothing is sent."""
    gateway = fusion.open_gateway(connection("fusion", {"segments": 3}))
    [outcome] = gateway.post([entry(codes=("1200", "01-000-4000"))])
    gateway.close()
    assert (outcome.code, outcome.detail) == ("rejected", "entry PS-north-0000000001: account 1200 has 1 segments")


def test_quickbooks_entry_names_party_and_currency_where_it_is_told_to() -> None:
    """Amounts are digits, the key stands in the note, and parties and currencies only where the settings say so."""
    settings = {"multicurrency": True, "parties": {"1200": "Customer/58"}}
    gateway = quickbooks.open_gateway(connection("quickbooks", settings))
    body = gateway._body(entry(codes=("1200", "4000")))
    gateway.close()
    first, second = body["Line"]
    assert (body["DocNumber"], body["PrivateNote"]) == ("PS-north-0000000001", "PS-north-0000000001")
    assert body["CurrencyRef"] == {"value": "USD"}
    assert bytes(first["Amount"]) == b"1234.05"
    assert first["JournalEntryLineDetail"]["Entity"] == {"Type": "Customer", "EntityRef": {"value": "58"}}
    assert "Entity" not in second["JournalEntryLineDetail"]


def test_quickbooks_document_number_has_room_and_is_the_keys_own() -> None:
    """A key that fits is the number; a longer one, or one of another form, becomes a short name of 21 characters."""
    assert quickbooks.document_number("PS-north-0000000001") == "PS-north-0000000001"
    long = {quickbooks.document_number(f"PS-northern-hospital-group-{i:010d}") for i in range(100)}
    assert len(long) == 100
    assert {len(number) for number in long} == {21}
    assert quickbooks.document_number("x").startswith("PS")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("quickbooks", {"mode": "bulk"}, r"erp\.settings\.mode"),
        ("quickbooks", {"parties": {"1200": "58"}}, r"erp\.settings\.parties"),
        ("fusion", {"journal_source": "a,b"}, r"erp\.settings\.journal_source"),
        ("fusion", {"refusal": "("}, r"erp\.settings\.refusal: .*no pattern"),
        ("tryton", {"external_refs": True}, r"erp\.settings\.external_refs"),
    ],
)
def test_vendor_settings_that_are_wrong_are_named(
    kind: str, settings: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong setting keeps the gateway from opening, and the error names its key."""
    monkeypatch.setenv(tryton.PASSWORD_VARIABLE, "secret")
    openers = {"quickbooks": quickbooks, "fusion": fusion, "tryton": tryton}
    with pytest.raises(ConfigError, match=said):
        openers[kind].open_gateway(connection(kind, settings))


def test_tryton_opens_as_its_setting_says(tmp_path: Path) -> None:
    """The setting chooses between Tryton with the module and without; the account's limits stand over its terms."""
    password = tmp_path / "password"
    password.write_text("secret")
    section = {"password_file": str(password), "limits": {"entries_max": 7}}
    for external_ref, key in ((True, "permanent"), (False, "none")):
        gateway = tryton.open_gateway(connection("tryton", {"external_ref": external_ref}, **section))
        assert (gateway.terms().native_key, gateway.terms().entries_max) == (key, 7)
        gateway.close()


def test_tryton_without_a_password_says_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that is nowhere is named by its key and its variable."""
    monkeypatch.delenv(tryton.PASSWORD_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=rf"erp\.password_file.*{tryton.PASSWORD_VARIABLE}"):
        tryton.open_gateway(connection("tryton", {}))
