"""The part of the books in memory that puts entries right: the twin of `corrections`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import polars as pl

from adapters.books import frames
from adapters.books.governed import check_correctable, check_settleable
from adapters.books.outcomes import exception_id
from runtime.ledger.compensation import totals_of
from runtime.ledger.governance import signer
from runtime.ports import CORRECTIONS, JournalEntry, Outcome, position_key


class MemoryCorrections:
    """Mixed into `MemoryBooks`, whose entries and sets it reads."""

    _entries: dict[str, Any]
    _sets: dict[Any, Any]
    _held: Callable[[str, int], Any]
    _remember: Callable[[Sequence[str], str, str, str], None]
    _resolve: Callable[..., None]
    _add_sets: Callable[[pl.DataFrame, int, str], None]
    _add_totals: Callable[[pl.DataFrame], None]
    _refuse_closed: Callable[[Iterable[tuple]], None]
    _tell_of: Callable[[str, Sequence[Outcome]], None]
    approve_change: Callable[[int, str], int]

    def __init__(self) -> None:
        super().__init__()
        self._corrections = 0

    def retry_rejected(self, owner: str, epoch: int, keys: Sequence[str]) -> int:
        """See Books."""
        self._held(owner, epoch)
        return len(self._released(keys, owner))

    def release_rejected(self, keys: Sequence[str], by: str) -> list[str]:
        """See Books."""
        return self._released(keys, signer(by))

    def _released(self, keys: Sequence[str], by: str) -> list[str]:
        released = sorted(key for key in keys if key in self._entries and self._entries[key].state == "rejected")
        for key in released:
            self._entries[key].state = "sealed"
        self._remember([exception_id("erp_rejected", key) for key in released], "entry released", by, "")
        return released

    def settle_entry(self, key: str, erp_ref: str, by: str) -> None:
        """See Books."""
        settler, held = signer(by), self._entries.get(key)
        check_settleable(key, held and held.state, erp_ref)
        held.state, held.erp_ref, held.detail = "posted", erp_ref.strip(), f"found by {settler}"
        self._resolve([exception_id("erp_unknown_outcome", key)], settler, f"found at the ERP as {held.erp_ref}")
        self._tell_of(held.owner, [Outcome(key, "posted", held.erp_ref)])

    def postings_of(self, entry: JournalEntry) -> pl.DataFrame:
        """See Books."""
        places = sorted((shard, position_key(position), set_no) for shard, position, set_no in entry.sets)
        sets: Iterable[Any] = [self._sets[place] for place in places]
        rows = [(*line, posting.shard, posting.position) for posting in sets for line in posting.lines]
        return frames.frame_of(rows, frames.PLACED)

    def correct_entry(self, key: str, deltas: pl.DataFrame, by: str, change_no: int = 0) -> None:
        """See Books."""
        corrector, held = signer(by), self._entries.get(key)
        documents = {posting.get("document") for place, posting in self._sets.items() if place[0] == CORRECTIONS}
        check_correctable(key, held and held.state, documents, deltas)
        self._refuse_closed(deltas.select("entity", "period").iter_rows())
        if change_no:
            self.approve_change(change_no, by)
        self._corrections += 1
        self._add_sets(deltas, CORRECTIONS, f"{self._corrections}-0")
        if held.state == "posted":
            self._add_totals(totals_of(deltas))
        else:
            held.state, held.detail = "replaced", "replaced by new postings"
        self._resolve([exception_id("erp_rejected", key)], corrector, "replaced by new postings")
