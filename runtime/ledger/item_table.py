"""Open items as columns: 48 bytes an item, the id of the event that opened it, and a few bytes to find it by its key.

Owns the place of each item. A key is kept as two stable 64-bit hashes of different make, so that two keys can't be
taken for each other. Never decides what may be done with an item: matching does.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

import msgspec
import numpy as np
import xxhash

from runtime.ledger.waiting import Key, OpenItem
from runtime.words import SPREAD

HashedKey = tuple[int, int]
NONE = -1  # no row
SLOTS_MIN = 1024
SPARE_ROWS_MAX = 4096  # rows of forgotten items that may be kept, besides a quarter of those that are there
_SLOTS_A_ROW = 2  # at least: fewer make long searches
_GROWTH = 1.5
_FORGOTTEN = -1  # as a label
_WRAP = 2**64 - 1
_PLACES_REMEMBERED, _KEYS_REMEMBERED = 16_384, 1024

_ROW = np.dtype(
    [
        ("hash", "<u8"),
        ("check", "<u8"),
        ("amount_minor", "<i8"),
        ("used_minor", "<i8"),
        ("since_ms", "<i8"),
        ("label", "<i4"),
        ("flagged", "?"),
        ("", "V3"),
    ]
)


class Label(NamedTuple):
    """What many items have in common."""

    name: str
    entity: str
    source: str
    currency: str


class Keys(NamedTuple):
    """Keys of items, hashed: columns of uint64."""

    hash: np.ndarray
    check: np.ndarray

    def of(self, chosen: np.ndarray) -> "Keys":
        """Those that are chosen, by a mask or by their places."""
        return Keys(self.hash[chosen], self.check[chosen])

    def pairs(self) -> list[HashedKey]:
        """Both hashes of each."""
        return list(zip(self.hash.tolist(), self.check.tolist(), strict=True))


def keyed(names: Keys, entities: Keys, keys: Keys) -> Keys:
    """The keys of items, from the hashes of their names, entities and keys; as `key_of`, in whole columns."""
    spread = np.uint64(SPREAD)
    parts = zip(names, entities, keys, strict=True)
    return Keys(*(key ^ ((name * spread ^ entity) * spread) for name, entity, key in parts))


@lru_cache(_KEYS_REMEMBERED)
def key_of(key: Key) -> HashedKey:
    """Both hashes of one item's key. An event asks for its keys several times."""
    name, entity, text = key
    place, encoded = _place(name.encode(), entity.encode()), text.encode()
    return xxhash.xxh64_intdigest(encoded) ^ place[0], xxhash.xxh3_64_intdigest(encoded) ^ place[1]


@lru_cache(_PLACES_REMEMBERED)
def _place(name: bytes, entity: bytes) -> tuple[int, int]:
    hash, check = (
        (of(name) * SPREAD & _WRAP ^ of(entity)) * SPREAD & _WRAP
        for of in (xxhash.xxh64_intdigest, xxhash.xxh3_64_intdigest)
    )
    return hash, check


class ItemTable:
    """Open items by their key. Single ones are read and written as an OpenItem, many at once as columns.

    Rows of forgotten items stay until there are many; slots (open addressing, linear probing) tell a row by its hash.
    """

    def __init__(self) -> None:
        self.labels: list[Label] = []
        self._label_of: dict[Label, int] = {}
        self._hold(np.zeros(0, _ROW), [])

    def __len__(self) -> int:
        return self._count - self._forgotten

    def __contains__(self, key: Key) -> bool:
        return self.row_of(key) != NONE

    # ── one at a time ──────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, key: Key) -> OpenItem | None:
        """A copy of what is known of an item; `put` keeps what was changed in it."""
        row = self.row_of(key)
        return None if row == NONE else self._item(row)

    def put(self, key: Key, item: OpenItem) -> None:
        """Keep an item, a new one or a changed one."""
        row = self.row_of(key)
        if row == NONE:
            hashed, row = key_of(key), self._count
            self._make_room(1)
            label = self.label_of(Label(key[0], key[1], item.source, item.currency))
            self._rows[row] = (*hashed, 0, 0, item.since_ms, label, False, b"")
            self._event_ids.append(item.event_id)
            self._enter_one(row, hashed[0])
            self._count += 1
        self.amount_minor[row], self.used_minor[row] = item.amount_minor, item.used_minor
        self.flagged[row] = item.flagged

    def restart(self, key: Key, now_ms: int) -> None:
        """Count an item's time from now, if it is there."""
        row = self.row_of(key)
        if row != NONE:
            self.since_ms[row] = now_ms

    def remove(self, key: Key) -> None:
        """Forget an item that is there."""
        self.forget(np.array([self.row_of(key)]))

    def row_of(self, key: Key) -> int:
        """The row of a key, NONE where there is none."""
        hash, check = key_of(key)
        at = hash & self._mask
        while (row := self._slots.item(at)) != NONE:
            same = self.hash.item(row) == hash and self.check.item(row) == check
            if same and self.label.item(row) != _FORGOTTEN:
                return row
            at = (at + 1) & self._mask
        return NONE

    def _item(self, row: int) -> OpenItem:
        label = self.labels[self.label.item(row)]
        return OpenItem(
            self.amount_minor.item(row),
            self.since_ms.item(row),
            label.source,
            self._event_ids[row],
            label.currency,
            self.used_minor.item(row),
            self.flagged.item(row),
        )

    # ── whole columns ──────────────────────────────────────────────────────────────────────────────────────────────

    def label_of(self, label: Label) -> int:
        """A label's number; it is remembered for ever, as there are few."""
        number = self._label_of.setdefault(label, len(self.labels))
        if number == len(self.labels):
            self.labels.append(label)
        return number

    def rows_of(self, keys: Keys) -> np.ndarray:
        """The row of each key, NONE where there is none."""
        found = np.full(len(keys.hash), NONE, np.int64)
        asked = np.arange(len(found))
        at = keys.hash & np.uint64(self._mask)
        while len(asked):
            rows = self._slots[at]
            there = rows != NONE
            asked, at, rows = asked[there], at[there], rows[there]
            hit = (self.hash[rows] == keys.hash[asked]) & (self.check[rows] == keys.check[asked])
            hit &= self.label[rows] != _FORGOTTEN
            found[asked[hit]] = rows[hit]
            asked, at = asked[~hit], (at[~hit] + np.uint64(1)) & np.uint64(self._mask)
        return found

    def open(
        self, keys: Keys, labels: np.ndarray, amounts: np.ndarray, since_ms: np.ndarray, event_ids: Sequence[str]
    ) -> int:
        """Open items whose keys are all new and distinct; the first of their rows, which follow each other."""
        first, last = self._count, self._count + len(amounts)
        self._make_room(len(amounts))
        new = self._rows[first:last]
        new["hash"], new["check"] = keys
        new["amount_minor"], new["used_minor"], new["since_ms"] = amounts, 0, since_ms
        new["label"], new["flagged"] = labels, False
        self._event_ids.extend(event_ids)
        self._enter(first, new["hash"])
        self._count = last
        return first

    def standing(self) -> np.ndarray:
        """The rows of all items, in the order in which they were opened."""
        return np.flatnonzero(self.label[: self._count] != _FORGOTTEN)

    def keys_at(self, rows: np.ndarray) -> list[HashedKey]:
        """The hashed keys of these rows."""
        return Keys(self.hash, self.check).of(rows).pairs()

    def at(self, row: int) -> tuple[Label, OpenItem]:
        """The item of a row; `flagged` of a row may be set in the column of that name."""
        return self.labels[self.label.item(row)], self._item(row)

    def forget(self, rows: np.ndarray) -> None:
        """Forget the items of these rows. Other items may get new rows."""
        self.label[rows] = _FORGOTTEN
        self._forgotten += len(rows)
        if self._forgotten > SPARE_ROWS_MAX + len(self) // 4:
            self._hold(*self._there())

    def _there(self) -> tuple[np.ndarray, list[str]]:
        there = self.label[: self._count] != _FORGOTTEN
        return self._rows[: self._count][there], list(compress(self._event_ids, there.tolist()))

    def _hold(self, rows: np.ndarray, event_ids: list[str]) -> None:
        """Hold exactly these items."""
        self._event_ids, self._count, self._forgotten = event_ids, len(rows), 0
        self._use(rows)
        self._spread()

    def _use(self, rows: np.ndarray) -> None:
        self._rows = rows
        self.hash, self.check = rows["hash"], rows["check"]
        self.amount_minor, self.used_minor = rows["amount_minor"], rows["used_minor"]
        self.since_ms, self.label, self.flagged = rows["since_ms"], rows["label"], rows["flagged"]

    def _make_room(self, more: int) -> None:
        needed = self._count + more
        if needed > len(self._rows):
            rows = np.zeros(max(needed, int(len(self._rows) * _GROWTH), SLOTS_MIN), _ROW)
            rows[: self._count] = self._rows[: self._count]
            self._use(rows)
        if _SLOTS_A_ROW * needed > len(self._slots):
            self._spread(needed)

    def _spread(self, rows: int = 0) -> None:
        """Slots anew, for so many rows or those that are there."""
        wanted = max(_SLOTS_A_ROW * max(rows, self._count), SLOTS_MIN)
        self._slots = np.full(1 << (wanted - 1).bit_length(), NONE, np.int32)
        self._mask = len(self._slots) - 1
        self._enter(0, self.hash[: self._count])

    def _enter_one(self, row: int, hash: int) -> None:
        at = hash & self._mask
        while self._slots.item(at) != NONE:
            at = (at + 1) & self._mask
        self._slots[at] = row

    def _enter(self, first: int, hashes: np.ndarray) -> None:
        """Give consecutive rows their slots: of several that want one, the last gets it, the others try the next."""
        rows = np.arange(first, first + len(hashes), dtype=np.int32)
        at = hashes & np.uint64(self._mask)
        while len(rows):
            free = self._slots[at] == NONE
            self._slots[at[free]] = rows[free]
            left = self._slots[at] != rows
            rows, at = rows[left], (at[left] + np.uint64(1)) & np.uint64(self._mask)

    # ── snapshot ───────────────────────────────────────────────────────────────────────────────────────────────────

    def dump(self) -> "TableState":
        """Everything, for a snapshot."""
        rows, event_ids = self._there()
        return TableState(self.labels, rows.tobytes(), event_ids)

    def freeze(self) -> Callable[[], "TableState"]:
        """What gives the same as `dump` would now, whatever happens here meanwhile. Ids of events are only ever added
        to the end of their list: those of the rows that are there now stay."""
        kept = ItemTable()
        kept.labels, kept._event_ids, kept._count = list(self.labels), self._event_ids, self._count
        kept._use(self._rows[: self._count].view(np.uint8).copy().view(_ROW))  # field by field takes four times as long
        return kept.dump

    def load(self, state: "TableState") -> None:
        """Start from a snapshot."""
        self.labels = list(state.labels)
        self._label_of = {label: number for number, label in enumerate(self.labels)}
        self._hold(np.frombuffer(state.rows, _ROW).copy(), state.event_ids)


class TableState(msgspec.Struct, array_like=True):
    """A table of items as a snapshot holds it. `rows` are little-endian."""

    labels: list[Label]
    rows: bytes
    event_ids: list[str]

    def residuals(self) -> dict[HashedKey, int]:
        """What is left of each item, by its hashed key (see `key_of`)."""
        table = ItemTable()
        table.load(self)
        rows = table.standing()
        left = table.amount_minor[rows] - table.used_minor[rows]
        return dict(zip(table.keys_at(rows), left.tolist(), strict=True))
