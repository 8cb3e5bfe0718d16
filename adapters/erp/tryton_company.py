"""What must be known of Tryton's companies to write their moves: accounts, periods, the journal.

Owns reading it, remembering it, and forgetting it when it may have changed. Never writes.
"""

from collections import Counter
from datetime import date
from typing import NamedTuple

from adapters.erp.http.fault import ErpFault
from adapters.erp.tryton_rpc import TrytonSession
from adapters.erp.tryton_setup import IDENTIFIER_PREFIX, find_company
from runtime.ports import JournalEntry

_JOURNAL_CODE = "MISC"


class Period(NamedTuple):
    """One period, both days belonging to it."""

    start: date
    end: date
    id: int


class Company(NamedTuple):
    """What is needed of a company to write its moves; `accounts` has no code that stands for several accounts.

    A currency's digits at Tryton are not asked for: they are how many it shows, two for yen unless somebody has set
    them, and say nothing of what a minor unit is.
    """

    id: int
    currency: str
    accounts: dict[str, int]
    periods: list[Period]


class Companies:
    """The companies that one session sees, by entity; their moves have the field `key_field`.

    Each method raises ErpFault.
    """

    def __init__(self, session: TrytonSession, key_field: str) -> None:
        self._session, self._key_field = session, key_field
        self._known: dict[str, Company] = {}
        self._journal: int | None = None

    def of(self, entity: str) -> Company:
        """The entity's company."""
        if entity not in self._known:
            self._known[entity] = self._read(entity)
        return self._known[entity]

    def journal(self) -> int:
        """The journal that moves are written in."""
        if self._journal is None:
            found = self._session.read("model.account.journal.search", [["code", "=", _JOURNAL_CODE]], 0, 1, None)
            if not found:
                raise ErpFault("rejected", f"Tryton has no journal with the code {_JOURNAL_CODE}")
            self._journal = found[0]
        return self._journal

    def forget_after(self, fault: ErpFault) -> None:
        """Read accounts and periods again after a rejection: what was missing may have been added meanwhile."""
        if fault.code == "rejected":
            self._known.clear()
            self._journal = None

    def _read(self, entity: str) -> Company:
        self._refuse_without_key_field()
        company = find_company(self._session, entity)
        if company is None:
            raise ErpFault("rejected", f"no Tryton company carries the identifier {IDENTIFIER_PREFIX}{entity}")
        self._refuse_unseen(company)
        currency = self._session.read("model.company.company.read", [company], ["currency.code"])[0]["currency."]
        return Company(company, currency["code"], self._accounts(company), self._periods(company))

    def _refuse_without_key_field(self) -> None:
        if self._key_field not in self._session.read("model.account.move.fields_get", None):
            wanted = f"its moves have no {self._key_field}; activate the module external_ref"
            raise ErpFault("unauthorised", f"{wanted}, or set erp.settings.external_ref = false")

    def _refuse_unseen(self, company: int) -> None:
        """A user who does not see a company's moves would find no key there, and post it twice."""
        preferences = self._session.preferences()
        sees_all = preferences["company_filter"] == "all" and company in preferences["companies"]
        if not sees_all and preferences.get("company") != company:
            raise ErpFault("unauthorised", f"the user needs company {company} and the company filter 'all'")

    def _accounts(self, company: int) -> dict[str, int]:
        domain = [["company", "=", company], ["type", "!=", None], ["code", "!=", None]]
        search = "model.account.account.search_read"
        rows = self._session.read(search, domain, 0, None, None, ["code"], company=company, active_test=False)
        uses = Counter(row["code"] for row in rows)
        return {row["code"]: row["id"] for row in rows if uses[row["code"]] == 1}

    def _periods(self, company: int) -> list[Period]:
        domain = [["company", "=", company], ["type", "=", "standard"]]
        fields = ["start_date", "end_date"]
        rows = self._session.read("model.account.period.search_read", domain, 0, None, None, fields, company=company)
        return [Period(row["start_date"], row["end_date"], row["id"]) for row in rows]


def period_of(entry: JournalEntry, company: Company) -> int:
    """The period that holds the entry's day. Raises ErpFault."""
    for period in company.periods:
        if period.start <= entry.posted_on <= period.end:
            return period.id
    raise ErpFault("rejected", f"entry {entry.key}: no period of {entry.entity} holds {entry.posted_on}")
