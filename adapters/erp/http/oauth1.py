"""OAuth 1.0a request signatures (RFC 5849) with HMAC-SHA256, as token-based access to an ERP wants them.

Owns the signature alone; nonce and time are arguments, so equal requests sign equally.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

METHOD = "HMAC-SHA256"


class Keys(NamedTuple):
    """The client's and the token's pair, and the account that the request is for."""

    consumer_key: str
    consumer_secret: str
    token: str
    token_secret: str
    realm: str


def authorization(keys: Keys, method: str, url: str, nonce: str, timestamp_s: int) -> str:
    """The Authorization header of a request whose body is no form. `url` with its query."""
    fields = {
        "oauth_consumer_key": keys.consumer_key,
        "oauth_nonce": nonce,
        "oauth_signature_method": METHOD,
        "oauth_timestamp": str(timestamp_s),
        "oauth_token": keys.token,
        "oauth_version": "1.0",
    }
    base = signature_base(method, url, fields.items())
    secret = f"{_escaped(keys.consumer_secret)}&{_escaped(keys.token_secret)}"
    digest = hmac.new(secret.encode(), base.encode(), hashlib.sha256).digest()
    signed = {"realm": keys.realm, **fields, "oauth_signature": base64.b64encode(digest).decode()}
    return "OAuth " + ", ".join(f'{name}="{_escaped(value)}"' for name, value in signed.items() if value)


def signature_base(method: str, url: str, fields: Iterable[tuple[str, str]]) -> str:
    """What is signed (RFC 5849, 3.4.1): method, address without query, and all parameters, escaped and sorted."""
    parts = urlsplit(url)
    default_port = {"http": 80, "https": 443}.get(parts.scheme)
    port = f":{parts.port}" if parts.port and parts.port != default_port else ""
    address = f"{parts.scheme}://{parts.hostname}{port}{parts.path or '/'}"
    query = parse_qsl(parts.query, keep_blank_values=True)
    pairs = sorted((_escaped(name), _escaped(value)) for name, value in [*query, *fields])
    parameters = "&".join(f"{name}={value}" for name, value in pairs)
    return "&".join((method.upper(), _escaped(address), _escaped(parameters)))


def _escaped(text: str) -> str:
    return quote(text, safe="-._~")
