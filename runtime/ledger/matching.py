"""Matching, in any order of arrival, one event at a time.

Owns when an event is ready: when the item it consumes is there with enough left and no hold, and the group it belongs
to is complete. Never posts; it says which events became ready, and which became exceptions and why. Reads no clock:
times are arguments.
"""

from runtime.ledger.beside import Beside, apart, shared
from runtime.ledger.crosswalk import Place
from runtime.ledger.held_items import ANNOUNCED, REFUSED, HeldItems
from runtime.ledger.item_table import HashedKey, key_of
from runtime.ledger.links import ItemRef, Links, Release
from runtime.ledger.registers import Policy, unanswered, usual_name
from runtime.ledger.rules import Item, Rulebook
from runtime.ledger.waiting import Change, Event, Expected, GroupSum, ItemTerms, Key, OpenItem, Waiter

FULL = "open_items_full"


class Matching(HeldItems):
    """All that waits in one shard, as arrivals change it."""

    def __init__(self, rulebook: Rulebook, items_max: int, policy: Policy = unanswered) -> None:
        super().__init__(rulebook)
        self._policy = policy
        self._signed = _signed_items(self._links)
        self._agreed = _agreed_columns(self._links)
        self._apart = {name for name, rule in rulebook.item.items() if rule.apart_by}
        self._growing = {name for name, rule in rulebook.item.items() if rule.apart_by or rule.awaits_more}
        self._items_max = items_max
        self.waiters: dict[int, Waiter] = {}
        self._expected: dict[Key, list[Expected]] = {}
        self._consumers: dict[HashedKey, list[int]] = {}  # waiting for an item that is not there yet, or is held
        self._beside = Beside(self.items)
        self._changes: list[Change] = []

    def take(self, event: Event, now_ms: int) -> list[Change]:
        """Match one new event; the changes of this and of every event that it made ready, in order."""
        links, waiter = self._links[event.kind], self._waiter(event, now_ms)
        waiter.fault = self._refusal(event, links)
        if waiter.fault:
            self._tell(event.id, waiter)
        else:
            self._join(event, waiter, links, now_ms)
        return self.drain()

    def _waiter(self, event: Event, now_ms: int) -> Waiter:
        """A new event, which waits until it is known not to."""
        waiter = self.waiters[event.id] = Waiter(event.kind, event.entity, now_ms, currency=event.currency)
        return waiter

    def _join(self, event: Event, waiter: Waiter, links: Links, now_ms: int) -> None:
        """Open, need and join everything that the event's kind links it to."""
        self._link_items(event, waiter, links, now_ms)
        self._name_group(event, waiter, links)
        if waiter.group:
            self._join_group(event, waiter, links)
        self._settled(event, links)

    def _link_items(self, event: Event, waiter: Waiter, links: Links, now_ms: int) -> None:
        for ref in links.opened:
            self._open(event, ref, now_ms)
            if self._rules.item[ref.item].while_ready:
                waiter.opened = self._key(event, ref)[2]
        if links.consumes:
            self._need_item(event, waiter, links.consumes)
            self._keep_unmatched(event, waiter, links)
        for ref in links.expects:
            expected = (self._key(event, ref), event.expects(ref, now_ms))
            waiter.later.append(expected) if ref.once_matched else self._expect(*expected)
        if links.releases:
            self._need_release(event, waiter, links.releases)

    def _settled(self, event: Event, links: Links) -> None:
        """Say what became of an event, and let those that waited for its items try them."""
        self._settle(event.id)
        for ref in links.opened:
            self._wake(self._key(event, ref))

    # ── items ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _key(self, event: Event, ref: ItemRef | Release) -> Key:
        """The key of the item that a link of an event means."""
        text = event.key(ref)
        if ref.item in self._apart:
            text = apart(text, event.counterparty or "")
        return ref.item, event.entity, text

    def _refusal(self, event: Event, links: Links) -> str:
        """The exception type of an event whose items can't be opened."""
        for ref in links.opened:
            key = self._key(event, ref)
            rule, item = self._rules.item[ref.item], self.items.get(key) if key[2] else None
            if item and not (rule.adds and item.currency == event.currency):
                return rule.twice
            if len(self.items) >= self._items_max:
                return FULL
        return ""

    def _open(self, event: Event, ref: ItemRef, now_ms: int) -> None:
        key = self._key(event, ref)
        if ref.optional and not key[2]:
            return
        rule, amount_minor = self._rules.item[ref.item], event.amount(ref.amount)
        item = self.items.get(key)
        if item:  # one that adds to it, or a second one that a person let go: both are one from here on
            item.amount_minor += amount_minor
            self._tell_left(key, item, rule)
            self.items.put(key, item)
            self._hold_unbooked(key, rule)
            return
        item = OpenItem(amount_minor, now_ms, event.source, event.event_id, event.currency)
        self.items.put(key, item)
        if ref.item in self._apart:
            self._beside.put(key)
        if ref.item in self._signed or ref.item in self._agreed or rule.held_by:
            terms = self.terms.setdefault(key, ItemTerms())
            terms.person, terms.said = event.person(), event.said(self._agreed.get(ref.item, ()))
            terms.holds = [*terms.holds, *(hold for hold in rule.held_by if hold not in terms.released)]
        self._hold_unbooked(key, rule)
        if rule.announces:
            self._flag(rule.announces, key, item, raised=True, detail=ANNOUNCED)
        for expected in self._expected.pop(key, ()):
            self._use_expected(key, item, rule, expected)

    def _need_item(self, event: Event, waiter: Waiter, ref: ItemRef) -> None:
        key = self._key(event, ref)
        if ref.optional and not key[2]:
            return
        waiter.item, waiter.item_minor = key[2], event.amount(ref.amount)
        if ref.second_person:
            waiter.person = event.person()
        if self._rules.item[ref.item].alias:
            waiter.on = event.effective_on
        waiter.said = event.said(ref.agrees)
        self._attempt(event.id, key, waiter)

    def _keep_unmatched(self, event: Event, waiter: Waiter, links: Links) -> None:
        """What lacks what it needs opens nothing that others could use already, where its items say so."""
        for ref in links.opened if waiter.item else ():
            if self._rules.item[ref.item].once_matched:
                self._hold_unmatched(self._key(event, ref), waiter)

    def _expect(self, key: Key, expected: Expected) -> None:
        """Use an item now, or when it comes; the event does not wait for it."""
        item = self.items.get(key)
        if item:
            self._use_expected(key, item, self._rules.item[key[0]], expected)
        elif key[2]:
            self._expected.setdefault(key, []).append(expected)

    def _need_release(self, event: Event, waiter: Waiter, ref: Release) -> None:
        key = self._key(event, ref)
        waiter.item, waiter.hold = key[2], ref.hold or event.reason or ""
        waiter.person = event.person()
        self._attempt(event.id, key, waiter)

    def _attempt(self, id: int, key: Key, waiter: Waiter) -> None:
        """Use an item that is there and free; otherwise wait for it."""
        if not self._tried(key, waiter):
            self._consumers.setdefault(key_of(shared(key)), []).append(id)

    def _tried(self, key: Key, waiter: Waiter) -> bool:
        """Use or release an item; False if it is not there, or not free, or more of it, or another one beside it, may
        still come."""
        meant = self._meant(key, waiter)
        if meant is None:
            return False
        item, terms = self.items.get(meant), self.terms.get(meant)
        if item and waiter.hold:
            return self._release(meant, item, waiter)
        if item and (not (terms and terms.holds) or self._links[waiter.kind].consumes.past_holds):
            self._consume(meant, item, waiter)
        else:
            return False
        return not (waiter.fault and key[0] in self._growing)

    def _meant(self, key: Key, waiter: Waiter) -> Key | None:
        """The item that a waiter for this key means; None if it could be one of several."""
        if key[0] not in self._apart:
            return key
        rule = self._rules.item[key[0]]
        return self._beside.meant(
            key,
            lambda item: self._fits(key[0], item, waiter.item_minor, waiter.currency),
            lambda name: self._usual_name(rule.alias, key[1], waiter, name),
        )

    def _usual_name(self, alias: str, entity: str, waiter: Waiter, name: str) -> str:
        return usual_name(self._policy, alias, Place(entity, "", "", waiter.on, name)) if waiter.on else name

    def renamed(self) -> list[Change]:
        """Names may have other aliases now: let those try again that wait for what is told apart by names."""
        keys: dict[Key, None] = {}
        for waiter in self.waiters.values():
            ref = self._links[waiter.kind].consumes
            if waiter.on and waiter.item and ref:
                keys[shared((ref.item, waiter.entity, waiter.item))] = None
        for key in keys:
            self._wake(key)
        return self.drain()

    def _consume(self, key: Key, item: OpenItem, waiter: Waiter) -> None:
        """Allocate what a waiter needs from an item that is there, or say that it does not fit."""
        rule = self._rules.item[key[0]]
        ref = self._links[waiter.kind].consumes
        if ref.at_most:
            waiter.item_minor = min(waiter.item_minor, item.residual_minor)
        fitting_minor = min(waiter.item_minor, item.residual_minor) if ref.overdraws else waiter.item_minor
        if ref.second_person and (self._is_refused(key, waiter) or not self._opener(key)):
            waiter.fault = REFUSED
        elif contradicted := self._contradicted(key, waiter):
            waiter.fault = ref.agrees[contradicted]
        elif not self._fits(key[0], item, fitting_minor, waiter.currency):
            waiter.fault = rule.spent if rule.spent and self._is_spent(item, waiter) else rule.differs
        else:
            self._use(key, item, rule, waiter.item_minor)
            waiter.item = waiter.fault = ""
            waiter.used = key[2] if key[0] in self._apart else ""

    def _use(self, key: Key, item: OpenItem, rule: Item, amount_minor: int) -> None:
        if rule.use == "exists":
            return
        item.used_minor += amount_minor
        self._tell_left(key, item, rule)
        self.items.put(key, item)

    def _use_expected(self, key: Key, item: OpenItem, rule: Item, expected: Expected) -> None:
        """Use an item for an event that did not wait for it."""
        if expected.at_most:
            expected.amount_minor = min(expected.amount_minor, item.residual_minor)
        if expected.flagged:
            self._flag_expected(rule.unopened, key, expected, raised=False)
        if self._fits(key[0], item, expected.amount_minor, expected.currency):
            self._use(key, item, rule, expected.amount_minor)
            if expected.id in self.waiters:
                self.waiters[expected.id].also_used.append((key, expected.amount_minor))
        elif rule.differs:
            detail = "it does not fit its counterpart"
            self._flag_expected(rule.differs, key, expected, raised=True, detail=detail)

    def _fits(self, name: str, item: OpenItem, amount_minor: int, currency: str) -> bool:
        """Whether so much of an item may be used. Money of another currency never fits; pieces have none."""
        use = self._rules.item[name].use
        if use == "exists":
            return True
        if currency != item.currency and name not in self._counted:
            return False
        if use == "part":
            return amount_minor <= item.residual_minor
        return amount_minor == item.amount_minor and not item.used_minor

    def _is_spent(self, item: OpenItem, waiter: Waiter) -> bool:
        """Whether another one has used up just what this waiter needs."""
        whole = (item.amount_minor, item.used_minor, item.currency)
        return whole == (waiter.item_minor, waiter.item_minor, waiter.currency)

    def _contradicted(self, key: Key, waiter: Waiter) -> str:
        """The first column in which a waiter says something else than the item's opener, "" when there is none."""
        terms = self.terms.get(key)
        said = terms.said if terms else {}
        return next((column for column, text in waiter.said.items() if said.get(column, text) != text), "")

    # ── groups ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _name_group(self, event: Event, waiter: Waiter, links: Links) -> None:
        """Say which group an event waits for, and what it counts there."""
        if links.member_of:
            waiter.group = event.key(links.member_of)
            waiter.group_minor = links.member_of.sign * event.amount_minor
        if links.closes:
            waiter.group, waiter.group_minor = event.key(links.closes), event.amount(links.closes.total)

    def _join_group(self, event: Event, waiter: Waiter, links: Links) -> None:
        group = self._group(event, links, waiter.since_ms)
        group.waiting.append(event.id)
        if links.closes:
            group.total_minor += waiter.group_minor
            group.closers += 1
        else:
            group.waiting_minor += waiter.group_minor
        self._tie(group)

    def _group(self, event: Event, links: Links, since_ms: int) -> GroupSum:
        ref = links.member_of or links.closes
        return self.groups.setdefault((ref.group, event.entity, event.currency, event.key(ref)), GroupSum(since_ms))

    def _tie(self, group: GroupSum) -> None:
        """Release a group's waiting members when they make up exactly what its total still lacks.

        A sum that ties by accident before all members have come does no harm: later members wait until they, too,
        make up what is then lacking, which is nothing. So the end does not depend on the order of arrival.
        """
        if not group.closers or group.booked_minor + group.waiting_minor != group.total_minor:
            return
        released, group.waiting = group.waiting, []
        group.unbooked += len(released)
        group.booked_minor, group.waiting_minor = group.total_minor, 0
        for member in released:
            self._free(member)

    def _free(self, member: int) -> None:
        """A member's group is whole."""
        waiter = self.waiters[member]
        waiter.group = ""
        if not waiter.item:  # a fault was then the group's, and has ended; one of a lacking item stands
            waiter.fault = ""
        self._settle(member)

    # ── what became of events ──────────────────────────────────────────────────────────────────────────────────────

    def _wake(self, key: Key) -> None:
        """Let those that waited for an item try it, first come first served."""
        for id in self._consumers.pop(key_of(shared(key)), ()):
            if id in self.waiters:
                waiter = self.waiters[id]
                self._attempt(id, (*key[:2], waiter.item), waiter)
                self._settle(id)

    def _is_asked_for(self, key: Key) -> bool:
        return key_of(shared(key)) in self._consumers

    def _settle(self, id: int) -> None:
        """Say what became of an event: ready when nothing is lacking, otherwise whether it waits or is at fault."""
        waiter = self.waiters.get(id)
        if waiter is None:
            return
        while waiter.later and not waiter.item:  # one that never gets its item, as it is a repeat, gives nothing back
            self._expect(*waiter.later.pop(0))
        if waiter.item or waiter.group or waiter.fault:
            self._tell(id, waiter)
        else:
            del self.waiters[id]
            self._changes.append(Change(id, "ready"))
        if waiter.kept and not waiter.item:
            self._free_matched(waiter)

    def _tell(self, id: int, waiter: Waiter) -> None:
        """Report a waiter's state once."""
        state = waiter.fault or "waiting"
        if waiter.told != state:
            waiter.told = state
            self._changes.append(Change(id, "excepted" if waiter.fault else "waiting", waiter.fault))

    @property
    def has_changes(self) -> bool:
        """Whether there are any to drain."""
        return bool(self._changes)

    def drain(self) -> list[Change]:
        """The changes since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes


def _signed_items(links: dict[str, Links]) -> frozenset[str]:
    """Items whose opener must be remembered, as a second person must sign for them."""
    consumed = {one.consumes.item for one in links.values() if one.consumes and one.consumes.second_person}
    released = {one.releases.item for one in links.values() if one.releases and one.releases.second_person}
    return frozenset(consumed | released)


def _agreed_columns(links: dict[str, Links]) -> dict[str, tuple[str, ...]]:
    """item -> what must be remembered of its opener, as others must agree with it."""
    refs = [one.consumes for one in links.values() if one.consumes and one.consumes.agrees]
    return {
        item: tuple(sorted({c for ref in refs if ref.item == item for c in ref.agrees}))
        for item in {ref.item for ref in refs}
    }
