"""One request and one answer, as doubles see them.

Owns reading bodies as declared types, strictly: a field that the vendor's documents do not have is an error.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

_TYPE = TypeVar("_TYPE")


class Malformed(Exception):
    """A body that is not what the vendor's documents ask for."""


class Request(NamedTuple):
    """What came in. Header names are lower case; `path` is without its query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def read(self, type: type[_TYPE]) -> _TYPE:
        """The JSON body as this type; Malformed names the place."""
        try:
            return msgspec.json.decode(self.body, type=type)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Malformed(str(error)) from None


class Answer(NamedTuple):
    """What goes out."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


def json_answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body. Decimals become JSON numbers, as vendors write them."""
    return Answer(status, _ENCODER.encode(body), {"Content-Type": "application/json", **(headers or {})})


_ENCODER = msgspec.json.Encoder(decimal_format="number")
