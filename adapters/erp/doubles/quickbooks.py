"""A QuickBooks Online company: journal entries one by one and in batches, queries for them.

Written from Intuit's articles on batches (30 items, 40 batches a minute, items serial, independent and each metered as
a request), on throttling (500 a minute, 10 at a time, error 003001), on `requestid`, from its list of error codes, and
from descriptions of the journal entry's fields, their lengths and their values; Intuit's own schema (Finance.xsd of its
SDKs) is not kept here. Not documented, and chosen here: how long a requestid is known, that refusals are repeated under
it as successes are, and what a server error within a batch looks like.
"""

import re
from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec

from adapters.erp.doubles.access import CLIENT_ID, TOKEN_PATH, BearerAccess
from adapters.erp.doubles.double import Double, Route
from adapters.erp.doubles.exchange import Answer, Malformed, Number, Request, json_answer, read_json
from adapters.erp.doubles.ledger import Document, Ledger, Line, Refused
from adapters.erp.doubles.limits import Over, RequestLimits, Window
from adapters.erp.doubles.trouble import Trouble
from runtime.ports import Clock

REALM = "1"
BATCH_ITEMS_MAX = 30
DOCUMENT_CHARS_MAX = 21
NOTE_CHARS_MAX = 4000
QUERY_ROWS_MAX = 1000
REQUEST_ID_LIFE_S = 24 * 3600.0
_COMPANY = r"/v3/company/(?P<realm>[\w-]+)"
_INVALID = ("2010", "Request has invalid or unsupported property")
_BREACHES = {
    "missing_field": ("2020", "Required param missing, need to supply the required value for the API"),
    "too_long": ("2050", "Invalid String Length"),
}
_CODES = {
    "unbalanced": "6000",
    "unknown_account": "2500",
    "closed_period": "6210",
    "currency": "2220",
    "no_lines": "2250",
    "no_company": "120",
}


class Reference(msgspec.Struct, forbid_unknown_fields=True):
    """Another object, by its id."""

    value: Annotated[str, msgspec.Meta(min_length=1)]
    name: str = ""


class Party(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """Who stands on a line."""

    type: Literal["Customer", "Vendor", "Employee"]
    entity_ref: Reference


class LineDetail(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """Side and account of a line."""

    posting_type: Literal["Debit", "Credit"]
    account_ref: Reference
    entity: Party | None = None
    class_ref: Reference | None = None
    department_ref: Reference | None = None
    billable_status: Literal["Billable", "NotBillable", "HasBeenBilled"] = "NotBillable"


Note = Annotated[str, msgspec.Meta(max_length=NOTE_CHARS_MAX)]


class JournalLine(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """One line; amounts are never negative."""

    amount: Number
    detail_type: Literal["JournalEntryLineDetail"]
    journal_entry_line_detail: LineDetail
    description: Note = ""


class JournalEntry(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """The object `JournalEntry`, as far as it is documented for creating."""

    line: list[JournalLine]
    txn_date: date = date(2026, 1, 1)
    doc_number: Annotated[str, msgspec.Meta(max_length=DOCUMENT_CHARS_MAX)] = ""
    private_note: Note = ""
    currency_ref: Reference | None = None


class BatchItem(msgspec.Struct, forbid_unknown_fields=True):
    """One item of a batch; its payload is read when its turn comes."""

    place: str = msgspec.field(name="bId")
    operation: Literal["create"]
    journal: msgspec.Raw = msgspec.field(name="JournalEntry")


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """A batch."""

    items: list[BatchItem] = msgspec.field(name="BatchItemRequest")


class QuickBooksDouble(Double):
    """One company. `ledger` knows its documents by the private note; numbers of documents need not differ."""

    name = "quickbooks"
    routes = (
        Route("POST", f"{_COMPANY}/journalentry", "create", writes=True),
        Route("POST", f"{_COMPANY}/batch", "batch", writes=True),
        Route("GET", f"{_COMPANY}/query", "query"),
    )

    def __init__(self, ledger: Ledger, *, clock: Clock, trouble: Trouble | None = None) -> None:
        limits = RequestLimits([Window("requests a minute", 60, 500)], concurrency=10)
        super().__init__(ledger, clock=clock, access=BearerAccess(rotating=True), limits=limits, trouble=trouble)
        self.batches = RequestLimits([Window("batches a minute", 60, 40)])
        self._answers: dict[str, tuple[int, Answer]] = {}  # by requestid
        self._numbers: dict[str, str] = {}  # document numbers by id

    def section(self, url: str) -> dict:
        return {
            "kind": "quickbooks",
            "url": url,
            "auth": {
                "kind": "oauth2_refresh",
                "token_url": f"{url}{TOKEN_PATH}",
                "client_id": CLIENT_ID,
                "secret": {"env": "PENSTOCK_DOUBLE_SECRET"},
                "refresh_token_file": "refresh.token",
            },
        }

    def limited(self, over: Over) -> Answer:
        text = "message=ThrottleExceeded; errorCode=003001; statusCode=429"
        return _errors(429, "THROTTLED", "3001", text)

    def failed(self, status: int, text: str) -> Answer:
        if status == 401:
            error = {"message": text, "detail": "Token expired", "code": "3200", "element": None}
            return json_answer(401, {"fault": {"error": [error], "type": "AUTHENTICATION"}})
        if status == 503:
            return _errors(503, "SystemFault", "150", "Company Under Maintenance")
        return _errors(status, "ValidationFault", "2010", text)

    def malformed(self, error: Malformed) -> Answer:
        code, text = _BREACHES.get(error.breach, _INVALID)
        return _errors(400, "ValidationFault", code, f"{text}: {error}", error.path)

    # creating

    def create(self, request: Request, realm: str) -> Answer:
        """POST of one journal entry."""
        return self._once(request, lambda: self._booked(realm, request.body))

    def batch(self, request: Request, realm: str) -> Answer:
        """POST of a batch: item by item, each metered as a request of its own."""
        over = self.batches.admit(self.now_ms(), 1)
        if over:
            self.limits.refused[over.name] += 1
            return self.limited(over)
        items = request.read(Batch).items
        if len(items) > BATCH_ITEMS_MAX:
            return _errors(400, "ValidationFault", "1040", f"the batch limit is {BATCH_ITEMS_MAX}")
        if len({item.place for item in items}) < len(items):
            raise Malformed("a bId stands twice")
        return self._once(request, lambda: self._booked_each(realm, items))

    def _once(self, request: Request, work: Any) -> Answer:
        """The work's answer, or the first one that this requestid had."""
        key = request.query.get("requestid", "")
        since_ms, known = self._answers.get(key, (0, None))
        if key and known and self.now_ms() - since_ms < REQUEST_ID_LIFE_S * 1000:
            return known
        answer = work()
        if key:
            self._answers[key] = self.now_ms(), answer
        return answer

    def _booked_each(self, realm: str, items: list[BatchItem]) -> Answer:
        answers = []
        for i, item in enumerate(items):
            over = self.limits.admit(self.now_ms(), 1) if i else None
            if over:
                answer = self.limited(over)
            elif self.partial and i % 2:
                answer = _errors(500, "SystemFault", "10000", "An application error has occurred")
            else:
                answer = self._booked(realm, item.journal)
            told = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
            answers.append(
                {"bId": item.place, **{name: told[name] for name in ("JournalEntry", "Fault") if name in told}}
            )
        return json_answer(200, {"BatchItemResponse": answers, "time": "2026-06-15T08:00:00.000-07:00"})

    def _booked(self, realm: str, body: bytes | msgspec.Raw) -> Answer:
        try:
            journal = read_json(body, JournalEntry)
        except Malformed as error:
            return self.malformed(error)
        currency = journal.currency_ref.value if journal.currency_ref else ""
        lines = [_ledger_line(line) for line in journal.line]
        try:
            document = self.ledger.book(realm, journal.private_note, journal.txn_date, lines, currency)
        except Refused as refused:
            return _errors(400, "ValidationFault", _CODES[refused.reason], refused.text)
        self._numbers[document.number] = journal.doc_number
        return json_answer(200, {"JournalEntry": self._told(document), "time": "2026-06-15T08:00:00.000-07:00"})

    # queries

    def query(self, request: Request, realm: str) -> Answer:
        """The select of journal entries by document number, in pages."""
        text = request.query.get("query", "")
        match = re.fullmatch(
            r"select \* from JournalEntry where DocNumber (?:in \((?P<listed>.*)\)|like '(?P<like>\w+)%')"
            r" orderby Id startposition (?P<start>\d+) maxresults (?P<rows>\d+)",
            text,
        )
        if not match or int(match["rows"]) > QUERY_ROWS_MAX:
            return _errors(400, "ValidationFault", "4000", "Error parsing query")
        listed = Counter(re.findall(r"'((?:[^'\\]|\\.)*)'", match["listed"] or ""))
        wanted = {re.sub(r"\\(.)", r"\1", number) for number in listed}
        found = [
            document
            for document in self.ledger.documents
            if document.company == realm
            and (
                self._numbers[document.number].startswith(match["like"])
                if match["like"]
                else self._numbers[document.number] in wanted
            )
        ]
        first = int(match["start"]) - 1
        page = found[first : first + int(match["rows"])]
        rows = {"JournalEntry": [self._told(document) for document in page]} if page else {}
        return json_answer(200, {"QueryResponse": {**rows, "startPosition": first + 1, "maxResults": len(page)}})

    def _told(self, document: Document) -> dict:
        return {
            "Id": document.number,
            "SyncToken": "0",
            "domain": "QBO",
            "TxnDate": document.booked_on,
            "DocNumber": self._numbers[document.number],
            "PrivateNote": document.key,
            "CurrencyRef": {"value": self.ledger.companies[document.company].currency},
            "Line": [_told_line(i, line) for i, line in enumerate(document.lines)],
        }


def _ledger_line(line: JournalLine) -> Line:
    detail = line.journal_entry_line_detail
    amount, zero = Decimal(line.amount), Decimal(0)
    debit, credit = (amount, zero) if detail.posting_type == "Debit" else (zero, amount)
    return Line(detail.account_ref.value, debit, credit, line.description)


def _told_line(place: int, line: Line) -> dict:
    return {
        "Id": str(place),
        "Description": line.text,
        "Amount": line.debit + line.credit,
        "DetailType": "JournalEntryLineDetail",
        "JournalEntryLineDetail": {
            "PostingType": "Debit" if line.debit else "Credit",
            "AccountRef": {"value": line.account, "name": line.account},
        },
    }


def _errors(status: int, type: str, code: str, text: str, element: str = "") -> Answer:
    error = {"Message": text, "Detail": text, "code": code, "element": element}
    body = {"Fault": {"Error": [error], "type": type}, "time": "2026-06-15T08:00:00.000-07:00"}
    return json_answer(status, body)
