"""The part of the books in memory that people change: the twin of `changes`."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from adapters.books import frames
from adapters.books.governed import COUNTERS, check_open, decision_of, proposal_of, told
from runtime.ledger.governance import second_signer, signer
from runtime.ports import ChangeState, ChangeType, Decision, MappingVersion


@dataclass
class _Change:
    """A row of CHANGES; instants in milliseconds."""

    change_no: int
    type: ChangeType
    body_json: str
    note: str
    prepared_by: str
    prepared_at: int
    state: ChangeState = "proposed"
    decided_by: str = ""
    decided_at: int | None = None
    decided_note: str = ""
    effect_no: int | None = None
    logged_at: int | None = None


class MemoryChanges:
    """Mixed into `MemoryBooks`, whose clock it reads and in whose exceptions' histories it writes."""

    _now_ms: Callable[[], int]
    _remember: Callable[[Sequence[str], str, str, str], None]

    def __init__(self) -> None:
        super().__init__()
        self._mappings: list[MappingVersion] = []
        self._changes: list[_Change] = []
        self._effect_nos: Counter = Counter()

    def mapping_versions(self) -> list[MappingVersion]:
        """See Books."""
        return list(self._mappings)

    def add_mapping(self, rows_json: str, author: str) -> int:
        """See Books."""
        return self._add_mapping(rows_json, author, "")

    def propose_change(
        self, type: ChangeType, body_json: str, by: str, note: str = "", needs_approval: bool = True
    ) -> int:
        """See Books."""
        preparer, proposal = signer(by), proposal_of(type, body_json)
        change = _Change(len(self._changes) + 1, type, body_json, note, preparer, self._now_ms())
        self._changes.append(change)
        if proposal:
            said = told(proposal, "proposed" if needs_approval else "decided")
            self._remember(proposal.exceptions, said, preparer, note)
        if not needs_approval:
            self._put_in_force(change, "")
        return change.change_no

    def approve_change(self, change_no: int, by: str) -> int:
        """See Books."""
        change = self._open(change_no)
        approver = second_signer(change_no, change.prepared_by, by)
        self._tell_histories(change, "approved", approver, "")
        return self._put_in_force(change, approver)

    def refuse_change(self, change_no: int, by: str, note: str = "") -> None:
        """See Books."""
        change, refuser = self._open(change_no), signer(by)
        change.state, change.decided_note = "refused", note
        change.decided_by, change.decided_at = refuser, self._now_ms()
        self._tell_histories(change, "refused", refuser, note)

    def changes(self, state: ChangeState | str = "") -> pl.DataFrame:
        """See Books."""
        chosen = [change for change in self._changes if state in ("", change.state)]
        return frames.frame_of([tuple(vars(change).values()) for change in chosen], frames.CHANGES)

    def unlogged_decisions(self, limit: int) -> list[Decision]:
        """See Books."""
        in_force = [c for c in self._changes if (c.type, c.state, c.logged_at) == ("decision", "approved", None)]
        decisions = [decision_of(c.effect_no, c.body_json, c.prepared_by, c.decided_by) for c in in_force]
        return sorted(decisions)[:limit]

    def mark_logged(self, numbers: Sequence[int]) -> None:
        """See Books."""
        for change in self._changes:
            if change.type == "decision" and change.effect_no in numbers and change.logged_at is None:
                change.logged_at = self._now_ms()

    def _add_mapping(self, rows_json: str, author: str, approver: str) -> int:
        self._effect_nos["mapping_version"] += 1
        version = self._effect_nos["mapping_version"]
        self._mappings.append(MappingVersion(version, rows_json, author, approver))
        return version

    def _open(self, change_no: int) -> _Change:
        known = 0 < change_no <= len(self._changes)
        check_open(change_no, self._changes[change_no - 1].state if known else None)
        return self._changes[change_no - 1]

    def _tell_histories(self, change: _Change, what: str, by: str, note: str) -> None:
        """Write into the exceptions' histories what became of a decision about them."""
        proposal = proposal_of(change.type, change.body_json)
        if proposal:
            self._remember(proposal.exceptions, told(proposal, what), by, note)

    def _put_in_force(self, change: _Change, approver: str) -> int:
        """Make a change effective by that name; the number that it became."""
        if change.type == "mapping":
            change.effect_no = self._add_mapping(change.body_json, change.prepared_by, approver)
        else:
            self._effect_nos[COUNTERS[change.type]] += 1
            change.effect_no = self._effect_nos[COUNTERS[change.type]]
        change.state, change.decided_by, change.decided_at = "approved", approver, self._now_ms()
        return change.effect_no
