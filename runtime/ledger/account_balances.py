"""What every account owes, added up from the events that change it: 16 bytes an account, whole columns at a time.

Owns finding accounts that stand in credit. Never posts, and never names an account: an exception names the event that
brought the account there.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import msgspec
import numpy as np
import polars as pl
import polars_hash as plh

from runtime.ledger.cells import Cells
from runtime.ledger.registers import ItemFlag
from runtime.ports import Buffer
from runtime.runs import Run, added, order_of
from runtime.schema import lasting
from runtime.words import SPREAD

DAY_MS = 86_400_000
PIECES_MAX = 64  # of suspects, one a step at most: a piece of a few rows takes 10 KiB
_SUSPECTS = {
    "key": pl.UInt64(),
    "entity": pl.String(),
    "source": pl.String(),
    "event_id": pl.String(),
    "currency": pl.String(),
    "since_ms": pl.Int64(),
    "flagged_minor": pl.Int64(),  # as its exception was told, 0 before
}
_LEDGER = pl.concat_str("entity", "currency", separator="\x1f").alias("ledger")
_EVENT = ("entity", "source", "event_id", "currency")


class AccountTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="accounts", forbid_unknown_fields=True
):
    """`overdrawn`: the exception of an account that stands in credit for longer than `wait_days`."""

    PARTS: ClassVar[frozenset[str]] = frozenset()  # no kind enters it: a kind's `balance` does
    MEASURES: ClassVar[frozenset[str]] = frozenset()

    overdrawn: str
    wait_days: int

    def exceptions(self) -> set[str]:
        """Exception types that it may raise."""
        return {self.overdrawn}


class _Run(NamedTuple):
    """Accounts, sorted by key, and what each changed by."""

    keys: np.ndarray
    changes_minor: np.ndarray


class AccountBalances:
    """All accounts of one shard. A balance is the sum of its changes over a few sorted runs, merged geometrically.

    Accounts below zero are suspects; once a day they are gone through, so that what is only out of order for hours
    costs nothing.
    """

    def __init__(self, terms: AccountTerms, signs: dict[str, int]) -> None:
        self._terms = terms
        told = {kind: sign for kind, sign in signs.items() if sign}
        self._sign = pl.col("kind").replace_strict(told, default=0, return_dtype=pl.Int64())
        self._runs: list[_Run] = []
        self._suspects: list[pl.DataFrame] = []
        self._looked_day = 0

    def __len__(self) -> int:
        """Accounts kept, counted once a run."""
        return sum(len(run.keys) for run in self._runs)

    def add(self, events: pl.DataFrame, cells: Cells, settled: pl.Series, now_ms: int) -> None:
        """Count events (canonical columns) of the settled cells, of kinds that change what an account owes."""
        signs = cells.frame.select(self._sign).to_series().to_numpy()
        signs = np.where(settled.to_numpy(), signs, 0)[cells.of]
        rows = np.flatnonzero((signs != 0) & events["account"].is_not_null().to_numpy())
        if not len(rows):
            return
        keys = _hashes(events, "account")[rows] ^ _ledgers(cells.frame)[cells.of[rows]]
        order = order_of(keys)
        starts = _starts(keys[order])
        changes = (signs * events["amount_minor"].to_numpy())[rows]
        run = _Run(keys[order][starts], np.add.reduceat(changes[order], starts))
        last_rows = rows[np.maximum.reduceat(order, starts)]
        fallen = self._fallen(run)
        self._suspect(events, last_rows[fallen], run.keys[fallen], now_ms)
        self._runs = added(self._runs, run, _merged)

    def _fallen(self, run: _Run) -> np.ndarray:
        """Accounts of a run that fall below zero by it."""
        lowered = np.flatnonzero(run.changes_minor < 0)
        before = self._balances(run.keys[lowered])
        return lowered[(before >= 0) & (before + run.changes_minor[lowered] < 0)]

    def _suspect(self, events: pl.DataFrame, rows: np.ndarray, keys: np.ndarray, now_ms: int) -> None:
        if len(rows):
            noted = [pl.lit(now_ms).alias("since_ms"), pl.lit(0, pl.Int64()).alias("flagged_minor")]
            new = events.select(*_EVENT)[rows].with_columns(pl.Series("key", keys), *noted)
            self._suspects.append(lasting(new[list(_SUSPECTS)]))
        if len(self._suspects) > PIECES_MAX:
            self._suspects = [lasting(pl.concat(self._suspects))]

    def _balances(self, keys: np.ndarray) -> np.ndarray:
        """The balance of each key."""
        sums = np.zeros(len(keys), np.int64)
        for run in self._runs:
            at = np.searchsorted(run.keys, keys)
            at[at == len(run.keys)] = 0
            sums += np.where(run.keys[at] == keys, run.changes_minor[at], 0)
        return sums

    def age(self, now_ms: int) -> list[ItemFlag]:
        """Once a day: suspects that stand in credit for too long become exceptions, told with what they are in credit
        now, and others end."""
        if now_ms // DAY_MS <= self._looked_day or not self._suspects:
            return []
        self._looked_day = now_ms // DAY_MS
        suspects = pl.concat(self._suspects).unique("key", keep="first", maintain_order=True)
        balances = pl.Series("balance", self._balances(suspects["key"].to_numpy()))
        overdue = (balances < 0) & (now_ms - suspects["since_ms"] > self._terms.wait_days * DAY_MS)
        anew = overdue & (suspects["flagged_minor"] != -balances)
        raised, ended = suspects.filter(anew), suspects.filter((balances >= 0) & (suspects["flagged_minor"] > 0))
        flags = [self._flag(row, minor, raised=False) for *row, minor in _stood(ended)]
        credits = -balances.filter(anew)
        flags += [self._flag(row, minor, raised=True) for (*row, _), minor in zip(_stood(raised), credits, strict=True)]
        flagged = pl.when(anew).then(-balances).otherwise(suspects["flagged_minor"])
        self._suspects = [suspects.with_columns(flagged.alias("flagged_minor")).filter(balances < 0)]
        return flags

    def _flag(self, event: list[str], credit_minor: int, *, raised: bool) -> ItemFlag:
        entity, source, event_id, currency = event
        detail = "the account stands in credit since this event"
        return ItemFlag(self._terms.overdrawn, entity, source, event_id, currency, credit_minor, raised, detail)

    def runs(self) -> list[Run]:
        """All changes, in sorted runs that never change any more: a merge makes another one."""
        return list(self._runs)

    def freeze(self) -> Callable[[], bytes]:
        """What gives everything but the runs for a snapshot, whatever happens here meanwhile."""
        suspects, looked_day = list(self._suspects), self._looked_day

        def dumped() -> bytes:
            rows = pl.concat([pl.DataFrame(schema=_SUSPECTS), *suspects]).to_dict(as_series=False)
            return msgspec.msgpack.encode((rows, looked_day))

        return dumped

    def load(self, state: Buffer, runs: Sequence[Run]) -> None:
        """Start from a snapshot."""
        suspects, self._looked_day = msgspec.msgpack.decode(state, type=tuple[dict[str, list], int])
        self._suspects = [pl.DataFrame(suspects, schema=_SUSPECTS)]
        self._runs = [_Run(*run) for run in runs]


def _stood(suspects: pl.DataFrame) -> list[tuple]:
    return suspects.select(*_EVENT, "flagged_minor").rows()


def _hashes(rows: pl.DataFrame, column: str) -> np.ndarray:
    """A stable number for each text of a column, 0 where there is none."""
    return rows.select(plh.col(column).nchash.xxhash64().fill_null(0)).to_series().to_numpy()


def _ledgers(cells: pl.DataFrame) -> np.ndarray:
    """What tells the accounts of one entity and currency apart from those of another."""
    return _hashes(cells.select(_LEDGER), "ledger") * np.uint64(SPREAD)


def _starts(keys: np.ndarray) -> np.ndarray:
    """Where each of sorted keys begins."""
    return np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))


def _merged(earlier: _Run, later: _Run) -> _Run:
    """Two runs as one, each account once."""
    keys = np.concatenate([earlier.keys, later.keys])
    changes = np.concatenate([earlier.changes_minor, later.changes_minor])
    order = np.argsort(keys, kind="stable")
    starts = _starts(keys[order])
    return _Run(keys[order][starts], np.add.reduceat(changes[order], starts))
