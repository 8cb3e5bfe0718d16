"""Which entities an ERP does not serve while it serves others: where each company has a log-in and limits of its own.

Owns for how long such an entity's entries are not sent, and what the governor must hear of a call that met one. Never
says who is served: outcomes do, each time anew. As memory it may be lost: the next call tells.
"""

from collections.abc import Sequence

from runtime.flow.governor import RETRY_AFTER_MAX_S, UNAUTHORISED_PAUSE_S
from runtime.flow.outcomes import NOT_APPLIED, Call, gravest
from runtime.ports import Outcome

COMPANY_REST_S = 15.0  # of one that is throttled or away, at least: others have their turn, however many of its wait


class LockedOut:
    """Of these entities. `apart`: whether each has a log-in and limits of its own; else one that is refused is
    everybody's."""

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
        if not self._apart or told.code not in NOT_APPLIED:
            return told
        entity_of = {entry.key: entry.entity for entry in call}
        for outcome in outcomes:
            if outcome.code in NOT_APPLIED:
                self._rest(entity_of[outcome.key], now_ms + round(_rest_s(outcome) * 1000))
        if all(self._until_ms.get(entity, 0) > now_ms for entity in self._entities):
            return told
        if served := [outcome for outcome in outcomes if outcome.code not in NOT_APPLIED]:
            return gravest(served)
        if let_in := [outcome for outcome in outcomes if outcome.code != "unauthorised"]:
            return gravest(let_in)._replace(retry_after_s=0.0)  # whether it is theirs alone, the next call tells
        return told._replace(code="rejected")  # it has answered

    def _rest(self, entity: str, until_ms: int) -> None:
        self._until_ms[entity] = max(self._until_ms.get(entity, 0), until_ms)


def _rest_s(outcome: Outcome) -> float:
    if outcome.code == "unauthorised":
        return UNAUTHORISED_PAUSE_S
    return max(COMPANY_REST_S, min(outcome.retry_after_s, RETRY_AFTER_MAX_S))
