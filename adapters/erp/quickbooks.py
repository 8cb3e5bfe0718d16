"""Posts journal entries into QuickBooks Online over its accounting API, version 3.

Owns the form of a journal entry, and what QuickBooks' answers mean. The key is the entry's private note; its document
number, which a query can find, is the key or a short name of it, as there is room for 21 characters. Each entity is a
company by its realm id in `erp.companies`. Tokens are of one realm: with several, `erp.auth.refresh_token_file` names
one file for each by "{realm}". Account codes of the crosswalk are QuickBooks' ids of accounts.

Calls are batches, whose items are booked or refused one by one, or single entries, by the setting `mode`. What the
vendor's documents do not state is a setting, with the safe value as its default:
- `requestid_life_s`: how long QuickBooks answers a repeated `requestid` with the first answer. 0: not relied on, each
  request has a new one, and what is in doubt is looked up. Of use only in the mode "single", where it is the entry's;
  if QuickBooks repeats refusals too, a mended entry is refused again until that time is over.
- `multicurrency`: whether the companies have it switched on; only then is a currency named.
"""

import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from adapters.erp.http.amounts import json_amount, minor_of
from adapters.erp.http.dialect import Dialect, Reply, Rule, VendorError, fault_of
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.gateway import (
    MANY_BEGIN_S,
    ErpConnection,
    HttpGateway,
    asked_of_each,
    settings_of,
    unless_refused,
)
from adapters.erp.http.naming import line_text, short_name
from adapters.erp.http.transport import HttpTransport, Request
from runtime.config import ErpSection
from runtime.ports import TWICE, ErpAccount, ErpTerms, JournalEntry, JournalLine, Outcome
from runtime.sections import Section

DOCUMENT_CHARS_MAX = 21
TEXT_CHARS_MAX = 4000
QUERY_ROWS_MAX = 1000

_BATCH_TERMS = ErpTerms(
    native_key="none",
    lookup_keys_max=100,
    settle_s=300.0,  # not stated by the vendor; longer than any request was seen to take
    atomicity="per_item",
    lines_max=6000,
    entries_max=30,
    concurrency=10,
    requests_max=30,  # each item of a batch is metered as a request; so 16 batches a minute, of 40 that are allowed
    per_minute=500,
)
_SINGLE_TERMS = msgspec.structs.replace(_BATCH_TERMS, lines_max=1000, entries_max=1, requests_max=1)


class Settings(Section):
    """`[erp.settings]` of a QuickBooks company."""

    mode: Literal["batch", "single"] = "batch"
    requestid_life_s: float = Field(default=0.0, ge=0)
    minor_version: int = Field(default=75, ge=1)
    multicurrency: bool = False
    parties: dict[str, Annotated[str, Field(pattern=r"^(Customer|Vendor|Employee)/\w+$")]] = Field(
        default={}, description='who stands on the lines of an account that wants somebody, as "Customer/58"'
    )


class _Error(msgspec.Struct):
    text: str = msgspec.field(default="", name="Message")
    detail: str = msgspec.field(default="", name="Detail")
    code: str = ""


class _Fault(msgspec.Struct):
    errors: list[_Error] = msgspec.field(default_factory=list, name="Error")
    type: str = ""


class _Errors(msgspec.Struct):
    """An error body; that of a refused token has its own spelling."""

    fault: _Fault | None = msgspec.field(default=None, name="Fault")
    other: Any = msgspec.field(default=None, name="fault")


class _Detail(msgspec.Struct, rename="pascal"):
    posting_type: str = ""
    account_ref: dict[str, str] = {}


class _Line(msgspec.Struct, rename="pascal"):
    amount: Decimal = Decimal(0)
    journal_entry_line_detail: _Detail = msgspec.field(default_factory=_Detail)


class _Journal(msgspec.Struct, rename="pascal"):
    id: str
    doc_number: str = ""
    private_note: str = ""
    currency_ref: dict[str, str] = {}
    line: list[_Line] = []


class _Item(msgspec.Struct):
    place: str = msgspec.field(name="bId")
    journal: _Journal | None = msgspec.field(default=None, name="JournalEntry")
    fault: _Fault | None = msgspec.field(default=None, name="Fault")


class _Items(msgspec.Struct):
    items: list[_Item] = msgspec.field(default_factory=list, name="BatchItemResponse")


class _Rows(msgspec.Struct):
    rows: list[_Journal] = msgspec.field(default_factory=list, name="JournalEntry")


class _Found(msgspec.Struct):
    response: _Rows = msgspec.field(default_factory=_Rows, name="QueryResponse")


class _Created(msgspec.Struct):
    journal: _Journal = msgspec.field(name="JournalEntry")


def error_of(reply: Reply) -> VendorError:
    """QuickBooks' error body: the first code without its leading zeros, all texts."""
    body = reply.read(_Errors)
    fault = body.fault or msgspec.convert(_capitals(body.other), _Fault)
    texts = dict.fromkeys(text for error in fault.errors for text in (error.text, error.detail) if text)
    return VendorError(fault.errors[0].code.lstrip("0") if fault.errors else "", " ".join(texts))


def _capitals(fault: dict[str, Any]) -> dict[str, Any]:
    errors = [{"Message": e.get("message"), "Detail": e.get("detail") or "", "code": e["code"]} for e in fault["error"]]
    return {"Error": errors}


DIALECT = Dialect(
    "quickbooks",
    (
        Rule("throttled", error="^3001$", retry_after_s=60.0),  # the window is a minute, and no delay is named
        Rule("throttled", status=429, retry_after_s=60.0),
        Rule("unavailable", error="^150$", detail="the company is under maintenance"),
        Rule("unauthorised", error="^(100|110|120|3100|3200|3202|5020)$"),
        Rule("rejected", error="^62[01]0$", detail="the books are closed for this date"),
    ),
    error_of,
)
_DUPLICATE_NUMBER = "6140"


class QuickBooksGateway(HttpGateway):
    """QuickBooks companies of one app. A document number proves nothing by itself: the key in the private note does."""

    own_settings = Settings

    def __init__(self, connection: ErpConnection) -> None:
        self._settings = settings_of(Settings, connection.section)
        self._batch = self._settings.mode == "batch"
        section = connection.section
        realms = len({section.companies.get(entity, "") for entity in connection.entities})
        super().__init__(connection, dialect=DIALECT, terms=self._terms_stated(realms))
        # One for each realm, as each has tokens of its own.
        self._transports = {
            realm: HttpTransport(_of_realm(section, realm), connection.clock, DIALECT)
            for realm in set(self.companies.values())
        }

    def _terms_stated(self, realms: int) -> ErpTerms:
        apart = realms > 1
        if self._batch:
            begins_s = MANY_BEGIN_S if apart else _BATCH_TERMS.begins_s
            return msgspec.structs.replace(_BATCH_TERMS, begins_s=begins_s, log_ins_apart=apart)
        life_s = self._settings.requestid_life_s
        known = {"native_key": "windowed", "key_life_s": life_s} if life_s else {}
        # A lookup asks each realm.
        return msgspec.structs.replace(_SINGLE_TERMS, requests_max=max(1, realms), log_ins_apart=apart, **known)

    def takes_currency(self, currency: str) -> bool:
        return self._settings.multicurrency

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        if not self._batch:
            return [self._create(entry) for entry in entries]
        by_realm: dict[str, list[JournalEntry]] = {}
        for entry in entries:
            by_realm.setdefault(self.companies[entry.entity], []).append(entry)
        return [outcome for realm, same in by_realm.items() for outcome in self._create_many(realm, same)]

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        numbers = ", ".join(_quoted(document_number(key)) for key in keys)
        text = f"select * from JournalEntry where DocNumber in ({numbers})"
        told, refusal = asked_of_each(self._transports, lambda realm: self._query(realm, text))
        ids_of: dict[str, list[str]] = {key: [] for key in keys}
        for journal in told:
            if journal.private_note in ids_of:
                ids_of[journal.private_note].append(journal.id)
        found = {key: Outcome(key, "posted", ids[0], TWICE if ids[1:] else "") for key, ids in ids_of.items() if ids}
        return unless_refused(keys, found, refusal)

    def turnover(self) -> list[ErpAccount]:
        """Of this connection's own entries: QuickBooks gives balances of all, and turnover of none."""
        if len(self._transports) < len(self.companies):
            raise ErpFault("unavailable", "several entities share a company; their turnover can't be told apart")
        return [account for entity, realm in self.companies.items() for account in self._turnover(entity, realm)]

    def transports(self) -> Iterable[HttpTransport]:
        return (self.http, *self._transports.values())

    def _turnover(self, entity: str, realm: str) -> list[ErpAccount]:
        sums: dict[tuple[str, str], list[int]] = {}
        found = self._query(realm, "select * from JournalEntry where DocNumber like 'PS%'")
        # The customer's own numbers may begin so, too, and their lines may have no account.
        for journal in (each for each in found if each.doc_number == document_number(each.private_note)):
            currency = journal.currency_ref.get("value") or self.currencies[entity]
            for line in journal.line:
                detail = line.journal_entry_line_detail
                of_account = sums.setdefault((currency, detail.account_ref["value"]), [0, 0])
                of_account[detail.posting_type == "Credit"] += minor_of(line.amount, currency)
        return [ErpAccount(entity, *place, debit, credit) for place, (debit, credit) in sorted(sums.items())]

    # posting

    def _create(self, entry: JournalEntry) -> Outcome:
        life_s = self._settings.requestid_life_s
        params = self._params(_request_id(entry) if life_s else str(uuid.uuid4()))
        realm = self.companies[entry.entity]
        request = Request("POST", f"/v3/company/{realm}/journalentry", self._body(entry), params=params)
        try:
            created = self._transports[realm].send(request).read(_Created)
            return Outcome(entry.key, "posted", created.journal.id)
        except ErpFault as fault:
            return self._refused(entry, fault)

    def _create_many(self, realm: str, entries: Sequence[JournalEntry]) -> list[Outcome]:
        """One batch. Its requestid is new each time: a repeated one would bring back refusals that were mended."""
        items = [{"bId": str(i), "operation": "create", "JournalEntry": self._body(e)} for i, e in enumerate(entries)]
        params = self._params(str(uuid.uuid4()))
        request = Request("POST", f"/v3/company/{realm}/batch", {"BatchItemRequest": items}, params=params)
        try:
            answered = self._transports[realm].send(request).read(_Items).items
        except ErpFault as fault:  # holds for this realm's entries and no others
            return fault.outcomes(entries)
        by_place = {str(i): entry for i, entry in enumerate(entries)}
        return [self._outcome(by_place[item.place], item) for item in answered if item.place in by_place]

    def _outcome(self, entry: JournalEntry, item: _Item) -> Outcome:
        if item.journal is not None:
            return Outcome(entry.key, "posted", item.journal.id)
        if item.fault is None:
            return Outcome(entry.key, "unknown", detail="neither booked nor refused")
        # An item's fault reads as the answer to a request of its own would; the server's own ones prove nothing.
        status = 500 if item.fault.type == "SystemFault" else 400
        reply = Reply(status, {}, msgspec.json.encode({"Fault": item.fault}))
        return self._refused(entry, fault_of(reply, DIALECT, self.clock.now_ms()))

    def _refused(self, entry: JournalEntry, fault: ErpFault) -> Outcome:
        """A fault as an outcome; of a document number that is taken, only the whole key tells by what."""
        if fault.code == "rejected" and fault.mentions(f"^{_DUPLICATE_NUMBER} "):
            found = self.lookup([entry.key])
            if found is None:
                return Outcome(entry.key, "unknown", detail=fault.detail)
            if entry.key in found:
                return found[entry.key]
        return fault.outcomes([entry])[0]

    # finding

    def _query(self, realm: str, text: str) -> list[_Journal]:
        rows: list[_Journal] = []
        while True:
            page = f"{text} orderby Id startposition {len(rows) + 1} maxresults {QUERY_ROWS_MAX}"
            params = self._params() | {"query": page}
            request = Request("GET", f"/v3/company/{realm}/query", params=params, reads=True)
            found = self._transports[realm].send(request).read(_Found).response.rows
            rows += found
            if len(found) < QUERY_ROWS_MAX:
                return rows

    def _params(self, request_id: str = "") -> dict[str, str]:
        version = {"minorversion": str(self._settings.minor_version)}
        return {**version, "requestid": request_id} if request_id else version

    # the form of an entry

    def _body(self, entry: JournalEntry) -> dict[str, Any]:
        currency = {"CurrencyRef": {"value": entry.currency}} if self._settings.multicurrency else {}
        return {
            "TxnDate": entry.posted_on,
            "DocNumber": document_number(entry.key),
            "PrivateNote": entry.key,
            "Line": [self._line(line, entry.currency) for line in entry.lines],
            **currency,
        }

    def _line(self, line: JournalLine, currency: str) -> dict[str, Any]:
        kind, _, party = self._settings.parties.get(line.account_code, "").partition("/")
        named = {"Entity": {"Type": kind, "EntityRef": {"value": party}}} if party else {}
        return {
            "Amount": json_amount(line.amount_minor, currency),
            "DetailType": "JournalEntryLineDetail",
            "Description": line_text(line)[:TEXT_CHARS_MAX],
            "JournalEntryLineDetail": {
                "PostingType": "Debit" if line.side == "D" else "Credit",
                "AccountRef": {"value": line.account_code},
                **named,
            },
        }


def document_number(key: str) -> str:
    """The key itself where there is room for it, else a short name of it; both begin with PS."""
    return key if len(key) <= DOCUMENT_CHARS_MAX and key.startswith("PS") else short_name(key, DOCUMENT_CHARS_MAX)


def _of_realm(section: ErpSection, realm: str) -> ErpSection:
    file = section.auth.refresh_token_file.replace("{realm}", realm)
    return section.model_copy(update={"auth": section.auth.model_copy(update={"refresh_token_file": file})})


def _request_id(entry: JournalEntry) -> str:
    told = f"{entry.key} {entry.digest}"
    return str(uuid.UUID(bytes=blake2b(told.encode(), digest_size=16).digest(), version=4))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def open_gateway(connection: ErpConnection) -> QuickBooksGateway:
    """The adapter of `erp.kind = "quickbooks"`."""
    return QuickBooksGateway(connection)
