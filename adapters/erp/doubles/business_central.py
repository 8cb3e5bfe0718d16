"""A Business Central environment: journals, lines, posting, ledger entries, transactional batches.

Written from the vendor's developer documents (dynamics365smb-devitpro-pb): journals, journalLines, the action
Microsoft.NAV.post, generalLedgerEntries, use-odata-batch, api-limits, dynamics-error-codes. The environment's own
$metadata can't be had offline; the types below are its journal and journalLine by those pages, by the API pages 30016
and 30049 of the vendor's published source, and by the lengths of tables 81 and 232 behind them. Not documented, and
chosen here: each operation of a batch counts as a request, an OData filter is one of those that the documents show, an
answer of more rows than the limits allow is refused (a test may have it in pages instead), and what posting would ask
for (number, date, account, amount) must be there from the beginning.
"""

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from adapters.erp.doubles.access import CLIENT_ID, TOKEN_PATH, BearerAccess
from adapters.erp.doubles.double import Double, Route
from adapters.erp.doubles.exchange import Answer, Malformed, Number, Request, json_answer
from adapters.erp.doubles.ledger import Ledger, Line, Refused
from adapters.erp.doubles.limits import Over, RequestLimits, Window
from adapters.erp.doubles.trouble import Trouble
from runtime.ports import Clock

BATCH_OPERATIONS_MAX = 100
ANSWER_ROWS_MAX = PAGE_ROWS_MAX = 20_000
REQUESTS = Window("requests in 5 minutes", 300.0, 6000)
CONCURRENCY = 100  # 5 that run and 95 that wait
_API = r"/api/v2\.0"
_COMPANY = rf"{_API}/companies\((?P<company>[^)]+)\)"
_JOURNAL = rf"{_COMPANY}/journals\((?P<journal>[^)]+)\)"
_CODES = {
    "unbalanced": "Application_DialogException",
    "closed_period": "Application_DialogException",
    "no_lines": "Application_DialogException",
    "unknown_account": "Internal_InvalidTableRelation",
    "currency": "Application_FieldValidationException",
    "no_company": "Internal_CompanyNotFound",
}


Code10 = Annotated[str, msgspec.Meta(min_length=1, max_length=10)]
Code20 = Annotated[str, msgspec.Meta(min_length=1, max_length=20)]
Text100 = Annotated[str, msgspec.Meta(max_length=100)]
AccountType = Literal[
    "G_x002F_L_x0020_Account",
    "Customer",
    "Vendor",
    "Bank_x0020_Account",
    "Fixed_x0020_Asset",
    "IC_x0020_Partner",
    "Employee",
]


class JournalLine(msgspec.Struct, forbid_unknown_fields=True):
    """journalLine, as far as it can be written; `amount` is signed, debits are positive."""

    accountNumber: Code20  # noqa: N815  the vendor's own names
    postingDate: date  # noqa: N815
    documentNumber: Code20  # noqa: N815
    amount: Number
    accountType: AccountType = "G_x002F_L_x0020_Account"  # noqa: N815
    accountId: UUID | None = None  # noqa: N815
    lineNumber: int = 0  # noqa: N815
    externalDocumentNumber: Annotated[str, msgspec.Meta(max_length=35)] = ""  # noqa: N815
    description: Text100 = ""
    comment: Annotated[str, msgspec.Meta(max_length=250)] = ""
    taxCode: Annotated[str, msgspec.Meta(max_length=20)] = ""  # noqa: N815
    balanceAccountType: AccountType = "G_x002F_L_x0020_Account"  # noqa: N815
    balancingAccountNumber: Annotated[str, msgspec.Meta(max_length=20)] = ""  # noqa: N815


class Journal(msgspec.Struct, forbid_unknown_fields=True):
    """journal, a batch of lines, which may be inserted with it. Its balancing account's number is read-only."""

    code: Code10
    displayName: Text100 = ""  # noqa: N815
    balancingAccountId: UUID | None = None  # noqa: N815
    journalLines: list[JournalLine] = []  # noqa: N815


class Operation(msgspec.Struct, forbid_unknown_fields=True):
    """One request of a batch."""

    id: str
    method: str
    url: str
    headers: dict[str, str] = {}
    body: msgspec.Raw = msgspec.Raw(b"")


class Operations(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a batch."""

    requests: list[Operation]


class KeptJournal(msgspec.Struct):
    """A journal that is there, posted (then it has no lines) or not."""

    company: str
    id: str
    journal: Journal


class BusinessCentralDouble(Double):
    """No key is kept; posting a journal is whole or nothing, and leaves it empty."""

    name = "business_central"
    routes = (
        Route("POST", rf"{_API}/\$batch", "batch", writes=True),
        Route("POST", rf"{_COMPANY}/journals", "create_journal", writes=True),
        Route("GET", rf"{_COMPANY}/journals", "list_journals"),
        Route("DELETE", _JOURNAL, "delete_journal"),
        Route("POST", rf"{_JOURNAL}/Microsoft\.NAV\.post", "post_journal", writes=True),
        Route("GET", rf"{_COMPANY}/generalLedgerEntries", "list_entries"),
    )

    def __init__(self, ledger: Ledger, *, clock: Clock, trouble: Trouble | None = None) -> None:
        limits = RequestLimits([REQUESTS], CONCURRENCY)
        super().__init__(ledger, clock=clock, access=BearerAccess(), limits=limits, trouble=trouble)
        self._journals: dict[str, KeptJournal] = {}
        self._numbered = 0

    def section(self, url: str) -> dict:
        return {
            "kind": "business_central",
            "url": url,
            "auth": {
                "kind": "oauth2_client",
                "token_url": f"{url}{TOKEN_PATH}",
                "client_id": CLIENT_ID,
                "secret": {"env": "PENSTOCK_DOUBLE_SECRET"},
                "scope": "https://api.businesscentral.dynamics.com/.default",
            },
        }

    def limited(self, over: Over) -> Answer:
        return _error(429, "Application_TooManyRequests", f"too many requests: {over.name}")

    def malformed(self, error: Malformed) -> Answer:
        code = "Application_StringExceededLength" if error.breach == "too_long" else "BadRequest"
        return _error(400, code, f"{error.path} {error}".lstrip())

    def failed(self, status: int, text: str) -> Answer:
        codes = {401: "Authentication_InvalidCredentials", 404: "BadRequest_NotFound", 503: "Internal_ServerBusy"}
        return _error(status, codes.get(status, "BadRequest"), text)

    # journals

    def journals(self) -> list[KeptJournal]:
        """Every journal that is there."""
        return list(self._journals.values())

    def batch(self, request: Request) -> Answer:
        """Operations one after another; with `Isolation: snapshot` the first failure takes back all of them."""
        operations = request.read(Operations).requests
        if len(operations) > BATCH_OPERATIONS_MAX:
            raise Malformed(f"a batch has at most {BATCH_OPERATIONS_MAX} operations")
        snapshot = request.headers.get("isolation") == "snapshot"
        before, parts = dict(self._journals), []
        for operation in operations:
            if snapshot and any(part["status"] >= 400 for part in parts):
                parts.append({"id": operation.id, "status": 424})
                continue
            answer = self._operation(operation, request)
            parts.append({"id": operation.id, "status": answer.status, "body": msgspec.Raw(answer.body or b"null")})
        if snapshot and any(part["status"] >= 400 for part in parts):
            self._journals = before
        return json_answer(200, {"responses": parts})

    def _operation(self, operation: Operation, request: Request) -> Answer:
        if over := self.limits.admit(self.now_ms(), 1):
            return self.limited(over)
        inner = Request(operation.method, f"/api/v2.0/{operation.url}", {}, request.headers, bytes(operation.body))
        found = self._route(inner)
        if found is None or found[0].handler == "batch":
            return self.failed(404, "no such operation")
        return self._handled(found[0], inner, found[1])

    def create_journal(self, request: Request, company: str) -> Answer:
        """POST of a journal with its lines."""
        if company not in self.ledger.companies:
            return _error(404, "Internal_CompanyNotFound", "the company does not exist")
        journal = request.read(Journal)
        if any(kept.company == company and kept.journal.code == journal.code for kept in self._journals.values()):
            return _error(400, "Internal_EntityWithSameKeyExists", "the journal exists already")
        for line in journal.journalLines:
            if line.accountNumber not in self.ledger.companies[company].accounts:
                return _error(400, _CODES["unknown_account"], f"account {line.accountNumber} does not exist")
        self._numbered += 1
        kept = KeptJournal(company, f"00000000-0000-0000-0000-{self._numbered:012}", journal)
        self._journals[kept.id] = kept
        return json_answer(201, {"id": kept.id, "code": journal.code})

    def list_journals(self, request: Request, company: str) -> Answer:
        """GET of the journals whose code begins so."""
        if company not in self.ledger.companies:
            return _error(404, "Internal_CompanyNotFound", "the company does not exist")
        match = re.fullmatch(r"startswith\(code,'(\w*)'\)", request.query.get("$filter", "startswith(code,'')"))
        if match is None:
            return self.failed(400, "this filter is not supported")
        found = [kept for kept in self._journals.values() if kept.company == company]
        rows = [
            {
                "id": kept.id,
                "code": kept.journal.code,
                "journalLines": [{"documentNumber": line.documentNumber} for line in kept.journal.journalLines],
            }
            for kept in found
            if kept.journal.code.startswith(match[1])
        ]
        return json_answer(200, {"value": rows})

    def delete_journal(self, request: Request, company: str, journal: str) -> Answer:
        """DELETE of a journal, with what is in it."""
        if self._journals.pop(journal, None) is None:
            return self.failed(404, "the journal does not exist")
        return Answer(204)

    def post_journal(self, request: Request, company: str, journal: str) -> Answer:
        """Post everything that is in a journal."""
        kept = self._journals.get(journal)
        if kept is None or kept.company != company:
            return self.failed(404, "the journal does not exist")
        documents: dict[tuple[str, date], list[JournalLine]] = {}
        for line in kept.journal.journalLines:
            documents.setdefault((line.documentNumber, line.postingDate), []).append(line)
        try:
            if not documents:
                raise Refused("no_lines", "There is nothing to post.")
            for (_, booked_on), lines in documents.items():
                self.ledger.check(company, booked_on, _ledger_lines(lines))
        except Refused as refused:
            return _error(400, _CODES[refused.reason], f"{refused.text}  CorrelationId:  00000000-0000.")
        for (number, booked_on), lines in documents.items():
            self.ledger.book(company, number, booked_on, _ledger_lines(lines))
        kept.journal.journalLines = []
        return Answer(204)

    # the ledger

    def list_entries(self, request: Request, company: str) -> Answer:
        """GET of ledger entries, by document numbers or after an entry number."""
        if company not in self.ledger.companies:
            return _error(404, "Internal_CompanyNotFound", "the company does not exist")
        rows = self._entries(company)
        text = request.query.get("$filter", "entryNumber gt 0")
        if after := re.fullmatch(r"entryNumber gt (\d+)", text):
            rows = [row for row in rows if row["entryNumber"] > int(after[1])]
        elif re.fullmatch(r"documentNumber eq '[^']*'( or documentNumber eq '[^']*')*", text):
            wanted = set(re.findall(r"'([^']*)'", text))
            rows = [row for row in rows if row["documentNumber"] in wanted]
        else:
            return self.failed(400, "this filter is not supported")
        wanted = rows[: int(request.query.get("$top", len(rows)))]
        if len(wanted) > ANSWER_ROWS_MAX:
            return _error(413, "Application_RequestEntityTooLarge", "the answer would have too many rows")
        more = {"@odata.nextLink": f"{request.path}?$skiptoken={PAGE_ROWS_MAX}"} if wanted[PAGE_ROWS_MAX:] else {}
        return json_answer(200, {"value": wanted[:PAGE_ROWS_MAX], **more})

    def _entries(self, company: str) -> list[dict[str, Any]]:
        lines = [(each, line) for each in self.ledger.documents if each.company == company for line in each.lines]
        return [
            {
                "entryNumber": number,
                "postingDate": document.booked_on,
                "documentNumber": document.key,
                "accountNumber": line.account,
                "description": line.text,
                "debitAmount": line.debit,
                "creditAmount": line.credit,
            }
            for number, (document, line) in enumerate(lines, 1)
        ]


def _ledger_lines(lines: list[JournalLine]) -> list[Line]:
    zero = Decimal(0)
    return [
        Line(each.accountNumber, max(Decimal(each.amount), zero), max(-each.amount, zero), each.description)
        for each in lines
    ]


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    return json_answer(status, {"error": {"code": code, "message": message}}, headers)
