"""Rows that wait for a counterpart, kept as columns: what they are, and the exception they stand under.

Owns the place of each row. Never decides whether a row may go on: matching does.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import msgspec
import polars as pl

from runtime.effects import empty
from runtime.ledger.waiting import Event
from runtime.schema import STAMPED, lasting

SPARE_ROWS_MAX = 65_536  # rows that may be kept although they are gone, besides as many as are there
FRAMES_FREE, ROWS_A_FRAME = 64, 512  # so many frames, and one more for so many rows: a frame of few rows takes 10 KiB

FROZEN = {**STAMPED, "fault": pl.String()}
_EVENT = ("id_hash", *Event._fields[1:])


class Standing(msgspec.Struct, array_like=True, gc=False):
    """Where a row lies (frame and row), and the exception it stands under, "" for none."""

    frame: int
    row: int
    fault: str


class ParkedRows:
    """Rows by their identity hash. Frames are kept as they came, until half of what they hold is gone, or
    they are many for what they hold."""

    def __init__(self) -> None:
        self._frames: dict[int, pl.DataFrame] = {}
        self._next, self._kept = 0, 0
        self._standing: dict[int, Standing] = {}

    def __len__(self) -> int:
        return len(self._standing)

    def __contains__(self, id: int) -> bool:
        return id in self._standing

    def keep(self, rows: pl.DataFrame, faults: Sequence[str]) -> None:
        """Keep rows (canonical and stamped columns), each under its own exception ("" is none)."""
        if rows.is_empty():
            return
        number, self._next = self._next, self._next + 1
        self._frames[number] = lasting(rows[list(STAMPED)])
        self._kept += len(rows)
        for row, (id, fault) in enumerate(zip(rows["id_hash"], faults, strict=True)):
            self._standing[id] = Standing(number, row, fault)
        if len(self._frames) > FRAMES_FREE + self._kept // ROWS_A_FRAME:
            self._compact()

    def restate(self, ids: Sequence[int], faults: Sequence[str]) -> None:
        """Put kept rows under other exceptions."""
        for id, fault in zip(ids, faults, strict=True):
            self._standing[id].fault = fault

    def moves(self, ids: Sequence[int]) -> pl.DataFrame:
        """These rows in this order, as moves: where they come from, and the exception they stand under."""
        chosen = [self._standing[id] for id in ids]
        return self._rows(chosen).with_columns(
            pl.Series("was", ["excepted" if one.fault else "pending" for one in chosen], pl.String()),
            pl.Series("fault", [one.fault for one in chosen], pl.String()),
            pl.lit(None, pl.String()).alias("role"),
        )

    def stood(self, ids: Sequence[int]) -> list[tuple[str, int]]:
        """The exception that each of these rows stands under, "" for none, with its identity hash."""
        return [(self._standing[id].fault, id) for id in ids]

    def take(self, ids: Sequence[int]) -> pl.DataFrame:
        """The same, and forget them."""
        rows = self.moves(ids)
        for id in ids:
            del self._standing[id]
        if self._kept > 2 * len(self._standing) + SPARE_ROWS_MAX:
            self._compact()
        return rows

    def _rows(self, chosen: Sequence[Standing]) -> pl.DataFrame:
        """Gathered frame by frame, then put into the order asked for."""
        if not chosen:
            return empty(STAMPED)
        by_frame: dict[int, list[int]] = {}
        for at, one in enumerate(chosen):
            by_frame.setdefault(one.frame, []).append(at)
        parts = [self._frames[number][[chosen[at].row for at in places]] for number, places in by_frame.items()]
        if len(parts) == 1:
            return parts[0]
        places = pl.Series([at for places in by_frame.values() for at in places])
        return pl.concat(parts)[places.arg_sort()]

    def _compact(self) -> None:
        """One frame of what is still there."""
        standing = self._standing
        rows = lasting(self._rows(list(standing.values())))
        self._frames, self._next, self._kept = {0: rows}, 1, len(rows)
        for row, one in enumerate(standing.values()):
            one.frame, one.row = 0, row

    def standing(self) -> Iterator[tuple[str, int]]:
        """(exception, id hash) of every row, in the order in which they came; "" for those under none."""
        return ((one.fault, id) for id, one in self._standing.items())

    def events(self, ids: Sequence[int]) -> list[Event]:
        """These rows as matching sees them."""
        return [Event(*row) for row in self._rows([self._standing[id] for id in ids]).select(_EVENT).iter_rows()]

    def freeze(self) -> Callable[[], pl.DataFrame]:
        """What gives every row with its exception for a snapshot, whatever happens here meanwhile."""
        frames = dict(self._frames)
        standing = [(one.frame, one.row, one.fault) for one in self._standing.values()]
        return lambda: _frozen(frames, standing)

    def load(self, rows: pl.DataFrame) -> None:
        """Start from a snapshot."""
        self.__init__()
        self.keep(rows, rows["fault"].to_list())


def _frozen(frames: dict[int, pl.DataFrame], standing: list[tuple[int, int, str]]) -> pl.DataFrame:
    if not standing:
        return pl.DataFrame(schema=FROZEN)
    starts = dict(zip(frames, accumulate((len(rows) for rows in frames.values()), initial=0), strict=False))
    numbers, rows, faults = zip(*standing, strict=True)
    places = pl.Series([starts[number] + row for number, row in zip(numbers, rows, strict=True)])
    return pl.concat(frames.values())[places].with_columns(pl.Series("fault", faults, pl.String()))
