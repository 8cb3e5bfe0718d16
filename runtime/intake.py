"""The way of events through a shard: deduped, matched, entered in registers, booked, excluded or held.

Owns what waits and what is held, and the order in which rows go on. Never takes a control message (the shard does), and
never says what a step amounts to (`step` does).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime

import numpy as np
import polars as pl

from runtime.arrivals import NOWHERE, Arrivals, Places, joined
from runtime.effects import empty
from runtime.flow.dedupe import DedupeMemory, Verdict
from runtime.ledger.account_balances import AccountBalances, AccountTerms
from runtime.ledger.cells import Cells, celled
from runtime.ledger.classes import Classes, rules
from runtime.ledger.correlation import Correlation, facts_of, policies
from runtime.ledger.crosswalk import Crosswalk
from runtime.ledger.following import Following
from runtime.ledger.links import meeting
from runtime.ledger.open_items import OpenItems
from runtime.ledger.partners import Partners
from runtime.ledger.posting import PostingRules
from runtime.ledger.rules import BY_CODE, Rulebook
from runtime.ledger.step_matching import Taken, events_of
from runtime.ledger.waiting import Change, last_of
from runtime.parked import ParkedRows
from runtime.schema import STAMPED, among, lasting, where
from runtime.step import CONFLICT, MOVES, UNCLASSIFIED, UNMAPPED, Step, moves, parted

HELD = {**STAMPED, "fault": pl.String()}
FIRST: Mapping[int, int] = {}  # nothing became ready before
HELD_PIECES_MAX = 64  # more are made one: to add to thousands takes milliseconds, and each has 30 KiB


class Intake:
    """What one shard knows of events, and what becomes of new ones."""

    def __init__(
        self, rulebook: Rulebook, crosswalk: Crosswalk, opens_on: Mapping[str, date], open_items_max: int
    ) -> None:
        self.now_ms = 0
        self.seen = DedupeMemory()
        self.items = OpenItems(rulebook, open_items_max, policies(rulebook, crosswalk))
        self.registers = Correlation(rulebook, crosswalk, opens_on)
        self.balances = _balances(rulebook)
        self.parked = ParkedRows()  # waiting for a counterpart
        self.held = empty(HELD)  # waiting for a mapping, a class or a person
        self.partners = Partners(rulebook, crosswalk)
        self.classes = Classes(rulebook, crosswalk)
        self.posting = PostingRules(rulebook, crosswalk, opens_on)
        self.following = Following(rulebook)
        named = rules(rulebook)
        links = {name: kind.links for name, kind in rulebook.kind.items() if kind.links}
        held_back = _held_back(rulebook)
        self._is_linked = among(links)
        self._is_held_back, self._is_near_holds = among(held_back), among(meeting(held_back, links))
        self._is_needed = among(self.items.booking())
        self._is_followed, self._is_entered = among(self.following.kinds), among(self.registers.kinds)
        self._noted = {name: rule.raises for name, rule in named.items() if rule.raises}
        self._noted_in = {name: rule.noted_in for name, rule in named.items() if rule.noted_in}
        self._is_noted, self._is_noted_in = among(self._noted, "rule"), among(self._noted_in, "rule")
        self._fates = _fates(rulebook, [name for name, rule in named.items() if rule.mode == "none"])

    def open(self, opens_on: Mapping[str, date]) -> None:
        """Set each entity's first open day."""
        self.registers.open(opens_on)
        self.posting.open(opens_on)

    def take(self, frame: pl.DataFrame, lengths: Sequence[int], step: Step) -> None:
        """Take events, in the order of the log; `lengths` are those of the frames in which they came."""
        self.now_ms = max(self.now_ms, _ms(frame["received_at"].max()))
        verdicts = self.seen.judge(frame["id_hash"].to_numpy(), frame["digest"].to_numpy())
        step.read += len(frame)
        new = verdicts == Verdict.NEW
        if not new.all():
            step.repeats(frame[np.flatnonzero(verdicts == Verdict.REPEAT)])
            self._hold(moves(frame[np.flatnonzero(verdicts == Verdict.CONFLICT)]), CONFLICT, step)
        self._admit(frame, pl.Series(new), lengths, step)

    def take_again(self, rows: pl.DataFrame, step: Step) -> None:
        """Take rows that were held as strangers', as if they came now."""
        frame = rows[list(STAMPED)]
        self._admit(frame, pl.repeat(True, len(frame), eager=True), [len(frame)], step, was="excepted")

    def _admit(
        self, frame: pl.DataFrame, new: pl.Series, lengths: Sequence[int], step: Step, was: str | None = None
    ) -> None:
        """Match the new rows that are linked to others, finish the others; `was` is the state they come from."""
        new = self._without_strangers(frame, new, step, was)
        linked = new & where(frame, self._is_linked)
        done = [self._matched(frame, linked, lengths, step, was)] if linked.any() else []
        self._finish([*done, moves(frame.filter(new & ~linked), was)], step)

    def _matched(
        self, frame: pl.DataFrame, linked: pl.Series, lengths: Sequence[int], step: Step, was: str | None
    ) -> pl.DataFrame:
        """Match the linked rows and enter what is ready in its registers; the rows that go on."""
        arrivals = self._arrivals(moves(frame.filter(linked), was))
        self.registers.note_owners(arrivals.rows)
        for part in self._parts(arrivals, linked.arg_true().to_numpy(), lengths):
            is_early = len(arrivals.ready) > 0 and self.items.comes_between(arrivals.events(part))
            before = self._entered([self._booked_before(arrivals, step)], arrivals, step) if is_early else []
            entered = self._entered([self._match(part, arrivals, step)], arrivals, step)
            arrivals.ready = joined(arrivals.ready, *before, *entered)
        self._keep_waiting(arrivals, step)
        return arrivals.frame(arrivals.ready)

    def _booked_before(self, arrivals: Arrivals, step: Step) -> Places:
        """Book rows of parts before, as if it had been done at once, where something is about to come between them and
        who only lacks that they are booked. The rows that became ready by it."""
        rows = arrivals.frame(arrivals.ready)
        needed = where(rows, self._is_needed)
        arrivals.ready = arrivals.ready[~needed.to_numpy()]
        self._book([rows.filter(needed)], step)
        return self._freed(arrivals, step)

    def _arrivals(self, rows: pl.DataFrame) -> Arrivals:
        return Arrivals(rows, self.registers.kinds, self.now_ms)

    def _without_strangers(self, frame: pl.DataFrame, new: pl.Series, step: Step, was: str | None) -> pl.Series:
        """Hold new rows whose partners nobody knows, before they are matched; which of them go on."""
        asking = self.partners.asking
        if not asking or not (asked := new & frame["kind"].is_in(asking)).any():
            return new
        found = pl.Series(self.partners.strangers(frame.filter(asked)), dtype=pl.String())
        faults = pl.repeat("", len(frame), eager=True).scatter(asked.arg_true(), found)
        for name in sorted(set(found) - {""}):
            self._hold(moves(frame.filter(faults == name), was), name, step)
        return new & (faults == "")

    def settle(self, done: Sequence[pl.DataFrame], step: Step) -> None:
        """Rows with nothing left to wait for: enter them in their registers, and finish them."""
        nobody = self._arrivals(empty(MOVES))
        entered = self._entered([nobody.add(rows) for rows in done], nobody, step)
        self._keep_waiting(nobody, step)
        self._finish([nobody.frame(joined(*entered))], step)

    # ── matching ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _parts(self, arrivals: Arrivals, came_at: np.ndarray, lengths: Sequence[int]) -> Iterator[Places]:
        """The rows to be matched, cut where order matters: what uses an item that others of its frame may hold comes
        after them, and a later frame's hold does not reach back, however steps are cut. Rows that have nothing to do
        with any of these come first, at once. `came_at`: their places in all frames together."""
        held_back = where(arrivals.rows, self._is_held_back).to_numpy()
        if not held_back.any():
            yield np.arange(len(held_back))
            return
        is_near = where(arrivals.rows, self._is_near_holds).to_numpy()
        yield np.flatnonzero(~is_near)
        ends = np.cumsum(lengths)
        frame_of = np.searchsorted(ends, came_at, side="right")
        cuts = np.unique(frame_of[held_back])
        near = np.flatnonzero(is_near)
        turn = 2 * np.searchsorted(cuts, frame_of[near], side="left") + held_back[near]
        in_turn = np.argsort(turn, kind="stable")
        parts = np.split(near[in_turn], np.flatnonzero(np.diff(turn[in_turn])) + 1)
        arrivals.foresee(np.sort(joined(*(part for part in parts if self.items.few(len(part))))))
        yield from parts

    def _match(self, part: Places, arrivals: Arrivals, step: Step) -> Places:
        """Run these of the rows through the open items; those that are ready."""
        taken = self._taken(part, arrivals)
        arrivals.at |= zip(taken.places, part[list(taken.places.values())].tolist(), strict=True)
        return self._ready(taken.changes, arrivals, step, part[taken.ready], taken.before)

    def _taken(self, part: Places, arrivals: Arrivals) -> Taken:
        since_ms = arrivals.since_ms[part]
        if self.items.few(len(part)):
            return self.items.take_each(arrivals.events(part), since_ms)
        return self.items.take_all(arrivals.matched(part), since_ms)

    def changed(self, changes: Iterable[Change], step: Step) -> list[pl.DataFrame]:
        """Move parked rows that changed, in that order; the moves of those that are ready."""
        nobody = self._arrivals(empty(MOVES))
        ready = self._ready(last_of(changes), nobody, step)
        self._keep_waiting(nobody, step)
        return [nobody.frame(ready)]

    def _ready(
        self,
        changes: Mapping[int, Change],
        arrivals: Arrivals,
        step: Step,
        at_once: Places = NOWHERE,
        before: Mapping[int, int] = FIRST,
    ) -> Places:
        """The rows that became ready, in that order, so that what opens an item is entered before what uses it; those
        that were parked after those that came. Others are noted as waiting. `at_once`: arrivals that became ready in
        whole columns, and `before`: how many of these did before another one."""
        arrivals.waiting |= changes
        ready = [id for id, change in changes.items() if change.state == "ready"]
        for id in ready:
            del arrivals.waiting[id]
        came = [id for id in ready if id in arrivals.at]
        parked = [id for id in ready if id not in arrivals.at]
        places = np.insert(at_once, [before.get(id, 0) for id in came], arrivals.places(came))
        if not parked:
            return places
        step.resolve(self.parked.stood(parked))
        return joined(places, arrivals.add(self.parked.take(parked)))

    def _keep_waiting(self, arrivals: Arrivals, step: Step) -> None:
        """Park what is not ready at last, as it came; only the last change of each row counts."""
        if arrivals.waiting:
            came = [change for change in arrivals.waiting.values() if change.id not in self.parked]
            stayed = [change for change in arrivals.waiting.values() if change.id in self.parked]
            self._park(sorted(came, key=lambda change: arrivals.at[change.id]), stayed, arrivals, step)
        step.flag(self.items.take_flags(), self.now_ms)
        step.tell(self.items.take_told(), self.following.flows, self.now_ms)

    def _park(self, came: Sequence[Change], stayed: Sequence[Change], arrivals: Arrivals, step: Step) -> None:
        """Keep rows that are not ready: those that came now, and those that were kept before."""
        ids = [change.id for change in stayed]
        before = self.parked.moves(ids)
        step.resolve(self.parked.stood(ids))
        rows = arrivals.frame(arrivals.places(change.id for change in came))
        faults = pl.Series("fault", [change.fault for change in (*came, *stayed)], pl.String())
        excepted, pending = parted(pl.concat([rows, before]).with_columns(faults), faults != "")
        step.pending(pending)
        self._excepted(excepted, step)
        self.parked.keep(rows, [change.fault for change in came])
        self.parked.restate(ids, [change.fault for change in stayed])

    # ── entering ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _entered(self, ready: Sequence[Places], arrivals: Arrivals, step: Step) -> list[Places]:
        """Enter ready rows in their registers; those that go on, with what became ready by it."""
        queue, going_on = deque(ready), []
        while queue:
            places = queue.popleft()
            if not len(places):
                continue
            concerned = arrivals.enters[places]
            if concerned.any():
                places = self._enter(places, concerned, arrivals, step)
                queue.append(self._marked(arrivals, step))
            going_on.append(places)
        return going_on

    def _enter(self, places: Places, concerned: np.ndarray, arrivals: Arrivals, step: Step) -> Places:
        """The rows that go on; those that a register refuses are held."""
        found = self.registers.enter(arrivals.facts(places[concerned]), self.now_ms)
        if not any(found):
            return places
        faults = np.full(len(places), "", object)
        faults[concerned] = found
        for name in sorted({*found} - {""}):
            self._hold(arrivals.frame(places[faults == name]), name, step)
        return places[faults == ""]

    def take_marks(self, step: Step) -> list[pl.DataFrame]:
        """Do what registers ask for; the moves of rows that became ready by it."""
        nobody = self._arrivals(empty(MOVES))
        ready = self._marked(nobody, step)
        self._keep_waiting(nobody, step)
        return [nobody.frame(ready)]

    def _marked(self, arrivals: Arrivals, step: Step) -> Places:
        marks = self.registers.drain()
        step.flag(self.items.standing(marks), self.now_ms)
        step.tell(marks.told, self.following.flows, self.now_ms)
        step.derive(self.following.derivings(marks.derived))
        is_early = self.items.awaited(self.items.begun(marks.holds))
        before = self._booked_before(arrivals, step) if is_early else NOWHERE
        self.items.hold(marks.holds)
        return joined(before, self._freed(arrivals, step))

    def _freed(self, arrivals: Arrivals, step: Step) -> Places:
        """The rows that became ready without being matched now."""
        return self._ready(last_of(self.items.drain()), arrivals, step)

    # ── finishing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, done: Sequence[pl.DataFrame], step: Step) -> None:
        """Finish rows, and then what had waited for their being booked."""
        self._book(done, step)
        if self.items.has_changes:
            self.settle(self.take_marks(step), step)

    def _book(self, done: Sequence[pl.DataFrame], step: Step) -> None:
        """Book what has a rule and accounts, exclude what posts nothing by rule, hold the rest."""
        some = [rows for rows in done if len(rows)]
        if not some:
            return
        # In one piece: rows are picked from several in six times as long, and grouped in twice as long.
        rows = pl.concat(some, rechunk=True)
        owned = self.registers.owned(rows)
        cells = self._decided(owned, step)
        step.settled(rows, cells)
        self._note(rows, cells, step)
        self._follow(owned, cells, step)
        for fault in sorted(set(cells.frame["fault"]) - {""}):
            chosen = cells.rows(cells.frame["fault"] == fault)
            roles = cells.frame["role"].gather(cells.of[chosen])
            self._hold(rows.filter(chosen).with_columns(roles), fault, step)
        self._note_settled(rows, cells, step)

    def _decided(self, rows: pl.DataFrame, step: Step) -> Cells:
        """Rows in cells, of each what becomes of it: `rule`, `set_no`, `state`, and `fault` and `role` where it can't
        be booked."""
        apart = _together(self.classes.told_apart, self.posting.told_apart)
        cells = celled(self.registers.based(self.classes.described(rows)), apart)
        ruled = cells.frame.with_columns(self.classes.rules_of(cells.frame))
        cells = self.posting.measured(cells._replace(frame=ruled), rows, self.registers.findings)
        posted = self.posting.post(cells.frame, step.sets)
        step.posted(posted.deltas)
        fates = cells.frame.hstack([posted.set_no, posted.missing.alias("role")]).with_columns(self._fates)
        return cells._replace(frame=fates)

    def _note(self, rows: pl.DataFrame, cells: Cells, step: Step) -> None:
        """Raise what rules raise beside what they do."""
        noted = where(cells.frame, self._is_noted)
        if noted.any():
            chosen = cells.rows(noted)
            names = cells.frame["rule"].gather(cells.of[chosen]).replace_strict(self._noted, return_dtype=pl.String())
            step.note(rows.filter(chosen).with_columns(names.alias("fault")), self.now_ms)

    def _note_settled(self, rows: pl.DataFrame, cells: Cells, step: Step) -> None:
        """Tell registers of settled rows whose class concerns them, and do what they ask for. A row that is held is
        not told of: it would be told of once more when it goes on."""
        concerned = where(cells.frame, self._is_noted_in) & (cells.frame["fault"] == "")
        if concerned.any():
            chosen = cells.rows(concerned)
            refs = [self._noted_in[rule] for rule in cells.frame["rule"].gather(cells.of[chosen])]
            self.registers.note(facts_of(rows.filter(chosen)), refs, self.now_ms)
            self.settle(self.take_marks(step), step)

    def _follow(self, rows: pl.DataFrame, cells: Cells, step: Step) -> None:
        """What settled rows bring with them: balances, derived events, and what consumers are told."""
        settled = cells.frame["fault"] == ""
        for balances in self.balances:
            balances.add(rows, cells, settled, self.now_ms)
        followed = settled & where(cells.frame, self._is_followed)
        if followed.any():
            chosen = rows.filter(cells.rows(followed))
            step.derive(self.following.derived(chosen))
            step.told(self.following.told(chosen))
        needed = settled & where(cells.frame, self._is_needed)
        if needed.any():
            self.items.booked(events_of(rows.filter(cells.rows(needed))))
        if self.registers.findings:
            entered = cells.rows(settled & where(cells.frame, self._is_entered))
            self.registers.booked(rows["id_hash"].filter(entered).to_list())

    def _hold(self, rows: pl.DataFrame, fault: str, step: Step) -> None:
        if rows.is_empty():
            return
        held = rows.with_columns(pl.lit(fault).alias("fault"))
        self._excepted(held.select(*MOVES), step)
        kept = pl.concat([self.held, lasting(held[list(HELD)])])
        self.held = lasting(kept) if kept.n_chunks() > HELD_PIECES_MAX else kept

    def _excepted(self, rows: pl.DataFrame, step: Step) -> None:
        step.excepted(rows, self.now_ms)


def _balances(rulebook: Rulebook) -> list[AccountBalances]:
    signs = {name: kind.balance for name, kind in rulebook.kind.items()}
    kept = [terms for terms in rulebook.register.values() if isinstance(terms, AccountTerms)]
    return [AccountBalances(terms, signs) for terms in kept]


def _held_back(rulebook: Rulebook) -> list[str]:
    """Kinds that use what others may hold, or let it go. They are matched after the other rows of their frame have been
    entered in their registers, so that neither a payment nor an approval passes a hold that came with it."""
    linked = {name: kind.links for name, kind in rulebook.kind.items() if kind.links}
    using = {name: one.consumes.item for name, one in linked.items() if one.consumes and not one.consumes.past_holds}
    freeing = {name: one.releases.item for name, one in linked.items() if one.releases}
    return [name for name, item in (using | freeing).items() if rulebook.item[item].held_by]


def _fates(rulebook: Rulebook, unposting: Sequence[str]) -> list[pl.Expr]:
    """What becomes of a cell: `fault` and `state`, by its rule and the `role` that has no account. `unposting`: rules
    that post nothing."""
    rule, missing = pl.col("rule"), pl.col("role")
    # Of a code's own role, the rulebook names the one of all codes.
    role = missing.str.extract(f"^[^{BY_CODE}]*", 0)
    called = {name: role.missing for name, role in rulebook.role.items() if role.missing}
    named = role.replace_strict(called, default=UNMAPPED, return_dtype=pl.String())
    fault = pl.when(rule == "").then(pl.lit(UNCLASSIFIED)).when(missing != "").then(named).otherwise(pl.lit(""))
    state = pl.when(rule.is_in(unposting)).then(pl.lit("excluded")).otherwise(pl.lit("booked"))
    return [fault.alias("fault"), state.alias("state")]


def _together(*told_apart: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What several parts look at, by column."""
    columns = dict.fromkeys(column for one in told_apart for column in one)
    return {column: set().union(*(one.get(column, ()) for one in told_apart)) for column in columns}


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
