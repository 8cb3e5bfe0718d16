"""Which posting sets become one journal entry, and when.

Owns the grouping, the packing up to the line limit, and the patience of summary postings. A poster that has no room
for summaries does not seal them, so that more sets fold into the next entry: backpressure becomes aggregation.
Never splits a posting set, and never merges immediate sets of different documents.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from runtime.ledger.journal import LINE, SET, Draft, build_drafts

CLOCKS_APART_S = 60.0  # how far machines' clocks may differ; a set from later than that comes of a clock that was set
_FIRST_LINE, _LAST_LINE = pl.col("lines").list.first(), pl.col("lines").list.last()
_GROUP = ("mode", "entity", "currency", "period", "document")  # only sets that agree in these share an entry


class Gathering(NamedTuple):
    """How long summary postings of a kind gather: for `age_s`, or until the next whole interval of `every_s`."""

    age_s: float = 0.0
    every_s: float = 0.0


class SealPolicy(NamedTuple):
    """How large an entry may become, and how long summary postings gather: `seal_age_s`, unless their kind is named.

    What belongs to a (entity, period) that is `closing` gathers no longer.
    """

    entry_lines_max: int
    seal_age_s: float
    kinds: Mapping[str, Gathering] = {}
    closing: frozenset[tuple[str, str]] = frozenset()


class Room(NamedTuple):
    """How much more the next call takes. An `empty` call takes one entry of any size."""

    entries: int
    lines: int
    empty: bool = True


class _Packed(NamedTuple):
    """The entry of each set in turn, and how many lines each entry has."""

    entry_of: list[int]
    lines_of: list[int]


def whole_commits(unclaimed: pl.DataFrame, sets_max: int) -> pl.DataFrame:
    """What `Books.unclaimed(..., sets_max)` gave, without the immediate sets of a commit that the limit cut in two.

    A document's sets lie in one commit and belong into one entry. A single commit larger than the limit stays, cut.
    """
    if unclaimed.select(SET).unique().height < sets_max:
        return unclaimed
    commit = ("lane", "shard", "position")
    last = pl.struct(commit) == pl.struct(commit).last()
    whole = unclaimed.filter(~last | (pl.col("mode") != "immediate"))
    return unclaimed if whole.is_empty() else whole


def plan_entries(
    unclaimed: pl.DataFrame, now_ms: int, policy: SealPolicy, entries_max: int, crowded: bool = False
) -> list[Draft]:
    """Up to entries_max drafts for sets that are ripe now, most urgent first: by lane, then by age.

    `crowded`: more sets wait than were looked at, so nothing here gathers any longer.
    """
    if unclaimed.is_empty():
        return []
    if crowded:
        policy = policy._replace(seal_age_s=0.0, kinds={})
    sets = _sets(unclaimed)
    packed = _pack(sets.select("group", "lines").iter_rows(), policy.entry_lines_max)
    sets = sets.with_columns(pl.Series("entry", packed.entry_of, pl.Int64()))
    ripe = sets.filter(_ripe(packed.lines_of, now_ms, policy))
    places = ripe.join(_first_entries(ripe, entries_max), on="entry").select("place", *SET)
    return build_drafts(unclaimed.join(places.rename({"place": "entry"}), on=list(SET)))


def within(drafts: Sequence[Draft], room: Room) -> list[Draft]:
    """Drafts worth sealing now: immediate ones, which never fold, and summaries while the next call has room for them.

    A summary that has to wait stays unclaimed, and takes in what comes meanwhile.
    """
    taken, entries, lines = [], 0, 0
    for draft in drafts:
        entries, lines = entries + 1, lines + len(draft.lines)
        fits = entries <= room.entries and lines <= room.lines
        if draft.mode == "immediate" or fits or (room.empty and entries == 1):
            taken.append(draft)
    return taken


def next_due_ms(unclaimed: pl.DataFrame, policy: SealPolicy) -> int:
    """When the first of these sets has gathered long enough."""
    committed = unclaimed.with_columns(pl.col("committed_at").dt.epoch("ms"))
    return int(committed.select(_due(policy).min()).item())


def _sets(unclaimed: pl.DataFrame) -> pl.DataFrame:
    """One row a set: its group, its distinct lines as numbers, its age; groups together, and in them sets that have
    the same lines, so that an entry takes as many sets as it can."""
    coded = unclaimed.sort(*_GROUP, *LINE).with_columns(
        pl.struct(*_GROUP).rle_id().alias("group"), pl.struct(*_GROUP, *LINE).rle_id().alias("lines")
    )
    return (
        coded.group_by("group", *SET)
        .agg(
            pl.col("mode", "entity", "period", "kind").first(),
            pl.col("lane").min(),
            pl.col("lines").unique().sort(),
            pl.col("committed_at").min().dt.epoch("ms"),
        )
        .sort("group", _FIRST_LINE, _LAST_LINE, "committed_at", *SET)
    )


def _first_entries(ripe: pl.DataFrame, entries_max: int) -> pl.DataFrame:
    """The `place` of the most urgent entries. Where lane and age agree, the order of the groups decides."""
    entries = ripe.group_by("entry").agg(pl.col("lane", "committed_at").min())
    return entries.sort("lane", "committed_at", "entry").head(entries_max).select("entry").with_row_index("place")


def _pack(sets: Iterable[tuple[int, Sequence[int]]], lines_max: int) -> _Packed:
    """Fill entries with whole sets in turn; one that alone is too large is an entry by itself."""
    packed, group_now, held = _Packed([], []), None, set()
    for group, lines in sets:
        grown = held.union(lines)
        if group != group_now or len(grown) > lines_max:
            group_now, grown = group, set(lines)
            packed.lines_of.append(0)
        held = grown
        packed.entry_of.append(len(packed.lines_of) - 1)
        packed.lines_of[-1] = len(held)
    return packed


def _ripe(lines_of: Sequence[int], now_ms: int, policy: SealPolicy) -> pl.Expr:
    """Immediate sets, groups of which a set has waited long enough or must, and entries that can take no more."""
    clock_was_set = pl.col("committed_at") > now_ms + round(CLOCKS_APART_S * 1000)  # so its age is not known
    aged = ((_due(policy) <= now_ms) | clock_was_set).any().over("group")
    followed = pl.col("entry") < pl.col("entry").max().over("group")
    full = [entry for entry, lines in enumerate(lines_of) if lines >= policy.entry_lines_max]
    return (pl.col("mode") == "immediate") | aged | followed | pl.col("entry").is_in(full)


def _due(policy: SealPolicy) -> pl.Expr:
    """Until when (in milliseconds) a set may gather."""
    committed_ms = pl.col("committed_at")
    due = committed_ms + round(policy.seal_age_s * 1000)
    for kind, gathering in policy.kinds.items():
        of_kind = committed_ms + round(gathering.age_s * 1000)
        if every_ms := round(gathering.every_s * 1000):
            of_kind = (committed_ms // every_ms + 1) * every_ms
        due = pl.when(pl.col("kind") == kind).then(of_kind).otherwise(due)
    for entity, period in sorted(policy.closing):
        closing = (pl.col("entity") == entity) & (pl.col("period") == period)
        due = pl.when(closing).then(committed_ms).otherwise(due)
    return due
