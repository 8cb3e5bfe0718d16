"""When the books refuse a period close, the same in every implementation of the books.

Owns those checks and their sentences. Stores nothing.
"""

from datetime import date

from runtime.ports import PeriodClose, PeriodLeft


def check_ordered(known: PeriodClose | None, entity: str, period: str) -> None:
    """A close that is declared can't be ordered again."""
    if known is not None and known.state == "declared":
        raise ValueError(f"{entity} {period}: declared closed already")


def check_declared(known: PeriodClose | None, left: PeriodLeft, entity: str, period: str, opens_on: date) -> None:
    """Only an ordered period of which nothing is left can be declared, and what comes late must post after it."""
    if known is None:
        raise ValueError(f"{entity} {period}: no close was ordered")
    if f"{opens_on:%Y-%m}" <= period:
        raise ValueError(f"{entity} {period}: opens_on {opens_on} is not after the period")
    if not left.nothing:
        states = ", ".join(f"{count} entries {state}" for state, count in sorted(left.entries.items()))
        raise ValueError(
            f"{entity} {period}: not all is posted: {left.sets} posting sets unclaimed; {states or 'no entries'}"
        )
