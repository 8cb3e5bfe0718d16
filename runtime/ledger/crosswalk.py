"""The crosswalk: which of an entity's accounts a role is, by facility, department, counterparty and date.

Policies, classes of codes and known partners are rows like accounts: a role, and the answer to it. Owns all versions
ever applied; a version is added, never changed. Never guesses: what is not mapped is answered None.
"""

from datetime import date
from typing import NamedTuple

import msgspec

ANY = "*"  # as entity of a row
NEWEST = 2**31 - 1  # as version: whatever is known


class CrosswalkRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mapping. "*" as entity, "" as facility, department or counterparty (a payer or supplier) mean any."""

    entity: str = ANY
    role: str
    account: str
    facility: str = ""
    department: str = ""
    counterparty: str = ""
    valid_from: date = date(1900, 1, 1)


class Mapped(msgspec.Struct, frozen=True, array_like=True):
    """An account and the version that mapped it."""

    account: str
    version: int


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where and when a role is asked for, and of which version on mappings are not looked at."""

    entity: str
    facility: str
    department: str
    on: date
    counterparty: str = ""
    newest: int = NEWEST


class Basis(NamedTuple):
    """As of when an event is decided on that takes another one back: that one's effective day (its class, policies of
    registers), its posting day (accounts), and the newest version when it came."""

    on: date
    posted_on: date
    version: int

    def text(self) -> str:
        """As a column holds it."""
        return f"{self.on}/{self.posted_on}/{self.version}"


def basis_of(text: str) -> Basis:
    """A basis as a column holds it."""
    on, posted_on, version = text.split("/")
    return Basis(date.fromisoformat(on), date.fromisoformat(posted_on), int(version))


class Crosswalk:
    """Every mapping in force, answered most specific first: entity, counterparty, facility, department, then newest."""

    def __init__(self) -> None:
        self._versions: set[int] = set()
        self._rows: list[tuple[int, CrosswalkRow]] = []
        self._by_role: dict[str, list[tuple[int, CrosswalkRow]]] = {}
        self._known: dict[tuple[str, Place], Mapped | None] = {}

    @property
    def version(self) -> int:
        """The newest version applied, 0 before the first."""
        return max(self._versions, default=0)

    def apply(self, version: int, rows: list[CrosswalkRow]) -> bool:
        """Add a version, in any order. False when it is known already (the log may carry it twice)."""
        if version in self._versions:
            return False
        self._add(version, rows)
        self._known.clear()
        return True

    def _add(self, version: int, rows: list[CrosswalkRow]) -> None:
        self._versions.add(version)
        for row in rows:
            self._rows.append((version, row))
            self._by_role.setdefault(row.role, []).append((version, row))

    def since(self, version: int) -> list[int]:
        """The versions from that one on. What had no answer then was held until one of them gave it."""
        return sorted(known for known in self._versions if known >= version) or [NEWEST]

    def resolve(self, role: str, place: Place) -> Mapped | None:
        """The account of a role at a place, or None."""
        if role not in self._by_role:
            return None
        key = (role, place)
        if key not in self._known:
            self._known[key] = self._search(role, place)
        return self._known[key]

    def _search(self, role: str, place: Place) -> Mapped | None:
        known = (one for one in self._by_role.get(role, ()) if one[0] <= place.newest)
        fitting = [(version, row) for version, row in known if _fits(row, place)]
        if not fitting:
            return None
        version, row = max(fitting, key=lambda found: (*_specificity(found[1]), found[1].valid_from, found[0]))
        return Mapped(row.account, version)

    def dump(self) -> list[tuple[int, CrosswalkRow]]:
        """All rows with their versions, for a snapshot."""
        return list(self._rows)

    def load(self, version: int, rows: list[tuple[int, CrosswalkRow]]) -> None:
        """Start from a snapshot's rows."""
        self.__init__()
        for of, row in rows:
            self._add(of, [row])
        self._versions.add(version)

    def forget_answers(self) -> None:
        """Drop remembered answers; called when they grow beyond a bound."""
        self._known.clear()


def _fits(row: CrosswalkRow, place: Place) -> bool:
    return (
        row.entity in (ANY, place.entity)
        and row.facility in ("", place.facility)
        and row.department in ("", place.department)
        and row.counterparty in ("", place.counterparty)
        and row.valid_from <= place.on
    )


def _specificity(row: CrosswalkRow) -> tuple[bool, bool, bool, bool]:
    return row.entity != ANY, row.counterparty != "", row.facility != "", row.department != ""
