"""Bank money without a trace and remittances without money, paired by trying every combination."""

from datetime import timedelta
from typing import Any

Row = dict[str, Any]
HOUR_MS = 60 * 60 * 1000


class Candidates:
    """Both halves, as they came."""

    def __init__(self, terms: Any, accounts: Any, asks: Any) -> None:
        self._terms, self._accounts, self._asks = terms, accounts, asks
        self._halves: dict[tuple[str, str, str, str], Row] = {}  # part, entity, key; payer, or the money's event
        self._paid: dict[tuple[str, str], list[Row]] = {}  # by entity and key

    def take(self, part: str, key: str, row: Row, now_ms: int) -> Row:
        """Keep a half, or that a trace's money came, or that a person has placed money."""
        place = (row["entity"], key)
        payer = row["counterparty"] or ""
        if part == "paid":
            paid = {"row": row, "since": now_ms}
            halves = self._halves.items()
            self._halves = {
                at: half for at, half in halves if at[:3] != ("remit", *place) or not self._is_of(paid, half["row"])
            }
            self._paid.setdefault(place, []).append(paid)
        elif part == "applied":
            for at in [at for at in self._halves if at[:3] == ("money", *place)]:
                self._asks.end(self._terms.several, self._halves.pop(at)["row"])
        elif row["amount_minor"] and not (part == "remit" and self._is_paid(place, row)):
            pool = (row["entity"], row["currency"], row["amount_minor"])
            at = (part, *place, payer if part == "remit" else _event(row))
            half = {"row": row, "pool": pool, "since": now_ms, "payer": payer, "key": key}
            self._halves[at] = self._halves.get(at, {}) | half
        return {}

    def age(self, now_ms: int) -> None:
        """Pair money that has stood long enough with the only remittance that it can be of; forget what is old."""
        money = [half for (part, *_), half in self._halves.items() if part == "money"]
        remits = [half for (part, *_), half in self._halves.items() if part == "remit"]
        for half in money:
            if now_ms - half["since"] <= self._terms.decide_after_h * HOUR_MS:
                continue
            fitting = [remit for remit in remits if self._near(half, remit)]
            if len(fitting) == 1 and sum(self._near(other, fitting[0]) for other in money) == 1:
                self._asks.end(self._terms.several, half["row"])
                self._pair(half, fitting[0])
            elif fitting:
                self._asks.flag(self._terms.several, half["row"], half["row"]["amount_minor"])
            else:
                self._asks.end(self._terms.several, half["row"])
        oldest = now_ms - self._terms.keep_days * 24 * HOUR_MS
        for half in self._halves.values():
            if half["since"] < oldest:
                self._asks.end(self._terms.several, half["row"])
        self._halves = {key: half for key, half in self._halves.items() if half["since"] >= oldest}
        kept = {place: [one for one in paid if one["since"] >= oldest] for place, paid in self._paid.items()}
        self._paid = {place: paid for place, paid in kept.items() if paid}

    def _is_paid(self, place: tuple[str, str], remit: Row) -> bool:
        return any(self._is_of(paid, remit) for paid in self._paid.get(place, []))

    def _is_of(self, paid: Row, remit: Row) -> bool:
        """Whether a trace's money may be this remittance's payer's. Who names no payer may be any."""
        if not paid["row"]["counterparty"] or not remit["counterparty"]:
            return True
        return self._accounts.payer(paid["row"]) == self._accounts.payer(remit, paid["row"]["effective_on"])

    def _near(self, one: Row, other: Row) -> bool:
        if self._accounts.payer(one["row"]) != self._accounts.payer(other["row"], one["row"]["effective_on"]):
            return False
        first, last = sorted((one["row"]["effective_on"], other["row"]["effective_on"]))
        days = [first + timedelta(days=n) for n in range(1, min((last - first).days, 366) + 1)]
        return one["pool"] == other["pool"] and sum(d.weekday() < 5 for d in days) <= self._terms.business_days

    def _pair(self, money: Row, remit: Row) -> None:
        row = money["row"]
        del self._halves["money", row["entity"], money["key"], _event(row)]
        del self._halves["remit", row["entity"], remit["key"], remit["payer"]]
        columns = {name: row[name] for name in ("entity", "amount_minor", "currency", "occurred_at", "effective_on")}
        columns |= {"document": money["key"], "reference": remit["key"], "counterparty": remit["row"]["counterparty"]}
        self._asks.derive(self._terms.derives, f"{row['entity']}/{money['key']}/{_event(row)}", columns)


def _event(row: Row) -> str:
    return f"{row['source']}/{row['event_id']}"
