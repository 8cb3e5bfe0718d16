"""The crosswalk: which of an entity's accounts a role is, by facility, department, counterparty and date.

Policies, classes of codes and known partners are rows like accounts: a role, and the answer to it. Owns all versions
ever applied; a version is added, never changed. Never guesses: what is not mapped is answered None.
"""

from datetime import date

import msgspec

ANY = "*"  # as entity of a row


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
    """Where and when a role is asked for."""

    entity: str
    facility: str
    department: str
    on: date
    counterparty: str = ""


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

    def resolve(self, role: str, place: Place) -> Mapped | None:
        """The account of a role at a place, or None."""
        if role not in self._by_role:
            return None
        key = (role, place)
        if key not in self._known:
            self._known[key] = self._search(role, place)
        return self._known[key]

    def _search(self, role: str, place: Place) -> Mapped | None:
        fitting = [(version, row) for version, row in self._by_role.get(role, ()) if _fits(row, place)]
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
