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
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

from lxml import etree

from adapters.sources.amounts import exact_minor
from adapters.sources.bank.entries import Entry, Item, SetAside, Totals
from adapters.sources.source import Quarantined, SourceSettings
from runtime.errors import FrameError

PARTS_MAX = 50_000  # details of one batch entry that are kept until it ends
TEXTS_MAX = 64  # remittance lines of one detail that are searched

_NAMESPACE = re.compile(r"urn:iso:std:iso:20022:tech:xsd:camt\.05[34]\.001\.\d\d")
_CURRENCY = re.compile("[A-Z]{3}")
_CODE = re.compile(r"(?=.{1,35}$)[A-Z0-9]+([-+./][A-Z0-9]+)*")
_REPORTS = ("Stmt", "Ntfctn")
_TAGS = [f"{{*}}{name}" for name in ("Document", "GrpHdr", *_REPORTS, "Bal", "TxsSummry", "Ntry", "Btch", "TxDtls")]
_OPENING, _CLOSING = ("OPBD", "PRCD"), ("CLBD",)
_DIRECTIONS = {"CRDT": 1, "DBIT": -1}
_STATUSES = {"BOOK": True, "PDNG": False, "INFO": False, "FUTR": False}  # whether it is on the account
_PARTIES = {1: "Dbtr", -1: "Cdtr"}  # who is at the other end of a credit, of a debit

_Fields = Mapping[str, etree._Element]


class _Money(NamedTuple):
    minor: int
    currency: str


class _Part(NamedTuple):
    """One detail of an entry. `money` is None when it names no readable amount."""

    money: _Money | None
    end_to_end: str
    originators: tuple[str, str]  # debtor's, creditor's
    texts: tuple[str, ...]


class _Unfit(Exception):
    """An entry that can't be read; its argument is the code."""


def scan(path: Path, settings: SourceSettings) -> Iterator[Item]:
    """Entries and verdicts in file order. Raises FrameError for what is no such message, or not well-formed."""
    try:
        with path.open("rb") as file:
            yield from _Message().items(
                etree.iterparse(
                    file, ("start", "end"), tag=_TAGS, resolve_entities=False, load_dtd=False, no_network=True
                )
            )
    except etree.XMLSyntaxError as error:
        raise FrameError("malformed", "", f"line {error.position[0]}: not well-formed XML") from None


class _Message:
    """The parser's events, handed to the report that is open."""

    def __init__(self) -> None:
        self._name_start = 0
        self._created = ""
        self._reports = 0
        self._report: _Report | None = None

    def items(self, events: etree.iterparse) -> Iterator[Item]:
        """Everything that the message holds."""
        for event, element in events:
            if not self._name_start:
                self._check_root(element)
            name = element.tag[self._name_start :]
            if event == "start":
                self._start(name)
            elif self._report:
                yield from self._report.take(name, element)
                if name in _REPORTS:
                    self._report = None
                    _forget(element)
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


class _Report:
    """One statement or notification."""

    def __init__(self, ordinal: int, created: str) -> None:
        self._ordinal, self._created = ordinal, created
        self._totals = Totals()
        self._entries = self._unbooked = 0
        self._currencies: set[str] = set()
        self._balances: dict[str, _Money] = {}
        self._summary: dict[str, str] = {}
        self._summed = Totals()  # over all entries, booked or not
        self._unreadable = False
        self._key: tuple[str, str] | None = None
        self._parts: list[_Part] = []
        self._part_count = self._announced = 0

    def open_entry(self) -> None:
        """A new entry begins."""
        self._parts, self._part_count, self._announced = [], 0, 0

    def take(self, name: str, element: etree._Element) -> Iterator[Item]:
        """An element has ended."""
        if name == "TxDtls":
            self._take_part(element)
        elif name == "Btch":
            self._announced += _count(element.findtext("{*}NbOfTxs"))
        elif name == "Ntry":
            yield from self._take_entry(element)
            _forget(element)
        elif name == "Bal":
            yield from self._take_balance(element)
        elif name == "TxsSummry":
            self._summary = _summary(element)
        elif name in _REPORTS:
            yield from self._end()

    def _take_part(self, element: etree._Element) -> None:
        self._part_count += 1
        if self._part_count <= PARTS_MAX:
            self._parts.append(_part(element))
        _forget(element)

    def _take_balance(self, element: etree._Element) -> Iterator[Item]:
        try:
            self._balances.setdefault(element.findtext("{*}Tp/{*}CdOrPrtry/{*}Cd", ""), _signed(_children(element)))
        except _Unfit as unfit:
            self._unreadable = True
            yield self._refused(0, str(unfit), whole=True)

    def _take_entry(self, element: etree._Element) -> Iterator[Item]:
        self._entries += 1
        fields = _children(element)
        try:
            money = _signed(fields)
            self._summed.add(money.minor)
            if not _is_booked(fields):
                self._unbooked += 1
                return
            self._totals.add(money.minor)
            self._currencies.add(money.currency)
            entry = self._entry(element, fields, money)
        except _Unfit as unfit:
            self._unreadable = True
            yield self._refused(self._entries, str(unfit), whole=True)
            return
        if code := self._batch_fault(money):
            yield self._refused(self._entries, code, whole=False)
        else:
            yield from self._movements(entry)

    def _entry(self, element: etree._Element, fields: _Fields, money: _Money) -> Entry:
        account, statement_key = self._names(element)
        value_on = _as_day(_all_text(fields, "ValDt"))
        booked_on = _as_day(_all_text(fields, "BookgDt")) or value_on or _as_day(self._created)
        if booked_on is None:
            raise _Unfit("booking_date")
        ends = {part.end_to_end for part in self._parts}
        return Entry(
            statement=self._ordinal,
            statement_key=statement_key,
            account=account,
            bank_reference=_all_text(fields, "AcctSvcrRef"),
            amount_minor=money.minor,
            currency=money.currency,
            booked_on=booked_on,
            value_on=value_on or booked_on,
            type_code=_type_code(fields.get("BkTxCd")),
            customer_reference=ends.pop() if len(ends) == 1 else "",
            originator=self._parts[0].originators[money.minor < 0] if len(self._parts) == 1 else "",
            texts=(_all_text(fields, "AddtlNtryInf"), *(text for part in self._parts for text in part.texts)),
            returned=_all_text(fields, "RvslInd") in ("true", "1"),
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

    def _batch_fault(self, money: _Money) -> str:
        """What is wrong with the entry's details, or nothing."""
        if self._part_count > PARTS_MAX:
            return "too_many_details"
        if self._announced and self._part_count and self._announced != self._part_count:
            return "batch_count"
        if self._splits(money) and sum(part.money.minor for part in self._parts) != money.minor:
            return "batch_total"
        return ""

    def _splits(self, money: _Money) -> bool:
        """Whether the details say how the entry is made up: more than one, each with an amount in its currency."""
        return len(self._parts) > 1 and all(
            part.money and part.money.currency == money.currency for part in self._parts
        )

    def _movements(self, entry: Entry) -> Iterator[Entry]:
        """The entry itself, or its details where they tell the amounts."""
        if not self._splits(_Money(entry.amount_minor, entry.currency)):
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

    def _balance(self, codes: tuple[str, ...]) -> _Money | None:
        return next((self._balances[code] for code in codes if code in self._balances), None)

    def _balance_fault(self, opening: _Money | None, closing: _Money | None) -> str:
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


def _children(element: etree._Element) -> _Fields:
    """The children by their names; of several of a name the first."""
    return {child.tag.rpartition("}")[2]: child for child in element.iterchildren(etree.Element, reversed=True)}


def _all_text(fields: _Fields, name: str, default: str = "") -> str:
    """A child's text, wherever in it it stands: newer versions nest what older ones wrote plainly."""
    child = fields.get(name)
    if child is None:
        return default
    return (child.text if not len(child) else "".join(child.itertext())).strip() if child.text or len(child) else ""


def _is_booked(fields: _Fields) -> bool:
    """Raises _Unfit for a status that the standard doesn't know."""
    is_booked = _STATUSES.get(_all_text(fields, "Sts", "BOOK"))
    if is_booked is None:
        raise _Unfit("entry_status")
    return is_booked


def _signed(fields: _Fields) -> _Money:
    """An amount with its direction. Raises _Unfit."""
    money = _money(fields.get("Amt"))
    direction = _DIRECTIONS.get(_all_text(fields, "CdtDbtInd"))
    if direction is None:
        raise _Unfit("direction")
    if money is None or money.minor < 0:
        raise _Unfit("amount")
    return money._replace(minor=direction * money.minor)


def _money(amount: etree._Element | None) -> _Money | None:
    if amount is None:
        return None
    currency = amount.get("Ccy", "")
    minor = exact_minor(amount.text or "", currency)
    return None if minor is None or not _CURRENCY.fullmatch(currency) else _Money(minor, currency)


def _part(details: etree._Element) -> _Part:
    fields = _children(details)
    amount, parties, references = fields.get("Amt"), fields.get("RltdPties"), fields.get("Refs")
    if amount is None and "AmtDtls" in fields:
        amount = fields["AmtDtls"].find("{*}TxAmt/{*}Amt")
    money = _money(amount)
    if money:
        direction = _all_text(fields, "CdtDbtInd") or next(details.iterancestors("{*}Ntry")).findtext(
            "{*}CdtDbtInd", ""
        )
        money = money._replace(minor=_DIRECTIONS.get(direction.strip(), 1) * money.minor)
    return _Part(
        money=money,
        end_to_end="" if references is None else references.findtext("{*}EndToEndId", "").strip(),
        originators=(_organisation(parties, _PARTIES[1]), _organisation(parties, _PARTIES[-1])),
        texts=_texts(fields),
    )


def _organisation(parties: etree._Element | None, role: str) -> str:
    """An organisation's id; a private person's is never read."""
    if parties is None:
        return ""
    for place in (f"{{*}}{role}/{{*}}Id/{{*}}OrgId", f"{{*}}{role}/{{*}}Pty/{{*}}Id/{{*}}OrgId"):
        for name in ("{*}Othr/{*}Id", "{*}LEI", "{*}AnyBIC", "{*}BICOrBEI"):
            if found := parties.findtext(f"{place}/{name}"):
                return found.strip()
    return ""


def _texts(fields: _Fields) -> tuple[str, ...]:
    """What may hold a trace: remittance lines, plain or beside a structured one, and the bank's own words."""
    remittance = fields.get("RmtInf")
    nodes = () if remittance is None else remittance.iter("{*}Ustrd", "{*}AddtlRmtInf")
    lines = [node.text.strip() for node, _ in zip(nodes, range(TEXTS_MAX), strict=False) if node.text]
    return (*lines, _all_text(fields, "AddtlTxInf"))


def _type_code(code: etree._Element | None) -> str:
    """Domain, family and sub-family, or the bank's own code. What does not look like a code is free text, and stays."""
    if code is None:
        return ""
    places = ("{*}Domn/{*}Cd", "{*}Domn/{*}Fmly/{*}Cd", "{*}Domn/{*}Fmly/{*}SubFmlyCd")
    domain = "-".join(text.strip() for place in places if (text := code.findtext(place)))
    proposed = domain or code.findtext("{*}Prtry/{*}Cd", "").strip()
    return proposed if _CODE.fullmatch(proposed) else ""


def _summary(element: etree._Element) -> dict[str, str]:
    places = {
        "count": "{*}TtlNtries/{*}NbOfNtries",
        "credit": "{*}TtlCdtNtries/{*}Sum",
        "debit": "{*}TtlDbtNtries/{*}Sum",
    }
    return {name: text.strip() for name, place in places.items() if (text := element.findtext(place))}


def _as_day(text: str) -> date | None:
    """The day as it is written, without its time."""
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def _count(text: str | None) -> int:
    return int(text) if text and text.strip().isdecimal() else 0


def _forget(element: etree._Element) -> None:
    """Free what has been read: this element's content, and its elder of the same name."""
    element.clear(keep_tail=True)
    elder = element.getprevious()
    if elder is not None and elder.tag == element.tag:
        element.getparent().remove(elder)
