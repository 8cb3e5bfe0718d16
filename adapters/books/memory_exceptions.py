"""The part of the books in memory that exceptions are: the twin of `exceptions`."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from adapters.books import frames
from runtime.effects import EXCEPTIONS

_AT = {name: i for i, name in enumerate(EXCEPTIONS)}


@dataclass
class HeldException:
    """One exception and its end."""

    row: tuple  # EXCEPTIONS, raised_at as milliseconds
    resolved_at_ms: int | None = None

    def get(self, column: str) -> Any:
        """A column of EXCEPTIONS, or its state."""
        return self.state if column == "state" else self.row[_AT[column]]

    @property
    def state(self) -> str:
        return "open" if self.resolved_at_ms is None else "resolved"


class MemoryExceptions:
    """Mixed into `MemoryBooks`, whose clock it reads."""

    _now_ms: Callable[[], int]

    def __init__(self) -> None:
        super().__init__()
        self._exceptions: dict[str, HeldException] = {}
        self._history: list[tuple] = []  # HISTORY

    def raise_exceptions(self, exceptions: pl.DataFrame) -> None:
        """See Books."""
        self._raise(exceptions, "")

    def resolve_exceptions(self, ids: Sequence[str], by: str = "", note: str = "") -> None:
        """See Books."""
        self._resolve(ids, by, note)

    def note_exceptions(self, ids: Sequence[str], by: str, note: str) -> None:
        """See Books."""
        self._remember(ids, "noted", by, note)

    def exceptions(
        self,
        state: str = "open",
        types: Sequence[str] = (),
        limit: int = 1000,
        *,
        entities: Sequence[str] = (),
        ids: Sequence[str] = (),
        raised_before_ms: int | None = None,
    ) -> pl.DataFrame:
        """See Books."""
        wanted = {"state": [state] if state else [], "type": types, "entity": entities, "exception_id": ids}
        chosen = [
            known
            for known in self._exceptions.values()
            if all(known.get(name) in values for name, values in wanted.items() if values)
            and (raised_before_ms is None or known.get("raised_at") < raised_before_ms)
        ]
        chosen.sort(key=lambda known: (known.get("raised_at"), known.get("exception_id")))
        rows = [(*known.row, known.state, known.resolved_at_ms) for known in chosen[:limit]]
        return frames.frame_of(rows, frames.EXCEPTION_STATES)

    def exception_counts(self) -> dict[str, int]:
        """See Books."""
        return dict(Counter(known.get("type") for known in self._exceptions.values() if known.state == "open"))

    def exception_history(self, exception_id: str) -> pl.DataFrame:
        """See Books."""
        return frames.frame_of([row for row in self._history if row[0] == exception_id], frames.HISTORY)

    def exception_ages(self, edges_ms: Sequence[int]) -> pl.DataFrame:
        """See Books."""
        sums: dict[tuple, Counter] = {}
        for known in self._exceptions.values():
            if known.state == "open":
                bucket = sum(known.get("raised_at") <= edge for edge in edges_ms)
                counted = sums.setdefault((known.get("type"), known.get("currency") or "", bucket), Counter())
                counted.update(exceptions=1, amount_minor=known.get("amount_minor") or 0)
        rows = [(*key, counted["exceptions"], counted["amount_minor"]) for key, counted in sorted(sums.items())]
        return frames.frame_of(rows, frames.AGES)

    def _raise(self, raised: pl.DataFrame, by: str) -> None:
        """Insert what is new, open again what had ended; what is open keeps its age."""
        for row in raised.with_columns(pl.col("raised_at").cast(pl.Int64())).iter_rows():
            id, known = row[0], self._exceptions.get(row[0])
            is_open = known is not None and known.state == "open"
            if is_open:
                row = (*row[: _AT["raised_at"]], known.get("raised_at"))
            if not is_open or row != known.row:
                self._exceptions[id] = HeldException(row)
                self._remember([id], "changed" if is_open else "raised", by, row[_AT["detail"]] or "")

    def _resolve(self, ids: Sequence[str], by: str, note: str = "") -> None:
        for id in ids:
            known = self._exceptions.get(id)
            if known is not None and known.resolved_at_ms is None:
                known.resolved_at_ms = self._now_ms()
                self._remember([id], "resolved", by, note)

    def _remember(self, ids: Sequence[str], change: str, by: str, note: str) -> None:
        """Write that something happened to those that are known."""
        at_ms = self._now_ms()
        self._history += [(id, change, by, at_ms, note) for id in ids if id in self._exceptions]
