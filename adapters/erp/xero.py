"""Posts journal entries into Xero as manual journals over its accounting API.

Owns the form of a manual journal, and what Xero's answers mean. The key is the journal's narration, which Xero does not
keep unique but can search. Each entity is a tenant; a call with entries of several makes one request for each.

No Idempotency-Key is sent: Xero is said to know one for six minutes and to repeat refusals under it too, so that an
entry whose fault was mended would be refused again. How long a request may run at Xero is not stated; `settle_s` is the
careful guess, and `[erp.limits]` may say otherwise.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.erp.http.amounts import json_amount, signed_minor
from adapters.erp.http.dialect import Dialect, Reply, Rule, VendorError
from adapters.erp.http.fault import ErpFault, shortened
from adapters.erp.http.gateway import MANY_BEGIN_S, ErpConnection, HttpGateway, asked_of_each, unless_refused
from adapters.erp.http.naming import line_text
from adapters.erp.http.transport import Request
from runtime.ports import TWICE, ErpTerms, JournalEntry, Outcome

JOURNALS = "/api.xro/2.0/ManualJournals"
PAGE_ROWS = 100
DAY_PAUSE_S = 3600.0  # when the day's calls are used up and no delay is told
TERMS = ErpTerms(
    native_key="none",
    lookup_keys_max=40,  # they all stand in one address
    settle_s=300.0,
    atomicity="per_item",
    lines_max=2000,
    entries_max=50,
    bytes_max=3_500_000,
    concurrency=5,
    per_minute=60,
    per_day=5000,
)


class _Problem(msgspec.Struct):
    message: str = msgspec.field(default="", name="Message")


class _Journal(msgspec.Struct):
    narration: str = msgspec.field(name="Narration")
    id: str = msgspec.field(default="", name="ManualJournalID")
    status: str = msgspec.field(default="", name="Status")
    problems: list[_Problem] = msgspec.field(default_factory=list, name="ValidationErrors")


class _Journals(msgspec.Struct):
    journals: list[_Journal] = msgspec.field(name="ManualJournals")


def error_of(reply: Reply) -> VendorError:
    """Which limit was met stands in a header; all else in the body."""
    limit = reply.header("X-Rate-Limit-Problem")
    return VendorError(limit) if limit else VendorError("", reply.read(_Problem).message)


DIALECT = Dialect(
    "xero",
    (
        Rule("throttled", 429, error="(?i)day", detail="the day's calls are used up:", retry_after_s=DAY_PAUSE_S),
        Rule("throttled", 429, error=".", detail="limit:"),
    ),
    error_of,
)


class XeroGateway(HttpGateway):
    """One connection to Xero; each entity is a tenant, by `erp.companies` (the tenant's id)."""

    def __init__(self, connection: ErpConnection) -> None:
        tenants = max(1, len(set(connection.section.companies.values())))
        terms = msgspec.structs.replace(TERMS, requests_max=tenants)
        if tenants > 1:
            terms = msgspec.structs.replace(terms, begins_s=MANY_BEGIN_S, log_ins_apart=True)
        super().__init__(connection, dialect=DIALECT, terms=terms)

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        by_tenant: dict[str, list[JournalEntry]] = {}
        for entry in entries:
            by_tenant.setdefault(self.companies[entry.entity], []).append(entry)
        return [outcome for tenant, group in by_tenant.items() for outcome in self._sent(tenant, group)]

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        wanted = " OR ".join(f'Narration=="{key}"' for key in keys)
        tenants = tuple(dict.fromkeys(self.companies.values()))
        told, refusal = asked_of_each(tenants, lambda tenant: self._journals(tenant, wanted))
        found: dict[str, Outcome] = {}
        for journal in told:
            if journal.status == "POSTED" and journal.narration in keys:
                twice = TWICE if journal.narration in found else ""
                first = found.get(journal.narration) or Outcome(journal.narration, "posted", journal.id)
                found[journal.narration] = first._replace(detail=twice)
        return unless_refused(keys, found, refusal)

    def _sent(self, tenant: str, entries: Sequence[JournalEntry]) -> list[Outcome]:
        body = {"ManualJournals": [_journal(entry) for entry in entries]}
        request = Request("PUT", JOURNALS, body, {"Xero-Tenant-Id": tenant}, {"summarizeErrors": "false"})
        try:
            reply = self.http.send(request)
            answered = {journal.narration: journal for journal in reply.read(_Journals).journals}
        except ErpFault as fault:
            return fault.outcomes(entries)
        return [_outcome(entry, answered[entry.key]) for entry in entries if entry.key in answered]

    def _journals(self, tenant: str, wanted: str) -> list[_Journal]:
        journals: list[_Journal] = []
        while True:
            params = {"where": wanted, "page": str(len(journals) // PAGE_ROWS + 1), "order": "UpdatedDateUTC ASC"}
            request = Request("GET", JOURNALS, headers={"Xero-Tenant-Id": tenant}, params=params, reads=True)
            page = self.http.send(request).read(_Journals).journals
            journals += page
            if len(page) < PAGE_ROWS:
                return journals


def _journal(entry: JournalEntry) -> dict[str, Any]:
    return {
        "Narration": entry.key,
        "Date": entry.posted_on,
        "Status": "POSTED",
        "LineAmountTypes": "NoTax",
        "JournalLines": [
            {
                "LineAmount": json_amount(signed_minor(line), entry.currency),
                "AccountCode": line.account_code,
                "Description": line_text(line),
            }
            for line in entry.lines
        ],
    }


def _outcome(entry: JournalEntry, journal: _Journal) -> Outcome:
    if journal.problems:
        return Outcome(entry.key, "rejected", detail=shortened(" ".join(each.message for each in journal.problems)))
    if journal.id and journal.status == "POSTED":
        return Outcome(entry.key, "posted", journal.id)
    return Outcome(entry.key, "unknown", detail="Xero names neither a posted journal nor what is wrong")


def open_gateway(connection: ErpConnection) -> XeroGateway:
    """The adapter of `erp.kind = "xero"`."""
    return XeroGateway(connection)
