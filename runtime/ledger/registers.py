"""What a register is: facts kept by key, taken one ready event at a time, beyond what items and groups can hold.

Owns the words that registers share. A register answers how an event's amount divides into measures, which rules then
post; it never posts, reads no clock, and keeps nothing that does not follow from the events it took. Wherever it can,
it answers differences of a function of the whole state, so that the end does not depend on the order of arrival.
"""

from collections.abc import Callable, Mapping
from datetime import date
from typing import NamedTuple, Protocol, runtime_checkable

from runtime.ledger.crosswalk import NEWEST, Basis, Place

Policy = Callable[[str, Place], str]  # a policy's value at a place, from the crosswalk or its default


def unanswered(name: str, place: Place) -> str:
    """A policy's value where nobody answers and nothing is the default."""
    return ""


def usual_name(policy: Policy, alias: str, place: Place) -> str:
    """The name that a policy of aliases gives to a place's counterparty, its own where it gives none."""
    return policy(alias, place) or place.counterparty


class ItemFlag(NamedTuple):
    """Something that an event stands for became an exception (raised), or that exception ended.

    `cause` tells apart what may raise one type for one event: the item by its name, "" for a register.
    """

    fault: str
    entity: str
    source: str
    event_id: str
    currency: str
    residual_minor: int
    raised: bool
    detail: str = "what this event opened was not used up in time"
    cause: str = ""
    facility: str = ""


class Fact(NamedTuple):
    """One ready event as a register sees it. `part` is what its kind is to the register, `key` the key it goes by;
    `quantity` is in thousandths. Empty texts stand for absent ones. `basis`: of an event that takes another one back,
    as of when policies answer."""

    id: int
    kind: str
    entity: str
    amount_minor: int
    currency: str
    quantity: int | None
    document: str
    reference: str
    counterparty: str
    correlation_id: str
    reason: str
    facility: str
    department: str
    effective_on: date
    occurred_ms: int
    source: str
    event_id: str
    attributes: Mapping[str, object]
    part: str
    key: str
    basis: Basis | None = None

    def place(self) -> Place:
        """Where and as of when its policies are asked for."""
        on, newest = (self.basis.on, self.basis.version) if self.basis else (self.effective_on, NEWEST)
        return Place(self.entity, self.facility, self.department, on, self.counterparty, newest)


class Finding(NamedTuple):
    """What a register makes of a fact: amounts by name, or the exception that holds it; then nothing was kept.

    `facility` and `department` are the dimensions to post under where the event names none.
    """

    measures: Mapping[str, int] = {}
    fault: str = ""
    facility: str = ""
    department: str = ""


class Hold(NamedTuple):
    """An open item must not be used (on), or may be again as far as this hold goes. `tells`: a register's
    exception of the hold's plain name stands for the event named here, which ends when the hold is let go, and
    consumers are told that it is held, as its item says; not where the event that holds it tells of itself."""

    item: str
    entity: str
    key: str
    hold: str
    on: bool
    source: str
    event_id: str
    tells: bool = True


class Deriving(NamedTuple):
    """An event that follows from facts: its `kind`, its `cause` (unique for the kind), and its other columns."""

    kind: str
    cause: str
    columns: Mapping[str, object]


class Told(NamedTuple):
    """What consumers are to be told of a document: `kind` is of the event that it began with."""

    status: str
    kind: str
    entity: str
    document: str
    counterparty: str
    currency: str
    amount_minor: int
    source: str
    event_id: str
    detail: str = ""


class Marks(NamedTuple):
    """What came of the facts since the last drain, besides findings. `retold`: exceptions that were told before, with
    the holds that stand beside them: what they tell now counts as long as nobody has let go the hold."""

    flags: list[ItemFlag] = []
    holds: list[Hold] = []
    derived: list[Deriving] = []
    told: list[Told] = []
    retold: list[tuple[ItemFlag, Hold | None]] = []

    def reflag(self, standing: ItemFlag | None, now: ItemFlag | None) -> None:
        """What is flagged now takes the place of what was until then; nothing to tell where both are the same."""
        if now == standing:
            return
        if standing:
            self.flags.append(standing._replace(raised=False))
        if now:
            self.flags.append(now)


class Register(Protocol):
    """Facts of one sort, by key, in one shard. Its terms name the parts that it knows, as PARTS, and the amounts that
    it finds, as MEASURES."""

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Keep a fact and answer its measures; or answer a fault and keep nothing."""
        ...

    def age(self, now_ms: int) -> None:
        """Time has passed: decide what was left to time, forget what is done with."""
        ...

    def drain(self) -> Marks:
        """The marks since the last call."""
        ...

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        ...

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        ...

    def __len__(self) -> int:
        """Keys kept."""
        ...


@runtime_checkable
class Freezing(Protocol):
    """A register that holds too much to be made bytes of while its shard waits."""

    def freeze(self) -> Callable[[], bytes]:
        """What gives the same as `dump` would now, whatever happens here meanwhile."""
        ...
