"""What waits for what, in one shard: items, sums and waiting rows as dicts, looked through as a whole each time.

Owns, for each row that waits, why: the item it lacks, the group it lacks, or the exception it stands under.
"""

from typing import Any

from runtime.ledger.rules import Links, Rulebook

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000


class Matching:
    """Rows go in at their place in the log; `ready` and `faults` tell what became of them."""

    def __init__(self, rulebook: Rulebook, items_max: int) -> None:
        self._rulebook, self._items_max = rulebook, items_max
        self.items: dict[tuple, dict[str, Any]] = {}
        self._groups: dict[tuple, dict[str, Any]] = {}
        self.waiting: dict[int, dict[str, Any]] = {}  # row number -> what it lacks
        self.flags: dict[tuple, int] = {}  # (type, source, event_id, entity, currency) -> residual when it was told

    def take(self, number: int, row: Row, received_ms: int) -> list[int]:
        """One row; the numbers of all rows that are ready now."""
        links = self._links(row)
        wait = {"row": row, "since": received_ms, "item": None, "group": None, "fault": ""}
        self.waiting[number] = wait
        if links.opens and (refused := self._open((links.opens.item, row["entity"], row[links.opens.key]), row, wait)):
            wait["fault"] = refused
            return []
        if links.consumes:
            wait["item"] = (links.consumes.item, row["entity"], row[links.consumes.key])
            wait["tried"] = False
        for ref, sign in ((links.member_of, None), (links.closes, 0)):
            if ref:
                wait["group"] = (ref.group, row["entity"], row[ref.key])
                group = self._groups.setdefault(wait["group"], {"since": received_ms, "sum": 0, "total": None})
                group["sum"] += (ref.sign if sign is None else sign) * row["amount_minor"]
                if ref is links.closes:
                    group["total"] = row["amount_minor"]
                group["changed"] = True
        return self._let_go()

    def _open(self, key: tuple, row: Row, wait: dict) -> str:
        if key in self.items:
            return "duplicate_open_item"
        if len(self.items) >= self._items_max:
            return "open_items_full"
        self.items[key] = {"left": row["amount_minor"], "row": row, "since": wait["since"], "flag": None}
        return ""

    def _let_go(self) -> list[int]:
        """Serve those that wait for items, in their order; tie sums; see who lacks nothing any more."""
        for wait in self.waiting.values():
            if wait["item"] in self.items and not wait["tried"]:
                self._consume(wait)
        for key, group in self._groups.items():
            if group.pop("changed", False) and group["sum"] == group["total"]:
                self._tie(key)
        ready = [n for n, wait in self.waiting.items() if not (wait["item"] or wait["group"] or wait["fault"])]
        for number in ready:
            del self.waiting[number]
        return ready

    def _consume(self, wait: dict) -> None:
        wait["tried"] = True
        item, rule, amount = self.items[wait["item"]], self._rulebook.item[wait["item"][0]], wait["row"]["amount_minor"]
        untouched = item["left"] == item["row"]["amount_minor"]
        if not (amount <= item["left"] if rule.use == "part" else amount == item["left"] and untouched):
            wait["fault"] = rule.differs
            return
        item["left"] -= amount
        wait["item"], wait["fault"] = None, ""
        if item["flag"] and item["left"] == 0:
            del self.flags[item["flag"]]
            item["flag"] = None

    def _tie(self, key: tuple) -> None:
        for wait in self.waiting.values():
            if wait["group"] == key:
                wait["group"] = None
                wait["fault"] = wait["fault"] if wait["item"] else ""

    def age(self, now_ms: int) -> None:
        """What waits too long stands under an exception; what is used up or has expired is forgotten."""
        for wait in self.waiting.values():
            if not wait["fault"]:
                days, fault = self._patience(wait)
                if now_ms - wait["since"] > days * DAY_MS:
                    wait["fault"] = fault
        for key, item in list(self.items.items()):
            rule = self._rulebook.item[key[0]]
            if item["flag"] or now_ms - item["since"] <= rule.wait_days * DAY_MS:
                continue
            if item["left"] == 0 or rule.unused == "expires":
                del self.items[key]
                continue
            row = item["row"]
            item["flag"] = (rule.unused, row["source"], row["event_id"], row["entity"], row["currency"])
            self.flags[item["flag"]] = item["left"]
        for key, group in list(self._groups.items()):
            waited_for = any(wait["group"] == key for wait in self.waiting.values())
            old = now_ms - group["since"] > self._rulebook.group[key[0]].wait_days * DAY_MS
            if old and not waited_for and group["sum"] == group["total"]:
                del self._groups[key]

    def _patience(self, wait: dict) -> tuple[int, str]:
        if wait["item"]:
            rule = self._rulebook.item[wait["item"][0]]
            return rule.wait_days, rule.unopened
        rule = self._rulebook.group[wait["group"][0]]
        return rule.wait_days, rule.mismatch

    def _links(self, row: Row) -> Links:
        return self._rulebook.kind[row["kind"]].links
