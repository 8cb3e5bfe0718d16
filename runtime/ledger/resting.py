"""Values by key, of which those that nothing has touched for a while rest as bytes: half the memory, keys included.

Owns what is awake, and a copy of all that can be made at once and made bytes of later. Never forgets by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Generic, TypeVar

import msgspec

BLOB_ENTRIES = 8_192  # made bytes of at once: whoever does that beside a shard stops it for so long
_K, _V, _T = TypeVar("_K"), TypeVar("_V"), TypeVar("_T")
_new: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode


class Resting(Generic[_K, _V]):
    """Values of one type of struct. A value is awake from the moment when it is asked for until all are laid to rest,
    and may be changed meanwhile."""

    def __init__(self, key: type[_K], value: type[_V]) -> None:
        self._decode = msgspec.msgpack.Decoder(value).decode
        self._blob = list[tuple[key, bytes]]
        self._resting: dict[_K, bytes] = {}  # all; nothing yet of those that are new, and the past of those awake
        self._awake: dict[_K, _V] = {}

    def __len__(self) -> int:
        return len(self._resting)

    def get(self, key: _K) -> _V | None:
        """The value of a key, awake; None where there is none."""
        value = self._awake.get(key)
        if value is None and (rested := self._resting.get(key)):
            value = self._awake[key] = self._decode(rested)
        return value

    def put(self, key: _K, value: _V) -> _V:
        """Keep a value under a new key; the value."""
        self._resting[key] = b""
        self._awake[key] = value
        return value

    def forget(self, key: _K) -> None:
        """Forget a key that is there."""
        del self._resting[key]
        self._awake.pop(key, None)

    def _rest(self) -> None:
        self._resting.update((key, _new(value)) for key, value in self._awake.items())
        self._awake.clear()

    def seen(self, type: type[_T]) -> Iterator[tuple[_K, _T]]:
        """Every key and what a struct of fewer fields tells of its value; nothing may be forgotten meanwhile."""
        self._rest()
        decode = msgspec.msgpack.Decoder(type).decode
        return ((key, decode(value)) for key, value in self._resting.items())

    def freeze(self) -> Callable[[], list[bytes]]:
        """What gives all of it in blobs, whatever happens here meanwhile."""
        self._rest()
        resting = self._resting.copy()
        return lambda: blobs(resting)

    def load(self, given: Iterable[bytes]) -> None:
        """Start from blobs."""
        self._resting = dict(of_blobs(given, self._blob))
        self._awake.clear()


def blobs(entries: Mapping[_K, _V]) -> list[bytes]:
    """A mapping as bytes, in parts."""
    left = iter(entries.items())
    return [_new(part) for part in iter(lambda: list(islice(left, BLOB_ENTRIES)), [])]


def of_blobs(given: Iterable[bytes], type: type[list[tuple[_K, _V]]]) -> Iterator[tuple[_K, _V]]:
    """The entries that blobs hold."""
    decode = msgspec.msgpack.Decoder(type).decode
    return (entry for blob in given for entry in decode(blob))
