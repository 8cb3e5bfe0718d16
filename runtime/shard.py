"""One shard's engine: a function of its snapshot and the log, from records to effects.

Owns the shard's whole state, and what control messages change in it: mappings, time, closed periods, decisions. `step`
is the only way in; it never blocks, reads no clock (time comes with the entries) and asks for nothing. Replaying the
same records in the same steps gives the same effects, byte for byte.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import count, groupby
from operator import attrgetter
from typing import NamedTuple

import msgspec
import polars as pl

from runtime.effects import Effects
from runtime.errors import FrameError
from runtime.flow import frames
from runtime.intake import Intake
from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow
from runtime.ledger.matching import FULL
from runtime.ledger.rules import Rulebook
from runtime.ledger.waiting import Change, Event
from runtime.pool import in_pool
from runtime.ports import START, Buffer, LogRecord, run_name
from runtime.runs import Run, RunNames, parts_of, run_of
from runtime.schema import STAMPED, lasting
from runtime.step import CONFLICT, Step, exception_id, moves, parted


class Snapshot(msgspec.Struct, array_like=True):
    """Everything a shard knows, as bytes, but for the runs, which are named."""

    now_ms: int
    ids: list[str]
    items: bytes
    registers: bytes
    balances: list[tuple[bytes, list[str]]]
    parked: bytes
    held: bytes
    opens_on: list[tuple[str, date]]
    decided: list[int]
    crosswalk_version: int
    crosswalk: list[tuple[int, CrosswalkRow]]


class Frozen(NamedTuple):
    """Everything a shard knew after a step, as things that never change: taken at once, and made bytes of (`body`) by
    whoever has time, while the shard goes on."""

    runs: dict[str, Run]
    body: Callable[[], bytes]

    def run(self, name: str) -> bytes:
        """A run's bytes, as they are stored."""
        return b"".join(parts_of(self.runs[name]))


class ShardEngine:
    """The state of one shard, changed by `step` alone."""

    def __init__(self, rulebook: Rulebook, opens_on: Mapping[str, date], open_items_max: int) -> None:
        self._crosswalk = Crosswalk()
        self._opens_on, self._conflicts = dict(opens_on), rulebook.conflicts()
        self.intake = Intake(rulebook, self._crosswalk, opens_on, open_items_max)
        self._decided: set[int] = set()  # decisions taken
        self._id_runs, self._account_runs = RunNames(), [RunNames() for _ in self.intake.balances]

    @property
    def remembered(self) -> int:
        """Ids in the dedupe memory."""
        return len(self.intake.seen)

    @property
    def standing(self) -> tuple[int, int]:
        """How many items are open, and how many events wait for a counterpart, a mapping or a person."""
        held = int((self.intake.held["fault"] != CONFLICT).sum())
        return len(self.intake.items.items), len(self.intake.parked) + held

    @property
    def mapping_version(self) -> int:
        """The newest mapping version that came through the log."""
        return self._crosswalk.version

    def step(self, records: Sequence[LogRecord]) -> Effects:
        """Take records of the log in order; everything that follows from them."""
        return in_pool(self._step, records)

    def _step(self, records: Sequence[LogRecord]) -> Effects:
        step, intake = Step(records[-1].position, conflicts=self._conflicts), self.intake
        for type, some in groupby(records, attrgetter("type")):
            taken = list(some)
            if type == "events":
                rows = frames.decode_sealed(*(record.body for record in taken))
                intake.take(rows, [record.rows for record in taken], step)
                continue
            for record in taken:
                self._take_control(frames.decode_control(record.body), step)
        return step.effects(*self.standing)

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
        self._mapping_changed()
        intake = self.intake
        intake.settle(intake.changed(intake.items.renamed(), step), step)
        self._retry_held(self._take_held(intake.held["fault"] != CONFLICT), step)

    def _mapping_changed(self) -> None:
        self.intake.posting.mapping_changed()
        self.intake.classes.mapping_changed()
        self.intake.partners.mapping_changed()

    def _take_held(self, chosen: pl.Series) -> pl.DataFrame:
        """These of the held rows, which are held no more."""
        taken, rest = parted(self.intake.held, chosen)
        self.intake.held = lasting(rest)
        return taken

    def _retry_held(self, tried: pl.DataFrame, step: Step) -> None:
        """Try rows that were held again; what is held again for the same reason stays as it was."""
        intake = self.intake
        retried = Step(step.position, sets=step.sets)
        strangers, others = parted(tried, tried["fault"].is_in(intake.partners.faults))
        intake.settle([moves(others[list(STAMPED)], was="excepted")], retried)
        intake.take_again(strangers, retried)
        same = ["id_hash", "digest", "fault"]
        step.take_retried(retried, unchanged=tried.join(intake.held, on=same, how="semi"))
        step.resolve(_standing(tried.join(intake.held, on=same, how="anti")))

    def _take_tick(self, message: dict, step: Step) -> None:
        """Time: what waits too long becomes an exception."""
        intake = self.intake
        now_ms = intake.now_ms = max(intake.now_ms, message["now_ms"])
        changes = intake.items.age(now_ms)
        intake.registers.age(now_ms)
        for balances in intake.balances:
            step.flag(balances.age(now_ms), now_ms)
        ready = intake.changed(changes, step)
        intake.settle([*ready, *intake.take_marks(step), *self._retry_refused(step)], step)

    def _retry_refused(self, step: Step) -> list[pl.DataFrame]:
        """Rows that found no room for their items, now that there may be some."""
        intake = self.intake
        refused = [id for fault, id in intake.parked.standing() if fault == FULL]
        changes: list[Change] = []
        for event in intake.parked.events(refused):
            if not intake.items.room():
                break
            changes += intake.items.retry(event, intake.now_ms)
        return intake.changed(changes, step)

    def _take_period(self, message: dict, step: Step) -> None:
        """A period is cut off: the entity's first open day moves on, never back; the books learn where it stands."""
        entity, opens_on = message["entity"], date.fromisoformat(message["opens_on"])
        if entity not in self._opens_on:
            return
        if opens_on > self._opens_on[entity]:
            self._opens_on[entity] = opens_on
            self.intake.open(self._opens_on)
        step.opened(entity, self._opens_on[entity])

    # ── decided by people ──────────────────────────────────────────────────────────────────────────────────────────

    def _take_decision(self, message: dict, step: Step) -> None:
        """What people decided of exceptions: try again, let go, or take out of the books."""
        if message["number"] in self._decided:
            return
        self._decided.add(message["number"])
        intake, named = self.intake, set(message["exceptions"])
        held = pl.Series([one in named for one in map(exception_id, _standing(intake.held))], dtype=pl.Boolean())
        parked = [id for fault, id in intake.parked.standing() if fault and exception_id((fault, id)) in named]
        deciders = {"retry": self._retry, "release": self._let_go, "exclude": self._take_out}
        deciders[message["action"]](parked, held, step)

    def _retry(self, parked: list[int], held: pl.Series, step: Step) -> None:
        tried = self._take_held(held & (self.intake.held["fault"] != CONFLICT))
        self._redecide(self.intake.items.retry, parked, step)
        self._retry_held(tried, step)

    def _let_go(self, parked: list[int], held: pl.Series, step: Step) -> None:
        self._redecide(self.intake.items.let_go, parked, step)

    def _redecide(self, act: Callable[[Event, int], list[Change]], parked: list[int], step: Step) -> None:
        intake = self.intake
        changes: list[Change] = []
        for event in intake.parked.events(parked):
            changes += act(event, intake.now_ms)
        intake.settle(intake.changed(changes, step), step)

    def _take_out(self, parked: list[int], held: pl.Series, step: Step) -> None:
        """Events that people take out of the books: excluded, with nothing following but what follows from that."""
        intake = self.intake
        changes = intake.items.drop(intake.parked.events(parked))
        gone = intake.parked.take(parked)
        out = self._take_held(held)
        step.resolve([*gone.select("fault", "id_hash").iter_rows(), *_standing(out)])
        step.excluded(pl.concat([gone, moves(out[list(STAMPED)], was="excepted")]))
        entered = out.filter(out["fault"] != CONFLICT)  # a conflict never was, and has the id of one that may be
        intake.registers.booked(entered["id_hash"].to_list())
        step.derive(intake.following.derived_instead(pl.concat([gone[list(STAMPED)], entered[list(STAMPED)]])))
        intake.settle(intake.changed(changes, step), step)

    # ── snapshot ───────────────────────────────────────────────────────────────────────────────────────────────────

    def freeze(self, position: str = START, epoch: int = 0) -> Frozen:
        """The whole state after the last step, which ended at `position`. A run keeps the name that it gets here."""
        intake, fresh = self.intake, (run_name(position, epoch, number) for number in count())
        ids = self._id_runs.of(intake.seen.dump(), fresh)
        accounts = [names.of(one.runs(), fresh) for names, one in zip(self._account_runs, intake.balances, strict=True)]
        rest = _Rest(
            now_ms=intake.now_ms,
            ids=list(ids),
            items=intake.items.freeze(),
            registers=intake.registers.freeze(),
            balances=[(one.freeze(), list(runs)) for one, runs in zip(intake.balances, accounts, strict=True)],
            parked=intake.parked.freeze(),
            held=intake.held,
            opens_on=sorted(self._opens_on.items()),
            decided=sorted(self._decided),
            crosswalk=(self._crosswalk.version, self._crosswalk.dump()),
        )
        return Frozen({name: run for runs in (ids, *accounts) for name, run in runs.items()}, partial(_body, rest))

    def restore(self, snapshot: Buffer, run: Callable[[str], Buffer]) -> None:
        """Become what a snapshot says. `run` gives a run's bytes by its name; they are read when they are needed."""
        state, intake = msgspec.msgpack.decode(snapshot, type=Snapshot), self.intake
        intake.now_ms = state.now_ms
        intake.seen.load(self._thawed(self._id_runs, state.ids, run, "<u8"))
        intake.items.load(state.items)
        intake.registers.load(state.registers)
        for names, one, (dumped, runs) in zip(self._account_runs, intake.balances, state.balances, strict=True):
            one.load(dumped, self._thawed(names, runs, run, "<i8"))
        intake.parked.load(frames.decode_sealed(state.parked))
        intake.held = frames.decode_sealed(state.held)
        self._opens_on |= {entity: max(on, self._opens_on.get(entity, on)) for entity, on in state.opens_on}
        intake.open(self._opens_on)
        self._decided = set(state.decided)
        self._crosswalk.load(state.crosswalk_version, state.crosswalk)
        self._mapping_changed()

    def _thawed(self, names: RunNames, named: list[str], run: Callable[[str], Buffer], numbers: str) -> list[Run]:
        """Runs by their names, which they keep."""
        runs = [run_of(run(name), numbers) for name in named]
        names.of(runs, iter(named))
        return runs


class _Rest(NamedTuple):
    """What a snapshot holds, before it is made bytes of."""

    now_ms: int
    ids: list[str]
    items: Callable[[], bytes]
    registers: Callable[[], bytes]
    balances: list[tuple[Callable[[], bytes], list[str]]]
    parked: Callable[[], pl.DataFrame]
    held: pl.DataFrame
    opens_on: list[tuple[str, date]]
    decided: list[int]
    crosswalk: tuple[int, list[tuple[int, CrosswalkRow]]]


def _body(rest: _Rest) -> bytes:
    state = Snapshot(
        now_ms=rest.now_ms,
        ids=rest.ids,
        items=rest.items(),
        registers=rest.registers(),
        balances=[(dumped(), runs) for dumped, runs in rest.balances],
        parked=frames.encode(rest.parked()),
        held=frames.encode(rest.held),
        opens_on=rest.opens_on,
        decided=rest.decided,
        crosswalk_version=rest.crosswalk[0],
        crosswalk=rest.crosswalk[1],
    )
    return msgspec.msgpack.encode(state)


def _standing(held: pl.DataFrame) -> list[tuple[str, int]]:
    """(type, cause) of the exceptions that held rows stand under; conflicts are told apart by their content."""
    cause = pl.when(pl.col("fault") == CONFLICT).then("digest").otherwise("id_hash")
    return held.select("fault", cause).rows()
