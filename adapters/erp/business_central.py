"""Posts journal entries into Microsoft Dynamics 365 Business Central over its API v2.0.

Owns the form of journals and lines, and what Business Central's answers mean. A call makes one journal a company, with
all lines inside, in one `$batch` that happens whole or not at all (`Isolation: snapshot`); then each journal is posted,
which is whole or nothing too. Posting commits inside, so it stays out of the batch.

Business Central keeps no key. A document number has 20 characters, so it is a hash of the key; the key itself stands
first in each line's description, and is compared when a document is found. Journals that were left behind, unposted or
empty (their code begins with PS, so no other journal's may), are removed by the lookup.

What the vendor's documents do not state is taken the safe way: operations of a batch are counted as requests of their
own, `[erp.limits]` may say otherwise; accounts are numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from adapters.erp.http.amounts import json_amount, minor_of, signed_minor
from adapters.erp.http.dialect import Dialect, Reply, Rule, VendorError, fault_of
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.gateway import ErpConnection, HttpGateway, asked_of_each, unless_refused
from adapters.erp.http.naming import line_text, short_name
from adapters.erp.http.transport import Request
from runtime.ports import ErpAccount, ErpTerms, JournalEntry, JournalLine, Outcome

API = "/api/v2.0"
CODE_PREFIX, CODE_CHARS = "PS", 10
DOCUMENT_CHARS, DESCRIPTION_CHARS = 20, 100
PAGE_ROWS = 1000
TERMS = ErpTerms(
    native_key="none",
    lookup_keys_max=40,  # they all stand in one address
    settle_s=660.0,  # an operation ends after 8 minutes, its gateway gives up after 10
    atomicity="all_or_nothing",
    lines_max=1000,
    entries_max=50,
    bytes_max=350 * 10**6,
    concurrency=5,
    per_minute=1200,  # 6000 in any 5 minutes
)


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    error: _Error


class _Part(msgspec.Struct):
    id: str
    status: int
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Parts(msgspec.Struct):
    responses: list[_Part]


class _Created(msgspec.Struct):
    id: str


class _DraftLine(msgspec.Struct):
    documentNumber: str  # noqa: N815  the vendor's own names


class _Draft(msgspec.Struct):
    id: str
    journalLines: list[_DraftLine] = []  # noqa: N815


class _Drafts(msgspec.Struct):
    value: list[_Draft]


class _LedgerEntry(msgspec.Struct):
    entryNumber: int = 0  # noqa: N815
    documentNumber: str = ""  # noqa: N815
    description: str = ""
    accountNumber: str = ""  # noqa: N815
    debitAmount: Decimal = Decimal(0)  # noqa: N815
    creditAmount: Decimal = Decimal(0)  # noqa: N815


class _LedgerEntries(msgspec.Struct):
    value: list[_LedgerEntry]
    more: str = msgspec.field(default="", name="@odata.nextLink")


class _Journal(NamedTuple):
    """A journal that is made and not posted."""

    company: str
    id: str
    entries: tuple[JournalEntry, ...]


def error_of(reply: Reply) -> VendorError:
    """Business Central's error body. What comes after its code in the text names the call, not the cause."""
    error = reply.read(_Errors).error
    return VendorError(error.code, error.message.partition("CorrelationId")[0])


# 503 in the vendor's own words comes from its queue: the request never ran. A gateway's page has no code.
DIALECT = Dialect(
    "business_central",
    (
        Rule("throttled", 503, error="."),
        Rule("rejected", 404, error="CompanyNotFound", detail="erp.companies names none of its companies:"),
    ),
    error_of,
)


class BusinessCentralGateway(HttpGateway):
    """One environment; each entity is a company, by `erp.companies` (the company's id)."""

    def __init__(self, connection: ErpConnection) -> None:
        # Of a call: the batch, and for each company its part of it, its posting and the removal of its journal.
        companies = max(1, len(connection.section.companies))
        terms = msgspec.structs.replace(TERMS, requests_max=1 + 3 * companies)
        super().__init__(connection, dialect=DIALECT, terms=terms)

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        journals = self._create(entries)
        outcomes: list[Outcome] = []
        for done, journal in enumerate(journals):
            try:
                path = _journal_path(journal.company, journal.id)
                if self.http.send(Request("POST", f"{path}/Microsoft.NAV.post", late=True)).body:
                    raise ErpFault("unknown", "the answer to a posting is not Business Central's")
            except ErpFault as fault:
                return outcomes + self._unposted(fault, journals[done:], first=not done)
            outcomes += [Outcome(entry.key, "posted", document_number(entry.key)) for entry in journal.entries]
            with suppress(ErpFault):  # empty now; the next lookup removes what stays
                self._remove(journal.company, journal.id)
        return outcomes

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        # Journals first: what is left of them then was posted before, or never will be.
        return self._found(keys, self._remove_drafts)

    def see(self, keys: Sequence[str]) -> dict[str, Outcome]:
        return self._found(keys)

    def turnover(self) -> list[ErpAccount]:
        return [account for entity, company in self.companies.items() for account in self._turnover(entity, company)]

    # posting

    def _create(self, entries: Sequence[JournalEntry]) -> list[_Journal]:
        """One journal for each company, all or none."""
        by_company: dict[str, list[JournalEntry]] = {}
        for entry in entries:
            by_company.setdefault(self.companies[entry.entity], []).append(entry)
        parts = [
            {
                "id": str(i),
                "method": "POST",
                "url": f"companies({company})/journals",
                "headers": {"Content-Type": "application/json"},
                "body": self._journal(group),
            }
            for i, (company, group) in enumerate(by_company.items())
        ]
        request = Request("POST", f"{API}/$batch", {"requests": parts}, {"Isolation": "snapshot"})
        answered = {part.id: part for part in self.http.send(request).read(_Parts).responses}
        failed = [part for part in answered.values() if part.status >= 300 and part.status != 424]
        if failed:
            raise fault_of(Reply(failed[0].status, {}, bytes(failed[0].body)), DIALECT, self.clock.now_ms())
        try:
            ids = [msgspec.json.decode(answered[part["id"]].body, type=_Created).id for part in parts]
        except (KeyError, ValueError):
            raise ErpFault("unknown", "the batch's answer does not name its journals") from None
        return [
            _Journal(company, id, tuple(group)) for id, (company, group) in zip(ids, by_company.items(), strict=True)
        ]

    def _unposted(self, fault: ErpFault, journals: Sequence[_Journal], first: bool) -> list[Outcome]:
        """What is known of journals when posting the first of them failed; nothing was tried with the others.

        While no journal of the call is posted, the fault holds for all. Afterwards a refusal says nothing of any one
        entry of several, and the caller can't be told so of a part of a call: they go back unsent.
        """
        refused = fault.code == "rejected" and (first or len(journals[0].entries) == 1)
        rest = ErpFault("unavailable", "not posted with the others of its call", fault.retry_after_s)
        of_first = rest if fault.code == "rejected" and not refused else fault
        of_others = fault if first and fault.code != "unknown" else rest
        outcomes = []
        for journal, meant in zip(journals, [of_first, *[of_others] * (len(journals) - 1)], strict=True):
            outcomes += self._removed(journal, meant).outcomes(journal.entries)
        return outcomes

    def _removed(self, journal: _Journal, fault: ErpFault) -> ErpFault:
        """The fault itself once the journal is gone; unknown while it may be there or be posted."""
        if fault.code == "unknown":
            return fault
        try:
            self._remove(journal.company, journal.id)
        except ErpFault:
            return ErpFault("unknown", fault.detail)
        return fault

    # finding

    def _found(
        self, keys: Sequence[str], first: Callable[[str, Set[str]], None] = lambda company, documents: None
    ) -> dict[str, Outcome]:
        """What each company holds, once this was done there; of one that does not exist nobody knows."""
        names = {document_number(key): key for key in keys}

        def ask(company: str) -> list[str]:
            first(company, names.keys())
            return list(self._posted_keys(company, names))

        told, refusal = asked_of_each(tuple(dict.fromkeys(self.companies.values())), ask)
        found = {key: Outcome(key, "posted", document_number(key)) for key in told}
        return unless_refused(keys, found, refusal)

    def _posted_keys(self, company: str, names: dict[str, str]) -> Iterable[str]:
        """A page that is full says nothing of documents that it lacks: they are asked for again. No more rows are asked
        for than a page takes, as Business Central refuses an answer that is too large, each time anew."""
        left = dict(names)
        while left:
            wanted = " or ".join(f"documentNumber eq '{document}'" for document in left)
            params = {"$filter": wanted, "$select": "documentNumber,description", "$top": str(PAGE_ROWS)}
            page = self._read(f"/companies({company})/generalLedgerEntries", params, _LedgerEntries)
            found = {key for entry in page.value if (key := _key_of(entry, left))}
            yield from found
            if len(page.value) < PAGE_ROWS and not page.more:
                return
            if not found:
                raise ErpFault("unavailable", "a page of ledger entries holds none that were asked for")
            left = {document: key for document, key in left.items() if key not in found}

    def _remove_drafts(self, company: str, documents: Set[str]) -> None:
        params = {"$filter": f"startswith(code,'{CODE_PREFIX}')", "$expand": "journalLines($select=documentNumber)"}
        for draft in self._read(f"/companies({company})/journals", params, _Drafts).value:
            holds = {line.documentNumber for line in draft.journalLines}
            if not holds or documents & holds:
                self._remove(company, draft.id)

    def _turnover(self, entity: str, company: str) -> list[ErpAccount]:
        currency = self.currencies.get(entity, "")
        if not currency:
            raise ErpFault("unavailable", f"the currency of {entity} is not known")
        sums: dict[str, list[int]] = {}
        for entry in self._ledger(company):
            sides = sums.setdefault(entry.accountNumber, [0, 0])
            sides[0] += minor_of(entry.debitAmount, currency)
            sides[1] += minor_of(entry.creditAmount, currency)
        return [ErpAccount(entity, currency, account, *sides) for account, sides in sorted(sums.items()) if any(sides)]

    def _ledger(self, company: str) -> Iterable[_LedgerEntry]:
        last = 0
        while True:
            params = {
                "$filter": f"entryNumber gt {last}",
                "$orderby": "entryNumber",
                "$top": str(PAGE_ROWS),
                "$select": "entryNumber,accountNumber,debitAmount,creditAmount",
            }
            page = self._read(f"/companies({company})/generalLedgerEntries", params, _LedgerEntries).value
            if not page:
                return
            yield from page
            last = page[-1].entryNumber

    # wire

    def _journal(self, entries: Sequence[JournalEntry]) -> dict[str, Any]:
        # The time makes a code that no journal left behind can have.
        code = short_name(f"{entries[0].key} {self.clock.now_ms()}", CODE_CHARS, CODE_PREFIX)
        lines = [_line(entry, line) for entry in entries for line in entry.lines]
        return {"code": code, "displayName": f"Penstock {code}", "journalLines": lines}

    def _remove(self, company: str, journal: str) -> None:
        self.http.send(Request("DELETE", _journal_path(company, journal), late=True), also=(404,))

    def _read(self, path: str, params: dict[str, str], type: type) -> Any:
        return self.http.send(Request("GET", API + path, params=params, reads=True)).read(type)


def document_number(key: str) -> str:
    """The 20 characters that an entry's document is called by."""
    return short_name(key, DOCUMENT_CHARS)


def _key_of(entry: _LedgerEntry, names: Mapping[str, str]) -> str:
    """The key among these whose document a ledger entry belongs to, "" for none. Raises ErpFault for a foreign one."""
    key = names.get(entry.documentNumber, "")
    if key and entry.description.partition(" ")[0] != key:
        raise ErpFault("unavailable", f"document {entry.documentNumber} is not the one of entry {key}")
    return key


def _journal_path(company: str, journal: str) -> str:
    return f"{API}/companies({company})/journals({journal})"


def _line(entry: JournalEntry, line: JournalLine) -> dict[str, Any]:
    return {
        "accountType": "G_x002F_L_x0020_Account",
        "accountNumber": line.account_code,
        "postingDate": entry.posted_on,
        "documentNumber": document_number(entry.key),
        "amount": json_amount(signed_minor(line), entry.currency),
        "description": f"{entry.key} {line_text(line)}"[:DESCRIPTION_CHARS],
    }


def open_gateway(connection: ErpConnection) -> BusinessCentralGateway:
    """The adapter of `erp.kind = "business_central"`."""
    return BusinessCentralGateway(connection)
