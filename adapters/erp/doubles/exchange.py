"""One request and one answer, as doubles see them.

Owns reading bodies as declared types, strictly. A vendor's types are its contract written down: names of fields, which
must be there, types, lengths, values that are allowed. What breaks it is refused, with which field and how, so that a
double can say it in its vendor's words.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

_TYPE = TypeVar("_TYPE")
Breach = Literal["unknown_field", "missing_field", "too_long", "not_allowed", "wrong_type", "other"]
# What msgspec says of each breach, the first that matches counts.
_BREACHES: tuple[tuple[str, Breach], ...] = (
    ("unknown field", "unknown_field"),
    ("missing required field", "missing_field"),
    ("of length", "too_long"),
    ("[Ii]nvalid enum value", "not_allowed"),
    ("^Expected|^Invalid", "wrong_type"),
)


class Malformed(Exception):
    """A body that is not what the vendor's documents ask for. `path` is the place in the body, "" when it is not one
    place."""

    def __init__(self, text: str, breach: Breach = "other", path: str = "") -> None:
        super().__init__(text)
        self.breach, self.path = breach, path


class Number(Decimal):
    """A JSON number, digit by digit. A text that holds digits is none, as vendors' types for amounts are numbers."""


class Request(NamedTuple):
    """What came in. Header names are lower case; `path` is without its query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def read(self, type: type[_TYPE]) -> _TYPE:
        """The JSON body as this type; raises Malformed."""
        return read_json(self.body, type)


class Answer(NamedTuple):
    """What goes out."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


def read_json(body: bytes | msgspec.Raw, type: type[_TYPE]) -> _TYPE:
    """A JSON text as this type; raises Malformed."""
    try:
        return msgspec.json.Decoder(type, dec_hook=_exact, float_hook=Decimal).decode(body)
    except msgspec.MsgspecError as error:
        text, _, path = str(error).partition(" - at `$")
        breach = next((breach for pattern, breach in _BREACHES if re.search(pattern, text)), "other")
        raise Malformed(text, breach, path.strip("`.")) from None


def _exact(type: type, value: Any) -> Number:
    if type is not Number or not isinstance(value, int | Decimal):
        raise ValueError(f"Expected a number, got `{value.__class__.__name__}`")
    return Number(value)


def json_answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body. Decimals become JSON numbers, as vendors write them."""
    return Answer(status, _ENCODER.encode(body), {"Content-Type": "application/json", **(headers or {})})


_ENCODER = msgspec.json.Encoder(decimal_format="number")
