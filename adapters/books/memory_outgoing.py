"""The part of the books in memory that leaves them: the twin of `outgoing`."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import polars as pl

from adapters.books import frames
from runtime.flow.frames import encode
from runtime.ports import OutboxFrame


class MemoryOutgoing:
    """Mixed into `MemoryBooks`, whose owners it asks."""

    _held: Callable[[str, int], Any]

    def __init__(self) -> None:
        super().__init__()
        self._outbox: dict[int, bytes] = {}
        self._outbox_nos = 0
        self._status_ids: set[str] = set()
        self._unnumbered: list[tuple] = []
        self._statuses: list[tuple] = []  # the first one has number 1

    def outbox(self, limit: int, after: int = 0) -> list[OutboxFrame]:
        """See Books."""
        waiting = (OutboxFrame(number, body) for number, body in self._outbox.items() if number > after)
        return list(islice(waiting, limit))

    def mark_relayed(self, numbers: Sequence[int]) -> None:
        """See Books."""
        for number in numbers:
            self._outbox.pop(number, None)

    def number_statuses(self, owner: str, epoch: int, limit: int) -> int:
        """See Books."""
        self._held(owner, epoch)
        numbered, self._unnumbered = self._unnumbered[:limit], self._unnumbered[limit:]
        self._statuses += numbered
        return len(numbered)

    def statuses(self, after: int, limit: int) -> pl.DataFrame:
        """See Books."""
        rows = [(after + i, *row) for i, row in enumerate(self._statuses[after : after + limit], 1)]
        return frames.frame_of(rows, frames.NUMBERED_STATUSES)

    def newest_status_no(self) -> int:
        """See Books."""
        return len(self._statuses)

    def _put_out(self, derived: pl.DataFrame) -> None:
        if len(derived):
            self._outbox_nos += 1
            self._outbox[self._outbox_nos] = encode(derived)

    def _tell(self, statuses: pl.DataFrame) -> None:
        """Keep statuses without a number; one that is known is nothing new."""
        for row in frames.stored_statuses(statuses).iter_rows():
            if row[0] not in self._status_ids:
                self._status_ids.add(row[0])
                self._unnumbered.append(row)
