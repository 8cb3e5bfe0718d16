"""ISO 20022 bank statements and notifications: camt.053 and camt.054, every version.

Owns which entries are booked, that a batch's details make up its entry, and that opening and closing balance differ by
the entries. A statement that does not tie is set aside whole, an entry whose details do not tie alone. Names, addresses
and remittance texts are searched for patterns and dropped.

Own reading of the elements over lxml's streaming parser: the one kept library for Python (camt053 0.0.20) reads all
sample files, but wants the document as one text in memory, leaves out amounts of details, references of remittances and
type codes, and checks no sum. A document type definition is refused, so no entity is ever defined.

A bank entry happens on a booking day. The time that some messages add to it is dropped, so that an entry is the same
event in the notification and in the statement.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lxml import etree

from adapters.sources.amounts import exact_minor
from adapters.sources.bank.camt_fields import (
    Fields,
    Money,
    Part,
    Unfit,
    all_text,
    as_day,
    children,
    count_of,
    is_booked,
    part_of,
    signed,
    summary_of,
    type_code_of,
)
from adapters.sources.bank.entries import Entry, Item, SetAside, Totals
from adapters.sources.source import Quarantined, SourceSettings
from runtime.errors import FrameError

PARTS_MAX = 50_000  # details of one batch entry that are kept until it ends
HELD_BYTES_MAX = 8 * 2**20  # of an entry without its details, and of whatever stands between entries

_NAMESPACE = re.compile(r"urn:iso:std:iso:20022:tech:xsd:camt\.05[34]\.001\.\d\d")
_REPORTS = ("Stmt", "Ntfctn")
_FORGOTTEN = (*_REPORTS, "Ntry", "TxDtls")  # what is not looked at again, nor what stands before it
_TAGS = [f"{{*}}{name}" for name in ("Document", "GrpHdr", *_REPORTS, "Bal", "TxsSummry", "Ntry", "Btch", "TxDtls")]
_OPENING, _CLOSING = ("OPBD", "PRCD"), ("CLBD",)


def scan(path: Path, settings: SourceSettings) -> Iterator[Item]:
    """Entries and verdicts in file order. Raises FrameError for what is no such message, or not well-formed."""
    try:
        with path.open("rb") as file:
            yield from _Message(_Bounded(file)).items()
    except etree.XMLSyntaxError as error:
        raise FrameError("malformed", "", f"line {error.position[0]}: not well-formed XML") from None


class _Bounded:
    """A file of which the parser keeps what was not forgotten yet: so many bytes are held, and no more than may be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.held = 0

    def read(self, size: int) -> bytes:
        """Some more of the file. FrameError where more would be held than may be."""
        chunk = self._file.read(size)
        self.held += len(chunk)
        if self.held > HELD_BYTES_MAX:
            raise FrameError("too_large", "", f"more than {HELD_BYTES_MAX} bytes without the end of an entry")
        return chunk


class _Message:
    """The parser's events, handed to the report that is open."""

    def __init__(self, file: _Bounded) -> None:
        self._file, self._before_details = file, 0
        self._name_start = 0
        self._created = ""
        self._reports = 0
        self._report: _Report | None = None

    def items(self) -> Iterator[Item]:
        """Everything that the message holds."""
        safe = {"resolve_entities": False, "load_dtd": False, "no_network": True}
        lean = {"remove_comments": True, "remove_pis": True}
        for event, element in etree.iterparse(self._file, ("start", "end"), tag=_TAGS, **safe, **lean):
            if not self._name_start:
                self._check_root(element)
            name = element.tag[self._name_start :]
            if event == "start":
                self._start(name)
            elif self._report:
                yield from self._report.take(name, element)
                self._forget(name, element)
            elif name == "GrpHdr":
                self._created = element.findtext("{*}CreDtTm", "")
        if not self._name_start:
            raise FrameError("malformed", "", "not a camt.053 or camt.054 message")

    def _check_root(self, root: etree._Element) -> None:
        """Before anything of the content is read."""
        namespace = etree.QName(root).namespace or ""
        if root.getroottree().docinfo.internalDTD is not None:
            raise FrameError("malformed", "", "a document type definition is not allowed")
        if root.getparent() is not None or not _NAMESPACE.fullmatch(namespace):
            raise FrameError("malformed", "", "not a camt.053 or camt.054 message")
        self._name_start = len(namespace) + 2

    def _start(self, name: str) -> None:
        if name in _REPORTS:
            self._reports += 1
            self._report = _Report(self._reports, self._created)
        elif name == "Ntry" and self._report:
            self._report.open_entry()
        elif name == "TxDtls":
            self._before_details = self._file.held

    def _forget(self, name: str, element: etree._Element) -> None:
        """Free what has been read, and whatever stands before it."""
        if name in _FORGOTTEN:
            element.clear(keep_tail=True)
            for elder in element.itersiblings(preceding=True):
                elder.getparent().remove(elder)
            self._file.held = self._before_details if name == "TxDtls" else 0
        if name in _REPORTS:
            self._report = None


class _Report:
    """One statement or notification."""

    def __init__(self, ordinal: int, created: str) -> None:
        self._ordinal, self._created = ordinal, created
        self._totals = Totals()
        self._entries = self._unbooked = 0
        self._currencies: set[str] = set()
        self._balances: dict[str, Money] = {}
        self._summary: dict[str, str] = {}
        self._summed = Totals()  # over all entries, booked or not
        self._unreadable = False
        self._key: tuple[str, str] | None = None
        self._parts: list[Part] = []
        self._part_count = self._announced = 0

    def open_entry(self) -> None:
        """A new entry begins."""
        self._parts, self._part_count, self._announced = [], 0, 0

    def take(self, name: str, element: etree._Element) -> Iterator[Item]:
        """An element has ended."""
        if name == "TxDtls":
            self._take_part(element)
        elif name == "Btch":
            self._announced += count_of(element.findtext("{*}NbOfTxs"))
        elif name == "Ntry":
            yield from self._take_entry(element)
        elif name == "Bal":
            yield from self._take_balance(element)
        elif name == "TxsSummry":
            self._summary = summary_of(element)
        elif name in _REPORTS:
            yield from self._end()

    def _take_part(self, element: etree._Element) -> None:
        self._part_count += 1
        if self._part_count <= PARTS_MAX:
            self._parts.append(part_of(element))

    def _take_balance(self, element: etree._Element) -> Iterator[Item]:
        try:
            self._balances.setdefault(element.findtext("{*}Tp/{*}CdOrPrtry/{*}Cd", ""), signed(children(element)))
        except Unfit as unfit:
            self._unreadable = True
            yield self._refused(0, str(unfit), whole=True)

    def _take_entry(self, element: etree._Element) -> Iterator[Item]:
        self._entries += 1
        self._names(element)
        fields = children(element)
        try:
            money = signed(fields)
            self._summed.add(money.minor)
            if not is_booked(fields):
                self._unbooked += 1
                return
            self._totals.add(money.minor)
            self._currencies.add(money.currency)
            entry = self._entry(element, fields, money)
        except Unfit as unfit:
            self._unreadable = True
            yield self._refused(self._entries, str(unfit), whole=True)
            return
        if code := self._batch_fault(money):
            yield self._refused(self._entries, code, whole=False)
        else:
            yield from self._movements(entry)

    def _entry(self, element: etree._Element, fields: Fields, money: Money) -> Entry:
        account, statement_key = self._names(element)
        value_on = as_day(all_text(fields, "ValDt"))
        booked_on = as_day(all_text(fields, "BookgDt")) or value_on or as_day(self._created)
        if booked_on is None:
            raise Unfit("booking_date")
        ends = {part.end_to_end for part in self._parts}
        return Entry(
            statement=self._ordinal,
            statement_key=statement_key,
            account=account,
            bank_reference=all_text(fields, "AcctSvcrRef"),
            amount_minor=money.minor,
            currency=money.currency,
            booked_on=booked_on,
            value_on=value_on or booked_on,
            type_code=type_code_of(fields.get("BkTxCd")),
            customer_reference=ends.pop() if len(ends) == 1 else "",
            originator=self._parts[0].originators[money.minor < 0] if len(self._parts) == 1 else "",
            texts=(all_text(fields, "AddtlNtryInf"), *(text for part in self._parts for text in part.texts)),
            returned=all_text(fields, "RvslInd") in ("true", "1"),
        )

    def _names(self, entry: etree._Element) -> tuple[str, str]:
        """The account, and what names this report; both stand before the first entry."""
        if self._key is None:
            report = entry.getparent()
            identity = report.find("{*}Acct/{*}Id")
            account = "".join(identity.itertext()).strip() if identity is not None else ""
            self._created = report.findtext("{*}CreDtTm") or self._created
            self._key = (account, report.findtext("{*}Id", "").strip())
        return self._key

    def _batch_fault(self, money: Money) -> str:
        """What is wrong with the entry's details, or nothing."""
        if self._part_count > PARTS_MAX:
            return "too_many_details"
        if self._announced and self._part_count and self._announced != self._part_count:
            return "batch_count"
        if self._splits(money) and sum(part.money.minor for part in self._parts) != money.minor:
            return "batch_total"
        return ""

    def _splits(self, money: Money) -> bool:
        """Whether the details say how the entry is made up: more than one, each with an amount in its currency."""
        return len(self._parts) > 1 and all(
            part.money and part.money.currency == money.currency for part in self._parts
        )

    def _movements(self, entry: Entry) -> Iterator[Entry]:
        """The entry itself, or its details where they tell the amounts."""
        if not self._splits(Money(entry.amount_minor, entry.currency)):
            yield entry
            return
        for number, part in enumerate(self._parts, 1):
            yield entry._replace(
                part=number,
                amount_minor=part.money.minor,
                customer_reference=part.end_to_end,
                originator=part.originators[part.money.minor < 0],
                texts=part.texts,
            )

    def _end(self) -> Iterator[Item]:
        opening, closing = self._balance(_OPENING), self._balance(_CLOSING)
        if not self._unreadable and (code := self._summary_fault() or self._balance_fault(opening, closing)):
            yield self._refused(0, code, whole=True)
        more = {} if not opening else {"opening_minor": opening.minor}
        more |= {} if not closing else {"closing_minor": closing.minor}
        yield self._totals.figures(unbooked=self._unbooked, **more)

    def _balance(self, codes: tuple[str, ...]) -> Money | None:
        return next((self._balances[code] for code in codes if code in self._balances), None)

    def _balance_fault(self, opening: Money | None, closing: Money | None) -> str:
        """A notification has no balances, and an interim report only one: nothing can be checked then."""
        if not opening or not closing:
            return ""
        if opening.currency != closing.currency or self._currencies - {opening.currency}:
            return "balance_currency"
        moved_minor = self._totals.credits_minor - self._totals.debits_minor
        return "" if opening.minor + moved_minor == closing.minor else "balance_total"

    def _summary_fault(self) -> str:
        """The totals that some banks announce before the entries."""
        found = {"count": str(self._entries)}
        for name, minor in (("credit", self._summed.credits_minor), ("debit", self._summed.debits_minor)):
            announced = self._summary.get(name)
            currency = next(iter(self._currencies), "")
            if announced and len(self._currencies) == 1 and exact_minor(announced, currency) != minor:
                return "summary_total"
        return "summary_count" if self._summary.get("count", found["count"]) != found["count"] else ""

    def _refused(self, entry: int, code: str, whole: bool) -> SetAside:
        return SetAside(Quarantined(self._ordinal, entry, 0, code), whole)
