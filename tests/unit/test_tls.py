"""The proof of certificates before anything starts: each wrong file is named by its setting, with what is wrong."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from adapters.tls import check_tls, client_credentials, server_credentials
from runtime.config import TlsSection, parse
from runtime.errors import ConfigError

HOST = "gateway.example.org"
OURS, OTHER = trustme.CA(), trustme.CA()
Filed = Callable[..., dict[str, str]]


@pytest.fixture
def filed(tmp_path: Path) -> Filed:
    """Writes what an authority signs, and answers the settings by that prefix."""

    def write(prefix: str = "", by: trustme.CA = OURS, host: str = HOST, until: datetime | None = None) -> dict:
        signed = by.issue_cert(host, not_after=until)
        cert, key = str(tmp_path / f"{prefix}cert.pem"), str(tmp_path / f"{prefix}key.pem")
        signed.cert_chain_pems[0].write_to_path(cert)
        signed.private_key_pem.write_to_path(key)
        return {f"{prefix}cert_file": cert, f"{prefix}key_file": key}

    return write


@pytest.fixture
def authority(tmp_path: Path) -> str:
    path = str(tmp_path / "ca.pem")
    OURS.cert_pem.write_to_path(path)
    return path


def wrong(**settings: str) -> str:
    """What is found wrong."""
    with pytest.raises(ConfigError) as caught:
        check_tls(TlsSection(**settings), HOST)
    return str(caught.value)


def test_nothing_configured_is_nothing_encrypted():
    """No file is looked for."""
    tls = TlsSection()
    check_tls(tls, HOST)
    assert (server_credentials(tls), client_credentials(tls)) == (None, None)


def test_certificates_that_belong_together_are_right(filed: Filed, authority: str):
    """With who signed them, by themselves, and with clients that show one."""
    door, clients = filed(), filed("client_") | {"client_ca_file": authority}
    for settings in (door, door | {"ca_file": authority}, door | clients, {"ca_file": authority}):
        check_tls(TlsSection(**settings), HOST)


def test_a_certificate_for_another_host_or_time_or_from_somebody_else_is_named(filed: Filed, authority: str):
    """As who calls would say it."""
    assert "gateway.tls.cert_file: who calls gateway.example.org would refuse it: Hostname mismatch" in wrong(
        **filed(host="elsewhere.example.org")
    )
    assert "has expired" in wrong(**filed(until=datetime(2020, 1, 1, tzinfo=UTC)))
    assert "gateway.tls.cert_file" in wrong(**filed(by=OTHER), ca_file=authority)


def test_a_client_certificate_that_the_door_would_refuse_is_named(filed: Filed, authority: str):
    """Penstock's own commands go through the same door."""
    settings = filed() | filed("client_", by=OTHER) | {"client_ca_file": authority}
    assert "gateway.tls.client_cert_file: the gateway would refuse it" in wrong(**settings)


def test_files_that_are_missing_or_something_else_are_named(filed: Filed, tmp_path: Path):
    """Each by its setting; a key that belongs to another certificate, too."""
    door = filed()
    assert "gateway.tls.key_file: nowhere.pem: No such file" in wrong(**door | {"key_file": "nowhere.pem"})
    assert "gateway.tls.ca_file: nowhere.pem: No such file" in wrong(ca_file="nowhere.pem")
    other = filed("client_")
    assert "not the key of that certificate" in wrong(**door | {"key_file": other["client_key_file"]})
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    assert "gateway.tls.cert_file, key_file: not in PEM form" in wrong(**door | {"key_file": str(text)})
    assert "gateway.tls.ca_file" in wrong(**door | {"ca_file": str(text)})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"cert_file": "a"}, "gateway.tls: key_file"),
        ({"client_key_file": "a"}, "gateway.tls: client_key_file"),
        ({"client_ca_file": "a"}, "gateway.tls: client_ca_file"),
        ({"cert_file": "a", "key_file": "b", "client_ca_file": "c"}, "gateway.tls: client_cert_file"),
    ],
)
def test_settings_that_need_each_other_are_asked_for(given: dict[str, str], named: str):
    """Before any file is read."""
    with pytest.raises(ConfigError, match=named):
        parse({"entities": {"a": {"name": "A", "opens_on": "2026-01-01"}}, "gateway": {"tls": given}})
