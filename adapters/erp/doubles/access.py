"""How a double checks who asks: tokens it gave out, a fixed header, or a signature.

Owns credentials that mean nothing outside a loopback test. Written apart from the adapters' side.
"""

import base64
import hashlib
import hmac
import re
from typing import Protocol
from urllib.parse import parse_qs, quote, unquote, urlencode

from adapters.erp.doubles.exchange import Answer, Request, json_answer

CLIENT_ID = "double-client"
SECRET = "double-secret"
TOKEN_ID = "double-token"
TOKEN_SECRET = "double-token-secret"
REFRESH_TOKEN = "refresh-0"
TOKEN_PATH = "/oauth2/token"


class Access(Protocol):
    """One way of authentication, as the server sees it."""

    def admits(self, request: Request, now_ms: int) -> bool: ...
    def token(self, request: Request, now_ms: int) -> Answer | None:
        """The answer of the token server; None when this is no request for one."""
        ...

    def expire(self) -> None:
        """End what was given out."""
        ...


class HeaderAccess:
    """The same header each time."""

    def __init__(self, header: str, value: str) -> None:
        self._header, self._value = header.lower(), value

    def admits(self, request: Request, now_ms: int) -> bool:
        return hmac.compare_digest(request.headers.get(self._header, ""), self._value)

    def token(self, request: Request, now_ms: int) -> Answer | None:
        return None

    def expire(self) -> None:
        """A fixed header has no end."""


def basic_access(user: str = CLIENT_ID) -> HeaderAccess:
    """User and password (RFC 7617)."""
    return HeaderAccess("Authorization", "Basic " + base64.b64encode(f"{user}:{SECRET}".encode()).decode())


class BearerAccess:
    """OAuth 2 tokens with an end, by client credentials or by a refresh token that each use replaces."""

    def __init__(self, life_s: float = 3600.0, rotating: bool = False) -> None:
        self._life_s, self._rotating = life_s, rotating
        self._ends_ms: dict[str, int] = {}
        self._issued = 0
        self.refresh = REFRESH_TOKEN

    def admits(self, request: Request, now_ms: int) -> bool:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and self._ends_ms.get(value, 0) > now_ms

    def token(self, request: Request, now_ms: int) -> Answer | None:
        if request.path != TOKEN_PATH:
            return None
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if not self._knows(form, request):
            return json_answer(401, {"error": "invalid_client"})
        self._issued += 1
        value = f"access-{self._issued}"
        self._ends_ms[value] = now_ms + round(self._life_s * 1000)
        answer = {"access_token": value, "token_type": "Bearer", "expires_in": self._life_s}
        if self._rotating:
            self.refresh = f"refresh-{self._issued}"
            answer["refresh_token"] = self.refresh
        return json_answer(200, answer)

    def expire(self) -> None:
        self._ends_ms.clear()

    def _knows(self, form: dict[str, str], request: Request) -> bool:
        if self._rotating:
            basic = basic_access().admits(request, 0)
            return basic and form.get("grant_type") == "refresh_token" and form.get("refresh_token") == self.refresh
        given = (form.get("grant_type"), form.get("client_id"), form.get("client_secret"))
        return given == ("client_credentials", CLIENT_ID, SECRET)


class SignedAccess:
    """OAuth 1.0a with HMAC-SHA256; each nonce counts once."""

    def __init__(self) -> None:
        self._nonces: set[str] = set()

    def admits(self, request: Request, now_ms: int) -> bool:
        given = dict(re.findall(r'(\w+)="([^"]*)"', request.headers.get("authorization", "")))
        fields = {name: unquote(value) for name, value in given.items()}
        signature, nonce = fields.pop("oauth_signature", ""), fields.get("oauth_nonce", "")
        fields.pop("realm", "")
        if (fields.get("oauth_consumer_key"), fields.get("oauth_token")) != (CLIENT_ID, TOKEN_ID):
            return False
        fresh = nonce not in self._nonces and abs(now_ms / 1000 - float(fields.get("oauth_timestamp", 0))) < 300
        self._nonces.add(nonce)
        return fresh and hmac.compare_digest(signature, self._signature(request, fields))

    def token(self, request: Request, now_ms: int) -> Answer | None:
        return None

    def expire(self) -> None:
        """A signature has no end."""

    def _signature(self, request: Request, fields: dict[str, str]) -> str:
        pairs = sorted({**request.query, **fields}.items())
        listed = urlencode(pairs, quote_via=quote, safe="~")
        parts = (request.method, f"http://{request.headers['host']}{quote(request.path, safe='/:$()')}", listed)
        base = "&".join(quote(part, safe="~") for part in parts)
        digest = hmac.new(f"{SECRET}&{TOKEN_SECRET}".encode(), base.encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()
