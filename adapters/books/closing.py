"""When the books refuse a period close, the same in every implementation of the books.

Owns those checks and their sentences. Stores nothing.
"""

from collections.abc import Iterable
from datetime import date

from runtime.errors import GovernanceError
from runtime.ports import PeriodClose, PeriodLeft


def check_ordered(known: PeriodClose | None, entity: str, period: str) -> None:
    """A close that is declared can't be ordered again."""
    if known is not None and known.state == "declared":
        raise ValueError(f"{entity} {period}: declared closed already")


def check_cut_off(known: PeriodClose | None, left: PeriodLeft, entity: str, period: str, opens_on: date) -> None:
    """Only an ordered period of which nothing is left can be cut off, and what comes late must post after it."""
    if known is None:
        raise ValueError(f"{entity} {period}: no close was ordered")
    if f"{opens_on:%Y-%m}" <= period:
        raise ValueError(f"{entity} {period}: opens_on {opens_on} is not after the period")
    _check_left(left, entity, period)


def check_declared(
    known: PeriodClose | None, behind: Iterable[int], left: PeriodLeft, entity: str, period: str
) -> None:
    """Only a period that every shard has left behind and of which nothing is left can be declared."""
    if known is None or known.state == "ordered":
        raise ValueError(f"{entity} {period}: not cut off")
    if waited_for := ", ".join(map(str, sorted(behind))):
        raise ValueError(f"{entity} {period}: cut off, but shard {waited_for} has not booked yet what came before")
    _check_left(left, entity, period)


def check_not_closed(closes: Iterable[PeriodClose], entity: str, period: str) -> None:
    """What people let post must not fall into a period that was declared closed."""
    for close in closes:
        if (close.entity, close.period) == (entity, period) and close.state == "declared":
            raise GovernanceError(f"{entity} {period}: closed; let it post on {close.opens_on} or later")


def _check_left(left: PeriodLeft, entity: str, period: str) -> None:
    if not left.nothing:
        states = ", ".join(f"{count} entries {state}" for state, count in sorted(left.entries.items()))
        raise ValueError(
            f"{entity} {period}: not all is posted: {left.sets} posting sets unclaimed; {states or 'no entries'}"
        )
