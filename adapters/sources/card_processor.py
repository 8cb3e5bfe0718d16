"""A small card processor: a seeded story of payouts, told as the messages it would put on a Redis stream.

Every payout's members (settlements less fees, refunds and disputes) sum to what the payout announces. Owns the story
and its truth. Some things go wrong on purpose: repeats, disorder, one unreadable entry, one id sent again with another
amount, one deposit that the bank booked differently, one settlement whose capture never comes. Never waits for what
becomes of its messages.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np
import redis

from adapters.sources.source import ControlTotal, KindTotal, TotalKey

SOURCE = "card"
CURRENCY = "USD"
SETTLEMENTS_MIN, SETTLEMENTS_MAX = 4, 9
REPEATED_PERCENT = 3
CHARGEBACK_FEE_MINOR = 1500
DEPOSIT_DIFFERENCE_MINOR = 250  # what the bank booked too little of the last payout
MESSAGES_PER_CALL = 50
UNPOSTED_KINDS = frozenset({"card_authorised", "card_captured", "refund_requested", "payout_paid"})
REQUESTER, APPROVER = '{"person": "r.lind"}', '{"person": "m.abara"}'  # a refund takes two persons
PAYOUT_SIGNS = {
    "card_settled": 1,
    "card_fee_charged": -1,
    "refund_paid": -1,
    "chargeback_opened": -1,
    "chargeback_fee_charged": -1,
    "chargeback_won": 1,
}


class CardTruth(NamedTuple):
    """What must come of the messages, in events. A repeat has the content of an event sent before or after it."""

    accepted: ControlTotal  # each event once, with its first content
    booked: dict[str, KindTotal]  # what posts, by kind
    excluded: int  # events of kinds that post nothing
    duplicates: int
    conflicts: int  # the last message: an authorisation's id with a larger amount
    malformed: int  # unreadable: goes to the dead letters
    pending: int  # the settlement without a capture: waits, then becomes unmatched_card_payment
    payout_mismatches: int  # the deposit of another amount: an exception


class CardDay(NamedTuple):
    """The messages in the order of the stream, and what is true of them."""

    messages: list[dict[str, str]]
    truth: CardTruth


def card_messages(
    seed: int, entity: str, facilities: Sequence[str], payouts: int = 6, first_day: date = date(2026, 10, 1)
) -> CardDay:
    """The messages of one payout a day, at least two. The same seed gives the same messages."""
    if payouts < 2:
        raise ValueError("payouts: at least 2, as a dispute opens in the first and is won in the last")
    random = np.random.default_rng(seed)
    story = _Story(random, entity, facilities, first_day)
    for number in range(1, payouts + 1):
        story.tell_payout(number, payouts)
    orphan = story.tell_settlement_without_capture(payouts + 1)
    repeats = _repeats(random, story.events)
    mingled = [*story.events, *repeats, _unreadable(story.events[0])]
    order = random.permutation(len(mingled))
    # The conflict comes last, so that the true content is the first however the rest is mixed.
    messages = [mingled[i] for i in order] + [_conflicting(story.events)]
    return CardDay(messages, _truth(story.events, orphan, duplicates=len(repeats)))


def send_messages(
    url: str, stream: str, messages: Sequence[dict[str, str]], on_sent: Callable[[int], None] = lambda count: None
) -> None:
    """Write the messages to a Redis stream, one entry each, in order; `on_sent` hears how many went with each call."""
    with redis.Redis.from_url(url) as connection:
        for start in range(0, len(messages), MESSAGES_PER_CALL):
            part = messages[start : start + MESSAGES_PER_CALL]
            pipeline = connection.pipeline(transaction=False)
            for message in part:
                pipeline.xadd(stream, message)
            pipeline.execute()
            on_sent(len(part))


class _Story:
    """Events so far, each a message of column texts."""

    def __init__(self, random: np.random.Generator, entity: str, facilities: Sequence[str], first_day: date) -> None:
        self._random, self._entity, self._facilities = random, entity, facilities
        self._midnight = datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC)
        self._payments = 0
        self._day = 0
        self.events: list[dict[str, str]] = []

    def tell_payout(self, number: int, payouts: int) -> None:
        """One day: its payments, what is netted from them, the payout and, a day later, the bank's deposit."""
        self._day = number - 1
        payout, first = f"po_{number:03d}", len(self.events)
        for _ in range(self._random.integers(SETTLEMENTS_MIN, SETTLEMENTS_MAX + 1)):
            self._tell_payment(payout)
        self._tell_refund(payout, number)
        if number == 1:
            self._tell_dispute(payout)
        if number == payouts:
            self._tell_dispute_won(payout)
        net_minor = sum(_signed_minor(event) for event in self.events[first:])
        self._tell("payout_paid", net_minor, document=payout)
        self._day = number
        booked_minor = net_minor - DEPOSIT_DIFFERENCE_MINOR if number == payouts else net_minor
        self._tell("deposit_received", booked_minor, document=f"dep_{number:03d}", reference=payout)

    def tell_settlement_without_capture(self, number: int) -> dict[str, str]:
        """A settlement of a payout that is still under way, for a capture that was never reported."""
        place = {"facility": self._facilities[0], "account": self._account()}
        return self._tell("card_settled", 7_300, document="ca_unreported", reference=f"po_{number:03d}", **place)

    def _tell_payment(self, payout: str) -> None:
        self._payments += 1
        authorisation, capture = f"au_{self._payments:05d}", f"ca_{self._payments:05d}"
        amount_minor = int(self._random.integers(15, 900)) * 100 + int(self._random.integers(0, 100))
        place = {"facility": self._any_facility(), "account": self._account()}
        self._tell("card_authorised", amount_minor, document=authorisation, **place)
        self._tell("card_captured", amount_minor, document=capture, reference=authorisation, **place)
        self._tell("card_settled", amount_minor, document=capture, reference=payout, **place)
        fee = {"document": f"fee_{self._payments:05d}", "reference": payout, "facility": place["facility"]}
        self._tell("card_fee_charged", (amount_minor * 29 + 500) // 1000 + 30, **fee)

    def _tell_refund(self, payout: str, number: int) -> None:
        amount_minor = int(self._random.integers(500, 1_500))
        refund = {"document": f"re_{number:03d}", "facility": self._any_facility(), "account": self._account()}
        self._tell("refund_requested", amount_minor, attributes=REQUESTER, **refund)
        self._tell("refund_approved", amount_minor, attributes=APPROVER, **refund)
        self._tell("refund_paid", amount_minor, reference=payout, **refund)

    def _tell_dispute(self, payout: str) -> None:
        dispute = {"document": "dp_001", "reference": payout, "facility": self._facilities[0]}
        self._tell("chargeback_opened", 4_200, **dispute)
        self._tell("chargeback_fee_charged", CHARGEBACK_FEE_MINOR, **dispute)

    def _tell_dispute_won(self, payout: str) -> None:
        self._tell("chargeback_won", 4_200, document="dp_001", reference=payout, facility=self._facilities[0])

    def _tell(self, kind: str, amount_minor: int, **columns: str) -> dict[str, str]:
        number = len(self.events) + 1
        at = self._midnight + timedelta(days=self._day, hours=8, seconds=number)
        event = {
            "event_id": f"card-{number:05d}",
            "source": SOURCE,
            "kind": kind,
            "entity": self._entity,
            "amount_minor": str(amount_minor),
            "currency": CURRENCY,
            "occurred_at": str(int(at.timestamp()) * 1000),
            "effective_on": at.date().isoformat(),
            **columns,
        }
        self.events.append(event)
        return event

    def _any_facility(self) -> str:
        return self._facilities[self._random.integers(len(self._facilities))]

    def _account(self) -> str:
        return f"acct-{self._random.integers(1, 2_000_000):08d}"


def _signed_minor(event: dict[str, str]) -> int:
    return PAYOUT_SIGNS.get(event["kind"], 0) * int(event["amount_minor"])


def _repeats(random: np.random.Generator, events: list[dict[str, str]]) -> list[dict[str, str]]:
    count = max(1, len(events) * REPEATED_PERCENT // 100)
    return [dict(events[i]) for i in random.choice(len(events), size=count, replace=False)]


def _unreadable(event: dict[str, str]) -> dict[str, str]:
    return event | {"event_id": "card-unreadable", "amount_minor": "12.5O"}


def _conflicting(events: list[dict[str, str]]) -> dict[str, str]:
    first = next(event for event in events if event["kind"] == "card_authorised")
    return first | {"amount_minor": str(int(first["amount_minor"]) + 100)}


def _truth(events: list[dict[str, str]], orphan: dict[str, str], duplicates: int) -> CardTruth:
    mismatched = [event for event in events if event["kind"] == "deposit_received"][-1]
    unbooked = {orphan["event_id"], mismatched["event_id"]}
    posting = [event for event in events if event["kind"] not in UNPOSTED_KINDS]
    sums = _sums(events)
    return CardTruth(
        accepted=ControlTotal(len(events), len(events), 0, sums),
        booked={key[2]: total for key, total in _sums([e for e in posting if e["event_id"] not in unbooked]).items()},
        excluded=len(events) - len(posting),
        duplicates=duplicates,
        conflicts=1,
        malformed=1,
        pending=1,
        payout_mismatches=1,
    )


def _sums(events: list[dict[str, str]]) -> dict[TotalKey, KindTotal]:
    sums: dict[TotalKey, KindTotal] = {}
    for event in events:
        key = (event["entity"], event["currency"], event["kind"])
        amount_minor = int(event["amount_minor"])
        sums[key] = sums.get(key, KindTotal()).plus(KindTotal(1, amount_minor, abs(amount_minor)))
    return sums
