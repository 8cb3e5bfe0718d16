"""Rows that belong together, told from the rulebook's links: what opens, what consumes, what makes up a sum.

Owns amounts and keys that meet, and those that nearly do. A kind that is added with links is told from them like the
others; a flow whose keys meet by other means has a teller of its own in `flows`.
"""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from runtime.ledger.links import ItemRef, Links, Release
from runtime.ledger.rules import Kind, Rulebook
from simulation.auditor.registers import unmodelled
from simulation.workload.flows import FLOWS
from simulation.workload.rows import CURRENCIES, ENTITIES, PAYERS, Row, RowMaker, key_of

PARTS_MAX = 4
DEPTH_MAX = 4  # of rows that use what the one before has opened
NEEDED = 0.9  # of rows: what they need is sent, too
AGREED = 0.7  # of approvals that are of what was requested


class Stories:
    """Tells one story after another until there are enough rows."""

    def __init__(self, rulebook: Rulebook, rng: random.Random) -> None:
        self.rulebook, self.rng = rulebook, rng
        self.maker = RowMaker(rulebook, rng)
        known = {n: k for n, k in rulebook.kind.items() if not k.derived and n not in unmodelled(rulebook)}
        links = {name: kind.links or Links() for name, kind in known.items()}
        self._openers = _by((ref.item, name) for name, one in links.items() for ref in one.opened)
        self._consumers = _by((ref.item, name) for name, one in links.items() for ref in _users(one))
        self._members = _by((one.member_of.group, name) for name, one in links.items() if one.member_of)
        self._closers = _by((one.closes.group, name) for name, one in links.items() if one.closes)
        self._plain_kinds = [name for name, one in links.items() if _is_plain(one)]
        self.place: Row = {}

    def tell(self, rows_min: int) -> list[list[Row]]:
        """Stories, each with its rows in their usual order."""
        told: list[list[Row]] = []
        tellers = [*(self._tellers())]
        while sum(map(len, told)) < rows_min:
            self.place = {"entity": self.rng.choice(tuple(ENTITIES)), "currency": self.rng.choice(CURRENCIES)}
            told.append(self.rng.choice(tellers)())
        return told

    def _tellers(self) -> Iterator[Callable[[], list[Row]]]:
        yield self._plain
        yield self._plain
        for group in sorted(self._closers.keys() & self._members.keys()):
            yield lambda group=group: self._sum(group)
        for item in sorted(self._openers):
            yield lambda item=item: self._chain(item)
        for teller in FLOWS.values():
            yield lambda teller=teller: teller(self)

    # ── tellers ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _plain(self) -> list[Row]:
        """A few rows that wait for nothing."""
        kinds = self.rng.choices(self._plain_kinds, k=self.rng.randrange(1, 8))
        return [self.maker.row(kind, self.maker.amount(self._kind(kind).sign)) for kind in kinds]

    def _sum(self, group: str) -> list[Row]:
        """Members, what they need, and the row that announces their sum."""
        key = self.maker.key(group)
        rows = self.members(group, key)
        return [*rows, *self.closing(group, key, rows)]

    def members(self, group: str, key: str, apart: Collection[str] = ()) -> list[Row]:
        """Members of a group and what they need, but of the kinds that stand apart."""
        rows: list[Row] = []
        for _ in range(self.rng.randrange(1, PARTS_MAX + 1)):
            kind = self.rng.choice([kind for kind in self._members[group] if kind not in apart])
            before, amount, columns = self._needs(kind)
            member = self.row(kind, amount, **{**columns, self._kind(kind).links.member_of.key: key})
            rows += [*before, member, *self._followers(member, key)]
        return rows

    def closing(self, group: str, key: str, rows: Sequence[Row]) -> list[Row]:
        """The row that announces the sum of these, or nearly, and who uses what it opens."""
        closer, total = self.rng.choice(self._closers[group]), sum(self.counted(row, group, key) for row in rows)
        if self._kind(closer).sign == "positive":
            total = max(total, 0)
        total += self.rng.choice((0, 0, 0, 1, 10**9))
        announced = self.row(closer, total, **{self._kind(closer).links.closes.key: key})
        return [announced, *self._followers(announced, key)]

    def counted(self, row: Row, group: str, key: str) -> int:
        """What a row adds to a group's sum, in a story whose closer announces its own amount."""
        ref = (self._kind(row["kind"]).links or Links()).member_of
        return ref.sign * row["amount_minor"] if ref and ref.group == group and row[ref.key] == key else 0

    def _chain(self, item: str) -> list[Row]:
        """An item and who uses it up, apart from any sum that they are part of."""
        kind = self.rng.choice(self._openers[item])
        before, amount, columns = self._needs(kind)
        opener = self.row(kind, amount, **columns)
        return [*before, opener, *self._followers(opener, self.maker.key("apart"))]

    # ── parts ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _needs(self, kind: str) -> tuple[list[Row], int, Row]:
        """Rows that open what a kind uses; the amount that fits; the columns that hold the keys."""
        amount, links = self.maker.amount(self._kind(kind).sign), self._kind(kind).links
        rows, columns = [], {}
        for ref in _users(links):
            if ref.item in self._openers and ref.key not in columns and self.rng.random() < NEEDED:
                opener = self.rng.choice(self._openers[ref.item])
                before, _, keys = self._needs(opener) if self.rng.random() < NEEDED else ([], 0, {})
                opened = self.row(opener, self._opened(ref, amount, self._kind(opener)), **keys)
                rows += [*before, opened, *self._beside(ref.item, opened)]
                columns[ref.key] = key_of(opened, _opening(self._kind(opener).links, ref.item).key)
                columns |= self._agreeing(ref, opened)
                columns |= self._apart(ref.item, opened)
        return rows, amount, columns

    def _apart(self, item: str, opened: Row) -> Row:
        """What tells an item from others of its key, as who uses it says, or does not say."""
        column = self.rulebook.item[item].apart_by
        return {column: self.rng.choice((opened[column], opened[column], None))} if column else {}

    def _beside(self, item: str, opened: Row) -> list[Row]:
        """At times, another item of the same key, that one column tells apart."""
        column = self.rulebook.item[item].apart_by
        if not column or self.rng.random() < 0.5:
            return []
        key = _opening(self._kind(opened["kind"]).links, item).key
        apart = {key: opened[key], column: self.rng.choice((*PAYERS, None))}
        return [self.row(opened["kind"], opened["amount_minor"] + self.rng.choice((0, 1)), **apart)]

    def _opened(self, ref: ItemRef | Release, amount: int, opener: Kind) -> int:
        """What an item must hold so that this amount fits, or nearly."""
        more = self.rng.choice((0, 0, 5, -1)) if self.rulebook.item[ref.item].use == "part" else self.rng.choice((0, 1))
        opened = amount + (more if self.rng.random() < 0.3 else 0)
        return max(opened, 0) if opener.sign == "positive" else opened

    def _followers(self, opener: Row, group_key: str, depth: int = 0) -> list[Row]:
        """Rows that use up what a row opened: all of it, some of it, or a cent too much."""
        rows: list[Row] = []
        for opens in self._kind(opener["kind"]).links.opened if depth < DEPTH_MAX else ():
            left = opener["amount_minor"]
            for _ in range(self.rng.choice((0, 1, 1, 2)) if opens.item in self._consumers else 0):
                kind = self.rng.choice(self._consumers[opens.item])
                part = self.rng.choice((left, left, left // 2, left + 1))
                part = max(part, 0) if self._kind(kind).sign == "positive" else part
                row = self.row(kind, part, **self._keys(kind, opens, opener, group_key))
                rows += [row, *self._followers(row, group_key, depth + 1)]
                left -= part
        return rows

    def _keys(self, kind: str, opens: ItemRef, opener: Row, group_key: str) -> Row:
        links = self._kind(kind).links
        keys = {links.member_of.key: group_key} if links.member_of else {}
        for ref in _users(links):
            if ref.item == opens.item:
                keys |= {ref.key: key_of(opener, opens.key), **self._agreeing(ref, opener)}
        keys |= self._apart(opens.item, opener) if any(ref.item == opens.item for ref in _users(links)) else {}
        return keys

    def _agreeing(self, ref: ItemRef | Release, opener: Row) -> Row:
        """What a user must say as the opener did, and mostly does."""
        agrees = ref.agrees if isinstance(ref, ItemRef) else {}
        return {column: opener.get(column) for column in agrees} if agrees and self.rng.random() < AGREED else {}

    def row(self, kind: str, amount: int, **columns: object) -> Row:
        """A row of this story: at its entity, in its currency."""
        return self.maker.row(kind, amount, **{**self.place, **columns})

    def _kind(self, name: str) -> Kind:
        return self.rulebook.kind[name]


def _by(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Kinds by the item or group that they refer to."""
    kinds: dict[str, list[str]] = {}
    for name, kind in named:
        kinds.setdefault(name, []).append(kind)
    return kinds


def _users(links: Links) -> list[ItemRef | Release]:
    """What a kind needs of items, waiting for them or not."""
    return [ref for ref in (links.consumes, links.releases, *links.expects) if ref]


def _opening(links: Links, item: str) -> ItemRef:
    return next(ref for ref in links.opened if ref.item == item)


def _is_plain(links: Links) -> bool:
    """Whether a kind waits for nothing and opens nothing. It may enter a register."""
    return not (links.opened or _users(links) or links.member_of or links.closes)
