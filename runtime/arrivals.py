"""The rows under way in one step: those that it matches, and those that had waited and became ready meanwhile.

Owns the place of each row. Rows that are taken in small parts are made tuples of all at once, as a frame of twenty rows
takes as long to make as one of thousands. Never decides what becomes of a row.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import polars as pl

from runtime.ledger.correlation import facts_of
from runtime.ledger.step_matching import MATCHED, events_of
from runtime.ledger.waiting import Change, Event
from runtime.schema import among, where

Places = np.ndarray  # of rows, in the order in which they go on
NOWHERE: Places = np.empty(0, np.intp)


class Arrivals:
    """Rows (as moves) by their places: first those that came, then what is added.

    `at`: the place of each id that was matched already and may wait. `waiting`: the last change of what waits, which is
    parked when all is matched. `ready`: the places of rows that parts before the present one made ready. `enters`: of
    each row whether its kind has a register.
    """

    def __init__(self, rows: pl.DataFrame, registered: Collection[str], now_ms: int) -> None:
        self.rows, self._now_ms = rows, now_ms
        self.at: dict[int, int] = {}
        self.waiting: dict[int, Change] = {}
        self.ready = NOWHERE
        self._enters = among(registered)
        self.enters = self._entering(rows)
        self._frames = [rows]  # of all rows; joined when they are looked at
        self._events: dict[int, Event] = {}
        self._facts: dict[int, tuple] = {}

    def add(self, rows: pl.DataFrame) -> Places:
        """Further rows, behind the others."""
        first = len(self.enters)
        self.enters = np.concatenate([self.enters, self._entering(rows)])
        self._frames.append(rows)
        return np.arange(first, len(self.enters))

    def _entering(self, rows: pl.DataFrame) -> np.ndarray:
        return where(rows, self._enters).to_numpy()

    def foresee(self, places: Places) -> None:
        """Make tuples of rows that came and will be taken in small parts."""
        rows, enters = self.rows[places], self.enters[places]
        self._events |= zip(places.tolist(), events_of(rows), strict=True)
        self._facts |= zip(places[enters].tolist(), facts_of(rows.filter(enters)), strict=True)

    def places(self, ids: Iterable[int]) -> Places:
        """The places of ids that were matched."""
        return np.array([self.at[id] for id in ids], np.intp)

    def frame(self, places: Places) -> pl.DataFrame:
        """Rows as moves."""
        if len(self._frames) > 1:
            self._frames = [pl.concat(self._frames, rechunk=True)]
        return self._frames[0][places]

    def matched(self, places: Places) -> pl.DataFrame:
        """Rows that came as matching sees them in columns."""
        rows = self.rows.select(MATCHED)
        return rows if len(places) == len(rows) else rows[places]

    def events(self, places: Places) -> Sequence[Event]:
        """Rows that came as matching sees them one by one."""
        return _known(self._events, places) or events_of(self.rows[places])

    def facts(self, places: Places) -> Iterable[tuple]:
        """Rows as registers see them."""
        return _known(self._facts, places) or facts_of(self.frame(places))

    @cached_property
    def since_ms(self) -> np.ndarray:
        """Since when rows that came wait: those that come from another state have been here before, and wait from now
        on."""
        return np.where(
            self.rows["was"].is_null().to_numpy(), self.rows["received_at"].to_physical().to_numpy(), self._now_ms
        )


def joined(*parts: Places) -> Places:
    """Places one after another."""
    return np.concatenate([NOWHERE, *parts])


def _known(made: Mapping[int, tuple], places: Places) -> list[tuple]:
    """What was made of these rows, if of all; else nothing."""
    wanted = places.tolist()
    return [made[at] for at in wanted] if all(at in made for at in wanted) else []
