"""Vendors' contracts as the doubles hold them: what the adapters really send keeps them, and every breach is refused.

A breach is made in a body that an adapter has sent: one field too many, too few, too long, of another type, or with a
value that is not allowed. The answer must be an error in the vendor's own form, and nothing may be booked.
"""

import base64
import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from erp_vendors import VENDORS, ErpBench, Vendor, codes_of, entry
from msgspec import structs

from adapters.erp.doubles.exchange import Answer, Request
from runtime.ports import JournalEntry

REMOVED = object()
Place = tuple[str | int, ...]


class Breach(NamedTuple):
    """What is done to a sent body, and what the vendor's error must hold. `file`: the place is a row and a column of
    the CSV file in the body."""

    vendor: str
    what: str
    place: Place
    value: Any
    told: str
    file: bool = False

    def __str__(self) -> str:
        return f"{self.vendor}-{self.what}-{self.place[-1]}"


def breaches(vendor: str, *rows: tuple[str, Place, Any, str], file: bool = False) -> list[Breach]:
    """A vendor's part of the table."""
    return [Breach(vendor, *row, file=file) for row in rows]


_BC, _BC_LINE = ("requests", 0, "body"), ("requests", 0, "body", "journalLines", 0)
_BC_TEXT, _BC_BAD = '"code":"Application_StringExceededLength"', '"code":"BadRequest"'
_NS_LINE, _NS_BAD = ("line", "items", 0), '"o:errorCode":"INVALID_CONTENT"'
_QB_DETAIL = ("Line", 0, "JournalEntryLineDetail")
_XERO, _XERO_LINE = ("ManualJournals", 0), ("ManualJournals", 0, "JournalLines", 0)
_XERO_BAD = '"Type":"ValidationException"'
BREACHES = [
    *breaches(
        "business_central",
        ("unknown", (*_BC_LINE, "colour"), "red", _BC_BAD),
        ("unknown", (*_BC, "balancingAccountNumber"), "1010", _BC_BAD),  # read-only
        ("missing", (*_BC, "code"), REMOVED, _BC_BAD),
        ("missing", (*_BC_LINE, "documentNumber"), REMOVED, _BC_BAD),
        ("too_long", (*_BC, "code"), "P" * 11, _BC_TEXT),
        ("too_long", (*_BC_LINE, "documentNumber"), "P" * 21, _BC_TEXT),
        ("too_long", (*_BC_LINE, "description"), "t" * 101, _BC_TEXT),
        ("too_long", (*_BC_LINE, "externalDocumentNumber"), "t" * 36, _BC_TEXT),
        ("type", (*_BC_LINE, "amount"), "100.01", _BC_BAD),
        ("type", (*_BC_LINE, "postingDate"), "05.03.2026", _BC_BAD),
        ("value", (*_BC_LINE, "accountType"), "GL", _BC_BAD),
    ),
    *breaches(
        "netsuite-single",
        ("unknown", ("colour",), "red", _NS_BAD),
        ("unknown", (*_NS_LINE, "taxRate"), 1, _NS_BAD),  # tax fields are not supported
        ("missing", ("subsidiary",), REMOVED, _NS_BAD),
        ("missing", (*_NS_LINE, "account"), REMOVED, _NS_BAD),
        ("too_long", (*_NS_LINE, "memo"), "t" * 1000, _NS_BAD),
        ("type", (*_NS_LINE, "debit"), "100.01", _NS_BAD),
        ("type", (*_NS_LINE, "account", "id"), 58, _NS_BAD),
        ("value", ("externalId",), "PS north/1", _NS_BAD),
    ),
    *breaches(
        "quickbooks-single",
        ("unknown", ("Line", 0, "Colour"), "red", '"code":"2010"'),
        ("missing", ("Line",), REMOVED, '"code":"2020"'),
        ("missing", (*_QB_DETAIL, "AccountRef"), REMOVED, '"code":"2020"'),
        ("too_long", ("DocNumber",), "P" * 22, '"code":"2050"'),
        ("too_long", ("PrivateNote",), "t" * 4001, '"code":"2050"'),
        ("too_long", ("Line", 0, "Description"), "t" * 4001, '"code":"2050"'),
        ("type", ("Line", 0, "Amount"), "100.01", '"code":"2010"'),
        ("value", (*_QB_DETAIL, "PostingType"), "Both", '"code":"2010"'),
    ),
    *breaches(
        "xero",
        ("unknown", (*_XERO_LINE, "Colour"), "red", _XERO_BAD),
        ("missing", (*_XERO, "Narration"), REMOVED, _XERO_BAD),
        ("too_long", (*_XERO_LINE, "Tracking"), [{"Name": "n", "Option": "o"}] * 3, _XERO_BAD),
        ("type", (*_XERO_LINE, "LineAmount"), "100.01", _XERO_BAD),
        ("value", (*_XERO, "LineAmountTypes"), "Gross", _XERO_BAD),
        ("value", (*_XERO, "Status"), "BOOKED", _XERO_BAD),
    ),
    *breaches(
        "fusion",
        ("unknown", ("Colour",), "red", '"status":"400"'),
        ("missing", ("DocumentContent",), REMOVED, '"status":"400"'),
        ("type", ("ParameterList",), 7, '"status":"400"'),
        ("type", ("DocumentContent",), "no archive", '"status":"400"'),
        ("value", ("OperationName",), "importFile", '"status":"400"'),
        ("value", ("JobName",), "/another,Job", '"status":"400"'),
    ),
    *breaches(
        "fusion",
        ("unknown", (0, 149), "one more", '"status":"400"'),
        ("missing", (0, 0), "", '"status":"400"'),
        ("too_long", (0, 42), "t" * 241, '"status":"400"'),
        ("type", (0, 38), "a hundred", '"status":"400"'),
        ("type", (0, 2), "2026-03-05", '"status":"400"'),
        ("type", (0, 66), "PS-1", '"status":"400"'),
        ("value", (0, 7), "B", '"status":"400"'),
        ("value", (0, 5), "dollars", '"status":"400"'),
        file=True,
    ),
    *breaches(
        "rest",
        ("unknown", ("colour",), "red", '"code":"400"'),
        ("missing", ("company",), REMOVED, '"code":"400"'),
        ("too_long", ("reference",), "P" * 129, '"code":"400"'),
        ("type", ("lines", 0, "debit"), "100.01", '"code":"400"'),
        ("type", ("date",), "05.03.2026", '"code":"400"'),
    ),
]
BY_NAME = {vendor.name: vendor for vendor in VENDORS}


class Admitting:
    """An access that lets everybody in: a changed body is nobody's to sign."""

    def admits(self, request: Request, now_ms: int) -> bool:
        return True

    def token(self, request: Request, now_ms: int) -> None:
        return None

    def expire(self) -> None:
        """Nothing was given out."""


class Wire:
    """A bench whose write requests are kept as they came."""

    def __init__(self, vendor: Vendor, folder: Path) -> None:
        self.erp = ErpBench(vendor, folder)
        self.sent: list[Request] = []
        self._handle = self.erp.double.handle
        self.erp.double.handle = self._kept  # the server asks for it by this name

    def _kept(self, request: Request) -> Answer | None:
        if request.body and request.method in ("POST", "PUT") and "token" not in request.path:
            self.sent.append(request)
        return self._handle(request)

    def answer(self, request: Request) -> Answer:
        """What the double says to a request of anybody's."""
        self.erp.double.access = Admitting()
        answered = self._handle(request)
        assert answered is not None
        return answered


@pytest.fixture
def open_wire(tmp_path: Path) -> Iterator[Callable[[str], Wire]]:
    opened: list[Wire] = []

    def open_(name: str) -> Wire:
        opened.append(Wire(BY_NAME[name], tmp_path))
        return opened[-1]

    yield open_
    for each in opened:
        each.erp.close()


def long_entry(key: str) -> JournalEntry:
    """An entry whose key and texts are as long as they come."""
    plain = entry(key, (100_01, -1, -100_00), codes=("1200", "4000", "2100"))
    texts = {"facility": "f" * 64, "department": "d" * 64, "text": "é" * 900}
    return structs.replace(plain, lines=tuple(structs.replace(line, **texts) for line in plain.lines))


@pytest.mark.parametrize("name", BY_NAME)
def test_contract_is_kept_by_what_the_adapter_sends(open_wire: Callable[[str], Wire], name: str) -> None:
    """An entry with texts as long as they come is sent in a form that the vendor's contract takes, and is booked."""
    wire = open_wire(name)
    key = f"PS-{'n' * 64}-0000000001"
    assert codes_of(wire.erp.post(long_entry(key))) == ["posted"]
    assert wire.erp.booked() == {100_01: 1}
    assert wire.sent


@pytest.mark.parametrize("breach", BREACHES, ids=str)
def test_contract_that_is_broken_is_refused_in_the_vendors_words(
    open_wire: Callable[[str], Wire], breach: Breach
) -> None:
    """What was sent is taken again as it was, but with one breach of the contract it is refused, and nothing booked."""
    wire = open_wire(breach.vendor)
    assert codes_of(wire.erp.post(entry("PS-north-0000000001"))) == ["posted"]
    request, double = wire.sent[0], wire.erp.double
    assert breach.told not in wire.answer(_as_another(request)).body.decode()
    double.settle()
    booked = list(wire.erp.ledger.documents)
    assert breach.told in wire.answer(_as_another(_broken(request, breach))).body.decode()
    double.settle()
    assert wire.erp.ledger.documents == booked


def _as_another(request: Request) -> Request:
    """The same without what makes it a repetition of the first."""
    kept = {name: value for name, value in request.headers.items() if name != "idempotency-key"}
    return request._replace(headers=kept, query={**request.query, "requestid": ""})


def _broken(request: Request, breach: Breach) -> Request:
    body = msgspec.json.decode(request.body)
    if breach.file:
        body["DocumentContent"] = _broken_file(body["DocumentContent"], breach)
    else:
        *above, last = breach.place
        inner = body
        for step in above:
            inner = inner[step]
        if breach.value is REMOVED:
            del inner[last]
        else:
            inner[last] = breach.value
    return request._replace(body=msgspec.json.encode(body))


def _broken_file(content: str, breach: Breach) -> str:
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(content))) as archive:
        rows = list(csv.reader(io.StringIO(archive.read("GlInterface.csv").decode(), newline="")))
    line, column = breach.place
    rows[line][column : column + 1] = [breach.value]
    text, zipped = io.StringIO(newline=""), io.BytesIO()
    csv.writer(text).writerows(rows)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("GlInterface.csv", text.getvalue())
    return base64.b64encode(zipped.getvalue()).decode()
