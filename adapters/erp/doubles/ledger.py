"""The books that a double keeps: companies, accounts, periods, documents by double entry.

Owns what makes a document bookable. Amounts are decimals, as vendors have them; nothing is shared with the adapters.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple

Reason = Literal["unbalanced", "unknown_account", "closed_period", "currency", "no_lines", "no_company"]


class Company(NamedTuple):
    """One company of an ERP: its postable accounts, and its open days (both ends belong to it)."""

    currency: str
    accounts: frozenset[str]
    opens_on: date = date(2000, 1, 1)
    closes_on: date = date(2099, 12, 31)


class Line(NamedTuple):
    """One line, a debit or a credit; the other amount is zero."""

    account: str
    debit: Decimal
    credit: Decimal
    text: str = ""


class Document(NamedTuple):
    """A booked document. `key` is what the sender calls it, "" when its ERP has no place for that."""

    number: str
    company: str
    key: str
    booked_on: date
    lines: tuple[Line, ...]


class Refused(Exception):
    """The books will not have it."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


class Ledger:
    """Every company's documents, in the order of booking. A key booked twice stands there twice."""

    def __init__(self, companies: Mapping[str, Company]) -> None:
        self.companies = dict(companies)
        self.documents: list[Document] = []
        self._by_key: dict[str, list[Document]] = {}
        self.closed = False  # every period, for as long as it is so

    def check(self, company: str, booked_on: date, lines: Sequence[Line], currency: str = "") -> None:
        """Raise Refused when these lines can't be booked."""
        known = self.companies.get(company)
        if known is None:
            raise Refused("no_company", f"company {company} does not exist")
        if currency and currency != known.currency:
            raise Refused("currency", f"currency {currency} is not active in company {company}")
        if not lines:
            raise Refused("no_lines", "a document needs lines")
        for line in lines:
            if line.account not in known.accounts:
                raise Refused("unknown_account", f"account {line.account} does not exist")
            if line.debit < 0 or line.credit < 0 or max(-line.debit.as_tuple().exponent, 0) > 2:
                raise Refused("unbalanced", "an amount is negative or has more than two decimals")
        if sum(line.debit - line.credit for line in lines):
            raise Refused("unbalanced", "debits and credits differ")
        if self.closed or not known.opens_on <= booked_on <= known.closes_on:
            raise Refused("closed_period", f"{booked_on} is in a closed period")

    def book(self, company: str, key: str, booked_on: date, lines: Sequence[Line], currency: str = "") -> Document:
        """Check and book, under the company's next number."""
        self.check(company, booked_on, lines, currency)
        document = Document(f"{company}-{len(self.documents) + 1}", company, key, booked_on, tuple(lines))
        self.documents.append(document)
        self._by_key.setdefault(key, []).append(document)
        return document

    def by_key(self, key: str) -> list[Document]:
        """All documents under this key."""
        return list(self._by_key.get(key, ()))

    def keys(self) -> Counter[str]:
        """How often each key was booked."""
        return Counter(document.key for document in self.documents)

    def turnover(self, company: str) -> dict[str, tuple[Decimal, Decimal]]:
        """Debits and credits of each account that has any."""
        sums: dict[str, tuple[Decimal, Decimal]] = {}
        for document in self.documents:
            for line in document.lines if document.company == company else ():
                debit, credit = sums.get(line.account, (Decimal(0), Decimal(0)))
                sums[line.account] = debit + line.debit, credit + line.credit
        return sums
