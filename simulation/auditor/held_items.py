"""What keeps items from being used: holds that they begin with, those of registers, and rows that are not booked yet.

Owns the holds by item, who may let them go, and the exceptions that end with them.
"""

from typing import Any

from runtime.ledger.links import Links
from runtime.ledger.rules import Rulebook
from simulation.auditor.keys import Key, Row, common, key_of, person

FlagKey = tuple[str, str, str]  # type, source, event_id: raising the same again is nothing
UNBOOKED = "unbooked"
OBJECTIONS = ("rejection", "dispute")  # holds that events place which tell of themselves
NOBODY = {"person": "", "flagged": False}


class HeldItems:
    """Items as dicts, and what holds them."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        links = [kind.links for kind in rulebook.kind.values() if kind.links]
        # Items that count pieces: they have no currency, and exceptions tell no money of them.
        self._pieces = {ref.item for one in links for ref in one.opened if ref.amount == "quantity"}
        self._booked = {item.once_booked for item in rulebook.item.values()}  # sums that must be, for an item
        self.items: dict[Key, Row] = {}
        self._terms: dict[Key, Row] = {}  # of items, also of those that have not come: who opened, what holds
        self._groups: dict[tuple[str, str, str, str], Row] = {}  # by currency, too
        self._waiting_for: dict[tuple, set[int]] = {}  # by item or sum
        self._stirred: set[int] = set()  # whose item came or was let go
        self.flags: dict[FlagKey, tuple[str, str, int]] = {}  # -> entity, currency, what is left of it
        self.told: set[tuple[str, str, str]] = set()  # status, source, event_id of what opened an item
        self.marked: dict[FlagKey, Any] = {}  # exceptions of registers, which end when their holds are let go

    def _stir(self, key: Key) -> None:
        self._stirred |= self._waiting_for.get(common(key), set())

    def _terms_of(self, key: Key) -> Row:
        return self._terms.setdefault(key, {**NOBODY, "holds": [], "released": [], "causes": []})

    def _lets_go(self, terms: Row | None, name: str) -> bool:
        """Whether there is a hold of that name, or it was released before."""
        return bool(terms) and (_is_released(terms, name) or any(_bears(hold, name) for hold in terms["holds"]))

    def _release(self, key: Key, name: str) -> None:
        """Let go all holds of that name, with the exceptions that they came with."""
        terms = self._terms_of(key)
        terms["released"].append(name)
        for cause in [one for one in terms["causes"] if _bears(one[0], name)]:
            terms["causes"].remove(cause)
            self._end_marked(cause)
        terms["holds"] = [hold for hold in terms["holds"] if not _bears(hold, name)]
        self._held_no_more(key)

    def unhold(self, key: Key, hold: str, cause: tuple[str, str]) -> None:
        """End a hold that a register asked for."""
        terms = self._terms_of(key)
        for name, ended in (("holds", hold), ("causes", (hold, *cause))):
            if ended in terms[name]:
                terms[name].remove(ended)
        self._held_no_more(key)

    def _held_no_more(self, key: Key) -> None:
        terms, rule = self._terms_of(key), self._rulebook.item[key[0]]
        self._stir(key)
        if terms["flagged"] and not set(rule.held_by) & set(terms["holds"]):
            terms["flagged"] = False
            self._end(rule.overdue, self.items[key]["row"])

    def hold(self, key: Key, hold: str, cause: tuple[str, str]) -> None:
        """Begin a hold, unless somebody has released it already: then its exception ends, too."""
        terms = self._terms_of(key)
        if _is_released(terms, hold):
            self._end_marked((hold, *cause))
            return
        terms["holds"].append(hold)
        terms["causes"].append((hold, *cause))
        self._stir(key)
        status, item = self._rulebook.item[key[0]].tells, self.items.get(key)
        if item and status and terms["holds"].count(hold) == 1 and hold not in OBJECTIONS:
            self.told.add((status, item["row"]["source"], item["row"]["event_id"]))

    def _end_marked(self, cause: tuple[str, str, str]) -> None:
        self.marked.pop((cause[0].split(":")[0], *cause[1:]), None)

    def booked(self, row: Row) -> None:
        """A row went into the books: what all rows of its sum were needed for may be used."""
        links = self._links(row) or Links()
        for ref in (links.member_of, links.closes):
            group = ref and self._groups.get((ref.group, row["entity"], row["currency"], key_of(row, ref.key)))
            if group:
                group["unbooked"] -= 1
                if not group["unbooked"] and group["tied"] == group["total"]:
                    self._free_booked(ref.group, row["entity"], key_of(row, ref.key))

    def _free_booked(self, group: str, entity: str, name: str) -> None:
        for item, rule in self._rulebook.item.items():
            holds = self._terms.get((item, entity, name), {}).get("holds", ())
            if rule.once_booked == group and UNBOOKED in holds:
                holds.remove(UNBOOKED)
                self._held_no_more((item, entity, name))

    def _hold_unbooked(self, key: Key) -> None:
        if self._rulebook.item[key[0]].once_booked and UNBOOKED not in self._terms_of(key)["holds"]:
            self._terms_of(key)["holds"].append(UNBOOKED)

    def _is_refused(self, wait: Row) -> bool:
        signer = person(wait["row"])
        return not signer or signer.casefold() == self._asker(wait).casefold()

    def _asker(self, wait: Row) -> str:
        return self._terms.get(wait["item"], {}).get("person", "")

    # ── exceptions of items ────────────────────────────────────────────────────────────────────────────────────────

    def _raise(self, type: str, row: Row, key: Key, amount: int) -> None:
        told = (key[1], row["currency"], 0 if key[0] in self._pieces else amount)
        self.flags.setdefault((type, row["source"], row["event_id"]), told)

    def _end(self, type: str, row: Row) -> None:
        self.flags.pop((type, row["source"], row["event_id"]), None)

    def _links(self, row: Row) -> Links:
        return self._rulebook.kind[row["kind"]].links


def _bears(hold: str, name: str) -> bool:
    """Whether a hold goes by a name, or by that and a number."""
    return hold != UNBOOKED and name in (hold, hold.split(":")[0])


def _is_released(terms: Row, hold: str) -> bool:
    return not {hold, hold.split(":")[0]}.isdisjoint(terms["released"])
