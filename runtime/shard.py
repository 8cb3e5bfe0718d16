"""One shard's engine: a function of its snapshot and the log, from frames to effects.

Owns what the shard knows: ids taken, open items, rows that wait, rows that are held, the crosswalk. `step` is the only
way in; it never blocks, reads no clock (time comes with the entries) and asks for nothing. Replaying the same records in
the same steps gives the same effects, byte for byte.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

import msgspec
import polars as pl
import xxhash

from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.errors import FrameError
from runtime.flow import frames
from runtime.flow.dedupe import DedupeMemory, Verdict
from runtime.ledger.conservation import assert_balanced, assert_conserved
from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow
from runtime.ledger.open_items import Change, Event, ItemFlag, OpenItems
from runtime.ledger.posting import PostingRules
from runtime.ledger.rules import Rulebook
from runtime.ports import LogRecord
from runtime.schema import STAMPED

_ROW = ("id_hash", "kind", "entity", "amount_minor", "document", "reference", "source", "event_id", "currency")
_MOVES = {**STAMPED, "was": pl.String(), "fault": pl.String(), "role": pl.String()}
_ID_AT = list(STAMPED).index("id_hash")
_CONFLICT, _UNMAPPED = "event_conflict", "mapping_missing"


class Parked(msgspec.Struct, array_like=True, gc=False):
    """A row that is neither booked nor excluded: its columns, its state, and the exception it stands under, if any."""

    row: tuple
    state: str
    fault: str


class Snapshot(msgspec.Struct, array_like=True):
    """Everything a shard knows, as bytes."""

    now_ms: int
    ids: bytes
    digests: bytes
    items: bytes
    parked: bytes
    held: bytes
    crosswalk_version: int
    crosswalk: list[tuple[int, CrosswalkRow]]


class ShardEngine:
    """The state of one shard, changed by `step` alone."""

    def __init__(self, rulebook: Rulebook, opens_on: Mapping[str, date], open_items_max: int) -> None:
        self._rulebook = rulebook
        self._crosswalk = Crosswalk()
        self._posting = PostingRules(rulebook, self._crosswalk, opens_on)
        self._seen = DedupeMemory()
        self._items = OpenItems(rulebook, open_items_max)
        self._parked: dict[int, Parked] = {}  # waiting for a counterpart, by id hash
        self._held = empty(STAMPED)  # waiting for a mapping
        self._now_ms = 0
        self._linked = [name for name, kind in rulebook.kind.items() if kind.links]
        self._silent = [name for name, kind in rulebook.kind.items() if kind.mode == "none"]

    @property
    def remembered(self) -> int:
        """Ids in the dedupe memory."""
        return len(self._seen)

    @property
    def mapping_version(self) -> int:
        """The newest mapping version that came through the log."""
        return self._crosswalk.version

    def step(self, records: Sequence[LogRecord]) -> Effects:
        """Take records of the log in order; everything that follows from them."""
        step = _Step(records[-1].position)
        waiting: list[pl.DataFrame] = []
        for record in records:
            if record.type == "events":
                waiting.append(frames.decode(record.body))
                continue
            self._take_events(waiting, step)
            waiting = []
            self._take_control(frames.decode_control(record.body), step)
        self._take_events(waiting, step)
        return step.effects(len(self._items.items), len(self._parked) + len(self._held))

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_events(self, waiting: list[pl.DataFrame], step: "_Step") -> None:
        if not waiting:
            return
        frame = pl.concat(waiting) if len(waiting) > 1 else waiting[0]
        self._now_ms = max(self._now_ms, _ms(frame["received_at"].max()))
        verdicts = pl.Series(self._seen.judge(frame["id_hash"].to_numpy(), frame["digest"].to_numpy()))
        step.read += len(frame)
        step.repeats(frame.filter(verdicts == Verdict.REPEAT))
        self._excepted(_moves(frame.filter(verdicts == Verdict.CONFLICT), fault=_CONFLICT), step)
        fresh = frame.filter(verdicts == Verdict.NEW)
        linked = fresh["kind"].is_in(self._linked)
        if linked.any():
            self._match(fresh.filter(linked), step)
            fresh = fresh.filter(~linked)
        self._finish(_moves(fresh), step)

    def _match(self, fresh: pl.DataFrame, step: "_Step") -> None:
        """Run rows through the open items one by one, then move every row whose state changed."""
        changes: dict[int, Change] = {}
        arrivals: dict[int, int] = {}
        for at, event in enumerate(fresh.select(_ROW).iter_rows()):
            arrivals[event[0]] = at
            changes.update((change.id, change) for change in self._items.take(Event(*event), self._now_ms))
        self._apply(changes, fresh, arrivals, step)

    def _apply(self, changes: dict[int, Change], fresh: pl.DataFrame, arrivals: dict[int, int], step: "_Step") -> None:
        """Move changed rows, arrivals and parked ones; only the last change of each row in the step counts."""
        ready = [id for id, change in changes.items() if change.state == "ready"]
        ready_now = fresh[sorted(arrivals[id] for id in ready if id in arrivals)]
        released = [self._parked.pop(id) for id in ready if id not in arrivals]
        self._park(changes, fresh, arrivals, step)
        self._finish(pl.concat([_moves(ready_now), _unparked(released)]), step)
        for flag in self._items.take_flags():
            step.flag(flag, self._now_ms)

    def _park(self, changes: dict[int, Change], fresh: pl.DataFrame, arrivals: dict[int, int], step: "_Step") -> None:
        for state, move in (("waiting", step.pending), ("excepted", lambda rows: self._excepted(rows, step))):
            concerned = [change for change in changes.values() if change.state == state]
            if not concerned:
                continue
            rows = dict(zip(arrivals, fresh.iter_rows(), strict=True)) if arrivals else {}
            before = [self._parked.get(change.id) or Parked(rows[change.id], "", "") for change in concerned]
            move(_unparked(before, [change.fault for change in concerned]))
            for change, parked in zip(concerned, before, strict=True):
                kept = "pending" if state == "waiting" else "excepted"
                self._parked[change.id] = Parked(parked.row, kept, change.fault)
            step.resolve(parked for parked in before if parked.fault)

    def _finish(self, moves: pl.DataFrame, step: "_Step") -> None:
        """Rows with nothing left to wait for: exclude what posts nothing, book the rest, hold what has no account."""
        if moves.is_empty():
            return
        step.resolve_moved(moves)
        silent = moves["kind"].is_in(self._silent)
        step.excluded(moves.filter(silent))
        self._book(moves.filter(~silent), step)

    def _book(self, moves: pl.DataFrame, step: "_Step") -> None:
        if moves.is_empty():
            return
        rows = moves.with_columns(pl.int_range(pl.len(), dtype=pl.Int64()).alias("row"))
        posted = self._posting.post(rows, step.sets)
        step.booked(rows.join(posted.set_of, on="row", maintain_order="left").drop("row"), posted.deltas)
        if posted.unmapped.is_empty():
            return
        missing = posted.unmapped.unique("row", keep="first", maintain_order=True)
        held = rows.drop("role").join(missing, on="row", maintain_order="left").drop("row")
        self._excepted(held.with_columns(pl.lit(_UNMAPPED).alias("fault")).select(*_MOVES), step)
        self._held = pl.concat([self._held, held.select(*STAMPED)])

    def _excepted(self, moves: pl.DataFrame, step: "_Step") -> None:
        step.excepted(moves, self._now_ms)

    # ── control ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_control(self, message: dict, step: "_Step") -> None:
        takers = {"mapping": self._take_mapping, "tick": self._take_tick}
        taker = takers.get(message.get("type", ""))
        if taker is None:
            raise FrameError("unknown_control", "type", "this runtime knows " + ", ".join(takers))
        taker(message, step)

    def _take_mapping(self, message: dict, step: "_Step") -> None:
        """A mapping version: from now on it counts, and what was held for want of it is tried again."""
        rows = msgspec.convert(message["rows"], list[CrosswalkRow])
        if not self._crosswalk.apply(message["version"], rows):
            return
        self._posting.mapping_changed()
        held, self._held = self._held, empty(STAMPED)
        retried = _Step(step.position, sets=step.sets)
        self._book(_moves(held, was="excepted"), retried)
        step.take_released(retried)

    def _take_tick(self, message: dict, step: "_Step") -> None:
        """Time: what waits too long becomes an exception."""
        self._now_ms = max(self._now_ms, message["now_ms"])
        changes = {change.id: change for change in self._items.age(self._now_ms)}
        self._apply(changes, empty(STAMPED), {}, step)

    # ── snapshot ───────────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> bytes:
        """The whole state after the last step."""
        ids, digests = self._seen.dump()
        parked = [(p.state, p.fault) for p in self._parked.values()]
        rows = pl.DataFrame([p.row for p in self._parked.values()], schema=STAMPED, orient="row")
        states = pl.DataFrame(parked, schema={"_state": pl.String(), "_fault": pl.String()}, orient="row")
        return msgspec.msgpack.encode(
            Snapshot(
                now_ms=self._now_ms,
                ids=ids,
                digests=digests,
                items=self._items.dump(),
                parked=frames.encode(pl.concat([rows, states], how="horizontal")),
                held=frames.encode(self._held),
                crosswalk_version=self._crosswalk.version,
                crosswalk=self._crosswalk.dump(),
            )
        )

    def restore(self, snapshot: bytes) -> None:
        """Become what a snapshot says."""
        state = msgspec.msgpack.decode(snapshot, type=Snapshot)
        self._now_ms = state.now_ms
        self._seen.load(state.ids, state.digests)
        self._items.load(state.items)
        self._held = frames.decode(state.held)
        self._crosswalk.load(state.crosswalk_version, state.crosswalk)
        self._posting.mapping_changed()
        rows = (Parked(row[:-2], *row[-2:]) for row in frames.decode(state.parked).iter_rows())
        self._parked = {parked.row[_ID_AT]: parked for parked in rows}


class _Step:
    """Collects what a step does, frame by frame, and sums it up at the end."""

    def __init__(self, position: str, sets: int = 0) -> None:
        self.position = position
        self.sets = sets
        self.read = 0
        self._moved: list[pl.DataFrame] = []
        self._repeats: list[pl.DataFrame] = []
        self._deltas: list[pl.DataFrame] = []
        self._raised: list[pl.DataFrame] = []
        self._resolved: set[str] = set()

    def repeats(self, rows: pl.DataFrame) -> None:
        if len(rows):
            self._repeats.append(rows)

    def pending(self, moves: pl.DataFrame) -> None:
        self._move(moves, "pending")

    def excluded(self, moves: pl.DataFrame) -> None:
        self._move(moves, "excluded")

    def booked(self, moves: pl.DataFrame, deltas: pl.DataFrame) -> None:
        self._move(moves, "booked")
        self._deltas.append(deltas)
        self.sets += deltas["set_no"].n_unique()

    def excepted(self, moves: pl.DataFrame, now_ms: int) -> None:
        if moves.is_empty():
            return
        self._move(moves, "excepted")
        self._raised.append(_raised(moves, now_ms))

    def _move(self, moves: pl.DataFrame, state: str) -> None:
        if moves.is_empty():
            return
        set_no = [] if "set_no" in moves.columns else [pl.lit(-1, pl.Int32()).alias("set_no")]
        self._moved.append(
            moves.with_columns(pl.lit(state).alias("state"), *set_no).select(*STAMPED, "was", "state", "set_no")
        )

    def resolve(self, parked: object) -> None:
        """End the exceptions that rows stood under until now."""
        self._resolved.update(_event_exception_id(p.fault, p.row[_ID_AT]) for p in parked)

    def resolve_moved(self, moves: pl.DataFrame) -> None:
        stood = moves.filter(pl.col("fault") != "")
        self._resolved.update(
            _event_exception_id(fault, id) for fault, id in stood.select("fault", "id_hash").iter_rows()
        )

    def flag(self, flag: ItemFlag, now_ms: int) -> None:
        exception_id = xxhash.xxh64_hexdigest(f"{flag.fault}\x1f{flag.source}\x1f{flag.event_id}".encode())
        if not flag.raised:
            self._resolved.add(exception_id)
            return
        raised_at = datetime.fromtimestamp(now_ms / 1000, UTC)
        row = (exception_id, flag.fault, flag.source, flag.event_id, flag.entity, "", flag.currency)
        row += (flag.residual_minor, "what this event opened was not used up in time", raised_at)
        self._raised.append(pl.DataFrame([row], schema=EXCEPTIONS, orient="row"))

    def take_released(self, retried: "_Step") -> None:
        """Keep what a retry of held rows booked; what it holds again stays as it was."""
        self.sets = retried.sets
        self._deltas += retried._deltas
        for moved in retried._moved:
            released = moved.filter(pl.col("state") == "booked")
            if len(released):
                self._moved.append(released)
                self._resolved.update(_event_exception_id(_UNMAPPED, id) for id in released["id_hash"])

    def effects(self, open_items: int, waiting: int) -> Effects:
        moved = _concat(self._moved, {**STAMPED, "was": pl.String(), "state": pl.String(), "set_no": pl.Int32()})
        repeats = _concat(self._repeats, STAMPED)
        deltas = _concat(self._deltas, DELTAS)
        totals = _totals(moved, repeats)
        assert_balanced(deltas)
        assert_conserved(totals)
        exceptions = _concat(self._raised, EXCEPTIONS).unique("exception_id", keep="first").sort("exception_id")
        return Effects(
            deltas=deltas,
            totals=totals,
            exceptions=exceptions,
            resolved=tuple(sorted(self._resolved - set(exceptions["exception_id"]))),
            outcomes=moved.select(
                pl.lit(self.position).alias(name) if name == "position" else pl.col(name) for name in OUTCOMES
            ),
            counts=self._counts(moved, len(repeats), open_items, waiting),
        )

    def _counts(self, moved: pl.DataFrame, repeats: int, open_items: int, waiting: int) -> StepCounts:
        arrived = moved["was"].is_null()
        booked = moved["state"] == "booked"
        return StepCounts(
            read=self.read,
            accepted=int(arrived.sum()),
            duplicate=repeats,
            conflict=sum(int((frame["type"] == _CONFLICT).sum()) for frame in self._raised),
            booked=int(booked.sum()),
            released=int((booked & ~arrived).sum()),
            open_items=open_items,
            waiting=waiting,
        )


def _totals(moved: pl.DataFrame, repeats: pl.DataFrame) -> pl.DataFrame:
    """Signed changes of the control totals: arrivals are accepted, every move leaves one state and enters another."""
    arrivals = moved.filter(pl.col("was").is_null())
    parts = [
        _signed(arrivals, pl.lit("accepted"), 1),
        _signed(moved, pl.col("state"), 1),
        _signed(moved.filter(pl.col("was").is_not_null()), pl.col("was"), -1),
        _signed(repeats, pl.lit("duplicate"), 1),
    ]
    keys = [name for name in TOTALS if name not in ("events", "amount_minor")]
    return (
        pl.concat(parts)
        .group_by(keys)
        .agg(pl.col("events").sum(), pl.col("amount_minor").sum())
        .filter((pl.col("events") != 0) | (pl.col("amount_minor") != 0))
        .sort(keys)
    )


def _signed(rows: pl.DataFrame, state: pl.Expr, sign: int) -> pl.DataFrame:
    return (
        rows.group_by("source", "entity", pl.col("facility").fill_null(""), "currency", "kind", state.alias("state"))
        .agg((pl.len().cast(pl.Int64()) * sign).alias("events"), pl.col("amount_minor").abs().sum() * sign)
        .select(pl.col(name).cast(dtype) for name, dtype in TOTALS.items())
    )


def _raised(moves: pl.DataFrame, now_ms: int) -> pl.DataFrame:
    """One exception a row. A conflict is told apart by its content, as an id may conflict more than once."""
    cause = pl.when(pl.col("fault") == _CONFLICT).then("digest").otherwise("id_hash")
    ids = [
        _event_exception_id(fault, cause)
        for fault, cause in moves.select("fault", cause.alias("cause")).iter_rows()
    ]
    detail = (
        pl.when(pl.col("fault") == _UNMAPPED)
        .then(pl.format("no account for role {}", pl.col("role").fill_null("")))
        .otherwise(pl.lit(""))
    )
    return moves.select(
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


def _event_exception_id(fault: str, cause: int) -> str:
    return xxhash.xxh64_hexdigest(f"{fault}\x1f{cause:016x}".encode())


def _moves(rows: pl.DataFrame, was: str | None = None, fault: str = "") -> pl.DataFrame:
    """Rows about to change state: where they come from, and the exception they stand under (or come to)."""
    return rows.select(
        *STAMPED,
        pl.lit(was, pl.String()).alias("was"),
        pl.lit(fault).alias("fault"),
        pl.lit(None, pl.String()).alias("role"),
    )


def _unparked(parked: Sequence[Parked], faults: Sequence[str] = ()) -> pl.DataFrame:
    """Parked rows as moves; with `faults`, the exceptions they come to instead of those they stood under."""
    rows = pl.DataFrame([p.row for p in parked], schema=STAMPED, orient="row")
    return rows.with_columns(
        pl.Series("was", [p.state or None for p in parked], pl.String()),
        pl.Series("fault", list(faults) or [p.fault for p in parked], pl.String()),
        pl.lit(None, pl.String()).alias("role"),
    )


def _concat(parts: list[pl.DataFrame], columns: dict[str, pl.DataType]) -> pl.DataFrame:
    return pl.concat(parts) if parts else empty(columns)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
