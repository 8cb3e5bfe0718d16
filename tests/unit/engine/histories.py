"""Histories of all flows, drawn at random: rows that may come in any order and end alike.

Owns what is left out, as it depends on the order by design: more consumers than an item has room for (first come,
first served), payments of bills whose match fails in the end (a payment that came before the hold has gone), and bills
that look alike (the later one is marked). Bills of one supplier are therefore weeks apart here.
"""

from datetime import date, timedelta

from hypothesis import strategies as st
from unit.engine.builders import BILLING_KINDS, DAY_MS, NOW_MS, RULEBOOK, event

NEVER_TIES_MINOR = 10**9  # more than all members of a group together
CLASSES = {"CO-45": "contractual", "PR-1": "patient", "CO-97": "denial", "OA-23": "prior_payer"}
REASONS = {"CHARITY": "charity", "SMALL_BALANCE": "administrative", "DENIAL": "denial"}
ESTIMATES = {"CONTRACTUAL": "contractual", "PRICE_CONCESSION": "price_concession", "DENIAL": "denial"}
CODES = ("WO", "FB", "72", "L6")
HOLDS = ("approval", "match_failed_quantity:0", "match_failed_receipt:0")
PRICE_MINOR = 7
UNIT = 1000
FIRST_BILL = date(2026, 8, 1)

cents, signed_cents = st.integers(0, 5_000), st.integers(-5_000, 5_000)
units, some_units = st.sampled_from((4, 7, 12, 1, 0)), st.sampled_from((7, 12, 4, 1))


def sometimes(draw) -> bool:
    """One time in four."""
    return draw(st.integers(0, 3)) == 0


def net_minor(rows: list[dict]) -> int:
    """What the members of a group add up to."""
    refs = ((RULEBOOK.kind[row["kind"]].links, row["amount_minor"]) for row in rows)
    return sum(links.member_of.sign * amount for links, amount in refs if links and links.member_of)


def _lacking(draw, rows: list[dict], *kinds: str) -> list[dict]:
    """At times without all rows of one of these kinds."""
    lacking = draw(st.sampled_from((None, None, *kinds)))
    return [row for row in rows if row["kind"] != lacking]


# ── billing ────────────────────────────────────────────────────────────────────────────────────────────────────────


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


@st.composite
def approvals(draw, name: str) -> list[dict]:
    """A write-off and a true-up, signed by one or two persons, and what becomes of debts."""
    rows = []
    for ask, sign, reasons in (
        ("write_off_requested", "write_off_approved", REASONS),
        ("true_up_requested", "true_up_approved", ESTIMATES),
    ):
        amount, columns = draw(cents), {"document": f"{name}-{ask}", "reason": draw(st.sampled_from(sorted(reasons)))}
        person = draw(st.sampled_from(("Ann", "Bob", "Bob", "")))
        rows.append(event(f"{name}-{ask}", ask, amount, person="Ann", **columns))
        signed = columns | {"reason": draw(st.sampled_from(sorted(reasons)))} if sometimes(draw) else columns
        rows.append(event(f"{name}-{sign}", sign, amount, person=person, **signed))
    rows.append(event(f"{name}-bad", "bad_debt_transferred", draw(cents)))
    rows.append(event(f"{name}-back", "bad_debt_recovered", draw(cents)))
    return _lacking(draw, rows, "write_off_requested", "write_off_approved", "true_up_requested")


# ── cards ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sale(draw, name: str, payout: str) -> list[dict]:
    amount, kept = draw(cents), draw(cents)
    parts = (min(kept, amount), max(amount - kept, 0))
    account, captured = draw(st.sampled_from(("token-1", "token-1", None))), draw(st.sampled_from(("token-1", None)))
    return [
        event(f"{name}-auth", "card_authorised", amount, document=f"{name}-a"),
        event(
            f"{name}-capture", "card_captured", amount, document=f"{name}-c", reference=f"{name}-a", account=captured
        ),
        *(
            event(
                f"{name}-settle{number}",
                "card_settled",
                part,
                document=f"{name}-c",
                reference=payout,
                account=account,
            )
            for number, part in enumerate(parts)
        ),
        event(f"{name}-fee", "card_fee_charged", draw(cents), document=f"{name}-f", reference=payout),
    ]


def _refund(draw, name: str, payout: str) -> list[dict]:
    amount, refund = draw(cents), {"document": f"{name}-r"}
    rows = [
        event(f"{name}-request", "refund_requested", amount, person="Ann", **refund),
        event(
            f"{name}-approve", "refund_approved", amount, person=draw(st.sampled_from(("Bob", "Bob", "Ann"))), **refund
        ),
    ]
    ways = (("refund_paid", payout, "CARD_EXPIRED"), ("refund_paid_by_check", f"{name}-chk", "CHECK_RETURNED"))
    kind, reference, failure = draw(st.sampled_from(ways))
    rows.append(event(f"{name}-refund", kind, amount, reference=reference, **refund))
    if sometimes(draw):
        rows.append(event(f"{name}-failed", "refund_failed", amount, reason=failure, **refund))
    return rows


def _dispute(draw, name: str, payout: str) -> list[dict]:
    amount, ending = draw(cents), draw(st.sampled_from(("open", "won", "lost")))
    rows = [
        event(f"{name}-open", "chargeback_opened", amount, document=f"{name}-d", reference=payout),
        event(f"{name}-cost", "chargeback_fee_charged", draw(cents), document=f"{name}-d", reference=payout),
    ]
    if ending != "open":
        rows.append(event(f"{name}-end", f"chargeback_{ending}", amount, document=f"{name}-d", reference=payout))
    return rows


def _reserve(draw, name: str, payout: str) -> list[dict]:
    kind = draw(st.sampled_from(("reserve_held", "reserve_released")))
    return [event(f"{name}-{kind}", kind, draw(cents), document=f"{name}-v", reference=payout)]


@st.composite
def payout(draw, name: str) -> list[dict]:
    """A payout that ties or does not, with what opens things lacking at times."""
    reference = f"{name}-p"
    rows = []
    parts = st.lists(st.sampled_from((_sale, _refund, _dispute, _reserve)), min_size=1, max_size=3)
    for number, part in enumerate(draw(parts)):
        rows += part(draw, f"{name}{number}", reference)
    total = net_minor(rows) + draw(st.sampled_from((0, 0, NEVER_TIES_MINOR)))
    banked = total + draw(st.sampled_from((0, 0, 1)))
    rows.append(event(f"{name}-payout", "payout_paid", total, document=reference))
    rows.append(event(f"{name}-bank", "deposit_received", banked, document=f"{name}-b", reference=reference))
    openers = ("card_authorised", "card_captured", "refund_requested", "refund_approved", "payout_paid")
    return _lacking(draw, rows, *openers, "deposit_received")


# ── claims and remittances ─────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def remittance(draw, name: str) -> list[dict]:
    """Claims, adjustments, provider adjustments, a header, and its money: by trace, by check, or without a trace."""
    reference, trace, payer = f"{name}-era", f"{name}-trn", draw(st.sampled_from(("blue", "aetna")))
    rows = []
    for number in range(draw(st.integers(1, 3))):
        claim = {"document": f"{name}-clm{number}", "counterparty": payer}
        if not sometimes(draw):
            rows.append(event(f"{name}-sub{number}", "claim_submitted", draw(cents), **claim))
        if sometimes(draw):
            rows.append(event(f"{name}-exp{number}", "claim_expected", draw(cents), **claim))
        claim["reference"] = reference
        first, second = draw(signed_cents), draw(signed_cents)
        rows.append(event(f"{name}-paid{number}", "claim_paid", first, **claim))
        if draw(st.booleans()):
            again = draw(st.sampled_from((first, second)))
            rows.append(event(f"{name}-more{number}", "claim_paid", again, **claim))
        code = draw(st.sampled_from(sorted(CLASSES)))
        rows.append(event(f"{name}-adj{number}", "claim_adjusted", draw(signed_cents), reason=code, **claim))
        rows.append(event(f"{name}-seen{number}", "claim_adjudicated", reason="1", **claim))
    plb = {"reference": reference, "counterparty": payer, "reason": draw(st.sampled_from(CODES))}
    rows.append(event(f"{name}-plb", "provider_adjusted", draw(signed_cents), **plb))
    total = net_minor(rows) + draw(st.sampled_from((0, 0, NEVER_TIES_MINOR)))
    header = {"document": reference, "reference": trace, "counterparty": payer}
    rows.append(event(f"{name}-header", "remittance_received", total, **header))
    banked = total + draw(st.sampled_from((0, 0, 1)))
    rows += draw(st.sampled_from((_eft, _check, _untraced)))(name, banked, payer)
    return _lacking(draw, rows, "remittance_received", "eft_received", "lockbox_deposited")


def _eft(name: str, banked: int, payer: str) -> list[dict]:
    return [event(f"{name}-eft", "eft_received", banked, document=f"{name}-b", reference=f"{name}-trn")]


def _check(name: str, banked: int, payer: str) -> list[dict]:
    box, amount = f"{name}-box", abs(banked)
    check = {"document": f"{name}-chk", "reference": f"{name}-trn", "correlation_id": box}
    return [
        event(f"{name}-check", "check_deposited", amount, **check),
        event(f"{name}-lockbox", "lockbox_deposited", amount, document=box),
    ]


def _untraced(name: str, banked: int, payer: str) -> list[dict]:
    return [event(f"{name}-untraced", "untraced_eft_received", banked, document=f"{name}-b", counterparty=payer)]


@st.composite
def lookalikes(draw, name: str) -> list[dict]:
    """Remittances of one payer and money without a trace, all of one amount, as many of the one as of the other or not:
    what fits several is nobody's."""
    amount, payer, rows = draw(st.integers(1, 5_000)), {"counterparty": "blue"}, []
    for number in range(draw(st.integers(1, 2))):
        era = f"{name}-era{number}"
        header = {"document": era, "reference": f"{name}-trn{number}"}
        rows.append(event(f"{name}-header{number}", "remittance_received", amount, **header, **payer))
        claim = {"document": f"{name}-clm{number}", "reference": era}
        rows.append(event(f"{name}-paid{number}", "claim_paid", amount, **claim, **payer))
    for number in range(draw(st.integers(1, 2))):
        money = {"document": f"{name}-b{number}"}
        rows.append(event(f"{name}-money{number}", "untraced_eft_received", amount, **money, **payer))
    return rows


@st.composite
def takeback(draw, name: str) -> list[dict]:
    """A payer's letter, approved or not, and a refund by check."""
    payer, amount = draw(st.sampled_from(("blue", "aetna"))), draw(cents)
    letter = {"document": f"{name}-fcn", "counterparty": payer}
    rows = [
        event(f"{name}-letter", "takeback_letter_received", amount, person="Ann", **letter),
        event(f"{name}-signed", "takeback_approved", amount, person="Bob", **letter),
        event(f"{name}-refund", "payer_refunded", draw(cents), document=f"{name}-chk", counterparty=payer),
    ]
    return _lacking(draw, rows, "takeback_letter_received", "takeback_approved", "payer_refunded")


@st.composite
def intercompany(draw, name: str) -> list[dict]:
    """A remittance of which a part belongs to the other entity, whose claims are that part or are not."""
    ours, theirs = draw(cents), draw(cents)
    era = {"reference": f"{name}-era", "facility": None}
    header = {"document": f"{name}-era", "reference": f"{name}-trn", "facility": None}
    other = theirs + draw(st.sampled_from((0, 0, NEVER_TIES_MINOR)))
    share = {"document": f"{name}-era/grace", "counterparty": "grace"}
    rows = [
        event(f"{name}-header", "remittance_received", ours + theirs, counterparty="blue", **header),
        event(f"{name}-ours", "claim_paid", ours, document=f"{name}-c1", **era),
        event(f"{name}-theirs", "claim_paid", other, document=f"{name}-c2", entity="grace", **era),
        event(f"{name}-share", "intercompany_share", theirs, **share, **era),
        event(f"{name}-eft", "eft_received", ours + theirs, document=f"{name}-b", reference=f"{name}-trn"),
    ]
    return _lacking(draw, rows, "remittance_received", "intercompany_share")


# ── purchasing ─────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def purchase(draw, name: str) -> list[dict]:
    """An order's line with receipts, returns, uses, bills and credit memos, in quantities that may fail."""
    supplier, line = f"{name}-acme", f"{name}-PO/1"
    ordered = draw(some_units)
    at_line = {"reference": line}
    rows = [
        event(
            f"{name}-order",
            "po_line_approved",
            ordered * PRICE_MINOR,
            document=line,
            counterparty=supplier,
            quantity=ordered * UNIT,
            attributes={"price_minor": PRICE_MINOR, "bill_only": sometimes(draw)},
        )
    ]
    kinds = ("goods_received", "goods_received", "goods_returned", "goods_accepted", "implant_used", "implant_wasted")
    for number, kind in enumerate(draw(st.lists(st.sampled_from(kinds), max_size=4))):
        named = f"{name}-{kind}{number}"
        rows.append(event(named, kind, document=named, quantity=draw(units) * UNIT, **at_line))
        if kind == "implant_used" and not sometimes(draw):
            charge = {"document": f"{named}-ch", "reference": named, "quantity": rows[-1]["quantity"]}
            rows.append(event(f"{named}-charge", "implant_charged", draw(cents), **charge))
    for number in range(draw(st.integers(0, 2))):
        rows += _bill(draw, f"{name}-n{number}", supplier, line, FIRST_BILL + timedelta(days=20 * number))
    return _lacking(draw, rows, "po_line_approved")


def _bill(draw, name: str, supplier: str, line: str, on: date) -> list[dict]:
    """A bill or a credit memo of one line of an order and one without, which adds up or does not."""
    kind = draw(st.sampled_from(("invoice", "invoice", "credit_memo")))
    key, columns = f"{supplier}/{name}", {"effective_on": on, "counterparty": supplier}
    quantity = draw(units)
    amounts = (quantity * PRICE_MINOR + draw(st.sampled_from((0, 0, 3))), draw(cents))
    lines = [
        event(
            f"{name}-{at}",
            f"{kind}_line_billed",
            amounts[at],
            document=f"{key}/{at}",
            correlation_id=key,
            **columns,
            **({"reference": line, "quantity": quantity * UNIT} if at == 0 else {}),
        )
        for at in range(2)
    ]
    tax = draw(st.integers(0, 40))
    total = sum(amounts) + tax + draw(st.sampled_from((0, 0, 0, NEVER_TIES_MINOR)))
    if kind == "invoice" and sometimes(draw):
        hold, person = draw(st.sampled_from(HOLDS)), draw(st.sampled_from(("Ann", "Ann", "")))
        lines.append(event(f"{name}-let", "hold_released", document=key, reason=hold, person=person))
    return [
        event(f"{name}-head", f"{kind}_received", total, document=key, attributes={"tax_minor": tax}, **columns),
        *lines,
    ]


@st.composite
def payables(draw, name: str) -> list[dict]:
    """A bill without an order, approved by somebody or not, paid in parts, with discount, return and confirmation."""
    supplier, discount = f"{name}-acme", draw(st.integers(0, 30))
    key, first, second = f"{supplier}/1", draw(st.integers(30, 900)), draw(cents)
    columns = {"counterparty": supplier}
    pay, bank = {"reference": key}, {"reference": f"{name}-P1"}
    rows = [
        event(f"{name}-head", "invoice_received", first + second, document=key, **columns),
        event(
            f"{name}-line", "invoice_line_billed", first + second, document=f"{key}/1", correlation_id=key, **columns
        ),
        _approval(draw, name, key),
        event(
            f"{name}-pay1",
            "payment_released",
            first,
            document=f"{name}-P1",
            attributes={"discount_minor": discount},
            **pay,
        ),
        event(f"{name}-pay2", "payment_released", second, document=f"{name}-P2", **pay),
        event(f"{name}-clear", "payment_cleared", first - discount, document=f"{name}-st", **bank),
        event(f"{name}-confirm", "payment_confirmed", first, document=f"{name}-cf", correlation_id=key, **bank),
    ]
    if sometimes(draw):
        back = {"document": f"{name}-rt", "reference": f"{name}-P2", "correlation_id": key}
        rows.append(event(f"{name}-return", "payment_returned", second, **back))
    return _lacking(draw, rows, "invoice_received", "invoice_approved", "hold_released", "payment_cleared")


@st.composite
def payment_run(draw, name: str) -> list[dict]:
    """Two bills of one payment, which the bank pays by its sum, of which some comes back, and which is confirmed."""
    rows, number = [], {"reference": f"{name}-run"}
    amounts, discount = (draw(st.integers(30, 900)), draw(st.integers(30, 900))), draw(st.integers(0, 30))
    for at, amount in enumerate(amounts):
        key, columns = f"{name}-s{at}/1", {"counterparty": f"{name}-s{at}"}
        line = {"document": f"{key}/1", "correlation_id": key}
        pay = {"document": f"{name}-run", "reference": key, "attributes": {"discount_minor": discount}}
        rows += [
            event(f"{name}-head{at}", "invoice_received", amount, document=key, **columns),
            event(f"{name}-line{at}", "invoice_line_billed", amount, **line, **columns),
            event(f"{name}-ok{at}", "invoice_approved", document=key, person="Ann"),
            event(f"{name}-pay{at}", "payment_released", amount, **pay),
        ]
        if draw(st.booleans()):
            back = {"document": f"{name}-rt{at}", "correlation_id": key}
            rows.append(event(f"{name}-return{at}", "payment_returned", amount - discount, **back, **number))
    cleared = sum(amounts) - 2 * discount + draw(st.sampled_from((0, 0, 0, 1)))
    rows.append(event(f"{name}-clear", "payment_cleared", cleared, document=f"{name}-st", **number))
    rows.append(event(f"{name}-confirm", "payment_confirmed", sum(amounts), document=f"{name}-cf", **number))
    return _lacking(draw, rows, "invoice_approved", "payment_cleared", "payment_confirmed")


def _approval(draw, name: str, key: str) -> dict:
    """Of a bill: as such, or as the release of that hold."""
    kind, reason = draw(st.sampled_from((("invoice_approved", None), ("hold_released", "approval"))))
    return event(f"{name}-ok", kind, document=key, reason=reason, person=draw(st.sampled_from(("Ann", "Ann", ""))))


@st.composite
def lab(draw, name: str) -> list[dict]:
    """Tests ordered, billed and charged, as often as each other or not."""
    key, supplier, tests = f"{name}-acc/80053", f"{name}-lab", draw(some_units)
    bill, billed, charged = f"{supplier}/1", draw(st.sampled_from((1, tests))), draw(st.sampled_from((1, tests)))
    line = {"document": f"{bill}/1", "reference": key, "correlation_id": bill, "counterparty": supplier}
    charge = {"document": f"{name}-ch", "reference": key, "quantity": charged * UNIT}
    rows = [
        event(
            f"{name}-ask",
            "lab_ordered",
            tests * PRICE_MINOR,
            document=key,
            counterparty=supplier,
            quantity=tests * UNIT,
            attributes={"price_minor": PRICE_MINOR},
        ),
        event(f"{name}-head", "invoice_received", billed * PRICE_MINOR, document=bill, counterparty=supplier),
        event(f"{name}-line", "lab_line_billed", billed * PRICE_MINOR, quantity=billed * UNIT, **line),
        event(f"{name}-charge", "lab_charged", draw(cents), **charge),
    ]
    return _lacking(draw, rows, "lab_ordered", "lab_line_billed", "lab_charged")


@st.composite
def notices(draw, name: str) -> list[dict]:
    """Messages about claims, and events of no flow: the bank's, statements, estimates, accruals, announcements."""
    claim, rows = {"document": f"{name}-clm", "reason": "x"}, []
    messages = (
        "acknowledged",
        "accepted",
        "rejected",
        "denied",
        "appealed",
        "reversed",
        "corrected",
        "status_reported",
    )
    for number, message in enumerate(draw(st.lists(st.sampled_from(messages), max_size=4))):
        late = {"occurred_at": NOW_MS + draw(st.integers(0, 3)) * DAY_MS}
        rows.append(event(f"{name}-m{number}", f"claim_{message}", **claim, **late))
    kinds = ("bank_credit_received", "bank_debit_made", "service_accrued", "statement_issued", "contractual_estimated")
    for number, kind in enumerate(draw(st.lists(st.sampled_from((*kinds, "credit_balance_moved")), max_size=4))):
        rows.append(event(f"{name}-n{number}", kind, draw(cents), document=f"{name}-{number}"))
    rows.append(event(f"{name}-d", "despatch_announced", document=f"{name}-d", reference="PO", quantity=UNIT))
    rows.append(event(f"{name}-no", "invoice_rejected", document=f"{name}-i", reason="x"))
    rows.append(event(f"{name}-999", "batch_acknowledged", document=f"{name}-b", reason="A"))
    fault = draw(st.sampled_from(("not_edi", "claim_unbalanced")))
    rows.append(event(f"{name}-q", "document_quarantined", document=f"{name}-q", reason=fault))
    return rows


FLOWS = (
    notices,
    approvals,
    payout,
    remittance,
    lookalikes,
    takeback,
    intercompany,
    purchase,
    payables,
    payment_run,
    lab,
)
