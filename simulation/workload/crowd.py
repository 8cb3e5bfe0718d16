"""Rows of a few kinds that meet, over so few keys and amounts that everything gets in everything's way.

Owns which columns hold keys of the same things, told from the rulebook's links. Tells no story: what belongs together
comes together by chance.
"""

import json
import random
from collections.abc import Mapping
from typing import get_args

from runtime.ledger.links import KeyColumn, Links
from runtime.ledger.rules import Rulebook
from simulation.auditor.registers import unmodelled
from simulation.workload.rows import ENTITIES, Row, RowMaker

KEYS = (1, 1, 2, 3)  # of each thing
PARTIES = (("acme",), ("acme",), ("acme", "blue", None))
AMOUNTS = ((100,), (100, 200), (100, 101, 200, 300), (0, 50, 100, 200))
QUANTITIES = (1_000, 1_000, 2_000)
KINDS_MIN = 3
KEY_COLUMNS = get_args(KeyColumn)
OFTEN, SELDOM = 0.97, 0.15
_SORTS = ("item", "group", "register")
_Place = tuple[str, str]  # a sort, and the name of one


class Crowd:
    """Draws its kinds, keys and sizes once, and then rows of them."""

    def __init__(self, rulebook: Rulebook, rng: random.Random) -> None:
        self._rulebook, self._rng, self._maker = rulebook, rng, RowMaker(rulebook, rng)
        known = {name: kind for name, kind in rulebook.kind.items() if not kind.derived}
        linked = {name: known[name].links for name in known.keys() - unmodelled(rulebook) if known[name].links}
        self._names = _names({name: linked[name] for name in sorted(linked)})
        self._kinds = self._chosen()
        self._keys, self._parties, self._amounts = rng.choice(KEYS), rng.choice(PARTIES), rng.choice(AMOUNTS)
        self._entity = rng.choice(tuple(ENTITIES))

    def rows(self, count: int) -> list[Row]:
        """So many rows; some come twice, or once more with another amount."""
        rows = [self._row(self._rng.choice(self._kinds)) for _ in range(count)]
        for _ in range(self._rng.choice((0, 0, 1, 2))):
            rows.insert(self._rng.randrange(len(rows) + 1), self._rng.choice(rows))
        if self._rng.random() < SELDOM:
            other = self._rng.choice(rows)
            rows.insert(self._rng.randrange(len(rows) + 1), other | {"amount_minor": other["amount_minor"] + 1})
        return rows

    def _chosen(self) -> list[str]:
        """A kind and those that meet it, maybe also those that meet these, or some that have nothing to do with it."""
        kinds = {self._rng.choice(list(self._names))}
        for _ in range(self._rng.choice((1, 1, 2))):
            met = {name for kind in kinds for name in self._names[kind].values()}
            kinds = {kind for kind, names in self._names.items() if not met.isdisjoint(names.values())}
        if self._rng.random() < SELDOM:
            kinds |= set(self._rng.sample(list(self._names), KINDS_MIN))
        few = self._rng.randrange(min(KINDS_MIN, len(kinds)), len(kinds) + 1)
        return self._rng.sample(sorted(kinds), self._rng.choice((few, len(kinds))))

    def _row(self, kind: str) -> Row:
        rng, terms = self._rng, self._rulebook.kind[kind]
        amount = rng.choice(self._amounts)
        is_negative = terms.sign == "any" and rng.random() < SELDOM
        columns = {
            **{column: f"x-{rng.randrange(max(KEYS))}" for column in terms.requires if column in KEY_COLUMNS},
            **{column: f"{name}-{rng.randrange(self._keys)}" for column, name in self._names[kind].items()},
            "entity": self._entity if rng.random() < OFTEN else rng.choice(tuple(ENTITIES)),
            "currency": "USD" if rng.random() < OFTEN else "EUR",
            "counterparty": self._party(kind),
        }
        row = self._maker.row(kind, -amount if is_negative else amount, **columns)
        row["quantity"] = row["quantity"] and rng.choice(QUANTITIES)
        if rng.random() < OFTEN:
            given = json.loads(row["attributes"])
            row["attributes"] = json.dumps({name: of for name, of in given.items() if not isinstance(of, int)})
        return row

    def _party(self, kind: str) -> str | None:
        terms = self._rulebook.kind[kind]
        if any(derive.to == "counterparty" for derive in terms.derives):
            return self._rng.choice(tuple(ENTITIES))
        return self._rng.choice(self._parties) or ("acme" if "counterparty" in terms.requires else None)


def _names(linked: Mapping[str, Links]) -> dict[str, dict[str, str]]:
    """Of each kind, what its key columns name: places that any kind names by one column are the same thing."""
    columns = {kind: _columns(links) for kind, links in linked.items()}
    same: list[set[_Place]] = []
    for places in (places for by_column in columns.values() for places in by_column.values()):
        met = [one for one in same if not one.isdisjoint(places)]
        same = [one for one in same if one not in met] + [places.union(*met)]
    name_of = {place: min(one)[1] for one in same for place in one}
    return {
        kind: {column: name_of[min(places)] for column, places in by_column.items()}
        for kind, by_column in columns.items()
    }


def _columns(links: Links) -> dict[str, set[_Place]]:
    """The places that each key column leads to; of columns joined by "_or_" the first counts."""
    found: dict[str, set[_Place]] = {}
    for link in links.all:
        place = next((sort, getattr(link, sort)) for sort in _SORTS if hasattr(link, sort))
        found.setdefault(link.key.partition("_or_")[0], set()).add(place)
    return found
