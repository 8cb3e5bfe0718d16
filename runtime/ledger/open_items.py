"""The register of what waits for its counterpart: open items, sums of groups, and the events that wait.

Owns matching, in any order of arrival, one event at a time: an event is ready when the item it consumes is there with
enough left and the group it belongs to is complete. Never posts; it says which events became ready, and which became
exceptions and why. Reads no clock: times are arguments.
"""

from typing import NamedTuple

import msgspec

from runtime.ledger.rules import GroupRef, ItemRef, Rulebook

DAY_MS = 86_400_000
Key = tuple[str, str, str]  # item or group name, entity, key


class Event(NamedTuple):
    """What matching needs of an event. `id` is its identity hash, `document` and `reference` are its keys."""

    id: int
    kind: str
    entity: str
    amount_minor: int
    document: str
    reference: str
    source: str
    event_id: str
    currency: str

    def key(self, ref: ItemRef | GroupRef) -> str:
        """The value of the column that a link is keyed by."""
        return self.document if ref.key == "document" else self.reference


class OpenItem(msgspec.Struct, array_like=True, gc=False):
    """An amount that can be consumed. `flagged`: its residual has become an exception."""

    amount_minor: int
    since_ms: int
    source: str
    event_id: str
    currency: str
    used_minor: int = 0
    flagged: bool = False

    @property
    def residual_minor(self) -> int:
        return self.amount_minor - self.used_minor


class GroupSum(msgspec.Struct, array_like=True):
    """A group's announced total (None until its closer came), what is booked of it, and who waits for it."""

    since_ms: int
    total_minor: int | None = None
    booked_minor: int = 0
    waiting_minor: int = 0
    waiting: list[int] = []


class Waiter(msgspec.Struct, array_like=True):
    """An event that is not ready: what it still needs, since when, and the exception it has become, if any."""

    kind: str
    entity: str
    amount_minor: int
    since_ms: int
    item: str = ""  # key of the item it needs, "" when it has it
    group: str = ""  # key of the group it needs to be complete
    fault: str = ""
    told: str = ""  # the state last told: "", "waiting" or the fault


class Change(NamedTuple):
    """What happened to an event: "ready", "waiting", or "excepted" with an exception type."""

    id: int
    state: str
    fault: str = ""


class ItemFlag(NamedTuple):
    """Something that an event stands for became an exception (raised), or that exception ended."""

    fault: str
    entity: str
    source: str
    event_id: str
    currency: str
    residual_minor: int
    raised: bool
    detail: str = "what this event opened was not used up in time"


class OpenItems:
    """All that waits in one shard."""

    def __init__(self, rulebook: Rulebook, items_max: int) -> None:
        self._rules = rulebook
        self._links = {name: kind.links for name, kind in rulebook.kind.items() if kind.links}
        self._items_max = items_max
        self.items: dict[Key, OpenItem] = {}
        self.groups: dict[Key, GroupSum] = {}
        self.waiters: dict[int, Waiter] = {}
        self._consumers: dict[Key, list[int]] = {}  # waiting for an item that is not there yet
        self._changes: list[Change] = []
        self.flags: list[ItemFlag] = []

    def take(self, event: Event, now_ms: int) -> list[Change]:
        """Match one new event; the changes of this and of every event that it made ready, in order."""
        links = self._links[event.kind]
        refused = self._open(event, links.opens, now_ms)
        waiter = Waiter(event.kind, event.entity, event.amount_minor, now_ms)
        self.waiters[event.id] = waiter
        if refused:
            waiter.fault = refused
            self._tell(event.id, waiter)
            return self._drain()
        if links.consumes:
            self._need_item(event, waiter, links.consumes)
        if links.member_of:
            self._join(event, waiter, links.member_of)
        if links.closes:
            self._close(event, waiter, links.closes)
        self._settle(event.id)
        if links.opens:
            self._wake((links.opens.item, event.entity, event.key(links.opens)))
        return self._drain()

    def _open(self, event: Event, ref: ItemRef | None, now_ms: int) -> str:
        """Register the item an event opens. Answers an exception type when it can't be."""
        if not ref:
            return ""
        key = (ref.item, event.entity, event.key(ref))
        if key in self.items:
            return "duplicate_open_item"
        if len(self.items) >= self._items_max:
            return "open_items_full"
        self.items[key] = OpenItem(event.amount_minor, now_ms, event.source, event.event_id, event.currency)
        return ""

    def _need_item(self, event: Event, waiter: Waiter, ref: ItemRef) -> None:
        waiter.item = event.key(ref)
        key = (ref.item, event.entity, waiter.item)
        if key in self.items:
            self._consume(key, waiter)
        else:
            self._consumers.setdefault(key, []).append(event.id)

    def _consume(self, key: Key, waiter: Waiter) -> None:
        """Allocate what a waiter needs from an item that is there, or say that it does not fit."""
        item, rule = self.items[key], self._rules.item[key[0]]
        fits = (
            waiter.amount_minor <= item.residual_minor
            if rule.use == "part"
            else waiter.amount_minor == item.amount_minor and not item.used_minor
        )
        if not fits:
            waiter.fault = rule.differs
            return
        item.used_minor += waiter.amount_minor
        waiter.item = waiter.fault = ""
        if item.flagged and not item.residual_minor:
            item.flagged = False
            self._flag(key, item, raised=False)

    def _join(self, event: Event, waiter: Waiter, ref: GroupRef) -> None:
        waiter.group = event.key(ref)
        group = self._group(ref.group, event.entity, waiter)
        group.waiting.append(event.id)
        group.waiting_minor += ref.sign * event.amount_minor
        self._tie(group)

    def _close(self, event: Event, waiter: Waiter, ref: GroupRef) -> None:
        waiter.group = event.key(ref)
        group = self._group(ref.group, event.entity, waiter)
        group.total_minor = event.amount_minor
        group.waiting.append(event.id)
        self._tie(group)

    def _group(self, name: str, entity: str, waiter: Waiter) -> GroupSum:
        return self.groups.setdefault((name, entity, waiter.group), GroupSum(waiter.since_ms))

    def _tie(self, group: GroupSum) -> None:
        """Release a group's waiting members when they make up exactly what its total still lacks.

        A sum that ties by accident before all members have come does no harm: later members wait until they, too,
        make up what is then lacking, which is nothing. So the end does not depend on the order of arrival.
        """
        if group.total_minor is None or group.booked_minor + group.waiting_minor != group.total_minor:
            return
        released, group.waiting = group.waiting, []
        group.booked_minor, group.waiting_minor = group.total_minor, 0
        for member in released:
            waiter = self.waiters[member]
            waiter.group = ""
            if not waiter.item:  # a fault was then the group's, and has ended; one of a lacking item stands
                waiter.fault = ""
            self._settle(member)

    def _wake(self, key: Key) -> None:
        """Let those that waited for an item try it, first come first served."""
        for waiting in self._consumers.pop(key, ()):
            self._consume(key, self.waiters[waiting])
            self._settle(waiting)

    def _settle(self, id: int) -> None:
        """Say what became of an event: ready when nothing is lacking, otherwise whether it waits or is at fault."""
        waiter = self.waiters.get(id)
        if waiter is None:
            return
        if waiter.item or waiter.group or waiter.fault:
            self._tell(id, waiter)
            return
        del self.waiters[id]
        self._changes.append(Change(id, "ready"))

    def _tell(self, id: int, waiter: Waiter) -> None:
        """Report a waiter's state once."""
        state = waiter.fault or "waiting"
        if waiter.told != state:
            waiter.told = state
            self._changes.append(Change(id, "excepted" if waiter.fault else "waiting", waiter.fault))

    def _drain(self) -> list[Change]:
        changes, self._changes = self._changes, []
        return changes

    def age(self, now_ms: int) -> list[Change]:
        """What waits too long becomes an exception; items that are used up or expired are forgotten."""
        for id, waiter in self.waiters.items():
            if not waiter.fault and now_ms - waiter.since_ms > self._wait_days(waiter) * DAY_MS:
                waiter.fault = self._overdue(waiter)
                self._tell(id, waiter)
        for key in [key for key, item in self.items.items() if self._expired(key, item, now_ms)]:
            del self.items[key]
        for key in [key for key, group in self.groups.items() if self._finished(key, group, now_ms)]:
            del self.groups[key]
        return self._drain()

    def _finished(self, key: Key, group: GroupSum, now_ms: int) -> bool:
        tied = group.total_minor == group.booked_minor and not group.waiting
        return tied and now_ms - group.since_ms > self._rules.group[key[0]].wait_days * DAY_MS

    def _wait_days(self, waiter: Waiter) -> int:
        links = self._links[waiter.kind]
        if waiter.item:
            return self._rules.item[links.consumes.item].wait_days
        return self._rules.group[(links.member_of or links.closes).group].wait_days

    def _overdue(self, waiter: Waiter) -> str:
        links = self._links[waiter.kind]
        if waiter.item:
            return self._rules.item[links.consumes.item].unopened
        return self._rules.group[(links.member_of or links.closes).group].mismatch

    def _expired(self, key: Key, item: OpenItem, now_ms: int) -> bool:
        rule = self._rules.item[key[0]]
        if now_ms - item.since_ms <= rule.wait_days * DAY_MS or item.flagged:
            return False
        if not item.residual_minor or rule.unused == "expires":
            return True
        item.flagged = True
        self._flag(key, item, raised=True)
        return False

    def _flag(self, key: Key, item: OpenItem, *, raised: bool) -> None:
        fault = self._rules.item[key[0]].unused
        self.flags.append(
            ItemFlag(fault, key[1], item.source, item.event_id, item.currency, item.residual_minor, raised)
        )

    def take_flags(self) -> list[ItemFlag]:
        """Items whose residual became or ended an exception since the last call."""
        flags, self.flags = self.flags, []
        return flags

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        state = (
            list(self.items.items()),
            list(self.groups.items()),
            list(self.waiters.items()),
            list(self._consumers.items()),
        )
        return msgspec.msgpack.encode(state)

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        items, groups, waiters, consumers = msgspec.msgpack.decode(state, type=_STATE)
        self.items, self.groups = dict(items), dict(groups)
        self.waiters, self._consumers = dict(waiters), dict(consumers)


_STATE = tuple[
    list[tuple[Key, OpenItem]],
    list[tuple[Key, GroupSum]],
    list[tuple[int, Waiter]],
    list[tuple[Key, list[int]]],
]
