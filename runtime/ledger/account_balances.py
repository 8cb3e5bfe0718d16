"""What every account owes, added up from the events that change it: 16 bytes an account, whole columns at a time.

Owns finding accounts that stand in credit. Never posts, and never names an account: an exception names the event that
brought the account there.
"""

from typing import ClassVar, NamedTuple

import msgspec
import numpy as np
import polars as pl
import polars_hash as plh

from runtime.ledger.registers import ItemFlag

DAY_MS = 86_400_000
_RUN_RATIO = 4  # a run is merged into the one before it unless that one is this many times larger
_SPREAD = 0x9E3779B97F4A7C15  # an odd number: multiplied by it, hashes of entities differ in every bit
_SUSPECTS = {
    "key": pl.UInt64(),
    "entity": pl.String(),
    "source": pl.String(),
    "event_id": pl.String(),
    "currency": pl.String(),
    "since_ms": pl.Int64(),
    "flagged_minor": pl.Int64(),  # as its exception was told, 0 before
}
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
        self._signs = {kind: sign for kind, sign in signs.items() if sign}
        self._runs: list[_Run] = []
        self._suspects: list[pl.DataFrame] = []
        self._looked_day = 0

    def __len__(self) -> int:
        """Accounts kept, counted once a run."""
        return sum(len(run.keys) for run in self._runs)

    def add(self, events: pl.DataFrame, now_ms: int) -> None:
        """Count settled events (canonical columns) of kinds that change what an account owes."""
        concerned = events.filter(events["kind"].is_in(list(self._signs)) & events["account"].is_not_null())
        if concerned.is_empty():
            return
        changes = _changes(concerned, self._signs)
        run = _Run(changes["key"].to_numpy(), changes["minor"].to_numpy())
        self._append(run)
        below = np.flatnonzero(self._balances(run.keys) < 0)
        if len(below):
            found = changes[below]
            new = concerned[found["row"]].select(*_EVENT)
            noted = [pl.lit(now_ms).alias("since_ms"), pl.lit(0, pl.Int64()).alias("flagged_minor")]
            self._suspects.append(new.with_columns(found["key"], *noted).select(*_SUSPECTS))

    def _append(self, run: _Run) -> None:
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2].keys) < _RUN_RATIO * len(self._runs[-1].keys):
            later, earlier = self._runs.pop(), self._runs.pop()
            self._runs.append(_merged(earlier, later))

    def _balances(self, keys: np.ndarray) -> np.ndarray:
        """The balance of each key."""
        sums = np.zeros(len(keys), np.int64)
        for run in self._runs:
            at = np.searchsorted(run.keys, keys)
            at[at == len(run.keys)] = 0
            sums += np.where(run.keys[at] == keys, run.changes_minor[at], 0)
        return sums

    def age(self, now_ms: int) -> list[ItemFlag]:
        """Once a day: suspects that stand in credit for too long become exceptions, and others end."""
        if now_ms // DAY_MS <= self._looked_day or not self._suspects:
            return []
        self._looked_day = now_ms // DAY_MS
        suspects = pl.concat(self._suspects).unique("key", keep="first", maintain_order=True)
        balances = pl.Series("balance", self._balances(suspects["key"].to_numpy()))
        overdue = (balances < 0) & (now_ms - suspects["since_ms"] > self._terms.wait_days * DAY_MS)
        told = suspects["flagged_minor"] > 0
        raised, ended = suspects.filter(overdue & ~told), suspects.filter((balances >= 0) & told)
        flags = [self._flag(row, minor, raised=False) for *row, minor in _stood(ended)]
        credits = -balances.filter(overdue & ~told)
        flags += [self._flag(row, minor, raised=True) for (*row, _), minor in zip(_stood(raised), credits, strict=True)]
        flagged = pl.when(overdue & ~told).then(-balances).otherwise(suspects["flagged_minor"])
        self._suspects = [suspects.with_columns(flagged.alias("flagged_minor")).filter(balances < 0)]
        return flags

    def _flag(self, event: list[str], credit_minor: int, *, raised: bool) -> ItemFlag:
        entity, source, event_id, currency = event
        detail = "the account stands in credit since this event"
        return ItemFlag(self._terms.overdrawn, entity, source, event_id, currency, credit_minor, raised, detail)

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        runs = [(run.keys.astype("<u8").tobytes(), run.changes_minor.astype("<i8").tobytes()) for run in self._runs]
        suspects = pl.concat([pl.DataFrame(schema=_SUSPECTS), *self._suspects]).to_dict(as_series=False)
        return msgspec.msgpack.encode((runs, suspects, self._looked_day))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        runs, suspects, self._looked_day = msgspec.msgpack.decode(state, type=_STATE)
        self._runs = [_Run(np.frombuffer(keys, "<u8"), np.frombuffer(changes, "<i8")) for keys, changes in runs]
        self._suspects = [pl.DataFrame(suspects, schema=_SUSPECTS)]


_STATE = tuple[list[tuple[bytes, bytes]], dict[str, list], int]


def _stood(suspects: pl.DataFrame) -> list[tuple]:
    return suspects.select(*_EVENT, "flagged_minor").rows()


def _changes(events: pl.DataFrame, signs: dict[str, int]) -> pl.DataFrame:
    """One row an account, sorted by key: what it changed by, and the row of the last event that did it."""
    signed = events["kind"].replace_strict(signs, return_dtype=pl.Int64()) * events["amount_minor"]
    return (
        pl.DataFrame({"key": _keys(events), "minor": signed})
        .with_row_index("row")
        .group_by("key")
        .agg(pl.col("minor").sum(), pl.col("row").last())
        .sort("key")
    )


def _keys(events: pl.DataFrame) -> np.ndarray:
    """A stable number for each account: its own hash, told apart by entity and currency, of which there are few."""
    ledgers = events.select(pl.concat_str("entity", "currency", separator="\x1f").alias("ledger"))
    few = ledgers.unique()
    hashed = few.with_columns(plh.col("ledger").nchash.xxhash64().alias("hash"))
    accounts = events.select(plh.col("account").nchash.xxhash64()).to_series().to_numpy()
    if few.height == 1:
        return accounts ^ (hashed["hash"].to_numpy() * np.uint64(_SPREAD))
    of = ledgers["ledger"].replace_strict(hashed["ledger"], hashed["hash"], return_dtype=pl.UInt64()).to_numpy()
    return accounts ^ (of * np.uint64(_SPREAD))


def _merged(earlier: _Run, later: _Run) -> _Run:
    """Both runs as one, each account once."""
    keys = np.concatenate([earlier.keys, later.keys])
    changes = np.concatenate([earlier.changes_minor, later.changes_minor])
    order = np.argsort(keys, kind="stable")
    keys, changes = keys[order], changes[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return _Run(keys[starts], np.add.reduceat(changes, starts))
