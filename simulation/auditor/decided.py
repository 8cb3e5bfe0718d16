"""Matching, and what people decide of rows that wait in it.

Owns trying a row again, letting it go without what it lacks, and taking it out.
"""

from runtime.ledger.links import Links
from simulation.auditor.amounts import sum_of
from simulation.auditor.held_items import UNBOOKED
from simulation.auditor.keys import Key, Row
from simulation.auditor.matching import FULL, REFUSED, Matching


class DecidedMatching(Matching):
    """Matching with people's decisions, by the numbers of rows."""

    def retry(self, number: int, now_ms: int) -> None:
        """Try a row at fault once more, if it waits still. It keeps its place among those that wait, unless it has had
        its turn."""
        if number not in self.waiting:
            return
        wait = self.waiting[number]
        twice = {self._rulebook.item[ref.item].twice for ref in self._links(wait["row"]).opened}
        if wait["fault"] in {FULL, *twice}:
            self.take(number, wait["row"], now_ms)
            return
        if wait["item"] and wait["tried"] and not self._is_growing(wait["item"][0]):
            wait["order"] = self._next_turn()
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
            money = [self._item_of(wait["row"], ref) for ref in links.opened if ref.item not in self._pieces]
            there = {self.items[key]["row"]["currency"] for key in money if key in self.items}
            if there - {wait["row"]["currency"]}:
                return
            wait["fault"], wait["order"] = "", self._next_turn()
            self._join(wait["row"], wait, now_ms)
        elif wait["item"] and links.consumes and wait["fault"] and not self._is_final(wait, links):
            is_unsure = self._unsure.get(wait["item"]) or any(number in openers for openers in self._unsure.values())
            if is_unsure or UNBOOKED in self._terms.get(wait["item"], {}).get("holds", ()):
                return
            wait["fault"], wait["amount"] = "", 0
            self._wait_no_more(wait, "item")
        self.look()

    def _is_final(self, wait: Row, links: Links) -> bool:
        """Whether nobody may let a row go: an approval that was refused, or that is not of what was asked for."""
        differs, agrees = self._rulebook.item[links.consumes.item].differs, links.consumes.agrees
        return wait["fault"] in (REFUSED, *((differs, *agrees.values()) if agrees else ()))

    def drop(self, number: int) -> None:
        """Take a row out, with all that it opened and joined. Look when all are out."""
        wait = self.waiting.pop(number)
        row = wait["row"]
        if wait["group"]:
            group = self._groups[wait["group"]]
            self._count_in(group, wait, -1)
        consumed = self._links(row).consumes
        if consumed and not wait["item"]:
            self._give_back(wait.get("used") or self._item_of(row, consumed), wait.get("amount", 0))
        wait["later"] = []
        for key, expected in wait.get("expects", ()):
            self._undo(key, expected)
        for what in ("item", "group"):
            self._wait_no_more(wait, what)
        for ref in self._links(row).opened if wait["joined"] else ():
            key = self._item_of(row, ref)
            item, rule = self.items.get(key), self._rulebook.item[ref.item]
            several = rule.adds or rule.once_matched
            if item and several and item["left"] >= (added := sum_of(ref.amount, row)):
                item["amount"] -= added
                self._leave(key, item, -added)
            if item and several and item["amount"]:
                continue
            own = item and (item["row"]["source"], item["row"]["event_id"]) == (row["source"], row["event_id"])
            if own and item["left"] == item["amount"]:
                self._end(rule.unused, row)
                self._end(rule.announces, row)
                self._forget(key)
                terms = self._terms.pop(key, {"flagged": False, "holds": [], "causes": []})
                if terms["flagged"]:
                    self._end(rule.overdue, row)
                if kept := [one for one in terms["holds"] if one not in (*rule.held_by, UNBOOKED)]:
                    self._terms_of(key).update(holds=kept, causes=terms["causes"])  # what registers hold stays held

    def _undo(self, key: Key, expected: Row) -> None:
        """What a row expected of an item: not asked for any more, or given back, or taken back if it is there still."""
        waiting, item = self._expected.get(key, []), self.items.get(key)
        if expected["used"] and expected["amount"] > 0:
            self._give_back(key, expected["amount"])
        elif expected["used"] and item and item["left"] + expected["amount"] >= 0:
            self._use(key, item, -expected["amount"])
        self._expected[key] = [one for one in waiting if one is not expected]
        if expected["flagged"] and not expected["used"] and len(self._expected[key]) < len(waiting):
            self._end(self._rulebook.item[key[0]].unopened, expected["row"])

    def _give_back(self, key: Key, amount: int) -> None:
        if key in self.items:
            self._use(key, self.items[key], -amount)
