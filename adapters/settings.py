"""Where configuration comes from: one TOML file, the environment over it, and key files for tokens and payloads.

Owns reading them. Never checks a setting's meaning (`runtime.config` does) and never puts a secret into an error.
"""

import os
import secrets
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from runtime.config import Config, parse
from runtime.errors import ConfigError
from runtime.ledger.rule_file import parse_rulebook
from runtime.sections import Section

DEFAULT_FILE = "penstock.toml"
DEMO_FILE = Path(str(files("adapters") / "demo.toml"))
ENVIRONMENT_PREFIX = "PENSTOCK_"
NESTING = "__"
TOKEN_KEY_VARIABLE = "PENSTOCK_TOKEN_KEY"
TOKEN_KEY_FILE = "token.key"
PAYLOAD_KEY_FILE = "payload.key"
PAYLOAD_KEY_BYTES = 32
BLANK_ENTITY = "default"
CURRENCIES = ("AUD", "CAD", "CHF", "DKK", "EUR", "GBP", "JPY", "NOK", "SEK", "USD")  # of a blank configuration

_Part = TypeVar("_Part", bound=Section)


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter=NESTING)


# The same fields as the configuration, so that the environment is split by them; their values are checked later.
_FIELDS: dict[str, Any] = {name: (field.annotation, field.default) for name, field in Config.model_fields.items()}
_Overrides = create_model("_Overrides", __base__=_Environment, **_FIELDS)


def load(path: str | None = None) -> Config:
    """The configuration of this file (./penstock.toml when none is named), or ConfigError naming place and remedy.

    PENSTOCK_SECTION__KEY in the environment overrides section.key of the file.
    """
    file = Path(path or DEFAULT_FILE)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "name a file with --config, or copy penstock.example.toml to ./penstock.toml"
        raise ConfigError(f"{file}: {error.strerror}; {remedy}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text; compare with penstock.example.toml") from None
    return parse_text(text, str(file))


def load_or_blank(path: str | None, entity: str) -> Config:
    """The configuration where there is one; otherwise a blank one, in which every role is an account of its name."""
    if path or Path(DEFAULT_FILE).exists():
        return load(path)
    blank = {"name": entity or BLANK_ENTITY, "opens_on": "1900-01-01", "other_currencies": CURRENCIES}
    given = {"entities": {entity or BLANK_ENTITY: blank}}
    roles = parse_rulebook(load_rulebook_text(parse(given))).roles()
    return parse(given | {"mapping": [{"role": role, "account": role} for role in sorted(roles)]})


def parse_text(text: str, place: str = "configuration") -> Config:
    """The configuration of this TOML text, with the environment over it; errors name `place`."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{place}: not TOML: {error}; compare with penstock.example.toml") from None
    return parse(_merged(given, _environment()))


def checked(section: type[_Part], given: dict) -> _Part:
    """One part of the configuration from a mapping, such as a row given on the command line, or ConfigError."""
    try:
        return section.model_validate(given)
    except ValidationError as error:
        places = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise ConfigError("; ".join(places)) from None


def _environment() -> dict:
    for variable in os.environ:
        section, nested, _ = variable.upper().removeprefix(ENVIRONMENT_PREFIX).partition(NESTING)
        if variable.upper().startswith(ENVIRONMENT_PREFIX) and nested and section.lower() not in _FIELDS:
            raise ConfigError(f"{variable}: no such section; sections are {', '.join(_FIELDS)}")
    try:
        return EnvSettingsSource(_Overrides)()
    except SettingsError as error:
        # Its text names the field and not the value.
        raise ConfigError(f"environment: {error}; lists and tables are given as JSON") from None


def _merged(under: dict, over: dict) -> dict:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = _merged(under[key], value) if both else value
    return merged


def standard_rulebook_text() -> str:
    """The TOML text of the standard rulebook: its files, one after the other."""
    folder = files("runtime.ledger") / "standard"
    named = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return "\n".join(file.read_text(encoding="utf-8") for file in named)


def load_rulebook_text(config: Config) -> str:
    """The TOML text of the configured rulebook; the standard one when none is."""
    if not config.rulebook:
        return standard_rulebook_text()
    try:
        return Path(config.rulebook).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"rulebook: {config.rulebook}: {reason}; leave it empty for the standard rulebook") from None


def token_key(config: Config) -> bytes:
    """The key for tokens: from PENSTOCK_TOKEN_KEY, else from data_dir/token.key, which is made when missing.

    Whoever loses the key gets other tokens for the same accounts: it belongs with the backups.
    """
    given = os.environ.get(TOKEN_KEY_VARIABLE)
    if given is not None:
        return _checked(given, TOKEN_KEY_VARIABLE)
    path = Path(config.runtime.data_dir) / TOKEN_KEY_FILE
    try:
        if not path.exists():
            create_key(path)
        return _checked(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; or set {TOKEN_KEY_VARIABLE}") from None


def payload_key(config: Config) -> bytes:
    """The key that encrypts raw payloads, from where [payloads] says; data_dir/payload.key is made when missing.

    Whoever loses the key loses the payloads: it belongs with the backups, and not beside the payloads.
    """
    section = config.payloads
    if section.key_env:
        if section.key_env not in os.environ:
            raise ConfigError(f"payloads.key_env: {section.key_env} is not set; it holds 64 hexadecimal digits")
        return _hex_key(os.environ[section.key_env], section.key_env)
    path = Path(section.key_file or Path(config.runtime.data_dir) / PAYLOAD_KEY_FILE)
    try:
        if not section.key_file and not path.exists():
            create_key(path)
        return _hex_key(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"payloads.key_file: {path}: {reason}; make one with: openssl rand -hex 32") from None


def _hex_key(text: str, place: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != PAYLOAD_KEY_BYTES:
        raise ConfigError(f"{place}: a payload key has {2 * PAYLOAD_KEY_BYTES} hexadecimal digits")
    return key


def _checked(text: str, place: str) -> bytes:
    key = text.strip().encode()
    if not 16 <= len(key) <= 64:
        raise ConfigError(f"{place}: a token key has 16 to 64 bytes")
    return key


def create_key(path: Path) -> None:
    """A random key, complete under its name or not there: of two processes that start together, one makes it and both
    read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(descriptor)
        os.link(made, path)
    except FileExistsError:
        pass
    finally:
        made.unlink()
