"""The ERP's part of the configuration, and opening an adapter by it."""

import contextlib

import pytest

from actors.wiring import check_erp
from adapters.erp.http.gateway import ErpConnection, with_limits
from adapters.erp.netsuite import NetSuiteGateway
from adapters.erp.registry import kinds, open_gateway_of
from runtime.config import ErpSection, parse
from runtime.errors import ConfigError

ENTITIES = {"north": {"name": "North", "opens_on": "2026-01-01"}}
URL = "https://erp.example.org"
REFRESHED = {
    "kind": "oauth2_refresh",
    "token_url": URL,
    "client_id": "us",
    "secret": {"env": "PENSTOCK_TEST_SECRET"},
    "refresh_token_file": "no/such",
}


class Clock:
    """Time stands still."""

    def now_ms(self) -> int:
        """The present."""
        return 1_800_000_000_000

    def sleep(self, seconds: float) -> None:
        """Never."""


def opened(**section: object):
    config = parse({"entities": ENTITIES, "erp": section})
    return open_gateway_of(ErpConnection(config.erp, config.erp_entities(), Clock()))


def test_registry_lists_every_adapter_of_the_folder() -> None:
    """A module with an opener is a kind; what supports adapters is none."""
    assert {"business_central", "netsuite", "tryton"} <= set(kinds())
    assert not {"memory", "registry", "conformance", "tryton_rpc"} & set(kinds())


def test_registry_opens_the_kind_that_is_configured() -> None:
    """The section's kind decides, its companies and limits arrive, and no connection is made yet."""
    gateway = opened(kind="netsuite", url=URL, companies={"north": "1"}, limits={"concurrency": 15})
    assert isinstance(gateway, NetSuiteGateway)
    assert gateway.companies == {"north": "1"}
    assert gateway.terms().concurrency == 15
    gateway.close()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "netsweet", "url": URL}, "erp.kind: there is no 'netsweet'; known are .*netsuite"),
        ({"kind": "netsuite"}, "erp.*url: netsuite is not embedded"),
        ({"kind": "netsuite", "url": "erp.example.org"}, "erp.url: not an address"),
        ({"kind": "netsuite", "url": URL, "companies": {"south": "1"}}, "erp.companies: 'south' is not under"),
        ({"kind": "netsuite", "url": URL, "settings": {"mode": "fast"}}, "erp.settings.mode"),
        ({"kind": "netsuite", "url": URL, "settings": {"duplicate": "("}}, "erp.settings.duplicate: no pattern"),
        ({"kind": "xero", "url": URL, "settings": {"mode": "batch"}}, "erp.settings.mode"),
        ({"kind": "business_central", "url": URL, "settings": {"mode": "batch"}}, "erp.settings.mode"),
        ({"kind": "netsuite", "url": URL, "limits": {"concurrency": 0}}, "erp.limits.concurrency"),
        ({"kind": "netsuite", "url": URL, "auth": {"kind": "basic"}}, "erp.auth: .*basic also needs user, secret"),
        ({"kind": "netsuite", "url": URL, "auth": {"kind": "none", "secret": {}}}, "erp.auth.secret: .*one of the two"),
        ({"kind": "netsuite", "url": URL, "http": {"ca_file": "no/such.pem"}}, "erp.http.ca_file: no/such.pem"),
        ({"kind": "netsuite", "url": URL, "http": {"proxy": "nowhere"}}, "erp.http.proxy"),
    ],
)
def test_config_mistake_is_told_by_its_place(section: dict, said: str) -> None:
    """Each wrong setting is named by its path, before anything is sent."""
    with pytest.raises(ConfigError, match=said):
        opened(**section)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "netsweet"}, "erp.kind: there is no 'netsweet'"),
        ({"companies": {}}, "erp.companies: north has none; name what the ERP calls it"),
        ({"auth": {"kind": "header", "secret": {"file": "no/such"}}}, "erp.auth.secret.file: no/such: No such file"),
        ({"auth": {"kind": "header", "secret": {"env": "PENSTOCK_NONE"}}}, "erp.auth.secret.env: .*PENSTOCK_NONE"),
        ({"auth": REFRESHED}, "erp.auth.refresh_token_file: no/such"),
        ({"settings": {"mode": "fast"}}, "erp.settings.mode"),
        ({}, ""),
    ],
)
def test_connection_that_could_post_nothing_is_refused_at_the_start(
    section: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would fail with each entry is told by its place before anything runs; a whole section passes."""
    monkeypatch.setenv("PENSTOCK_TEST_SECRET", "s")
    config = parse(
        {"entities": ENTITIES, "erp": {"kind": "netsuite", "url": URL, "companies": {"north": "1"}, **section}}
    )
    with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
        check_erp(config)


def test_config_secret_in_the_file_itself_is_refused() -> None:
    """There is no place for a secret in the configuration, and the error does not repeat it."""
    with pytest.raises(ConfigError) as refused:
        opened(kind="netsuite", url=URL, auth={"kind": "basic", "user": "u", "secret": "hunter2"})
    assert "erp.auth.secret" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_with_limits_changes_only_what_is_given() -> None:
    """An account's limits stand over the adapter's; the rest stays, also where 0 states that there is none."""
    terms = opened(kind="netsuite", url=URL).terms()
    changed = with_limits(terms, ErpSection(kind="none", limits={"settle_s": 1.0, "bytes_max": 0}))
    assert (changed.settle_s, changed.bytes_max) == (1.0, 0)
    assert changed.lines_max == terms.lines_max
