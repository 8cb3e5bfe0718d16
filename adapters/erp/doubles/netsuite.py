"""A NetSuite account: journal entries over the REST record API, asynchronous batches, SuiteQL for two questions.

Written from the vendor's help: record service (section_0223040947), batch operations (article_0127092747), asynchronous
requests (subsect_161278579295, _161252896355, _161252889998, _164494900632), errors (section_156570709583), concurrency
(section_1525253248). An account's metadata-catalog, which is an OpenAPI description, can't be had offline; the types
below are the record journalEntry by its sample (section_159886587653) and external ids by section_156334828635. Not
documented, and chosen here: one task a record in the order of the batch, how long texts may be, and the texts that
refuse a known external id or a closed period.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, ClassVar

import msgspec

from adapters.erp.doubles.access import CLIENT_ID, TOKEN_ID, SignedAccess
from adapters.erp.doubles.double import Double, Route
from adapters.erp.doubles.exchange import Answer, Malformed, Number, Request, json_answer, read_json
from adapters.erp.doubles.ledger import Ledger, Line, Refused
from adapters.erp.doubles.limits import Over, RequestLimits
from adapters.erp.doubles.trouble import Trouble
from runtime.ports import Clock

BATCH_RECORDS_MAX = 100
CONCURRENCY = 5
MEMO_CHARS_MAX = 999
JOB_S = 3.0  # how long a job takes
_RECORD = "/services/rest/record/v1/journalEntry"
_JOB = "/services/rest/async/v1/job"


class Reference(msgspec.Struct, forbid_unknown_fields=True):
    """Another record, by its internal id."""

    id: Annotated[str, msgspec.Meta(min_length=1)]


Memo = Annotated[str, msgspec.Meta(max_length=MEMO_CHARS_MAX)]


class JournalLine(msgspec.Struct, forbid_unknown_fields=True):
    """One line: a debit or a credit."""

    account: Reference
    debit: Number = Number(0)
    credit: Number = Number(0)
    memo: Memo = ""
    department: Reference | None = None
    location: Reference | None = None
    entity: Reference | None = None


class Lines(msgspec.Struct, forbid_unknown_fields=True):
    """A sublist."""

    items: list[JournalLine]


class JournalEntry(msgspec.Struct, forbid_unknown_fields=True):
    """The record `journalEntry`, as far as it is documented for posting."""

    subsidiary: Reference
    line: Lines
    externalId: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]*$")] = ""  # noqa: N815  the vendor's own names
    tranDate: date = date(2026, 1, 1)  # noqa: N815
    memo: Memo = ""
    currency: Reference | None = None


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """A collection of records of one type; each is read when its turn comes."""

    items: list[msgspec.Raw]


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """A SuiteQL request."""

    q: str


class _Job(msgspec.Struct):
    id: str
    results: list[Answer]


class NetSuiteDouble(Double):
    """External ids are unique for ever. A job's records are booked when its time has come."""

    name = "netsuite"
    routes = (
        Route("POST", _RECORD, "create", writes=True),
        Route("GET", f"{_RECORD}/eid:(?P<key>[A-Za-z0-9_-]+)", "get_record"),
        Route("GET", f"{_JOB}/(?P<job>\\d+)", "get_job"),
        Route("GET", f"{_JOB}/(?P<job>\\d+)/task/(?P<task>\\d+)/result", "get_result"),
        Route("POST", "/services/rest/query/v1/suiteql", "query"),
    )
    QUERIES: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"FROM transaction WHERE externalid IN \((?P<listed>.*)\)", "_records"),
        (r"FROM transactionaccountingline .* IN \((?P<listed>.*?)\) GROUP BY", "_turnover"),
    )

    def __init__(self, ledger: Ledger, *, clock: Clock, trouble: Trouble | None = None) -> None:
        limits = RequestLimits(concurrency=CONCURRENCY)
        super().__init__(ledger, clock=clock, access=SignedAccess(), limits=limits, trouble=trouble)
        self._jobs: dict[str, _Job] = {}
        self._job_of_key: dict[str, str] = {}

    def section(self, url: str) -> dict:
        return {
            "kind": "netsuite",
            "url": url,
            "auth": {
                "kind": "oauth1",
                "client_id": CLIENT_ID,
                "secret": {"env": "PENSTOCK_DOUBLE_SECRET"},
                "token_id": TOKEN_ID,
                "token_secret": {"env": "PENSTOCK_DOUBLE_TOKEN_SECRET"},
                "realm": "DOUBLE_SB1",
            },
        }

    def limited(self, over: Over) -> Answer:
        return _error(429, "SSS_REQUEST_LIMIT_EXCEEDED", "concurrent request limit exceeded")

    def failed(self, status: int, text: str) -> Answer:
        codes = {400: "INVALID_CONTENT", 401: "INVALID_LOGIN", 404: "NONEXISTENT_ID"}
        return _error(status, codes.get(status, "UNEXPECTED_ERROR"), text)

    def malformed(self, error: Malformed) -> Answer:
        return _error(400, "INVALID_CONTENT", str(error), path=error.path)

    # records

    def create(self, request: Request) -> Answer:
        """POST of one record, or of a batch."""
        if "respond-async" in request.headers.get("prefer", ""):
            return self._start_job(request)
        return self._book(request.body)

    def get_record(self, request: Request, key: str) -> Answer:
        """GET of a record by its external id."""
        found = self.ledger.by_key(key)
        if not found:
            return self.failed(404, "The record instance does not exist.")
        return json_answer(200, {"id": found[0].number, "externalId": key, "tranId": f"JE{found[0].number}"})

    def _book(self, body: bytes | msgspec.Raw) -> Answer:
        try:
            record = read_json(body, JournalEntry)
        except Malformed as error:
            return self.malformed(error)
        if record.externalId and self.ledger.by_key(record.externalId):
            return _error(400, "USER_ERROR", "This record already exists")
        lines = [
            Line(each.account.id, Decimal(each.debit), Decimal(each.credit), each.memo) for each in record.line.items
        ]
        try:
            document = self.ledger.book(record.subsidiary.id, record.externalId, record.tranDate, lines)
        except Refused as refused:
            return _error(400, "USER_ERROR", refused.text)
        return Answer(204, headers={"Location": f"{_RECORD}/{document.number}"})

    # jobs

    def _start_job(self, request: Request) -> Answer:
        if request.headers.get("content-type") != "application/vnd.oracle.resource+json; type=collection":
            raise Malformed("a batch is a collection")
        items = request.read(Batch).items
        if not 0 < len(items) <= BATCH_RECORDS_MAX:
            raise Malformed(f"a batch has at most {BATCH_RECORDS_MAX} records")
        key = request.headers.get("x-netsuite-idempotency-key", "")
        if key in self._job_of_key:
            location = {"Location": f"{_JOB}/{self._job_of_key[key]}"}
            return _error(400, "IDEMPOTENCY_ERROR", "the idempotency key was used before", location)
        job = _Job(str(len(self._jobs) + 1), [])
        self._jobs[job.id] = job
        if key:
            self._job_of_key[key] = job.id
        partial = self.partial
        self.later(JOB_S, lambda: self._run(job, items, partial))
        return Answer(202, headers={"Preference-Applied": "respond-async", "Location": f"{_JOB}/{job.id}"})

    def _run(self, job: _Job, items: list[msgspec.Raw], partial: bool) -> None:
        broken = _error(500, "UNEXPECTED_ERROR", "An unexpected error occurred.")
        job.results += [broken if partial and i % 2 else self._book(item) for i, item in enumerate(items)]

    def get_job(self, request: Request, job: str) -> Answer:
        """GET of a job's state."""
        if job not in self._jobs:
            return self.failed(404, "no such job")
        done = bool(self._jobs[job].results)
        return json_answer(200, {"completed": done, "id": job, "progress": "succeeded" if done else "pending"})

    def get_result(self, request: Request, job: str, task: str) -> Answer:
        """GET of what one task answered."""
        results = self._jobs[job].results if job in self._jobs else []
        return results[int(task) - 1] if 0 < int(task) <= len(results) else self.failed(404, "no such task")

    # SuiteQL

    def query(self, request: Request) -> Answer:
        """The two questions that this account's user may ask."""
        text = request.read(Query).q
        for pattern, method in self.QUERIES:
            if match := re.search(pattern, text):
                ask: Callable[[Mapping[str, None]], list[dict]] = getattr(self, method)
                rows = ask(dict.fromkeys(re.findall(r"'([^']*)'", match["listed"])))
                offset, limit = int(request.query.get("offset", 0)), int(request.query.get("limit", 1000))
                page = rows[offset : offset + limit]
                return json_answer(200, {"items": page, "count": len(page), "hasMore": offset + limit < len(rows)})
        return self.failed(400, "Invalid or unsupported search")

    def _records(self, keys: Mapping[str, None]) -> list[dict]:
        found = [document for key in keys for document in self.ledger.by_key(key)]
        return [{"id": each.number, "tranid": f"JE{each.number}", "externalid": each.key} for each in found]

    def _turnover(self, companies: Mapping[str, None]) -> list[dict]:
        return [
            {
                "subsidiary": company,
                "account": account,
                "currency": self.ledger.companies[company].currency,
                "debit": str(debit),
                "credit": str(credit),
            }
            for company in companies
            for account, (debit, credit) in self.ledger.turnover(company).items()
        ]


def _error(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, path: str = "") -> Answer:
    place = {"o:errorPath": path} if path else {}
    body = {"status": status, "o:errorDetails": [{"detail": detail, "o:errorCode": code, **place}]}
    return json_answer(status, body, headers)
