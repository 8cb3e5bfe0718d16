"""The way of events through a shard: deduped, matched, entered in registers, booked, excluded or held.

Owns what waits and what is held, and the order in which rows go on. Never takes a control message (the shard does), and
never says what a step amounts to (`step` does).
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import accumulate

import numpy as np
import polars as pl

from runtime.effects import empty
from runtime.flow.dedupe import DedupeMemory, Verdict
from runtime.ledger.account_balances import AccountBalances, AccountTerms
from runtime.ledger.classes import Classes, rules
from runtime.ledger.correlation import Correlation
from runtime.ledger.crosswalk import Crosswalk
from runtime.ledger.following import Following
from runtime.ledger.open_items import OpenItems
from runtime.ledger.posting import PostingRules
from runtime.ledger.rules import Rulebook
from runtime.ledger.waiting import Change, Event
from runtime.parked import ParkedRows
from runtime.schema import STAMPED
from runtime.step import CONFLICT, MOVES, UNCLASSIFIED, UNMAPPED, Step, moves, parted

HELD = {**STAMPED, "fault": pl.String()}
_ROW = Event._fields[1:]  # after the id, which is the row's hash


class Intake:
    """What one shard knows of events, and what becomes of new ones."""

    def __init__(
        self, rulebook: Rulebook, crosswalk: Crosswalk, opens_on: Mapping[str, date], open_items_max: int
    ) -> None:
        self.now_ms = 0
        self.seen = DedupeMemory()
        self.items = OpenItems(rulebook, open_items_max)
        self.registers = Correlation(rulebook, crosswalk)
        self.balances = _balances(rulebook)
        self.parked = ParkedRows()  # waiting for a counterpart
        self.held = empty(HELD)  # waiting for a mapping, a class or a person
        self.classes = Classes(rulebook, crosswalk)
        self.posting = PostingRules(rulebook, crosswalk, opens_on)
        self._following = Following(rulebook)
        named = rules(rulebook)
        self._linked = [name for name, kind in rulebook.kind.items() if kind.links]
        self._held_back = _held_back(rulebook)
        self._noted = {name: rule.raises for name, rule in named.items() if rule.raises}
        self._silent = [name for name, rule in named.items() if rule.mode == "none" and not rule.maps]
        self._unposting = [name for name, rule in named.items() if rule.mode == "none"]
        self._missing = {name: role.missing for name, role in rulebook.role.items() if role.missing}

    def take(self, waiting: Sequence[pl.DataFrame], step: Step) -> None:
        """Take frames of events, in the order of the log."""
        if not waiting:
            return
        frame = pl.concat(waiting) if len(waiting) > 1 else waiting[0]
        self.now_ms = max(self.now_ms, _ms(frame["received_at"].max()))
        verdicts = pl.Series(self.seen.judge(frame["id_hash"].to_numpy(), frame["digest"].to_numpy()))
        step.read += len(frame)
        step.repeats(frame.filter(verdicts == Verdict.REPEAT))
        self._hold(moves(frame.filter(verdicts == Verdict.CONFLICT)), CONFLICT, step)
        new, linked = verdicts == Verdict.NEW, frame["kind"].is_in(self._linked)
        done = []
        for part in self._parts(frame, new & linked, waiting):
            done += self._entered(self._match(part, step), step)
        self._finish([*done, moves(frame.filter(new & ~linked))], step)

    def settle(self, done: Sequence[pl.DataFrame], step: Step) -> None:
        """Rows with nothing left to wait for: enter them in their registers, and finish them."""
        self._finish(self._entered(done, step), step)

    # ── matching ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _parts(self, frame: pl.DataFrame, chosen: pl.Series, waiting: Sequence[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The rows to be matched, cut where order matters: what uses an item that others of its frame may hold comes
        after them, and a later frame's hold does not reach back, however steps are cut."""
        fresh = frame.filter(chosen)
        held_back = fresh["kind"].is_in(self._held_back)
        if not held_back.any():
            yield fresh
            return
        ends = list(accumulate(len(one) for one in waiting))
        frame_of = np.searchsorted(ends, chosen.arg_true().to_numpy(), side="right")
        cuts = np.unique(frame_of[held_back.to_numpy()])
        group_of = pl.Series(np.searchsorted(cuts, frame_of, side="left"))
        for group in group_of.unique().sort():
            last, first = parted(fresh.filter(group_of == group), held_back.filter(group_of == group))
            yield first
            yield last

    def _match(self, fresh: pl.DataFrame, step: Step) -> list[pl.DataFrame]:
        """Run rows through the open items one by one; the moves of those that are ready."""
        if fresh.is_empty():
            return []
        changes: dict[int, Change] = {}
        arrivals: dict[int, int] = {}
        columns = fresh.select("id_hash", *_ROW, pl.col("received_at").cast(pl.Int64()))
        for at, (*event, received_ms) in enumerate(columns.rows()):
            arrivals[event[0]] = at
            for change in self.items.take(Event(*event), received_ms):
                changes.pop(change.id, None)  # so that they stand in the order in which rows became ready
                changes[change.id] = change
        return self._apply(changes, fresh, arrivals, step)

    def changed(self, changes: Mapping[int, Change], step: Step) -> list[pl.DataFrame]:
        """Move parked rows that changed; the moves of those that are ready."""
        return self._apply(changes, empty(STAMPED), {}, step)

    def _apply(
        self, changes: Mapping[int, Change], fresh: pl.DataFrame, arrivals: Mapping[int, int], step: Step
    ) -> list[pl.DataFrame]:
        """Move changed rows, arrivals and parked ones; only the last change of each row in the step counts.

        Rows go on in the order in which they became ready, so that what opens an item is entered before what uses it.
        """
        ready = [id for id, change in changes.items() if change.state == "ready"]
        ready_now = fresh[[arrivals[id] for id in ready if id in arrivals]]
        released = self.parked.take([id for id in ready if id not in arrivals])
        step.resolve(released.select("fault", "id_hash").iter_rows())
        self._park([change for change in changes.values() if change.state == "waiting"], fresh, arrivals, step)
        self._park([change for change in changes.values() if change.state == "excepted"], fresh, arrivals, step)
        step.flag(self.items.take_flags(), self.now_ms)
        step.tell(self.items.take_told(), self._following.flows, self.now_ms)
        return [pl.concat([moves(ready_now), released]) if len(ready_now) else released]

    def _park(self, concerned: list[Change], fresh: pl.DataFrame, arrivals: Mapping[int, int], step: Step) -> None:
        """Keep rows that are not ready, all of one state: those that came now, and those that were kept before."""
        if not concerned:
            return
        state = "pending" if concerned[0].state == "waiting" else "excepted"
        came = [change for change in concerned if change.id not in self.parked]
        stayed = [change for change in concerned if change.id in self.parked]
        before = self.parked.moves([change.id for change in stayed])
        step.resolve(before.select("fault", "id_hash").iter_rows())
        rows = fresh[[arrivals[change.id] for change in came]]
        faults, again = [change.fault for change in came], [change.fault for change in stayed]
        moved = pl.concat([moves(rows), before]).with_columns(pl.Series("fault", [*faults, *again], pl.String()))
        step.pending(moved) if state == "pending" else self._excepted(moved, step)
        self.parked.keep(rows, state, faults)
        self.parked.restate([change.id for change in stayed], state, again)

    # ── entering ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _entered(self, done: Sequence[pl.DataFrame], step: Step) -> list[pl.DataFrame]:
        """Enter ready rows in their registers; those that go on, with what became ready by it."""
        queue, going_on = deque(done), []
        while queue:
            rows = queue.popleft()
            if rows.is_empty():
                continue
            entered, more = self._enter(rows, step)
            queue += more
            going_on.append(entered)
        return going_on

    def _enter(self, rows: pl.DataFrame, step: Step) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
        """The rows that go on, and others that became ready."""
        concerned = rows["kind"].is_in(self.registers.kinds)
        if not concerned.any():
            return rows, []
        faults = pl.Series(self.registers.enter(rows.filter(concerned), self.now_ms), dtype=pl.String())
        fault = pl.repeat("", len(rows), eager=True).scatter(concerned.arg_true(), faults)
        faulty, going_on = parted(rows.with_columns(fault.alias("fault_found")), fault != "")
        for name in faulty["fault_found"].unique().sort():
            self._hold(faulty.filter(pl.col("fault_found") == name).drop("fault_found"), name, step)
        return going_on.drop("fault_found"), self.take_marks(step)

    def take_marks(self, step: Step) -> list[pl.DataFrame]:
        """Do what registers ask for; the moves of rows that became ready by it."""
        marks = self.registers.drain()
        step.flag(marks.flags, self.now_ms)
        step.tell(marks.told, self._following.flows, self.now_ms)
        step.derive(self._following.derivings(marks.derived))
        for hold in sorted(marks.holds, key=lambda hold: not hold.on):  # nobody slips through between two holds
            self.items.hold(hold)
        return self.changed({change.id: change for change in self.items.drain()}, step)

    # ── finishing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, done: Sequence[pl.DataFrame], step: Step) -> None:
        """Exclude what posts nothing, book the rest, hold what has no rule."""
        some = [rows for rows in done if len(rows)]
        if not some:
            return
        rows = pl.concat(some)
        ruled = rows.with_columns(self.classes.rules_of(rows))
        step.note(ruled, self._noted, self.now_ms)
        silent, loud = parted(ruled, ruled["rule"].is_in(self._silent))
        step.excluded(silent)
        self._follow(silent, step)
        unruled, to_post = parted(loud, loud["rule"] == "")
        self._hold(unruled, UNCLASSIFIED, step)
        self._book(to_post, step)

    def _book(self, done: pl.DataFrame, step: Step) -> None:
        """Post what has accounts, hold the rest. Rows come with their `rule`."""
        if done.is_empty():
            return
        rows = done.with_columns(pl.int_range(pl.len(), dtype=pl.Int64()).alias("row"))
        posted = self.posting.post(rows, step.sets, self.registers.findings)
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

    def _follow(self, rows: pl.DataFrame, step: Step) -> None:
        """What settled rows bring with them: balances, derived events, and what consumers are told."""
        if rows.is_empty():
            return
        for balances in self.balances:
            balances.add(rows, self.now_ms)
        step.derive(self._following.derived(rows))
        step.told(self._following.told(rows))
        if self.registers.findings:
            self.registers.booked(rows.filter(pl.col("kind").is_in(self.registers.kinds))["id_hash"].to_list())

    def _hold(self, rows: pl.DataFrame, fault: str, step: Step) -> None:
        if rows.is_empty():
            return
        held = rows.with_columns(pl.lit(fault).alias("fault"))
        self._excepted(held.select(*MOVES), step)
        self.held = pl.concat([self.held, held.select(*HELD)])

    def _excepted(self, rows: pl.DataFrame, step: Step) -> None:
        step.excepted(rows, self.now_ms)


def _balances(rulebook: Rulebook) -> list[AccountBalances]:
    signs = {name: kind.balance for name, kind in rulebook.kind.items()}
    kept = [terms for terms in rulebook.register.values() if isinstance(terms, AccountTerms)]
    return [AccountBalances(terms, signs) for terms in kept]


def _held_back(rulebook: Rulebook) -> list[str]:
    """Kinds that use what others may hold. They are matched after the other rows of their frame have been entered in
    their registers, so that a payment does not pass a hold that came with it."""
    linked = ((name, kind.links.consumes) for name, kind in rulebook.kind.items() if kind.links and kind.links.consumes)
    return [name for name, ref in linked if rulebook.item[ref.item].held_by and not ref.past_holds]


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
