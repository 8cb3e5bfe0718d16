"""What holds for every history: order, repeats, the cutting of steps and restarts change nothing in the end."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from itertools import groupby
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.builders import BILLING_KINDS, DAY_MS, MAPPING, NOW_MS, RULEBOOK, Run, event, events, mapping, tick

from runtime.ports import LogRecord

NEVER_TIES_MINOR = 10**9  # more than all members of a payout together
LATE_ROLES = ("MERCHANT_FEES", "CONTRACTUAL", "AR_INS")
EARLY_MAPPING = [row for row in MAPPING if row["role"] not in LATE_ROLES]
LATE_MAPPING = [row for row in MAPPING if row["role"] in LATE_ROLES]
CLASSES = {"CO-45": "contractual", "PR-1": "patient", "CO-97": "denial", "OA-23": "prior_payer"}
ACTUAL_ROLES = {"CONTRACTUAL_AT_REMIT": "CONTRACTUAL", "PROVIDER_ADJUSTMENT": "PAYER_TAKEBACK"}
OPENERS = ("card_authorised", "card_captured", "refund_approved", "payout_paid", "deposit_received")
DEADLINE_FREE = settings(max_examples=15, deadline=None)

cents, signed_cents = st.integers(0, 5_000), st.integers(-5_000, 5_000)
choices = st.randoms(use_true_random=False)
Item = dict | LogRecord  # a row, or a control message


# ── histories ──────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def billing(draw, name: str) -> list[dict]:
    """Charges, corrections, transfers and payments of two entities."""
    rows = []
    for number in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(BILLING_KINDS))
        sign = draw(st.sampled_from((1, -1))) if RULEBOOK.kind[kind].sign == "any" else 1
        columns = {
            "entity": draw(st.sampled_from(("mercy", "grace"))),
            "facility": draw(st.sampled_from(("north", "south"))),
            "department": draw(st.sampled_from((None, "lab"))),
            "counterparty": draw(st.sampled_from((None, "blue"))),
            "effective_on": draw(st.sampled_from((date(2020, 2, 29), date(2026, 7, 31), date(2026, 9, 21)))),
        }
        rows.append(event(f"{name}-b{number}", kind, sign * draw(cents), reason="x", **columns))
    return rows


def _sale(draw, name: str, payout: str) -> list[dict]:
    amount, kept = draw(cents), draw(cents)
    parts = (min(kept, amount), max(amount - kept, 0))
    return [
        event(f"{name}-auth", "card_authorised", amount, document=f"{name}-a"),
        event(f"{name}-capture", "card_captured", amount, document=f"{name}-c", reference=f"{name}-a"),
        *(
            event(f"{name}-settle{number}", "card_settled", part, document=f"{name}-c", reference=payout)
            for number, part in enumerate(parts)
        ),
        event(f"{name}-fee", "card_fee_charged", draw(cents), document=f"{name}-f", reference=payout),
    ]


def _refund(draw, name: str, payout: str) -> list[dict]:
    amount = draw(cents)
    return [
        event(f"{name}-approve", "refund_approved", amount, document=f"{name}-r"),
        event(f"{name}-refund", "refund_paid", amount, document=f"{name}-r", reference=payout),
    ]


def _dispute(draw, name: str, payout: str) -> list[dict]:
    amount, ending = draw(cents), draw(st.sampled_from(("open", "won", "lost")))
    rows = [
        event(f"{name}-open", "chargeback_opened", amount, document=f"{name}-d", reference=payout),
        event(f"{name}-cost", "chargeback_fee_charged", draw(cents), document=f"{name}-d", reference=payout),
    ]
    if ending != "open":
        rows.append(event(f"{name}-end", f"chargeback_{ending}", amount, document=f"{name}-d", reference=payout))
    return rows


def _net_minor(rows: list[dict]) -> int:
    refs = ((RULEBOOK.kind[row["kind"]].links, row["amount_minor"]) for row in rows)
    return sum(links.member_of.sign * amount for links, amount in refs if links.member_of)


@st.composite
def payout(draw, name: str) -> list[dict]:
    """A payout of a few sales, refunds and disputes that ties or does not, with what opens things lacking at times."""
    reference = f"{name}-p"
    rows = []
    for number, part in enumerate(draw(st.lists(st.sampled_from((_sale, _refund, _dispute)), min_size=1, max_size=3))):
        rows += part(draw, f"{name}{number}", reference)
    total = _net_minor(rows) + draw(st.sampled_from((0, 0, NEVER_TIES_MINOR)))
    banked = total + draw(st.sampled_from((0, 0, 1)))
    rows.append(event(f"{name}-payout", "payout_paid", total, document=reference))
    rows.append(event(f"{name}-bank", "deposit_received", banked, document=f"{name}-b", reference=reference))
    lacking = draw(st.sampled_from((None, None, *OPENERS)))
    return [row for row in rows if row["kind"] != lacking]


@st.composite
def remittance(draw, name: str) -> list[dict]:
    """A remittance of a few claims, their adjustments and a forwarded balance, with its header and its money."""
    reference, trace = f"{name}-era", f"{name}-trn"
    rows = []
    for number in range(draw(st.integers(1, 3))):
        claim = {"document": f"{name}-clm{number}", "reference": reference}
        rows.append(event(f"{name}-paid{number}", "claim_paid", draw(signed_cents), **claim))
        code = draw(st.sampled_from(sorted(CLASSES)))
        rows.append(event(f"{name}-adj{number}", "claim_adjusted", draw(signed_cents), reason=code, **claim))
    rows.append(event(f"{name}-plb", "provider_adjusted", draw(signed_cents), reference=reference, reason="FB"))
    total = _net_minor(rows) + draw(st.sampled_from((0, 0, NEVER_TIES_MINOR)))
    banked = total + draw(st.sampled_from((0, 0, 1)))
    rows.append(event(f"{name}-header", "remittance_received", total, document=reference, reference=trace))
    rows.append(event(f"{name}-eft", "eft_received", banked, document=f"{name}-b", reference=trace))
    lacking = draw(st.sampled_from((None, None, "remittance_received", "eft_received")))
    return [row for row in rows if row["kind"] != lacking]


@st.composite
def histories(draw) -> list[Item]:
    """Rows of all kinds and the mapping in two versions, in no order; no row conflicts with another."""
    parts = [draw(billing("x"))]
    for number, flow in enumerate(draw(st.lists(st.sampled_from((payout, remittance)), max_size=2))):
        parts.append(draw(flow(f"y{number}")))
    return [mapping(1, EARLY_MAPPING), *(row for part in parts for row in part), mapping(2, LATE_MAPPING)]


@st.composite
def logs(draw) -> list[LogRecord]:
    """Records in log order, hours apart, with everything that may go wrong: time, repeats, conflicts, excess."""
    items = draw(histories())
    random = draw(choices)
    random.shuffle(items)
    records: list[LogRecord] = []
    for number, part in enumerate(_parts(items, random)):
        now_ms = NOW_MS + number * draw(st.sampled_from((1, 20, 200))) * DAY_MS // 24
        records += _records([*part, *_noise(items, random)], now_ms)
        records.append(tick(now_ms))
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


def naive_accounts(items: Sequence[Item], states: dict[str, str]) -> dict[tuple, int]:
    """Balances of the booked rows, one row and one pair at a time."""
    net: Counter[tuple] = Counter()
    for row in items:
        if not isinstance(row, dict) or states[row["event_id"]] != "booked":
            continue
        kind = RULEBOOK.kind[row["kind"]]
        rule = kind.case[CLASSES[row["reason"]]] if kind.classify else kind
        for pair in rule.post:
            for role, amount in ((pair.debit, row["amount_minor"]), (pair.credit, -row["amount_minor"])):
                payer_role = "AR_INS" if row.get("counterparty") else "AR_SELF"
                named = payer_role if role == "AR" else ACTUAL_ROLES.get(role, role)
                net[row["entity"], row["currency"], f"GL-{named}"] += amount
    return {account: amount for account, amount in net.items() if amount}


# ── what holds ─────────────────────────────────────────────────────────────────────────────────────────────────────


@DEADLINE_FREE
@given(items=histories(), random=choices)
def test_history_in_any_order_with_repeats_ends_alike(items, random):
    """Balances, totals, states and open exceptions are the same in every order of arrival, however often repeated."""
    expected = ran([_records(items)])
    rows = [item for item in items if isinstance(item, dict)]
    shuffled = items + random.choices(rows, k=random.randrange(10)) if rows else list(items)
    random.shuffle(shuffled)
    run = ran([_records(part) for part in _parts(shuffled, random)])
    assert run.end() == expected.end()
    assert run.total("duplicate") == len(shuffled) - len(items)
    assert run.accounts() == naive_accounts(items, run.states())


@DEADLINE_FREE
@given(records=logs(), random=choices)
def test_history_cut_into_other_steps_ends_alike(records, random):
    """The same records in other steps add up to the same balances, totals, states and open exceptions."""
    together, apart = ran([records]), ran([[record] for record in records])
    cut = ran(_parts(records, random))
    assert together.end() == apart.end() == cut.end()
    assert together.totals == apart.totals


@DEADLINE_FREE
@given(records=logs(), random=choices)
def test_history_in_the_same_steps_has_equal_digests(records, random):
    """The effects are a function of the steps: two shards commit the same, byte for byte."""
    steps = _parts(records, random)
    assert ran(steps).digests == ran(steps).digests


@DEADLINE_FREE
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
