"""What holds for every history of all flows: order, repeats, the cuts of steps and restarts change nothing in the end.

What is order-dependent by design is left out, as `histories` says. Three aspects of the end are left out here: which
event an account's credit is told of, which release a payment of several bills, and, where steps are cut, since when an
account stands in credit.
"""

from collections.abc import Sequence
from itertools import groupby
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.builders import DAY_MS, MAPPING, NOW_MS, Run, decision, event, events, mapping, period, tick
from unit.engine.histories import FLOWS, PRICE_MINOR, UNIT, billing, lookalikes, payout, remittance
from unit.engine.naive_books import Books

from runtime.ledger import step_matching
from runtime.ports import LogRecord

LATE_ROLES = ("MERCHANT_FEES", "CONTRACTUAL", "AR_INS", "GRNI", "DUE_FROM", "PAYER_TAKEBACK")
EARLY_MAPPING = [row for row in MAPPING if row["role"] not in LATE_ROLES]
LATE_MAPPING = [row for row in MAPPING if row["role"] in LATE_ROLES]
FEW_EXAMPLES = settings(max_examples=15)
SOME_EXAMPLES = settings(max_examples=20)
MORE_EXAMPLES = settings(max_examples=40)
END_MS = NOW_MS + 60 * DAY_MS  # all that time decides is decided
CREDIT = "credit_balance"
TOLD_OF_ANY = {CREDIT, "payment_uncleared", "payment_confirmation_lost"}  # of the first of several events that came

choices = st.randoms(use_true_random=False)
Item = dict | LogRecord  # a row, or a control message


# ── histories ──────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def policies(draw) -> list[dict]:
    """Policies that hold from the start: one that is set later decides what comes later, by design."""
    chosen = {
        "POLICY_UNMATCHED_CLAIM": draw(st.sampled_from(("AR", "UNAPPLIED"))),
        "POLICY_MATCH_LEVEL": draw(st.sampled_from(("2", "3", "4"))),
    }
    return [{"role": role, "account": answer} for role, answer in chosen.items()]


@st.composite
def histories(draw) -> list[Item]:
    """Rows of all kinds and the mapping in two versions, in no order; no row conflicts with another."""
    parts = [draw(billing("x"))]
    for number, flow in enumerate(draw(st.lists(st.sampled_from(FLOWS), min_size=1, max_size=4))):
        parts.append(draw(flow(f"y{number}")))
    return [mapping(2, EARLY_MAPPING), *(row for part in parts for row in part), mapping(3, LATE_MAPPING)]


@st.composite
def logs(draw) -> list[LogRecord]:
    """Records in log order, hours apart, with everything that may go wrong: time, repeats, conflicts, excess."""
    items = draw(histories())
    random = draw(choices)
    random.shuffle(items)
    records: list[LogRecord] = [mapping(1, draw(policies()))]
    for number, part in enumerate(_parts(items, random)):
        now_ms = NOW_MS + number * draw(st.sampled_from((1, 20, 200))) * DAY_MS // 24
        records += _records([*part, *_noise(items, random)], now_ms)
        records.append(tick(now_ms))
    records.insert(random.randrange(1, len(records)), period("2026-09-01"))
    return records


def _noise(items: Sequence[Item], random: Random) -> list[dict]:
    rows = [row for row in items if isinstance(row, dict)]
    chosen = random.sample(rows, min(len(rows), random.randrange(3)))
    other = {"amount_minor": random.randrange(9_000)}
    return [row | random.choice(({}, other, other | {"event_id": f"n{random.randrange(50)}"})) for row in chosen]


def _parts(items: Sequence, random: Random) -> list[list]:
    """Cut into a few consecutive parts, none of them empty."""
    cuts = sorted({0, len(items), *(random.randrange(1, len(items)) for _ in range(random.randrange(6)))})
    return [list(items[start:end]) for start, end in zip(cuts, cuts[1:], strict=False)]


def _records(items: Sequence[Item], at_ms: int = NOW_MS) -> list[LogRecord]:
    """Log records that hold these items in order, rows side by side in one frame."""
    records: list[LogRecord] = []
    for are_rows, group in groupby(items, key=lambda item: isinstance(item, dict)):
        alike = list(group)
        records += [events(*alike, at_ms=at_ms)] if are_rows else alike
    return records


def ran(steps: Sequence[Sequence[LogRecord]]) -> Run:
    """A shard after these steps."""
    run = Run(mapped=False)
    for records in steps:
        run.step(*records)
    return run


def come_to_rest(run: Run, at_ms: int = END_MS) -> Run:
    """Relay what was derived, let time decide, and do so again until nothing follows."""
    run.relay(at_ms=NOW_MS)
    for day in range(2):
        run.step(tick(at_ms + day * DAY_MS))
        run.relay(at_ms=at_ms + day * DAY_MS)
    return run


def ending(run: Run) -> tuple:
    """How a run ended, but for the event that something is told of which several events may be named for."""
    *others, exceptions = run.end()
    return *others, sorted((type, "" if type in TOLD_OF_ANY else who) for type, who in exceptions), open_items(run)


def open_items(run: Run) -> dict[tuple, tuple[int, bool]]:
    """What is left of every open item, and whether that was told."""
    items = run.engine.intake.items.items
    kept = {items.keys_at(np.array([row]))[0]: items.at(row)[1] for row in items.standing().tolist()}
    return {key: (item.residual_minor, item.flagged) for key, item in kept.items() if item.residual_minor}


def uncredited(run: Run) -> tuple:
    """How a run ended, without accounts in credit."""
    *others, exceptions = run.end()
    return *others, [what for what in exceptions if what[0] != CREDIT]


# ── what holds ─────────────────────────────────────────────────────────────────────────────────────────────────────


@SOME_EXAMPLES
@given(rules=policies(), items=histories(), random=choices)
def test_history_in_any_order_with_repeats_ends_alike(rules, items, random):
    """Balances, totals, states, open items and exceptions are the same in every order, however often repeated."""
    first = [mapping(1, rules)]
    expected = come_to_rest(ran([first, _records(items)]))
    rows = [item for item in items if isinstance(item, dict)]
    shuffled = items + random.choices(rows, k=random.randrange(10)) if rows else list(items)
    random.shuffle(shuffled)
    run = Run(mapped=False)
    run.step(*first)
    for part in _parts(shuffled, random):
        run.step(*_records(part))
        if random.randrange(3) == 0:
            run.restart()
        if random.randrange(3) == 0:
            run.relay()
    assert ending(come_to_rest(run)) == ending(expected)
    assert run.total("duplicate") == len(shuffled) - len(items)


@pytest.mark.parametrize("flow", [remittance, lookalikes])
@MORE_EXAMPLES
@given(data=st.data(), random=st.randoms(use_true_random=True))
def test_money_of_claims_in_any_order_ends_alike(flow, data, random):
    """Few rows and many orders: payments of one claim, and money that fits several remittances, come as they like."""
    steps = [[mapping(1, MAPPING)], [mapping(2, [{"role": "POLICY_UNMATCHED_CLAIM", "account": "UNAPPLIED"}])]]
    rows = data.draw(flow("y"))
    expected = ending(come_to_rest(ran([*steps, _records(rows)])))
    shuffled = random.sample(rows, len(rows))
    assert ending(come_to_rest(ran([*steps, *([events(*part)] for part in _parts(shuffled, random))]))) == expected


@FEW_EXAMPLES
@given(rules=policies(), items=histories())
def test_history_adds_up_to_what_a_naive_model_says(rules, items):
    """Every account holds what is added up row by row, from the whole history and not from one event to the next."""
    run = come_to_rest(ran([[mapping(1, rules)], _records(items)]))
    rows = [item for item in items if isinstance(item, dict)]
    policy = {row["role"]: row["account"] for row in rules}
    derived = run.relayed_rows
    naive = Books(
        [*rows, *derived],
        run.states(),
        unapplied=policy["POLICY_UNMATCHED_CLAIM"] == "UNAPPLIED",
        level=policy["POLICY_MATCH_LEVEL"],
    )
    assert run.accounts() == naive.accounts()


@FEW_EXAMPLES
@given(items=payout("y"), random=choices)
def test_payout_whose_money_came_leaves_clearing_empty(items, random):
    """CARD_CLEARING is zero for a payout that is booked whole and whose deposit is booked; else it is what is not."""
    random.shuffle(items)
    run = ran([[mapping(1)], *(_records([row]) for row in items)])
    states = run.states()
    cleared = states.get("y-payout") == "excluded" and states.get("y-bank") == "booked"
    through = [row for row in items if row["kind"] in MEMBERS]
    if cleared and all(states[row["event_id"]] == "booked" for row in through):
        assert run.balance("CARD_CLEARING") == _failed_refunds(items, states)


MEMBERS = (
    "card_settled",
    "card_fee_charged",
    "refund_paid",
    "chargeback_opened",
    "chargeback_fee_charged",
    "reserve_held",
    "reserve_released",
)


def _failed_refunds(items: Sequence[dict], states: dict[str, str]) -> int:
    """What came back on cards outside the payout, and disputes won in it by another key."""
    booked = [row for row in items if states.get(row["event_id"]) == "booked"]
    failed = [row for row in booked if row["kind"] == "refund_failed" and row["reason"] == "CARD_EXPIRED"]
    return sum(row["amount_minor"] for row in failed)


@FEW_EXAMPLES
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(("goods_received", "goods_returned", "billed")), st.integers(0, 9)), max_size=12
    )
)
def test_goods_received_and_not_billed_are_what_grni_holds_after_every_event(moves):
    """At every step GRNI is the value of open receipts at the order's price, whatever was billed or sent back."""
    run, received, billed = Run(), 0, 0
    order = {"document": "PO/1", "counterparty": "acme", "quantity": 99 * UNIT}
    run.take(event("order", "po_line_approved", 99 * PRICE_MINOR, attributes={"price_minor": PRICE_MINOR}, **order))
    for number, (kind, count) in enumerate(moves):
        amount, quantity = count * PRICE_MINOR, count * UNIT
        named = f"e{number}"
        if kind == "billed":
            key, line = f"acme/{number}", {"reference": "PO/1", "counterparty": "acme"}
            run.take(
                event(f"h{number}", "invoice_received", amount, document=key, counterparty="acme"),
                event(
                    named, "invoice_line_billed", amount, document=named, correlation_id=key, quantity=quantity, **line
                ),
            )
            billed += count
        else:
            run.take(event(named, kind, document=named, reference="PO/1", quantity=quantity))
            received += count if kind == "goods_received" else -count
        at_hand = max(0, received)
        assert -run.balance("GRNI") == (at_hand - min(billed, at_hand)) * PRICE_MINOR
        assert run.balance("INVOICED_NOT_RECEIVED") == (billed - min(billed, at_hand)) * PRICE_MINOR


@FEW_EXAMPLES
@given(records=logs(), random=choices)
def test_history_cut_into_other_steps_ends_alike(records, random):
    """The same records in other steps add up to the same balances, totals, states and open exceptions."""
    together, apart = ran([records]), ran([[record] for record in records])
    cut = ran(_parts(records, random))
    assert uncredited(together) == uncredited(apart) == uncredited(cut)
    assert together.total("duplicate") == apart.total("duplicate")


@FEW_EXAMPLES
@given(records=logs(), random=choices)
def test_history_in_the_same_steps_has_equal_digests(records, random):
    """The effects are a function of the steps: two shards commit the same, byte for byte."""
    steps = _parts(records, random)
    assert ran(steps).digests == ran(steps).digests


@FEW_EXAMPLES
@given(records=logs(), random=choices)
def test_history_restarted_at_any_cut_goes_on_as_if_never_stopped(records, random):
    """A shard that is restored from the snapshot after any step commits what the unbroken one commits."""
    steps = _parts(records, random)
    unbroken = ran(steps).digests
    for cut in range(1, len(steps)):
        run = ran(steps[:cut])
        run.restart()
        for later in steps[cut:]:
            run.step(*later)
        assert run.digests == unbroken


@FEW_EXAMPLES
@given(records=logs(), random=choices)
def test_history_with_decisions_of_people_is_conserved_and_replays_alike(records, random):
    """Whatever people decide on whatever is open, nothing is lost, and a replay with restarts commits the same."""
    run, steps = Run(mapped=False), []
    for number, part in enumerate(_parts(records, random)):
        open_ids = sorted(run.open)
        chosen = random.sample(open_ids, min(len(open_ids), random.randrange(4)))
        step = [decision(number, random.choice(("retry", "release", "exclude")), *chosen), *part]
        steps.append(step)
        run.step(*step)
    replayed = Run(mapped=False)
    for step in steps:
        replayed.step(*step)
        replayed.restart()
    assert replayed.digests == run.digests
    assert replayed.end() == run.end()


@FEW_EXAMPLES
@given(records=logs(), random=choices)
def test_history_matched_in_whole_columns_ends_as_one_by_one(records, random):
    """Whether the rows of a step are matched at once or one by one is not seen in what comes of them."""
    steps = _parts(records, random)
    ends = []
    for rows_min in (0, 1_000_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step_matching, "ROWS_MIN", rows_min)
            run = ran(steps)
            waiting = sorted(run.engine.intake.items.waiters.items())
            groups = sorted(run.engine.intake.items.groups.items())
            ends.append((waiting, groups, ending(come_to_rest(run))))
    assert ends[0] == ends[1]
