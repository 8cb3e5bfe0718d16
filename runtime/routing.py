"""Which shard owns an event: a stable hash of its scope. Never depends on process, version or order of arrival."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from runtime.schema import to_arrow
from runtime.words import SINGLY_ROWS_MAX, Words, pairs_of, words_of

ENTITY_SCOPE = "*"  # the facility of everything that belongs to an entity as a whole
_SCOPES_REMEMBERED = 2**16


@lru_cache(_SCOPES_REMEMBERED)
def shard_of(entity: str, facility: str, shards: int) -> int:
    """The owner of (entity, facility); facility is "*" for entity-scoped kinds."""
    return xxhash.xxh64_intdigest(f"{entity}\x1f{facility}".encode()) % shards


def splitter(scopes: Mapping[str, str], shards: int) -> "Splitter":
    """Parts events by owner. `scopes`: kind -> "facility" | "entity"."""
    return Splitter(scopes, shards)


class Splitter:
    """Called with a frame it parts that by owner, row order kept; `owners` tells the owner of each event."""

    def __init__(self, scopes: Mapping[str, str], shards: int) -> None:
        self._entity_scoped = frozenset(kind for kind, scope in scopes.items() if scope == "entity")
        self._shards = shards

    def __call__(self, frame: pl.DataFrame) -> dict[int, pl.DataFrame]:
        if frame.is_empty():
            return {}
        owners = self.owners(to_arrow(frame.select("kind", "entity", "facility")))
        shards = np.unique(owners).tolist()
        if len(shards) == 1:
            return {shards[0]: frame}
        return {shard: frame[np.flatnonzero(owners == shard)] for shard in shards}

    def owners(self, events: pa.RecordBatch) -> np.ndarray:
        """Each event's shard. Needs the columns kind, entity and facility, the first two without nulls."""
        kind, entity, facility = (events.column(name) for name in ("kind", "entity", "facility"))
        if events.num_rows <= SINGLY_ROWS_MAX:
            rows = zip(kind.to_pylist(), entity.to_pylist(), facility.to_pylist(), strict=True)
            return np.array([self.owner(*row) for row in rows], np.intp)
        kinds, facilities = words_of(kind), words_of(facility)
        scopes = Words(
            [ENTITY_SCOPE if name is None else name for name in facilities.words] + [ENTITY_SCOPE],
            np.where(kinds.are(self._entity_scoped), len(facilities.words), facilities.codes),
        )
        return pairs_of(words_of(entity), scopes).map(lambda scope: shard_of(*scope, self._shards), np.intp)

    def owner(self, kind: str, entity: str, facility: str | None) -> int:
        """The shard of one event."""
        scope = ENTITY_SCOPE if facility is None or kind in self._entity_scoped else facility
        return shard_of(entity, scope, self._shards)
