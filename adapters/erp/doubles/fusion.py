"""An Oracle Fusion Cloud instance: journals by file import, the jobs that import them, the batches that come of it.

Written from Oracle's REST reference for ERP integrations and journal batches, the template of GlInterface.csv (149
columns, no heading), and what others measured on a real instance: a job imports all lines of its group, those of
earlier files that were refused too; one bad line holds back the whole group; refused lines stay in the interface table
with codes; an unbalanced journal is imported, unposted; a file that was seen before is imported again. Not documented,
and chosen here: how long a job takes, and the form of its report.
"""

import base64
import csv
import io
import re
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Literal, NamedTuple

import msgspec

from adapters.erp.doubles.access import CLIENT_ID, TOKEN_PATH, BearerAccess
from adapters.erp.doubles.double import Double, Route
from adapters.erp.doubles.exchange import Answer, Malformed, Request, json_answer
from adapters.erp.doubles.ledger import Document, Ledger, Line, Refused
from adapters.erp.doubles.limits import Over, RequestLimits
from adapters.erp.doubles.trouble import Trouble
from runtime.ports import Clock

JOB_S = 10.0
SOURCE = "Penstock"  # the one journal source that is set up
_RESOURCES = "/fscmRestApi/resources/11.13.18.05"
_JOB = "/oracle/apps/ess/financials/generalLedger/programs/common,JournalImportLauncher"
_COLUMNS = 149
_CODES = {"unknown_account": "EF04", "closed_period": "EP01", "currency": "EC02", "no_company": "EL01"}


class Import(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """What importBulkData is asked."""

    operation_name: Literal["importBulkData"]
    document_content: str
    content_type: Literal["zip"]
    file_name: str
    document_account: Literal["fin/generalLedger/import"]
    job_name: str
    parameter_list: str
    callback_url: str | None = msgspec.field(default=None, name="CallbackURL")
    notification_code: str | None = None
    job_options: str | None = None


class _Row(NamedTuple):
    """One line of the interface table."""

    ledger: str
    group: str
    batch: str
    text: str
    booked_on: date
    currency: str
    line: Line


class _Job(msgspec.Struct):
    status: str = "RUNNING"
    report: str = ""


class _Batch(NamedTuple):
    id: int
    name: str
    text: str
    status: str


class FusionDouble(Double):
    """One instance; ledgers are companies. `ledger` knows documents by the batch's description."""

    name = "fusion"
    routes = (
        Route("POST", f"{_RESOURCES}/erpintegrations", "integrate", writes=True),
        Route("GET", f"{_RESOURCES}/erpintegrations", "details"),
        Route("GET", f"{_RESOURCES}/journalBatches", "batches"),
    )

    def __init__(self, ledger: Ledger, *, clock: Clock, trouble: Trouble | None = None) -> None:
        limits = RequestLimits()  # none is published
        super().__init__(ledger, clock=clock, access=BearerAccess(), limits=limits, trouble=trouble)
        self.report_names_batches = True
        self.hide_batches = False  # as while a replica of the ledger is behind
        self._jobs: dict[str, _Job] = {}
        self._interface: list[_Row] = []
        self._batches: list[_Batch] = []

    def section(self, url: str) -> dict:
        return {
            "kind": "fusion",
            "url": url,
            "auth": {
                "kind": "oauth2_client",
                "token_url": f"{url}{TOKEN_PATH}",
                "client_id": CLIENT_ID,
                "secret": {"env": "PENSTOCK_DOUBLE_SECRET"},
            },
        }

    def limited(self, over: Over) -> Answer:
        return json_answer(429, {"title": "Too Many Requests", "status": "429"}, {"Retry-After": "1"})

    def failed(self, status: int, text: str) -> Answer:
        return json_answer(status, {"title": text, "status": str(status)})

    # the import

    def integrate(self, request: Request) -> Answer:
        """POST of a file, which starts a job."""
        asked = request.read(Import)
        parameters = asked.parameter_list.split(",")
        if asked.job_name != _JOB or len(parameters) != 7:
            raise Malformed("no such job, or not its parameters")
        rows = _rows_of(asked.document_content)
        number = str(300_000 + len(self._jobs))
        self._jobs[number] = _Job()
        self.later(JOB_S, lambda: self._run(number, rows, parameters))
        told = {"OperationName": "importBulkData", "DocumentId": "1", "ReqstId": number}
        return json_answer(201, told)

    def _run(self, number: str, rows: list[_Row], parameters: list[str]) -> None:
        """Load the file's lines into the interface table, then import all lines of the group, or none."""
        self._interface += rows
        _, source, ledger, group, *_ = parameters
        chosen = [row for row in self._interface if (row.ledger, row.group) == (ledger, group)]
        if source != SOURCE or not chosen:
            self._jobs[number] = _Job("WARNING", "no lines in the interface table for these parameters")
            return
        faults = [(row, fault) for row in chosen if (fault := self._fault(row))]
        if faults:
            named = "{} {}" if self.report_names_batches else "{1}"
            listed = "\n".join(named.format(row.batch, fault) for row, fault in faults)
            self._jobs[number] = _Job("WARNING", f"group {group}: lines in error\n{listed}\n")
            return
        self._interface = [row for row in self._interface if row not in chosen]
        for name in dict.fromkeys(row.batch for row in chosen):
            self._book(number, [row for row in chosen if row.batch == name])
        self._jobs[number] = _Job("SUCCEEDED", f"group {group}: imported {len(chosen)} lines")

    def _fault(self, row: _Row) -> str:
        """Status and description of a line's fault, "" without one; that it does not balance alone is none."""
        other = row.line._replace(debit=row.line.credit, credit=row.line.debit)
        try:
            self.ledger.check(row.ledger, row.booked_on, [row.line, other], row.currency)
        except Refused as refused:
            return f"{_CODES.get(refused.reason, 'EM01')} {refused.text}"
        return ""

    def _book(self, job: str, rows: list[_Row]) -> None:
        first, number = rows[0], 1_000 + len(self._batches)
        lines = tuple(row.line for row in rows)
        document = Document(str(number), first.ledger, first.text, first.booked_on, lines)
        self.ledger.documents.append(document)
        self._batches.append(_Batch(number, f"{first.batch} {SOURCE} {job}: A", first.text, "U"))

    def post_batches(self) -> None:
        """What AutoPost does when its time has come."""
        self._batches = [batch._replace(status="P") for batch in self._batches]

    # questions

    def details(self, request: Request) -> Answer:
        """The finders for a job's status and for its report."""
        finder = request.query.get("finder", "")
        match = re.fullmatch(r"ESSJob(Status|ExecutionDetails)RF;requestId=(\d+)(?:,fileType=ALL)?", finder)
        if not match:
            return self.failed(400, "no such finder")
        job = self._jobs.get(match[2])
        if match[1] == "Status":
            return _items([{"RequestStatus": job.status}] if job else [])
        return _items([{"DocumentContent": _zipped(match[2], job.report)}] if job else [])

    def batches(self, request: Request) -> Answer:
        """The journal batches whose name begins so."""
        match = re.fullmatch(r"BatchName LIKE '((?:[^']|'')*)%'", request.query.get("q", ""))
        if not match:
            return self.failed(400, "no such query")
        # As in SQL, an underscore stands for any one character.
        pattern = re.escape(match[1].replace("''", "'")).replace("_", ".")
        found = [each for each in self._batches if re.match(pattern, each.name) and not self.hide_batches]
        names = ("JeBatchId", "BatchName", "BatchDescription", "Status")
        return _items([dict(zip(names, each, strict=True)) for each in found])


def _items(items: Sequence[dict]) -> Answer:
    return json_answer(200, {"items": items, "count": len(items), "hasMore": False, "limit": 25, "offset": 0})


def _zipped(number: str, text: str) -> str:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(f"{number}.log", text)
    return base64.b64encode(zipped.getvalue()).decode()


def _rows_of(content: str) -> list[_Row]:
    """The file's lines; Malformed when it is not what the template asks for."""
    try:
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(content, validate=True))) as archive:
            text = archive.read("GlInterface.csv").decode()
        return [_row_of(row) for row in csv.reader(io.StringIO(text, newline=""))]
    except (ValueError, KeyError, zipfile.BadZipFile, InvalidOperation) as error:
        raise Malformed(f"GlInterface.zip: {error}") from None


def _row_of(row: list[str]) -> _Row:
    if len(row) != _COLUMNS or (row[0], row[7]) != ("NEW", "A") or not (row[3] and row[4]):
        raise ValueError("a line is not as in the template")
    if any(len(text) > 240 for text in row):
        raise ValueError("a reference has more than 240 characters")
    if not (re.fullmatch("[A-Z]{3}", row[5]) and re.fullmatch(r"\d{1,18}", row[66])):
        raise ValueError("a currency is not of three letters, or a group is no number")
    if bool(row[38]) == bool(row[39]):
        raise ValueError("a line is a debit or a credit")
    account = "-".join(segment for segment in row[8:38] if segment)
    line = Line(account, Decimal(row[38] or 0), Decimal(row[39] or 0), row[51])
    booked_on = datetime.strptime(row[2], "%Y/%m/%d").date()
    return _Row(row[1], row[66], row[42], row[43], booked_on, row[5], line)
