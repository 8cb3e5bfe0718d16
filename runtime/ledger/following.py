"""What follows from events that are booked or excluded: derived events, and what consumers are told.

Owns the form of both. Never decides whether an event is settled.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import xxhash

from runtime.effects import DERIVED, STATUSES, empty
from runtime.ledger.links import Derive, Tell
from runtime.ledger.owners import OWNED_FACILITY
from runtime.ledger.registers import Deriving
from runtime.ledger.rules import DIMENSIONS, Rulebook
from runtime.schema import SCHEMA_VERSION

SOURCE = "penstock"  # of derived events
_NONE_DERIVED = empty(DERIVED)
_UNTOLD = -1


class Following:
    """The rulebook's answer to "and then?"."""

    def __init__(self, rulebook: Rulebook) -> None:
        self.flows = {name: kind.flow for name, kind in rulebook.kind.items()}
        kinds = rulebook.kind.items()
        self._derives = [(name, derive) for name, kind in kinds for derive in kind.derives]
        self._if_taken_out = [(name, derive) for name, kind in kinds for derive in kind.if_taken_out]
        self._listed = {name: list(role.cases) for name, role in rulebook.role.items()}
        tells = {name: kind.tells for name, kind in rulebook.kind.items() if kind.tells}
        turns = {name: turn for turn, name in enumerate(tells)}
        self._turn = pl.col("kind").replace_strict(turns, default=_UNTOLD, return_dtype=pl.Int16())
        self._telling = _telling(tells, self.flows)
        self.kinds = sorted({*tells, *(name for name, _ in self._derives)})

    def derived(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The events that follow from these."""
        if OWNED_FACILITY in rows.columns:
            rows = rows.with_columns(pl.coalesce("facility", OWNED_FACILITY).alias("facility"))
        return self._followers(rows, self._derives)

    def derived_instead(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The events that follow from these being taken out of the books."""
        return self._followers(rows, self._if_taken_out)

    def _followers(self, rows: pl.DataFrame, derives: Sequence[tuple[str, Derive]]) -> pl.DataFrame:
        present = set(rows["kind"].unique())
        parts = [_derived(self._concerned(rows, name, one), one) for name, one in derives if name in present]
        return pl.concat(parts) if parts else _NONE_DERIVED

    def _concerned(self, rows: pl.DataFrame, name: str, derive: Derive) -> pl.DataFrame:
        """The rows of a kind from which this follows."""
        listed = pl.col("reason").fill_null("").is_in(self._listed.get(derive.unlisted_in, []))
        complete = [pl.col(column).is_not_null() for column in derive.where]
        complete += [pl.col(column).is_null() for column in derive.without]
        return rows.filter(pl.col("kind") == name, ~listed, *complete)

    def derivings(self, derivings: Sequence[Deriving]) -> pl.DataFrame:
        """Events that registers derived."""
        if not derivings:
            return _NONE_DERIVED
        named = [
            {**one.columns, "kind": one.kind, "event_id": f"{one.kind}:{_short(one.cause)}", "source": SOURCE}
            for one in derivings
        ]
        return pl.DataFrame([{"schema_version": SCHEMA_VERSION, **row} for row in named], schema=DERIVED)

    def told(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What consumers are told of these."""
        turns = rows.select(self._turn).to_series().to_numpy()
        in_turn = np.argsort(turns, kind="stable")
        concerned = rows[in_turn[turns[in_turn] != _UNTOLD]]
        return concerned.select(self._telling) if len(concerned) else empty(STATUSES)


def _telling(tells: Mapping[str, Tell], flows: Mapping[str, str]) -> list[pl.Expr]:
    """What consumers are told of an event, in columns STATUSES."""
    kind, own, about = pl.col("kind"), pl.col("document").fill_null(""), pl.lit("")
    for column in sorted({tell.about for tell in tells.values()}):
        concerned = kind.is_in([name for name, tell in tells.items() if tell.about == column])
        about = pl.when(concerned).then(pl.col(column).fill_null(own)).otherwise(about)
    status = kind.replace_strict({name: tell.status for name, tell in tells.items()}, return_dtype=pl.String())
    return [
        # A status of an event is told once, so the event's own hash names it.
        pl.format("{}:{}", status, pl.col("id_hash")).alias("status_id"),
        kind.replace_strict(flows, return_dtype=pl.String()).alias("flow"),
        status.alias("status"),
        kind,
        pl.col("entity"),
        about.alias("document"),
        pl.col("counterparty").fill_null(""),
        pl.col("amount_minor", "currency", "source", "event_id"),
        pl.col("reason").fill_null("").alias("detail"),
        pl.col("occurred_at"),
    ]


def _derived(rows: pl.DataFrame, derive: Derive) -> pl.DataFrame:
    """Each row's follower: the same facts under another kind, for the entity that `to` names. Facility and department
    are the entity's own, and stay behind when another one is meant."""
    swapped = derive.to == "counterparty"
    own = [pl.lit(None, pl.String()).alias(name) for name in DIMENSIONS] if swapped else []
    if derive.on:
        own.append(pl.col("effective_on").dt.truncate("1mo").dt.offset_by("1mo"))
    return rows.with_columns(
        *own,
        pl.format("{}:{}", pl.lit(derive.kind), pl.col("id_hash")).alias("event_id"),
        pl.lit(SOURCE).alias("source"),
        pl.lit(derive.kind).alias("kind"),
        pl.col("counterparty" if swapped else "entity").alias("entity"),
        pl.col("entity" if swapped else "counterparty").alias("counterparty"),
    ).select(*DERIVED)


def _short(cause: str) -> str:
    """A cause as part of an event id, however long the keys are that it is made of."""
    return xxhash.xxh64_hexdigest(cause.encode())
