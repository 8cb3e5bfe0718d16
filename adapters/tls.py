"""Certificates of the gRPC door: what gateways show and ask for, and what Penstock's own commands do.

Owns reading the files of `[gateway.tls]`, and their proof before anything starts. Never decides who may send what.
"""

import ssl
from pathlib import Path

import grpc
import structlog

from runtime.config import TlsSection
from runtime.errors import ConfigError

_log = structlog.get_logger()
_FLIGHTS_MAX = 8  # messages that two ends exchange before they trust each other, with room to spare


def server_credentials(tls: TlsSection) -> grpc.ServerCredentials | None:
    """What a gateway shows and asks for; None where nothing is encrypted. Raises ConfigError.

    The files are read again for every connection, so that certificates can be renewed while it runs. Where they can't
    be, or don't belong together, those of before stay.
    """
    if not tls.cert_file:
        return None

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        try:
            return _certificates(tls)
        except ConfigError as error:
            _log.warning("certificate_unreadable", reason=str(error))
            return None

    return grpc.dynamic_ssl_server_credentials(_certificates(tls), renewed, bool(tls.client_ca_file))


def client_credentials(tls: TlsSection) -> grpc.ChannelCredentials | None:
    """What Penstock's own commands show and trust; None where nothing is encrypted. Raises ConfigError."""
    trusted = _trusted(tls)
    if not trusted:
        return None
    if not tls.client_cert_file:
        return grpc.ssl_channel_credentials(_read(tls, trusted))
    shown = _read(tls, "client_key_file"), _read(tls, "client_cert_file")
    return grpc.ssl_channel_credentials(_read(tls, trusted), *shown)


def check_tls(tls: TlsSection, host: str) -> None:
    """Let the two ends shake hands in memory, so that a command says what is wrong, and no producer is turned away.

    `host`: what clients call. Raises ConfigError.
    """
    trusted = _trusted(tls)
    if not trusted:
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate may be trusted without who signed it
    _trust(client, tls, trusted)
    _show(client, tls, "client_cert_file", "client_key_file")
    if not tls.cert_file:
        return
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _show(server, tls, "cert_file", "key_file")
    if tls.client_ca_file:
        _trust(server, tls, "client_ca_file")
        server.verify_mode = ssl.CERT_REQUIRED
    _shake_hands(client, server, host)


def _trusted(tls: TlsSection) -> str:
    """The setting whose file says whom commands trust; "" where nothing is encrypted."""
    return "ca_file" if tls.ca_file else "cert_file" if tls.cert_file else ""


def _certificates(tls: TlsSection) -> grpc.ServerCertificateConfiguration:
    shown = [(_read(tls, "key_file"), _read(tls, "cert_file"))]
    return grpc.ssl_server_certificate_configuration(
        shown, _read(tls, "client_ca_file") if tls.client_ca_file else None
    )


def _read(tls: TlsSection, setting: str) -> bytes:
    path = getattr(tls, setting)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _wrong(setting, f"{path}: {error.strerror}") from None


def _trust(context: ssl.SSLContext, tls: TlsSection, setting: str) -> None:
    pem = _read(tls, setting)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise _wrong(setting, f"{getattr(tls, setting)}: no certificate in PEM form") from None


def _show(context: ssl.SSLContext, tls: TlsSection, cert: str, key: str) -> None:
    if not getattr(tls, cert):
        return
    for setting in (cert, key):
        _read(tls, setting)  # which of the two can't be read, OpenSSL does not say
    try:
        context.load_cert_chain(getattr(tls, cert), getattr(tls, key), password="")
    except ssl.SSLError as error:
        wrong = "not the key of that certificate" if error.reason == "KEY_VALUES_MISMATCH" else "not in PEM form"
        raise _wrong(f"{cert}, {key}", f"{wrong}, or the key has a password; give a plain PEM pair") from None


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        ("cert_file", f"who calls {host} would refuse it", client.wrap_bio(to_client, to_server, server_hostname=host)),
        ("client_cert_file", "the gateway would refuse it", server.wrap_bio(to_server, to_client, server_side=True)),
    )
    for setting, who, end in ends * _FLIGHTS_MAX:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            raise _wrong(setting, f"{who}: {error.verify_message}") from None


def _wrong(setting: str, what: str) -> ConfigError:
    return ConfigError(f"gateway.tls.{setting}: {what}")
