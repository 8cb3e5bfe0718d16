"""The shard's step: what becomes of repeats, conflicts, rows without account, rows that wait, time, and restarts."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from unit.engine.builders import (
    DAY_MS,
    MAPPING,
    NOW_MS,
    RULEBOOK,
    STANDARD,
    Run,
    charge,
    control,
    event,
    events,
    mapping,
    relayed,
    tick,
)

from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS
from runtime.errors import FrameError
from runtime.event_rules import identity
from runtime.ledger.rule_file import parse_rulebook
from runtime.ports import LogRecord

SALE = (
    event("auth", "card_authorised", 1000, document="a1"),
    event("capture", "card_captured", 1000, document="c1", reference="a1"),
    event("settle", "card_settled", 1000, document="c1", reference="p1"),
    event("fee", "card_fee_charged", 30, document="f1", reference="p1"),
    event("payout", "payout_paid", 970, document="p1"),
    event("deposit", "deposit_received", 970, document="b1", reference="p1"),
)
AUTHORISED, CAPTURED, SETTLED, FEE, PAYOUT, DEPOSIT = SALE
SALE_BALANCES = {"AR_SELF": -1000, "CARD_CLEARING": 0, "MERCHANT_FEES": 30, "CASH": 970}


def without(*roles: str) -> list[dict]:
    """The mapping, less these roles."""
    return [row for row in MAPPING if row["role"] not in roles]


def only(*roles: str, **scope: object) -> list[dict]:
    """Mapping rows of these roles alone, for a scope."""
    return [row | scope for row in MAPPING if row["role"] in roles]


# ── repeats and conflicts ──────────────────────────────────────────────────────────────────────────────────────────


def test_shard_new_event_is_booked():
    """An event that waits for nothing and has accounts is accepted and booked in its step."""
    run = Run()
    effects = run.take(charge("e1", 250))
    assert run.state("e1") == "booked"
    assert run.accounts() == {("mercy", "USD", "GL-AR_SELF"): 250, ("mercy", "USD", "GL-GROSS_REV"): -250}
    assert effects.counts._replace(open_items=0, waiting=0) == effects.counts
    assert (effects.counts.read, effects.counts.accepted, effects.counts.booked) == (1, 1, 1)


@pytest.mark.parametrize("together", [True, False], ids=["in one step", "in a later step"])
def test_shard_repeat_counts_as_duplicate_and_nothing_else(together):
    """The same event again changes the duplicate total alone."""
    run = Run()
    if together:
        run.take(charge("e1"), charge("e1"))
    else:
        run.take(charge("e1"))
        effects = run.take(charge("e1"))
        assert effects.deltas.is_empty()
        assert effects.exceptions.is_empty()
        assert effects.outcomes.is_empty()
    assert run.balance("GROSS_REV") == -100
    assert (run.total("accepted"), run.total("duplicate"), run.total("booked")) == (1, 1, 1)
    assert run.counts["read"] == run.counts["accepted"] + run.counts["duplicate"] == 2


def test_shard_repeat_received_later_is_still_a_repeat():
    """When an event was received is not part of its content."""
    run = Run()
    run.take(charge("e1"))
    run.take(charge("e1"), at_ms=NOW_MS + 400 * DAY_MS)
    assert run.total("duplicate") == 1


def test_shard_conflict_is_accepted_and_becomes_an_exception():
    """The same id with other content books nothing; it is counted, excepted and never dropped."""
    run = Run()
    run.take(charge("e1", 100))
    effects = run.take(charge("e1", 101))
    assert effects.exceptions.select("type", "event_id", "amount_minor").rows() == [("event_conflict", "e1", 101)]
    assert (run.total("accepted"), run.total("excepted"), run.total("excepted", "minor")) == (2, 1, 101)
    assert run.balance("GROSS_REV") == -100
    assert effects.counts.conflict == 1


def test_shard_two_conflicts_of_one_id_are_two_exceptions():
    """Each other content of an id stands for itself; the same conflict again is a duplicate."""
    run = Run()
    run.take(charge("e1", 100), charge("e1", 101), charge("e1", 102), charge("e1", 101))
    assert run.open_types() == ["event_conflict"] * 2
    assert run.total("duplicate") == 1


def test_shard_same_id_of_another_source_is_another_event():
    """Identity is the source and the id together."""
    run = Run()
    run.take(charge("e1"), charge("e1", source="lab"))
    assert run.total("booked") == 2


# ── accounts that are not there yet ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("missing", [("GROSS_REV",), ("AR_SELF",), ("AR_SELF", "GROSS_REV")], ids="+".join)
def test_shard_event_without_account_is_held_and_booked_by_the_mapping(missing):
    """If a role has no account the event is held whole; the mapping that brings it books it and ends the exception."""
    run = Run(mapped=False)
    run.step(mapping(1, without(*missing)))
    held = run.take(charge("e1", 250))
    assert run.state("e1") == "excepted"
    assert held.deltas.is_empty()
    assert held.exceptions["detail"].to_list() == [f"no account for role {missing[0]}"]
    released = run.step(mapping(2, only(*missing)))
    assert run.state("e1") == "booked"
    assert run.balance("GROSS_REV") == -250
    assert run.open == {}
    assert released.counts.released == 1


def test_shard_mapping_of_one_of_two_roles_keeps_the_event_held():
    """A mapping that brings only one of the lacking roles changes nothing, and raises nothing again."""
    run = Run(mapped=False)
    run.take(charge("e1"))
    effects = run.step(mapping(1, only("AR_SELF")))
    assert effects.totals.is_empty()
    assert effects.exceptions.is_empty()
    assert effects.resolved == ()
    run.step(mapping(2, only("GROSS_REV")))
    assert run.state("e1") == "booked"


@pytest.mark.parametrize(
    ("scope", "fitting"),
    [
        ({"facility": "north"}, {"facility": "north"}),
        ({"department": "lab"}, {"department": "lab"}),
        ({"entity": "grace"}, {"entity": "grace"}),
        ({"valid_from": "2026-09-01"}, {"effective_on": date(2026, 9, 1)}),
    ],
    ids=["facility", "department", "entity", "date"],
)
def test_shard_mapping_for_a_scope_releases_only_what_lies_in_it(scope, fitting):
    """A mapping by facility, department, entity or date books what it fits and leaves the rest held."""
    outside = {"facility": "south", "department": "er", "effective_on": date(2026, 8, 31)}
    run = Run(mapped=False)
    run.take(charge("in", 1, **(outside | fitting)), charge("out", 2, **outside))
    run.step(mapping(1, only("AR_SELF", "GROSS_REV", **scope)))
    assert run.states() == {"in": "booked", "out": "excepted"}


def test_shard_mapping_in_the_step_of_its_event_leaves_no_exception_open():
    """An exception that is raised and ended in one step is not open after it."""
    run = Run(mapped=False)
    effects = run.step(events(charge("e1")), mapping(1))
    assert run.state("e1") == "booked"
    assert effects.resolved == tuple(effects.exceptions["exception_id"])
    assert run.open == {}


def test_shard_mapping_version_again_is_ignored():
    """A mapping that the log carries twice has no effects the second time."""
    run = Run(mapped=False)
    run.take(charge("e1"))
    run.step(mapping(1, only("AR_SELF")))
    assert run.step(mapping(1)).totals.is_empty()
    assert run.state("e1") == "excepted"


def test_shard_later_mapping_leaves_booked_events_alone():
    """A new mapping counts for what comes after it; what is booked stays."""
    run = Run()
    run.take(charge("e1", 1))
    assert run.step(mapping(2, [{"role": "GROSS_REV", "account": "NEW"}])).deltas.is_empty()
    effects = run.take(charge("e2", 2))
    assert effects.deltas.select("account_code", "mapping_version").rows() == [("GL-AR_SELF", 1), ("NEW", 2)]


def test_shard_matched_event_without_account_is_held_after_its_exception():
    """An overdue event that finds its counterpart but no account trades one exception for the other."""
    run = Run(mapped=False)
    run.step(mapping(1, without("MERCHANT_FEES")))
    run.take(FEE)
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == ["payout_mismatch"]
    run.take(AUTHORISED, CAPTURED, SETTLED, PAYOUT)
    assert run.open_types() == ["mapping_missing"]
    run.step(mapping(2))
    assert run.open_types() == []
    assert run.state("fee") == "booked"


# ── amounts and dates ──────────────────────────────────────────────────────────────────────────────────────────────


def test_shard_negative_amount_flips_the_sides():
    """A negative adjustment debits what a positive one credits; totals count its absolute cents."""
    run = Run()
    run.take(event("e1", "adjustment_posted", -70, reason="contract"))
    assert (run.balance("AR_SELF"), run.balance("CONTRACTUAL")) == (70, -70)
    assert run.total("booked", "minor") == 70


def test_shard_zero_amount_is_booked_without_lines():
    """An event of nothing is booked, counted, and has no posting set."""
    run = Run()
    effects = run.take(charge("e1", 0))
    assert run.state("e1") == "booked"
    assert effects.deltas.is_empty()
    assert effects.outcomes["set_no"].to_list() == [-1]


def test_shard_history_posts_into_the_opening_period():
    """What happened before the ERP's first open day is posted on that day."""
    run = Run()
    effects = run.take(charge("old", effective_on=date(2019, 3, 5), occurred_at=datetime(2019, 3, 4, tzinfo=UTC)))
    assert set(effects.deltas.select("period", "posted_on").rows()) == {("2026-07", date(2026, 7, 1))}


def test_shard_kind_that_posts_nothing_is_excluded():
    """An operational fact is accepted and excluded by rule, without lines."""
    run = Run()
    effects = run.take(AUTHORISED)
    assert run.state("auth") == "excluded"
    assert effects.deltas.is_empty()
    assert effects.counts.open_items == 1


# ── matching and time ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows", [SALE, SALE[::-1]], ids=["in order", "backwards"])
@pytest.mark.parametrize("together", [True, False], ids=["one step", "a step each"])
def test_shard_card_sale_clears_in_any_order(rows, together):
    """A sale ends with the clearing account at zero, the cash net and the fee apart, however it came in."""
    run = Run()
    for step in [rows] if together else [(row,) for row in rows]:
        run.take(*step)
    assert {role: run.balance(role) for role in SALE_BALANCES} == SALE_BALANCES
    assert sorted(set(run.states().values())) == ["booked", "excluded"]
    assert run.total("pending") == 0


def test_shard_waiting_event_is_pending_and_unbooked():
    """What waits for its counterpart is pending: counted, not posted, no exception."""
    run = Run()
    effects = run.take(SETTLED)
    assert run.state("settle") == "pending"
    assert effects.deltas.is_empty()
    assert effects.exceptions.is_empty()
    assert effects.counts.waiting == 1


def test_shard_card_money_is_never_booked_on_authorisation_or_capture():
    """Until the settlement lies in a payout, no cash and no receivable moves."""
    run = Run()
    run.take(AUTHORISED, CAPTURED, SETTLED)
    assert run.accounts() == {}


def test_shard_overdue_event_is_excepted_and_booked_by_its_late_counterpart():
    """What waits too long is an exception; its counterpart still books it and ends the exception."""
    run = Run()
    run.take(SETTLED, FEE, PAYOUT, DEPOSIT)
    run.step(tick(NOW_MS + 8 * DAY_MS))
    assert run.open_types() == ["unmatched_card_payment"]
    late = run.take(AUTHORISED, CAPTURED, at_ms=NOW_MS + 9 * DAY_MS)
    assert run.open == {}
    assert late.counts.released == 1
    assert {role: run.balance(role) for role in SALE_BALANCES} == SALE_BALANCES


def test_shard_overdue_payout_is_excepted_and_booked_by_its_late_member():
    """All members of a payout that did not tie in time are booked when the lacking one comes."""
    run = Run()
    run.take(AUTHORISED, CAPTURED, SETTLED, PAYOUT, DEPOSIT)
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == ["payout_mismatch"] * 2
    run.take(FEE, at_ms=NOW_MS + 6 * DAY_MS)
    assert run.open == {}
    assert {role: run.balance(role) for role in SALE_BALANCES} == SALE_BALANCES


def test_shard_tick_and_late_counterpart_in_one_step_leave_no_exception_open():
    """An exception that time raises and a counterpart ends within one step is not open after it."""
    run = Run()
    run.take(SETTLED, FEE, PAYOUT, DEPOSIT)
    run.step(tick(NOW_MS + 8 * DAY_MS), events(AUTHORISED, CAPTURED, at_ms=NOW_MS + 8 * DAY_MS))
    assert run.open == {}
    assert run.state("settle") == "booked"


def test_shard_wait_counts_from_receipt_however_steps_are_cut():
    """How long an event waits does not depend on what else came in its step."""
    records = [events(SETTLED), events(charge("e1"), at_ms=NOW_MS + 2 * DAY_MS), tick(NOW_MS + 7 * DAY_MS + 1)]
    together, apart = Run(), Run()
    together.step(*records)
    for record in records:
        apart.step(record)
    assert together.end() == apart.end()
    assert together.open_types() == ["unmatched_card_payment"]


def test_shard_deposit_of_other_amount_is_excepted_and_posts_nothing():
    """Bank money that is not exactly the payout is an exception; no line plugs the difference."""
    run = Run()
    run.take(*SALE[:-1], DEPOSIT | {"amount_minor": 969})
    assert run.state("deposit") == "excepted"
    assert run.open_types() == ["payout_mismatch"]
    assert (run.balance("CASH"), run.balance("CARD_CLEARING")) == (0, 970)
    run.step(tick(NOW_MS + 6 * DAY_MS))
    assert run.open_types() == ["payout_mismatch", "payout_unpaid"]


def test_shard_unsettled_capture_is_flagged_and_ends_when_settled():
    """What a capture opened and nobody settled in time is an exception of its residual until it is settled."""
    run = Run()
    run.take(AUTHORISED, CAPTURED)
    flagged = run.step(tick(NOW_MS + 8 * DAY_MS))
    assert flagged.exceptions.select("type", "event_id", "amount_minor").rows() == [("card_unsettled", "capture", 1000)]
    assert flagged.totals.is_empty()
    run.take(SETTLED, at_ms=NOW_MS + 9 * DAY_MS)
    assert run.open == {}


def test_shard_flag_and_its_end_in_one_step_leave_no_exception_open():
    """A residual that is flagged and then used up within one step is no open exception."""
    run = Run()
    run.take(AUTHORISED, CAPTURED)
    run.step(tick(NOW_MS + 8 * DAY_MS), events(SETTLED, at_ms=NOW_MS + 8 * DAY_MS))
    assert run.open == {}


def test_shard_second_opener_of_a_key_is_held_as_exception():
    """A second authorisation of the same document is an exception of its own; the first one stands."""
    run = Run()
    run.take(AUTHORISED, event("twin", "card_authorised", 5, document="a1"))
    assert run.states() == {"auth": "excluded", "twin": "excepted"}
    assert run.open_types() == ["duplicate_open_item"]


def test_shard_at_its_open_items_limit_excepts_openers():
    """A shard whose register is full says so in an exception and goes on."""
    run = Run(open_items_max=1)
    run.take(AUTHORISED, event("next", "card_authorised", 5, document="a2"), charge("e1"))
    assert run.states() == {"auth": "excluded", "next": "excepted", "e1": "booked"}
    assert run.open_types() == ["open_items_full"]


def test_shard_exception_that_comes_back_in_its_own_step_stays_open():
    """An exception that ends and is raised again within one step is open after it."""
    one_name = STANDARD.replace('unopened = "unmatched_card_payment"', 'unopened = "payout_mismatch"')
    run = Run(rulebook=parse_rulebook(one_name))
    run.take(SETTLED)
    run.step(tick(NOW_MS + 8 * DAY_MS))
    assert run.open_types() == ["payout_mismatch"]
    run.step(events(AUTHORISED, CAPTURED, at_ms=NOW_MS + 8 * DAY_MS), tick(NOW_MS + 9 * DAY_MS))
    assert run.state("settle") == "excepted"
    assert run.open_types() == ["payout_mismatch"]


# ── the form of effects ────────────────────────────────────────────────────────────────────────────────────────────


def test_shard_effects_have_the_declared_columns_even_when_empty():
    """Every frame of the effects has the columns and types that the books expect, with rows or without."""
    run = Run(mapped=False)
    for effects in (run.step(tick(NOW_MS)), run.take(charge("e1")), run.step(mapping(1)), run.take(*SALE)):
        assert dict(effects.deltas.schema) == DELTAS
        assert dict(effects.totals.schema) == TOTALS
        assert dict(effects.exceptions.schema) == EXCEPTIONS
        assert dict(effects.outcomes.schema) == OUTCOMES


def test_shard_outcomes_name_the_commit_and_the_set():
    """Each outcome carries the step's last position and the posting set that the event went into."""
    run = Run()
    rows = [charge("e1", department="er"), charge("e2", department="lab"), charge("e3", department="er")]
    effects = run.step(events(*rows[:2], position="7-0"), events(*rows[2:], position="7-3"))
    assert effects.outcomes.select("id_hash", "position", "set_no").rows() == [
        (identity("ehr", "e1"), "7-3", 0),
        (identity("ehr", "e2"), "7-3", 1),
        (identity("ehr", "e3"), "7-3", 0),
    ]


def test_shard_set_numbers_are_unique_in_a_step():
    """Sets of released, matched and plain events of one step share one numbering without gaps."""
    run = Run(mapped=False)
    run.take(charge("held"))
    effects = run.step(events(charge("e1")), mapping(1), events(*SALE, charge("e2")))
    assert effects.deltas["set_no"].unique().sort().to_list() == list(range(5))
    assert effects.deltas["set_no"].is_sorted()


def test_shard_exceptions_hold_no_account_and_no_attributes():
    """What an exception says are ids, places and roles, never what the event carried beside them."""
    run = Run(mapped=False)
    secret = {"account": "canary-token", "attributes": '{"x":"canary"}', "counterparty": "canary-payer"}
    effects = run.take(charge("e1", **secret), charge("e1", 7, **secret), SETTLED | secret)
    late = run.step(tick(NOW_MS + 99 * DAY_MS))
    assert len(effects.exceptions) + len(late.exceptions) == 3
    assert "canary" not in effects.exceptions.write_csv() + late.exceptions.write_csv()


def test_shard_unknown_control_message_is_refused():
    """A control message that this runtime does not know stops it; skipping it could lose a mapping."""
    with pytest.raises(FrameError, match="unknown_control"):
        Run().step(control({"type": "holiday"}))


def test_shard_damaged_record_is_refused():
    """A log record whose bytes were changed is not taken for events."""
    body = bytearray(events(charge("e1")).body)
    body[len(body) // 2] ^= 1
    with pytest.raises(FrameError, match="malformed_frame"):
        Run().step(LogRecord("1-0", "events", 1, bytes(body)))


# ── restarts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shard_restored_remembers_everything():
    """A shard from a snapshot knows its ids, items, waiting and held rows, exceptions, time and mapping."""
    run = Run(mapped=False)
    run.step(mapping(1, without("CONTRACTUAL")))
    run.take(charge("e1"), charge("e1", 7), event("held", "adjustment_posted", 5, reason="x"), AUTHORISED, SETTLED)
    run.step(tick(NOW_MS + 8 * DAY_MS))
    run.restart()
    assert run.engine.remembered == 5
    assert run.engine.mapping_version == 1
    run.take(charge("e1"), CAPTURED, FEE, PAYOUT, DEPOSIT, at_ms=NOW_MS + 8 * DAY_MS)
    run.step(mapping(2))
    assert run.states() == {
        "e1": "booked",
        "held": "booked",
        "auth": "excluded",
        "settle": "booked",
        "capture": "excluded",
        "fee": "booked",
        "payout": "excluded",
        "deposit": "booked",
    }
    assert run.open_types() == ["event_conflict"]


def test_shard_snapshot_of_restored_shard_restores_alike():
    """Snapshots of snapshots go on holding the whole state."""
    run = Run()
    run.take(*SALE[1:4])
    for _ in range(3):
        run.restart()
    run.take(AUTHORISED, PAYOUT, DEPOSIT)
    assert {role: run.balance(role) for role in SALE_BALANCES} == SALE_BALANCES


def test_shard_empty_snapshot_restores_an_empty_shard():
    """A shard that never saw anything can be restored too."""
    run = Run(mapped=False)
    run.restart()
    assert run.engine.remembered == 0
    run.step(mapping(1))
    run.take(charge("e1"))
    assert run.state("e1") == "booked"


def test_shard_same_records_in_the_same_steps_give_equal_effects():
    """Two shards that take the same steps give the same frames, outcomes included."""
    rows = [charge(f"e{i}", i, department=f"d{i % 5}", counterparty="blue" if i % 3 else None) for i in range(60)]
    steps = [[events(*rows[:30], *SALE[2:])], [events(*rows[30:], *rows[:5]), tick(NOW_MS), events(*SALE[:2])]]
    one, other = Run(), Run()
    for records in steps:
        for mine, its in zip(one.step(*records), other.step(*records), strict=True):
            if isinstance(mine, pl.DataFrame):
                assert_frame_equal(mine, its)
            else:
                assert mine == its
    assert one.digests == other.digests


def test_shard_every_kind_of_the_rulebook_can_be_taken():
    """No kind of the standard rulebook is unknown to the engine."""
    run = Run()
    columns = {"reason": "x", "correlation_id": "k", "counterparty": "grace", "quantity": 1000}
    rows = [event(f"e-{name}", name, document=f"d-{name}", reference=f"r-{name}", **columns) for name in RULEBOOK.kind]
    run.step(relayed(*rows))
    assert run.total("accepted") == len(RULEBOOK.kind)


@pytest.mark.parametrize("attributes", ["[" * 4_000, '{"person":' + "[" * 2_000 + "]" * 2_000 + "}"])
def test_shard_takes_attributes_that_no_parser_gets_to_the_end_of(attributes: str):
    """A valid event of any kind never stops its shard, however deep its attributes are."""
    run = Run()
    columns = {"reason": "x", "correlation_id": "k", "counterparty": "grace", "quantity": 1000}
    links = {name: {"document": f"d-{name}", "reference": f"r-{name}"} for name in RULEBOOK.kind}
    rows = [event(f"e-{name}", name, **columns, **links[name], attributes=attributes) for name in RULEBOOK.kind]
    run.step(relayed(*rows))
    assert run.total("accepted") == len(rows)


def test_shard_denial_is_raised_beside_what_the_remittance_posts():
    """A denied line posts nothing, counts as excluded, and stands as an exception for revenue cycle."""
    run = Run()
    run.take(
        event("r", "remittance_received", 100, document="r1", reference="t1"),
        event("p", "claim_paid", 100, document="c1", reference="r1", counterparty="payer"),
        event("a", "claim_adjusted", 40, document="c1", reference="r1", reason="CO-97", counterparty="payer"),
    )
    assert (run.state("a"), run.state("p")) == ("excluded", "booked")
    assert run.open_types() == ["denial"]
