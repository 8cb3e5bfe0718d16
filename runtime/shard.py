"""One shard's engine: a function of its snapshot and the log, from frames to effects.

Owns what the shard knows: ids taken, open items, rows that wait, rows that are held, the crosswalk. `step` is the only
way in; it never blocks, reads no clock (time comes with the entries) and asks for nothing. Replaying the same records
in the same steps gives the same effects, byte for byte.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime

import msgspec
import polars as pl

from runtime.effects import Effects, empty
from runtime.errors import FrameError
from runtime.flow import frames
from runtime.flow.dedupe import DedupeMemory, Verdict
from runtime.ledger.account_balances import AccountBalances, AccountTerms
from runtime.ledger.classes import Classes, rules
from runtime.ledger.correlation import Correlation
from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow
from runtime.ledger.following import Following
from runtime.ledger.open_items import FULL, Change, Event, OpenItems
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
    event_of,
    exception_id,
    frame_of,
    kept_rows,
    moves,
    parted,
    unparked,
)

_HELD = {**STAMPED, "fault": pl.String()}
_ROW = Event._fields[1:]  # after the id, which is the row's hash


class Snapshot(msgspec.Struct, array_like=True):
    """Everything a shard knows, as bytes."""

    now_ms: int
    ids: bytes
    digests: bytes
    items: bytes
    registers: bytes
    balances: list[bytes]
    parked: bytes
    held: bytes
    opens_on: list[tuple[str, date]]
    decided: list[int]
    crosswalk_version: int
    crosswalk: list[tuple[int, CrosswalkRow]]


class ShardEngine:
    """The state of one shard, changed by `step` alone."""

    def __init__(self, rulebook: Rulebook, opens_on: Mapping[str, date], open_items_max: int) -> None:
        self._crosswalk = Crosswalk()
        self._opens_on = dict(opens_on)
        self._posting = PostingRules(rulebook, self._crosswalk, opens_on)
        self._seen = DedupeMemory()
        self._items = OpenItems(rulebook, open_items_max)
        self._registers = Correlation(rulebook, self._crosswalk)
        signs = {name: kind.balance for name, kind in rulebook.kind.items()}
        kept = [terms for terms in rulebook.register.values() if isinstance(terms, AccountTerms)]
        self._balances = [AccountBalances(terms, signs) for terms in kept]
        self._parked: dict[int, Parked] = {}  # waiting for a counterpart, by id hash
        self._held = empty(_HELD)  # waiting for a mapping, a class or a person
        self._decided: set[int] = set()  # decisions taken
        self._now_ms = 0
        self._linked = [name for name, kind in rulebook.kind.items() if kind.links]
        self._held_back = _held_back(rulebook)
        self._classes = Classes(rulebook, self._crosswalk)
        self._noted = {name: rule.raises for name, rule in rules(rulebook).items() if rule.raises}
        self._silent = [name for name, rule in rules(rulebook).items() if rule.mode == "none" and not rule.maps]
        self._unposting = [name for name, rule in rules(rulebook).items() if rule.mode == "none"]
        self._following = Following(rulebook)
        self._missing = {name: role.missing for name, role in rulebook.role.items() if role.missing}

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
        held = int((self._held["fault"] != CONFLICT).sum())
        return step.effects(len(self._items.items), len(self._parked) + held)

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_events(self, waiting: list[pl.DataFrame], step: Step) -> None:
        if not waiting:
            return
        frame = pl.concat(waiting) if len(waiting) > 1 else waiting[0]
        if len(waiting) > 1 and frame["kind"].is_in(self._held_back).any():
            for one in waiting:  # a later frame's hold does not reach back, however steps are cut
                self._take_events([one], step)
            return
        self._now_ms = max(self._now_ms, _ms(frame["received_at"].max()))
        verdicts = pl.Series(self._seen.judge(frame["id_hash"].to_numpy(), frame["digest"].to_numpy()))
        step.read += len(frame)
        step.repeats(frame.filter(verdicts == Verdict.REPEAT))
        self._hold(moves(frame.filter(verdicts == Verdict.CONFLICT)), CONFLICT, step)
        new, linked = verdicts == Verdict.NEW, frame["kind"].is_in(self._linked)
        fresh = frame.filter(new & linked)
        last, fresh = parted(fresh, fresh["kind"].is_in(self._held_back))
        self._settle([*self._match(fresh, step), moves(frame.filter(new & ~linked))], step)
        self._settle(self._match(last, step), step)

    def _match(self, fresh: pl.DataFrame, step: Step) -> list[pl.DataFrame]:
        """Run rows through the open items one by one; the moves of those that are ready."""
        if fresh.is_empty():
            return []
        changes: dict[int, Change] = {}
        arrivals: dict[int, int] = {}
        columns = fresh.select("id_hash", *_ROW, pl.col("received_at").cast(pl.Int64()))
        for at, (*event, received_ms) in enumerate(columns.rows()):
            arrivals[event[0]] = at
            for change in self._items.take(Event(*event), received_ms):
                changes.pop(change.id, None)  # so that they stand in the order in which rows became ready
                changes[change.id] = change
        return self._apply(changes, fresh, arrivals, step)

    def _apply(
        self, changes: dict[int, Change], fresh: pl.DataFrame, arrivals: dict[int, int], step: Step
    ) -> list[pl.DataFrame]:
        """Move changed rows, arrivals and parked ones; only the last change of each row in the step counts.

        Rows go on in the order in which they became ready, so that what opens an item is entered before what uses it.
        """
        ready = [id for id, change in changes.items() if change.state == "ready"]
        ready_now = fresh[[arrivals[id] for id in ready if id in arrivals]]
        released = [self._parked.pop(id) for id in ready if id not in arrivals]
        step.resolve((parked.fault, parked.row[ID_AT]) for parked in released)
        self._park([change for change in changes.values() if change.state == "waiting"], fresh, arrivals, step)
        self._park([change for change in changes.values() if change.state == "excepted"], fresh, arrivals, step)
        step.flag(self._items.take_flags(), self._now_ms)
        step.tell(self._items.take_told(), self._following.flows, self._now_ms)
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
        queue, posting = deque(done), []
        while queue:
            rows = queue.popleft()
            if rows.is_empty():
                continue
            entered, more = self._enter(rows, step)
            queue += more
            ruled = entered.with_columns(self._classes.rules_of(entered))
            step.note(ruled, self._noted, self._now_ms)
            silent, loud = parted(ruled, ruled["rule"].is_in(self._silent))
            self._exclude(silent, step)
            unruled, to_post = parted(loud, loud["rule"] == "")
            self._hold(unruled, UNCLASSIFIED, step)
            posting.append(to_post)
        if posting:
            self._book(pl.concat(posting), step)

    def _enter(self, rows: pl.DataFrame, step: Step) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
        """Enter rows in their registers. The rows that go on, and others that became ready by it."""
        concerned = rows["kind"].is_in(self._registers.kinds)
        if not concerned.any():
            return rows, []
        faults = pl.Series(self._registers.enter(rows.filter(concerned), self._now_ms), dtype=pl.String())
        fault = pl.repeat("", len(rows), eager=True).scatter(concerned.arg_true(), faults)
        faulty, going_on = parted(rows.with_columns(fault.alias("fault_found")), fault != "")
        for name in faulty["fault_found"].unique().sort():
            self._hold(faulty.filter(pl.col("fault_found") == name).drop("fault_found"), name, step)
        return going_on.drop("fault_found"), self._take_marks(step)

    def _take_marks(self, step: Step) -> list[pl.DataFrame]:
        """Do what registers ask for; the moves of rows that became ready by it."""
        marks = self._registers.drain()
        step.flag(marks.flags, self._now_ms)
        step.tell(marks.told, self._following.flows, self._now_ms)
        step.derive(self._following.derivings(marks.derived))
        for hold in marks.holds:
            self._items.hold(hold)
        changes = {change.id: change for change in self._items.drain()}
        return self._apply(changes, empty(STAMPED), {}, step)

    def _book(self, done: pl.DataFrame, step: Step) -> None:
        """Post what has accounts, hold the rest. Rows come with their `rule`."""
        if done.is_empty():
            return
        rows = done.with_columns(pl.int_range(pl.len(), dtype=pl.Int64()).alias("row"))
        posted = self._posting.post(rows, step.sets, self._registers.findings)
        set_no = pl.repeat(None, len(rows), dtype=pl.Int32(), eager=True).alias("set_no")
        through = rows.with_columns(set_no.scatter(posted.set_of["row"], posted.set_of["set_no"]))
        through = parted(through, through["set_no"].is_not_null())[0]
        unposting, booked = parted(through, through["rule"].is_in(self._unposting))
        step.booked(booked, posted.deltas)
        if posted.turnover.height:
            step.turned_over(booked.join(posted.turnover, on="row"))
        step.excluded(unposting.drop("set_no"))
        self._follow(through, step)
        unmapped = posted.unmapped.sort("row")
        for fault, missing in self._faults_of(unmapped):
            self._hold(rows[missing["row"]].with_columns(missing["role"]), fault, step)

    def _faults_of(self, unmapped: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
        """Rows whose role has no account, by the exception that this is."""
        named = unmapped.with_columns(
            pl.col("role").replace_strict(self._missing, default=UNMAPPED, return_dtype=pl.String()).alias("fault")
        )
        return [(fault, rows) for (fault,), rows in sorted(named.partition_by("fault", as_dict=True).items())]

    def _exclude(self, rows: pl.DataFrame, step: Step) -> None:
        """Rows that post nothing by rule."""
        step.excluded(rows)
        self._follow(rows, step)

    def _follow(self, rows: pl.DataFrame, step: Step) -> None:
        """What settled rows bring with them: derived events, and what consumers are told."""
        if rows.is_empty():
            return
        for balances in self._balances:
            balances.add(rows, self._now_ms)
        step.derive(self._following.derived(rows))
        step.told(self._following.told(rows))
        if self._registers.findings:
            self._registers.booked(rows.filter(pl.col("kind").is_in(self._registers.kinds))["id_hash"].to_list())

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
        takers = {
            "mapping": self._take_mapping,
            "tick": self._take_tick,
            "decision": self._take_decision,
            "period": self._take_period,
        }
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
        self._classes.mapping_changed()
        self._retry_held(self._held["fault"] != CONFLICT, step)

    def _retry_held(self, chosen: pl.Series, step: Step) -> None:
        """Try held rows again; what is held again for the same reason stays as it was."""
        tried, kept = parted(self._held, chosen)
        self._held = kept
        retried = Step(step.position, sets=step.sets)
        self._settle([moves(tried[list(STAMPED)], was="excepted")], retried)
        same = ["id_hash", "digest", "fault"]
        step.take_retried(retried, unchanged=tried.join(self._held, on=same, how="semi"))
        step.resolve(_standing(tried.join(self._held, on=same, how="anti")))

    def _take_tick(self, message: dict, step: Step) -> None:
        """Time: what waits too long becomes an exception."""
        self._now_ms = max(self._now_ms, message["now_ms"])
        changes = {change.id: change for change in self._items.age(self._now_ms)}
        self._registers.age(self._now_ms)
        for balances in self._balances:
            step.flag(balances.age(self._now_ms), self._now_ms)
        ready = self._apply(changes, empty(STAMPED), {}, step)
        self._settle([*ready, *self._take_marks(step), *self._retry_refused(step)], step)

    def _retry_refused(self, step: Step) -> list[pl.DataFrame]:
        """Rows that found no room for their items, now that there may be some."""
        refused = [parked for parked in self._parked.values() if parked.fault == FULL]
        changes: dict[int, Change] = {}
        for parked in refused:
            if not self._items.room():
                break
            changes |= {one.id: one for one in self._items.retry(event_of(parked.row), self._now_ms)}
        return self._apply(changes, empty(STAMPED), {}, step)

    def _take_period(self, message: dict, step: Step) -> None:
        """A period was closed: the entity's first open day moves on, never back."""
        entity, opens_on = message["entity"], date.fromisoformat(message["opens_on"])
        if entity in self._opens_on and opens_on > self._opens_on[entity]:
            self._opens_on[entity] = opens_on
            self._posting.open(self._opens_on)

    # ── decided by people ──────────────────────────────────────────────────────────────────────────────────────────

    def _take_decision(self, message: dict, step: Step) -> None:
        """What people decided of exceptions: try again, let go, or take out of the books."""
        if message["number"] in self._decided:
            return
        self._decided.add(message["number"])
        named = set(message["exceptions"])
        held = pl.Series([one in named for one in map(exception_id, _standing(self._held))], dtype=pl.Boolean())
        parked = [p for p in self._parked.values() if p.fault and exception_id((p.fault, p.row[ID_AT])) in named]
        deciders = {"retry": self._retry, "release": self._let_go, "exclude": self._take_out}
        deciders[message["action"]](parked, held, step)

    def _retry(self, parked: list[Parked], held: pl.Series, step: Step) -> None:
        self._redecide(self._items.retry, parked, step)
        self._retry_held(held & (self._held["fault"] != CONFLICT), step)

    def _let_go(self, parked: list[Parked], held: pl.Series, step: Step) -> None:
        self._redecide(self._items.let_go, parked, step)

    def _redecide(self, act: Callable[[Event, int], list[Change]], parked: list[Parked], step: Step) -> None:
        changes: dict[int, Change] = {}
        for one in parked:
            changes |= {change.id: change for change in act(event_of(one.row), self._now_ms)}
        self._settle(self._apply(changes, empty(STAMPED), {}, step), step)

    def _take_out(self, parked: list[Parked], held: pl.Series, step: Step) -> None:
        """Events that people take out of the books: excluded, with nothing following from them."""
        changes: dict[int, Change] = {}
        for one in parked:
            del self._parked[one.row[ID_AT]]
            changes |= {change.id: change for change in self._items.drop(event_of(one.row))}
        out, self._held = parted(self._held, held)
        step.resolve([*((one.fault, one.row[ID_AT]) for one in parked), *_standing(out)])
        step.excluded(pl.concat([unparked(parked), moves(out[list(STAMPED)], was="excepted")]))
        self._registers.booked(out["id_hash"].to_list())
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
                registers=self._registers.dump(),
                balances=[balances.dump() for balances in self._balances],
                parked=frames.encode(pl.concat([rows, states], how="horizontal")),
                held=frames.encode(self._held),
                opens_on=sorted(self._opens_on.items()),
                decided=sorted(self._decided),
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
        self._registers.load(state.registers)
        for balances, dumped in zip(self._balances, state.balances, strict=True):
            balances.load(dumped)
        self._opens_on |= {entity: max(on, self._opens_on.get(entity, on)) for entity, on in state.opens_on}
        self._posting.open(self._opens_on)
        self._decided = set(state.decided)
        self._held = frames.decode_sealed(state.held)
        self._crosswalk.load(state.crosswalk_version, state.crosswalk)
        self._posting.mapping_changed()
        self._classes.mapping_changed()
        parked = frames.decode_sealed(state.parked)
        stood = parked.select("_state", "_fault").rows()
        self._parked = {row[ID_AT]: Parked(row, *stands) for row, stands in zip(kept_rows(parked), stood, strict=True)}


def _held_back(rulebook: Rulebook) -> list[str]:
    """Kinds that use what others may hold. They are matched after the other rows of their frame have been entered in
    their registers, so that a payment does not pass a hold that came with it."""
    linked = ((name, kind.links.consumes) for name, kind in rulebook.kind.items() if kind.links and kind.links.consumes)
    return [name for name, ref in linked if rulebook.item[ref.item].held_by and not ref.past_holds]


def _standing(held: pl.DataFrame) -> list[tuple[str, int]]:
    """(type, cause) of the exceptions that held rows stand under; conflicts are told apart by their content."""
    cause = pl.when(pl.col("fault") == CONFLICT).then("digest").otherwise("id_hash")
    return held.select("fault", cause).rows()


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
