"""The lineage of a document: every event of the chain that it stands in, from the order to the payment.

Owns who comes before whom, by the rulebook's links alone: what opens an item comes before what uses or releases it, a
group's members before what closes it, and a document before the events that only tell of it. Reads nothing itself, and
never guesses: documents that name each other nowhere don't meet.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from runtime.ledger.links import ALIAS, Links
from runtime.ledger.rules import Rulebook

Row = dict[str, Any]  # an event's columns
Identity = tuple[int, int]  # id hash and digest
Place = tuple[str, str, str, str]  # what sort of place (item, group, document), its name, entity, key
Read = Callable[[Collection[str]], Iterable[Row]]  # every event that bears one of these texts in a column of NAMES

NAMES = ("document", "reference", "correlation_id")
PART = "/"  # an order's line is "<order>/<line>", a test "<accession>/<procedure>"


class Lineage:
    """Chains under one rulebook."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._kinds = {name: kind for name, kind in rulebook.kind.items() if not kind.derived}

    def chain(self, begin: Iterable[Row], read: Read) -> list[Row]:
        """These events, all that they come from, and all that came of those; oldest first.

        Downwards a bill leads to its payments and not to its other lines, and a payment to no other bill: these belong
        to other chains, unless one begins with them.
        """
        found = {identity(row): row for row in begin if row["kind"] in self._kinds}
        self._follow(found, self._after, self._before, read)
        self._follow(found, self._before, self._after, read)
        return sorted(found.values(), key=lambda row: (row["effective_on"], row["received_at"], row["event_id"]))

    def _follow(
        self,
        found: dict[Identity, Row],
        side: Callable[[Row], set[Place]],
        other: Callable[[Row], set[Place]],
        read: Read,
    ) -> None:
        """Add what is reached from `side` of the events that are there, until nothing new comes."""
        newest, seen = list(found.values()), set[Place]()
        while newest:
            places = {place for row in newest for place in side(row)} - seen
            seen |= places
            rows = read({place[-1] for place in places}) if places else ()
            reached = {identity(row): row for row in rows if row["kind"] in self._kinds and other(row) & places}
            newest = [row for key, row in reached.items() if key not in found]
            found |= {identity(row): row for row in newest}

    def _before(self, row: Row) -> set[Place]:
        """The places where an event stands before others."""
        kind = self._kinds[row["kind"]]
        links = kind.links or Links()
        places = {("item", ref.item, _key(row, ref.key)) for ref in links.opened}
        if links.member_of:
            places.add(("group", links.member_of.group, _key(row, links.member_of.key)))
        if kind.links:
            places.add(("document", kind.flow, _key(row, "document")))
        return _of_entity(row, places)

    def _after(self, row: Row) -> set[Place]:
        """The places where an event stands after others."""
        kind = self._kinds[row["kind"]]
        links = kind.links or Links()
        used = [ref for ref in (links.consumes, links.releases, *links.expects) if ref]
        places = {("item", ref.item, _key(row, ref.key)) for ref in used}
        if links.closes:
            places.add(("group", links.closes.group, _key(row, links.closes.key)))
        if not kind.links and kind.tells:
            places.add(("document", kind.flow, _key(row, kind.tells.about)))
        return _of_entity(row, places)


def identity(row: Row) -> Identity:
    """What tells an event, and the content that it came with, from others."""
    return row["id_hash"], row["digest"]


def meant(rows: Collection[Row], name: str) -> list[Row]:
    """Of these events those that somebody means by a name: its event or document; else the parts of the order, the case
    or the accession of that name; else what names such a document, which has not come. A supplier's number stands
    before each of his bills, and means none of them."""
    parts = [row for row in rows if (row["document"] or "").startswith(name + PART)]
    ways = (
        [row for row in rows if name in (row["event_id"], row["document"])],
        parts if all(row["counterparty"] != name for row in parts) else [],
        [row for row in rows if name in (row["reference"], row["correlation_id"])],
    )
    return next(filter(None, ways), [])


def _key(row: Row, column: str) -> str:
    if column == ALIAS:
        return row["correlation_id"] or row["document"] or ""
    return row[column] or ""


def _of_entity(row: Row, places: Iterable[tuple[str, str, str]]) -> set[Place]:
    return {(sort, name, row["entity"], key) for sort, name, key in places if key}
