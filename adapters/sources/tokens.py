"""Identifiers of people as keyed tokens: equal ids give equal tokens, and no token leads back without the key.

Owns the form of a token. Never stores a key or an id.
"""

from hashlib import blake2b

import polars as pl

from runtime.errors import ConfigError

_TOKEN_BYTES = 8
_KEY_BYTES_MIN, _KEY_BYTES_MAX = 16, 64


def token(value: str, key: bytes, domain: str) -> str:
    """16 hex digits. `domain` keeps equal ids of different things apart, and may have 16 characters."""
    return blake2b(value.encode(), digest_size=_TOKEN_BYTES, key=key, person=domain.encode()).hexdigest()


def tokenise(values: pl.Series, key: bytes, domain: str) -> pl.Series:
    """A column of tokens; null stays null."""
    ids = values.drop_nulls().unique()
    tokens = pl.Series([token(value, key, domain) for value in ids], dtype=pl.String())
    return values.replace_strict(ids, tokens, default=None, return_dtype=pl.String())


def checked_key(key: bytes) -> bytes:
    """The key itself, or ConfigError when it can't keep tokens secret."""
    if not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        raise ConfigError(f"token_key: needs {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} bytes; tokens of people are keyed")
    return key
