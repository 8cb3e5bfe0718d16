"""Posting: what is folded, what stays apart, which accounts and periods are met, and what is handed back."""

from collections import Counter
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from unit.engine.builders import (
    BILLING_KINDS,
    ENTITIES,
    MAPPING,
    OPENS_ON,
    RULEBOOK,
    STANDARD,
    charge,
    event,
    stamped,
)

from runtime import schema
from runtime.effects import DELTAS
from runtime.ledger import routes
from runtime.ledger.cells import celled
from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow
from runtime.ledger.posting import PostingRules
from runtime.ledger.rule_file import parse_rulebook

EVERY_ROLE = [CrosswalkRow(**row) for row in MAPPING]


def rules_of(rows: list[CrosswalkRow] = EVERY_ROLE) -> PostingRules:
    """Posting by the standard rulebook with these mappings as version 1."""
    crosswalk = Crosswalk()
    crosswalk.apply(1, rows)
    return PostingRules(RULEBOOK, crosswalk, OPENS_ON)


class Rows(NamedTuple):
    """What was posted, told of rows: the set of each booked one, and the role that others lack."""

    deltas: pl.DataFrame
    set_of: dict[int, int]
    unmapped: list[tuple[int, str]]


def post(*rows: dict, by: PostingRules | None = None, first_set_no: int = 0) -> Rows:
    """Post rows as the shard does."""
    by = by or rules_of()
    events = stamped(*rows).with_columns(was=pl.lit(None, pl.String()))
    cells = celled(events, by.told_apart)
    cells = by.measured(cells._replace(frame=cells.frame.with_columns(rule="kind")), events, {})
    deltas, set_no, missing = by.post(cells.frame, first_set_no)
    set_of = dict(enumerate(set_no.gather(cells.of)))
    unmapped = [(row, role) for row, role in enumerate(missing.gather(cells.of)) if role]
    return Rows(deltas, {row: number for row, number in set_of.items() if number is not None}, unmapped)


def lines(posted: Rows, *columns: str) -> list[tuple]:
    """Delta lines as tuples."""
    return posted.deltas.select(columns or ("account_code", "side", "amount_minor")).rows()


def test_posting_nothing_with_an_account_gives_empty_lines():
    """Rows that can't be booked give no lines, in the columns that lines have."""
    posted = post(charge("e1"), by=rules_of([]))
    assert posted.deltas.schema == pl.Schema(DELTAS)
    assert posted.deltas.is_empty()


@pytest.mark.parametrize(("payer", "account"), [("blue", "GL-AR_INS"), (None, "GL-AR_SELF")])
def test_posting_receivable_follows_the_payer(payer, account):
    """AR is the insurer's when the event names a payer, the patient's when it does not."""
    posted = post(charge("e1", counterparty=payer))
    assert lines(posted) == [(account, "D", 100), ("GL-GROSS_REV", "C", 100)]


def test_posting_summary_events_of_equal_dimensions_are_one_set():
    """Summary events that differ in nothing that the rule keeps are summed, and counted."""
    posted = post(charge("e1", 100), charge("e2", 250, account="token-2", occurred_at=1_790_100_000_000))
    assert lines(posted) == [("GL-AR_SELF", "D", 350), ("GL-GROSS_REV", "C", 350)]
    assert lines(posted, "events", "document", "mode") == [(2, "", "summary")] * 2


def test_posting_kept_dimensions_stay_apart_and_dropped_ones_fold():
    """Charges keep their department; payments keep the facility alone."""
    rows = [{"department": "lab"}, {"department": "surgery"}]
    charges = post(*(charge(f"e{i}", **row) for i, row in enumerate(rows)))
    assert lines(charges, "department", "set_no") == [("lab", 0), ("lab", 0), ("surgery", 1), ("surgery", 1)]
    payments = post(*(event(f"e{i}", "payment_received", 100, **row) for i, row in enumerate(rows)))
    assert lines(payments, "department", "amount_minor") == [("", 200)] * 2


def test_posting_immediate_events_are_one_set_for_each_document():
    """Immediate events fold by the column that their entry is made by, never across two values of it."""
    fees = [
        event(f"f{i}", "card_fee_charged", 10, document=f"fee{i}", reference=payout)
        for i, payout in enumerate(["p1", "p2", "p1"])
    ]
    posted = post(*fees)
    found = posted.deltas.filter(side="D").select("document", "amount_minor", "events", "mode", "lane").rows()
    assert found == [("p1", 20, 2, "immediate", 0), ("p2", 10, 1, "immediate", 0)]
    assert posted.set_of == {0: 0, 1: 1, 2: 0}


def test_posting_negative_amount_exchanges_the_sides():
    """A negative amount posts its absolute amount on the other sides, in a set of its own."""
    posted = post(
        event("e1", "adjustment_posted", 70, reason="contract"),
        event("e2", "adjustment_posted", -30, reason="contract"),
    )
    assert sorted(lines(posted)) == sorted(
        [
            ("GL-CONTRACTUAL", "D", 70),
            ("GL-AR_SELF", "C", 70),
            ("GL-CONTRACTUAL", "C", 30),
            ("GL-AR_SELF", "D", 30),
        ]
    )


def test_posting_zero_amount_alone_has_no_set():
    """An event of nothing is booked without lines."""
    posted = post(charge("e1", 0))
    assert posted.deltas.is_empty()
    assert posted.set_of == {0: -1}
    assert not posted.unmapped


def test_posting_zero_amount_beside_others_is_counted_in_their_set():
    """An event of nothing joins the set of its dimensions."""
    posted = post(charge("e1", 0), charge("e2", 5))
    assert lines(posted, "amount_minor", "events") == [(5, 2)] * 2
    assert posted.set_of == {0: 0, 1: 0}


def test_posting_before_opening_goes_into_the_opening_period():
    """An event that is older than the entity's first open day posts on that day; later ones on their own."""
    posted = post(
        charge("e1", 1, effective_on=date(2019, 3, 5)),
        charge("e2", 2, effective_on=date(2026, 7, 1)),
        charge("e3", 4, effective_on=date(2026, 8, 31)),
        charge("e4", 8, effective_on=date(2026, 8, 2)),
    )
    found = posted.deltas.filter(side="D").select("period", "posted_on", "amount_minor").rows()
    assert found == [("2026-07", date(2026, 7, 1), 3), ("2026-08", date(2026, 8, 31), 12)]


def test_posting_event_without_account_is_handed_back_whole():
    """If only one of two roles has an account, no line is posted, and the missing role is named."""
    posted = post(
        charge("e1"),
        event("e2", "payment_received", 40),
        by=rules_of([row for row in EVERY_ROLE if row.role != "GROSS_REV"]),
    )
    assert posted.unmapped == [(0, "GROSS_REV")]
    assert lines(posted) == [("GL-CASH", "D", 40), ("GL-AR_SELF", "C", 40)]
    assert posted.set_of == {1: 0}


def test_posting_account_by_dropped_dimension_keeps_sets_apart():
    """A mapping by department parts the sets even of a kind that does not keep the department."""
    by = rules_of([*EVERY_ROLE, CrosswalkRow(role="CASH", account="LAB-CASH", department="lab")])
    posted = post(
        event("e1", "payment_received", 1, department="lab"), event("e2", "payment_received", 2, department="er"), by=by
    )
    debits = posted.deltas.filter(side="D").select("set_no", "account_code", "department", "amount_minor").rows()
    assert debits == [(0, "GL-CASH", "", 2), (1, "LAB-CASH", "", 1)]


def test_posting_account_by_date_changes_within_a_period():
    """A mapping that changes in the middle of a month parts that month's set, each with its own account."""
    by = rules_of([*EVERY_ROLE, CrosswalkRow(role="GROSS_REV", account="NEW-REV", valid_from=date(2026, 8, 16))])
    rows = [charge(f"e{day}", day, effective_on=date(2026, 8, day)) for day in (1, 15, 16, 31)]
    credits = post(*rows, by=by).deltas.filter(side="C").select("account_code", "amount_minor", "period").rows()
    assert credits == [("GL-GROSS_REV", 16, "2026-08"), ("NEW-REV", 47, "2026-08")]


def test_posting_currencies_and_entities_are_never_added_up():
    """Amounts of two currencies or entities lie in sets of their own."""
    posted = post(charge("e1", 1), charge("e2", 2, currency="EUR"), charge("e3", 4, entity="grace"))
    found = posted.deltas.filter(side="D").select("entity", "currency", "amount_minor").rows()
    assert found == [("grace", "USD", 4), ("mercy", "EUR", 2), ("mercy", "USD", 1)]


def test_posting_set_numbers_go_up_without_gaps_from_the_first():
    """Sets are numbered from the given number on, and sets without lines take no number."""
    rows = [charge(f"e{i}", amount, department=f"d{i}") for i, amount in enumerate([5, 0, 7, 0, 9])]
    posted = post(*rows, first_set_no=40)
    assert posted.deltas["set_no"].unique(maintain_order=True).to_list() == [40, 41, 42]
    assert posted.set_of == {0: 40, 1: -1, 2: 41, 3: -1, 4: 42}


def test_posting_lines_name_role_and_mapping_version():
    """Each line says which role it is and which version of the crosswalk gave its account."""
    crosswalk = Crosswalk()
    crosswalk.apply(3, EVERY_ROLE)
    crosswalk.apply(7, [CrosswalkRow(role="GROSS_REV", account="R2")])
    posted = post(charge("e1"), by=PostingRules(RULEBOOK, crosswalk, OPENS_ON))
    assert lines(posted, "line_no", "role", "account_code", "mapping_version") == [
        (0, "AR_SELF", "GL-AR_SELF", 3),
        (1, "GROSS_REV", "R2", 7),
    ]


def test_posting_two_roles_of_one_account_are_always_in_the_same_order():
    """Sets that differ in nothing but the role behind an account are numbered alike in every run."""
    receivables = [CrosswalkRow(role=role, account="1200") for role in ("AR_INS", "AR_SELF")]
    rows = [charge(f"e{i}", 2**i, counterparty="blue" if i % 2 else None) for i in range(4)]
    for attempt in range(20):
        by = rules_of([*receivables, CrosswalkRow(role="GROSS_REV", account="4000")])
        if attempt % 2:
            post(rows[0], by=by)  # what was posted before has no say
        debits = post(*rows, by=by).deltas.filter(side="D").select("set_no", "role", "amount_minor").rows()
        assert debits == [(0, "AR_INS", 10), (1, "AR_SELF", 5)]


def test_posting_row_order_does_not_change_the_lines():
    """The lines are a function of what the rows say, not of how they lie in the frame."""
    rows = [charge(f"e{i}", i + 1, department=f"d{i % 3}", counterparty="blue" if i % 2 else None) for i in range(12)]
    assert_frame_equal(post(*rows).deltas, post(*reversed(rows)).deltas)


def test_posting_more_places_than_are_remembered_keeps_accounts_right(monkeypatch):
    """Forgetting remembered answers never mixes up the accounts of one call, nor those of the next."""
    monkeypatch.setattr(routes, "ANSWERS_MAX", 2)
    facilities = [f"f{i}" for i in range(9)]
    by = rules_of([*EVERY_ROLE, *(CrosswalkRow(role="CASH", account=f"CASH-{f}", facility=f) for f in facilities)])
    rows = [event(f"e-{f}", "payment_received", i + 1, facility=f) for i, f in enumerate(facilities)]
    expected = [(f, f"CASH-{f}", i + 1) for i, f in enumerate(facilities)]
    for _ in range(3):
        debits = post(*rows, by=by).deltas.filter(side="D").select("facility", "account_code", "amount_minor").rows()
        assert debits == expected


AMOUNTS = st.integers(-(10**12), 10**12)
BILLING = st.builds(
    lambda kind, amount, columns: event(
        "e", kind, amount if RULEBOOK.kind[kind].sign == "any" else abs(amount), reason="x", **columns
    ),
    st.sampled_from(BILLING_KINDS),
    st.one_of(AMOUNTS, st.just(0)),
    st.fixed_dictionaries(
        {
            "entity": st.sampled_from(["mercy", "grace"]),
            "facility": st.sampled_from(["north", "south"]),
            "department": st.sampled_from([None, "lab", "surgery"]),
            "counterparty": st.sampled_from([None, "blue"]),
            "currency": st.sampled_from(["USD", "EUR"]),
            "effective_on": st.dates(date(2026, 5, 1), date(2026, 10, 1)),
        }
    ),
)


def naive_balances(rows: list[dict]) -> Mapping[tuple, int]:
    """Debits less credits by entity, currency, period and account, one row at a time."""
    net: Counter[tuple] = Counter()
    for row in rows:
        period = max(row["effective_on"], OPENS_ON[row["entity"]]).strftime("%Y-%m")
        for pair in RULEBOOK.kind[row["kind"]].post:
            for role, sign in ((pair.debit, 1), (pair.credit, -1)):
                named = ("AR_INS" if row["counterparty"] else "AR_SELF") if role == "AR" else role
                net[row["entity"], row["currency"], period, f"GL-{named}"] += sign * row["amount_minor"]
    return {key: amount for key, amount in net.items() if amount}


@settings(max_examples=50)
@given(rows=st.lists(BILLING, min_size=1, max_size=12))
def test_posting_random_rows_sum_as_one_by_one(rows):
    """Whatever is posted, the columns' sums are those of a row-by-row sum, and each set balances by itself."""
    posted = post(*(row | {"event_id": f"e{i}"} for i, row in enumerate(rows)))
    signed = posted.deltas.with_columns(net=pl.when(side="D").then("amount_minor").otherwise(-pl.col("amount_minor")))
    assert set(signed.group_by("set_no").agg(pl.col("net").sum())["net"]) <= {0}
    sums = signed.group_by("entity", "currency", "period", "account_code").agg(pl.col("net").sum())
    assert {tuple(key): net for *key, net in sums.rows() if net} == naive_balances(rows)
    assert sorted(posted.set_of) == list(range(len(rows)))


DISPUTED = """
[table.dispute_reason]
codes = { price = "short", silence = "unpaid" }
[kind.claim_disputed]
flow = "x"
scope = "entity"
classify = "dispute_reason"
[kind.claim_disputed.case.short]
mode = "summary"
post = [{ debit = "AR_INS", credit = "AR_INS", variance = "short" }]
[kind.claim_disputed.case.unpaid]
mode = "summary"
post = [{ debit = "AR_INS", credit = "AR_INS", variance = "unpaid" }]
"""


def test_posting_rules_that_differ_in_their_variance_alone_have_a_stable_order():
    """Sets of the same accounts are numbered by their variances, in whatever order their cells come: a replay must
    number them alike."""
    crosswalk = Crosswalk()
    crosswalk.apply(1, EVERY_ROLE)
    rulebook = parse_rulebook(STANDARD + DISPUTED)
    vocabulary = schema.Vocabulary(kinds=rulebook.kind_terms(), entities=ENTITIES)
    rows = [event(f"e{i}", "claim_disputed", i + 1, reason="price" if i % 2 else "silence") for i in range(2)]
    found = []
    for order in (rows, rows[::-1]):
        by = PostingRules(rulebook, crosswalk, OPENS_ON)
        events = stamped(*order, vocabulary=vocabulary).with_columns(was=pl.lit(None, pl.String()))
        case = pl.when(pl.col("reason") == "price").then(pl.lit("short")).otherwise(pl.lit("unpaid"))
        rule = pl.concat_str(pl.lit("claim_disputed/"), case)
        cells = celled(events, by.told_apart | {"reason": {"claim_disputed"}})
        for frame in (cells.frame, cells.frame.reverse()):
            ruled = cells._replace(frame=frame.with_columns(rule.alias("rule")))
            found.append(by.post(by.measured(ruled, events, {}).frame, 0).deltas.rows())
    assert found[1:] == found[:-1]
    assert [line[list(DELTAS).index("variance")] for line in found[0]] == ["short", "", "unpaid", ""]
