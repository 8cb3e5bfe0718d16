"""What a kind says of its postings and of its place among others: pairs, links to items, groups, registers, followers.

Owns the form of these tables. Never checks that what they name is there: `rules` does.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from runtime.ledger import amounts

KeyColumn = Literal["document", "reference", "correlation_id"]
AgreedColumn = Literal["account", "correlation_id", "counterparty", "department", "facility", "reason"]
ALIAS = "correlation_id_or_document"  # what others know a document by, where that is told; otherwise the document


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One balanced pair of account roles. Both sides take the same amount: a sum of names (see `amounts`). The debit's
    line bears the `variance`."""

    debit: str
    credit: str
    amount: str = amounts.AMOUNT
    variance: str = ""


class ItemRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item that an event opens or consumes, and the column that holds its key.

    `amount`: how much of it, a sum of names. `optional`: nothing to do where the key is empty. Of a consumer:
    `second_person` must sign, another one than the opener's; `agrees`: columns that must say what the opener's say,
    each with the exception of one that does not; `past_holds` uses the item although it is held, `at_most` what is
    left of it when that is less, `overdraws` takes all the same, so that less is there when something is given back.
    Of what is expected, `once_matched`: only when the event has what it consumes.
    """

    item: str
    key: KeyColumn | Literal["correlation_id_or_document"]
    amount: str = amounts.AMOUNT
    optional: bool = False
    second_person: bool = False
    agrees: dict[AgreedColumn, str] = {}
    past_holds: bool = False
    at_most: bool = False
    overdraws: bool = False
    once_matched: bool = False


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hold on an item that an event takes away; an empty `hold` is the one that its reason names."""

    item: str
    key: KeyColumn
    hold: str = ""
    second_person: bool = True


class GroupRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group that an event belongs to or closes. `sign`: how a member counts in the sum; 0 waits without counting.

    `total`: the sum that a closing event announces, a sum of names.
    """

    group: str
    key: KeyColumn
    sign: Literal[1, -1, 0] = 1
    total: str = amounts.AMOUNT


class RegisterRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The register that an event is entered in when it is ready, what it is there, and the column of its key."""

    register: str
    part: str
    key: KeyColumn
    optional: bool = False


class InverseRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The register that knows what an event takes back, the column of its key, and the columns in which the two are
    alike besides."""

    register: str
    key: KeyColumn
    alike: tuple[Literal["counterparty", "reason", "reference", "facility"], ...] = ()


class OwnerRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The register that knows whose a document is, and the column that names the document."""

    register: str
    key: KeyColumn


class Links(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a kind matches. It waits for what it consumes, releases, belongs to or closes; what it expects it uses too,
    but goes on without it."""

    opens: ItemRef | tuple[ItemRef, ...] = ()
    consumes: ItemRef | None = None
    expects: tuple[ItemRef, ...] = ()
    releases: Release | None = None
    member_of: GroupRef | None = None
    closes: GroupRef | None = None
    enters: RegisterRef | None = None
    inverts: InverseRef | None = None
    tells_owner: OwnerRef | None = None
    owned_by: OwnerRef | None = None

    @property
    def opened(self) -> tuple[ItemRef, ...]:
        return self.opens if isinstance(self.opens, tuple) else (self.opens,)

    @property
    def all(self) -> list[ItemRef | Release | GroupRef | RegisterRef | InverseRef | OwnerRef]:
        """Every link that is there."""
        single = (self.consumes, self.releases, self.member_of, self.closes, self.enters, self.inverts)
        owning = (self.tells_owner, self.owned_by)
        return [*self.opened, *self.expects, *(link for link in (*single, *owning) if link)]

    @property
    def places(self) -> set[tuple[str, str]]:
        """The items, groups and registers that its links lead to, each with what sort it is of."""
        found = ((sort, getattr(link, sort, "")) for link in self.all for sort in ("item", "group", "register"))
        return {place for place in found if place[1]}


class Derive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event that follows when this one is booked or excluded. `to`: the column that names its entity; where that is
    the counterparty, the two change places. `where`: columns without which nothing follows, `without`: columns with
    which nothing does. `unlisted_in`: a role by reason; only an event whose reason is none of its cases has a follower.
    `on`: the follower's day, where it is not the event's own: the first one of the next period."""

    kind: str
    to: Literal["entity", "counterparty"] = "entity"
    where: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unlisted_in: str = ""
    on: Literal["", "next_period"] = ""


class Tell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What consumers are told when an event is booked or excluded, and the column of the document concerned."""

    status: str
    about: KeyColumn = "document"


def meeting(kinds: Iterable[str], links: Mapping[str, Links]) -> list[str]:
    """The kinds that meet these in an item, a group or a register, themselves or through others."""
    met, places = set(kinds), set[tuple[str, str]]()
    while True:
        places |= {place for name in met for place in links[name].places}
        more = {name for name, one in links.items() if not places.isdisjoint(one.places)} - met
        if not more:
            return sorted(met)
        met |= more
