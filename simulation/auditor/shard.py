"""What becomes of every row of one shard's log: repeat, conflict, waiting, held, booked, excluded.

Owns the naive history of a shard. Follows the log's order wherever order decides; the cutting into steps never does.
"""

from collections import Counter
from datetime import date
from typing import Any

from runtime.flow import frames
from runtime.ledger.rules import Rule, Rulebook
from runtime.ports import LogRecord
from runtime.schema import COLUMNS
from simulation.auditor.accounts import Accounts, rule_of
from simulation.auditor.matching import Matching

Row = dict[str, Any]
TOTAL_KEYS = ("source", "entity", "facility", "currency", "kind")


class AuditedShard:
    """One shard, as far as its log was followed."""

    def __init__(self, rulebook: Rulebook, opens_on: dict[str, date], items_max: int) -> None:
        self._rulebook, self._opens_on = rulebook, opens_on
        self._accounts = Accounts(rulebook)
        self._matching = Matching(rulebook, items_max)
        self._contents: dict[tuple[str, str], list[tuple]] = {}
        self._held: list[int] = []
        self.rows: list[Row] = []  # every row that was accepted, by number
        self.states: list[str] = []
        self.faults: list[str] = []  # the exception that each row stands under, "" for none
        self.notes: list[tuple[str, int]] = []  # exceptions beside a row's state: type, row number
        self.duplicates: Counter[tuple] = Counter()
        self.booked: Counter[tuple] = Counter()  # one key for each kind of posting line -> minor units
        self.mapping_versions: list[int] = []
        self._now_ms = 0  # the latest time that came through the log

    def take(self, record: LogRecord) -> None:
        """One entry of the log."""
        if record.type == "control":
            self._take_control(frames.decode_control(record.body))
            return
        for row in frames.decode_sealed(record.body).rows(named=True):
            self._take_row(row)

    def _take_row(self, row: Row) -> None:
        received_ms = round(row["received_at"].timestamp() * 1000)
        self._now_ms = max(self._now_ms, received_ms)
        content = tuple(row[name] for name in COLUMNS)
        seen = self._contents.setdefault((row["source"], row["event_id"]), [])
        if content in seen:
            self._count(self.duplicates, row)
            return
        seen.append(content)
        number = len(self.rows)
        self.rows.append(row)
        self.states.append("")
        self.faults.append("")
        if len(seen) > 1:
            self._stand(number, "excepted", "event_conflict")
            return
        if self._rulebook.kind[row["kind"]].links is None:
            self._settle(number)
            return
        self._look(self._matching.take(number, row, received_ms))

    def _look(self, ready: list[int]) -> None:
        """Settle what is ready; tell of the others where they stand."""
        for number, wait in self._matching.waiting.items():
            self._stand(number, "excepted" if wait["fault"] else "pending", wait["fault"])
        for number in ready:
            self._settle(number)

    def _settle(self, number: int) -> None:
        """A row that waits for nothing: exclude it, hold it, or book it."""
        row = self.rows[number]
        rule = rule_of(self._rulebook, row)
        if rule is None:
            return self._hold(number, "unclassified_code")
        if rule.raises:
            self.notes.append((rule.raises, number))
        if rule.mode == "none":
            return self._stand(number, "excluded", "")
        on = max(row["effective_on"], self._opens_on[row["entity"]])
        lines, missing = self._accounts.lines(rule, row, on)
        if missing:
            return self._hold(number, "mapping_missing")
        for role, account, side in lines:
            self._book(row, rule, on, (role, account, side))
        return self._stand(number, "booked", "")

    def _hold(self, number: int, fault: str) -> None:
        self._stand(number, "excepted", fault)
        self._held.append(number)

    def _book(self, row: Row, rule: Rule, on: date, line: tuple[str, str, str]) -> None:
        role, account, side = line
        if not row["amount_minor"]:
            return
        if row["amount_minor"] < 0:
            side = "C" if side == "D" else "D"
        key = {
            "entity": row["entity"],
            "currency": row["currency"],
            "period": f"{on:%Y-%m}",
            "mode": rule.mode,
            "lane": rule.lane,
            "kind": row["kind"],
            "document": row[rule.entry_by] if rule.entry_by else "",
            "facility": (row["facility"] or "") if "facility" in rule.keep else "",
            "department": (row["department"] or "") if "department" in rule.keep else "",
            "role": role,
            "account_code": account,
            "side": side,
        }
        self.booked[tuple(key.values())] += abs(row["amount_minor"])

    def _stand(self, number: int, state: str, fault: str) -> None:
        self.states[number], self.faults[number] = state, fault

    # ── control ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_control(self, message: Row) -> None:
        if message["type"] == "tick":
            self._now_ms = max(self._now_ms, message["now_ms"])
            self._matching.age(self._now_ms)
            self._look([])
        elif message["type"] == "mapping" and self._accounts.take(message["version"], message["rows"]):
            self.mapping_versions.append(message["version"])
            held, self._held = self._held, []
            for number in held:
                self._settle(number)

    # ── what must be there ─────────────────────────────────────────────────────────────────────────────────────────

    def _count(self, totals: Counter, row: Row, state: str = "duplicate") -> None:
        key = tuple(row[name] or "" for name in TOTAL_KEYS)
        totals[(*key, state, "events")] += 1
        totals[(*key, state, "amount_minor")] += abs(row["amount_minor"])

    def totals(self) -> Counter[tuple]:
        """The control totals."""
        totals = Counter(self.duplicates)
        for row, state in zip(self.rows, self.states, strict=True):
            self._count(totals, row, "accepted")
            self._count(totals, row, state)
        return totals

    def open_exceptions(self) -> Counter[tuple]:
        """(type, source, event_id, entity, facility, currency, amount_minor) of each that is open."""
        standing = [*zip(self.faults, range(len(self.rows)), strict=True), *self.notes]
        found = Counter(_exception(type, self.rows[number]) for type, number in standing if type)
        for (type, source, event_id, entity, currency), residual in self._matching.flags.items():
            found[type, source, event_id, entity, "", currency, residual] += 1
        return found


def _exception(type: str, row: Row) -> tuple:
    place = (row["entity"], row["facility"] or "", row["currency"])
    return (type, row["source"], row["event_id"], *place, row["amount_minor"])
