"""One shard's engine: a function of its snapshot and the log, from frames to effects.

Owns what the shard knows: ids taken, open items, rows that wait, rows that are held, the crosswalk. `step` is the only
way in; it never blocks, reads no clock (time comes with the entries) and asks for nothing. Replaying the same records
in the same steps gives the same effects, byte for byte.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import msgspec
import polars as pl

from runtime.effects import Effects, empty
from runtime.errors import FrameError
from runtime.flow import frames
from runtime.flow.dedupe import DedupeMemory, Verdict
from runtime.ledger.classes import Classes, rules
from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow
from runtime.ledger.open_items import Change, Event, OpenItems
from runtime.ledger.posting import PostingRules
from runtime.ledger.rules import Rulebook
from runtime.ports import LogRecord
from runtime.schema import STAMPED
from runtime.step import (
    CONFLICT,
    ID_AT,
    MOVES,
    UNCLASSIFIED,
    UNMAPPED,
    Parked,
    Step,
    frame_of,
    kept_rows,
    moves,
    parted,
    unparked,
)

_HELD = {**STAMPED, "fault": pl.String()}
_ROW = ("id_hash", "kind", "entity", "amount_minor", "document", "reference", "source", "event_id", "currency")


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
        self._crosswalk = Crosswalk()
        self._posting = PostingRules(rulebook, self._crosswalk, opens_on)
        self._seen = DedupeMemory()
        self._items = OpenItems(rulebook, open_items_max)
        self._parked: dict[int, Parked] = {}  # waiting for a counterpart, by id hash
        self._held = empty(_HELD)  # waiting for a mapping or a class
        self._now_ms = 0
        self._linked = [name for name, kind in rulebook.kind.items() if kind.links]
        self._classes = Classes(rulebook)
        self._noted = {name: rule.raises for name, rule in rules(rulebook).items() if rule.raises}
        self._silent = [name for name, rule in rules(rulebook).items() if rule.mode == "none"]

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
        step = Step(records[-1].position)
        waiting: list[pl.DataFrame] = []
        for record in records:
            if record.type == "events":
                waiting.append(frames.decode_sealed(record.body))
                continue
            self._take_events(waiting, step)
            waiting = []
            self._take_control(frames.decode_control(record.body), step)
        self._take_events(waiting, step)
        return step.effects(len(self._items.items), len(self._parked) + len(self._held))

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_events(self, waiting: list[pl.DataFrame], step: Step) -> None:
        if not waiting:
            return
        frame = pl.concat(waiting) if len(waiting) > 1 else waiting[0]
        self._now_ms = max(self._now_ms, _ms(frame["received_at"].max()))
        verdicts = pl.Series(self._seen.judge(frame["id_hash"].to_numpy(), frame["digest"].to_numpy()))
        step.read += len(frame)
        step.repeats(frame.filter(verdicts == Verdict.REPEAT))
        self._excepted(moves(frame.filter(verdicts == Verdict.CONFLICT), fault=CONFLICT), step)
        new, linked = verdicts == Verdict.NEW, frame["kind"].is_in(self._linked)
        self._settle([*self._match(frame.filter(new & linked), step), moves(frame.filter(new & ~linked))], step)

    def _match(self, fresh: pl.DataFrame, step: Step) -> list[pl.DataFrame]:
        """Run rows through the open items one by one; the moves of those that are ready."""
        if fresh.is_empty():
            return []
        changes: dict[int, Change] = {}
        arrivals: dict[int, int] = {}
        for at, (*event, received_ms) in enumerate(fresh.select(*_ROW, pl.col("received_at").cast(pl.Int64())).rows()):
            arrivals[event[0]] = at
            for change in self._items.take(Event(*event), received_ms):
                changes[change.id] = change
        return self._apply(changes, fresh, arrivals, step)

    def _apply(
        self, changes: dict[int, Change], fresh: pl.DataFrame, arrivals: dict[int, int], step: Step
    ) -> list[pl.DataFrame]:
        """Move changed rows, arrivals and parked ones; only the last change of each row in the step counts."""
        ready = [id for id, change in changes.items() if change.state == "ready"]
        ready_now = fresh[sorted(arrivals[id] for id in ready if id in arrivals)]
        released = [self._parked.pop(id) for id in ready if id not in arrivals]
        step.resolve((parked.fault, parked.row[ID_AT]) for parked in released)
        self._park([change for change in changes.values() if change.state == "waiting"], fresh, arrivals, step)
        self._park([change for change in changes.values() if change.state == "excepted"], fresh, arrivals, step)
        for flag in self._items.take_flags():
            step.flag(flag, self._now_ms)
        return [moves(ready_now), unparked(released)]

    def _park(self, concerned: list[Change], fresh: pl.DataFrame, arrivals: dict[int, int], step: Step) -> None:
        """Keep rows that are not ready, all of one state: those that came now, and those that were kept before."""
        if not concerned:
            return
        state = "pending" if concerned[0].state == "waiting" else "excepted"
        came = [change for change in concerned if change.id not in self._parked]
        stayed = [change for change in concerned if change.id in self._parked]
        before = [self._parked[change.id] for change in stayed]
        rows = fresh[[arrivals[change.id] for change in came]]
        step.resolve((parked.fault, parked.row[ID_AT]) for parked in before)
        moved = pl.concat(
            [
                moves(rows).with_columns(pl.Series("fault", [change.fault for change in came], pl.String())),
                unparked(before, [change.fault for change in stayed]),
            ]
        )
        step.pending(moved) if state == "pending" else self._excepted(moved, step)
        kept = [*kept_rows(rows), *(parked.row for parked in before)]
        for change, row in zip([*came, *stayed], kept, strict=True):
            self._parked[change.id] = Parked(row, state, change.fault)

    def _settle(self, done: Sequence[pl.DataFrame], step: Step) -> None:
        """Rows with nothing left to wait for: exclude what posts nothing, book the rest, hold what has no rule."""
        posting = []
        for rows in done:
            ruled = rows.with_columns(self._classes.rules_of(rows))
            step.note(ruled, self._noted, self._now_ms)
            silent, loud = parted(ruled, ruled["rule"].is_in(self._silent))
            step.excluded(silent)
            unruled, to_post = parted(loud, loud["rule"] == "")
            self._hold(unruled, UNCLASSIFIED, step)
            posting.append(to_post)
        self._book(pl.concat(posting), step)

    def _book(self, done: pl.DataFrame, step: Step) -> None:
        """Post what has accounts, hold the rest. Rows come with their `rule`."""
        if done.is_empty():
            return
        rows = done.with_columns(pl.int_range(pl.len(), dtype=pl.Int64()).alias("row"))
        posted = self._posting.post(rows, step.sets)
        unmapped = posted.unmapped.sort("row")
        set_no = pl.repeat(None, len(rows), dtype=pl.Int32(), eager=True).alias("set_no")
        booked = rows.with_columns(set_no.scatter(posted.set_of["row"], posted.set_of["set_no"]))
        step.booked(parted(booked, booked["set_no"].is_not_null())[0], posted.deltas)
        self._hold(rows[unmapped["row"]].with_columns(unmapped["role"]), UNMAPPED, step)

    def _hold(self, rows: pl.DataFrame, fault: str, step: Step) -> None:
        if rows.is_empty():
            return
        held = rows.with_columns(pl.lit(fault).alias("fault"))
        self._excepted(held.select(*MOVES), step)
        self._held = pl.concat([self._held, held.select(*_HELD)])

    def _excepted(self, rows: pl.DataFrame, step: Step) -> None:
        step.excepted(rows, self._now_ms)

    # ── control ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_control(self, message: dict, step: Step) -> None:
        takers = {"mapping": self._take_mapping, "tick": self._take_tick}
        taker = takers.get(message.get("type", ""))
        if taker is None:
            raise FrameError("unknown_control", "type", "this runtime knows " + ", ".join(takers))
        taker(message, step)

    def _take_mapping(self, message: dict, step: Step) -> None:
        """A mapping version: from now on it counts, and what was held for want of it is tried again."""
        rows = msgspec.convert(message["rows"], list[CrosswalkRow])
        if not self._crosswalk.apply(message["version"], rows):
            return
        self._posting.mapping_changed()
        held, self._held = self._held, empty(_HELD)
        retried = Step(step.position, sets=step.sets)
        self._settle([moves(held[list(STAMPED)], was="excepted")], retried)
        step.take_released(retried)
        released = held.join(self._held, on="id_hash", how="anti")
        step.resolve(released.select("fault", "id_hash").iter_rows())

    def _take_tick(self, message: dict, step: Step) -> None:
        """Time: what waits too long becomes an exception."""
        self._now_ms = max(self._now_ms, message["now_ms"])
        changes = {change.id: change for change in self._items.age(self._now_ms)}
        self._settle(self._apply(changes, empty(STAMPED), {}, step), step)

    # ── snapshot ───────────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> bytes:
        """The whole state after the last step."""
        ids, digests = self._seen.dump()
        parked = [(p.state, p.fault) for p in self._parked.values()]
        rows = frame_of([p.row for p in self._parked.values()])
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
        self._held = frames.decode_sealed(state.held)
        self._crosswalk.load(state.crosswalk_version, state.crosswalk)
        self._posting.mapping_changed()
        parked = frames.decode_sealed(state.parked)
        stood = parked.select("_state", "_fault").rows()
        self._parked = {row[ID_AT]: Parked(row, *stands) for row, stands in zip(kept_rows(parked), stood, strict=True)}


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
