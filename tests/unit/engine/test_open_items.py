"""Matching: every link in every order of arrival, what does not fit, what waits too long, what a snapshot keeps."""

from collections.abc import Sequence
from itertools import permutations, product
from typing import NamedTuple

import pytest
from unit.engine.builders import DAY_MS, NOW_MS, RULEBOOK

from runtime.ledger.item_table import key_of
from runtime.ledger.open_items import OpenItems, residuals
from runtime.ledger.registers import ItemFlag
from runtime.ledger.waiting import Change, Event


class Row(NamedTuple):
    """An event as matching sees it."""

    name: str  # at most 8 characters, as its identity is made of it
    kind: str
    amount_minor: int
    document: str
    reference: str = ""
    attributes: str | None = None
    currency: str = "USD"
    quantity: int | None = None


class Register:
    """Open items, and what was last said of each event."""

    def __init__(self, items_max: int = 1000) -> None:
        self.items = OpenItems(RULEBOOK, items_max)
        self.said: dict[str, str] = {}
        self.ready: list[str] = []
        self.keys: set[str] = set()

    def take(self, *rows: Row, now_ms: int = NOW_MS) -> None:
        """Match rows one by one."""
        for row in rows:
            id = int.from_bytes(row.name.ljust(8).encode(), "big")
            keys = (row.document, row.reference)
            self.keys.update(keys)
            event = Event(id, row.kind, "mercy", row.amount_minor, *keys, "ehr", row.name, row.currency)
            self._hear(self.items.take(event._replace(attributes=row.attributes, quantity=row.quantity), now_ms))

    def age(self, days: float) -> list[ItemFlag]:
        """Let so many days pass since all rows came; the flags that were raised or ended."""
        self._hear(self.items.age(NOW_MS + int(days * DAY_MS)))
        return self.items.take_flags()

    def restart(self) -> None:
        """Go on with what the dump holds."""
        state, self.items = self.items.dump(), OpenItems(RULEBOOK, 1000)
        self.items.load(state)

    def _hear(self, changes: list[Change]) -> None:
        for change in changes:
            name = change.id.to_bytes(8, "big").decode().strip()
            self.said[name] = change.fault or change.state
            if change.state == "ready":
                self.ready.append(name)

    def residuals(self) -> dict[tuple[str, str], int]:
        """What is left of each open item, by its name and key: every one goes by a key that a row has named."""
        left, named = residuals(self.items.dump()), product(RULEBOOK.item, sorted(self.keys))
        found = {(name, key): left.pop(key_of((name, "mercy", key)), None) for name, key in named}
        assert not left
        return {key: minor for key, minor in found.items() if minor is not None}

    def end(self) -> tuple:
        """All that must not depend on the order of arrival."""
        groups = {key: (g.total_minor, g.booked_minor, g.waiting_minor) for key, g in self.items.groups.items()}
        return self.residuals(), groups, set(self.items.waiters), self.said


AUTHORISED = Row("auth", "card_authorised", 1000, "a1")
CAPTURED = Row("capture", "card_captured", 1000, "c1", "a1")
SETTLED = Row("settle", "card_settled", 1000, "c1", "p1")
FEE = Row("fee", "card_fee_charged", 30, "f1", "p1")
PAYOUT = Row("payout", "payout_paid", 970, "p1")
DEPOSIT = Row("deposit", "deposit_received", 970, "b1", "p1")
SALE = (AUTHORISED, CAPTURED, SETTLED, FEE, PAYOUT, DEPOSIT)

REFUND = (
    Row("request", "refund_requested", 400, "r1", attributes='{"person": "Ann"}'),
    Row("approve", "refund_approved", 400, "r1", attributes='{"person": "Bob"}'),
    Row("refund", "refund_paid", 400, "r1", "p1"),
    PAYOUT._replace(amount_minor=-400),
    DEPOSIT._replace(amount_minor=-400),
)
DISPUTE_WON = (
    Row("open", "chargeback_opened", 250, "d1", "p2"),
    Row("opencost", "chargeback_fee_charged", 15, "d1", "p2"),
    Row("payout2", "payout_paid", -265, "p2"),
    Row("bank2", "deposit_received", -265, "b2", "p2"),
    Row("won", "chargeback_won", 250, "d1", "p3"),
    Row("payout3", "payout_paid", 250, "p3"),
    Row("bank3", "deposit_received", 250, "b3", "p3"),
)
DISPUTE_LOST = (*DISPUTE_WON[:4], Row("lost", "chargeback_lost", 250, "d1"))
HISTORIES = {"sale": SALE, "refund": REFUND, "dispute won": DISPUTE_WON, "dispute lost": DISPUTE_LOST}


def arrived(rows: Sequence[Row], restart_before: int = -1) -> Register:
    """A register that took the rows in this order, restarted before one of them."""
    register = Register()
    for at, row in enumerate(rows):
        if at == restart_before:
            register.restart()
        register.take(row)
    return register


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_open_items_every_order_of_arrival_ends_alike(history):
    """In every order of arrival each event becomes ready exactly once; only what may come back is left over."""
    names = sorted(row.name for row in history)
    expected = arrived(history).end()
    for order in permutations(history):
        register = arrived(order)
        assert sorted(register.ready) == names
        assert register.end() == expected
        may_come_back = ("refund_payment", "r1")
        assert not any(left for key, left in register.residuals().items() if key != may_come_back)
        assert not register.items.waiters


@pytest.mark.parametrize("history", [SALE, DISPUTE_LOST], ids=["sale", "dispute lost"])
def test_open_items_restart_in_any_order_changes_nothing(history):
    """A dump and load before any event of any order of arrival is not seen in what follows."""
    for order in permutations(history):
        expected = arrived(order)
        for cut in range(1, len(order)):
            restarted = arrived(order, restart_before=cut)
            assert restarted.ready == expected.ready
            assert restarted.items.dump() == expected.items.dump()


def test_open_items_event_before_its_item_waits_until_it_comes():
    """A consumer that comes first waits, and is ready in the moment its item opens."""
    register = Register()
    register.take(CAPTURED)
    assert register.said == {"capture": "waiting"}
    register.take(AUTHORISED)
    assert register.ready == ["auth", "capture"]


def test_decision_on_an_event_that_went_on_changes_nothing():
    """One decision may name an event that another one of its events lets go on before its own turn."""
    register = Register()
    register.take(AUTHORISED)
    gone = Event(int.from_bytes(b"auth    ", "big"), AUTHORISED.kind, "mercy", 1000, "a1", None, "ehr", "auth", "USD")
    before = register.items.dump()
    for decide in (register.items.retry, register.items.let_go):
        assert decide(gone, NOW_MS) == []
    assert register.items.dump() == before


def test_open_items_use_in_another_currency_does_not_fit():
    """Whatever its amount, money of another currency uses up nothing: it is a difference, in both orders."""
    for order in permutations((AUTHORISED, CAPTURED._replace(currency="EUR"))):
        register = arrived(order)
        assert register.said == {"auth": "ready", "capture": "allocation_exceeded"}
        assert register.residuals() == {("authorisation", "a1"): 1000, ("capture", "c1"): 1000}


def test_open_items_count_of_pieces_has_no_currency():
    """An item that counts pieces is used by pieces, whatever the money beside them is in."""
    register = Register()
    register.take(Row("ordered", "lab_ordered", 100, "l1", quantity=1000))
    register.take(Row("charged", "lab_charged", 100, "l2", "l1", currency="EUR", quantity=1000))
    assert register.residuals()["lab_charge", "l1"] == 0 and not register.age(0)


def test_open_items_sums_of_two_currencies_are_two_sums():
    """Members in another currency than their closer's wait, though the amounts would tie, and become a mismatch."""
    rows = (*SALE[:3], FEE._replace(currency="EUR"), PAYOUT)
    for order in permutations(rows):
        register = arrived(order)
        assert {name: register.said[name] for name in ("settle", "fee", "payout")} == dict.fromkeys(
            ("settle", "fee", "payout"), "waiting"
        )
        register.age(100)
        assert {register.said[name] for name in ("settle", "fee", "payout")} == {RULEBOOK.group["payout"].mismatch}


def test_open_items_parts_share_an_item_up_to_its_amount():
    """Several captures may use one authorisation; what they leave stays open."""
    register = Register()
    register.take(AUTHORISED, CAPTURED._replace(amount_minor=600))
    register.take(Row("second", "card_captured", 300, "c2", "a1"))
    assert register.ready == ["auth", "capture", "second"]
    assert register.residuals()["authorisation", "a1"] == 100


def test_open_items_part_beyond_the_residual_is_excepted_and_takes_nothing():
    """What exceeds the residual is an exception; a smaller one after it still fits."""
    register = Register()
    register.take(AUTHORISED, CAPTURED._replace(amount_minor=600))
    register.take(Row("over", "card_captured", 401, "c2", "a1"), Row("fits", "card_captured", 400, "c3", "a1"))
    assert register.said["over"] == "allocation_exceeded"
    assert register.said["fits"] == "ready"
    assert register.residuals()["authorisation", "a1"] == 0


def test_open_items_early_parts_beyond_the_item_first_come_first_served():
    """Consumers that waited for an item try it in the order in which they came."""
    register = Register()
    register.take(CAPTURED._replace(amount_minor=700), Row("second", "card_captured", 700, "c2", "a1"))
    register.take(AUTHORISED)
    assert register.said == {"auth": "ready", "capture": "ready", "second": "allocation_exceeded"}


def test_open_items_second_item_of_a_key_is_excepted_and_first_stands():
    """Two events that open the same item are an exception for the later one, whose amount does not count."""
    register = Register()
    register.take(AUTHORISED, Row("twin", "card_authorised", 5000, "a1"))
    assert register.said["twin"] == "duplicate_open_item"
    assert register.residuals() == {("authorisation", "a1"): 1000}


def test_open_items_same_key_in_another_item_is_no_duplicate():
    """Keys are told apart by the item that they are keys of."""
    register = Register()
    register.take(AUTHORISED, Row("refund", "refund_requested", 10, "a1"))
    assert register.said == {"auth": "ready", "refund": "ready"}


def test_open_items_at_the_limit_opener_is_excepted_and_others_go_on():
    """At the limit an event that would open one more item becomes an exception; consuming goes on."""
    register = Register(items_max=2)
    register.take(AUTHORISED, CAPTURED, Row("third", "card_authorised", 1, "a3"), SETTLED)
    assert register.said["third"] == "open_items_full"
    assert register.residuals() == {("authorisation", "a1"): 0, ("capture", "c1"): 0}


@pytest.mark.parametrize("order", list(permutations((PAYOUT, DEPOSIT._replace(amount_minor=969)))))
def test_open_items_deposit_of_other_amount_is_a_payout_mismatch(order):
    """A deposit that is not exactly its payout is an exception in either order, and the payout stays unpaid."""
    register = arrived((AUTHORISED, CAPTURED, SETTLED, FEE, *order))
    assert register.said["deposit"] == "payout_mismatch"
    assert register.residuals()["payout_cash", "p1"] == 970
    assert [(flag.fault, flag.event_id) for flag in register.age(6)] == [("payout_unpaid", "payout")]


def test_open_items_second_deposit_of_a_payout_is_a_mismatch():
    """A payout is paid once: the same amount again was told twice."""
    register = arrived((*SALE, Row("again", "deposit_received", 970, "b2", "p1")))
    assert register.said["again"] == "eft_told_twice"


def test_open_items_group_that_ties_by_accident_is_completed_by_later_members():
    """Members that make up the total too early are released; the rest waits until it makes up nothing together."""
    members = (
        Row("x", "card_fee_charged", 10, "f1", "p1"),
        Row("y", "chargeback_won", 10, "d1", "p1"),
        Row("z", "chargeback_won", 5, "d2", "p1"),
        Row("payout", "payout_paid", 5, "p1"),
    )
    disputes = (Row("d1", "chargeback_opened", 10, "d1", "p0"), Row("d2", "chargeback_opened", 5, "d2", "p0"))
    ends = []
    for order in permutations(members):
        register = arrived((*disputes, *order))
        assert {"x", "y", "z", "payout"} <= set(register.ready)
        ends.append(register.end())
    assert all(end == ends[0] for end in ends)


def test_open_items_group_that_does_not_tie_waits_whole():
    """As long as the sum is not the announced one, no member and not the payout is ready."""
    register = arrived((AUTHORISED, CAPTURED, SETTLED, PAYOUT))
    assert register.said["settle"] == register.said["payout"] == "waiting"


def test_open_items_overdue_group_is_excepted_then_released_by_its_last_member():
    """A payout that does not tie in time becomes exceptions; the member that was late makes them all ready."""
    register = arrived((AUTHORISED, CAPTURED, SETTLED, PAYOUT))
    register.age(5)
    assert register.said["settle"] == "waiting"
    register.age(5.1)
    assert register.said["settle"] == register.said["payout"] == "payout_mismatch"
    register.take(FEE, now_ms=NOW_MS + 6 * DAY_MS)
    assert [register.said[name] for name in ("settle", "payout", "fee")] == ["ready"] * 3
    assert not register.items.waiters


def test_open_items_overdue_group_restored_is_released_alike():
    """A snapshot of an overdue group does not forget why its members wait."""
    register = arrived((AUTHORISED, CAPTURED, SETTLED, PAYOUT))
    register.age(6)
    register.restart()
    register.take(FEE, now_ms=NOW_MS + 6 * DAY_MS)
    assert not register.items.waiters


def test_open_items_tied_group_keeps_back_the_member_whose_item_is_lacking():
    """A member that has no capture is not ready when its payout ties, overdue or not, until the capture comes."""
    register = arrived((SETTLED, FEE))
    register.age(8)
    assert register.said["settle"] == "unmatched_card_payment"
    register.take(PAYOUT, DEPOSIT)
    assert register.said == {
        "settle": "unmatched_card_payment",
        "fee": "ready",
        "payout": "ready",
        "deposit": "ready",
    }
    register.take(AUTHORISED, CAPTURED)
    assert register.said["settle"] == "ready"
    assert register.end()[2] == set()


def test_open_items_overdue_consumer_that_finds_its_item_waits_on_for_its_group():
    """When one of two lacks ends, its exception ends too and the event waits for the other."""
    register = arrived((SETTLED,))
    register.age(8)
    register.take(AUTHORISED, CAPTURED)
    assert register.said["settle"] == "waiting"
    register.take(FEE, PAYOUT)
    assert register.said["settle"] == "ready"


def test_open_items_overdue_consumer_that_does_not_fit_changes_its_exception():
    """A deposit without payout that meets a payout of another amount becomes a mismatch."""
    register = arrived((DEPOSIT,))
    register.age(6)
    assert register.said["deposit"] == "deposit_without_payout"
    register.take(PAYOUT._replace(amount_minor=971))
    assert register.said["deposit"] == "payout_mismatch"


@pytest.mark.parametrize(
    ("row", "days", "fault"),
    [
        (CAPTURED, 30, "unmatched_card_payment"),
        (SETTLED, 7, "unmatched_card_payment"),
        (REFUND[1], 10, "refund_without_request"),
        (REFUND[2], 10, "refund_without_approval"),
        (DISPUTE_LOST[4], 120, "unmatched_dispute"),
        (DEPOSIT, 5, "deposit_without_payout"),
        (FEE, 5, "payout_mismatch"),
        (PAYOUT, 5, "payout_mismatch"),
    ],
    ids=lambda value: value.kind if isinstance(value, Row) else None,
)
def test_open_items_waiting_longer_than_allowed_is_excepted_once(row, days, fault):
    """What waits is an exception right after its time, not at it, and that is said once."""
    register = arrived((row,))
    register.age(days)
    assert register.said[row.name] == "waiting"
    register.age(days + 0.001)
    assert register.said[row.name] == fault
    register.said.clear()
    register.age(days + 1)
    assert register.said == {}


def test_open_items_unused_residual_is_flagged_with_what_is_left_and_ends_when_used_up():
    """What is left of a capture after its time is an exception of that amount, less with each part that settles, until
    the last one does."""
    register = arrived((AUTHORISED, CAPTURED, SETTLED._replace(amount_minor=600)))
    expected = ItemFlag("card_unsettled", "mercy", "ehr", "capture", "USD", 400, raised=True, cause="capture")
    assert register.age(7) == []
    assert register.age(7.1) == [expected]
    assert register.age(8) == []
    register.take(Row("half", "card_settled", 300, "c1", "p1"))
    assert register.items.take_flags() == [expected._replace(residual_minor=100)]
    register.take(Row("rest", "card_settled", 100, "c1", "p1"))
    assert register.items.take_flags() == [expected._replace(residual_minor=0, raised=False)]


def test_open_items_unused_authorisation_expires_without_exception():
    """An authorisation that nobody captures is forgotten after its time; nothing is owed."""
    register = arrived((AUTHORISED,))
    assert register.age(31) == []
    assert register.residuals() == {}


def test_open_items_finished_flow_leaves_nothing_behind():
    """Items that are used up and groups that tied are forgotten after their time, so memory does not grow."""
    register = arrived(SALE)
    assert register.age(61) == []
    assert register.residuals() == register.items.groups == register.items.waiters == {}


def test_open_items_payout_of_nothing_awaits_no_deposit():
    """A payout of zero has no bank money to wait for."""
    register = arrived((Row("payout", "payout_paid", 0, "p9"),))
    assert register.ready == ["payout"]
    assert register.age(6) == []


def test_open_items_entities_never_share_items():
    """The same key in another entity is another item."""
    items = OpenItems(RULEBOOK, 10)
    items.take(Event(1, "card_authorised", "mercy", 1000, "a1", "", "ehr", "e1", "USD"), NOW_MS)
    said = items.take(Event(2, "card_captured", "grace", 1000, "c1", "a1", "ehr", "e2", "USD"), NOW_MS)
    assert said == [Change(2, "waiting")]
