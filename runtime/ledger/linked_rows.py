"""The linked rows of a step as columns of numbers: what each kind opens, uses and joins, and under which hashed keys.

Owns which links are plain: those of items that nobody signs for, agrees with, holds, expects, counts in pieces or
tells apart, so that the order of their uses does not matter as long as all of them fit. Decides nothing of any row.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import polars_hash as plh
import xxhash

from runtime.ledger import amounts
from runtime.ledger.item_table import Keys, Label, keyed
from runtime.ledger.links import ALIAS, GroupRef, ItemRef, Links
from runtime.ledger.rules import Item, Rulebook
from runtime.words import SPREAD

NOTHING = -1
KEY_COLUMNS = ("document", "reference", "correlation_id")
_HASHED = (*KEY_COLUMNS, "entity", "source", "currency")
_KEYS = (*KEY_COLUMNS, ALIAS)
_EMPTY = xxhash.xxh64_intdigest(b""), xxhash.xxh3_64_intdigest(b"")


class Link(NamedTuple):
    """One sort of link of every kind, by the kind's number: the name's number, NOTHING where there is none; which of
    _KEYS holds the key; and whether there is nothing to do where that is empty."""

    name: np.ndarray
    key: np.ndarray
    optional: np.ndarray


class Plan(NamedTuple):
    """What kinds do, by their numbers. Kinds that are not `whole` have links beyond these, or other ones than plain."""

    kinds: dict[str, int]
    items: list[str]
    groups: list[str]
    item_names: Keys
    group_names: Keys
    whole: np.ndarray
    opens: Link
    uses: Link
    joins: Link
    sign: np.ndarray  # of a group's members, 0 for who closes one
    closes: np.ndarray


def plan(rulebook: Rulebook, links: Mapping[str, Links], payables: Iterable[str]) -> Plan:
    """The plan of a rulebook. `payables`: items that registers hold."""
    items, groups = sorted(rulebook.item), sorted(rulebook.group)
    plain = set(items) - _special(rulebook, links) - set(payables)
    whole = _whole(links, plain)
    group_refs = [one.member_of or one.closes for one in links.values()]
    opened = [one.opened[0] if name in whole and one.opened else None for name, one in links.items()]
    used = [one.consumes if one.consumes and one.consumes.item in plain else None for one in links.values()]
    return Plan(
        kinds={name: number for number, name in enumerate(links)},
        items=items,
        groups=groups,
        item_names=_of_texts(items),
        group_names=_of_texts(groups),
        whole=np.array([name in whole for name in links], bool),
        opens=_link(opened, items),
        uses=_link(used, items),
        joins=_link(group_refs, groups),
        sign=np.array([one.member_of.sign if one.member_of else 0 for one in links.values()], np.int64),
        closes=np.array([one.closes is not None for one in links.values()], bool),
    )


def _special(rulebook: Rulebook, links: Mapping[str, Links]) -> set[str]:
    """Items of which something is said that does not fit into columns."""
    every = list(links.values())
    special = {name for name, rule in rulebook.item.items() if _is_special(rule)}
    special |= {ref.item for one in every for ref in one.expects}
    special |= {one.releases.item for one in every if one.releases}
    special |= {ref.item for one in every for ref in one.opened if ref.amount != amounts.AMOUNT or ref.optional}
    return special | {one.consumes.item for one in every if one.consumes and not _is_plain(one.consumes)}


def _is_special(rule: Item) -> bool:
    terms = (rule.held_by, rule.announces, rule.apart_by, rule.while_ready, rule.adds)
    return any((*terms, rule.once_booked, rule.once_matched))


def _is_plain(use: ItemRef) -> bool:
    odd = use.second_person or use.agrees or use.at_most or use.overdraws
    return use.amount == amounts.AMOUNT and not odd


def _whole(links: Mapping[str, Links], plain: set[str]) -> set[str]:
    """Kinds all of whose links fit into columns. An item that another kind opens too is opened one by one."""
    whole = {name for name, one in links.items() if _fits(one, plain)}
    while True:
        elsewhere = {ref.item for name, one in links.items() if name not in whole for ref in one.opened}
        rest = {name for name in whole if not any(ref.item in elsewhere for ref in links[name].opened)}
        if rest == whole:
            return whole
        whole = rest


def _fits(links: Links, plain: set[str]) -> bool:
    touched = {ref.item for ref in links.opened} | ({links.consumes.item} if links.consumes else set())
    is_sum_own = not links.closes or links.closes.total == amounts.AMOUNT
    return touched <= plain and len(links.opened) < 2 and not links.expects and not links.releases and is_sum_own


def _link(refs: Iterable[ItemRef | GroupRef | None], names: list[str]) -> Link:
    columns = zip(*(_of_kind(ref, names) for ref in refs), strict=True)
    return Link(*map(np.array, columns))


def _of_kind(ref: ItemRef | GroupRef | None, names: list[str]) -> tuple[int, int, bool]:
    if ref is None:
        return NOTHING, 0, False
    name, optional = (ref.item, ref.optional) if isinstance(ref, ItemRef) else (ref.group, False)
    return names.index(name), _KEYS.index(ref.key), optional


class LinkedRows:
    """The rows of a frame as a plan sees them; each is known by its place in the frame."""

    def __init__(self, plan: Plan, frame: pl.DataFrame) -> None:
        self.plan, self.frame = plan, frame
        self.kind = frame["kind"].replace_strict(plan.kinds, return_dtype=pl.Int64()).to_numpy()
        self.amount_minor = frame["amount_minor"].to_numpy()
        document, reference, correlation, self._entity, self._source, currency = _hashed(frame)
        self.currency = currency.hash
        alias = Keys(*map(np.where, [_is_empty(correlation)] * 2, document, correlation))
        self._keys = Keys(*map(np.stack, zip(document, reference, correlation, alias, strict=True)))

    def texts(self, link: Link, places: np.ndarray) -> Keys:
        """The hashed texts by which rows name what they link to."""
        column = link.key[self.kind[places]]
        return Keys(self._keys.hash[column, places], self._keys.check[column, places])

    def linked(self, link: Link) -> np.ndarray:
        """The places of rows that have this link, with a key to it."""
        places = np.flatnonzero(link.name[self.kind] != NOTHING)
        return places[~(link.optional[self.kind[places]] & self.unnamed(link, places))]

    def unnamed(self, link: Link, places: np.ndarray) -> np.ndarray:
        """Which of these rows name nothing that they could link to."""
        return _is_empty(self.texts(link, places))

    def items(self, link: Link, places: np.ndarray) -> Keys:
        """The keys of the items that these rows link to."""
        names = self.plan.item_names.of(link.name[self.kind[places]])
        return keyed(names, self._entity.of(places), self.texts(link, places))

    def groups(self, places: np.ndarray) -> Keys:
        """The keys of the groups that these rows join: sums of two currencies are two sums."""
        names = self.plan.group_names.of(self.plan.joins.name[self.kind[places]])
        ledgers = Keys(*(name ^ self.currency[places] for name in names))
        return keyed(ledgers, self._entity.of(places), self.texts(self.plan.joins, places))

    def labels(self, places: np.ndarray) -> tuple[list[Label], np.ndarray]:
        """What the items that these rows open have in common, each once, and which of them each row's item has."""
        parts = (self.plan.opens.name[self.kind[places]].astype(np.uint64), self._entity.hash[places])
        mixed = np.zeros(len(places), np.uint64)
        for part in (*parts, self._source.hash[places], self.currency[places]):
            mixed = (mixed ^ part) * np.uint64(SPREAD)
        _, first, number = np.unique(mixed, return_index=True, return_inverse=True)
        columns = self.frame[places[first]].select("kind", "entity", "source", "currency")
        opened = [self.plan.items[self.plan.opens.name[self.plan.kinds[kind]]] for kind in columns["kind"]]
        texts = columns.drop("kind").iter_rows()
        return [Label(name, *row) for name, row in zip(opened, texts, strict=True)], number


def _hashed(frame: pl.DataFrame) -> list[Keys]:
    """Each text column by both hashes; no text is an empty one."""
    exprs = [
        expr.fill_null(empty).alias(f"{name}.{number}")
        for name in _HASHED
        for number, (expr, empty) in enumerate(zip(_both(name), _EMPTY, strict=True))
    ]
    columns = frame.select(exprs)
    return [Keys(columns[f"{name}.0"].to_numpy(), columns[f"{name}.1"].to_numpy()) for name in _HASHED]


def _both(name: str) -> tuple[pl.Expr, pl.Expr]:
    return plh.col(name).nchash.xxhash64(), plh.col(name).nchash.xxh3_64()


def _of_texts(texts: list[str]) -> Keys:
    encoded = [text.encode() for text in texts]
    hashes = ([of(text) for text in encoded] for of in (xxhash.xxh64_intdigest, xxhash.xxh3_64_intdigest))
    return Keys(*(np.array(of, np.uint64) for of in hashes))


def _is_empty(texts: Keys) -> np.ndarray:
    return (texts.hash == np.uint64(_EMPTY[0])) & (texts.check == np.uint64(_EMPTY[1]))
