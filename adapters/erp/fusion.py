"""Posts journal entries into Oracle Fusion Cloud ERP by its file import (FBDI): one file, one job, one report.

Owns the file `GlInterface.csv`, the job that imports it, and what the job's end says. Each entry is a batch of its own
in the general ledger, named by its key; that name is how it is found again, as Fusion refuses no file that it has seen.
Each entity is a ledger, by its id in `erp.companies`. Account codes of the crosswalk are the segments of an account,
joined by `segment_separator`.

One bad line holds back its whole group, and a call is one group. Where the job's report names the batches at fault, the
other entries are sent again; else all are refused together, and delivery tries them apart. The lines of a refused group
stay in Fusion's interface table: no group's number is used twice, as a job imports all lines of its group, and people
delete refused groups ("Delete Import Data") rather than correct them, as Penstock sends mended entries anew.

Imported is not posted: posting is Fusion's own schedule (AutoPost), and `posted_when = "posted"` waits for it. What the
vendor's documents do not state is a setting:
- `document_account`, `job`: where files of journals go, and the job that imports them.
- `refusal`: the pattern of a reason in the job's report. A report that can't be read costs precision, never an entry.
"""

import base64
import csv
import io
import re
import zipfile
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from pydantic import Field

from adapters.erp.http.amounts import decimal_text
from adapters.erp.http.dialect import Dialect, Reply, Rule, VendorError
from adapters.erp.http.fault import ErpFault, shortened
from adapters.erp.http.gateway import (
    MANY_BEGIN_S,
    ErpConnection,
    HttpGateway,
    PatternText,
    settings_of,
    told_of_each,
)
from adapters.erp.http.naming import line_text, short_name
from adapters.erp.http.transport import Request
from runtime.ports import TWICE, ErpTerms, JournalEntry, JournalLine, Outcome
from runtime.sections import Section

RESOURCES = "/fscmRestApi/resources/11.13.18.05"
INTEGRATIONS = f"{RESOURCES}/erpintegrations"
BATCHES = f"{RESOURCES}/journalBatches"
FILE = "GlInterface"

_ITEM = TypeVar("_ITEM")
COLUMNS = 149
SEGMENTS_MAX = 30
REFERENCE_CHARS_MAX = 240
BATCH_NAME_CHARS_MAX = 50  # Fusion writes source, job and more after it
REPORTED_MAX = 3  # lines of a report that a reason quotes
REPORT_BYTES_MAX = 10 * 2**20  # of one file in a job's report
# Where the columns of GlInterface.csv stand, counted from 0.
_STATUS, _LEDGER, _DATE, _SOURCE, _CATEGORY, _CURRENCY, _CREATED, _ACTUAL, _SEGMENT = range(9)
_DEBIT, _CREDIT = 38, 39
_BATCH_NAME, _BATCH_TEXT, _JOURNAL_NAME, _LINE_TEXT = 42, 43, 45, 51
_GROUP = 66

TERMS = ErpTerms(
    native_key="none",
    lookup_keys_max=20,  # a request for each
    settle_s=3600.0,  # not stated by the vendor; a job that was made must have ended
    begins_s=MANY_BEGIN_S,  # a file for each ledger
    atomicity="job",
    lines_max=5000,
    entries_max=50,
    bytes_max=20 * 10**6,  # not stated by the vendor
    concurrency=2,  # not stated by the vendor
)
_NOT_RUN = ("CANCELLED", "CANCELED", "EXPIRED", "VALIDATION_FAILED", "VALIDATION FAILED")
_ENDED = ("SUCCEEDED", "WARNING", "ERROR", "FINISHED", "ERROR_MANUAL_RECOVERY", "ERROR MANUAL RECOVERY", *_NOT_RUN)
_REASONS = {
    "EP01": "no open period holds its date",
    "EU02": "unbalanced",
    "EF": "an account does not exist or may not be used",
    "EC": "a currency is not known or has no rate",
    "EP": "the period can't take it",
}


class Settings(Section):
    """`[erp.settings]` of a Fusion instance."""

    journal_source: Annotated[str, Field(min_length=1, max_length=25, pattern="^[^,]+$")] = "Penstock"
    journal_category: Annotated[str, Field(min_length=1, max_length=25)] = "Penstock"
    data_access_set: Annotated[str, Field(pattern=r"^(#NULL|\d+)$")] = "#NULL"
    segment_separator: Annotated[str, Field(min_length=1, max_length=1)] = "-"
    segments: int = Field(default=0, ge=0, le=SEGMENTS_MAX, description="how many an account has; 0: not checked")
    posted_when: Literal["imported", "posted"] = "imported"
    document_account: str = "fin/generalLedger/import"
    job: str = "/oracle/apps/ess/financials/generalLedger/programs/common,JournalImportLauncher"
    refusal: PatternText = Field(default=r"\b(?:E[A-Z]|WU)\d\d\b", description="pattern of a reason in a job's report")


class _Started(msgspec.Struct):
    id: int | str = msgspec.field(default="", name="ReqstId")


class _Status(msgspec.Struct):
    status: str = msgspec.field(default="", name="RequestStatus")


class _Document(msgspec.Struct):
    content: str | None = msgspec.field(default=None, name="DocumentContent")


class _Batch(msgspec.Struct, rename="pascal"):
    je_batch_id: int | str
    batch_name: str
    batch_description: str | None = None
    status: str | None = None


class _Items(msgspec.Struct, Generic[_ITEM]):
    items: list[_ITEM]


class _Job(NamedTuple):
    """A job with the entries of its group. As text it is the reference of accepted entries, so that nothing else need
    be kept to read the job's report."""

    id: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()


def error_of(reply: Reply) -> VendorError:
    """An error body: the title, or plain text."""
    body = reply.body.decode("utf-8", "replace")
    title = reply.read(dict[str, Any]).get("title") if body.startswith("{") else body
    return VendorError("", str(title or ""))


DIALECT = Dialect("fusion", (Rule("unavailable", 404, detail="no such resource; is the address right?"),), error_of)


class FusionGateway(HttpGateway):
    """One Fusion instance."""

    own_settings = Settings

    def __init__(self, connection: ErpConnection) -> None:
        self._settings = settings_of(Settings, connection.section)
        super().__init__(connection, dialect=DIALECT, terms=TERMS)

    def refusal(self, entry: JournalEntry) -> str:
        for code in dict.fromkeys(line.account_code for line in entry.lines):
            count = len(self._segments(code))
            if not 0 < count <= SEGMENTS_MAX or self._settings.segments not in (0, count):
                return f"entry {entry.key}: account {code} has {count} segments"
        return super().refusal(entry)

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        by_entity: dict[str, list[JournalEntry]] = {}
        for entry in entries:
            by_entity.setdefault(entry.entity, []).append(entry)
        return [outcome for same in by_entity.values() for outcome in self._submit(same)]

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        found = {key: self._batches(key) for key in keys}
        return {key: _outcome(key, batches) for key, batches in found.items() if batches}

    def report(self, jobs: Sequence[str]) -> list[Outcome]:
        return told_of_each(jobs, lambda text: self._ended(msgspec.json.decode(text, type=_Job)))

    # the job

    def _submit(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        """Import the entries of one ledger as one group; a fault holds for these and no others."""
        settings, group = self._settings, self._group(entries)
        ledger = self.companies[entries[0].entity]
        parameters = (settings.data_access_set, settings.journal_source, ledger, str(group), "N", "N", "N")
        body = {
            "OperationName": "importBulkData",
            "DocumentContent": base64.b64encode(self._file(entries, group)).decode(),
            "ContentType": "zip",
            "FileName": f"{FILE}.zip",
            "DocumentAccount": settings.document_account,
            "JobName": settings.job,
            "ParameterList": ",".join(parameters),
        }
        try:
            started = str(self.http.send(Request("POST", INTEGRATIONS, body)).read(_Started).id)
        except ErpFault as fault:
            return fault.outcomes(entries)
        if not started.isdigit():
            return ErpFault("unknown", "Fusion named no job").outcomes(entries)
        job = str(_Job(started, tuple(entry.key for entry in entries)))
        return [Outcome(entry.key, "accepted", job) for entry in entries]

    def _group(self, entries: Sequence[JournalEntry]) -> int:
        """A number of at most 18 digits that no other call has: the time, and a hash of the keys after it."""
        told = "\x1f".join(entry.key for entry in entries).encode()
        return self.clock.now_ms() * 100_000 + int.from_bytes(blake2b(told, digest_size=8).digest()) % 100_000

    def _ended(self, job: _Job) -> list[Outcome]:
        """The outcomes of a job's entries once it has ended. What is there is posted, whatever the job says of it."""
        status = self._status(job.id)
        if status not in _ENDED:
            return []
        found = {key: self._batches(key) for key in job.keys}
        if self._settings.posted_when == "posted" and any(each.status == "U" for of in found.values() for each in of):
            return []
        absent = [key for key in job.keys if not found[key]]
        failures = self._failures(job, status, absent) if absent else {}
        return [failures.get(key) or _outcome(key, found[key]) for key in job.keys]

    def _failures(self, job: _Job, status: str, keys: Sequence[str]) -> dict[str, Outcome]:
        """What it means that these entries of an ended job are not there."""
        if status in _NOT_RUN:
            return {key: Outcome(key, "unavailable", detail=f"job {job.id} {status}") for key in keys}
        told = [text for text in self._execution_report(job.id).splitlines() if re.search(self._settings.refusal, text)]
        if not told and status in ("SUCCEEDED", "FINISHED"):
            late = f"job {job.id} {status}, but its batch is not there yet"
            return {key: Outcome(key, "unknown", detail=late) for key in keys}
        return self._blamed(keys, told) or self._refused_all(job, status, keys, told)

    def _blamed(self, keys: Sequence[str], told: Sequence[str]) -> dict[str, Outcome]:
        """Refusals of the entries that the report names; the others were held back by them. Empty if it names none."""
        of_key = {key: [text for text in told if _names(text, _batch_name(key))] for key in keys}
        if not any(of_key.values()):
            return {}
        held = Outcome("", "unavailable", detail="held back by another entry of its group")
        return {
            key: Outcome(key, "rejected", detail=self._reason(texts)) if texts else held._replace(key=key)
            for key, texts in of_key.items()
        }

    def _refused_all(self, job: _Job, status: str, keys: Sequence[str], told: Sequence[str]) -> dict[str, Outcome]:
        """One reason for all, so that delivery tries them apart."""
        reason = self._reason(told) or f"job {job.id} {status}; its report gives no reason"
        return {key: Outcome(key, "rejected", detail=reason) for key in keys}

    def _reason(self, told: Sequence[str]) -> str:
        """The first lines of a report that name a code, with what their codes mean before them."""
        codes = sorted({code for text in told for code in re.findall(self._settings.refusal, text)})
        meanings = [_REASONS.get(code) or _REASONS.get(code[:2]) or code for code in codes]
        return shortened("; ".join([*dict.fromkeys(meanings), *list(dict.fromkeys(told))[:REPORTED_MAX]]))

    def _status(self, job: str) -> str:
        items = self._items(INTEGRATIONS, {"finder": f"ESSJobStatusRF;requestId={job}"}, _Status)
        return items[0].status.upper() if items else ""

    def _execution_report(self, job: str) -> str:
        """The job's log and output as one text; "" when there is none to be read."""
        finder = f"ESSJobExecutionDetailsRF;requestId={job},fileType=ALL"
        items = self._items(INTEGRATIONS, {"finder": finder}, _Document)
        content = items[0].content if items else None
        return _unzipped(content) if content else ""

    # finding

    def _batches(self, key: str) -> list[_Batch]:
        name = _batch_name(key)
        quoted = name.replace("'", "''")
        params = {
            "q": f"BatchName LIKE '{quoted}%'",
            "fields": "JeBatchId,BatchName,BatchDescription,Status",
            "onlyData": "true",
        }
        batches = self._items(BATCHES, params, _Batch)
        named = (each for each in batches if each.batch_name == name or each.batch_name.startswith(f"{name} "))
        return [each for each in named if name == key or each.batch_description == key]

    def _items(self, path: str, params: dict[str, str], type: type[_ITEM]) -> list[_ITEM]:
        return self.http.send(Request("GET", path, params=params, reads=True)).read(_Items[type]).items

    # the file

    def _file(self, entries: Sequence[JournalEntry], group: int) -> bytes:
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\r\n")
        writer.writerows(self._row(entry, line, group) for entry in entries for line in entry.lines)
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(f"{FILE}.csv"), rows.getvalue(), zipfile.ZIP_DEFLATED)
        return zipped.getvalue()

    def _row(self, entry: JournalEntry, line: JournalLine, group: int) -> list[str]:
        settings, day = self._settings, f"{entry.posted_on:%Y/%m/%d}"
        row = [""] * COLUMNS
        row[_STATUS], row[_LEDGER], row[_DATE] = "NEW", self.companies[entry.entity], day
        row[_SOURCE], row[_CATEGORY], row[_CURRENCY] = (
            settings.journal_source,
            settings.journal_category,
            entry.currency,
        )
        row[_CREATED], row[_ACTUAL] = day, "A"
        for at, segment in enumerate(self._segments(line.account_code), _SEGMENT):
            row[at] = segment
        row[_DEBIT if line.side == "D" else _CREDIT] = decimal_text(line.amount_minor, entry.currency)
        row[_BATCH_NAME], row[_BATCH_TEXT] = _batch_name(entry.key), entry.key[:REFERENCE_CHARS_MAX]
        row[_JOURNAL_NAME], row[_LINE_TEXT] = _batch_name(entry.key), line_text(line)[:REFERENCE_CHARS_MAX]
        row[_GROUP] = str(group)
        return row

    def _segments(self, account_code: str) -> list[str]:
        return account_code.split(self._settings.segment_separator)


def _outcome(key: str, batches: Sequence[_Batch]) -> Outcome:
    return Outcome(key, "posted", str(batches[0].je_batch_id), TWICE if len(batches) > 1 else "")


def _unzipped(content: str) -> str:
    """All files of a report that is base64 of a zip; "" when it is none, as nothing depends on its text alone."""
    try:
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(content))) as archive:
            files = [archive.open(name).read(REPORT_BYTES_MAX) for name in archive.namelist()]
    except (ValueError, zipfile.BadZipFile):
        return ""
    return "\n".join(file.decode("utf-8", "replace") for file in files)


def _names(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text) is not None


def _batch_name(key: str) -> str:
    return key if len(key) <= BATCH_NAME_CHARS_MAX else short_name(key, BATCH_NAME_CHARS_MAX)


def open_gateway(connection: ErpConnection) -> FusionGateway:
    """The adapter of `erp.kind = "fusion"`."""
    return FusionGateway(connection)
