"""A small ERP of no vendor: journals by plain REST, one by one, in batches, and as a CSV file.

Stands for the many that are described by configuration alone. Its contract: an `Idempotency-Key` names one journal for
ever, and without one a reference does; a batch is judged item by item; a CSV file is booked whole or not at all, and
knows no key; journals are found by their references; 300 requests a minute, two at a time, then 429 with Retry-After.
"""

import csv
import io
import math
from collections.abc import Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated

import msgspec

from adapters.erp.doubles.access import SECRET, HeaderAccess
from adapters.erp.doubles.double import Double, Route
from adapters.erp.doubles.exchange import Answer, Malformed, Number, Request, json_answer
from adapters.erp.doubles.ledger import Document, Ledger, Line, Refused
from adapters.erp.doubles.limits import Over, RequestLimits, Window
from adapters.erp.doubles.trouble import Trouble
from runtime.ports import Clock

BATCH_JOURNALS_MAX = 20
REFERENCE_CHARS_MAX = 128
TEXT_CHARS_MAX = 1000
_COLUMNS = ["Reference", "Company", "Date", "Currency", "Account", "Debit", "Credit", "Text"]

_LINE = {"account": "{account}", "debit": "{debit:number}", "credit": "{credit:number}", "text": "{text} {facility}"}
_JOURNAL = {
    "reference": "{key}",
    "company": "{company}",
    "date": "{date}",
    "currency": "{currency}",
    "lines": {"$each": "lines", "$of": _LINE},
}
_ERRORS = {"code": "error.code", "text": "error.message"}
_LOOKUP = {
    "path": "/api/journals",
    "params": {"references": "{keys}"},
    "items": {"at": "data", "key": "reference", "reference": "number"},
}
# Descriptions of this interface, as `[erp.settings]`.
SINGLE_SETTINGS = {
    "terms": {"native_key": "permanent", "settle_s": 30, "concurrency": 2, "per_minute": 300},
    "post": {
        "path": "/api/journals",
        "headers": {"Idempotency-Key": "{key}"},
        "body": _JOURNAL,
        "reference": "data.number",
    },
    "lookup": _LOOKUP,
    "errors": _ERRORS,
}
REFERENCE_SETTINGS = {
    **SINGLE_SETTINGS,
    "post": {"path": "/api/journals", "body": _JOURNAL, "reference": "data.number"},
    "errors": {**_ERRORS, "duplicate": {"status": 409, "code": "^duplicate$"}},
}
BATCH_SETTINGS = {
    "terms": {"settle_s": 30, "entries_max": BATCH_JOURNALS_MAX, "concurrency": 2, "per_minute": 300},
    "post": {
        "path": "/api/journals/batch",
        "body": {"journals": {"$each": "entries", "$of": _JOURNAL}},
        "items": {
            "at": "results",
            "key": "reference",
            "reference": "number",
            "state": "state",
            "posted": ["booked"],
            "rejected": ["refused"],
            "reason": "message",
        },
    },
    "lookup": _LOOKUP,
    "errors": _ERRORS,
}
CSV_SETTINGS = {
    "terms": {"settle_s": 30, "entries_max": 50, "per_minute": 300},
    "post": {
        "path": "/api/journals/import",
        "key": "{key:24}",
        "reference": "data.file",
        "csv": {
            "columns": [
                {"name": "Reference", "value": "{key}"},
                {"name": "Company", "value": "{company}"},
                {"name": "Date", "value": "{date:%d.%m.%Y}"},
                {"name": "Currency", "value": "{currency}"},
                {"name": "Account", "value": "{account}"},
                {"name": "Debit", "value": "{debit}"},
                {"name": "Credit", "value": "{credit}"},
                {"name": "Text", "value": "{text}"},
            ],
            "separator": ";",
        },
    },
    "lookup": {**_LOOKUP, "items": {"at": "data", "key": "reference", "reference": "file"}},
    "errors": _ERRORS,
}


class JournalLine(msgspec.Struct, forbid_unknown_fields=True):
    """One line."""

    account: str
    debit: Number
    credit: Number
    text: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)] = ""


class Journal(msgspec.Struct, forbid_unknown_fields=True):
    """One journal."""

    reference: Annotated[str, msgspec.Meta(min_length=1, max_length=REFERENCE_CHARS_MAX)]
    company: str
    date: date
    currency: str
    lines: list[JournalLine]


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """Journals that are judged one by one."""

    journals: list[Journal]


class RestDouble(Double):
    """The small ERP."""

    name = "rest"
    routes = (
        Route("POST", "/api/journals", "create", writes=True),
        Route("POST", "/api/journals/batch", "batch", writes=True),
        Route("POST", "/api/journals/import", "import_file", writes=True),
        Route("GET", "/api/journals", "find"),
    )

    def __init__(self, ledger: Ledger, *, clock: Clock, trouble: Trouble | None = None) -> None:
        limits = RequestLimits([Window("requests a minute", 60, 300)], concurrency=2)
        access = HeaderAccess("X-Api-Key", SECRET)
        super().__init__(ledger, clock=clock, access=access, limits=limits, trouble=trouble)
        self._by_key: dict[str, tuple[bytes, Answer]] = {}
        self._files: dict[str, str] = {}  # the file that a document came in, by its number

    def section(self, url: str) -> dict:
        auth = {"kind": "header", "header": "X-Api-Key", "secret": {"env": "PENSTOCK_DOUBLE_SECRET"}}
        return {"kind": "rest", "url": url, "auth": auth, "settings": SINGLE_SETTINGS}

    def limited(self, over: Over) -> Answer:
        wait = {"Retry-After": str(math.ceil(max(over.retry_after_s, 1)))}
        return json_answer(429, _error("too_many", "too many requests"), wait)

    def failed(self, status: int, text: str) -> Answer:
        return json_answer(status, _error(str(status), text))

    def create(self, request: Request) -> Answer:
        """One journal. Its key, or its reference, names it for ever; what was refused may be tried again."""
        key = request.headers.get("idempotency-key", "")
        known = self._by_key.get(key)
        if key and known:
            return known[1] if known[0] == request.body else json_answer(409, _error("conflict", "other content"))
        journal = request.read(Journal)
        if not key and self.ledger.by_key(journal.reference):
            return json_answer(409, _error("duplicate", "the reference is known"))
        try:
            document = self._book(journal)
        except Refused as refused:
            return json_answer(422, _error(refused.reason, refused.text))
        answer = json_answer(201, {"data": {"reference": document.key, "number": document.number}})
        if key:
            self._by_key[key] = request.body, answer
        return answer

    def batch(self, request: Request) -> Answer:
        """Many journals, each judged by itself."""
        journals = request.read(Batch).journals
        if len(journals) > BATCH_JOURNALS_MAX:
            raise Malformed(f"a batch has at most {BATCH_JOURNALS_MAX} journals")
        return json_answer(200, {"results": [self._result(i, journal) for i, journal in enumerate(journals)]})

    def _result(self, place: int, journal: Journal) -> dict:
        if self.partial and place % 2:
            return {"reference": journal.reference, "state": "failed", "message": "try again"}
        try:
            document = self._book(journal)
        except Refused as refused:
            return {"reference": journal.reference, "state": "refused", "message": refused.text}
        return {"reference": journal.reference, "state": "booked", "number": document.number}

    def import_file(self, request: Request) -> Answer:
        """A CSV file: all journals or none."""
        journals = _read(request)
        try:
            for journal in journals:
                self.ledger.check(journal.company, journal.date, _lines(journal), journal.currency)
        except Refused as refused:
            return json_answer(422, _error(refused.reason, refused.text))
        file = f"F{len(self._files) + 1}"
        self._files |= {self._book(journal).number: file for journal in journals}
        return json_answer(201, {"data": {"file": file}})

    def find(self, request: Request) -> Answer:
        """Journals by their references."""
        wanted = request.query.get("references", "").split(",")
        found = [document for reference in wanted for document in self.ledger.by_key(reference)]
        return json_answer(200, {"data": [self._told(document) for document in found]})

    def _told(self, document: Document) -> dict:
        return {
            "reference": document.key,
            "number": document.number,
            "file": self._files.get(document.number, ""),
        }

    def _book(self, journal: Journal) -> Document:
        return self.ledger.book(journal.company, journal.reference, journal.date, _lines(journal), journal.currency)


def _lines(journal: Journal) -> list[Line]:
    return [Line(line.account, Decimal(line.debit), Decimal(line.credit), line.text) for line in journal.lines]


def _read(request: Request) -> list[Journal]:
    """The journals of a file, in their order; Malformed when it is not as the contract says."""
    if request.headers.get("content-type") != "text/csv":
        raise Malformed("not a CSV file")
    rows = list(csv.reader(io.StringIO(request.body.decode(), newline=""), delimiter=";"))
    if not rows or rows[0] != _COLUMNS:
        raise Malformed("not the columns of a journal file")
    journals: dict[str, Journal] = {}
    for row in rows[1:]:
        try:
            journal, line = _row(row)
        except (ValueError, InvalidOperation) as error:
            raise Malformed(str(error)) from None
        journals.setdefault(journal.reference, journal).lines.append(line)
    return list(journals.values())


def _row(row: Sequence[str]) -> tuple[Journal, JournalLine]:
    reference, company, day, currency, account, debit, credit, text = row
    if len(reference) > 24:
        raise ValueError("a reference has more than 24 characters")
    booked_on = date(*reversed([int(part) for part in day.split(".")]))
    journal = Journal(reference, company, booked_on, currency, [])
    return journal, JournalLine(account, Number(debit), Number(credit), text)


def _error(code: str, message: str) -> dict:
    return {"error": {"code": code, "message": message}}
