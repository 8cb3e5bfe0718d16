"""Owners: whose a document is, as the event says that brought it, for those of the same document that name nobody.

Owns what is remembered of documents, and filling it in. It is told of events as they come, before they wait for
anything: who waits for what such an event opens finds it here, whatever else either of them waits for. Never posts.
"""

from collections.abc import Callable, Iterable, Sequence
from sys import intern
from typing import NamedTuple

import msgspec
import polars as pl
import xxhash

from runtime.ledger.fading import Fading, FadingTerms
from runtime.schema import with_texts

OWNED_FACILITY = "owned_facility"  # the owner's where an event names none; its own counts in the control totals


class Owner(NamedTuple):
    """An account, and where it is."""

    account: str
    counterparty: str | None
    department: str | None
    facility: str | None


class OwnerTerms(FadingTerms, frozen=True, kw_only=True, tag_field="type", tag="owners"):
    """How long it is remembered whose a document is: from so many days on, to twice as many."""


class Owners(Fading[Owner]):
    """Owners by a hash of entity and document, from when they were told on. A Register that no kind enters."""

    def note(self, documents: Iterable[tuple[str, str]], owners: Iterable[Owner]) -> None:
        """Remember whose these documents (entity and name) are; of several owners of one the first."""
        for document, owner in zip(documents, owners, strict=True):
            number = _number(*document)
            if number not in self._old:
                self._young.setdefault(number, Owner(owner.account, *map(_shared, owner[1:])))

    def of(self, entity: str, document: str) -> Owner | None:
        """Whose a document is; None where nobody said so."""
        number = _number(entity, document)
        return self._young.get(number) or self._old.get(number)

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What gives everything for a snapshot, whatever happens here meanwhile."""
        began_ms, kept = self._began_ms, (self._young.copy(), self._old.copy())
        return lambda: msgspec.msgpack.encode((began_ms, *(list(some.items()) for some in kept)))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._began_ms, *kept = msgspec.msgpack.decode(state, type=_STATE)
        self._young, self._old = map(dict, kept)


_STATE = tuple[int, list[tuple[int, Owner]], list[tuple[int, Owner]]]
_NOBODY = (None,) * len(Owner._fields)
_TOLD = ("_account", "_counterparty", "_department", OWNED_FACILITY)  # of an owner, beside what events say


def owned(events: pl.DataFrame, unnamed: pl.Series, owners: Sequence[Owner | None]) -> pl.DataFrame:
    """Events with what is known of whose the unnamed ones are, where they say nothing themselves. Their facility stands
    beside their own."""
    for name, told in zip(_TOLD, zip(*(owner or _NOBODY for owner in owners), strict=True), strict=True):
        events = with_texts(events, name, unnamed, told)
    filled = [pl.coalesce(name, told).alias(name) for name, told in zip(Owner._fields[:-1], _TOLD, strict=False)]
    return events.with_columns(filled).drop(_TOLD[:-1])


def _shared(word: str | None) -> str | None:
    """One of few words, kept once."""
    return word and intern(word)


def _number(entity: str, document: str) -> int:
    return xxhash.xxh64_intdigest(f"{entity}\x1f{document}".encode())
