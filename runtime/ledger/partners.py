"""Partners and places that must be known before an event is taken: payers, payees, suppliers; facilities,
departments, service lines.

Owns asking the crosswalk for them. An entity whose crosswalk lists no partner of a role does not check that role. Never
holds an event: it says which exception a stranger's event comes to.
"""

from datetime import date

import msgspec
import polars as pl

from runtime.ledger.amounts import attributes_of
from runtime.ledger.crosswalk import ANY, Crosswalk, Place
from runtime.ledger.rules import KNOWN, Role, Rulebook

_COLUMNS = ("kind", "entity", "facility", "department", "effective_on", "counterparty", "attributes")


class Partners:
    """Asks for the partners that events name. `asking`: kinds that are checked at all just now."""

    def __init__(self, rulebook: Rulebook, crosswalk: Crosswalk) -> None:
        known = {name: role for name, role in rulebook.role.items() if role.by == KNOWN}
        self._roles = {
            kind: {name: known[name] for name in rule.maps if name in known} for kind, rule in rulebook.kind.items()
        }
        self.faults = [role.missing for role in known.values()]
        self._crosswalk = crosswalk
        self.mapping_changed()

    def mapping_changed(self) -> None:
        """Called after the crosswalk took a version."""
        self._listed = {(row.role, row.entity) for _, row in self._crosswalk.dump()}
        listed = {role for role, _ in self._listed}
        self.asking = [kind for kind, roles in self._roles.items() if not listed.isdisjoint(roles)]

    def strangers(self, rows: pl.DataFrame) -> list[str]:
        """The exception of each row (canonical columns, kinds that are `asking`); "" where its partners are known."""
        answers: dict[tuple, str] = {}  # rows of one place ask the same
        asked = rows.select(_COLUMNS).rows()
        for row in asked:
            if row not in answers:
                kind, *place, given = row
                answers[row] = self._stranger(kind, _place(*place), given)
        return [answers[row] for row in asked]

    def _stranger(self, kind: str, place: Place, attributes: str | None) -> str:
        roles = self._roles[kind].items()
        return next((role.missing for name, role in roles if not self._is_known(name, role, place, attributes)), "")

    def _is_known(self, name: str, role: Role, place: Place, attributes: str | None) -> bool:
        if self._listed.isdisjoint([(name, place.entity), (name, ANY)]):
            return True
        if role.named_by:
            partner = attributes_of(attributes).get(role.named_by)
            place = msgspec.structs.replace(place, counterparty=partner if isinstance(partner, str) else "")
        return self._crosswalk.resolve(name, place) is not None


def _place(entity: str, facility: str | None, department: str | None, on: date, counterparty: str | None) -> Place:
    return Place(entity, facility or "", department or "", on, counterparty or "")
