"""Rows that belong together, told from the rulebook's links: what opens, what consumes, what makes up a sum.

Owns amounts and keys that meet, and those that nearly do. A kind that is added with links is told from them like the
others; a flow whose keys meet by other means has a teller of its own in FLOWS.
"""

import random
from collections.abc import Callable, Iterator

from runtime.ledger.rules import GroupRef, ItemRef, Kind, Links, Rulebook
from simulation.workload.rows import CURRENCIES, ENTITIES, Row, RowMaker

PARTS_MAX = 4
Teller = Callable[["Stories"], list[Row]]


class Stories:
    """Tells one story after another until there are enough rows."""

    def __init__(self, rulebook: Rulebook, rng: random.Random) -> None:
        self.rulebook, self.rng = rulebook, rng
        self.maker = RowMaker(rulebook, rng)
        links = {name: kind.links for name, kind in rulebook.kind.items() if kind.links}
        self._openers = _by({n: ref.opens for n, ref in links.items()}, "item")
        self._consumers = _by({n: ref.consumes for n, ref in links.items()}, "item")
        self._members = _by({n: ref.member_of for n, ref in links.items()}, "group")
        self._closers = _by({n: ref.closes for n, ref in links.items()}, "group")
        self._unlinked = [name for name, kind in rulebook.kind.items() if not kind.links]
        self._place: Row = {}

    def tell(self, rows_min: int) -> list[list[Row]]:
        """Stories, each with its rows in their usual order."""
        told: list[list[Row]] = []
        tellers = [*(self._tellers())]
        while sum(map(len, told)) < rows_min:
            self._place = {"entity": self.rng.choice(tuple(ENTITIES)), "currency": self.rng.choice(CURRENCIES)}
            told.append(self.rng.choice(tellers)())
        return told

    def _tellers(self) -> Iterator[Callable[[], list[Row]]]:
        yield self._plain
        yield self._plain
        for group in sorted(self._closers):
            yield lambda group=group: self._sum(group)
        for item in sorted(self._openers):
            yield lambda item=item: self._chain(item)
        for teller in FLOWS.values():
            yield lambda teller=teller: teller(self)

    # ── tellers ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _plain(self) -> list[Row]:
        """A few rows that wait for nothing."""
        kinds = self.rng.choices(self._unlinked, k=self.rng.randrange(1, 8))
        return [self.maker.row(kind, self.maker.amount(self._kind(kind).sign)) for kind in kinds]

    def _sum(self, group: str) -> list[Row]:
        """Members, what they need, and the row that announces their sum."""
        key, rows = self.maker.key(group), []
        for _ in range(self.rng.randrange(1, PARTS_MAX + 1)):
            kind = self.rng.choice(self._members[group])
            before, amount, columns = self._needs(kind)
            member = self._row(kind, amount, **columns, **{self._kind(kind).links.member_of.key: key})
            rows += [*before, member, *self._followers(member, key)]
        closer, total = self.rng.choice(self._closers[group]), sum(self._counted(row, group, key) for row in rows)
        if self._kind(closer).sign == "positive":
            total = max(total, 0)
        total += self.rng.choice((0, 0, 0, 1, 10**9))
        announced = self._row(closer, total, **{self._kind(closer).links.closes.key: key})
        return [*rows, announced, *self._followers(announced, key)]

    def _counted(self, row: Row, group: str, key: str) -> int:
        """What a row adds to a group's sum."""
        ref = (self._kind(row["kind"]).links or Links()).member_of
        return ref.sign * row["amount_minor"] if ref and ref.group == group and row[ref.key] == key else 0

    def _chain(self, item: str) -> list[Row]:
        """An item and who uses it up, apart from any sum that they are part of."""
        before, amount, columns = self._needs(kind := self.rng.choice(self._openers[item]))
        opener = self._row(kind, amount, **columns)
        return [*before, opener, *self._followers(opener, self.maker.key("apart"))]

    # ── parts ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _needs(self, kind: str) -> tuple[list[Row], int, Row]:
        """Rows that open what a kind consumes; the amount that fits; the columns that hold the key."""
        amount, ref = self.maker.amount(self._kind(kind).sign), self._kind(kind).links.consumes
        if ref is None:
            return [], amount, {}
        opener = self.rng.choice(self._openers[ref.item])
        before, _, columns = self._needs(opener)
        opened = self._row(opener, self._opened(ref, amount, self._kind(opener)), **columns)
        return [*before, opened], amount, {ref.key: opened[self._kind(opener).links.opens.key]}

    def _opened(self, ref: ItemRef, amount: int, opener: Kind) -> int:
        """What an item must hold so that this amount fits, or nearly."""
        more = self.rng.choice((0, 0, 5, -1)) if self.rulebook.item[ref.item].use == "part" else self.rng.choice((0, 1))
        opened = amount + (more if self.rng.random() < 0.3 else 0)
        return max(opened, 0) if opener.sign == "positive" else opened

    def _followers(self, opener: Row, group_key: str) -> list[Row]:
        """Rows that use up what a row opened: all of it, some of it, or a cent too much."""
        opens = self._kind(opener["kind"]).links.opens
        if opens is None or opens.item not in self._consumers:
            return []
        left, rows = opener["amount_minor"], []
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            kind = self.rng.choice(self._consumers[opens.item])
            links = self._kind(kind).links
            part = self.rng.choice((left, left, left // 2, left + 1))
            part = max(part, 0) if self._kind(kind).sign == "positive" else part
            keys = {links.consumes.key: opener[opens.key]}
            if links.member_of and links.member_of.key not in keys:
                keys[links.member_of.key] = group_key
            row = self._row(kind, part, **keys)
            rows += [row, *self._followers(row, group_key)]
            left -= part
        return rows

    def _row(self, kind: str, amount: int, **columns: object) -> Row:
        return self.maker.row(kind, amount, **{**self._place, **columns})

    def _kind(self, name: str) -> Kind:
        return self.rulebook.kind[name]


def _by(refs: dict[str, ItemRef | GroupRef | None], name: str) -> dict[str, list[str]]:
    """Kinds by the item or group that they refer to."""
    kinds: dict[str, list[str]] = {}
    for kind, ref in refs.items():
        if ref is not None:
            kinds.setdefault(getattr(ref, name), []).append(kind)
    return kinds


FLOWS: dict[str, Teller] = {}
