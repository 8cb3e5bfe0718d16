"""A commit's postings as rows of the books' tables.

Owns their form. Stores nothing.
"""

import polars as pl

from adapters.books import frames, tables

ADD_TO_TOTALS = (
    f"({', '.join(column.name for column in tables.totals.primary_key)}) DO UPDATE SET "
    "events = totals.events + excluded.events, amount_minor = totals.amount_minor + excluded.amount_minor"
)


def posting_frames(deltas: pl.DataFrame, place: dict[str, int], now_ms: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of posting_sets and posting_lines. A set whose lines contradict it comes twice, which no table takes."""
    filled = frames.without_gaps(deltas)
    key = [pl.lit(value).alias(name) for name, value in place.items()]
    stamps = [*key, pl.col("posted_on").cast(pl.String()), pl.lit(now_ms).alias("committed_at_ms")]
    sets = filled.select(frames.SET_COLUMNS).unique(maintain_order=True).with_columns(stamps)
    return sets.collect(), filled.select(*frames.LINE_COLUMNS, *key).collect()
