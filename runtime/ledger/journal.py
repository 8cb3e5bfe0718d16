"""Journal entries made of posting sets: canonical lines, the balance check, key and digest.

Owns what an ERP receives and how it is identified. Never decides which sets go together; that is `sealing`.
"""

import hashlib
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

import msgspec
import polars as pl

from runtime.ports import JournalEntry, JournalLine

SET = ("shard", "position", "set_no")  # what identifies a posting set
LINE = ("account_code", "side", "facility", "department", "variance", "kind")  # what identifies a line of an entry


class Draft(NamedTuple):
    """An entry that has no number yet. `committed_ms` is when its oldest set came into the books."""

    entity: str
    currency: str
    period: str
    posted_on: date
    mode: str
    lane: int
    document: str
    lines: tuple[JournalLine, ...]
    sets: tuple[tuple[int, str, int], ...]
    committed_ms: int


def line_text(kind: str, events: int) -> str:
    """What a line sums, in a form that `counted` reads back."""
    return f"{kind}, {events} events"


def counted(text: str) -> tuple[str, int]:
    """Kind and number of events from a line's text, as an ERP returns it. ValueError when it is none of ours.

    Where an ERP has no place for facility, department and variance, its adapter appends them.
    """
    kind, _, rest = text.partition(", ")
    return kind, int(rest.partition(" events")[0])


def entry_key(entity: str, entry_no: int) -> str:
    """The identity of an entry, at the ERP too."""
    return f"PS-{entity}-{entry_no:010d}"


def content_digest(entry: JournalEntry) -> str:
    """Hash of what the ERP is told to book. Key, lane and origin are not part of it, and a line without variance is
    told as before there was one."""
    lines = [told if told[-1] else told[:-1] for told in map(msgspec.structs.astuple, entry.lines)]
    told = (entry.entity, entry.currency, entry.period, entry.posted_on, entry.document, lines)
    return hashlib.blake2b(msgspec.json.encode(told), digest_size=16).hexdigest()


def numbered(draft: Draft, entry_no: int) -> JournalEntry:
    """The entry of this draft under its final key, or ValueError when it does not balance."""
    key = entry_key(draft.entity, entry_no)
    if sum(line.amount_minor if line.side == "D" else -line.amount_minor for line in draft.lines):
        raise ValueError(f"{key}: debits and credits differ; its first posting set is {draft.sets[0]}")
    content = {name: value for name, value in draft._asdict().items() if name != "committed_ms"}
    entry = JournalEntry(key=key, digest="", **content)
    return msgspec.structs.replace(entry, digest=content_digest(entry))


def build_drafts(claimed: pl.DataFrame) -> list[Draft]:
    """One draft for each value of `entry`, in that order. Takes DELTAS plus shard, position, committed_at, entry."""
    heads = (
        claimed.group_by("entry")
        .agg(
            pl.col("entity", "currency", "period").first(),
            pl.col("posted_on").max(),
            pl.col("mode").first(),
            pl.col("lane").min(),
            pl.col("document").first(),
            pl.col("committed_at").min().dt.epoch("ms"),
        )
        .sort("entry")
    )
    lines, sets = _lines(claimed), _sets(claimed)
    return [
        Draft(*head[:-1], lines=lines[entry], sets=sets[entry], committed_ms=head[-1])
        for entry, *head in heads.iter_rows()
    ]


def _lines(claimed: pl.DataFrame) -> dict[int, tuple[JournalLine, ...]]:
    # A set may have several deltas on one line (two roles, one account); its events count there once.
    of_sets = claimed.group_by("entry", *LINE, *SET).agg(pl.col("amount_minor").sum(), pl.col("events").first())
    sums = of_sets.group_by("entry", *LINE).agg(pl.col("amount_minor", "events").sum()).sort("entry", *LINE)
    return _grouped(
        (entry, JournalLine(account, side, amount, facility, department, line_text(kind, events), variance))
        for entry, account, side, facility, department, variance, kind, amount, events in sums.iter_rows()
    )


def _sets(claimed: pl.DataFrame) -> dict[int, tuple[tuple[int, str, int], ...]]:
    sets = claimed.select("entry", *SET).unique().sort("entry", *SET)
    return _grouped((entry, tuple(of)) for entry, *of in sets.iter_rows())


def _grouped(pairs: Iterator[tuple[int, object]]) -> dict[int, tuple]:
    gathered: dict[int, list] = {}
    for entry, item in pairs:
        gathered.setdefault(entry, []).append(item)
    return {entry: tuple(items) for entry, items in gathered.items()}
