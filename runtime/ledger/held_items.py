"""Open items and what keeps them from being used: holds from their opening, of registers, and of what is not booked
or lacks what it needs.

Owns when a hold begins and ends, who may let it go, and the exceptions that end with it. Never says who uses an item:
matching does. Reads no clock.
"""

from collections.abc import Iterable, Sequence

from runtime.ledger.item_table import ItemTable
from runtime.ledger.links import Links
from runtime.ledger.registers import Hold, ItemFlag, Marks, Told
from runtime.ledger.rules import Item, Rulebook
from runtime.ledger.waiting import Event, Expected, GroupKey, GroupSum, ItemTerms, Key, OpenItem, Waiter

REFUSED = "approval_refused"
UNBOOKED = "unbooked"  # the hold of what is not recorded yet
UNMATCHED = "unmatched"  # the hold of what was opened by an event that has not what it needs: one for each such event
FIRM = (UNBOOKED, UNMATCHED)  # holds that nobody lets go
QUANTITY = "quantity"
ANNOUNCED = "open since this event"  # the detail of an exception that lasts as long as its item is open
_NUMBER = ":"  # what follows it in a hold's name tells apart the holds of one plain name


class HeldItems:
    """The items of one shard, and what holds them."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rules = rulebook
        self._links: dict[str, Links] = {name: kind.links for name, kind in rulebook.kind.items() if kind.links}
        self._counted = {ref.item for links in self._links.values() for ref in links.opened if ref.amount == QUANTITY}
        self._openers = {ref.item: name for name, links in self._links.items() for ref in links.opened}
        self._booked_as = {rule.once_booked: name for name, rule in rulebook.item.items() if rule.once_booked}
        self.items = ItemTable()
        self.terms: dict[Key, ItemTerms] = {}
        self.groups: dict[GroupKey, GroupSum] = {}
        self._flags: list[ItemFlag] = []
        self._told: list[Told] = []

    def _wake(self, key: Key) -> None:
        """Let those that waited for an item try it."""
        raise NotImplementedError

    def _is_asked_for(self, key: Key) -> bool:
        """Whether anybody waits for an item."""
        raise NotImplementedError

    # ── holds ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def hold(self, holds: Iterable[Hold]) -> None:
        """Hold items, or end holds. One that a person has released stays released; one that began twice, for two
        reasons of one name, ends twice. All begin before any ends, so that nobody slips through between two. Drain the
        changes after it."""
        every = list(holds)
        begun = [hold for hold in every if hold.on]
        for hold in begun:
            self._begin_hold(_key(hold), hold)
        for key in dict.fromkeys(map(_key, begun)):
            self._wake(key)  # its release may have come first
        for hold in every:
            if not hold.on:
                self._end_hold(_key(hold), hold)

    def standing(self, marks: Marks) -> list[ItemFlag]:
        """A register's flags, less the ends of exceptions that ended when a person let go the holds beside them, and
        with what is told anew of those that did not."""
        ended = [hold for hold in marks.holds if not hold.on and not self._is_caused(hold)]
        let_go = {(_plain(hold.hold), hold.entity, hold.source, hold.event_id) for hold in ended}
        retold = [flag for flag, hold in marks.retold if hold is None or self._is_caused(hold)]
        return [*(flag for flag in marks.flags if flag.raised or flag[:4] not in let_go), *retold]

    def _is_caused(self, hold: Hold) -> bool:
        terms = self.terms.get(_key(hold))
        return terms is not None and _cause(hold) in terms.causes

    def _begin_hold(self, key: Key, hold: Hold) -> None:
        terms, cause = self.terms.setdefault(key, ItemTerms()), _cause(hold)
        if _is_released(terms, hold.hold):
            if hold.tells:
                self._end_exception(key, cause)
            return
        if hold.tells:
            if hold.hold not in terms.holds:
                self._tell_held(key, hold.hold)
            terms.causes.append(cause)
        terms.holds.append(hold.hold)

    def _end_hold(self, key: Key, hold: Hold) -> None:
        terms, cause = self.terms.setdefault(key, ItemTerms()), _cause(hold)
        if hold.hold in terms.holds:
            terms.holds.remove(hold.hold)
        if cause in terms.causes:
            terms.causes.remove(cause)
        self._held_no_more(key, self.items.get(key), terms)

    def _release(self, key: Key, item: OpenItem, waiter: Waiter) -> bool:
        """Let go all holds that bear a name, or its plain form; False while there is none. The exceptions that raised
        them end."""
        if self._links[waiter.kind].releases.second_person and self._is_refused(key, waiter):
            waiter.fault = REFUSED
            return True
        terms = self.terms.setdefault(key, ItemTerms())
        meant = {hold for hold in terms.holds if hold not in FIRM and waiter.hold in (hold, _plain(hold))}
        if not meant and not _is_released(terms, waiter.hold):
            return False
        waiter.item = waiter.fault = ""
        terms.released.append(waiter.hold)
        terms.holds = [hold for hold in terms.holds if hold not in meant]
        for cause in [cause for cause in terms.causes if cause[0] in meant]:
            terms.causes.remove(cause)
            self._end_exception(key, cause)
        self._held_no_more(key, item, terms)
        return True

    def _end_exception(self, key: Key, cause: Sequence[str]) -> None:
        """A hold that is let go needs nobody any more: end the exception that its register raised with it."""
        hold, source, event_id = cause
        self._flags.append(ItemFlag(_plain(hold), key[1], source, event_id, "", 0, raised=False))

    def _held_no_more(self, key: Key, item: OpenItem | None, terms: ItemTerms) -> None:
        """Look what a hold's end has changed."""
        rule = self._rules.item[key[0]]
        if item and terms.flagged and not set(rule.held_by) & set(terms.holds):
            terms.flagged = False
            self._flag(rule.overdue, key, item, raised=False)
        if not terms.holds:
            self._wake(key)

    def _tell_held(self, key: Key, hold: str) -> None:
        item, status = self.items.get(key), self._rules.item[key[0]].tells
        if item and status:
            money = (item.currency, item.amount_minor, item.source, item.event_id)
            self._told.append(Told(status, self._openers[key[0]], key[1], key[2], "", *money, hold))

    def _is_refused(self, key: Key, waiter: Waiter) -> bool:
        """Whether nobody signs, or the one who signed first (domain 5.8: preparer is not approver)."""
        return not waiter.person or waiter.person.casefold() == self._opener(key).casefold()

    def _opener(self, key: Key) -> str:
        """Who signed what opened an item, "" when nobody did: a request that nobody signed can't be approved, as
        whoever approves it may have made it."""
        terms = self.terms.get(key)
        return terms.person if terms else ""

    # ── booked ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def booked(self, events: Iterable[Event]) -> None:
        """These went into the books: what all events of their group were needed for may be used. Drain the changes."""
        for event in events:
            links = self._links[event.kind]
            ref = links.member_of or links.closes
            name = event.key(ref)
            group = self.groups.get((ref.group, event.entity, event.currency, name))
            if not group:
                continue
            group.unbooked -= 1
            if not group.unbooked and group.booked_minor == group.total_minor:
                self._free_booked((self._booked_as[ref.group], event.entity, name))

    def booking(self) -> list[str]:
        """The kinds of which it must be told what is booked."""
        refs = {name: one.member_of or one.closes for name, one in self._links.items()}
        return [name for name, ref in refs.items() if ref and ref.group in self._booked_as]

    def awaited(self, keys: Iterable[Key]) -> bool:
        """Whether anybody waits for one of these items that is not booked yet."""
        return any(self._is_unbooked(key) and self._is_asked_for(key) for key in keys)

    def begun(self, holds: Iterable[Hold]) -> list[Key]:
        """The items on which these holds would begin."""
        return [_key(hold) for hold in holds if hold.on]

    def _hold_unbooked(self, key: Key, rule: Item) -> None:
        """Hold what was opened until all events that it is made of are booked."""
        if rule.once_booked and not self._is_unbooked(key):
            self.terms.setdefault(key, ItemTerms()).holds.append(UNBOOKED)

    def _is_unbooked(self, key: Key) -> bool:
        return key in self.terms and UNBOOKED in self.terms[key].holds

    def _free_booked(self, key: Key) -> None:
        if self._is_unbooked(key):
            terms = self.terms[key]
            terms.holds.remove(UNBOOKED)
            self._held_no_more(key, self.items.get(key), terms)

    # ── matched ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hold_unmatched(self, key: Key, opener: Waiter) -> None:
        """Hold what an event opened until that one has the item that it needs."""
        self.terms.setdefault(key, ItemTerms()).holds.append(UNMATCHED)
        opener.kept.append(key)

    def _free_matched(self, opener: Waiter) -> None:
        """An event has what it needs, or is out: what it opened is held for it no more."""
        kept, opener.kept = opener.kept, []
        for key in kept:
            terms = self.terms.get(key)
            if terms and UNMATCHED in terms.holds:
                terms.holds.remove(UNMATCHED)
                self._held_no_more(key, self.items.get(key), terms)

    def _is_firm(self, key: Key) -> bool:
        """Whether an item is held so that nobody can let it go."""
        return key in self.terms and not set(FIRM).isdisjoint(self.terms[key].holds)

    # ── exceptions of items ────────────────────────────────────────────────────────────────────────────────────────

    def take_flags(self) -> list[ItemFlag]:
        """What became or ended an exception beside the events' own states, since the last call."""
        flags, self._flags = self._flags, []
        return flags

    def take_told(self) -> list[Told]:
        """What consumers are to be told since the last call."""
        told, self._told = self._told, []
        return told

    def _tell_left(self, key: Key, item: OpenItem, rule: Item) -> None:
        """What is left of an item has changed: its exceptions tell how much, and end when that is nothing."""
        if item.flagged:
            item.flagged = not item.is_used_up
            self._flag(rule.unused, key, item, raised=item.flagged)
        if rule.announces:
            self._flag(rule.announces, key, item, raised=not item.is_used_up, detail=ANNOUNCED)

    def _flag(
        self, fault: str, key: Key, item: OpenItem, *, raised: bool, detail: str = ItemFlag._field_defaults["detail"]
    ) -> None:
        who = (key[1], item.source, item.event_id, item.currency, self._money(key[0], item.residual_minor))
        self._flags.append(ItemFlag(fault, *who, raised, detail, key[0]))

    def _flag_expected(
        self, fault: str, key: Key, expected: Expected, *, raised: bool, detail: str = "its counterpart has not come"
    ) -> None:
        who = (key[1], expected.source, expected.event_id, expected.currency)
        self._flags.append(ItemFlag(fault, *who, self._money(key[0], expected.amount_minor), raised, detail, key[0]))

    def _money(self, item: str, amount: int) -> int:
        """The money that an exception tells of: none where an item counts pieces."""
        return 0 if item in self._counted else amount


def _key(hold: Hold) -> Key:
    return hold.item, hold.entity, hold.key


def _cause(hold: Hold) -> tuple[str, str, str]:
    return hold.hold, hold.source, hold.event_id


def _plain(hold: str) -> str:
    """A hold's name without what tells it apart from others of that name."""
    return hold.partition(_NUMBER)[0]


def _is_released(terms: ItemTerms, hold: str) -> bool:
    return hold in terms.released or _plain(hold) in terms.released
