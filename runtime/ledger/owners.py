"""Owners: whose a document is, as the event says that brought it, for those of the same document that name nobody.

Owns what is remembered of documents, and filling it in. It is told of events as they come, before they wait for
anything: who waits for what such an event opens finds it here, whatever else either of them waits for. Never posts.
"""

from collections.abc import Callable, Iterable, Sequence
from sys import intern
from typing import ClassVar, NamedTuple

import msgspec
import polars as pl
import xxhash

from runtime.ledger.registers import Marks
from runtime.schema import with_texts

DAY_MS = 86_400_000
OWNED_FACILITY = "owned_facility"  # the owner's where an event names none; its own counts in the control totals


class Owner(NamedTuple):
    """An account, and where it is."""

    account: str
    counterparty: str | None
    department: str | None
    facility: str | None


class OwnerTerms(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="owners", forbid_unknown_fields=True):
    """How long it is remembered whose a document is: from so many days on, to twice as many."""

    PARTS: ClassVar[frozenset[str]] = frozenset()
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    keep_days: int

    def exceptions(self) -> set[str]:
        """It raises none."""
        return set()


class Owners:
    """Owners by a hash of entity and document. A Register that no kind enters."""

    def __init__(self, terms: OwnerTerms, policy: object = None) -> None:
        self._keep_ms = terms.keep_days * DAY_MS
        self._young: dict[int, Owner] = {}  # told since `_began_ms`
        self._old: dict[int, Owner] = {}  # told in the time before
        self._began_ms = 0

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

    def age(self, now_ms: int) -> None:
        """What was told in one whole time is forgotten at the end of the next."""
        self._began_ms = self._began_ms or now_ms
        if now_ms - self._began_ms > self._keep_ms:
            self._young, self._old, self._began_ms = {}, self._young, now_ms

    def drain(self) -> Marks:
        """It marks nothing."""
        return Marks()

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

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


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
