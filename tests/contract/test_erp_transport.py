"""The HTTP transport on a real wire: what each broken exchange says of a call, proxies, certificates, time limits."""

import datetime
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adapters.clock import WallClock
from adapters.erp.http.dialect import Dialect
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.transport import HttpTransport, Request
from runtime.config import ErpSection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
POST = Request("POST", "/journals", {"n": 1})
Answer = Callable[[socket.socket, bytes], None]


class WireServer:
    """Takes connections on the loopback interface and lets `answer` do what it will with each, once its head is in."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._tls = answer, tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.heads: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; closing alone would leave the one that is waited for."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self._listening.accept()
                connection = self._tls.wrap_socket(taken, server_side=True) if self._tls else taken
            except ssl.SSLError:
                continue
            except OSError:
                return
            with closing(connection):
                head = _read_request(connection)
                self.heads.append(head)
                self._answer(connection, head)


def _read_request(connection: socket.socket) -> bytes:
    """The head of a request whose body has come too: to close before that would break the sending instead."""
    came = b""
    while True:
        head, ended, body = came.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if ended and len(body) >= (int(length[1]) if length else 0):
            return head
        more = connection.recv(65_536)
        if not more:
            return head
        came += more


@pytest.fixture
def serve() -> Iterator[Callable[..., WireServer]]:
    servers: list[WireServer] = []

    def start(answer: Answer, tls: ssl.SSLContext | None = None) -> WireServer:
        servers.append(WireServer(answer, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def send(request: Request, url: str, **http: object) -> int | str:
    """The status of the answer, or the code of the fault."""
    section = ErpSection.model_validate({"kind": "rest", "url": url, "http": http})
    with closing(HttpTransport(section, WallClock(), Dialect("wire"))) as transport:
        try:
            return transport.send(request).status
        except ErpFault as fault:
            return fault.code


def whole(connection: socket.socket, head: bytes) -> None:
    """A good answer."""
    connection.sendall(OK)


def broken(connection: socket.socket, head: bytes) -> None:
    """Half of an answer."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{")


def silent(connection: socket.socket, head: bytes) -> None:
    """Nothing, until the caller gives up."""
    connection.settimeout(10.0)
    connection.recv(1)


def garbled(connection: socket.socket, head: bytes) -> None:
    """No HTTP."""
    connection.sendall(b"220 mail.example.org ESMTP\r\n")


def dropped(connection: socket.socket, head: bytes) -> None:
    """The connection ends."""


def moved(connection: socket.socket, head: bytes) -> None:
    """Somewhere else."""
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/login\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("answer", [broken, silent, garbled, dropped], ids=lambda answer: answer.__name__)
def test_transport_answer_that_breaks_after_sending_is_a_doubt_unless_it_only_reads(
    serve: Callable[..., WireServer], answer: Answer
) -> None:
    """What broke after the request had left may have been applied; a question that broke applied nothing."""
    url = f"http://{serve(answer).address}"
    assert send(POST, url, answer_timeout_s=0.3) == "unknown"
    assert send(POST._replace(reads=True), url, answer_timeout_s=0.3) == "unavailable"


def test_transport_connection_that_is_refused_has_sent_nothing(serve: Callable[..., WireServer]) -> None:
    """A port that nobody listens on never saw the request."""
    server = serve(whole)
    server.close()
    assert send(POST, f"http://{server.address}") == "unavailable"


def test_transport_redirect_is_not_followed(serve: Callable[..., WireServer]) -> None:
    """A log-in page is no place to send a journal to."""
    assert send(POST, f"http://{serve(moved).address}") == "unavailable"


def test_transport_goes_through_the_configured_proxy_and_no_other(
    serve: Callable[..., WireServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration's proxy gets the request with its whole address; one that the environment names gets none."""
    proxy, erp, other = serve(whole), serve(whole), serve(whole)
    monkeypatch.setenv("HTTP_PROXY", f"http://{other.address}")
    assert send(POST, "http://erp.invalid", proxy=f"http://{proxy.address}") == 200
    assert proxy.heads[0].startswith(b"POST http://erp.invalid/journals HTTP/1.1")
    assert send(POST, f"http://{erp.address}") == 200
    assert not other.heads


def test_transport_with_http2_also_speaks_to_a_server_without(serve: Callable[..., WireServer], tmp_path: Path) -> None:
    """HTTP/2 is offered, and HTTP/1.1 spoken where the server does not take it up."""
    certificate = tmp_path / "erp.pem"
    server = serve(whole, _self_signed(certificate))
    assert send(POST, f"https://{server.address}", ca_file=str(certificate), http2=True) == 200


def test_transport_certificate_must_be_trusted(serve: Callable[..., WireServer], tmp_path: Path) -> None:
    """A certificate that nobody vouches for ends the call before anything is sent; one that is configured is taken."""
    certificate = tmp_path / "erp.pem"
    server = serve(whole, _self_signed(certificate))
    assert send(POST, f"https://{server.address}") == "unavailable"
    assert not server.heads
    assert send(POST, f"https://{server.address}", ca_file=str(certificate)) == 200


def _self_signed(path: Path) -> ssl.SSLContext:
    """A server's side for 127.0.0.1; its certificate is written to the path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "erp")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret = path.with_suffix(".key")
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, secret)
    return context
