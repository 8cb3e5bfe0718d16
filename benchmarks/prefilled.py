"""An engine that has worked for long: so many remembered ids, accounts with a balance, open items.

Owns getting it there by steps alone, as a log would, but without validation: rows come stamped, with ids drawn at
random. Never measures.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from benchmarks import prepared, workload
from benchmarks.flows import account_names
from runtime.config import Config
from runtime.flow import frames
from runtime.ports import LogRecord
from runtime.schema import to_arrow
from runtime.shard import ShardEngine

STEP_ROWS = 262_144
TEMPLATE_EVENTS = 20_000


def engine(config: Config, ids: int, accounts: int, open_items: int, seed: int = 7) -> ShardEngine:
    """An engine with this much in it. `ids` holds those of the open items, too."""
    made, random = prepared.engine(config), np.random.default_rng(seed)
    for rows in _parts(open_items):
        made.step([_record(_authorisations(config, random, rows))])
    spread = _Accounts(accounts)
    for rows in _parts(max(ids - open_items, 0)):
        made.step([_record(_charges(config, random, spread.take(rows)))])
    return made


class _Accounts:
    """Gives every account in turn, so that all have come when there were as many events."""

    def __init__(self, count: int) -> None:
        self._count, self._next = count, 0

    def take(self, rows: int) -> np.ndarray:
        taken = (self._next + np.arange(rows)) % self._count
        self._next += rows
        return taken


def _parts(rows: int) -> Iterator[int]:
    for start in range(0, rows, STEP_ROWS):
        yield min(STEP_ROWS, rows - start)


def _record(rows: pl.DataFrame) -> LogRecord:
    return LogRecord("0-2", "events", len(rows), frames.encode_arrow(to_arrow(rows)))


def _template(config: Config, kind: str) -> pl.DataFrame:
    """One stamped row of this kind."""
    rows = workload.month_end(TEMPLATE_EVENTS).rows
    return prepared.stamped(rows.filter(pl.col("kind") == kind).head(1), config)


def _charges(config: Config, random: np.random.Generator, accounts: np.ndarray) -> pl.DataFrame:
    names = account_names(pl.Series("account", accounts))
    return _many(config, "charge_posted", random, len(accounts)).with_columns(names)


def _authorisations(config: Config, random: np.random.Generator, rows: int) -> pl.DataFrame:
    many = _many(config, "card_authorised", random, rows)
    return many.with_columns(pl.format("old-{}", pl.col("id_hash")).alias("document"))


def _many(config: Config, kind: str, random: np.random.Generator, rows: int) -> pl.DataFrame:
    drawn = {name: pl.Series(name, random.integers(0, 2**64, rows, np.uint64)) for name in ("id_hash", "digest")}
    repeated = _template(config, kind).select(pl.all().repeat_by(rows).explode())
    return repeated.with_columns(**drawn).with_columns(pl.format("old-{}", "id_hash").alias("event_id"))
