"""The two made-up sources: the same for the same seed, valid by the standard rulebook, and true to their own totals."""

import csv
import tomllib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from adapters.settings import DEMO_FILE, load, load_rulebook_text
from adapters.sources import open_source
from adapters.sources.card_processor import DEPOSIT_DIFFERENCE_MINOR, PAYOUT_SIGNS, CardDay, card_messages
from adapters.sources.month import DEMO_HOSPITALS, TRIAL_UNIT, TRIAL_UNIT_EVENTS, TRIAL_UNIT_MAPPING, billing_month
from runtime.config import MappingRow
from runtime.schema import COLUMNS, KindTerms, Vocabulary
from runtime.validation import validate

EVENTS = 60_000
FACILITIES = ("mercy-general", "mercy-west")
RECEIVED_AT_MS = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 1000


@pytest.fixture(scope="module")
def demo_vocabulary() -> Vocabulary:
    """The vocabularies of the demonstration and the standard rulebook."""
    config = load(str(DEMO_FILE))
    kinds = tomllib.loads(load_rulebook_text(config))["kind"]
    return Vocabulary(
        kinds={name: KindTerms(requires=tuple(kind["requires"]), sign=kind["sign"]) for name, kind in kinds.items()},
        entities=config.entity_terms(),
    )


@pytest.fixture(scope="module")
def month() -> pl.DataFrame:
    """A small month, longer than one block."""
    return pl.concat(billing_month(seed=7, events=EVENTS).frames())


def distinct(messages: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Readable messages by id, the first of each."""
    events: dict[str, dict[str, str]] = {}
    for message in messages:
        if message["amount_minor"].lstrip("-").isdecimal():
            events.setdefault(message["event_id"], message)
    return events


def payout_sums_minor(events: dict[str, dict[str, str]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for event in events.values():
        if event["kind"] in PAYOUT_SIGNS:
            sums[event["reference"]] += PAYOUT_SIGNS[event["kind"]] * int(event["amount_minor"])
    return dict(sums)


def announced_minor(events: dict[str, dict[str, str]], kind: str, key: str) -> dict[str, int]:
    return {event[key]: int(event["amount_minor"]) for event in events.values() if event["kind"] == kind}


def test_month_same_seed_gives_same_events(month: pl.DataFrame) -> None:
    """The seed alone decides: again is equal, another seed is not."""
    assert pl.concat(billing_month(seed=7, events=EVENTS).frames()).equals(month)
    assert not pl.concat(billing_month(seed=8, events=EVENTS).frames()).equals(month)


def test_month_is_canonical_and_valid(month: pl.DataFrame, demo_vocabulary: Vocabulary) -> None:
    """Every event passes the gateway's checks under the demonstration's configuration; no id is used twice."""
    assert month.schema == pl.Schema(COLUMNS)
    assert validate(month, demo_vocabulary, RECEIVED_AT_MS).rejected.is_empty()
    assert (month.height, month["event_id"].n_unique(), month["event_id"][0]) == (EVENTS, EVENTS, "bill-000001")


def test_month_total_equals_its_frames() -> None:
    """The biller's own sums, taken from the drawn numbers, are those of the frames, by entity, currency and kind."""
    source = billing_month(seed=3, events=EVENTS)
    frames = pl.concat(source.frames())
    amount = pl.col("amount_minor")
    summed = frames.group_by("entity", "currency", "kind").agg(
        pl.len(), amount.sum().alias("sum"), amount.abs().sum().alias("turnover")
    )
    assert source.total().sums == {row[:3]: row[3:] for row in summed.iter_rows()}
    assert source.total().rows == source.total().events == EVENTS


def test_month_reversal_undoes_one_earlier_charge(month: pl.DataFrame) -> None:
    """A reversal has amount, account, payer and place of a charge before it, and no charge is reversed twice."""
    reversals = month.filter(kind="charge_reversed")
    charges = month.filter(kind="charge_posted").select(pl.all().name.prefix("charge_"))
    pairs = reversals.join(charges, left_on="reference", right_on="charge_event_id", coalesce=False)
    assert pairs.height == reversals.height == reversals["reference"].n_unique() > 500
    same = ("amount_minor", "account", "facility", "department", "counterparty")
    assert all(pairs[name].eq_missing(pairs[f"charge_{name}"]).all() for name in same)
    assert (pairs["event_id"] > pairs["charge_event_id"]).all()


def test_month_has_corrections_of_both_signs_and_both_payers(month: pl.DataFrame) -> None:
    """Some adjustments are negative, payments come from insurers and patients, and all of it lies in the month."""
    adjustments = month.filter(kind="adjustment_posted")
    assert 0 < adjustments.filter(pl.col("amount_minor") < 0).height < adjustments.height / 10
    payers = month.filter(kind="payment_received")["counterparty"]
    assert 0 < payers.null_count() < len(payers)
    assert month["occurred_at"].is_sorted() and set(month["occurred_at"].dt.strftime("%Y-%m")) == {"2026-10"}


def test_month_trial_unit_is_the_only_gap_of_the_demo_mapping(month: pl.DataFrame) -> None:
    """Twenty adjustments lie in a department whose allowances nobody mapped; one more mapping row covers them."""
    mapping = [row for row in load(str(DEMO_FILE)).mapping if row.role == "CONTRACTUAL"]

    def mapped(entity: str, facility: str, department: str) -> bool:
        return any(
            row.entity in ("*", entity) and row.facility in ("", facility) and row.department in ("", department)
            for row in mapping
        )

    adjusted = month.filter(kind="adjustment_posted").group_by("entity", "facility", "department").len()
    gaps = [place for *place, _ in adjusted.iter_rows() if not mapped(*place)]
    assert gaps == [["lakeside", "lakeside-main", TRIAL_UNIT]]
    assert month.filter(department=TRIAL_UNIT)["kind"].to_list() == ["adjustment_posted"] * TRIAL_UNIT_EVENTS
    mapping.append(MappingRow(**TRIAL_UNIT_MAPPING))
    assert mapped(*gaps[0])


@pytest.mark.parametrize("events", [0, 1, 2, 7])
def test_month_of_few_events_is_whole(events: int) -> None:
    """A tiny month has the asked number of events, and starts with a charge, as nothing else can come first."""
    source = billing_month(seed=1, events=events, hospitals=DEMO_HOSPITALS[:1])
    kinds = [kind for frame in source.frames() for kind in frame["kind"]]
    assert len(kinds) == events == source.total().events
    assert kinds[:1] == ["charge_posted"][:events]


@pytest.fixture(scope="module")
def day() -> CardDay:
    """Six payouts."""
    return card_messages(7, "mercy", FACILITIES)


def test_card_same_seed_gives_same_messages(day: CardDay) -> None:
    """The seed alone decides the messages and their order."""
    assert card_messages(7, "mercy", FACILITIES) == day
    assert card_messages(8, "mercy", FACILITIES).messages != day.messages


def test_card_payouts_equal_the_sum_of_their_members(day: CardDay) -> None:
    """Each announced payout is exactly what its settlements, fees, refunds and disputes sum to; one is still open."""
    events = distinct(day.messages)
    sums, announced = payout_sums_minor(events), announced_minor(events, "payout_paid", "document")
    assert len(announced) == 6 and announced.items() <= sums.items()
    assert sums.keys() - announced.keys() == {"po_007"}


def test_card_deposits_equal_payouts_but_one(day: CardDay) -> None:
    """The bank booked every payout as announced, except the last, by a known difference."""
    events = distinct(day.messages)
    announced = announced_minor(events, "payout_paid", "document")
    deposits = announced_minor(events, "deposit_received", "reference")
    differences = {payout: announced[payout] - deposits[payout] for payout in announced}
    assert differences == dict.fromkeys(announced, 0) | {"po_006": DEPOSIT_DIFFERENCE_MINOR}
    assert day.truth.payout_mismatches == 1


def test_card_settlement_without_capture_is_the_only_one(day: CardDay) -> None:
    """All captures and authorisations that are answered exist, but for one settlement's."""
    events = distinct(day.messages)
    known = {event["document"] for event in events.values() if event["kind"] in ("card_authorised", "card_captured")}
    settled = [event for event in events.values() if event["kind"] == "card_settled"]
    captured = [event for event in events.values() if event["kind"] == "card_captured"]
    assert all(event["reference"] in known for event in captured)
    assert [event["document"] for event in settled if event["document"] not in known] == ["ca_unreported"]
    assert day.truth.pending == 1


def test_card_refunds_are_requested_by_one_person_and_approved_by_another(day: CardDay) -> None:
    """Each refund has a request and an approval of the same amount, signed by two persons."""
    events = distinct(day.messages).values()
    signed = {
        kind: {e["document"]: (e["amount_minor"], e["attributes"]) for e in events if e["kind"] == kind}
        for kind in ("refund_requested", "refund_approved")
    }
    requested, approved = signed["refund_requested"], signed["refund_approved"]
    assert requested.keys() == approved.keys() and len(approved) == 6
    for refund, (amount, person) in approved.items():
        assert requested[refund][0] == amount and requested[refund][1] != person


def test_card_truth_counts_every_message(day: CardDay) -> None:
    """Messages = distinct events, repeats of the same content, one conflict, one unreadable; nothing else."""
    truth, contents = day.truth, {tuple(sorted(message.items())) for message in day.messages}
    assert len(contents) == truth.accepted.events + truth.conflicts + truth.malformed
    assert len(day.messages) == len(contents) + truth.duplicates
    assert truth.duplicates == truth.accepted.events * 3 // 100 > 0
    booked = sum(total.events for total in truth.booked.values())
    assert truth.accepted.events == booked + truth.excluded + truth.pending + truth.payout_mismatches


def test_card_conflict_comes_after_what_it_contradicts(day: CardDay) -> None:
    """The contradiction is the last message, so the true content is the first, and only the amount differs."""
    last = day.messages[-1]
    first = distinct(day.messages)[last["event_id"]]
    assert {name for name in last if last[name] != first[name]} == {"amount_minor"}


def test_card_messages_come_out_of_order(day: CardDay) -> None:
    """Captures come before their authorisations and payouts before their members."""
    kinds = [message["kind"] for message in day.messages]
    assert kinds.index("payout_paid") < len(kinds) - 1 - kinds[::-1].index("card_settled")
    assert kinds.index("card_captured") < len(kinds) - 1 - kinds[::-1].index("card_authorised")


def test_card_messages_are_valid_events(day: CardDay, demo_vocabulary: Vocabulary, tmp_path: Path) -> None:
    """Read as flat texts, every distinct event passes the gateway's checks, and the truth's sums are theirs."""
    path = tmp_path / "card.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in COLUMNS if any(name in message for message in day.messages)])
        writer.writeheader()
        writer.writerows(distinct(day.messages).values())
    source = open_source(path)
    assert validate(pl.concat(source.frames()), demo_vocabulary, RECEIVED_AT_MS).rejected.is_empty()
    assert source.total() == day.truth.accepted


def test_card_of_one_payout_is_refused() -> None:
    """A dispute needs a payout to open in and another to be won in."""
    with pytest.raises(ValueError, match="payouts"):
        card_messages(1, "mercy", FACILITIES, payouts=1)
