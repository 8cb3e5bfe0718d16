"""What waits for what, in one shard: items, sums and waiting rows as dicts, and who waits for which of them.

Owns, for each row that waits, why: the item it lacks, the group it lacks, or the exception it stands under; and the
exceptions that items stand under by themselves. What holds items is in `held_items`.
"""

from collections.abc import Iterable
from typing import Any

from runtime.ledger.rules import Rulebook
from simulation.auditor.accounts import Accounts
from simulation.auditor.amounts import sum_of
from simulation.auditor.held_items import HeldItems
from simulation.auditor.keys import APART, DAY_MS, Key, Row, ago_ms, common, key_of, person

REFUSED, FULL = "approval_refused", "open_items_full"
NO_SUM = {"sum": 0, "total": 0, "closers": 0, "tied": None, "unbooked": 0}


class Matching(HeldItems):
    """Rows go in at their place in the log; `ready` collects the numbers of those that lack nothing any more."""

    def __init__(self, rulebook: Rulebook, items_max: int, accounts: Accounts) -> None:
        super().__init__(rulebook)
        self._accounts = accounts
        self._items_max = items_max
        self._expected: dict[Key, list[Row]] = {}
        self.waiting: dict[int, Row] = {}  # row number -> what it lacks
        self._beside: dict[Key, set[Key]] = {}  # by key and entity alone, the items that a further column tells apart
        # Of what one row opens, who waits for the first is served before who waits for the next.
        every = [kind.links.opened for kind in rulebook.kind.values() if kind.links]
        self._nth = {ref.item: number for opened in every for number, ref in enumerate(opened)}
        self._turns = 0  # so far: who joins first is served first
        self._unsure: dict[Key, set[int]] = {}  # items whose openers lack what they need, and who these are
        self._newest: int | None = None  # but for who comes now, which tries before those that it serves
        self._changed: set[tuple] = set()  # sums
        self._freed: set[int] = set()  # who may lack nothing now
        self.ready: list[int] = []

    def take(self, number: int, row: Row, now_ms: int) -> None:
        """One row."""
        wait = {"row": row, "since": now_ms, "item": None, "group": None, "fault": "", "hold": "", "tried": False}
        wait |= {"number": number, "order": self._next_turn(), "joined": False, "nth": 0}
        self.waiting[number] = wait
        links = self._links(row)
        for ref in links.opened:
            item = self.items.get(self._item_of(row, ref)) if key_of(row, ref.key) else None
            if item and not (self._rulebook.item[ref.item].adds and item["row"]["currency"] == row["currency"]):
                wait["fault"] = self._rulebook.item[ref.item].twice
                return
            if len(self.items) >= self._items_max:
                wait["fault"] = FULL
                return
        self._join(row, wait, now_ms)
        self._newest = number
        self.look(None if wait["group"] else number)
        self._newest = None

    def _next_turn(self) -> int:
        self._turns += 1
        return self._turns

    def keep_waiting(self, came: Iterable[int]) -> None:
        """Rows that came together are kept as they came, however they were matched: so decisions find them."""
        for number in came:
            if number in self.waiting:
                self.waiting[number] = self.waiting.pop(number)

    def _join(self, row: Row, wait: Row, now_ms: int) -> None:
        links, wait["joined"] = self._links(row), True
        for ref in links.opened:
            if not (ref.optional and not key_of(row, ref.key)):
                self._open(self._item_of(row, ref), row, sum_of(ref.amount, row), now_ms)
        needed = links.consumes or links.releases
        if links.consumes and not (links.consumes.optional and not key_of(row, links.consumes.key)):
            wait["amount"] = sum_of(links.consumes.amount, row)
            wait["item"] = self._item_of(row, needed)
            for ref in links.opened:
                if self._rulebook.item[ref.item].once_matched:
                    self._unsure.setdefault(self._item_of(row, ref), set()).add(wait["number"])
        wait["expects"] = [self._expectation(row, ref, now_ms) for ref in links.expects]
        both = list(zip(links.expects, wait["expects"], strict=True))
        wait["later"] = [expectation for ref, expectation in both if ref.once_matched]
        for ref, expectation in both:
            if not ref.once_matched:
                self._expect(*expectation)
        if not wait["item"]:
            self._expect_all(wait)
        if links.releases:
            wait["item"] = self._item_of(row, needed)
            wait["hold"] = needed.hold or row["reason"] or ""
        if wait["item"]:
            wait["nth"] = self._nth.get(wait["item"][0], 0)
        for ref in (links.member_of, links.closes):
            if ref:
                wait["group"] = (ref.group, row["entity"], row["currency"], key_of(row, ref.key))
                group = self._groups.setdefault(wait["group"], dict(NO_SUM, since=now_ms))
                wait["share"] = sum_of(ref.total, row) if ref is links.closes else ref.sign * row["amount_minor"]
                self._count_in(group, wait, 1)
        for awaited in (wait["item"], wait["group"]):
            if awaited:
                self._waiting_for.setdefault(common(awaited), set()).add(wait["number"])
        self._stirred.add(wait["number"])
        self._freed.add(wait["number"])

    def _wait_no_more(self, wait: Row, what: str) -> None:
        """A row lacks its "item" or its "group" no longer."""
        awaited = wait[what] and common(wait[what])
        waiting = self._waiting_for.get(awaited, set())
        waiting.discard(wait["number"])
        if not waiting:
            self._waiting_for.pop(awaited, None)
        wait[what] = None
        self._freed.add(wait["number"])
        if what == "item":
            self._expect_all(wait)
            for key in [self._item_of(wait["row"], ref) for ref in self._links(wait["row"]).opened]:
                if wait["number"] in self._unsure.get(key, ()):
                    self._unsure[key].discard(wait["number"])
                    self._stir(key)

    def _count_in(self, group: Row, wait: Row, sign: int) -> None:
        if self._links(wait["row"]).closes:
            group["total"] += sign * wait["share"]
            group["closers"] += sign
        else:
            group["sum"] += sign * wait["share"]
        self._changed.add(wait["group"])

    def _item_of(self, row: Row, ref: Any) -> Key:
        """The item that a link of a row names."""
        name, column = key_of(row, ref.key), self._rulebook.item[ref.item].apart_by
        return ref.item, row["entity"], name + (f"{APART}{row[column]}" if name and column and row[column] else "")

    # ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, key: Key, row: Row, amount: int, now_ms: int) -> None:
        rule = self._rulebook.item[key[0]]
        if key in self.items:
            self.items[key]["amount"] += amount
            self._leave(key, self.items[key], amount)
            self._hold_unbooked(key)
            self._try_again(key)
            return
        item = {"amount": amount, "left": amount, "row": row, "since": now_ms, "flagged": False}
        self.items[key] = item
        self._beside.setdefault(common(key), set()).add(key)
        self._try_again(key)
        if rule.held_by or self._is_signed(key[0]):
            terms = self._terms_of(key)
            terms["person"] = person(row)
            terms["holds"] += [hold for hold in rule.held_by if hold not in terms["released"]]
        self._hold_unbooked(key)
        if rule.announces:
            self._raise(rule.announces, item["row"], key, item["left"])
        self._stir(key)
        for expected in self._expected.pop(key, []):
            self._use_expected(key, item, expected)

    def _try_again(self, key: Key) -> None:
        """Who did not fit one of several items may fit another one, and who did not fit may when there is more."""
        if self._is_growing(key[0]):
            self._stir(key)
            for number in self._waiting_for.get(common(key), ()):
                self.waiting[number]["tried"] = False

    def _is_growing(self, item: str) -> bool:
        rule = self._rulebook.item[item]
        return bool(rule.apart_by or rule.awaits_more)

    def _forget(self, key: Key) -> None:
        del self.items[key]
        self._beside[common(key)].discard(key)
        if not self._beside[common(key)]:
            del self._beside[common(key)]

    def _is_signed(self, item: str) -> bool:
        """Whether a second person must ever sign for such items."""
        every = [kind.links for kind in self._rulebook.kind.values() if kind.links]
        refs = [ref for links in every for ref in (links.consumes, links.releases) if ref]
        return any(ref.item == item and ref.second_person for ref in refs)

    def _expectation(self, row: Row, ref: Any, now_ms: int) -> tuple[Key, Row]:
        amount = sum_of(ref.amount, row)
        expected = {"row": row, "amount": amount, "since": now_ms, "flagged": False, "at_most": ref.at_most}
        expected["used"] = False
        return self._item_of(row, ref), expected

    def _expect_all(self, wait: Row) -> None:
        """What a row uses besides, when it has what it waits for."""
        later, wait["later"] = wait.get("later", []), []
        for key, expected in later:
            self._expect(key, expected)

    def _expect(self, key: Key, expected: Row) -> None:
        if key in self.items:
            self._use_expected(key, self.items[key], expected)
        elif key[2]:
            self._expected.setdefault(key, []).append(expected)

    def _use_expected(self, key: Key, item: Row, expected: Row) -> None:
        rule = self._rulebook.item[key[0]]
        if expected["at_most"]:
            expected["amount"] = min(expected["amount"], item["left"])
        if expected["flagged"]:
            self._end(rule.unopened, expected["row"])
        if self._fits(key[0], item, expected["amount"], expected["row"]):
            self._use(key, item, expected["amount"])
            expected["used"] = True
        elif rule.differs:
            self._raise(rule.differs, expected["row"], key, expected["amount"])

    def _fits(self, name: str, item: Row, amount: int, user: Row) -> bool:
        use = self._rulebook.item[name].use
        if use != "exists" and name not in self._pieces and user["currency"] != item["row"]["currency"]:
            return False
        return {"exists": True, "part": amount <= item["left"], "whole": amount == item["amount"] == item["left"]}[use]

    def _use(self, key: Key, item: Row, amount: int) -> None:
        if self._rulebook.item[key[0]].use != "exists":
            self._leave(key, item, -amount)

    def _leave(self, key: Key, item: Row, change: int) -> None:
        """More or less is left of an item: what is told of it ends, or is told anew."""
        rule = self._rulebook.item[key[0]]
        item["left"] += change
        for type in [rule.unused] * item["flagged"] + [rule.announces] * bool(rule.announces):
            self._end(type, item["row"])
            if not _is_spent(item):
                self._raise(type, item["row"], key, item["left"])
        item["flagged"] = item["flagged"] and not _is_spent(item)

    # ── looking through everything that waits ──────────────────────────────────────────────────────────────────────

    def look(self, newcomer: int | None = None) -> None:
        """Serve rows in their order until nothing changes any more. A newcomer goes on before those it serves."""
        while self._served() or self._tied():
            pass
        freed, self._freed = [self.waiting[number] for number in self._freed if number in self.waiting], set()
        ready = [wait for wait in freed if not (wait["item"] or wait["group"] or wait["fault"])]
        for number in (wait["number"] for wait in sorted(ready, key=lambda wait: self._turn(wait, newcomer))):
            del self.waiting[number]
            self.ready.append(number)

    def _served(self) -> bool:
        stirred = [self.waiting[number] for number in self._stirred if number in self.waiting]
        for wait in sorted(stirred, key=lambda wait: self._turn(wait, self._newest)):
            self._stirred.discard(wait["number"])
            found = None if wait["item"] is None or wait["tried"] else self._found(wait)
            if found and self._may_try(wait):
                wait["tried"] = True
                self._try_release(wait) if wait["hold"] else self._try_consume(wait, found)
                return True
        return False

    def _turn(self, wait: Row, first: int | None) -> tuple[bool, int, int]:
        """When a row's turn is among those that are served at once."""
        return wait["number"] != first, wait["nth"], wait["order"]

    def _found(self, wait: Row) -> Key | None:
        """The item that a row names. Where a further column tells items apart: the one that has its own value there;
        else, of those where either says nothing, the only one, or the only one that fits."""
        key, shared = wait["item"], common(wait["item"])
        if (key in self.items and key != shared) or not self._rulebook.item[key[0]].apart_by:
            return key if key in self.items else None
        beside = sorted(self._beside.get(shared, ()))
        open_to = [one for one in beside if shared in (key, one) or self._is_alias(one, wait["row"])]
        fitting = [one for one in open_to if self._fits(key[0], self.items[one], wait["amount"], wait["row"])]
        return (fitting[0] if len(fitting) == 1 else None) if fitting else next(iter(open_to), None)

    def _is_alias(self, key: Key, row: Row) -> bool:
        """Whether an item is told apart by another name of who a row names, as of the row's day."""
        alias = self._rulebook.item[key[0]].alias
        other = row | {"counterparty": key[2].partition(APART)[2]}
        return bool(alias) and self._accounts.payer(row, alias=alias) == self._accounts.payer(
            other, row["effective_on"], alias
        )

    def renamed(self) -> None:
        """Names may have other aliases now: who waits for what names tell apart tries again."""
        for number, wait in self.waiting.items():
            if wait["item"] and not wait["hold"] and self._rulebook.item[wait["item"][0]].alias:
                wait["tried"] = False
                self._stirred.add(number)
        self.look()

    def _may_try(self, wait: Row) -> bool:
        links, terms = self._links(wait["row"]), self._terms.get(wait["item"])
        if wait["hold"]:
            return self._is_refused(wait) or self._lets_go(terms, wait["hold"])
        is_held = self._unsure.get(wait["item"]) or (terms and terms["holds"])
        return not is_held or links.consumes.past_holds

    def _try_consume(self, wait: Row, found: Key) -> None:
        item, rule = self.items[found], self._rulebook.item[wait["item"][0]]
        ref = self._links(wait["row"]).consumes
        if ref.at_most:
            wait["amount"] = min(wait["amount"], item["left"])
        asked = min(wait["amount"], item["left"]) if ref.overdraws else wait["amount"]
        if ref.second_person and (self._is_refused(wait) or not self._asker(wait)):
            wait["fault"] = REFUSED
        elif unlike := [n for n in ref.agrees if (wait["row"][n] or "") != (item["row"][n] or "")]:
            wait["fault"] = ref.agrees[unlike[0]]
        elif not self._fits(wait["item"][0], item, asked, wait["row"]):
            is_spent = wait["amount"] == item["amount"] and not item["left"]
            is_spent = is_spent and wait["row"]["currency"] == item["row"]["currency"]
            wait["fault"] = rule.spent if rule.spent and is_spent else rule.differs
        else:
            self._use(found, item, wait["amount"])
            wait["fault"], wait["used"] = "", found
            self._wait_no_more(wait, "item")

    def _try_release(self, wait: Row) -> None:
        if self._links(wait["row"]).releases.second_person and self._is_refused(wait):
            wait["fault"] = REFUSED
            return
        key, wait["fault"] = wait["item"], ""
        self._wait_no_more(wait, "item")
        self._release(key, wait["hold"])

    def _tied(self) -> bool:
        changed, self._changed = self._changed, set()
        for key in changed & self._groups.keys():
            group = self._groups[key]
            if group["closers"] and group["sum"] == group["total"]:
                group["tied"] = group["total"]
                group["unbooked"] += len(self._waiting_for.get(key, ()))
                for wait in [self.waiting[number] for number in self._waiting_for.get(key, ())]:
                    wait["fault"] = wait["fault"] if wait["item"] else ""
                    self._wait_no_more(wait, "group")
        return False

    # ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def age(self, now_ms: int) -> None:
        """What waits too long stands under an exception; what is used up or has expired is forgotten."""
        for wait in self.waiting.values():
            self._hold_clock(wait, now_ms)
            if not wait["fault"]:
                is_late, fault = self._patience(wait, now_ms)
                wait["fault"] = fault if is_late else ""
        for key, expected in [(key, one) for key, some in self._expected.items() for one in some]:
            rule = self._rulebook.item[key[0]]
            if not expected["flagged"] and ago_ms(rule, expected["since"], now_ms) > rule.wait_days * DAY_MS:
                expected["flagged"] = True
                self._raise(rule.unopened, expected["row"], key, expected["amount"])
        for key, item in list(self.items.items()):
            self._age_item(key, item, now_ms)
        for key, group in list(self._groups.items()):
            old = now_ms - group["since"] > self._rulebook.group[key[0]].wait_days * DAY_MS
            old = old and not (group["unbooked"] and key[0] in self._booked)
            if old and key not in self._waiting_for and group["sum"] == group["total"]:
                del self._groups[key]

    def _age_item(self, key: Key, item: Row, now_ms: int) -> None:
        rule, terms = self._rulebook.item[key[0]], self._terms.get(key)
        age_ms = ago_ms(rule, item["since"], now_ms)
        overdue = terms and rule.overdue and not terms["flagged"] and set(rule.held_by) & set(terms["holds"])
        if overdue and age_ms > rule.wait_days * DAY_MS:
            terms["flagged"] = True
            self._raise(rule.overdue, item["row"], key, item["left"])
        if item["flagged"] or age_ms <= (rule.keep_days or rule.wait_days) * DAY_MS:
            return
        if item["amount"] and _is_spent(item) and age_ms <= rule.remember_days * DAY_MS:
            return
        if _is_spent(item) or rule.unused == "expires":
            self._forget(key)
            self._terms.pop(key, None)
            return
        item["flagged"] = True
        self._raise(rule.unused, item["row"], key, item["left"])

    def _hold_clock(self, wait: Row, now_ms: int) -> None:
        """What a waiting row opened may count no time yet."""
        for ref in self._links(wait["row"]).opened:
            item = self.items.get(self._item_of(wait["row"], ref))
            if item and wait["joined"] and self._rulebook.item[ref.item].while_ready:
                item["since"] = now_ms

    def _patience(self, wait: Row, now_ms: int) -> tuple[bool, str]:
        """Whether a row has waited too long, and what it becomes then."""
        if wait["item"]:
            rule = self._rulebook.item[wait["item"][0]]
            fault = (rule.held if wait["item"] in self.items else "") or rule.unopened
            return ago_ms(rule, wait["since"], now_ms) > rule.wait_days * DAY_MS, fault
        rule = self._rulebook.group[wait["group"][0]]
        return now_ms - wait["since"] > rule.wait_days * DAY_MS, rule.mismatch

    def retry_refused(self, now_ms: int) -> None:
        """Rows that found no room, now that there may be some."""
        for number, wait in list(self.waiting.items()):
            if wait["fault"] == FULL and len(self.items) < self._items_max:
                self.take(number, wait["row"], now_ms)


def _is_spent(item: Row) -> bool:
    """Nothing is left of an item, or less than nothing."""
    return item["left"] == 0 or (item["left"] < 0) == (item["amount"] >= 0)
