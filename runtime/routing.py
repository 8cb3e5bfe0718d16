"""Which shard owns an event: a stable hash of its scope. Never depends on process, version or order of arrival."""

from collections.abc import Callable, Mapping

import polars as pl
import xxhash

ENTITY_SCOPE = "*"  # the facility of everything that belongs to an entity as a whole


def shard_of(entity: str, facility: str, shards: int) -> int:
    """The owner of (entity, facility); facility is "*" for entity-scoped kinds."""
    return xxhash.xxh64_intdigest(f"{entity}\x1f{facility}".encode()) % shards


def splitter(scopes: Mapping[str, str], shards: int) -> Callable[[pl.DataFrame], dict[int, pl.DataFrame]]:
    """A function that parts a frame by owner, row order kept. `scopes`: kind -> "facility" | "entity"."""
    entity_scoped = [kind for kind, scope in scopes.items() if scope == "entity"]

    def split(frame: pl.DataFrame) -> dict[int, pl.DataFrame]:
        facility = (
            pl.when(pl.col("kind").is_in(entity_scoped))
            .then(pl.lit(ENTITY_SCOPE))
            .otherwise(pl.col("facility").fill_null(ENTITY_SCOPE))
        )
        scoped = frame.with_columns(facility.alias("_scope"))
        owners = scoped.select("entity", "_scope").unique()
        shard = [shard_of(entity, scope, shards) for entity, scope in owners.iter_rows()]
        if len(set(shard)) == 1:
            return {shard[0]: frame}
        owned = scoped.join(
            owners.with_columns(pl.Series("_shard", shard, pl.Int32())), on=["entity", "_scope"], maintain_order="left"
        )
        parts = owned.drop("_scope").partition_by("_shard", as_dict=True, include_key=False)
        return {key[0]: part for key, part in sorted(parts.items())}

    return split
