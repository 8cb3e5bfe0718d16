"""Stories whose keys meet by other means than one row's links: purchasing, what one entity receives for another, and
what people say of bank money.

Owns what belongs together in them, and what is a little wrong now and then.
"""

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from simulation.workload.rows import DAYS_BACK, ENTITIES, PARTNERS, PERSONS, TODAY, Row

if TYPE_CHECKING:
    from simulation.workload.stories import Stories

SUPPLIERS = ("acme", "acme", "globex")
LINES_MAX = 3
MISNAMED = 0.1  # of billed lines: the supplier may be another one than the order's
DENIED = ("CO-50", "CO-50", "CO-50", "CO-97")
ADJUSTED = ("CO-45", "CO-253", "PR-1", "CO-50")
HOLDS = ("match_failed_receipt", "match_failed_price", "match_failed_quantity")


class Purchase:
    """One order with its receipts, its bill, its payment, and what is given back."""

    def __init__(self, stories: "Stories") -> None:
        self._stories, self._rng, self._key = stories, stories.rng, stories.maker.key
        self._supplier = self._rng.choice(SUPPLIERS)
        self._rows: list[Row] = []

    def tell(self) -> list[Row]:
        """The rows in their usual order, or with the bill before the goods."""
        lines = [self._order(f"{self._key('po')}/{n}") for n in range(self._rng.randrange(1, LINES_MAX + 1))]
        receipts_first = self._rng.random() < 0.7
        if receipts_first:
            self._receive(lines)
        bill, total = self._bill(lines)
        if not receipts_first:
            self._receive(lines)
        self._approve(bill)
        self._pay(bill, total)
        if self._rng.random() < 0.4:
            self._give_back(bill, lines)
        return self._rows

    def _add(self, kind: str, amount: int, **columns: object) -> None:
        supplier = self._supplier if self._rng.random() < 0.95 else None
        self._rows.append(self._stories.row(kind, amount, **{"counterparty": supplier, **columns}))

    def _order(self, key: str) -> tuple[str, int, int]:
        """A line; its key, its quantity, its price in minor units."""
        quantity, price = self._rng.randrange(1, 20) * 1000, self._rng.randrange(1, 5_000)
        by_amount = self._rng.random() < 0.1
        given = {"quantity": 0} if by_amount else {"quantity": quantity}
        if self._rng.random() < 0.2:
            given["attributes"] = json.dumps({"bill_only": True})
        self._add("po_line_approved", quantity * price // 1000, document=key, counterparty=self._supplier, **given)
        return key, quantity, price

    def _part(self, quantity: int) -> int:
        """All of it, some of it, or more."""
        return self._rng.choice((quantity, quantity, quantity, quantity // 2, quantity - 500, quantity + 1000))

    def _receive(self, lines: list[tuple[str, int, int]]) -> None:
        for key, quantity, price in lines:
            for kind, share in (("goods_received", 0.9), ("goods_accepted", 0.2), ("goods_returned", 0.1)):
                if self._rng.random() >= share:
                    continue
                part = self._part(quantity)
                rejected = {"attributes": json.dumps({"rejected": self._rng.choice((500, 10**9))})}
                given = rejected if kind == "goods_received" and self._rng.random() < 0.2 else {}
                amount = part * price // 1000
                self._add(kind, amount, document=self._key(kind), reference=key, quantity=part, **given)
            if self._rng.random() < 0.2:
                self._use(key, quantity)

    def _use(self, key: str, quantity: int) -> None:
        kind = self._rng.choice(("implant_used", "implant_wasted"))
        self._add(kind, 0, document=self._key("use"), reference=key, quantity=self._part(quantity))

    def _bill(self, lines: list[tuple[str, int, int]]) -> tuple[str, int]:
        """A bill and its lines, which tie; its key and its total."""
        bill, total = f"{self._supplier}/{self._key('inv')}", self._lines("invoice_line_billed", lines)
        for row in self._rows:
            if row["kind"] == "invoice_line_billed" and row["correlation_id"] is None:
                row["correlation_id"] = bill
        tax = self._rng.choice((0, 0, 88))
        total += tax + self._rng.choice((0, 0, 0, 0, 1))
        attributes = json.dumps({"person": self._rng.choice(PERSONS), "tax_minor": tax})
        self._add("invoice_received", total, document=bill, counterparty=self._supplier, attributes=attributes)
        return bill, total

    def _lines(self, kind: str, lines: list[tuple[str, int, int]]) -> int:
        """Lines of a bill or a memo whose key is not told yet; their sum."""
        total = 0
        for key, quantity, price in lines:
            part = self._part(quantity)
            amount = part * (price + self._rng.choice((0, 0, 0, 0, 7, -3))) // 1000
            reference = key if self._rng.random() < 0.9 else None
            given = {"document": self._key(kind), "reference": reference, "quantity": part, "correlation_id": None}
            other = {"counterparty": self._rng.choice(SUPPLIERS)} if self._rng.random() < MISNAMED else {}
            self._add(kind, amount, **given, **other)
            total += amount
        return total

    def _approve(self, bill: str) -> None:
        attributes = json.dumps({"person": self._rng.choice(PERSONS)})
        if self._rng.random() < 0.9:
            self._add("invoice_approved", 0, document=bill, attributes=attributes)
        if self._rng.random() < 0.2:
            objection = self._rng.choice(("rejected", "disputed"))
            self._add(f"invoice_{objection}", 0, document=bill, reason="DAMAGED")
            if self._rng.random() < 0.7:
                hold = {"rejected": "rejection", "disputed": "dispute"}[objection]
                self._add("hold_released", 0, document=bill, reason=hold, attributes=attributes)
        if self._rng.random() < 0.2:
            held = [row["document"] for row in self._rows if row["kind"] == "invoice_line_billed"]
            number = self._rng.choice((f":{self._rng.choice(held)}", ""))
            hold = f"{self._rng.choice(HOLDS)}{number}"
            self._add("hold_released", 0, document=bill, reason=hold, attributes=attributes)

    def _pay(self, bill: str, total: int) -> None:
        payment, amount = self._key("pay"), max(0, total + self._rng.choice((0, 0, 0, 1)))
        first = self._rng.randrange(amount + 1) if self._rng.random() < 0.3 else 0
        for part in (first, amount - first) if first else (amount,):
            self._add("payment_released", part, document=payment, reference=bill)
        if self._rng.random() < 0.8:
            self._add("payment_confirmed", amount, document=self._key("confirm"), reference=payment)
        if self._rng.random() < 0.8:
            self._add("payment_cleared", amount, document=self._key("clear"), reference=payment)
        if self._rng.random() < 0.2:
            keys = {"reference": payment, "correlation_id": bill}
            self._add("payment_returned", amount, document=self._key("return"), **keys)

    def _give_back(self, bill: str, lines: list[tuple[str, int, int]]) -> None:
        memo, total = f"{self._supplier}/{self._key('memo')}", self._lines("credit_memo_line_billed", lines[:1])
        self._rows[-1]["correlation_id"] = memo
        self._add("credit_memo_received", total, document=memo, reference=bill, counterparty=self._supplier)


def purchase(stories: "Stories") -> list[Row]:
    """An order from its approval to its payment."""
    return Purchase(stories).tell()


def intercompany(stories: "Stories") -> list[Row]:
    """A remittance of which a part belongs to another entity, where its claims' payments add up to that part."""
    here, there = stories.rng.sample(sorted(ENTITIES), 2)
    stories.place["entity"] = there
    key = stories.maker.key("remittance")
    theirs = stories.members("remittance", key, apart=("intercompany_share",))
    share = max(0, sum(stories.counted(row, "remittance", key) for row in theirs))
    stories.place["entity"] = here
    ours = stories.members("remittance", key, apart=("intercompany_share",))
    ours.append(
        stories.row("intercompany_share", share, reference=key, counterparty=there, document=stories.maker.key("share"))
    )
    return [*theirs, *ours, *stories.closing("remittance", key, ours)]


def denial(stories: "Stories") -> list[Row]:
    """A claim that a payer denies, for one reason, and takes back, or denies again."""
    rng, key, amount = stories.rng, stories.maker.key("remittance"), stories.rng.randrange(1, 90_000)
    alike = {"document": stories.maker.key("claim"), "counterparty": rng.choice(("blue", "medicaid")), "reference": key}
    signs = rng.choice(((1,), (1, -1), (-1, 1), (1, -1, 1), (1, 1, -1)))
    rows = [stories.row("claim_adjusted", sign * amount, reason=rng.choice(DENIED), **alike) for sign in signs]
    return [*rows, *stories.closing("remittance", key, rows)]


def reversal(stories: "Stories") -> list[Row]:
    """A claim that is paid, reversed and paid anew in remittances of other days, between which mappings may begin."""
    rng, claim, payer = stories.rng, stories.maker.key("claim"), stories.rng.choice(("blue", "medicaid"))
    paid, kept, reason = rng.randrange(1, 90_000), rng.randrange(1, 9_000), rng.choice(ADJUSTED)
    rows = []
    for sign in (1, -1, rng.choice((1, -1)))[: rng.randrange(2, 4)]:
        key, on = stories.maker.key("remittance"), TODAY - timedelta(days=rng.choice(DAYS_BACK))
        alike = {"document": claim, "counterparty": payer, "reference": key, "effective_on": on}
        told = [
            stories.row("claim_paid", sign * paid, **alike),
            stories.row("claim_adjusted", sign * kept, reason=reason, **alike),
        ]
        sent = {"document": key, "counterparty": payer, "effective_on": on}
        rows += [*told, stories.row("remittance_received", sign * paid, **sent)]
    return rows


def batch(stories: "Stories") -> list[Row]:
    """Claims that are sent in batches of one group, of which some are answered, and some claims with them."""
    rng, group, claims = stories.rng, stories.maker.key("group"), [stories.maker.key("claim") for _ in range(3)]
    rows = [
        stories.row("claim_submitted", 100, document=claim, reference=f"{group}/{rng.choice('12')}") for claim in claims
    ]
    if rng.random() < 0.3:
        rows.append(stories.row("claim_accepted", 0, document=claims[0]))
    for _ in range(rng.randrange(1, 3)):
        answered = {"document": f"{group}/{rng.choice('12*')}", "reason": rng.choice("ARRP")}
        rows.append(stories.row("batch_acknowledged", 0, **answered))
    return rows


def application(stories: "Stories") -> list[Row]:
    """Bank money of which somebody says to which remittances it belongs, all of it, or a cent too much."""
    rng, deposit, rows = stories.rng, stories.maker.key("deposit"), []
    for _ in range(rng.randrange(1, 3)):
        amount, key, trace = rng.randrange(1, 90_000), stories.maker.key("remittance"), stories.maker.key("trace")
        payer = rng.choice(("blue", "medicaid"))
        rows += [
            stories.row("claim_paid", amount, reference=key, counterparty=payer),
            stories.row("remittance_received", amount, document=key, reference=trace, counterparty=payer),
            stories.row("cash_applied", amount, reference=trace, counterparty=payer, correlation_id=deposit),
        ]
    total = sum(row["amount_minor"] for row in rows if row["kind"] == "cash_applied") - rng.choice((0, 0, 0, 1))
    kind = rng.choice(("bank_credit_received", "untraced_eft_received"))
    return [stories.row(kind, total, document=deposit), *rows]


def settlement(stories: "Stories") -> list[Row]:
    """A payout's sales as a file tells them, which names nobody; maybe one is applied, or lost in a dispute."""
    rng, key, rows = stories.rng, stories.maker.key("payout"), []
    for _ in range(rng.randrange(1, 4)):
        amount, charge = rng.randrange(1, 90_000), stories.maker.key("charge")
        settled = [amount, *rng.choice(((), (), (-amount,), (-1,)))]
        nobodys = {"document": charge, "reference": key, "account": None, "facility": None}
        rows += [stories.row("card_captured", amount, document=charge) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
        rows += [stories.row("card_settled", part, **nobodys) for part in settled]
        if rng.random() < 0.3:
            asked = {"document": stories.maker.key("asked"), "reason": "R", "correlation_id": charge}
            rows.append(stories.row("cash_application_requested", amount - rng.choice((0, 0, 5, -1)), **asked))
        if rng.random() < 0.2:
            dispute = {"document": stories.maker.key("dispute"), "reference": charge}
            rows.append(
                stories.row("chargeback_opened", amount, **dispute | {"reference": stories.maker.key("payout")})
            )
            rows.append(stories.row("chargeback_lost", amount, **dispute, account=None))
    total = sum(row["amount_minor"] for row in rows if row["kind"] == "card_settled")
    return [*rows, stories.row("payout_paid", total, document=key)]


def retold(stories: "Stories") -> list[Row]:
    """A remittance whose money several sources tell, and call its payer by another name, or by none."""
    rng, key, trace = stories.rng, stories.maker.key("remittance"), stories.maker.key("trace")
    amount, payer = rng.randrange(1, 90_000), rng.choice(PARTNERS)
    rows = [stories.row("eft_received", amount + rng.choice((0, 0, 0, 1)), reference=trace) for _ in range(2)]
    rows = [row | {"counterparty": rng.choice((payer, *PARTNERS, None))} for row in rows]
    rows.append(stories.row("claim_paid", amount, reference=key, counterparty=payer))
    rows.append(stories.row("remittance_received", amount, document=key, reference=trace, counterparty=payer))
    if rng.random() < 0.3:
        rows.append(stories.row("untraced_eft_received", amount, counterparty=rng.choice(PARTNERS)))
    rng.shuffle(rows)
    return rows


FLOWS = {
    "purchase": purchase,
    "intercompany": intercompany,
    "denial": denial,
    "reversal": reversal,
    "batch": batch,
    "application": application,
    "settlement": settlement,
    "retold": retold,
}
