"""What consumers outside are told of a delivery, the same in every implementation of the books.

Owns which outcomes are told and how such a status is made. Stores nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl
import xxhash

from adapters.books.frames import frame_of
from runtime.effects import STATUSES
from runtime.limits import TEXT_CHARS_MAX
from runtime.ports import Outcome

_TOLD = ("posted", "rejected")


class ToldSet(NamedTuple):
    """A posting set of an immediate entry, as a status speaks of it. `amount_minor` is the sum of its debits."""

    shard: int
    position: str
    set_no: int
    kind: str
    entity: str
    document: str
    currency: str
    amount_minor: int


def told_outcomes(outcomes: Sequence[Outcome], told_kinds: Mapping[str, str]) -> list[Outcome]:
    """Those that somebody outside may hear of."""
    return [outcome for outcome in outcomes if outcome.code in _TOLD] if told_kinds else []


def statuses_of(
    owner: str,
    outcomes: Sequence[Outcome],
    sets: Mapping[str, Sequence[ToldSet]],
    told_kinds: Mapping[str, str],
    at_ms: int,
) -> pl.DataFrame:
    """The statuses (columns STATUSES) of these outcomes, one a document of an entry, with the sum of its sets' debits.
    Only told kinds have any; of several in one document, the first set's kind is named."""
    rows = [
        _status(owner, outcome, one, told_kinds[one.kind], at_ms)
        for outcome in told_outcomes(outcomes, told_kinds)
        for one in _documents(one for one in sets.get(outcome.key, ()) if one.kind in told_kinds and one.document)
    ]
    return frame_of(rows, STATUSES)


def _documents(sets: Iterable[ToldSet]) -> list[ToldSet]:
    """Sets of one document as one."""
    first: dict[str, ToldSet] = {}
    for one in sorted(sets):
        known = first.setdefault(one.document, one._replace(amount_minor=0))
        first[one.document] = known._replace(amount_minor=known.amount_minor + one.amount_minor)
    return list(first.values())


def _status(owner: str, outcome: Outcome, one: ToldSet, flow: str, at_ms: int) -> tuple:
    cause = f"{outcome.code}\x1f{one.shard}\x1f{one.position}\x1f{one.set_no}"
    what = (xxhash.xxh64_hexdigest(cause.encode()), flow, outcome.code, one.kind, one.entity, one.document)
    detail = (outcome.detail or outcome.erp_ref)[:TEXT_CHARS_MAX]
    return (*what, "", one.amount_minor, one.currency, owner, "", detail, at_ms)
