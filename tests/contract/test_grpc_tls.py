"""The gRPC door with certificates, on loopback: who gets in, and what becomes of a renewed certificate."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from penstock import Client, SubmitTimeout
from served_gateway import NOW_MS, SHARDS, Served, SlowLog

from adapters.tls import client_credentials, server_credentials
from runtime.config import TlsSection

HOST = "127.0.0.1"
ROW = {
    "event_id": "e-1",
    "source": "billing",
    "kind": "payout_paid",
    "entity": "H1",
    "document": "po-1",
    "amount_minor": 100,
    "currency": "USD",
    "occurred_at": NOW_MS,
}
Serve = Callable[[TlsSection], Served]


class Authority:
    """One who signs certificates, and where its own lies."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca, self._folder = trustme.CA(), folder
        self.file = str(folder / f"{name}.ca")
        self._ca.cert_pem.write_to_path(self.file)

    def sign(self, name: str, host: str = HOST) -> dict[str, str]:
        """A certificate and its key under that name, in place of what was there."""
        cert, key = str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key")
        signed = self._ca.issue_cert(host)
        signed.cert_chain_pems[0].write_to_path(cert)
        signed.private_key_pem.write_to_path(key)
        return {"cert": cert, "key": key}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[Served] = []

    def started(tls: TlsSection) -> Served:
        running.append(Served(SlowLog(SHARDS), server_credentials(tls)))
        return running[-1]

    yield started
    for one in running:
        one.close()


def own(**files: str) -> TlsSection:
    """The settings of these files, by `cert`, `key`, `client_cert`, ..."""
    return TlsSection(**{f"{name}_file": path for name, path in files.items()})


def accepted(served: Served, tls: TlsSection | None) -> int:
    """How many events a client with these settings gets in; without settings it does not encrypt."""
    credentials = client_credentials(tls) if tls else None
    with Client(served.target, credentials=credentials, deadline_s=1.0) as client:
        answer = client.submit([ROW])
    return answer.accepted + answer.duplicate


def refused(served: Served, tls: TlsSection | None) -> str:
    """Why a client with these settings does not get in, as it says itself."""
    with pytest.raises(SubmitTimeout) as caught:
        accepted(served, tls)
    return str(caught.value)


def test_grpc_tls_lets_in_who_trusts_the_certificate_and_nobody_who_does_not_encrypt(
    serve: Serve, authority: Authority, tmp_path: Path
):
    """By the one who signed it or by itself; who trusts somebody else reads why nothing went through."""
    tls = own(**authority.sign("gateway"))
    served = serve(tls)
    assert accepted(served, own(ca=authority.file)) == accepted(served, tls) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in refused(served, own(ca=Authority(tmp_path, "other").file))
    refused(served, None)


def test_grpc_tls_that_asks_for_certificates_lets_in_only_who_shows_one_of_its_authority(
    serve: Serve, authority: Authority, tmp_path: Path
):
    """Neither without one nor with somebody else's."""
    tls = own(**authority.sign("gateway"), client_ca=authority.file, **_as_client(authority.sign("billing")))
    served = serve(tls)
    assert accepted(served, tls) == 1
    refused(served, own(ca=authority.file))
    refused(served, own(ca=authority.file, **_as_client(Authority(tmp_path, "other").sign("stranger"))))


def test_grpc_tls_shows_a_renewed_certificate_at_the_next_connection_and_keeps_the_former_while_it_is_half_there(
    serve: Serve, authority: Authority, tmp_path: Path
):
    """Of a pair that does not belong together, or of a file that is missing, nothing is taken."""
    tls = own(**authority.sign("gateway"))
    served = serve(tls)
    newer = Authority(tmp_path, "newer")
    Path(tls.cert_file).write_bytes(Path(newer.sign("next")["cert"]).read_bytes())
    assert accepted(served, own(ca=authority.file)) == 1
    Path(tls.cert_file).unlink()
    assert accepted(served, own(ca=authority.file)) == 1
    newer.sign("gateway")
    assert accepted(served, own(ca=newer.file)) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in refused(served, own(ca=authority.file))


def _as_client(pair: dict[str, str]) -> dict[str, str]:
    return {f"client_{name}": path for name, path in pair.items()}
