"""A Xero organisation: manual journals, several in one request, each judged by itself.

Written from the vendor's OpenAPI description (xero_accounting.yaml; the types below are what can be written of its
ManualJournals, ManualJournal and ManualJournalLine) and its pages on limits. Not documented there, and chosen here: how
long an Idempotency-Key is known, that an answer is repeated under it whatever it was, and that a journal has a date.
"""

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from adapters.erp.doubles.access import CLIENT_ID, TOKEN_PATH, BearerAccess
from adapters.erp.doubles.double import Double, Route
from adapters.erp.doubles.exchange import Answer, Malformed, Number, Request, json_answer
from adapters.erp.doubles.ledger import Document, Ledger, Line, Refused
from adapters.erp.doubles.limits import CONCURRENCY, Over, RequestLimits, Window
from adapters.erp.doubles.trouble import Trouble
from runtime.ports import Clock

BODY_BYTES_MAX = 3_500_000
CONCURRENT = 5
IDEMPOTENCY_CHARS_MAX = 128
IDEMPOTENCY_LIFE_S = 360.0
PAGE_ROWS = 100
WINDOWS = (Window("minute", 60.0, 60), Window("day", 86_400.0, 5000))
_JOURNALS = r"/api\.xro/2\.0/ManualJournals"


class Tracking(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """A category of a line and the option in it."""

    name: str
    option: str


class JournalLine(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """A line; debits are positive, credits negative."""

    line_amount: Number
    account_code: str
    description: str = ""
    tax_type: str = ""
    tax_amount: Number = Number(0)
    tracking: Annotated[list[Tracking], msgspec.Meta(max_length=2)] = []
    is_blank: bool = False


class ManualJournal(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """A manual journal, as far as it can be written."""

    narration: str
    journal_lines: list[JournalLine]
    date: date
    status: Literal["DRAFT", "POSTED", "DELETED", "VOIDED", "ARCHIVED"] = "DRAFT"
    line_amount_types: Literal["Exclusive", "Inclusive", "NoTax"] = "Exclusive"
    url: str = ""
    show_on_cash_basis_reports: bool = True


class ManualJournals(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """The body of a request."""

    manual_journals: list[ManualJournal]


class XeroDouble(Double):
    """Narrations may repeat; each journal of a request is booked or refused by itself."""

    name = "xero"
    routes = (
        Route("PUT", _JOURNALS, "create", writes=True),
        Route("POST", _JOURNALS, "create", writes=True),
        Route("GET", _JOURNALS, "list_journals"),
    )

    def __init__(self, ledger: Ledger, *, clock: Clock, trouble: Trouble | None = None) -> None:
        limits = RequestLimits(WINDOWS, CONCURRENT)
        super().__init__(ledger, clock=clock, access=BearerAccess(1800.0), limits=limits, trouble=trouble)
        self._answers: dict[str, tuple[int, bytes, Answer]] = {}

    def section(self, url: str) -> dict:
        return {
            "kind": "xero",
            "url": url,
            "auth": {
                "kind": "oauth2_client",
                "token_url": f"{url}{TOKEN_PATH}",
                "client_id": CLIENT_ID,
                "secret": {"env": "PENSTOCK_DOUBLE_SECRET"},
            },
        }

    def limited(self, over: Over) -> Answer:
        problem = "concurrent" if over.name in (CONCURRENCY, "throttle") else over.name
        headers = {"X-Rate-Limit-Problem": problem, "Retry-After": str(int(over.retry_after_s) + 1)}
        return Answer(429, headers=headers)

    def failed(self, status: int, text: str) -> Answer:
        return json_answer(status, {"ErrorNumber": 10, "Type": "ValidationException", "Message": text})

    # journals

    def create(self, request: Request) -> Answer:
        """PUT of journals. The same Idempotency-Key again has the same answer, or none if the body differs."""
        key = request.headers.get("idempotency-key", "")
        if len(key) > IDEMPOTENCY_CHARS_MAX or len(request.body) > BODY_BYTES_MAX:
            raise Malformed("the idempotency key or the body is too long")
        if not key:
            return self._create(request)
        until_ms, body, answer = self._answers.get(key, (0, b"", Answer(204)))
        if until_ms > self.now_ms():
            return (
                answer if body == request.body else self.failed(400, "the idempotency key belongs to another request")
            )
        answer = self._create(request)
        self._answers[key] = self.now_ms() + round(IDEMPOTENCY_LIFE_S * 1000), request.body, answer
        return answer

    def _create(self, request: Request) -> Answer:
        tenant = request.headers.get("xero-tenant-id", "")
        if tenant not in self.ledger.companies:
            return self.failed(403, "AuthenticationUnsuccessful")
        journals = request.read(ManualJournals).manual_journals
        results = [self._booked(tenant, journal) for journal in journals]
        if request.query.get("summarizeErrors") != "false" and any("ValidationErrors" in each for each in results):
            return self.failed(400, "A validation exception occurred")
        return json_answer(200, {"ManualJournals": results})

    def _booked(self, tenant: str, journal: ManualJournal) -> dict[str, Any]:
        lines = [_ledger_line(line) for line in journal.journal_lines]
        try:
            if journal.status != "POSTED":
                raise Malformed("drafts are not kept here")
            document = self.ledger.book(tenant, journal.narration, journal.date, lines)
        except Refused as refused:
            problems = [{"Message": refused.text}]
            narrated = {"Narration": journal.narration, "StatusAttributeString": "ERROR"}
            return {**narrated, "ValidationErrors": problems}
        return {**_row(document), "StatusAttributeString": "OK"}

    def list_journals(self, request: Request) -> Answer:
        """GET of the journals with one of these narrations, 100 a page."""
        text = request.query.get("where", "")
        if not re.fullmatch(r'Narration=="[^"]*"( OR Narration=="[^"]*")*', text):
            return self.failed(400, "QueryParseException")
        tenant, wanted = request.headers.get("xero-tenant-id", ""), dict.fromkeys(re.findall(r'"([^"]*)"', text))
        rows = [_row(each) for key in wanted for each in self.ledger.by_key(key) if each.company == tenant]
        start = (int(request.query.get("page", 1)) - 1) * PAGE_ROWS
        return json_answer(200, {"ManualJournals": rows[start : start + PAGE_ROWS]})


def _ledger_line(line: JournalLine) -> Line:
    amount, zero = Decimal(line.line_amount), Decimal(0)
    return Line(line.account_code, max(amount, zero), max(-amount, zero), line.description)


def _row(document: Document) -> dict[str, Any]:
    return {"ManualJournalID": document.number, "Narration": document.key, "Status": "POSTED"}
