"""One row of any kind, filled from the rulebook's tables.

Owns the made-up places, codes and dates. Never decides which rows belong together.
"""

import json
import random
import re
from datetime import date, timedelta
from typing import Any

from runtime.ledger.links import Links
from runtime.ledger.rules import Kind, Rulebook
from simulation.scenario import START_MS

Row = dict[str, Any]

ENTITIES = {"mercy": ("north", "south", "west"), "grace": ("main",)}
CURRENCIES = ("USD", "USD", "USD", "EUR")
DEPARTMENTS = (None, "lab", "surgery")
PAYERS = (None, "blue", "medicaid")
PARTNERS = ("acme", "blue", "globex", "medicaid")  # all that may become known
SOURCES = ("ehr", "processor", "clearinghouse")
PERSONS = ("ada", "Ada ", "grace", "linus")
UNKNOWN_CODE = "ZZ-999"
OPENS_ON = date(2026, 7, 1)
TODAY = date(2026, 9, 21)
DAYS_BACK = (0, 0, 1, 25, 60, 400)


class RowMaker:
    """Makes rows with ids of their own."""

    def __init__(self, rulebook: Rulebook, rng: random.Random) -> None:
        self.rulebook, self.rng = rulebook, rng
        self._made = 0

    def key(self, name: str) -> str:
        """A fresh key for an item, a group or a document."""
        self._made += 1
        return f"{name}-{self._made}"

    def amount(self, sign: str = "positive") -> int:
        """Minor units; now and then none at all, or very many."""
        amount = self.rng.choice((0, 1, 99, *(self.rng.randrange(1, 90_000) for _ in range(9)), 10**9))
        return -amount if sign == "any" and self.rng.random() < 0.25 else amount

    def row(self, kind: str, amount_minor: int, **columns: Any) -> Row:
        """One event of this kind; columns that it requires are filled."""
        rng, terms = self.rng, self.rulebook.kind[kind]
        entity = columns.get("entity") or rng.choice(tuple(ENTITIES))
        facility = rng.choice(ENTITIES[entity]) if "facility" in terms.requires or rng.random() < 0.5 else None
        given = {
            "event_id": self.key(kind),
            "source": rng.choice(SOURCES),
            "kind": kind,
            "entity": entity,
            "facility": facility,
            "account": self._account(terms),
            "department": rng.choice(DEPARTMENTS),
            "counterparty": rng.choice(PAYERS),
            "reason": self._reason(terms),
            "quantity": rng.choice((None, 1_000, rng.randrange(1, 9_000))),
            "attributes": self._attributes(kind),
            "amount_minor": amount_minor,
            "currency": rng.choice(CURRENCIES),
            "occurred_at": START_MS - rng.randrange(10**8),
            "effective_on": rng.choice((None, TODAY - timedelta(days=rng.choice(DAYS_BACK)))),
        }
        if any(derive.to == "counterparty" for derive in terms.derives):
            given["counterparty"] = rng.choice(tuple(ENTITIES))
        filled = {name: self.key(name) for name in terms.requires if given.get(name) is None}
        filled |= {"quantity": 1_000} if "quantity" in filled else {}
        return given | filled | columns

    def _account(self, terms: Kind) -> str | None:
        """One of a few; now and then none where that makes a difference."""
        differs = terms.classify_by == "account" or (terms.links and terms.links.tells_owner)
        return None if differs and self.rng.random() < 0.2 else f"token-{self.rng.randrange(9)}"

    def _attributes(self, kind: str) -> str:
        """Who stands behind it, and now and then numbers that its rules ask for."""
        given: Row = {"person": self.rng.choice(PERSONS)} if self.rng.random() < 0.9 else {}
        for name in sorted(_named_amounts(self.rulebook.kind[kind])):
            if self.rng.random() < 0.3:
                given[name] = self.rng.randrange(-5, 900)
        roles = [self.rulebook.role.get(name) for name in self.rulebook.kind[kind].maps]
        if self.rulebook.kind[kind].refined_by and self.rng.random() < 0.5:
            given[self.rulebook.kind[kind].refined_by] = self._remarks(self.rulebook.kind[kind])
        given |= {role.named_by: self.rng.choice(PARTNERS) for role in roles if role and role.named_by}
        return json.dumps(given)

    def _remarks(self, terms: Kind) -> list[str]:
        """What may refine a code, and what does not."""
        pairs = [code.partition("/")[2] for code in self.rulebook.table[terms.classify].codes if "/" in code]
        return self.rng.choices((*pairs, UNKNOWN_CODE), k=2)

    def _reason(self, terms: Kind) -> str | None:
        if terms.classify:
            codes = [code.replace("*", "7") for code in self.rulebook.table[terms.classify].codes]
            return self.rng.choice((*codes, UNKNOWN_CODE))
        if terms.links and terms.links.releases and not terms.links.releases.hold:
            return self.rng.choice(self.rulebook.item[terms.links.releases.item].held_by or (UNKNOWN_CODE,))
        roles = [self.rulebook.role.get(name) for pair in terms.post for name in (pair.debit, pair.credit)]
        codes = [code for role in roles if role and role.by == "reason" for code in role.cases]
        return self.rng.choice((*codes, UNKNOWN_CODE)) if codes else None


def key_of(row: Row, column: str) -> str | None:
    """What a row opens is known by: of columns joined by "_or_", the first that is not empty."""
    return next((row.get(name) for name in column.split("_or_") if row.get(name)), None)


def _named_amounts(kind: Kind) -> set[str]:
    """Names in the sums that a kind writes down, but its own columns."""
    links = kind.links or Links()
    refs = [ref.amount for ref in (*links.opened, *links.expects, links.consumes) if ref]
    sums = [*refs, *(pair.amount for rule in (kind, *kind.case.values()) for pair in rule.post)]
    sums += [links.closes.total] if links.closes else []
    return set(re.findall("[a-z_0-9]+", " ".join(sums))) - {"amount_minor", "quantity"}
