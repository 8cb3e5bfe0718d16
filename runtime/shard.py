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
from runtime.step import CONFLICT, ID_AT, MOVES, UNCLASSIFIED, UNMAPPED, Parked, Step, moves, unparked

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
        self._rulebook = rulebook
        self._crosswalk = Crosswalk()
        self._posting = PostingRules(rulebook, self._crosswalk, opens_on)
        self._seen = DedupeMemory()
        self._items = OpenItems(rulebook, open_items_max)
        self._parked: dict[int, Parked] = {}  # waiting for a counterpart, by id hash
        self._held = empty(_HELD)  # waiting for a mapping or a class
        self._now_ms = 0
        self._linked = [name for name, kind in rulebook.kind.items() if kind.links]
        self._classes = Classes(rulebook)
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
        fresh = frame.filter(verdicts == Verdict.NEW)
        linked = fresh["kind"].is_in(self._linked)
        if linked.any():
            self._match(fresh.filter(linked), step)
            fresh = fresh.filter(~linked)
        self._finish(moves(fresh), step)

    def _match(self, fresh: pl.DataFrame, step: Step) -> None:
        """Run rows through the open items one by one, then move every row whose state changed."""
        changes: dict[int, Change] = {}
        arrivals: dict[int, int] = {}
        rows = fresh.select(*_ROW, pl.col("received_at").cast(pl.Int64()))
        for at, (*event, received_ms) in enumerate(rows.iter_rows()):
            arrivals[event[0]] = at
            changes.update((change.id, change) for change in self._items.take(Event(*event), received_ms))
        self._apply(changes, fresh, arrivals, step)

    def _apply(self, changes: dict[int, Change], fresh: pl.DataFrame, arrivals: dict[int, int], step: Step) -> None:
        """Move changed rows, arrivals and parked ones; only the last change of each row in the step counts."""
        ready = [id for id, change in changes.items() if change.state == "ready"]
        ready_now = fresh[sorted(arrivals[id] for id in ready if id in arrivals)]
        released = [self._parked.pop(id) for id in ready if id not in arrivals]
        self._park(changes, fresh, arrivals, step)
        self._finish(pl.concat([moves(ready_now), unparked(released)]), step)
        for flag in self._items.take_flags():
            step.flag(flag, self._now_ms)

    def _park(self, changes: dict[int, Change], fresh: pl.DataFrame, arrivals: dict[int, int], step: Step) -> None:
        for state, move in (("waiting", step.pending), ("excepted", lambda rows: self._excepted(rows, step))):
            concerned = [change for change in changes.values() if change.state == state]
            if not concerned:
                continue
            rows = dict(zip(arrivals, fresh.iter_rows(), strict=True)) if arrivals else {}
            before = [self._parked.get(change.id) or Parked(rows[change.id], "", "") for change in concerned]
            step.resolve((parked.fault, parked.row[ID_AT]) for parked in before)
            move(unparked(before, [change.fault for change in concerned]))
            for change, parked in zip(concerned, before, strict=True):
                kept = "pending" if state == "waiting" else "excepted"
                self._parked[change.id] = Parked(parked.row, kept, change.fault)

    def _finish(self, done: pl.DataFrame, step: Step) -> None:
        """Rows with nothing left to wait for: exclude what posts nothing, book the rest, hold what has no account."""
        if done.is_empty():
            return
        step.resolve(done.filter(pl.col("fault") != "").select("fault", "id_hash").iter_rows())
        self._settle(done, step)

    def _settle(self, done: pl.DataFrame, step: Step) -> None:
        done = done.with_columns(self._classes.rules_of(done))
        silent = done["rule"].is_in(self._silent)
        step.excluded(done.filter(silent))
        self._book(done.filter(~silent), step)

    def _book(self, done: pl.DataFrame, step: Step) -> None:
        """Post what has a rule and accounts; hold the rest. Rows come with their `rule`."""
        if done.is_empty():
            return
        self._hold(done.filter(pl.col("rule") == ""), UNCLASSIFIED, step)
        rows = done.filter(pl.col("rule") != "").with_columns(pl.int_range(pl.len(), dtype=pl.Int64()).alias("row"))
        posted = self._posting.post(rows, step.sets)
        step.booked(rows.join(posted.set_of, on="row", maintain_order="left").drop("row"), posted.deltas)
        if not posted.unmapped.is_empty():
            missing = posted.unmapped.unique("row", keep="first", maintain_order=True)
            self._hold(rows.drop("role").join(missing, on="row", maintain_order="left"), UNMAPPED, step)

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
        self._settle(moves(held, was="excepted"), retried)
        step.take_released(retried)
        released = held.join(self._held, on="id_hash", how="anti")
        step.resolve(released.select("fault", "id_hash").iter_rows())

    def _take_tick(self, message: dict, step: Step) -> None:
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
        self._held = frames.decode_sealed(state.held)
        self._crosswalk.load(state.crosswalk_version, state.crosswalk)
        self._posting.mapping_changed()
        rows = (Parked(row[:-2], *row[-2:]) for row in frames.decode_sealed(state.parked).iter_rows())
        self._parked = {parked.row[ID_AT]: parked for parked in rows}


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
