"""What becomes of every row of one shard's log: repeat, conflict, waiting, held, booked, excluded.

Owns the naive history of a shard. Follows the log's order wherever order decides. Of the cutting into steps it takes
what the engine promises: of the rows of one frame, those that use or let go what registers may hold come last, and
those that came with it are entered in registers before those that had waited, all at once.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

import polars as pl
import xxhash

from runtime.flow import frames
from runtime.ledger.links import Derive
from runtime.ledger.rules import Rule, Rulebook
from runtime.ports import LogRecord
from runtime.schema import COLUMNS
from simulation.auditor.accounts import Accounts
from simulation.auditor.amounts import sum_of
from simulation.auditor.balances import Balances
from simulation.auditor.decided import DecidedMatching
from simulation.auditor.keys import next_month
from simulation.auditor.registers import Registers
from simulation.auditor.related import related

Row = dict[str, Any]
TOTAL_KEYS = ("source", "entity", "facility", "currency", "kind")
CONFLICT = "event_conflict"
ENDS = ("booked", "excluded")
_OTHER_SIDE = {"D": "C", "C": "D"}


class AuditedShard:
    """One shard, as far as its log was followed."""

    def __init__(self, rulebook: Rulebook, opens_on: dict[str, date], items_max: int) -> None:
        self._rulebook, self.opens_on = rulebook, dict(opens_on)
        self._accounts = Accounts(rulebook)
        self.matching = DecidedMatching(rulebook, items_max, self._accounts)
        self._registers = Registers(rulebook, self._accounts, self.matching)
        self._contents: dict[str, dict[str, list[int]]] = {}  # by source and event_id: what it was told with, hashed
        self._held: list[int] = []
        self._arrived: list[tuple[int, int]] = []  # with the present step, and when
        self._came: set[int] = set()  # with the step that is settled
        self._frames: list[int] = []  # how many had arrived at the end of each frame
        links = {name: kind.links for name, kind in rulebook.kind.items() if kind.links}
        using = {name: one.consumes.item for name, one in links.items() if one.consumes and not one.consumes.past_holds}
        freeing = {name: one.releases.item for name, one in links.items() if one.releases}
        self._held_back = {name for name, item in (using | freeing).items() if rulebook.item[item].held_by}
        self._near_held = related(rulebook, self._held_back)
        self._unlinked: list[int] = []  # that came with it, and wait for nothing
        self._strange = {role.missing for role in rulebook.role.values() if role.by == "known"}
        kept = [terms for terms in rulebook.register.values() if terms.__struct_config__.tag == "accounts"]
        self._balances = [Balances(terms) for terms in kept]
        self._changes: Counter[tuple] = Counter()  # of what accounts owe
        self._decided: set[int] = set()
        self.rows: list[Row | None] = []  # every row that was accepted, by number; None once it was let go
        self.states: list[str] = []
        self.faults: list[str] = []  # the exception that each row stands under, "" for none
        self.notes: set[tuple[str, int]] = set()  # exceptions beside a row's state: type, row number
        self.turnover: Counter[tuple] = Counter()
        self.duplicates: Counter[tuple] = Counter()
        self.booked: Counter[tuple] = Counter()  # one key for each kind of posting line -> minor units
        self.derived: dict[str, Row] = {}  # by event_id: what must come back through some log
        self.told: set[tuple] = set()  # status, source, event_id of what consumers must be told of events
        self._now_ms = 0  # the latest time that came through the log
        self._measured: dict[int, bool] = {}  # by the identity of a rule
        self._pairs = rulebook.pairs()
        self._gone: Counter[tuple] = Counter()  # control totals of rows that were let go

    def take(self, records: Sequence[LogRecord]) -> None:
        """The entries of one commit."""
        for record in records:
            if record.type == "events":
                self._take_frame(frames.decode_sealed(record.body))
                self._frames.append(len(self._arrived))
            else:
                self._settle_step()
                self._take_control(frames.decode_control(record.body))
        self._settle_step()

    def _take_frame(self, frame: pl.DataFrame) -> None:
        received = frame["received_at"].dt.epoch("ms").to_list()
        ordered = frame.select(*COLUMNS, *(name for name in frame.columns if name not in COLUMNS))
        names, width = ordered.columns, len(COLUMNS)
        for received_ms, values in zip(received, ordered.iter_rows(), strict=True):
            self._take_row(dict(zip(names, values, strict=True)), hash(values[:width]), received_ms)

    def _take_row(self, row: Row, content: int, received_ms: int) -> None:
        self._now_ms = max(self._now_ms, received_ms)
        seen = self._contents.setdefault(row["source"], {}).setdefault(row["event_id"], [])
        if content in seen:
            self._count(self.duplicates, row, "duplicate", abs(row["amount_minor"]))
            return
        seen.append(content)
        number = len(self.rows)
        self.rows.append(row)
        self.states.append("")
        self.faults.append("")
        if len(seen) > 1:
            self._hold(number, CONFLICT)
        else:
            self._admit(number, received_ms)

    def _admit(self, number: int, since_ms: int) -> None:
        """A row that is new, or whose partners were not known when it came."""
        row = self.rows[number]
        if stranger := self._accounts.stranger(row):
            self._hold(number, stranger)
        elif self._rulebook.kind[row["kind"]].links is None:
            self._unlinked.append(number)
        else:
            self._arrived.append((number, since_ms))

    def _settle_step(self) -> None:
        """Match what came with this step, and settle what became ready. First those that have nothing to do with what
        registers may hold; of the others, frame by frame, last those whose use may be held."""
        arrived, ends = self._arrived, self._frames
        self._arrived, self._frames, self._came = [], [], {number for number, _ in arrived}
        for number, _ in arrived:
            self._registers.note_owner(self.rows[number])
        if not any(self._is_held_back(number) for number, _ in arrived):
            parts = [arrived]
        else:
            near = [self.rows[number]["kind"] in self._near_held for number, _ in arrived]
            parts = [[one for one, is_near in zip(arrived, near, strict=True) if not is_near]]
            for begin, end in pairwise([0, *self._cuts(arrived, ends)]):
                frame = [one for one, is_near in zip(arrived[begin:end], near[begin:end], strict=True) if is_near]
                parts += [[one for one in frame if self._is_held_back(one[0]) == held] for held in (False, True)]
        for part in parts:
            for number, received_ms in part:
                self.matching.take(number, self.rows[number], received_ms)
            self._settle_all([self._ready()])
        self.matching.keep_waiting(number for number, _ in arrived)
        self._came = set()
        unlinked, self._unlinked = self._unlinked, []
        self._settle_all([unlinked])
        for number, wait in self.matching.waiting.items():
            self._stand(number, "excepted" if wait["fault"] else "pending", wait["fault"])

    def _cuts(self, arrived: list[tuple[int, int]], ends: list[int]) -> list[int]:
        """The ends of those frames that hold a row which registers may hold, and the end of all."""
        frames = pairwise([0, *ends])
        held = [end for begin, end in frames if any(self._is_held_back(number) for number, _ in arrived[begin:end])]
        return [*held, len(arrived)]

    def _is_held_back(self, number: int) -> bool:
        """Whether it comes after the others of its frame, as registers may hold what it uses or lets go."""
        return self.rows[number]["kind"] in self._held_back

    def _settle_all(self, batches: list[list[int]]) -> None:
        while batches:
            batch = batches.pop(0)
            faults = {number: self._enter(number, self.rows[number]) for number in batch}
            self._follow_registers(batches)
            for number in batch:
                self._hold(number, faults[number]) if faults[number] else self._settle(number)
            self.matching.look()
            batches += [self._ready()] if self.matching.ready else []
        for balances in self._balances:
            balances.add(self._changes, self._now_ms)
        self._changes.clear()

    def _enter(self, number: int, row: Row) -> str:
        return self._registers.enter(number, row, self._posted_on(row), self._now_ms)

    def _posted_on(self, row: Row) -> date:
        return max(row["effective_on"], self.opens_on[row["entity"]])

    def _follow_registers(self, batches: list[list[int]]) -> None:
        """What registers ask for: held items let go, events that follow."""
        for row in self._registers.take_derived():
            self.derived[row["event_id"]] = row
        self._registers.apply_holds()
        self.matching.look()
        if self.matching.ready:
            batches.append(self._ready())

    def _settle(self, number: int) -> None:
        """A row that waits for nothing: exclude it, hold it, or book it."""
        row = self.rows[number]
        owned = self._registers.owned(row)
        rule = next(filter(None, map(self._accounts.rule_of, self._registers.as_of(number, owned))), None)
        if rule is None:
            return self._hold(number, "unclassified_code")
        if rule.raises:
            self.notes.add((rule.raises, number))
        finding = self._registers.finding(number)
        place, measured = owned, self._is_measured(rule)
        if measured:
            place = owned | {name: owned[name] or finding[name] or None for name in ("facility", "department")}
        on = self._posted_on(row)
        amounts = [sum_of(pair.amount, row, finding["measures"]) for pair in rule.post]
        for one in self._registers.as_of(number, place):
            lines, (_, fault) = self._accounts.lines(rule, one, one.get("posted_on", on), amounts, measured)
            if not fault:
                break
        if fault:
            return self._hold(number, fault)
        self._book(place, rule, on, lines)
        if rule.post and not self._pairs[row["kind"]]:
            self._count(self.turnover, row, "posted", sum(map(abs, amounts)))
        self._follow(owned)
        self.matching.booked(row)
        if rule.noted_in:
            self._registers.note(rule.noted_in, row, self._now_ms)
        return self._stand(number, "excluded" if rule.mode == "none" else "booked", "")

    def _hold(self, number: int, fault: str) -> None:
        self._stand(number, "excepted", fault)
        self._held.append(number)

    def _is_measured(self, rule: Rule) -> bool:
        """As the rule says, which looks through all its pairs each time."""
        known = self._measured.get(id(rule))
        if known is None:
            known = self._measured[id(rule)] = rule.measured
        return known

    def _book(self, row: Row, rule: Rule, on: date, lines: list[tuple[str, str, str, str, int]]) -> None:
        place = (
            row["entity"],
            row["currency"],
            on.isoformat()[:7],
            rule.mode,
            rule.lane,
            row["kind"],
            row[rule.entry_by] if rule.entry_by else "",
            (row["facility"] or "") if "facility" in rule.keep else "",
            (row["department"] or "") if "department" in rule.keep else "",
        )
        for role, account, variance, side, amount in lines:
            if amount:
                counted = side if amount > 0 else _OTHER_SIDE[side]
                self.booked[(*place, variance, role, account, counted)] += abs(amount)

    def _follow(self, row: Row) -> None:
        """What a settled row brings with it."""
        kind = self._rulebook.kind[row["kind"]]
        if kind.balance and row["account"] is not None:
            self._changes[row["entity"], row["currency"], row["account"]] += kind.balance * row["amount_minor"]
        self._derive(row, kind.derives)
        if kind.tells:
            self.told.add((kind.tells.status, row["source"], row["event_id"]))

    def _derive(self, row: Row, derives: Sequence[Derive]) -> None:
        for derive in derives:
            listed = self._rulebook.role[derive.unlisted_in].cases if derive.unlisted_in else ()
            if any(row[name] is None for name in derive.where) or row["reason"] in listed:
                continue
            if any(row[name] is not None for name in derive.without):
                continue
            swapped = {"entity": row["counterparty"], "counterparty": row["entity"]}
            event_id = f"{derive.kind}:{row['id_hash']}"
            follower = row | {"event_id": event_id, "source": "penstock", "kind": derive.kind}
            follower |= {"effective_on": next_month(row["effective_on"])} if derive.on else {}
            self.derived[event_id] = follower | (swapped if derive.to == "counterparty" else {})

    def _stand(self, number: int, state: str, fault: str) -> None:
        self.states[number], self.faults[number] = state, fault

    # ── control ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_control(self, message: Row) -> None:
        if message["type"] == "tick":
            self._now_ms = max(self._now_ms, message["now_ms"])
            self.matching.age(self._now_ms)
            self._registers.age(self._now_ms)
            for balances in self._balances:
                balances.age(self._now_ms)
            batches: list[list[int]] = []
            self._follow_registers(batches)
            self.matching.retry_refused(self._now_ms)
            self._settle_all([*batches, self._ready()])
        elif message["type"] == "mapping" and self._accounts.take(message["version"], message["rows"]):
            self.matching.renamed()
            self._retry_held([n for n in self._held if self.faults[n] != CONFLICT])
        elif message["type"] == "decision" and message["number"] not in self._decided:
            self._decided.add(message["number"])
            self._decide(message["action"], set(message["exceptions"]))
        elif message["type"] == "period":
            opens_on = date.fromisoformat(message["opens_on"])
            self.opens_on[message["entity"]] = max(opens_on, self.opens_on[message["entity"]])

    def _ready(self) -> list[int]:
        """What came with this step goes on before what had waited for it."""
        ready, self.matching.ready = self.matching.ready, []
        return sorted(ready, key=lambda number: number not in self._came)

    def _retry_held(self, tried: Sequence[int]) -> None:
        self._held = [number for number in self._held if number not in tried]
        strangers = [number for number in tried if self.faults[number] in self._strange]
        self._settle_all([self._ready(), [number for number in tried if number not in strangers]])
        for number in strangers:
            self._stand(number, "", "")
            self._admit(number, self._now_ms)
        self._frames.append(len(self._arrived))
        self._settle_step()

    def _decide(self, action: str, exceptions: set[str]) -> None:
        """What people decided: try again, let go, or take out of the books."""
        parked = [n for n in self.matching.waiting if self._named(n) in exceptions]
        held = [n for n in self._held if self._named(n) in exceptions]
        if action == "exclude":
            for number in parked:
                self.matching.drop(number)
            self.matching.look()
            self._held = [number for number in self._held if number not in held]
            for number in (*parked, *held):
                if self.faults[number] != CONFLICT:
                    self._derive(self.rows[number], self._rulebook.kind[self.rows[number]["kind"]].if_taken_out)
                self._stand(number, "excluded", "")
            self._registers.forget(held)
            self._settle_all([self._ready()])
            return
        act = self.matching.retry if action == "retry" else self.matching.let_go
        for number in parked:
            act(number, self._now_ms)
        self._settle_all([self._ready()])
        if action == "retry":
            self._retry_held([number for number in held if self.faults[number] != CONFLICT])

    def _named(self, number: int) -> str:
        """The id of the exception that a row stands under: its type, and its identity (of a conflict: its content)."""
        fault, row = self.faults[number], self.rows[number]
        cause = row["digest"] if fault == CONFLICT else row["id_hash"]
        return xxhash.xxh64_hexdigest(f"{fault}\x1f{cause:016x}".encode()) if fault else ""

    # ── what must be there ─────────────────────────────────────────────────────────────────────────────────────────

    def _count(self, totals: Counter, row: Row, state: str, amount: int) -> None:
        key = total_key(row)
        totals[(*key, state, "events")] += 1
        totals[(*key, state, "amount_minor")] += amount

    def told_of_events(self) -> set[tuple[str, str, str]]:
        """Status, source and event_id of all that consumers must be told of this shard's events."""
        return self.told | self._registers.told | self.matching.told

    def totals(self) -> Counter[tuple]:
        """The control totals."""
        totals = self.duplicates + self.turnover + self._gone
        self._count_standing(totals, range(len(self.rows)))
        return totals

    def _count_standing(self, totals: Counter, numbers: Iterable[int]) -> None:
        sums: dict[tuple, list[int]] = {}
        for row, state in ((self.rows[number], self.states[number]) for number in numbers):
            if row:
                counted = sums.setdefault((*total_key(row), state), [0, 0])
                counted[0] += 1
                counted[1] += abs(row["amount_minor"])
        for (*key, state), counted in sums.items():
            for unit, number in zip(("events", "amount_minor"), counted, strict=True):
                totals[(*key, "accepted", unit)] += number
                totals[(*key, state, unit)] += number

    def let_go(self, numbers: Iterable[int]) -> None:
        """Forget rows that have come to their end, but for what they count, and what went out: for long histories."""
        remarked = {number for _, number in self.notes}
        gone = [n for n in numbers if self.rows[n] and self.states[n] in ENDS and n not in remarked]
        self._count_standing(self._gone, gone)
        self._registers.forget(gone)
        for number in gone:
            self.rows[number] = None
        self.derived.clear()
        for told in (self.told, self._registers.told, self.matching.told):
            told.clear()

    def open_exceptions(self) -> Iterable[tuple]:
        """(type, source, event_id, entity, facility, currency, amount_minor) of each that is open."""
        for type, number in [*zip(self.faults, range(len(self.rows)), strict=True), *self.notes]:
            if type:
                row = self.rows[number]
                type = self._rulebook.kind[row["kind"]].conflict if type == CONFLICT else type
                place = (row["entity"], row["facility"] or "", row["currency"])
                yield (type, row["source"], row["event_id"], *place, row["amount_minor"])
        for (type, source, event_id), (entity, currency, amount) in self.matching.flags.items():
            yield (type, source, event_id, entity, "", currency, amount)
        for (type, source, event_id), (entity, facility, currency, amount) in self._registers.flags.items():
            yield (type, source, event_id, entity, facility, currency, amount)
        for balances in self._balances:
            yield from balances.open_exceptions()


def total_key(row: Row) -> tuple[str, ...]:
    """A row's place in the control totals: TOTAL_KEYS, "" for none."""
    return row["source"], row["entity"], row["facility"] or "", row["currency"], row["kind"]
