"""How a request proves who sends it, from the configuration's `[erp.auth]`.

Owns headers, tokens and when they are renewed. Never logs a secret or a token, and no error holds one. What fails here
fails before the ERP was asked for anything: its faults promise that nothing was applied.
"""

import base64
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from adapters.erp.http import oauth1
from adapters.erp.http.dialect import Reply
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.secret import KeptToken, read_secret
from runtime.config import ErpAuthSection
from runtime.errors import ConfigError
from runtime.ports import Clock, OutcomeCode

RENEW_BEFORE_S = 60.0  # of an access token's end: a call may wait that long in a queue
TOKEN_LIFE_S = 300.0  # of a token whose server does not say
_VALUE = TypeVar("_VALUE")

# Posts a form to the token server: url, fields, headers. Raises ErpFault when there is no answer.
PostForm = Callable[[str, Mapping[str, str], Mapping[str, str]], Reply]


class Auth(Protocol):
    """One way of authentication."""

    def headers(self, method: str, url: str) -> dict[str, str]:
        """What this request must carry. May ask a token server. Raises ErpFault, of which nothing was applied."""
        ...

    def renew(self) -> bool:
        """Forget what was refused with 401; whether a second try makes sense."""
        ...


class FixedAuth:
    """The same header for every request: none, basic, or a key."""

    def __init__(self, header: str, value: Callable[[], str]) -> None:
        self._header, self._value = header, value

    def headers(self, method: str, url: str) -> dict[str, str]:
        return {self._header: _told(self._value)} if self._header else {}

    def renew(self) -> bool:
        return False


class SignedAuth:
    """OAuth 1.0a: each request carries its own signature."""

    def __init__(self, keys: Callable[[], oauth1.Keys], clock: Clock) -> None:
        self._keys, self._clock = keys, clock

    def headers(self, method: str, url: str) -> dict[str, str]:
        timestamp_s = self._clock.now_ms() // 1000
        signed = oauth1.authorization(_told(self._keys), method, url, secrets.token_hex(16), timestamp_s)
        return {"Authorization": signed}

    def renew(self) -> bool:
        return False


class _Token(msgspec.Struct):
    access_token: str
    expires_in: float = TOKEN_LIFE_S
    refresh_token: str = ""


class TokenAuth:
    """A token that `fetch` brings from a token server or a log-in, kept until shortly before its end or until a 401."""

    def __init__(self, fetch: Callable[[], _Token], clock: Clock, prefix: str = "Bearer") -> None:
        self._fetch, self._clock, self._prefix = fetch, clock, prefix
        self._value, self._renew_at_ms = "", 0
        self._lock = threading.Lock()

    def headers(self, method: str, url: str) -> dict[str, str]:
        with self._lock:
            if not self._value or self._clock.now_ms() >= self._renew_at_ms:
                token = self._fetch()
                life_s = max(token.expires_in - RENEW_BEFORE_S, token.expires_in / 2)
                self._value, self._renew_at_ms = token.access_token, self._clock.now_ms() + round(life_s * 1000)
            return {"Authorization": f"{self._prefix} {self._value}".lstrip()}

    def renew(self) -> bool:
        with self._lock:
            self._value = ""
        return True


def session_auth(log_in: Callable[[], tuple[str, float]], clock: Clock, prefix: str) -> TokenAuth:
    """For ERPs with a log-in of their own: `log_in` gives the session's token and its life in seconds, or raises
    ErpFault."""

    def fetch() -> _Token:
        value, life_s = log_in()
        return _Token(access_token=value, expires_in=life_s)

    return TokenAuth(fetch, clock, prefix)


def auth_of(section: ErpAuthSection, clock: Clock, post_form: PostForm) -> Auth:
    """The authentication that the configuration names."""
    match section.kind:
        case "basic":
            return FixedAuth("Authorization", lambda: _basic(section.user, _secret(section)))
        case "header":
            return FixedAuth(section.header, lambda: f"{section.prefix} {_secret(section)}".lstrip())
        case "oauth1":
            return SignedAuth(lambda: _keys(section), clock)
        case "oauth2_client":
            return TokenAuth(lambda: _client_token(section, post_form), clock)
        case "oauth2_refresh":
            kept = KeptToken(section.refresh_token_file)
            return TokenAuth(lambda: _refreshed_token(section, kept, post_form), clock)
        case _:
            return FixedAuth("", lambda: "")


def check_secrets(section: ErpAuthSection) -> None:
    """Read each secret once, so that one that is not there is told at the start. ConfigError names it."""
    for secret, place in ((section.secret, "erp.auth.secret"), (section.token_secret, "erp.auth.token_secret")):
        if secret is not None:
            read_secret(secret, place)
    if section.refresh_token_file and "{" not in section.refresh_token_file:  # else there is one for each realm
        KeptToken(section.refresh_token_file).read()


def _client_token(section: ErpAuthSection, post_form: PostForm) -> _Token:
    secret = _told(lambda: _secret(section))
    fields = {"grant_type": "client_credentials", "client_id": section.client_id, "client_secret": secret}
    return _asked(post_form, section.token_url, fields | ({"scope": section.scope} if section.scope else {}), {})


def _refreshed_token(section: ErpAuthSection, kept: KeptToken, post_form: PostForm) -> _Token:
    headers = {"Authorization": _basic(section.client_id, _told(lambda: _secret(section)))}
    try:
        with kept.exclusively():
            refresh = _told(kept.read)
            fields = {"grant_type": "refresh_token", "refresh_token": refresh}
            token = _asked(post_form, section.token_url, fields, headers)
            if token.refresh_token and token.refresh_token != refresh:
                kept.replace(token.refresh_token)
    except OSError as error:
        raise ErpFault("unauthorised", f"erp.auth.refresh_token_file: {error.strerror}") from None
    return token


def _asked(post_form: PostForm, url: str, fields: Mapping[str, str], headers: Mapping[str, str]) -> _Token:
    reply = post_form(url, fields, headers)
    if reply.status == 200:
        try:
            return reply.read(_Token)
        except ErpFault:
            raise ErpFault("unavailable", "the token server's answer can't be read") from None
    # RFC 6749, 5.2: a wrong client or grant is 400 or 401; all else but a 403 is the server's own trouble.
    code: OutcomeCode = "unauthorised" if reply.status in (400, 401, 403) else "unavailable"
    raise ErpFault(code, f"token server: HTTP {reply.status}")


def _keys(section: ErpAuthSection) -> oauth1.Keys:
    assert section.token_secret is not None  # the configuration demands it of this kind
    token_secret = read_secret(section.token_secret, "erp.auth.token_secret")
    return oauth1.Keys(section.client_id, _secret(section), section.token_id, token_secret, section.realm)


def _secret(section: ErpAuthSection) -> str:
    assert section.secret is not None  # the configuration demands it of every kind that uses it
    return read_secret(section.secret, "erp.auth.secret")


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _told(read: Callable[[], _VALUE]) -> _VALUE:
    """What is read, or a fault: a secret that is gone while running is no reason to fall over."""
    try:
        return read()
    except ConfigError as error:
        raise ErpFault("unauthorised", str(error)) from None
