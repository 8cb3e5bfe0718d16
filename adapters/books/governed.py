"""The life of a change, the same in every implementation of the books.

Owns the words that exceptions' histories keep of decisions, and what may not be done to a change any more. Stores
nothing.
"""

from collections.abc import Collection

import msgspec
import polars as pl

from runtime.errors import GovernanceError
from runtime.ledger.governance import Proposal
from runtime.ports import ChangeType, Decision

COUNTERS: dict[ChangeType, str] = {  # of what changes become
    "mapping": "mapping_version",
    "decision": "decision",
    "reversal": "reversal",
}


def proposal_of(type: str, body_json: str) -> Proposal | None:
    """The decision that a change asks for, None for another change."""
    return msgspec.json.decode(body_json, type=Proposal) if type == "decision" else None


def told(proposal: Proposal, what: str) -> str:
    """What a history says of a decision: "release proposed"."""
    return f"{proposal.action} {what}"


def decision_of(effect_no: int, body_json: str, prepared_by: str, decided_by: str) -> Decision:
    """A change in force as it goes through the log."""
    proposal = msgspec.json.decode(body_json, type=Proposal)
    return Decision(effect_no, proposal.action, proposal.exceptions, prepared_by, decided_by)


def check_open(change_no: int, state: str | None) -> None:
    """GovernanceError unless the change waits to be decided."""
    if state is None:
        raise GovernanceError(f"change {change_no}: there is none of this number")
    if state != "proposed":
        raise GovernanceError(f"change {change_no}: is {state} already")


def check_releasable(key: str, state: str | None, not_there: bool = False) -> None:
    """GovernanceError unless the journal entry waits for somebody to release it; one in doubt, to say that the ERP does
    not hold it."""
    if state == "unknown" and not not_there:
        raise GovernanceError(f"entry {key}: is in doubt and looked up; who has seen that it is not there must say so")
    if state not in ("rejected", "parked", "unknown"):
        raise GovernanceError(f"entry {key}: is {state or 'not known'}; only a rejected or parked one can be released")


def check_settleable(key: str, state: str | None, erp_ref: str) -> None:
    """GovernanceError unless nobody knows what became of the journal entry, and its number at the ERP is named."""
    if state not in ("parked", "unknown"):
        raise GovernanceError(f"entry {key}: is {state or 'not known'}; only one in doubt or parked can be settled")
    if not erp_ref.strip():
        raise GovernanceError(f"entry {key}: name the number that the ERP has given it")


def check_replaceable(key: str, state: str | None) -> None:
    """GovernanceError unless the ERP has rejected the journal entry, so that it is surely not there."""
    if state != "rejected":
        raise GovernanceError(f"entry {key}: is {state or 'unknown'}; only a rejected one can be replaced")


def check_correctable(key: str, state: str | None, corrected: Collection[str], deltas: pl.DataFrame) -> None:
    """GovernanceError unless the journal entry is posted or rejected, and was not corrected before (`corrected`: the
    documents of all corrections)."""
    if state not in ("posted", "rejected"):
        raise GovernanceError(f"entry {key}: is {state or 'unknown'}; only a posted or rejected one can be corrected")
    if not set(deltas["document"]).isdisjoint(corrected):
        raise GovernanceError(f"entry {key}: was corrected before; correct what stands instead of it")
