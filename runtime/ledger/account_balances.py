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


class AccountTerms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="accounts", forbid_unknown_fields=True
):
    """`overdrawn`: the exception of an account that stands in credit for longer than `wait_days`."""

    PARTS: ClassVar[frozenset[str]] = frozenset()  # it counts by `balance`, no event is entered

    overdrawn: str
    wait_days: int

    def exceptions(self) -> set[str]:
        """Exception types that it may raise."""
        return {self.overdrawn}


class InCredit(msgspec.Struct, array_like=True):
    """An account in credit: since when, by how much, the event that brought it there, and whether it was told."""

    since_ms: int
    credit_minor: int
    entity: str
    source: str
    event_id: str
    currency: str
    flagged: bool = False


class _Run(NamedTuple):
    """Accounts, sorted by key, and what each changed by."""

    keys: np.ndarray
    changes_minor: np.ndarray


class AccountBalances:
    """All accounts of one shard. A balance is the sum of its changes over a few sorted runs, merged geometrically."""

    def __init__(self, terms: AccountTerms, signs: dict[str, int]) -> None:
        self._terms = terms
        self._signs = {kind: sign for kind, sign in signs.items() if sign}
        self._runs: list[_Run] = []
        self._credits: dict[int, InCredit] = {}
        self._flags: list[ItemFlag] = []

    def __len__(self) -> int:
        """Accounts kept, counted once a run."""
        return sum(len(run.keys) for run in self._runs)

    def add(self, events: pl.DataFrame, now_ms: int) -> None:
        """Count settled events (canonical columns) of kinds that change what an account owes."""
        concerned = events.filter(pl.col("kind").is_in(list(self._signs)) & pl.col("account").is_not_null())
        if concerned.is_empty():
            return
        changes = _changes(concerned, self._signs)
        run = _Run(changes["key"].to_numpy(), changes["minor"].to_numpy())
        self._append(run)
        self._compare(changes, self._balances(run.keys), now_ms)

    def _append(self, run: _Run) -> None:
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2].keys) < _RUN_RATIO * len(self._runs[-1].keys):
            later, earlier = self._runs.pop(), self._runs.pop()
            self._runs.append(_merged(earlier, later))

    def _balances(self, keys: np.ndarray) -> np.ndarray:
        """The balance of each key, which come sorted."""
        sums = np.zeros(len(keys), np.int64)
        for run in self._runs:
            at = np.searchsorted(run.keys, keys)
            at[at == len(run.keys)] = 0
            sums += np.where(run.keys[at] == keys, run.changes_minor[at], 0)
        return sums

    def _compare(self, changes: pl.DataFrame, balances: np.ndarray, now_ms: int) -> None:
        """Note accounts that fell below zero, and those that came out again."""
        below = np.flatnonzero(balances < 0)
        for row, balance in zip(changes[below].iter_rows(named=True), balances[below], strict=True):
            known = self._credits.get(row["key"])
            if known:
                known.credit_minor = -int(balance)
                continue
            who = (row["entity"], row["source"], row["event_id"], row["currency"])
            self._credits[row["key"]] = InCredit(now_ms, -int(balance), *who)
        if self._credits:
            for key in changes["key"].to_numpy()[balances >= 0].tolist():
                self._end(key)

    def _end(self, key: int) -> None:
        ended = self._credits.pop(key, None)
        if ended and ended.flagged:
            self._flags.append(self._flag(ended, raised=False))

    def age(self, now_ms: int) -> None:
        """Accounts that stand in credit for too long become exceptions."""
        for credit in self._credits.values():
            if not credit.flagged and now_ms - credit.since_ms > self._terms.wait_days * DAY_MS:
                credit.flagged = True
                self._flags.append(self._flag(credit, raised=True))

    def _flag(self, credit: InCredit, *, raised: bool) -> ItemFlag:
        who = (credit.entity, credit.source, credit.event_id, credit.currency, credit.credit_minor)
        return ItemFlag(self._terms.overdrawn, *who, raised, "the account stands in credit since this event")

    def take_flags(self) -> list[ItemFlag]:
        """What became or ended an exception since the last call."""
        flags, self._flags = self._flags, []
        return flags

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        runs = [(run.keys.astype("<u8").tobytes(), run.changes_minor.astype("<i8").tobytes()) for run in self._runs]
        return msgspec.msgpack.encode((runs, list(self._credits.items())))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        runs, credits = msgspec.msgpack.decode(state, type=_STATE)
        self._runs = [_Run(np.frombuffer(keys, "<u8"), np.frombuffer(changes, "<i8")) for keys, changes in runs]
        self._credits = dict(credits)


_STATE = tuple[list[tuple[bytes, bytes]], list[tuple[int, InCredit]]]


def _changes(events: pl.DataFrame, signs: dict[str, int]) -> pl.DataFrame:
    """One row an account, sorted by key: what it changed by, and the last event that did it."""
    named = pl.concat_str("entity", "account", "currency", separator="\x1f").alias("name")
    signed = pl.col("amount_minor") * pl.col("kind").replace_strict(signs, return_dtype=pl.Int64())
    return (
        events.select(named, signed.alias("minor"), "entity", "source", "event_id", "currency")
        .with_columns(plh.col("name").nchash.xxhash64().alias("key"))
        .group_by("key")
        .agg(pl.col("minor").sum(), pl.col("entity", "source", "event_id", "currency").last())
        .sort("key")
    )


def _merged(earlier: _Run, later: _Run) -> _Run:
    """Both runs as one, each account once."""
    keys = np.concatenate([earlier.keys, later.keys])
    changes = np.concatenate([earlier.changes_minor, later.changes_minor])
    order = np.argsort(keys, kind="stable")
    keys, changes = keys[order], changes[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return _Run(keys[starts], np.add.reduceat(changes, starts))
