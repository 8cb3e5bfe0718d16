"""One pooled HTTP connection to an ERP: sends a request, gives the answer or a fault.

Owns time limits, proxies, certificates, authentication, and what a broken exchange says of a call: refused before it
was sent means nothing applied, broken after that means unknown. Never knows a journal, never repeats a call except once
after 401, and never logs a body or a header.
"""

import ssl
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec

from adapters.erp.http.auth import Auth, auth_of
from adapters.erp.http.dialect import Dialect, Reply, fault_of
from adapters.erp.http.fault import ErpFault
from runtime.config import ErpHttpSection, ErpSection
from runtime.errors import ConfigError
from runtime.ports import Clock

JSON = "application/json"
REPLY_BYTES_MAX = 256 * 2**20  # of an answer's body; the largest one is a list of all accounts, or a job's report
# The request never left: the ERP has applied nothing. A pool without room is one of these.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)


class Request(NamedTuple):
    """What to send. `path` follows the ERP's address, wherever it may point: credentials go nowhere else. `body` is
    encoded as JSON unless it is bytes. `reads` says that it changes nothing, so a lost answer is no doubt. `late`: it
    may begin however late, as what it works on is gone once a lookup has not found it."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = {}
    params: Mapping[str, str] = {}
    content_type: str = JSON
    reads: bool = False
    late: bool = False


class HttpTransport:
    """Sends requests to one ERP as one user. After `books_until_ms` none is sent that may book something."""

    def __init__(self, section: ErpSection, clock: Clock, dialect: Dialect, auth: Auth | None = None) -> None:
        self._base, self._clock, self._dialect = _address(section.url), clock, dialect
        self._http, self._answer_s = http_client(section.http), section.http.answer_timeout_s
        self.books_until_ms: int | None = None
        self._auth = auth or auth_of(section.auth, clock, self.post_form)

    def send(self, request: Request, also: Collection[int] = ()) -> Reply:
        """The answer when it is a success (2xx) or its status is one of `also`; otherwise raises ErpFault."""
        try:
            reply = self._sent(request)
            if reply.status == 401 and self._auth.renew():
                reply = self._sent(request)
            if 200 <= reply.status < 300 or reply.status in also:
                return reply
            raise fault_of(reply, self._dialect, self._clock.now_ms())
        except ErpFault as fault:
            raise (fault.nothing_applied() if request.reads else fault) from None

    def post_form(self, url: str, fields: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        """Post a form without authentication of our own; raises ErpFault (unavailable) when there is no answer."""
        built = self._http.build_request("POST", url, data=dict(fields), headers={"Accept": JSON, **headers})
        try:
            return self._exchanged(built)
        except ErpFault as fault:
            raise fault.nothing_applied() from None

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _sent(self, request: Request) -> Reply:
        url = f"{self._base}/{request.path.lstrip('/')}"
        content = request.body if isinstance(request.body, bytes) else _encoded(request.body)
        headers = {"Accept": JSON, **({"Content-Type": request.content_type} if content is not None else {})}
        try:
            built = self._http.build_request(
                request.method,
                url,
                params=request.params or None,
                content=content,
                headers={**headers, **request.headers},
            )
            built.headers.update(self._auth.headers(request.method, str(built.url)))
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ErpFault("unavailable", f"{request.method}: no request can be made: {type(error).__name__}") from None
        if not (request.reads or request.late):
            refuse_after(self.books_until_ms, self._clock)
        return self._exchanged(built)

    def _exchanged(self, built: httpx.Request) -> Reply:
        try:
            return whole_reply(self._http, built, self._clock, self._answer_s)
        except _NEVER_SENT as error:
            raise ErpFault("unavailable", f"{built.method} {built.url.path}: {type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise ErpFault("unknown", f"{built.method} {built.url.path}: {type(error).__name__}") from None


def whole_reply(client: httpx.Client, request: httpx.Request, clock: Clock, within_s: float) -> Reply:
    """Send this; the answer, whose body must end `within_s` after it began: a client's own limit is of each read, and
    an ERP that answers byte by byte keeps it for ever. Raises httpx.HTTPError."""
    response = client.send(request, stream=True)
    try:
        until_ms, body = clock.now_ms() + within_s * 1000, bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > REPLY_BYTES_MAX:
                raise httpx.ReadError("the answer is too long")
            if clock.now_ms() > until_ms:
                raise httpx.ReadTimeout("the answer does not end")
        return Reply(response.status_code, response.headers, bytes(body))
    finally:
        response.close()


def refuse_after(latest_ms: int | None, clock: Clock) -> None:
    """Raise ErpFault when it is too late to book anything: somebody may have looked it up, and sent it again."""
    if latest_ms is not None and clock.now_ms() > latest_ms:
        raise ErpFault("unavailable", "not sent: its call began too long ago")


def _address(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError("erp.url: not an address like https://erp.example.org")
    return url.rstrip("/")


def _encoded(body: Any) -> bytes | None:
    return None if body is None else msgspec.json.encode(body)


def http_client(section: ErpHttpSection) -> httpx.Client:
    """A client as the configuration has it: time limits, proxy, certificates. Raises ConfigError."""
    timeout = httpx.Timeout(section.answer_timeout_s, connect=section.connect_timeout_s)
    limits = httpx.Limits(max_connections=section.connections_max)
    try:
        return httpx.Client(
            timeout=timeout,
            limits=limits,
            proxy=section.proxy or None,
            verify=_certificates(section.ca_file),
            http2=section.http2,
            trust_env=False,
        )
    except ImportError:
        raise ConfigError("erp.http.http2: needs the extra: pip install penstock[http2]") from None
    except ValueError:
        raise ConfigError("erp.http.proxy: not an address like http://host:port") from None


def _certificates(path: str) -> ssl.SSLContext | bool:
    if not path:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"erp.http.ca_file: {path} holds no certificates in PEM") from None
