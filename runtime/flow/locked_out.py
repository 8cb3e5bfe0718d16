"""Which entities an ERP does not let in while it lets others in: where each company has a log-in of its own.

Owns for how long such an entity's entries are not sent, and what the governor must hear of a call that met one. Never
says who may log in: outcomes do, each time anew. As memory it may be lost: the next call tells.
"""

from collections.abc import Sequence

from runtime.flow.governor import UNAUTHORISED_PAUSE_S
from runtime.flow.outcomes import Call, gravest
from runtime.ports import Outcome


class LockedOut:
    """Of these entities. `apart`: whether each has a log-in of its own; else one that is refused is everybody's."""

    def __init__(self, entities: Sequence[str], apart: bool) -> None:
        self._entities, self._apart = tuple(entities), apart
        self._until_ms: dict[str, int] = {}

    def admitted(self, now_ms: int) -> tuple[str, ...]:
        """Whose entries may be sent. While all are locked out, the governor's pause holds for every one."""
        admitted = tuple(entity for entity in self._entities if self._until_ms.get(entity, 0) <= now_ms)
        return admitted or self._entities

    def heard(self, call: Call, outcomes: Sequence[Outcome], now_ms: int) -> Outcome:
        """What the outcomes of a call say of the ERP as a whole."""
        told = gravest(outcomes)
        if not self._apart or told.code != "unauthorised":
            return told
        entity_of = {entry.key: entry.entity for entry in call}
        locked = {entity_of[outcome.key] for outcome in outcomes if outcome.code == "unauthorised"}
        self._until_ms |= dict.fromkeys(locked, now_ms + round(UNAUTHORISED_PAUSE_S * 1000))
        if all(self._until_ms.get(entity, 0) > now_ms for entity in self._entities):
            return told
        others = [outcome for outcome in outcomes if outcome.code != "unauthorised"]
        return gravest(others) if others else told._replace(code="rejected")  # it has answered
