"""The life of a change, the same in every implementation of the books.

Owns the words that exceptions' histories keep of decisions, and what may not be done to a change any more. Stores
nothing.
"""

import msgspec

from runtime.errors import GovernanceError
from runtime.ledger.governance import Proposal
from runtime.ports import ChangeType, Decision

COUNTERS: dict[ChangeType, str] = {"mapping": "mapping_version", "decision": "decision"}  # of what changes become


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


def check_releasable(key: str, state: str | None) -> None:
    """GovernanceError unless the journal entry waits for somebody to release it."""
    if state not in ("rejected", "parked"):
        raise GovernanceError(f"entry {key}: is {state or 'unknown'}; only a rejected or parked one can be released")


def check_replaceable(key: str, state: str | None) -> None:
    """GovernanceError unless the ERP has rejected the journal entry, so that it is surely not there."""
    if state != "rejected":
        raise GovernanceError(f"entry {key}: is {state or 'unknown'}; only a rejected one can be replaced")
