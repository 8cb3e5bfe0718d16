"""What the accounts must hold, one row at a time, from the rows and what became of them: a second, naive model.

Owns no code of the engine: what registers find is added up here from whole histories, not from one event to the next.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from unit.engine.builders import RULEBOOK
from unit.engine.histories import CLASSES, ESTIMATES, PRICE_MINOR, REASONS, UNIT

ACTUAL_ROLES = {
    "CONTRACTUAL_AT_REMIT": "CONTRACTUAL",
    "TAKEBACK_BASIS": "AR_INS",
    "UNCOLLECTIBLE": "IPC_ALLOW",
    "RECEIVED_GOODS": "INVENTORY",
}
TAKEN = {"WO": "PAYER_TAKEBACK", "FB": "PAYER_TAKEBACK", "72": "PAYER_TAKEBACK", "L6": "INTEREST_INCOME"}
TABLES = {
    "claim_adjusted": CLASSES,
    "write_off_approved": REASONS,
    "true_up_approved": ESTIMATES,
    "refund_failed": {"CARD_EXPIRED": "card", "CHECK_RETURNED": "check"},
}
STOCK = {"goods_received": 1, "goods_returned": -1}
BILLS = {"invoice_line_billed": 1, "lab_line_billed": 1, "credit_memo_line_billed": -1}


class Books:
    """Balances by entity, currency and account, added up row by row."""

    def __init__(self, rows: Iterable[dict], states: dict[str, str], *, unapplied: bool, level: str) -> None:
        self._states, self._unapplied, self._level = states, unapplied, level
        self._net: Counter[tuple[str, str, str]] = Counter()
        rows = _owned(list(rows))
        booked = [row for row in rows if states.get(row["event_id"]) == "booked"]
        settled = [row for row in rows if states.get(row["event_id"]) in ("booked", "excluded")]
        for row in booked:
            self._book(row)
        self._divide_claims(booked)
        self._divide_takebacks(booked)
        self._bring_back(booked)
        self._match(settled)

    def accounts(self) -> dict[tuple[str, str, str], int]:
        """Every balance that is not zero."""
        return {account: net for account, net in self._net.items() if net}

    def _add(self, row: dict, role: str, amount: int) -> None:
        payer_role = "AR_INS" if row.get("counterparty") else "AR_SELF"
        named = payer_role if role == "AR" else ACTUAL_ROLES.get(role, role)
        named = TAKEN[row["reason"]] if named == "PROVIDER_ADJUSTMENT" else named
        self._net[row["entity"], row["currency"], f"GL-{named}"] += amount

    def _move(self, row: dict, debit: str, credit: str, amount: int) -> None:
        self._add(row, debit, amount)
        self._add(row, credit, -amount)

    def _book(self, row: dict) -> None:
        """What a row posts when nothing divides it."""
        kind, amount = RULEBOOK.kind[row["kind"]], row["amount_minor"]
        given = row.get("attributes") or ""
        if row["kind"] in ("claim_submitted", *STOCK, *BILLS, "implant_used", "implant_wasted"):
            return
        if row["kind"] in ("invoice_received", "credit_memo_received"):
            tax = int(given.partition('"tax_minor": ')[2].rstrip("}") or 0)
            self._move(row, "TAX", "AP", tax if row["kind"] == "invoice_received" else -tax)
        elif row["kind"] == "payment_released":
            discount = _discount(row)
            self._move(row, "AP", "PAYMENT_CLEARING", amount - discount)
            self._move(row, "AP", "PURCHASE_DISCOUNT", discount)
        else:
            rule = kind.case[_case(row)] if kind.classify else kind
            pairs = rule.post[:1] if rule.measured else rule.post
            for pair in pairs:
                self._move(row, pair.debit, pair.credit, amount)

    def _divide_claims(self, booked: list[dict]) -> None:
        """Money of claims that nobody submitted is unapplied, where the policy says so."""
        if not self._unapplied:
            return
        submitted = {(row["entity"], row["document"]) for row in booked if row["kind"] == "claim_submitted"}
        for row in booked:
            if row["kind"] == "claim_paid" and (row["entity"], row["document"]) not in submitted:
                self._move(row, "AR_INS", "UNAPPLIED_CASH", row["amount_minor"])

    def _divide_takebacks(self, booked: list[dict]) -> None:
        """What a payer took beyond what it announced stands in suspense."""
        standing: Counter[tuple] = Counter()
        by_payer: dict[tuple, dict] = {}
        for row in booked:
            taken = TAKEN.get(row.get("reason")) if row["kind"] == "provider_adjusted" else "PAYER_TAKEBACK"
            if row["kind"] not in ("provider_adjusted", "takeback_approved", "payer_refunded"):
                continue
            payer = (row["entity"], row.get("counterparty"), row["currency"])
            if taken == "PAYER_TAKEBACK":
                sign = 1 if row["kind"] == "takeback_approved" else -1
                standing[payer] += sign * row["amount_minor"]
                by_payer[payer] = row
        for payer, balance in standing.items():
            self._move(by_payer[payer], "SUSPENSE", "PAYER_TAKEBACK", max(0, -balance))

    def _bring_back(self, booked: list[dict]) -> None:
        """What the bank paid and what came back, beyond what was released, is cash again."""
        payments: dict[tuple, list[dict]] = defaultdict(list)
        for row in booked:
            if row["kind"] in ("payment_released", "payment_cleared", "payment_returned"):
                number = row["document"] if row["kind"] == "payment_released" else row["reference"]
                payments[row["entity"], number, row["currency"]].append(row)
        for rows in payments.values():
            sums = Counter()
            for row in rows:
                sums[row["kind"]] += row["amount_minor"] - _discount(row)
            paid, back = sums["payment_cleared"], sums["payment_returned"]
            self._move(
                rows[0], "CASH", "PAYMENT_CLEARING", max(0, min(paid, back, paid + back - sums["payment_released"]))
            )

    def _match(self, settled: list[dict]) -> None:
        """Goods, bills and uses of each order's line as a whole, and bills without an order."""
        lines: dict[tuple, list[dict]] = defaultdict(list)
        for row in settled:
            lines[row["entity"], row.get("reference")].append(row)
        for rows in lines.values():
            self._match_line([row for row in rows if row["kind"] in (*STOCK, *BILLS, "implant_used", "implant_wasted")])

    def _match_line(self, rows: list[dict]) -> None:
        if not rows:
            return
        one = rows[0]
        for row in rows:
            sign = BILLS.get(row["kind"], 0)
            if row["kind"] == "lab_line_billed":
                self._move(row, "PURCHASED_SERVICES", "AP", row["amount_minor"])
            elif sign and (not row.get("reference") or self._level == "2"):
                self._move(row, "PURCHASE_EXPENSE", "AP", sign * row["amount_minor"])
            elif row["kind"].startswith("implant") and self._level != "2":
                self._move(row, "SUPPLY_EXPENSE", "INVENTORY", row["quantity"] // UNIT * PRICE_MINOR)
        if self._level == "2" or not one.get("reference") or one["kind"] == "lab_line_billed":
            return
        stock = sum(STOCK.get(row["kind"], 0) * row["quantity"] // UNIT for row in rows)
        billed = [(BILLS[row["kind"]], row) for row in rows if row["kind"] in BILLS]
        units = sum(sign * row["quantity"] // UNIT for sign, row in billed)
        at_hand = max(0, stock)
        cleared = max(0, min(units, at_hand))
        self._move(one, "INVENTORY", "GRNI", at_hand * PRICE_MINOR)
        self._move(one, "GRNI", "AP", cleared * PRICE_MINOR)
        self._move(one, "INVOICED_NOT_RECEIVED", "AP", (units - cleared) * PRICE_MINOR)
        variance = sum(sign * row["amount_minor"] for sign, row in billed) - units * PRICE_MINOR
        self._move(one, "PPV", "AP", variance)


def _discount(row: dict) -> int:
    """What a payment may pay less."""
    return int((row.get("attributes") or "").partition('"discount_minor": ')[2].rstrip("}") or 0)


def _owned(rows: list[dict]) -> list[dict]:
    """Card money that names no account is its capture's."""
    captured = [row for row in rows if row["kind"] == "card_captured" and row.get("account")]
    owners = {(row["entity"], row["document"]): row["account"] for row in reversed(captured)}
    nobodys = [row["kind"] == "card_settled" and not row.get("account") for row in rows]
    asked = zip(rows, nobodys, strict=True)
    return [row | {"account": owners.get((row["entity"], row["document"]))} if of else row for row, of in asked]


def _case(row: dict) -> str:
    """The class of a row of a classified kind."""
    if row["kind"] in TABLES:
        return TABLES[row["kind"]][row["reason"]]
    return "known" if row["account"] else "unknown"
