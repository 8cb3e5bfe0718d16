"""Rows of accepted transaction sets, until they leave as frames.

Owns the row's form. Never decides what is accepted.
"""

import polars as pl

from adapters.sources.source import canonical
from runtime.schema import COLUMNS, SCHEMA_VERSION, UTC_MS

# A row is a plain tuple in this order: millions are made, and turned into columns while they are fresh in the caches.
Row = tuple[str, str, str | None, str | None, str | None, str | None, int, str | None, str | None, int, int]
_ROW = {
    "kind": pl.String(),
    "place": pl.String(),
    "document": pl.String(),
    "reference": pl.String(),
    "counterparty": pl.String(),
    "reason": pl.String(),
    "amount_minor": pl.Int64(),
    "correlation_id": pl.String(),
    "attributes": pl.String(),
    "occurred_ms": pl.Int64(),
    "effective_on": pl.Int32(),
}
_OF_SET = dict.fromkeys(("identity", "group", "source", "currency", "entity", "facility"), pl.String())


class Accepted:
    """What waits to leave."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list] = {name: [] for name in _ROW | _OF_SET}

    def __len__(self) -> int:
        return len(self._columns["kind"])

    def take(
        self, rows: list[Row], names: tuple[str, str | None], source: str, currency: str, place: tuple[str, str]
    ) -> None:
        """Add a set's rows. `names`: its identity, with which the events' ids start, and its group, which they answer
        where they name nothing themselves. `place`: their entity and facility."""
        if not rows:
            return
        for name, values in zip(_ROW, zip(*rows, strict=True), strict=True):
            self._columns[name] += values
        entity, facility = place
        of_set = (*names, source, currency, entity, facility or None)
        for name, value in zip(_OF_SET, of_set, strict=True):
            self._columns[name] += [value] * len(rows)

    def frame(self) -> pl.DataFrame:
        """All rows as canonical events; none are left behind."""
        frame = pl.DataFrame(self._columns, schema=_ROW | _OF_SET)
        self._clear()
        return canonical(
            frame,
            **{name: pl.col(name) for name in frame.columns if name in COLUMNS and name != "reference"},
            reference=pl.coalesce("reference", "group"),
            event_id=pl.concat_str("identity", "place", separator=":"),
            occurred_at=pl.col("occurred_ms").cast(UTC_MS),
            schema_version=pl.lit(SCHEMA_VERSION),
        )
