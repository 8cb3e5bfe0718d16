"""Posts journal entries into Oracle NetSuite over its REST record API.

Owns the form of a journal entry, and what NetSuite's answers mean. The key is the record's external id, which NetSuite
keeps unique for ever; no other integration may own the external ids of journal entries in that account.

Calls are asynchronous batches (up to 100 records in one job, each with its own result) or single records, by the
setting `mode`. Account codes of the crosswalk are NetSuite's internal ids of accounts. What the vendor's documents do
not state is a setting, with the safe value as its default:
- `lookup`: "eid" asks for each key by itself, which is documented; "suiteql" asks for all at once, faster.
- `duplicate`: how the text reads by which NetSuite refuses a known external id; the record itself is then looked up.
"""

import uuid
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import Field

from adapters.erp.http.amounts import json_amount, minor_of
from adapters.erp.http.dialect import Dialect, Reply, Rule, VendorError, fault_of
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.gateway import ErpConnection, HttpGateway, PatternText, settings_of, told_of_each
from adapters.erp.http.naming import line_text, plain_name
from adapters.erp.http.transport import Request
from runtime.ports import ErpAccount, ErpTerms, JournalEntry, JournalLine, Outcome
from runtime.sections import Section

RECORD = "/services/rest/record/v1/journalEntry"
JOB = "/services/rest/async/v1/job"
QUERY = "/services/rest/query/v1/suiteql"
COLLECTION = "application/vnd.oracle.resource+json; type=collection"
QUERY_ROWS_MAX = 1000

MEMO_CHARS_MAX = 999  # not stated by the vendor; fewer than any form of it is said to take
_JOB_TERMS = ErpTerms(
    native_key="permanent",
    lookup_keys_max=100,
    settle_s=900.0,  # NetSuite ends a request after 15 minutes
    atomicity="job",
    lines_max=4000,
    entries_max=100,
    bytes_max=104 * 10**6,
    concurrency=5,  # of the standard account; each SuiteCloud Plus licence adds 10
)
_SINGLE_TERMS = msgspec.structs.replace(_JOB_TERMS, atomicity="per_item", lines_max=1000, entries_max=1)


class Settings(Section):
    """`[erp.settings]` of a NetSuite account."""

    mode: Literal["batch", "single"] = "batch"
    lookup: Literal["eid", "suiteql"] = "eid"
    duplicate: PatternText = Field(
        default="already exists|DUP_RCRD", description="pattern in the refusal of a known key"
    )
    currencies: dict[Annotated[str, Field(pattern=r"^[A-Z]{3}$")], str] = Field(
        default={}, description="NetSuite's internal id of each currency; one without is the subsidiary's own"
    )


class _Detail(msgspec.Struct):
    detail: str = ""
    code: str = msgspec.field(default="", name="o:errorCode")


class _Errors(msgspec.Struct):
    details: list[_Detail] = msgspec.field(default_factory=list, name="o:errorDetails")


class _Job(msgspec.Struct):
    completed: bool = False


class _Record(msgspec.Struct):
    id: str


class _Rows(msgspec.Struct):
    items: list[dict[str, Any]]
    hasMore: bool = False  # noqa: N815  NetSuite's own name


class _Handle(NamedTuple):
    """An entry's place in a job. As text it is the reference of an accepted entry, so that nothing else need be kept
    to read the job's report."""

    job: str
    index: int
    key: str

    def __str__(self) -> str:
        return f"{self.job}/{self.index}/{self.key}"


def error_of(reply: Reply) -> VendorError:
    """NetSuite's error body: the first code, all texts."""
    details = reply.read(_Errors).details
    return VendorError(details[0].code, " ".join(each.detail for each in details)) if details else VendorError()


# Too many requests at a time come as 400 from some of its services, and as 429 from others.
_BUSY = "SSS_REQUEST_LIMIT_EXCEEDED|Exceeded\\w*RequestLimit|WS_REQUEST_BLOCKED|WS_CONCUR_SESSION_DISALLWD"
DIALECT = Dialect(
    "netsuite",
    (
        Rule("throttled", error=_BUSY, detail="too many requests at a time"),
        Rule("unauthorised", error="INVALID_LOGIN|INSUFFICIENT_PERMISSION"),
    ),
    error_of,
)


class NetSuiteGateway(HttpGateway):
    """One NetSuite account; each entity is a subsidiary, by `erp.companies`."""

    own_settings = Settings

    def __init__(self, connection: ErpConnection) -> None:
        self._settings = settings_of(Settings, connection.section)
        self._batch = self._settings.mode == "batch"
        super().__init__(connection, dialect=DIALECT, terms=_JOB_TERMS if self._batch else _SINGLE_TERMS)

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        return self._submit(entries, 0) if self._batch else [self._create(entry) for entry in entries]

    def takes_currency(self, currency: str) -> bool:
        return currency in self._settings.currencies

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        return self._query_keys(keys) if self._settings.lookup == "suiteql" else self._ask_keys(keys)

    def report(self, jobs: Sequence[str]) -> list[Outcome]:
        by_job: dict[str, list[_Handle]] = {}
        for text in jobs:
            job, index, key = text.split("/", 2)
            by_job.setdefault(job, []).append(_Handle(job, int(index), key))
        return told_of_each(by_job, lambda job: self._results(by_job[job]) if self._ended(job) else [])

    def turnover(self) -> list[ErpAccount]:
        entities = {company: entity for entity, company in self.companies.items()}
        listed = ", ".join(_quoted(company) for company in entities)
        rows = self._query(
            "SELECT t.subsidiary AS subsidiary, a.account AS account, c.symbol AS currency, SUM(a.debit) AS debit, "
            "SUM(a.credit) AS credit FROM transactionaccountingline a JOIN transaction x ON x.id = a.transaction "
            "JOIN transactionline t ON t.transaction = a.transaction AND t.id = a.transactionline "
            "JOIN subsidiary s ON s.id = t.subsidiary JOIN currency c ON c.id = s.currency "
            f"WHERE a.posting = 'T' AND t.subsidiary IN ({listed}) GROUP BY t.subsidiary, a.account, c.symbol "
            "ORDER BY t.subsidiary, a.account"
        )
        return [
            ErpAccount(
                entities[str(row["subsidiary"])],
                row["currency"],
                str(row["account"]),
                minor_of(row.get("debit"), row["currency"]),
                minor_of(row.get("credit"), row["currency"]),
            )
            for row in rows
        ]

    # one record at a time

    def _create(self, entry: JournalEntry) -> Outcome:
        request = Request("POST", RECORD, self._body(entry))
        try:
            location = self.http.send(request).header("location")
        except ErpFault as fault:
            if fault.code == "rejected" and self._is_duplicate(fault):
                return self.find([entry.key]).get(entry.key) or Outcome(entry.key, "unknown", detail=fault.detail)
            raise
        if not location:
            raise ErpFault("unknown", "NetSuite names no record")
        return Outcome(entry.key, "posted", location.rpartition("/")[2])

    # a job of many

    def _submit(self, entries: Sequence[JournalEntry], generation: int) -> list[Outcome]:
        """Make a job of these entries; the same entries again are the same job, until that has ended without them."""
        headers = {"Prefer": "respond-async", "X-NetSuite-idempotency-key": _job_key(entries, generation)}
        body = {"items": [self._body(entry) for entry in entries]}
        reply = self.http.send(Request("POST", RECORD, body, headers, content_type=COLLECTION), also=(400,))
        job = reply.header("location").rpartition("/")[2]
        if reply.status == 400 and error_of(reply).code != "IDEMPOTENCY_ERROR":
            raise fault_of(reply, DIALECT, self.clock.now_ms())
        if not job:
            raise ErpFault("unknown", "NetSuite named no job")
        if reply.status == 400 and self._ended(job):
            return self._resubmit(entries, generation + 1)
        return [Outcome(e.key, "accepted", str(_Handle(job, i, e.key))) for i, e in enumerate(entries)]

    def _resubmit(self, entries: Sequence[JournalEntry], generation: int) -> list[Outcome]:
        """A new job for what the ended one did not book."""
        found = self.find([entry.key for entry in entries])
        left = [entry for entry in entries if entry.key not in found]
        return [*found.values(), *(self._submit(left, generation) if left else [])]

    def _ended(self, job: str) -> bool:
        """Whether a job runs no more; one that NetSuite has forgotten does not."""
        reply = self.http.send(Request("GET", f"{JOB}/{job}", reads=True), also=(404,))
        return reply.status == 404 or reply.read(_Job).completed

    def _results(self, handles: Sequence[_Handle]) -> list[Outcome]:
        """What an ended job did: what is there is posted, whatever the job says of it; for the rest, its reasons."""
        found = self.find([handle.key for handle in handles])
        return [found.get(handle.key) or self._failure(handle) for handle in handles]

    def _failure(self, handle: _Handle) -> Outcome:
        task = f"{JOB}/{handle.job}/task/{handle.index + 1}/result"
        reply = self.http.send(Request("GET", task, reads=True), also=range(400, 600))
        fault = fault_of(reply, DIALECT, self.clock.now_ms())
        # The job has ended and the record is not there, so this task will apply nothing any more.
        code = "rejected" if fault.code == "rejected" else "unavailable"
        return Outcome(handle.key, code, detail=fault.detail)

    # finding

    def _ask_keys(self, keys: Sequence[str]) -> dict[str, Outcome]:
        found = {}
        for key in keys:
            reply = self.http.send(Request("GET", f"{RECORD}/eid:{plain_name(key)}", reads=True), also=(404,))
            if reply.status != 404:
                found[key] = Outcome(key, "posted", reply.read(_Record).id)
        return found

    def _query_keys(self, keys: Sequence[str]) -> dict[str, Outcome]:
        names = {plain_name(key): key for key in keys}
        listed = ", ".join(map(_quoted, names))
        rows = self._query(f"SELECT id, externalid FROM transaction WHERE externalid IN ({listed}) ORDER BY id")
        try:
            keyed = [(names[row["externalid"]], str(row["id"])) for row in rows]
        except (KeyError, TypeError):  # it must not look like keys that are not there
            raise ErpFault("unavailable", "the answer to a query by external ids does not name them") from None
        return {key: Outcome(key, "posted", number) for key, number in keyed}

    def _query(self, text: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while True:
            params = {"limit": str(QUERY_ROWS_MAX), "offset": str(len(rows))}
            request = Request("POST", QUERY, {"q": text}, {"Prefer": "transient"}, params, reads=True)
            page = self.http.send(request).read(_Rows)
            rows += page.items
            if not page.hasMore or not page.items:
                return rows

    # the record

    def _body(self, entry: JournalEntry) -> dict[str, Any]:
        currency = self._settings.currencies.get(entry.currency)
        return {
            "externalId": plain_name(entry.key),
            "subsidiary": {"id": self.companies[entry.entity]},
            "tranDate": entry.posted_on,
            "memo": entry.key,
            "line": {"items": [_line(line, entry.currency) for line in entry.lines]},
            **({"currency": {"id": currency}} if currency else {}),
        }

    def _is_duplicate(self, fault: ErpFault) -> bool:
        return self._settings.duplicate != "" and fault.mentions(self._settings.duplicate)


def _line(line: JournalLine, currency: str) -> dict[str, Any]:
    side = "debit" if line.side == "D" else "credit"
    amount = json_amount(line.amount_minor, currency)
    return {"account": {"id": line.account_code}, side: amount, "memo": line_text(line)[:MEMO_CHARS_MAX]}


def _job_key(entries: Sequence[JournalEntry], generation: int) -> str:
    """A UUID that the same entries have again, in the same generation."""
    told = "\x1f".join([str(generation), *(f"{entry.key} {entry.digest}" for entry in entries)])
    return str(uuid.UUID(bytes=blake2b(told.encode(), digest_size=16).digest(), version=4))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def open_gateway(connection: ErpConnection) -> NetSuiteGateway:
    """The adapter of `erp.kind = "netsuite"`."""
    return NetSuiteGateway(connection)
