"""The register of what waits for its counterpart: matching, and what time and people change in it.

Owns how long things may wait and what becomes of them then, what people may decide of events at fault, and telling when
what is not booked yet must be. Reads no clock: times are arguments.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec
import numpy as np

from runtime.ledger.beside import shared
from runtime.ledger.held_items import FIRM, REFUSED
from runtime.ledger.item_table import HashedKey, TableState, key_of
from runtime.ledger.links import ItemRef, Links, Release
from runtime.ledger.matching import FULL
from runtime.ledger.registers import Policy, unanswered
from runtime.ledger.rules import Item, Rulebook
from runtime.ledger.step_matching import StepMatching
from runtime.ledger.waiting import Change, Event, Expected, GroupKey, GroupSum, ItemTerms, Key, OpenItem, Waiter
from runtime.ledger.weekdays import business_ms

DAY_MS = 86_400_000


class OpenItems(StepMatching):
    """All that waits in one shard."""

    def __init__(self, rulebook: Rulebook, items_max: int, policy: Policy = unanswered) -> None:
        super().__init__(rulebook, items_max, policy)
        self._once_booked = {name: _refs_to(one, self._booked_as.values()) for name, one in self._links.items()}
        self._waking = _waking(self._links, self._booked_as.values())

    # ── booked before ──────────────────────────────────────────────────────────────────────────────────────────────

    def comes_between(self, events: Iterable[Event]) -> bool:
        """Whether these events touch an item that somebody awaits who only lacks that it is booked, or, in whatever
        order they come, may change one that is not booked yet before others of them use it."""
        touched = (one for event in events for one in self._touched(event))
        return any(self._is_unbooked(key) and (changes or self._is_asked_for(key)) for key, changes in touched)

    def _touched(self, event: Event) -> Iterator[tuple[Key, bool]]:
        """The items, of those that are used only when they are booked, that an event links to in whatever way, or that
        those who wait for what it opens will use; and whether that changes them without waiting."""
        links = self._links[event.kind]
        for ref in self._once_booked[event.kind]:
            waits = ref is links.releases or (ref is links.consumes and not ref.past_holds)
            yield self._key(event, ref), not waits
        for ref in self._waking[event.kind]:
            waiting = self._consumers.get(key_of(shared(self._key(event, ref))), ())
            for waiter in (self.waiters[id] for id in waiting if id in self.waiters):
                yield from ((key, True) for key, _ in waiter.later)

    # ── decided by people ──────────────────────────────────────────────────────────────────────────────────────────

    def retry(self, event: Event, now_ms: int) -> list[Change]:
        """Try an event at fault once more, unless it went on already, as one before it was tried."""
        waiter, links = self.waiters.get(event.id), self._links[event.kind]
        if waiter is None:
            return []
        if waiter.fault in self._refusals(links):
            del self.waiters[event.id]
            return self.take(event, now_ms)
        waiter.fault, waiter.since_ms = "", now_ms
        ref = links.consumes or links.releases
        if waiter.item and ref:
            key = (ref.item, event.entity, waiter.item)
            if ref is links.releases or ref.second_person:
                waiter.person = event.person()
            waiter.said = event.said(ref.agrees) if ref is links.consumes else {}
            if self._tried(key, waiter):
                self._forget_consumer(key, event.id)
            elif event.id not in self._consumers.get(key_of(shared(key)), ()):  # who waits already keeps the place
                self._consumers.setdefault(key_of(shared(key)), []).append(event.id)
        self._settle(event.id)
        return self.drain()

    def let_go(self, event: Event, now_ms: int) -> list[Change]:
        """Let an event go on although its item is not there, does not fit, or was opened before. A group's sum that
        does not tie, and an approval that was refused, or is of something else than was asked for, can't be let go, nor
        what would add money to an item of another currency, nor what uses an item that is not booked yet, or whose
        opener lacks what it needs, nor that opener; what went on already, need not."""
        waiter, links = self.waiters.get(event.id), self._links[event.kind]
        if waiter is None:
            return []
        if waiter.fault in {self._rules.item[ref.item].twice for ref in links.opened}:
            if self._mixes(event, links):
                return []
            waiter.fault = ""
            self._join(event, waiter, links, now_ms)
        elif waiter.item and links.consumes and waiter.fault not in ("", *self._unyielding(links.consumes)):
            key = (links.consumes.item, event.entity, waiter.item)
            if waiter.kept or self._is_firm(key):
                return []
            self._forget_consumer(key, event.id)
            waiter.item = waiter.fault = ""
            waiter.item_minor = 0
            self._settle(event.id)
        return self.drain()

    def _mixes(self, event: Event, links: Links) -> bool:
        """Whether it would add money of one currency to an item of another."""
        items = [self.items.get(self._key(event, ref)) for ref in links.opened if ref.item not in self._counted]
        return any(item and item.currency != event.currency for item in items)

    def _refusals(self, links: Links) -> set[str]:
        """The exceptions of an event that has opened nothing and joined nothing."""
        return {FULL, *(self._rules.item[ref.item].twice for ref in links.opened)}

    def _unyielding(self, ref: ItemRef) -> set[str]:
        """The exceptions that nobody may let go."""
        differs = {self._rules.item[ref.item].differs} if ref.agrees else set()
        return {REFUSED, *ref.agrees.values(), *differs}

    def drop(self, events: Iterable[Event]) -> list[Change]:
        """Take waiting events out, with all that they opened, used and joined; the changes of others. None of them goes
        on because another one is out."""
        out = {event: self.waiters[event.id] for event in events}
        for group in [group for event in out if (group := self._drop(event))]:
            self._tie(group)
        for waiter in out.values():
            self._free_matched(waiter)
        return self.drain()

    def _drop(self, event: Event) -> GroupSum | None:
        """Take one out; the group that it has left."""
        waiter, links = self.waiters.pop(event.id), self._links[event.kind]
        ref = links.consumes or links.releases
        if waiter.item and ref:
            self._forget_consumer((ref.item, event.entity, waiter.item), event.id)
        elif links.consumes:
            key = self._key(event, links.consumes)
            self._give_back((*key[:2], waiter.used or key[2]), waiter.item_minor)
        self._expect_no_more(event, waiter, links)
        group_ref, group = links.member_of or links.closes, None
        if waiter.group and group_ref:
            group = self.groups[group_ref.group, event.entity, event.currency, waiter.group]
            group.waiting.remove(event.id)
            if links.closes:
                group.total_minor -= waiter.group_minor
                group.closers -= 1
            else:
                group.waiting_minor -= waiter.group_minor
        for opened in () if waiter.fault in self._refusals(links) else links.opened:
            key = self._key(event, opened)
            if _in_parts(self._rules.item[opened.item]):
                self._take_away(key, event.amount(opened.amount))
            self._close_item(event, key)
        return group

    def _expect_no_more(self, event: Event, waiter: Waiter, links: Links) -> None:
        """What an event uses without waiting for it, or gave back, is as before, unless that was used again."""
        for key in {self._key(event, ref) for ref in links.expects}:
            expectations = self._expected.pop(key, [])
            for expected in [one for one in expectations if one.id == event.id and one.flagged]:
                self._flag_expected(self._rules.item[key[0]].unopened, key, expected, raised=False)
            if kept := [one for one in expectations if one.id != event.id]:
                self._expected[key] = kept
        for key, amount_minor in waiter.also_used:
            item = self.items.get(key)
            if amount_minor > 0:
                self._give_back(key, amount_minor)
            elif item and item.residual_minor >= -amount_minor:
                self._use(key, item, self._rules.item[key[0]], -amount_minor)

    def _take_away(self, key: Key, amount_minor: int) -> None:
        """What an event added to an item is there no more, unless it was used."""
        item = self.items.get(key)
        if not item or item.residual_minor < amount_minor:
            return
        item.amount_minor -= amount_minor
        self._tell_left(key, item, self._rules.item[key[0]])
        self.items.put(key, item)

    def _close_item(self, event: Event, key: Key) -> None:
        """Forget an item that this event opened and nothing has used."""
        item = self.items.get(key)
        rule = self._rules.item[key[0]]
        if not item or (_in_parts(rule) and item.amount_minor):  # others have added to it
            return
        if (item.source, item.event_id) == (event.source, event.event_id) and not item.used_minor:
            if item.flagged:
                self._flag(rule.unused, key, item, raised=False)
            if rule.announces:
                self._flag(rule.announces, key, item, raised=False)
            self._keep_holds(key, item)
            self.items.remove(key)

    def _keep_holds(self, key: Key, item: OpenItem) -> None:
        """What registers hold stays held, whichever event opens it next; who opened it, and its approval, is gone."""
        terms, rule = self.terms.pop(key, ItemTerms()), self._rules.item[key[0]]
        if terms.flagged:
            self._flag(rule.overdue, key, item, raised=False)
        holds = [hold for hold in terms.holds if hold not in (*rule.held_by, *FIRM)]
        if holds:
            self.terms[key] = ItemTerms(holds=holds, causes=terms.causes)

    def _give_back(self, key: Key, amount_minor: int) -> None:
        """What an event used is there again, for those that come later."""
        item, rule = self.items.get(key), self._rules.item[key[0]]
        if not item or rule.use == "exists" or not amount_minor:
            return
        item.used_minor -= amount_minor
        self._tell_left(key, item, rule)
        self.items.put(key, item)

    def _forget_consumer(self, key: Key, id: int) -> None:
        waiting = self._consumers.get(key_of(shared(key)), [])
        if id in waiting:
            waiting.remove(id)

    # ── time ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def age(self, now_ms: int) -> list[Change]:
        """What waits too long becomes an exception; items that are used up or expired are forgotten."""
        for id, waiter in self.waiters.items():
            if waiter.opened:
                self._restart(waiter, now_ms)
            if not waiter.fault and self._is_overdue(waiter, now_ms):
                waiter.fault = self._overdue(waiter)
                self._tell(id, waiter)
        for key, expectations in self._expected.items():
            self._age_expected(key, expectations, now_ms)
        for key, terms in self.terms.items():
            self._age_holds(key, terms, now_ms)
        self._age_items(now_ms)
        for key in [key for key, group in self.groups.items() if self._finished(key, group, now_ms)]:
            del self.groups[key]
        return self.drain()

    def room(self) -> bool:
        """Whether items may be opened."""
        return len(self.items) < self._items_max

    def _age_expected(self, key: Key, expectations: list[Expected], now_ms: int) -> None:
        rule = self._rules.item[key[0]]
        for expected in expectations:
            if not expected.flagged and _age_ms(rule, expected.since_ms, now_ms) > rule.wait_days * DAY_MS:
                expected.flagged = True
                self._flag_expected(rule.unopened, key, expected, raised=True)

    def _age_holds(self, key: Key, terms: ItemTerms, now_ms: int) -> None:
        rule, item = self._rules.item[key[0]], self.items.get(key)
        if not item or terms.flagged or not rule.overdue or not set(rule.held_by) & set(terms.holds):
            return
        if _age_ms(rule, item.since_ms, now_ms) > rule.wait_days * DAY_MS:
            terms.flagged = True
            self._flag(rule.overdue, key, item, raised=True, detail=f"held by {', '.join(sorted(set(terms.holds)))}")

    def _finished(self, key: GroupKey, group: GroupSum, now_ms: int) -> bool:
        tied = group.total_minor == group.booked_minor and not group.waiting
        tied &= not (group.unbooked and key[0] in self._booked_as)
        return tied and now_ms - group.since_ms > self._rules.group[key[0]].wait_days * DAY_MS

    def _restart(self, waiter: Waiter, now_ms: int) -> None:
        """The time of an item that counts only while its opener waits for nothing begins anew."""
        for ref in self._links[waiter.kind].opened:
            if self._rules.item[ref.item].while_ready:
                self.items.restart((ref.item, waiter.entity, waiter.opened), now_ms)

    def _is_overdue(self, waiter: Waiter, now_ms: int) -> bool:
        links = self._links[waiter.kind]
        if waiter.item:
            rule = self._rules.item[(links.consumes or links.releases).item]
            return _age_ms(rule, waiter.since_ms, now_ms) > rule.wait_days * DAY_MS
        days = self._rules.group[(links.member_of or links.closes).group].wait_days
        return now_ms - waiter.since_ms > days * DAY_MS

    def _overdue(self, waiter: Waiter) -> str:
        links = self._links[waiter.kind]
        if not waiter.item:
            return self._rules.group[(links.member_of or links.closes).group].mismatch
        name = (links.consumes or links.releases).item
        rule, is_there = self._rules.item[name], (name, waiter.entity, waiter.item) in self.items
        return (rule.held if is_there else "") or rule.unopened

    def _age_items(self, now_ms: int) -> None:
        """Forget items that are used up or expire; what others have left over becomes an exception."""
        items, rows = self.items, self.items.standing()
        rules = [self._rules.item[label.name] for label in items.labels]
        label, age_ms = items.label[rows], now_ms - items.since_ms[rows]
        weekly = np.array([rule.business_days for rule in rules], bool)[label]
        age_ms[weekly] = business_ms(items.since_ms[rows[weekly]], now_ms)
        late = (age_ms > _of_days(rule.keep_days or rule.wait_days for rule in rules)[label]) & ~items.flagged[rows]
        rows, label, age_ms = rows[late], label[late], age_ms[late]
        amount_minor, left_minor = items.amount_minor[rows], items.amount_minor[rows] - items.used_minor[rows]
        used_up = np.where(amount_minor >= 0, left_minor <= 0, left_minor >= 0)
        expires = np.array([rule.unused == "expires" for rule in rules], bool)[label]
        for row in rows[~used_up & ~expires].tolist():
            self._flag_unused(row)
        remembered_ms = _of_days(rule.remember_days for rule in rules)[label]
        forgotten = (age_ms > remembered_ms) | (items.amount_minor[rows] == 0)
        self._forget_items(rows[np.where(used_up, forgotten, expires)])
        self._beside.sweep()

    def _flag_unused(self, row: int) -> None:
        label, item = self.items.at(row)
        self.items.flagged[row] = True
        self._flag(self._rules.item[label.name].unused, (label.name, label.entity, ""), item, raised=True)

    def _forget_items(self, rows: np.ndarray) -> None:
        gone = set(self.items.keys_at(rows)) if self.terms else set()
        self.items.forget(rows)
        # What a register holds is known until it ends, so that its exception ends once.
        for key in [key for key, terms in self.terms.items() if not terms.causes and key_of(key) in gone]:
            del self.terms[key]

    # ── snapshot ───────────────────────────────────────────────────────────────────────────────────────────────────

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        kept = self._kept()
        return msgspec.msgpack.encode((self.items.dump(), *(list(part.items()) for part in kept)))

    def freeze(self) -> Callable[[], bytes]:
        """What gives the same as `dump` would now, whatever happens here meanwhile. What is little but the items is
        made bytes of at once: there is no quicker copy."""
        kept = self._kept()
        items, rest = self.items.freeze(), [msgspec.Raw(msgspec.msgpack.encode(list(part.items()))) for part in kept]
        return lambda: msgspec.msgpack.encode((items(), *rest))

    def _kept(self) -> tuple[dict, ...]:
        return self.terms, self.groups, self.waiters, self._expected, self._consumers, self._beside.texts

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        items, *parts = msgspec.msgpack.decode(state, type=_STATE)
        self.items.load(items)
        self.terms, self.groups, self.waiters, self._expected, self._consumers, self._beside.texts = map(dict, parts)


def residuals(state: bytes) -> dict[tuple[int, int], int]:
    """What is left of each item that a dump holds, by its hashed key (see `item_table.key_of`)."""
    return msgspec.msgpack.decode(state, type=_STATE)[0].residuals()


def _in_parts(rule: Item) -> bool:
    """Whether what one opener gave to an item can be told from what others gave, as nobody has used it before."""
    return rule.adds or rule.once_matched


def _age_ms(rule: Item, since_ms: int, now_ms: int) -> int:
    """How long ago that is, in the days that an item's rule counts."""
    return int(business_ms(since_ms, now_ms)) if rule.business_days else now_ms - since_ms


def _of_days(days: Iterable[int]) -> np.ndarray:
    return np.array(list(days), np.int64) * DAY_MS


_STATE = tuple[
    TableState,
    list[tuple[Key, ItemTerms]],
    list[tuple[GroupKey, GroupSum]],
    list[tuple[int, Waiter]],
    list[tuple[Key, list[Expected]]],
    list[tuple[HashedKey, list[int]]],
    list[tuple[Key, list[str]]],
]


def _refs_to(links: Links, items: Collection[str]) -> list[ItemRef | Release]:
    """The links of a kind to any of these items."""
    refs = (*links.opened, *links.expects, links.consumes, links.releases)
    return [ref for ref in refs if ref and ref.item in items]


def _waking(links: Mapping[str, Links], items: Collection[str]) -> dict[str, list[ItemRef]]:
    """The links by which a kind opens what others wait for who use any of these items as soon as they have it."""
    later = [one for one in links.values() if any(ref.once_matched and ref.item in items for ref in one.expects)]
    awaited = {one.consumes.item for one in later if one.consumes}
    return {name: [ref for ref in one.opened if ref.item in awaited] for name, one in links.items()}
