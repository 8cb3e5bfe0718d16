"""Claims by number, told anew from all their facts after each of them."""

from collections import Counter
from typing import Any

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000
LIFE = (  # of a claim: what comes earlier on one day does not take back what comes later
    ("submitted",),
    ("acknowledged",),
    ("accepted",),
    ("rejected",),
    ("status",),
    ("adjudicated",),
    ("denied",),
    ("appealed",),
    ("reversed",),
    ("corrected",),
)
AGAIN = LIFE[:4]  # may come once more on one day, after a rejection: there the clock decides, where there is one
REVERSAL = "22"
VARIANCES = ("unpaid", "short_tenth", "short")


class Claims:
    """All facts of each claim, in order."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms, self._accounts, self._asks = terms, accounts, asks
        self._claims: dict[tuple[str, str], Row] = {}
        self._rejections: list[tuple[Row, int]] = []  # of batches, and when they were heard of

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Keep a fact; what it changes of the money that belongs to no claim."""
        if part == "batch_rejected":
            self._reject(row, now_ms)
            return {}
        claim = self._claims.setdefault((row["entity"], key), {"facts": [], "flagged": {}, "touched": 0})
        claim["touched"], before = now_ms, (_unapplied(claim["facts"]), self._missing(claim["facts"]))
        unapplied = part == "paid" and self._accounts.policy("POLICY_UNMATCHED_CLAIM", row, row["effective_on"])
        row = row | {"payer": self._accounts.payer(row)}  # by its usual name of now
        claim["facts"].append((part, row, unapplied == "UNAPPLIED"))
        self._tell(claim, part, row)
        change = _unapplied(claim["facts"]) - before[0]
        self._reflag(claim)
        measures = {"unapplied": change, "identified": -change, **dict.fromkeys(VARIANCES, 0)}
        for sign, (name, amount) in ((-1, before[1]), (1, self._missing(claim["facts"]))):
            measures[name] = measures.get(name, 0) + sign * amount
        return {"measures": measures}

    def _tell(self, claim: Row, part: str, row: Row) -> None:
        """Consumers are told where a claim stands, unless that is older than what they know."""
        name = "reversed" if part == "adjudicated" and row["reason"] == REVERSAL else part
        rank = next((rank for rank, names in enumerate(LIFE) if name in names), -1)
        day, clock = divmod(round(row["occurred_at"].timestamp() * 1000), DAY_MS)
        if clock == 0 and name in ("accepted", "rejected"):
            clock = DAY_MS
        turn = (0, clock, rank) if rank < len(AGAIN) else (rank, clock, 0)
        at = (day, *turn, row["source"], row["event_id"])
        if rank >= 0 and at >= claim.get("at", at):
            claim["at"] = at
            claim["sent"] = row if part == "submitted" else None
            if claim["sent"] and any(self._answers(rejection, row) for rejection, _ in self._rejections):
                claim["sent"], name = None, "batch_rejected"
            self._asks.tell(name, row)

    def _reject(self, row: Row, now_ms: int) -> None:
        """Claims of which nothing newer is known than that they were sent in this batch were not sent."""
        self._rejections.append((row, now_ms))
        for claim in self._claims.values():
            if claim.get("sent") and self._answers(row, claim["sent"]):
                claim["sent"] = None
                self._asks.tell("batch_rejected", row)

    def _answers(self, rejection: Row, sent: Row) -> bool:
        if rejection["entity"] != sent["entity"] or not sent["reference"]:
            return False
        days = [round(one["occurred_at"].timestamp() * 1000) // DAY_MS for one in (sent, rejection)]
        batches = [one.split("/", 1) + [""] for one in (sent["reference"], rejection["document"])]
        same = batches[0][0] == batches[1][0] and batches[1][1] in ("*", batches[0][1])
        return same and days[0] <= days[1] <= days[0] + self._terms.answer_days

    def _reflag(self, claim: Row) -> None:
        wrong, payments = {}, [row for part, row, _ in claim["facts"] if part == "paid"]
        if _unapplied(claim["facts"]):
            wrong[self._terms.unmatched] = _unapplied(claim["facts"])
        if missing := self._missing(claim["facts"])[1]:
            wrong[self._terms.underpaid] = missing
        for type, who in claim["flagged"].items():
            self._asks.end(type, who)
        first = min(payments, key=lambda row: (row["source"], row["event_id"], row["currency"]), default={})
        for type, amount in wrong.items():
            self._asks.flag(type, first, amount)
        claim["flagged"] = dict.fromkeys(wrong, first)

    def _missing(self, facts: list[tuple[str, Row, bool]]) -> tuple[str, int]:
        """What a payer that has paid still owes of the contract's promise, and the name of such a shortfall."""
        promises = sorted((row for part, row, _ in facts if part == "expected"), key=_told_at)
        expected = [row["amount_minor"] for row in promises]
        is_paid = any(part == "paid" for part, _, _ in facts)
        settled: Counter[str] = Counter()
        for part, row, _ in facts:
            if part == "paid" or (part == "adjusted" and self._is_patient(row)):
                settled[row["payer"]] += row["amount_minor"]
        if not expected or not is_paid or max(settled.values()) >= expected[-1]:
            return "", 0
        missing = expected[-1] - max(settled.values())
        if missing >= expected[-1]:
            return "unpaid", missing
        return ("short_tenth" if 10 * missing >= expected[-1] else "short"), missing

    def _is_patient(self, row: Row) -> bool:
        return (row["reason"] or "").startswith(self._terms.patient_codes)

    def age(self, now_ms: int) -> None:
        """Forget what nothing has touched for long and nothing is wrong with."""
        kept_ms = self._terms.keep_days * DAY_MS
        self._rejections = [(row, heard_ms) for row, heard_ms in self._rejections if now_ms - kept_ms <= heard_ms]
        for key, claim in list(self._claims.items()):
            if now_ms - self._terms.keep_days * DAY_MS > claim["touched"] and not claim["flagged"]:
                del self._claims[key]


def _told_at(row: Row) -> tuple:
    return row["occurred_at"], row["source"], row["event_id"]


def _unapplied(facts: list[tuple[str, Row, bool]]) -> int:
    if any(part == "submitted" for part, _, _ in facts):
        return 0
    return sum(row["amount_minor"] for _, row, unapplied in facts if unapplied)
