"""The HTTP transport on a real wire: what each broken exchange says of a call, proxies, certificates, time limits."""

import datetime
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

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

    def __init__(
        self, answer: Answer, tls: ssl.SSLContext | None = None, read: Callable[[socket.socket], bytes] | None = None
    ) -> None:
        self._answer, self._tls, self._read = answer, tls, read or _read_request
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
                head = self._read(connection)
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

    def start(*given: Any, **named: Any) -> WireServer:
        servers.append(WireServer(*given, **named))
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


def dripping(connection: socket.socket, head: bytes) -> None:
    """A good answer, byte by byte."""
    body = b'{"n": ' + b"1" * 60 + b"}"
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    with suppress(OSError):
        for byte in body:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)


def garbled(connection: socket.socket, head: bytes) -> None:
    """No HTTP."""
    connection.sendall(b"220 mail.example.org ESMTP\r\n")


def dropped(connection: socket.socket, head: bytes) -> None:
    """The connection ends."""


def moved(connection: socket.socket, head: bytes) -> None:
    """Somewhere else."""
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/login\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("answer", [broken, silent, dripping, garbled, dropped], ids=lambda answer: answer.__name__)
def test_transport_answer_that_breaks_after_sending_is_a_doubt_unless_it_only_reads(
    serve: Callable[..., WireServer], answer: Answer
) -> None:
    """What broke after the request had left may have been applied; a question that broke applied nothing."""
    url = f"http://{serve(answer).address}"
    assert send(POST, url, answer_timeout_s=0.3) == "unknown"
    assert send(POST._replace(reads=True), url, answer_timeout_s=0.3) == "unavailable"


def test_transport_answer_that_does_not_end_is_given_up(
    serve: Callable[..., WireServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is longer than any answer is not kept."""
    monkeypatch.setattr("adapters.erp.http.transport.REPLY_BYTES_MAX", 1)
    assert send(POST, f"http://{serve(whole).address}") == "unknown"


def test_transport_connection_that_is_refused_has_sent_nothing(serve: Callable[..., WireServer]) -> None:
    """A port that nobody listens on never saw the request."""
    server = serve(whole)
    server.close()
    assert send(POST, f"http://{server.address}") == "unavailable"


def test_transport_redirect_is_not_followed(serve: Callable[..., WireServer]) -> None:
    """A log-in page is no place to send a journal to."""
    assert send(POST, f"http://{serve(moved).address}") == "unavailable"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_transport_tells_the_delay_that_is_asked_for(serve: Callable[..., WireServer], status: int, form: str) -> None:
    """Retry-After in seconds or as a date, with any of the statuses that carry it: throttled, for so long."""
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3_000)
    value = "3000" if form == "seconds" else format_datetime(at, usegmt=True)

    def throttled(connection: socket.socket, head: bytes) -> None:
        connection.sendall(f"HTTP/1.1 {status} No\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode())

    section = ErpSection.model_validate({"kind": "rest", "url": f"http://{serve(throttled).address}"})
    with closing(HttpTransport(section, WallClock(), Dialect("wire"))) as transport, pytest.raises(ErpFault) as told:
        transport.send(POST)
    assert told.value.code == "throttled"
    assert 2_000 < told.value.retry_after_s <= 3_000


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


def test_transport_speaks_http2_where_it_is_offered(serve: Callable[..., WireServer], tmp_path: Path) -> None:
    """A server that takes up HTTP/2 is spoken to so, when it is configured."""
    certificate, spoken = tmp_path / "erp.pem", []
    tls = _self_signed(certificate)
    tls.set_alpn_protocols(["h2", "http/1.1"])

    def protocol(connection: ssl.SSLSocket) -> bytes:
        spoken.append(connection.selected_alpn_protocol())
        return b""

    server = serve(_over_http2, tls, read=protocol)
    assert send(POST, f"https://{server.address}", ca_file=str(certificate), http2=True) == 200
    assert spoken == ["h2"]


def _over_http2(connection: socket.socket, head: bytes) -> None:
    """A good answer to each request, until the other side goes."""
    speaking = H2Connection(H2Configuration(client_side=False))
    speaking.initiate_connection()
    connection.sendall(speaking.data_to_send())
    with suppress(OSError):
        while data := connection.recv(65_536):
            for event in speaking.receive_data(data):
                if isinstance(event, StreamEnded):
                    speaking.send_headers(event.stream_id, [(":status", "200")])
                    speaking.send_data(event.stream_id, b"{}", end_stream=True)
            connection.sendall(speaking.data_to_send())


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
