"""How an entry that was wrong is put right: by a reversal and new postings, never by an edit.

Owns the plan: on which day, under which accounts. Stores and sends nothing. Where an ERP never took the old entry there
is nothing to reverse; where nobody knows whether it did, nothing may be planned.
"""

from datetime import date

import polars as pl

from runtime.effects import DELTAS, TOTALS
from runtime.ledger.crosswalk import Mapped
from runtime.ledger.journal import Draft
from runtime.ledger.remapping import PostedTo, Remapping
from runtime.ports import CORRECTED_KINDS, JournalEntry

SOURCE = "penstock"  # of corrections in the control totals: no event stands behind them
_REVERSED, _RESTATED = CORRECTED_KINDS
_INSTEAD_OF = "instead of "
_OTHER_SIDE = {"D": "C", "C": "D"}
_HEAD = ("set_no", "entity", "currency", "period", "posted_on", "mode", "lane", "kind", "document", "events")
_PLACE = [name for name in DELTAS if name not in (*_HEAD, "line_no", "amount_minor")]


def redated(entry: JournalEntry, opens_on: date) -> Draft:
    """A rejected entry with the same lines and posting sets, dated into an open period. ValueError when it lies there
    already."""
    if opens_on <= entry.posted_on:
        raise ValueError(f"{entry.key}: nothing was mended; it would be the same entry again")
    kept = {name: getattr(entry, name) for name in ("entity", "currency", "mode", "lane", "document", "lines", "sets")}
    return Draft(period=f"{opens_on:%Y-%m}", posted_on=opens_on, committed_ms=0, **kept)


def remapped(postings: pl.DataFrame, remapping: Remapping) -> pl.DataFrame:
    """Lines of posting sets (columns DELTAS) under the mapping of now. Raises Ambiguous."""
    asked = ["role", "entity", "facility", "department", "posted_on", "account_code", "mapping_version"]
    places = postings.select(asked).unique(maintain_order=True)
    answers = [remapping.now(PostedTo(*place, Mapped(account, version))) for *place, account, version in places.rows()]
    found = places.with_columns(
        pl.Series("account_now", [answer.account for answer in answers], pl.String()),
        pl.Series("version_now", [answer.version for answer in answers], pl.Int32()),
    )
    joined = postings.join(found, on=asked, how="left", maintain_order="left")
    return joined.with_columns(
        pl.col("account_now").alias("account_code"), pl.col("version_now").alias("mapping_version")
    ).select(postings.columns)


def reversal(entry: JournalEntry, postings: pl.DataFrame, on: date) -> pl.DataFrame:
    """The posting set that undoes an entry, made of those that it holds: columns DELTAS."""
    swapped = postings.with_columns(pl.col("side").replace_strict(_OTHER_SIDE))
    return _one_set(entry, swapped, on, set_no=0, kind=_REVERSED, document=f"reversal of {entry.key}")


def restatement(entry: JournalEntry, postings: pl.DataFrame, on: date) -> pl.DataFrame:
    """The posting set that stands in the place of an entry, made of postings that were remapped: columns DELTAS."""
    return _one_set(entry, postings, on, set_no=1, kind=_RESTATED, document=f"{_INSTEAD_OF}{entry.key}")


def replaced_by(document: str) -> str:
    """The key of the entry in whose place an entry of this document stands, "" for any other document."""
    return document.removeprefix(_INSTEAD_OF) if document.startswith(_INSTEAD_OF) else ""


def totals_of(deltas: pl.DataFrame) -> pl.DataFrame:
    """Control totals (columns TOTALS) of correcting sets: each is accepted and booked at once."""
    sums = (
        deltas.filter(pl.col("side") == "D")
        .group_by("entity", "currency", "kind", maintain_order=True)
        .agg(pl.col("set_no").n_unique().cast(pl.Int64()).alias("events"), pl.col("amount_minor").sum())
        .with_columns(pl.lit(SOURCE).alias("source"), pl.lit("").alias("facility"))
    )
    states = [sums.with_columns(pl.lit(state).alias("state")) for state in ("accepted", "booked")]
    return pl.concat(states).select(*TOTALS)


def _one_set(
    entry: JournalEntry, postings: pl.DataFrame, on: date, *, set_no: int, kind: str, document: str
) -> pl.DataFrame:
    """All postings as one immediate set of that day, so that it becomes an entry by itself."""
    posted_on = max(on, entry.posted_on)
    events = postings.select("position", "set_no", "shard", "events").unique()["events"].sum()
    period, place = f"{posted_on:%Y-%m}", (set_no, entry.entity, entry.currency)
    told = (*place, period, posted_on, "immediate", entry.lane, kind, document, events)
    head = dict(zip(_HEAD, told, strict=True))
    lines = postings.group_by(_PLACE).agg(pl.col("amount_minor").sum()).sort(_PLACE)
    numbered = lines.with_row_index("line_no").with_columns(pl.lit(value).alias(name) for name, value in head.items())
    return numbered.select(pl.col(name).cast(dtype) for name, dtype in DELTAS.items())


def is_restated(before: pl.DataFrame, after: pl.DataFrame) -> bool:
    """Whether remapping changed an account."""
    return not before["account_code"].equals(after["account_code"])
