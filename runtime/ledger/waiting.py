"""What waits for its counterpart, as it is kept: events, items, groups and those that wait for them.

Owns the forms. Decides nothing.
"""

import unicodedata
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

import msgspec

from runtime.ledger import amounts
from runtime.ledger.links import ALIAS, GroupRef, ItemRef, RegisterRef, Release

Key = tuple[str, str, str]  # item name, entity, key
GroupKey = tuple[str, str, str, str]  # group name, entity, currency, key: sums of two currencies are two sums


class Event(NamedTuple):
    """What matching needs of an event. `id` is its identity hash; `attributes` are as they came."""

    id: int
    kind: str
    entity: str
    amount_minor: int
    document: str
    reference: str
    source: str
    event_id: str
    currency: str
    correlation_id: str | None = None
    reason: str | None = None
    quantity: int | None = None
    attributes: str | None = None
    account: str | None = None
    counterparty: str | None = None
    department: str | None = None
    facility: str | None = None
    effective_on: date | None = None

    def key(self, ref: ItemRef | GroupRef | RegisterRef | Release) -> str:
        """The value of the column that a link is keyed by; "" where it is empty."""
        if ref.key == ALIAS:
            return self.correlation_id or self.document
        return getattr(self, ref.key) or ""

    def amount(self, sum_of: str) -> int:
        """A sum of the event's own numbers."""
        if sum_of == amounts.AMOUNT:
            return self.amount_minor
        given = amounts.attributes_of(self.attributes)
        own = {"amount_minor": self.amount_minor, "quantity": amounts.whole(self.quantity)}
        return amounts.evaluate(amounts.terms(sum_of), own, given)

    def expects(self, ref: ItemRef, now_ms: int) -> "Expected":
        """What it uses of an item that it does not wait for."""
        who = (self.source, self.event_id, self.currency)
        return Expected(self.amount(ref.amount), now_ms, *who, at_most=ref.at_most, id=self.id)

    def said(self, columns: Iterable[str]) -> dict[str, str]:
        """What it says in these columns, "" where nothing."""
        return {column: getattr(self, column) or "" for column in columns}

    def person(self) -> str:
        """Who stands behind it: the attribute `person`, "" when nobody is named."""
        named = amounts.attributes_of(self.attributes).get("person")
        return unicodedata.normalize("NFKC", " ".join(named.split())) if isinstance(named, str) else ""


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

    @property
    def is_used_up(self) -> bool:
        """Whether nothing is left, or it is overdrawn."""
        return self.residual_minor <= 0 if self.amount_minor >= 0 else self.residual_minor >= 0


class ItemTerms(msgspec.Struct, array_like=True, gc=False):
    """What is special about one item: who opened it, what holds it, and which holds were released for good.

    `flagged`: its first holds have lasted too long. `said`: by column, what its opener said that users must agree with.
    `causes`: of what registers hold, the hold, and the source and event id of the event that it is for.
    """

    person: str = ""
    holds: list[str] = []
    released: list[str] = []
    flagged: bool = False
    said: dict[str, str] = {}
    causes: list[tuple[str, str, str]] = []


class GroupSum(msgspec.Struct, array_like=True, gc=False):
    """A group's announced total, what has tied of it, and who waits for it.

    `closers`: how many have announced a part of the total; it is not known while there are none. `unbooked`: how many
    of the events that it has freed are not booked yet, where that is told.
    """

    since_ms: int
    total_minor: int = 0
    booked_minor: int = 0
    waiting_minor: int = 0
    waiting: list[int] = []
    unbooked: int = 0
    closers: int = 0


class Waiter(msgspec.Struct, array_like=True, gc=False):
    """An event that is not ready: what it still needs, since when, and the exception it has become, if any."""

    kind: str
    entity: str
    since_ms: int
    item: str = ""  # key of the item it needs, "" when it has it
    item_minor: int = 0  # how much of it
    group: str = ""  # key of the group it needs to be complete
    group_minor: int = 0  # its share in the group's sum, or the total it announces
    currency: str = ""
    person: str = ""
    hold: str = ""  # the hold that it releases
    fault: str = ""
    told: str = ""  # the state last told: "", "waiting" or the fault
    said: dict[str, str] = {}  # by column, what must agree with the item's opener
    opened: str = ""  # key of the item that it opened, where that one's time runs only when this is ready
    used: str = ""  # key of the item that it used, where several stand beside each other
    later: list[tuple[Key, "Expected"]] = []  # what it uses too, once it has the item that it needs
    on: date | None = None  # its day, where names of the item that it needs may have aliases
    also_used: list[tuple[Key, int]] = []  # what it used of other items than the one that it needs
    kept: list[Key] = []  # what it opened that nobody may use until it has the item that it needs


class Expected(msgspec.Struct, array_like=True, gc=False):
    """A use of an item by an event that does not wait for it. `at_most`: of what is left, when that is less. `id`: the
    event's, while that waits for something else."""

    amount_minor: int
    since_ms: int
    source: str
    event_id: str
    currency: str
    flagged: bool = False
    at_most: bool = False
    id: int = 0


class Change(NamedTuple):
    """What happened to an event: "ready", "waiting", or "excepted" with an exception type."""

    id: int
    state: str
    fault: str = ""


def last_of(changes: Iterable[Change]) -> dict[int, Change]:
    """The last change of each event, in the order in which these came."""
    last: dict[int, Change] = {}
    for change in changes:
        last.pop(change.id, None)
        last[change.id] = change
    return last
