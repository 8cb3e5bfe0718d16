"""What one step does, gathered move by move and summed up into effects at the end.

Owns the form of moves (rows that change state), the identity of exceptions, and the control totals that follow from
moves. Never decides where a row goes: the shard does.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime

import polars as pl
import xxhash

from runtime.effects import DELTAS, DERIVED, EXCEPTIONS, OUTCOMES, STATUSES, TOTALS, Effects, StepCounts, empty
from runtime.ledger.cells import Cells
from runtime.ledger.conservation import assert_balanced, assert_conserved
from runtime.ledger.registers import ItemFlag, Told
from runtime.schema import STAMPED

CONFLICT, UNMAPPED, UNCLASSIFIED = "event_conflict", "mapping_missing", "unclassified_code"
MOVES = {**STAMPED, "was": pl.String(), "fault": pl.String(), "role": pl.String()}
_STEP = {name: OUTCOMES[name] for name in ("id_hash", "digest", "state", "set_no")}  # of an event, as outcomes tell it
_NO_ROLE = pl.lit(None, pl.String()).alias("role")
_PLACE = ("source", "entity", "facility", "currency", "kind")
_SUMS = {**{name: TOTALS[name] for name in (*_PLACE, "state", "events", "amount_minor")}, "was": pl.String()}


def moves(rows: pl.DataFrame, was: str | None = None, fault: str = "") -> pl.DataFrame:
    """Rows about to change state: where they come from, and the exception they stand under (or come to)."""
    return rows.with_columns(pl.lit(was, pl.String()).alias("was"), pl.lit(fault).alias("fault"), _NO_ROLE)


def parted(rows: pl.DataFrame, chosen: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that are chosen, and the others. Mostly all are alike: then nothing is copied."""
    if not chosen.any():
        return rows.clear(), rows
    return (rows, rows.clear()) if chosen.all() else (rows.filter(chosen), rows.filter(~chosen))


_NO_SET = pl.lit(-1, pl.Int32()).alias("set_no")
_AS_SUMS = [pl.col(name).abs() if name == "amount_minor" else pl.col(name) for name in _SUMS]
_TURNED = (pl.col("state") == "booked") & pl.col("turnover_minor").is_not_null()
_AS_POSTED = {"state": pl.lit("posted"), "amount_minor": pl.col("turnover_minor")}
_POSTED = [_AS_POSTED.get(name, pl.col(name)).alias(name) for name in TOTALS]  # of _TURNED cells, in columns TOTALS

NO_NAMES: Mapping[str, str] = {}


class Step:
    """Collects what a step does, frame by frame, and sums it up at the end."""

    def __init__(self, position: str, sets: int = 0, conflicts: Mapping[str, str] = NO_NAMES) -> None:
        self.position = position
        self.sets = sets
        self._conflicts = conflicts  # kind -> what a conflict of its events is called
        self._conflicting = 0
        self.read = self.repeated = 0
        self._moved: list[pl.DataFrame] = []
        self._sums: list[pl.DataFrame] = []  # of what moved, in columns _SUMS
        self._deltas: list[pl.DataFrame] = []
        self._raised: list[pl.DataFrame] = []
        self._notes: list[pl.DataFrame] = []
        self._beside: list[pl.DataFrame] = []  # totals that no move stands for, in columns TOTALS
        self._derived: list[pl.DataFrame] = []
        self._told: list[pl.DataFrame] = []  # of events, in the order in which they were settled
        self._told_of: list[tuple[Told, str, int]] = []  # of documents: with its flow and time
        self._resolved: set[str] = set()
        self._opened: dict[str, date] = {}

    def repeats(self, rows: pl.DataFrame) -> None:
        """Rows that were sent before: counted, nothing else."""
        if rows.is_empty():
            return
        self.repeated += len(rows)
        self._beside.append(_summed(rows).with_columns(pl.lit("duplicate").alias("state")))

    def pending(self, rows: pl.DataFrame) -> None:
        """Moves of rows that wait for a counterpart."""
        self._move(rows, "pending")

    def excluded(self, rows: pl.DataFrame) -> None:
        """Moves of rows that post nothing by rule."""
        self._move(rows, "excluded")

    def settled(self, rows: pl.DataFrame, cells: Cells) -> None:
        """Moves of rows by their cells, which have a `state` and a `set_no`; cells with a `fault` are left out."""
        sound = cells.frame["fault"] == ""
        moved = rows[["id_hash", "digest"]].hstack(cells.frame[["state", "set_no"]][cells.of])
        self._moved.append(moved if sound.all() else moved.filter(cells.rows(sound)))
        came = cells.frame if sound.all() else cells.frame.filter(sound)
        self._sums.append(came.select(_AS_SUMS))
        self._beside.append(came.filter(_TURNED).select(_POSTED))

    def posted(self, deltas: pl.DataFrame) -> None:
        """The lines of posting sets."""
        self._deltas.append(deltas)
        self.sets += deltas["set_no"].n_unique()

    def excepted(self, rows: pl.DataFrame, now_ms: int) -> None:
        """Moves of rows that come to an exception, which is raised."""
        if rows.is_empty():
            return
        self._move(rows, "excepted")
        conflicting = rows["fault"] == CONFLICT
        self._conflicting += int(conflicting.sum())
        raised = _raised(rows, now_ms)
        if conflicting.any():
            called = rows["kind"].replace_strict(self._conflicts, default=CONFLICT, return_dtype=pl.String())
            raised = raised.with_columns(pl.when(conflicting).then(called).otherwise("type").alias("type"))
        self._raise(raised)

    def _move(self, rows: pl.DataFrame, state: str) -> None:
        if rows.is_empty():
            return
        moved = rows.select("id_hash", "digest", pl.lit(state).alias("state"), _NO_SET)
        self._moved.append(moved)
        self._sums.append(_summed(rows, "was").with_columns(pl.lit(state).alias("state"))[list(_SUMS)])

    def _raise(self, exceptions: pl.DataFrame) -> None:
        self._raised.append(exceptions)
        self._resolved.difference_update(exceptions["exception_id"])

    def resolve(self, stood: Iterable[tuple[str, int]]) -> None:
        """End the exceptions, (type, id hash), that rows stood under until now; an empty type is none."""
        self._resolved.update(exception_id(stands) for stands in stood if stands[0])

    def opened(self, entity: str, opens_on: date) -> None:
        """From here on this entity posts into no period before that day."""
        self._opened[entity] = opens_on

    def derive(self, rows: pl.DataFrame) -> None:
        """Events that follow."""
        if len(rows):
            self._derived.append(rows)

    def told(self, statuses: pl.DataFrame) -> None:
        """What consumers are told."""
        if len(statuses):
            self._told.append(statuses)

    def tell(self, told: Sequence[Told], flows: Mapping[str, str], now_ms: int) -> None:
        """What consumers are told of documents, not of single events. `flows`: of kinds."""
        self._told_of += [(one, flows[one.kind], now_ms) for one in told]

    def flag(self, flags: Sequence[ItemFlag], now_ms: int) -> None:
        """Raise or end the exceptions of what events stand for."""
        for flag in flags:
            if flag.raised:
                self._resolved.discard(_flag_id(flag))
            else:
                self._resolved.add(_flag_id(flag))
        raised = [flag for flag in flags if flag.raised]
        if raised:
            self._raised.append(_flagged(raised, now_ms))

    def note(self, rows: pl.DataFrame, now_ms: int) -> None:
        """Raise what rules raise beside what they do (`fault`); the rows' own states are not concerned."""
        self._notes.append(_raised(rows, now_ms))

    def take_retried(self, retried: "Step", unchanged: pl.DataFrame) -> None:
        """Keep what a retry of held rows did, but for the rows (`unchanged`, with their `fault`) that it held again."""
        self.sets = retried.sets
        self._deltas += retried._deltas
        self._notes += retried._notes
        self._sums += retried._sums  # what is held again leaves its state and enters it: that comes to nothing
        self._beside += retried._beside
        self._derived += retried._derived
        self._told += retried._told
        self._told_of += retried._told_of
        stayed = pl.col("id_hash").is_in(unchanged["id_hash"].implode()) & (pl.col("state") == "excepted")
        self._moved += [moved.filter(~stayed) for moved in retried._moved]
        stood = unchanged.select(pl.col("fault").alias("type"), "source", "event_id")
        for raised in retried._raised:
            self._raise(raised.join(stood, on=stood.columns, how="anti"))
        self._resolved |= retried._resolved

    def effects(self, open_items: int, waiting: int) -> Effects:
        """Everything that was collected, checked for balance and conservation, in an order that is always the same."""
        moved, sums = _concat(self._moved, _STEP), _concat(self._sums, _SUMS)
        deltas = _concat(self._deltas, DELTAS)
        totals = _totals(sums, self._beside)
        assert_balanced(deltas)
        assert_conserved(totals)
        return Effects(
            deltas=deltas,
            totals=totals,
            exceptions=_exceptions(self._raised + self._notes),
            resolved=tuple(sorted(self._resolved)),
            outcomes=moved.with_columns(pl.lit(self.position).alias("position"))[list(OUTCOMES)],
            counts=self._counts(sums, open_items, waiting),
            derived=pl.concat(self._derived).sort("event_id") if self._derived else empty(DERIVED),
            statuses=self._statuses(),
            opened=tuple(sorted(self._opened.items())),
        )

    def _statuses(self) -> pl.DataFrame:
        """What events tell, by their own time, and then what became of documents by them."""
        if not self._told and not self._told_of:
            return empty(STATUSES)
        told = _concat(self._told, STATUSES).sort("occurred_at", maintain_order=True)
        told_of = _statuses(self._told_of)
        return pl.concat([told, told_of]).unique("status_id", keep="first", maintain_order=True)

    def _counts(self, sums: pl.DataFrame, open_items: int, waiting: int) -> StepCounts:
        arrived, booked = sums["was"].is_null().to_numpy(), (sums["state"] == "booked").to_numpy()
        events = sums["events"].to_numpy()
        accepted, all_booked, released = (int(events[chosen].sum()) for chosen in (arrived, booked, booked & ~arrived))
        return StepCounts(
            read=self.read,
            accepted=accepted,
            duplicate=self.repeated,
            conflict=self._conflicting,
            booked=all_booked,
            released=released,
            open_items=open_items,
            waiting=waiting,
        )


_ACCEPTED = pl.lit("accepted").alias("state")
_LEFT = [pl.col("was").alias("state"), -pl.col("events"), -pl.col("amount_minor")]
_TOTAL_OF = [name for name in TOTALS if name not in ("events", "amount_minor")]
_TOTAL_KEYS = [pl.col(name).fill_null("") if name == "facility" else pl.col(name) for name in _TOTAL_OF]


def _totals(sums: pl.DataFrame, beside: list[pl.DataFrame]) -> pl.DataFrame:
    """Signed changes of the control totals: arrivals are accepted, every move leaves one state and enters another.

    `beside`: what is counted and moves nothing: repeats, and the debits of events that do not simply post their amount.
    """
    came, left = parted(sums, sums["was"].is_null())
    parts = [came.with_columns(_ACCEPTED), sums, left.with_columns(_LEFT), *beside]
    # Not lazily: a plan over several frames is handed from thread to thread, which takes longer than a small step.
    return (
        pl.concat([part[list(TOTALS)] for part in parts if len(part)] or [empty(TOTALS)])
        .group_by(_TOTAL_KEYS)
        .agg(pl.col("events", "amount_minor").sum())
        .filter(pl.any_horizontal(pl.col("events", "amount_minor") != 0))
        .sort(_TOTAL_OF)
    )


def _exceptions(raised: list[pl.DataFrame]) -> pl.DataFrame:
    """What was raised; of one exception that which was told last."""
    if not raised:
        return empty(EXCEPTIONS)
    return pl.concat(raised).unique("exception_id", keep="last").sort("exception_id")


_COUNTED = [pl.len().cast(pl.Int64()).alias("events"), pl.col("amount_minor").abs().sum()]


def _summed(rows: pl.DataFrame, *states: str) -> pl.DataFrame:
    """Events and absolute amounts by the keys of totals, and by these states."""
    return rows.group_by(*_PLACE, *states).agg(_COUNTED)


def _raised(rows: pl.DataFrame, now_ms: int) -> pl.DataFrame:
    """One exception a row. A conflict is told apart by its content, as an id may conflict more than once."""
    cause = pl.when(pl.col("fault") == CONFLICT).then("digest").otherwise("id_hash")
    ids = [exception_id(identity) for identity in rows.select("fault", cause.alias("cause")).iter_rows()]
    detail = (
        pl.when(pl.col("fault") == UNMAPPED)
        .then(pl.format("no account for role {}", pl.col("role").fill_null("")))
        .otherwise(pl.lit(""))
    )
    return rows.select(
        pl.Series("exception_id", ids, pl.String()),
        pl.col("fault").alias("type"),
        "source",
        "event_id",
        "entity",
        pl.col("facility").fill_null(""),
        "currency",
        "amount_minor",
        detail.alias("detail"),
        pl.lit(now_ms).cast(EXCEPTIONS["raised_at"]).alias("raised_at"),
    )


def exception_id(stands: tuple[str, int]) -> str:
    """The exception of a type under which an event stands, by its identity hash (a conflict: by its content's)."""
    fault, cause = stands
    return xxhash.xxh64_hexdigest(f"{fault}\x1f{cause:016x}".encode())


def _flag_id(flag: ItemFlag) -> str:
    return xxhash.xxh64_hexdigest(f"{flag.fault}\x1f{flag.source}\x1f{flag.event_id}\x1f{flag.cause}".encode())


def _flagged(flags: Sequence[ItemFlag], now_ms: int) -> pl.DataFrame:
    raised_at = datetime.fromtimestamp(now_ms / 1000, UTC)
    rows = [
        (_flag_id(one), one.fault, one.source, one.event_id, one.entity, one.facility, one.currency)
        + (one.residual_minor, one.detail, raised_at)
        for one in flags
    ]
    return pl.DataFrame(rows, schema=EXCEPTIONS, orient="row")


def _statuses(told: Sequence[tuple[Told, str, int]]) -> pl.DataFrame:
    """What is told of documents, made column by column: row by row it takes twice as long."""
    if not told:
        return empty(STATUSES)
    ones, flows, times_ms = zip(*told, strict=True)
    columns = dict(zip(Told._fields, zip(*ones, strict=True), strict=True))
    ids = [
        xxhash.xxh64_hexdigest("\x1f".join(map(str, (*one, now_ms))).encode())
        for one, now_ms in zip(ones, times_ms, strict=True)
    ]
    return pl.DataFrame({**columns, "flow": flows, "status_id": ids, "occurred_at": times_ms}).select(
        pl.col(name).cast(dtype) for name, dtype in STATUSES.items()
    )


def _concat(parts: list[pl.DataFrame], columns: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.concat(parts) if parts else empty(columns)
