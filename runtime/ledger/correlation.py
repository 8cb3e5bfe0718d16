"""All registers of a shard: which of them an event is entered in, and what they find.

Owns making facts of rows, saying whose they are that name nobody, and remembering of events that are not booked yet
what was found and what they take back.
Never looks into a register.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from functools import lru_cache
from typing import NamedTuple

import msgspec
import polars as pl

from runtime.ledger.amounts import attributes_of
from runtime.ledger.bills import Bills
from runtime.ledger.candidates import Candidates
from runtime.ledger.claims import Claims
from runtime.ledger.crosswalk import Basis, Crosswalk, Place, basis_of
from runtime.ledger.denials import Denials
from runtime.ledger.inverses import Inverses
from runtime.ledger.links import InverseRef, OwnerRef, RegisterRef
from runtime.ledger.order_lines import OrderLines
from runtime.ledger.owners import Owner, Owners, owned
from runtime.ledger.payments import Payments
from runtime.ledger.registers import (
    Deriving,
    Fact,
    Finding,
    Freezing,
    Hold,
    ItemFlag,
    Marks,
    Policy,
    Register,
    Told,
)
from runtime.ledger.rules import Rulebook
from runtime.ledger.takebacks import Takebacks
from runtime.schema import among, where, with_texts

_TYPES = {
    "order_lines": OrderLines,
    "bills": Bills,
    "payments": Payments,
    "claims": Claims,
    "denials": Denials,
    "takebacks": Takebacks,
    "candidates": Candidates,
    "inverses": Inverses,
    "owners": Owners,
}
_BASES_REMEMBERED = 1024  # there are few: a day's, and the last days'
_KEYS = ("document", "reference", "correlation_id")
_TEXTS = ("document", "reference", "counterparty", "correlation_id", "reason", "facility", "department")
_COLUMNS = (  # a Fact's fields up to `part` and `key`
    "id_hash",
    "kind",
    "entity",
    "amount_minor",
    "currency",
    "quantity",
    pl.col(_TEXTS).fill_null(""),
    "effective_on",
    pl.col("occurred_at").cast(pl.Int64()),
    "source",
    "event_id",
    "attributes",
)
_KEY_AT = {name: 6 + _TEXTS.index(name) for name in _KEYS}


class _Entry(NamedTuple):
    """How a kind is entered: what takes it, as which part, where in a row its key is, and whether that may be empty.
    A kind that only inverts enters nothing."""

    take: Callable[[Fact, int], Finding]
    part: str
    key_at: int
    optional: bool


class Correlation:
    """The registers of one shard. `findings`: of events that were entered and are not booked yet, by id hash."""

    def __init__(self, rulebook: Rulebook, crosswalk: Crosswalk, opens_on: Mapping[str, date]) -> None:
        self._crosswalk, self._opens_on = crosswalk, dict(opens_on)
        policy = policies(rulebook, crosswalk)
        self._registers: dict[str, Register] = {
            name: _TYPES[terms.__struct_config__.tag](terms, policy)
            for name, terms in rulebook.register.items()
            if terms.__struct_config__.tag in _TYPES
        }
        refs = {name: kind.links.enters for name, kind in rulebook.kind.items() if kind.links and kind.links.enters}
        self._inverting, (self._telling, self._owned) = rulebook.inverting(), rulebook.owning()
        self._is_telling = among(self._telling) & pl.col("account").is_not_null()
        self._is_unnamed = among(self._owned) & pl.col("account").is_null()
        only = {name: ref for name, ref in self._inverting.items() if name not in refs}
        self._entries = {name: self._entry(ref) for name, ref in refs.items()}
        self._entries |= {name: _Entry(_find_nothing, "", _KEY_AT[ref.key], False) for name, ref in only.items()}
        self.kinds = list(self._entries)
        self.findings: dict[int, Finding] = {}
        # Of events that post as of another one, and ("") of those that were refused, until they are booked.
        self._bases: dict[int, str] = {}

    def _entry(self, ref: RegisterRef) -> _Entry:
        return _Entry(self._registers[ref.register].take, ref.part, _KEY_AT[ref.key], ref.optional)

    def enter(self, rows: Iterable[tuple], now_ms: int) -> list[str]:
        """Enter ready rows (see `facts_of`), in order; the fault of each, "" where there is none. Rows that have
        findings already were entered before, and are passed over."""
        return [self._enter(row, now_ms) for row in rows]

    def _enter(self, row: tuple, now_ms: int) -> str:
        if row[0] in self.findings:
            return ""
        take, part, key_at, is_optional = self._entries[row[1]]
        key = row[key_at]
        if not key and not is_optional:
            return ""
        fact, inverse = _fact(row, part, key), self._inverting.get(row[1])
        if inverse and (basis := self._basis(fact, inverse, row)):
            fact = fact._replace(basis=basis)
        finding = take(fact, now_ms)
        if not finding.fault:
            self.findings[row[0]] = finding
        elif inverse:  # it is entered again one day, and not asked again
            self._bases.setdefault(row[0], "")
        return finding.fault

    def _basis(self, fact: Fact, ref: InverseRef, row: tuple) -> Basis | None:
        """As of when an event that may take another one back is decided on, asked once; None for its own day."""
        known = self._bases.get(fact.id)
        if known is not None:
            return basis_of(known) if known else None
        own = _own(fact.effective_on, self._opens_on[fact.entity], self._crosswalk.version)
        basis = self._registers[ref.register].basis(fact, row[_KEY_AT[ref.key]], ref.alike, own)
        if basis:
            self._bases[fact.id] = basis.text()
        return basis

    def based(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events with the `basis` of those that take others back; as they are where none does."""
        if not any(self._bases.values()):
            return events
        may = events["kind"].is_in(list(self._inverting))
        bases = [self._bases.get(id) or None for id in events["id_hash"].filter(may)]
        if not any(bases):
            return events
        return with_texts(events, "basis", may, bases)

    def note_owners(self, rows: pl.DataFrame) -> None:
        """Remember whose the documents of new events are, where these say so."""
        telling = rows.filter(self._is_telling)
        for name, ref in self._telling.items() if len(telling) else ():
            some = telling.filter(pl.col("kind") == name)
            documents, owners = some.select("entity", ref.key).iter_rows(), some.select(Owner._fields).iter_rows()
            self._registers[ref.register].note(documents, map(Owner._make, owners))

    def owned(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Events with what is known of whose those are that name no account; as they are where nothing is."""
        unnamed = where(rows, self._is_unnamed)
        if not unnamed.any():
            return rows
        asked = rows.filter(unnamed).select("kind", "entity", *_KEYS)
        owners = [self._owner(self._owned[kind], *place) for kind, *place in asked.iter_rows()]
        return owned(rows, unnamed, owners) if any(owners) else rows

    def _owner(self, ref: OwnerRef, entity: str, *keys: str | None) -> Owner | None:
        return self._registers[ref.register].of(entity, keys[_KEYS.index(ref.key)] or "")

    def open(self, opens_on: Mapping[str, date]) -> None:
        """Set each entity's first open day."""
        self._opens_on = dict(opens_on)

    def note(self, rows: Iterable[tuple], refs: Iterable[RegisterRef], now_ms: int) -> None:
        """Tell registers of settled rows (see `facts_of`), in order: each the one that its rule names. They find
        nothing of them that could still be posted."""
        for row, ref in zip(rows, refs, strict=True):
            key = row[_KEY_AT[ref.key]]
            if key or ref.optional:
                self._registers[ref.register].take(_fact(row, ref.part, key), now_ms)

    def booked(self, ids: list[int]) -> None:
        """Forget the findings of events that are booked or excluded."""
        for id in ids:
            self.findings.pop(id, None)
            self._bases.pop(id, None)

    def age(self, now_ms: int) -> None:
        """Let time pass in every register."""
        for register in self._registers.values():
            register.age(now_ms)

    def drain(self) -> Marks:
        """The marks of all registers since the last call."""
        flags: list[ItemFlag] = []
        holds: list[Hold] = []
        derived: list[Deriving] = []
        told: list[Told] = []
        retold: list[tuple[ItemFlag, Hold | None]] = []
        for register in self._registers.values():
            for all, one in zip((flags, holds, derived, told, retold), register.drain(), strict=True):
                all += one
        return Marks(flags, holds, derived, told, retold)

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What gives everything for a snapshot, whatever happens here meanwhile."""
        registers = {name: _frozen(register) for name, register in self._registers.items()}
        waiting = list(self.findings.items()), list(self._bases.items())
        return lambda: msgspec.msgpack.encode(({name: dumped() for name, dumped in registers.items()}, *waiting))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        registers, findings, bases = msgspec.msgpack.decode(state, type=_STATE)
        for name, dumped in registers.items():
            self._registers[name].load(dumped)
        self.findings, self._bases = dict(findings), dict(bases)


_STATE = tuple[dict[str, bytes], list[tuple[int, Finding]], list[tuple[int, str]]]


def _frozen(register: Register) -> Callable[[], bytes]:
    if isinstance(register, Freezing):
        return register.freeze()
    dumped = register.dump()
    return lambda: dumped


def policies(rulebook: Rulebook, crosswalk: Crosswalk) -> Policy:
    """What answers policies: the crosswalk of now, or their defaults."""
    defaults = {name: policy.default for name, policy in rulebook.policy.items()}

    def answer(name: str, place: Place) -> str:
        chosen = crosswalk.resolve(name, place)
        return chosen.account if chosen else defaults.get(name, "")

    return answer


@lru_cache(_BASES_REMEMBERED)
def _own(effective_on: date, opens_on: date, version: int) -> Basis:
    """As of when an event is decided on that takes none back."""
    return Basis(effective_on, max(effective_on, opens_on), version)


def _find_nothing(fact: Fact, now_ms: int) -> Finding:
    return Finding()


def facts_of(rows: pl.DataFrame) -> Iterator[tuple]:
    """What registers look at in each row, as they take it."""
    *columns, attributes = (column.to_list() for column in rows.select(_COLUMNS))
    return zip(*columns, map(attributes_of, attributes), strict=True)


def _fact(row: tuple, part: str, key: str) -> Fact:
    return Fact(*row, part, key)
