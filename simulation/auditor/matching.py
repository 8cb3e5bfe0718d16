"""What waits for what, in one shard: items, sums and waiting rows as dicts, and who waits for which of them.

Owns, for each row that waits, why: the item it lacks, the group it lacks, or the exception it stands under; and the
exceptions that items stand under by themselves.
"""

import unicodedata
from typing import Any

from runtime.ledger.links import Links
from runtime.ledger.rules import Item, Rulebook
from simulation.auditor.amounts import attributes_of, sum_of

Row = dict[str, Any]
Key = tuple[str, str, str]  # item or group, entity, key
FlagKey = tuple[str, str, str]  # type, source, event_id: raising the same again is nothing
DAY_MS = 24 * 60 * 60 * 1000
REFUSED, FULL = "approval_refused", "open_items_full"


class Matching:
    """Rows go in at their place in the log; `ready` collects the numbers of those that lack nothing any more."""

    def __init__(self, rulebook: Rulebook, items_max: int) -> None:
        self._rulebook, self._items_max = rulebook, items_max
        links = [kind.links for kind in rulebook.kind.values() if kind.links]
        # Items that count pieces: they have no currency, and exceptions tell no money of them.
        self._pieces = {ref.item for one in links for ref in one.opened if ref.amount == "quantity"}
        self.items: dict[Key, Row] = {}
        self._terms: dict[Key, Row] = {}  # of items, also of those that have not come: who opened, what holds
        self._groups: dict[tuple[str, str, str, str], Row] = {}  # by currency, too
        self._expected: dict[Key, list[Row]] = {}
        self.waiting: dict[int, Row] = {}  # row number -> what it lacks
        self._taken = 0  # rows so far: who came first is served first
        # Who waits for an item or a sum; whose item came or was let go; which sums changed; who may lack nothing now.
        self._waiting_for: dict[tuple, set[int]] = {}
        self._stirred: set[int] = set()
        self._changed: set[tuple] = set()
        self._freed: set[int] = set()
        self.flags: dict[FlagKey, tuple[str, str, int]] = {}  # -> entity, currency, residual when it was told
        self.told: set[tuple[str, str, str]] = set()  # status, source, event_id of what opened an item
        self.ready: list[int] = []

    def take(self, number: int, row: Row, now_ms: int) -> None:
        """One row."""
        self._taken += 1
        wait = {"row": row, "since": now_ms, "item": None, "group": None, "fault": "", "hold": "", "tried": False}
        wait |= {"number": number, "order": self._taken}
        self.waiting[number] = wait
        links = self._links(row)
        for ref in links.opened:
            if _key_of(row, ref.key) and (ref.item, row["entity"], _key_of(row, ref.key)) in self.items:
                wait["fault"] = self._rulebook.item[ref.item].twice
                return
            if len(self.items) >= self._items_max:
                wait["fault"] = FULL
                return
        self._join(row, wait, now_ms)
        self.look(None if wait["group"] else number)

    def keep_waiting(self, came: set[int]) -> None:
        """Of rows that came together those that wait are kept before those at fault: so decisions find them."""
        kept = [self.waiting[number] for number in came if number in self.waiting]
        for wait in sorted(kept, key=lambda wait: (bool(wait["fault"]), wait["order"])):
            self.waiting[wait["number"]] = self.waiting.pop(wait["number"])

    def _join(self, row: Row, wait: Row, now_ms: int) -> None:
        links = self._links(row)
        for ref in links.opened:
            if not (ref.optional and not _key_of(row, ref.key)):
                self._open((ref.item, row["entity"], _key_of(row, ref.key)), row, sum_of(ref.amount, row), now_ms)
        needed = links.consumes or links.releases
        if links.consumes and not (links.consumes.optional and not _key_of(row, links.consumes.key)):
            wait["amount"] = sum_of(links.consumes.amount, row)
            wait["item"] = (needed.item, row["entity"], _key_of(row, needed.key))
        for ref in links.expects:
            self._expect((ref.item, row["entity"], _key_of(row, ref.key)), row, sum_of(ref.amount, row), now_ms)
        if links.releases:
            wait["item"] = (needed.item, row["entity"], _key_of(row, needed.key))
            wait["hold"] = needed.hold or row["reason"] or ""
        for ref in (links.member_of, links.closes):
            if ref:
                wait["group"] = (ref.group, row["entity"], row["currency"], _key_of(row, ref.key))
                group = self._groups.setdefault(wait["group"], {"since": now_ms, "sum": 0, "total": None})
                wait["share"] = sum_of(ref.total, row) if ref is links.closes else ref.sign * row["amount_minor"]
                self._count_in(group, wait, 1)
        for awaited in (wait["item"], wait["group"]):
            if awaited:
                self._waiting_for.setdefault(awaited, set()).add(wait["number"])
        self._stirred.add(wait["number"])
        self._freed.add(wait["number"])

    def _wait_no_more(self, wait: Row, what: str) -> None:
        """A row lacks its "item" or its "group" no longer."""
        waiting = self._waiting_for.get(wait[what], set())
        waiting.discard(wait["number"])
        if not waiting:
            self._waiting_for.pop(wait[what], None)
        wait[what] = None
        self._freed.add(wait["number"])

    def _count_in(self, group: Row, wait: Row, sign: int) -> None:
        if self._links(wait["row"]).closes:
            group["total"] = (group["total"] or 0) + sign * wait["share"]
        else:
            group["sum"] += sign * wait["share"]
        self._changed.add(wait["group"])

    # ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, key: Key, row: Row, amount: int, now_ms: int) -> None:
        rule = self._rulebook.item[key[0]]
        if key in self.items:
            self.items[key]["amount"] += amount
            self.items[key]["left"] += amount
            return
        item = {"amount": amount, "left": amount, "row": row, "since": now_ms, "flagged": False}
        self.items[key] = item
        if rule.held_by or self._is_signed(key[0]):
            terms = self._terms_of(key)
            terms["person"] = _person(row)
            terms["holds"] += [hold for hold in rule.held_by if hold not in terms["released"]]
        if rule.announces:
            self._raise(rule.announces, item["row"], key, item["left"])
        self._stir(key)
        for expected in self._expected.pop(key, []):
            self._use_expected(key, item, expected)

    def _stir(self, key: Key) -> None:
        self._stirred |= self._waiting_for.get(key, set())

    def _terms_of(self, key: Key) -> Row:
        return self._terms.setdefault(key, {"person": "", "holds": [], "released": [], "flagged": False})

    def _is_signed(self, item: str) -> bool:
        """Whether a second person must ever sign for such items."""
        every = [kind.links for kind in self._rulebook.kind.values() if kind.links]
        refs = [ref for links in every for ref in (links.consumes, links.releases) if ref]
        return any(ref.item == item and ref.second_person for ref in refs)

    def _expect(self, key: Key, row: Row, amount: int, now_ms: int) -> None:
        expected = {"row": row, "amount": amount, "since": now_ms, "flagged": False}
        if key in self.items:
            self._use_expected(key, self.items[key], expected)
        elif key[2]:
            self._expected.setdefault(key, []).append(expected)

    def _use_expected(self, key: Key, item: Row, expected: Row) -> None:
        rule = self._rulebook.item[key[0]]
        if expected["flagged"]:
            self._end(rule.unopened, expected["row"])
        if self._fits(key[0], item, expected["amount"], expected["row"]):
            self._use(rule, item, expected["amount"])
        elif rule.differs:
            self._raise(rule.differs, expected["row"], key, expected["amount"])

    def _fits(self, name: str, item: Row, amount: int, user: Row) -> bool:
        use = self._rulebook.item[name].use
        if use != "exists" and name not in self._pieces and user["currency"] != item["row"]["currency"]:
            return False
        return {"exists": True, "part": amount <= item["left"], "whole": amount == item["amount"] == item["left"]}[use]

    def _use(self, rule: Item, item: Row, amount: int) -> None:
        if rule.use == "exists":
            return
        item["left"] -= amount
        if item["left"]:
            return
        if item["flagged"]:
            item["flagged"] = False
            self._end(rule.unused, item["row"])
        if rule.announces:
            self._end(rule.announces, item["row"])

    # ── looking through everything that waits ──────────────────────────────────────────────────────────────────────

    def look(self, newcomer: int | None = None) -> None:
        """Serve rows in their order until nothing changes any more. A newcomer goes on before those it serves."""
        while self._served() or self._tied():
            pass
        freed, self._freed = [self.waiting[number] for number in self._freed if number in self.waiting], set()
        ready = [wait for wait in freed if not (wait["item"] or wait["group"] or wait["fault"])]
        for number in (wait["number"] for wait in sorted(ready, key=lambda w: (w["number"] != newcomer, w["order"]))):
            del self.waiting[number]
            self.ready.append(number)

    def _served(self) -> bool:
        stirred = [self.waiting[number] for number in self._stirred if number in self.waiting]
        for wait in sorted(stirred, key=lambda wait: wait["order"]):
            self._stirred.discard(wait["number"])
            if wait["item"] in self.items and not wait["tried"] and self._may_try(wait):
                wait["tried"] = True
                self._try_release(wait) if wait["hold"] else self._try_consume(wait)
                return True
        return False

    def _may_try(self, wait: Row) -> bool:
        links, terms = self._links(wait["row"]), self._terms.get(wait["item"])
        return bool(wait["hold"]) or not (terms and terms["holds"]) or links.consumes.past_holds

    def _try_consume(self, wait: Row) -> None:
        item, rule, ref = (
            self.items[wait["item"]],
            self._rulebook.item[wait["item"][0]],
            self._links(wait["row"]).consumes,
        )
        if ref.at_most:
            wait["amount"] = min(wait["amount"], item["left"])
        if ref.second_person and (self._is_refused(wait) or not self._asker(wait)):
            wait["fault"] = REFUSED
        elif not self._fits(wait["item"][0], item, wait["amount"], wait["row"]):
            wait["fault"] = rule.differs
        else:
            self._use(rule, item, wait["amount"])
            wait["fault"] = ""
            self._wait_no_more(wait, "item")

    def _try_release(self, wait: Row) -> None:
        if self._links(wait["row"]).releases.second_person and self._is_refused(wait):
            wait["fault"] = REFUSED
            return
        key, wait["fault"] = wait["item"], ""
        self._wait_no_more(wait, "item")
        terms = self._terms_of(key)
        terms["released"].append(wait["hold"])
        terms["holds"] = [hold for hold in terms["holds"] if hold != wait["hold"]]
        self.unhold(key, wait["hold"])

    def unhold(self, key: Key, hold: str) -> None:
        """End a hold."""
        terms, rule = self._terms_of(key), self._rulebook.item[key[0]]
        if hold in terms["holds"]:
            terms["holds"].remove(hold)
        self._stir(key)
        if terms["flagged"] and not set(rule.held_by) & set(terms["holds"]):
            terms["flagged"] = False
            self._end(rule.overdue, self.items[key]["row"])

    def hold(self, key: Key, hold: str) -> None:
        """Begin a hold, unless somebody has released it already."""
        terms = self._terms_of(key)
        if hold not in terms["released"]:
            terms["holds"].append(hold)
            status, item = self._rulebook.item[key[0]].tells, self.items.get(key)
            if item and status and terms["holds"].count(hold) == 1:
                self.told.add((status, item["row"]["source"], item["row"]["event_id"]))

    def _is_refused(self, wait: Row) -> bool:
        signer = _person(wait["row"])
        return not signer or signer.casefold() == self._asker(wait).casefold()

    def _asker(self, wait: Row) -> str:
        return self._terms.get(wait["item"], {}).get("person", "")

    def _tied(self) -> bool:
        changed, self._changed = self._changed, set()
        for key in changed & self._groups.keys():
            if self._groups[key]["sum"] == self._groups[key]["total"]:
                for wait in [self.waiting[number] for number in self._waiting_for.get(key, ())]:
                    wait["fault"] = wait["fault"] if wait["item"] else ""
                    self._wait_no_more(wait, "group")
        return False

    # ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def age(self, now_ms: int) -> None:
        """What waits too long stands under an exception; what is used up or has expired is forgotten."""
        for wait in self.waiting.values():
            if not wait["fault"]:
                days, fault = self._patience(wait)
                wait["fault"] = fault if now_ms - wait["since"] > days * DAY_MS else ""
        for key, expected in [(key, one) for key, some in self._expected.items() for one in some]:
            rule = self._rulebook.item[key[0]]
            if not expected["flagged"] and now_ms - expected["since"] > rule.wait_days * DAY_MS:
                expected["flagged"] = True
                self._raise(rule.unopened, expected["row"], key, expected["amount"])
        for key, item in list(self.items.items()):
            self._age_item(key, item, now_ms)
        for key, group in list(self._groups.items()):
            old = now_ms - group["since"] > self._rulebook.group[key[0]].wait_days * DAY_MS
            if old and key not in self._waiting_for and group["sum"] == group["total"]:
                del self._groups[key]

    def _age_item(self, key: Key, item: Row, now_ms: int) -> None:
        rule, terms, age_ms = self._rulebook.item[key[0]], self._terms.get(key), now_ms - item["since"]
        overdue = terms and rule.overdue and not terms["flagged"] and set(rule.held_by) & set(terms["holds"])
        if overdue and age_ms > rule.wait_days * DAY_MS:
            terms["flagged"] = True
            self._raise(rule.overdue, item["row"], key, item["left"])
        if item["flagged"] or age_ms <= (rule.keep_days or rule.wait_days) * DAY_MS:
            return
        if item["left"] == 0 and age_ms <= rule.remember_days * DAY_MS:
            return
        if item["left"] == 0 or rule.unused == "expires":
            del self.items[key]
            self._terms.pop(key, None)
            return
        item["flagged"] = True
        self._raise(rule.unused, item["row"], key, item["left"])

    def _patience(self, wait: Row) -> tuple[int, str]:
        if wait["item"]:
            rule = self._rulebook.item[wait["item"][0]]
            return rule.wait_days, rule.held if wait["item"] in self.items else rule.unopened
        rule = self._rulebook.group[wait["group"][0]]
        return rule.wait_days, rule.mismatch

    def retry_refused(self, now_ms: int) -> None:
        """Rows that found no room, now that there may be some."""
        for number, wait in list(self.waiting.items()):
            if wait["fault"] == FULL and len(self.items) < self._items_max:
                self.take(number, wait["row"], now_ms)

    # ── decided by people ──────────────────────────────────────────────────────────────────────────────────────────

    def retry(self, number: int, now_ms: int) -> None:
        """Try a row at fault once more, if it waits still. It keeps its place among those that wait."""
        if number not in self.waiting:
            return
        wait = self.waiting[number]
        twice = {self._rulebook.item[ref.item].twice for ref in self._links(wait["row"]).opened}
        if wait["fault"] in {FULL, *twice}:
            self.take(number, wait["row"], now_ms)
            return
        wait["fault"], wait["since"], wait["tried"] = "", now_ms, False
        self._stirred.add(number)
        self._freed.add(number)
        self.look()

    def let_go(self, number: int, now_ms: int) -> None:
        """Let a row go on without the item that it lacks, or although what it opens was opened before."""
        if number not in self.waiting:
            return
        wait, links = self.waiting[number], self._links(self.waiting[number]["row"])
        if wait["fault"] in {self._rulebook.item[ref.item].twice for ref in links.opened}:
            wait["fault"] = ""
            self._join(wait["row"], wait, now_ms)
        elif wait["item"] and links.consumes and wait["fault"] not in ("", REFUSED):
            wait["fault"], wait["amount"] = "", 0
            self._wait_no_more(wait, "item")
        self.look()

    def drop(self, number: int) -> None:
        """Take a row out, with all that it opened and joined. Look when all are out."""
        wait = self.waiting.pop(number)
        row = wait["row"]
        if wait["group"]:
            group = self._groups[wait["group"]]
            self._count_in(group, wait, -1)
            group["total"] = (group["total"] or None) if self._links(row).closes else group["total"]
        consumed = self._links(row).consumes
        if consumed and not wait["item"]:
            self._give_back((consumed.item, row["entity"], _key_of(row, consumed.key)), wait.get("amount", 0))
        for what in ("item", "group"):
            self._wait_no_more(wait, what)
        for ref in self._links(row).opened:
            key = (ref.item, row["entity"], _key_of(row, ref.key))
            item, rule = self.items.get(key), self._rulebook.item[ref.item]
            own = item and (item["row"]["source"], item["row"]["event_id"]) == (row["source"], row["event_id"])
            if own and item["left"] == item["amount"]:
                self._end(rule.unused, row)
                self._end(rule.announces, row)
                del self.items[key]
                terms = self._terms.pop(key, {"flagged": False, "holds": []})
                if terms["flagged"]:
                    self._end(rule.overdue, row)
                if kept := [hold for hold in terms["holds"] if hold not in rule.held_by]:
                    self._terms_of(key)["holds"] = kept  # what registers hold stays held

    def _give_back(self, key: Key, amount: int) -> None:
        item, rule = self.items.get(key), self._rulebook.item[key[0]]
        if item and rule.use != "exists" and amount:
            if rule.announces and not item["left"]:
                self._raise(rule.announces, item["row"], key, item["left"])
            item["left"] += amount

    # ── exceptions of items ────────────────────────────────────────────────────────────────────────────────────────

    def _raise(self, type: str, row: Row, key: Key, amount: int) -> None:
        told = (key[1], row["currency"], 0 if key[0] in self._pieces else amount)
        self.flags.setdefault((type, row["source"], row["event_id"]), told)

    def _end(self, type: str, row: Row) -> None:
        self.flags.pop((type, row["source"], row["event_id"]), None)

    def _links(self, row: Row) -> Links:
        return self._rulebook.kind[row["kind"]].links


def _key_of(row: Row, column: str) -> str:
    """A key, "" for none. Of columns joined by "_or_" the first counts that is not empty."""
    return next((row[name] for name in column.split("_or_") if row[name]), "")


def _person(row: Row) -> str:
    named = attributes_of(row).get("person")
    return unicodedata.normalize("NFKC", " ".join(named.split())) if isinstance(named, str) else ""
