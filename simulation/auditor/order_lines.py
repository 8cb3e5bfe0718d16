"""Order lines, each matched anew from all of its facts after every one of them, in fractions."""

import re
from fractions import Fraction
from typing import Any, NamedTuple

from runtime.currencies import currency_digits
from simulation.auditor.amounts import attributes_of

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000
LARGEST = 10**12
SIGNS = {"billed": 1, "credited": -1}
TWICE = "duplicate_open_item"
CHECKS = ("price", "amount", "quantity", "receipt", "acceptance")


class Told(NamedTuple):
    """A fact of a line: what it is, how much of the line, and its event."""

    part: str
    quantity: Fraction
    amount: int
    row: Row

    @property
    def place(self) -> tuple:
        """Where it stands among its like."""
        return self.row["effective_on"], self.row["document"] or "", self.row["source"], self.row["event_id"]


class OrderLines:
    """All facts of each line."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms, self._accounts, self._asks = terms, accounts, asks
        self._lines: dict[tuple[str, str], Row] = {}
        self._passed_ms = -DAY_MS

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Keep a fact of a line; what it is worth there."""
        if part in SIGNS and not key:
            return {"measures": _all_expense(SIGNS[part] * row["amount_minor"])}
        line = self._lines.get((row["entity"], key))
        if part == "ordered":
            return {"fault": TWICE} if line else self._order(key, row, now_ms)
        if line is None:
            return {"fault": self._terms.unordered}
        quantity = _counted(line["by_amount"], row)
        if fault := self._fault(line, part, quantity, row):
            return {"fault": fault}
        sign, before = SIGNS.get(part, 1), _worths(line)
        line["facts"].append(Told(part, sign * quantity, sign * row["amount_minor"], row))
        line["touched"] = now_ms
        self._reflag(line)
        found = {"measures": _measures(line, part, row["amount_minor"], before, _worths(line))}
        if part == "used" and self._is_expensed(line, row):
            found = {"measures": {"cost": 0}}
        return found | {name: "" if row[name] else line["order"][name] or "" for name in ("facility", "department")}

    def _order(self, key: str, row: Row, now_ms: int) -> Row:
        by_amount = not row["quantity"]
        quantity = _counted(by_amount, row)
        price = Fraction(1) if by_amount else _price(row)
        if not _sane(quantity, price):
            return {"fault": self._terms.quantity.exception}
        level = self._accounts.policy(self._terms.level_policy, row, row["effective_on"]) or self._terms.level
        self._lines[row["entity"], key] = {
            "order": row,
            "by_amount": by_amount,
            "ordered": quantity,
            "price": price,
            "level": int(level) if level in ("2", "3", "4") else 4,
            "facts": [],
            "flagged": {},
            "touched": now_ms,
        }
        return {}

    def _is_expensed(self, line: Row, row: Row) -> bool:
        """Whether goods are expense when they are received."""
        place = line["order"] | {"effective_on": row["effective_on"]}
        goods = self._accounts.policy(self._terms.goods_policy, place, row["effective_on"])
        return goods == "EXPENSE"

    def _fault(self, line: Row, part: str, quantity: Fraction, row: Row) -> str:
        order, on = line["order"], row["effective_on"]
        given, known = row["counterparty"] or "", order["counterparty"] or ""
        names = [
            self._accounts.policy(self._terms.alias_policy, row | {"counterparty": name or None}, on) or name
            for name in (given, known)
        ]
        if row["currency"] != order["currency"] or (given and given != known and names[0] != names[1]):
            return self._terms.supplier
        if not _sane(quantity, line["price"]):
            return self._terms.quantity.exception
        before = [(fact.part, fact.row["document"]) for fact in line["facts"] if fact.part in SIGNS]
        return TWICE if (part, row["document"]) in before else ""

    def _reflag(self, line: Row) -> None:
        """Compare what is too much now with what was told before."""
        now: dict[tuple, tuple[Told, int]] = {}
        for check, fact, amount in self._too_much(line):
            now.setdefault((self._exception(check), *_event(fact)), (fact, amount))
        for flag, (fact, _) in line["flagged"].items():
            if flag not in now:
                self._asks.end(flag[0], fact.row)
                self._hold(flag[0], fact, on=False)
        for flag, (fact, amount) in now.items():
            if flag not in line["flagged"]:
                self._asks.flag(flag[0], fact.row, amount)
                self._hold(flag[0], fact, on=True)
            self._asks.retell(flag[0], fact.row, amount)
        line["flagged"] = now

    def _hold(self, exception: str, fact: Told, *, on: bool) -> None:
        bill = fact.row["correlation_id"]
        if fact.part in SIGNS and bill:
            name = f"{exception}:{(fact.row['document'] or '').split('/')[-1]}"
            self._asks.hold((self._terms.payable, fact.row["entity"], bill), name, fact.row, on=on)

    def _exception(self, check: str) -> str:
        return {"usage": self._terms.usage, "used": self._terms.used}.get(check) or getattr(
            self._terms, check
        ).exception

    def _too_much(self, line: Row) -> list[tuple[str, Told, int]]:
        """Each check that a bill or a use fails, and by how much."""
        bills = sorted((fact for fact in line["facts"] if fact.part in SIGNS), key=lambda fact: fact.place)
        back = [bill for bill in bills if bill.quantity < 0 or bill.amount < 0]
        billed = sum(bill.quantity for bill in back)
        refunded = max(0, _worth(billed, line["price"]) - sum(bill.amount for bill in back))
        failed = []
        for bill in bills:
            if bill in back:
                continue
            billed += bill.quantity
            limits = self._limits(line, bill.row["effective_on"])
            for check, due in _dues(line).items():
                most = _most(due, limits[check], counted_in=1000)
                if bill.quantity and most is not None and billed > most:
                    failed.append((check, bill, _worth(min(billed - due, bill.quantity), line["price"])))
            due = _worth(bill.quantity, line["price"])
            if _dear(line, bill, due, 0, limits):
                covered = min(refunded, bill.amount - due)
                refunded -= covered
                over = bill.amount - covered - due
                failed += [(check, bill, over) for check in _dear(line, bill, due, covered, limits)]
        used = 0
        for use in sorted((fact for fact in line["facts"] if fact.part == "used"), key=lambda fact: fact.place):
            used += use.quantity
            over = used - _at_hand(line)
            if use.quantity > 0 and over > 0:
                failed.append(("used", use, _worth(min(over, use.quantity), line["price"])))
        return failed

    def _limits(self, line: Row, on: Any) -> dict[str, tuple[str, str]]:
        """What policies say of each check, at the place of the order."""
        texts = {"usage": ("", "")}  # nothing more passes
        for check in CHECKS:
            asked = getattr(self._terms, check)
            texts[check] = tuple(self._accounts.policy(name, line["order"], on) for name in (asked.percent, asked.most))
        if not any(texts["amount"]):
            texts["amount"] = ("unlimited", "unlimited")
        elif not any(texts["price"]):
            texts["price"] = ("unlimited", "unlimited")
        return texts

    def age(self, now_ms: int) -> None:
        """Once a day: forget lines that are square and have rested."""
        if now_ms < self._passed_ms + DAY_MS:
            return
        self._passed_ms = now_ms
        for key, line in list(self._lines.items()):
            worths = _worths(line)
            square = worths["received"] == worths["billed"] == worths["cleared"] and not line["flagged"]
            if square and line["touched"] < now_ms - self._terms.keep_days * DAY_MS:
                del self._lines[key]


def _event(fact: Told) -> tuple[str, str]:
    return fact.row["source"], fact.row["event_id"]


def _counted(by_amount: bool, row: Row) -> Fraction:
    """Units of the line: pieces, or minor units where it was ordered without a quantity."""
    return Fraction(row["amount_minor"]) if by_amount else Fraction(row["quantity"] or 0, 1000)


def _sane(quantity: Fraction, price: Fraction) -> bool:
    return abs(quantity) <= LARGEST and abs(_worth(quantity, price)) <= LARGEST


def _price(row: Row) -> Fraction:
    given = attributes_of(row)
    price, per, rounded = given.get("price"), given.get("price_per"), given.get("price_minor")
    decimals = [bool(isinstance(text, str) and _is_decimal(text)) for text in (price, per)]
    if all(decimals) and Fraction(per) > 0:
        return Fraction(price) * 10 ** currency_digits(row["currency"]) / Fraction(per)
    if isinstance(rounded, int) and not isinstance(rounded, bool):
        return Fraction(rounded)
    return Fraction(row["amount_minor"]) / Fraction(row["quantity"], 1000)


def _is_decimal(text: str) -> bool:
    whole, _, part = text.lstrip("+-").partition(".")
    digits = text.isascii() and whole.isdigit() and len(whole) <= 18 and len(text) - len(text.lstrip("+-")) <= 1
    return digits and ("." not in text or (part.isdigit() and len(part) <= 12))


def _worth(quantity: Fraction | int, price: Fraction) -> int:
    """Minor units, halves away from zero."""
    exact = quantity * price
    return int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)


def _sum(line: Row, part: str) -> Fraction:
    return sum((fact.quantity for fact in line["facts"] if fact.part == part), Fraction(0))


def _at_hand(line: Row) -> Fraction:
    return max(Fraction(0), _sum(line, "received") - _sum(line, "returned"))


def _accepted(line: Row) -> Fraction:
    if any(fact.part == "accepted" for fact in line["facts"]):
        accepted = _sum(line, "accepted")
    else:
        accepted = sum((_inspected(fact) for fact in line["facts"] if fact.part == "received"), Fraction(0))
    return max(Fraction(0), min(accepted, _at_hand(line)))


def _inspected(receipt: Told) -> Fraction:
    """What a receipt says was accepted: nothing unless it says what was rejected."""
    given = attributes_of(receipt.row)
    if "rejected" not in given:
        return Fraction(0)
    told = given["rejected"]
    sound = isinstance(told, int) and not isinstance(told, bool) and 0 <= told <= receipt.quantity * 1000
    return receipt.quantity - Fraction(told, 1000) if sound else min(Fraction(0), receipt.quantity)


def _dues(line: Row) -> dict[str, Fraction]:
    """What may be billed, by each way of the match."""
    ways = {"quantity": line["ordered"], "receipt": _at_hand(line), "acceptance": _accepted(line)}
    dues = dict(list(ways.items())[: line["level"] - 1])
    if attributes_of(line["order"]).get("bill_only") is True:
        dues["usage"] = max(Fraction(0), _sum(line, "used"))
    return dues


def _worths(line: Row) -> dict[str, int]:
    """The line in money, at the order's price. Two ways accrue nothing, and stock nothing."""
    price = line["price"]
    if line["level"] == 2:
        return dict.fromkeys(("received", "billed", "cleared", "used"), 0)
    billed = _sum(line, "billed") + _sum(line, "credited")
    cleared = max(Fraction(0), min(billed, _at_hand(line)))
    worths = {"received": _at_hand(line), "billed": billed, "cleared": cleared, "used": _sum(line, "used")}
    return {name: _worth(quantity, price) for name, quantity in worths.items()}


def _measures(line: Row, part: str, amount: int, before: Row, after: Row) -> dict[str, int]:
    grown = {name: after[name] - before[name] for name in after}
    if part in ("received", "returned"):
        return {"received": grown["received"], "cleared": grown["cleared"]}
    if part not in SIGNS:
        return {"cost": grown["used"]} if part == "used" else {}
    amount *= SIGNS[part]
    if line["level"] == 2:
        return _all_expense(amount)
    unreceived, variance = grown["billed"] - grown["cleared"], amount - grown["billed"]
    return {"cleared": grown["cleared"], "unreceived": unreceived, "variance": variance, "expense": 0}


def _all_expense(amount: int) -> dict[str, int]:
    return {"cleared": 0, "unreceived": 0, "variance": 0, "expense": amount}


def _dear(line: Row, bill: Told, due: int, covered: int, limits: Row) -> list[str]:
    """The checks of its amount that a bill fails, less what was given back of it."""
    dearest = _most(line["price"], limits["price"])
    ceilings = {
        "price": None if dearest is None else _worth(bill.quantity, dearest),
        "amount": _most(due, limits["amount"]),
    }
    return [check for check, most in ceilings.items() if most is not None and bill.amount - covered > most]


def _most(due: Fraction | int, texts: tuple[str, str], counted_in: int = 1) -> Fraction | None:
    """The most that passes: of a percentage and an absolute excess the stricter; None without either."""
    percent, most = texts
    if not percent and not most:
        return Fraction(due)
    extras = []
    if percent not in ("", "unlimited"):
        sound = re.fullmatch("[0-9]{1,6}([.][0-9]{1,6})?", percent)
        extras.append(abs(due) * Fraction(percent if sound else 0) / 100)
    if most not in ("", "unlimited"):
        extras.append(Fraction(int(most) if re.fullmatch("[0-9]{1,15}", most) else 0, counted_in))
    return due + min(extras) if extras else None
