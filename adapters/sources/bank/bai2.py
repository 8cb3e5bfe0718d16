"""BAI2 cash management files: records 01, 02, 03, 16, 88, 49, 98 and 99.

Owns the cutting into records and the control sums and counts of accounts, groups and file. An account whose own
trailer does not tie is set aside whole; a group's or the file's trailer that does not tie is reported as a fault of the
envelope and what lies in it goes on, as each account proves itself. Text is searched for patterns and dropped.

Own reading: the kept library for Python (bai2 0.15.0) refuses two of the sample files that tie (it knows no amount that
goes on in an 88, and no two records on one line), holds the whole file, and calls itself not ready for production.

Files differ in how a record ends: with "/", at the line's end, or wrapped onto lines without a record code; and several
records may share a line. Amounts are in minor units already, as the format has it.
"""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

from adapters.sources.bank.entries import ENVELOPE, Entry, Item, SetAside, Totals
from adapters.sources.bank.patterns import PATTERNS, TypeTable
from adapters.sources.source import Quarantined, SourceFault, SourceSettings
from runtime.errors import FrameError

RECORD_CHARS_MAX = 1 << 20  # of one record with its continuations
LINE_CHARS_MAX = 1 << 16

_CODES = "01|02|03|16|49|88|98|99"
_STARTS = re.compile(rf"\s*(?:{_CODES})(?:,|/|\s*$)")
_NEXT_ON_LINE = re.compile(rf"/[ \t]+(?=(?:{_CODES}),)")
_AMOUNT = re.compile(r"[+-]?\d{1,18}")
_TYPE = re.compile(r"\d{3}")
_COUNT = re.compile(r"\d{1,6}")  # of funds that become available on further days
_OPENING, _CLOSING = "010", "015"
_UPDATE = ("", "1")  # group status; deletions, corrections and tests need a person


class _Record(NamedTuple):
    """A record with its continuations: `parts` are their bodies, `number` the first one's place in the file."""

    code: str
    number: int
    line: int
    parts: list[str]

    def fields(self) -> list[str]:
        """All fields after the record code."""
        return [field.strip() for field in ",".join(self.parts).split(",")]


class _Unfit(Exception):
    """A record that can't be read: its field's number and a code."""


def scan(path: Path, settings: SourceSettings) -> Iterator[Item]:
    """Entries and verdicts in file order. Raises FrameError for what does not begin as a BAI2 file."""
    file = _File(settings.currency, PATTERNS.types)
    for record in _records(path):
        yield from file.take(record)
    yield from file.end()


def _pieces(path: Path) -> Iterator[tuple[int, str]]:
    """Records as the file has them, continuations apart: line number and text from the record code on."""
    started, held = 0, ""
    for number, line in _lines(path):
        for piece in _NEXT_ON_LINE.split(line):
            if not _STARTS.match(piece) and held:
                held += piece
            else:
                if held:
                    yield started, held
                started, held = number, piece.lstrip()
            if len(held) > RECORD_CHARS_MAX:
                raise _too_long(number)
    if held:
        yield started, held


def _too_long(line: int) -> FrameError:
    return FrameError("too_long", "", f"line {line}: at most {RECORD_CHARS_MAX} characters a record")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        number = 0
        while line := file.readline(LINE_CHARS_MAX):
            number += 1
            if line.strip():
                yield number, line.rstrip("\r\n")


def _records(path: Path) -> Iterator[_Record]:
    record: _Record | None = None
    chars = 0
    for number, (line, text) in enumerate(_pieces(path), 1):
        code, body = text[:2], text[3:].rstrip().removesuffix("/")
        if code == "88" and record:
            chars += len(text)
            if chars > RECORD_CHARS_MAX:
                raise _too_long(line)
            record.parts.append(body)
            continue
        if record:
            yield record
        record, chars = _Record(code, number, line, [body]), len(text)
    if record:
        yield record


class _Level:
    """What a trailer must say of what it closes: the sum, the number of parts, the number of records."""

    def __init__(self, number: int) -> None:
        self.number = number  # of the record that opened it
        self.sum_minor = self.parts = self.records = 0


class _Account(_Level):
    """One account, from its 03 to its 49."""

    def __init__(self, ordinal: int, number: int) -> None:
        super().__init__(number)
        self.ordinal = ordinal
        self.name = self.currency = ""
        self.totals = Totals()
        self.balances: dict[str, int] = {}


class _Group(_Level):
    """One group, from its 02 to its 98."""

    def __init__(self, number: int, fields: list[str]) -> None:
        super().__init__(number)
        padded = fields + [""] * 7
        self.originator, self.status, self.currency = padded[1], padded[2], padded[5]
        self.day, self.time = _day(padded[3]), padded[4]


class _File:
    """The records of one file in order, and the levels that are open."""

    def __init__(self, currency: str, types: TypeTable) -> None:
        self._default_currency, self._types = currency, types
        self._sender = ""
        self._file: _Level | None = None
        self._group: _Group | None = None
        self._account: _Account | None = None
        self._accounts = 0
        self._ended = False
        self._last = 0
        self._take = {
            "01": self._open_file,
            "02": self._open_group,
            "03": self._open_account,
            "16": self._transaction,
            "49": self._close_account,
            "98": self._close_group,
            "99": self._close_file,
        }

    def take(self, record: _Record) -> Iterator[Item]:
        """One record."""
        if self._file is None and record.code != "01":
            raise FrameError("malformed", "", f"line {record.line}: not a BAI2 file header")
        self._last = record.number
        take = self._take.get(record.code)
        if take is None:
            yield SourceFault(record.line, "record code", "unknown_record", f"expected {_CODES.replace('|', ', ')}")
            return
        for level in (self._file, self._group, self._account):
            if level:
                level.records += len(record.parts)
        yield from take(record)

    def end(self) -> Iterator[Item]:
        """After the last record."""
        if self._file is None:
            raise FrameError("malformed", "", "not a BAI2 file header")
        yield from self._lacking_trailers(self._account, self._group, None if self._ended else self._file)

    def _lacking_trailers(self, *levels: _Level | None) -> Iterator[SetAside]:
        """What should have been closed by now. An account without its trailer proves nothing."""
        for level in levels:
            if isinstance(level, _Account):
                yield self._refused(level, self._last, 1, "missing_trailer")
            elif level:
                yield _envelope(self._last, 1, "missing_trailer")

    def _open_file(self, record: _Record) -> Iterator[Item]:
        if self._file:
            yield _envelope(record.number, 1, "second_header")
            return
        self._file = _Level(record.number)
        self._file.records = len(record.parts)
        self._sender = record.fields()[0]

    def _open_group(self, record: _Record) -> Iterator[Item]:
        yield from self._lacking_trailers(self._account, self._group)
        self._account, self._group = None, _Group(record.number, record.fields())
        self._group.records = len(record.parts)

    def _open_account(self, record: _Record) -> Iterator[Item]:
        yield from self._lacking_trailers(self._account)
        self._accounts += 1
        self._account = account = _Account(self._accounts, record.number)
        account.records = len(record.parts)
        fields = record.fields()
        account.name, account.currency = fields[0], fields[1] if len(fields) > 1 else ""
        if code := _group_fault(self._group):
            yield self._refused(account, record.number, 1, code)
        try:
            for code, amount_minor in _summaries(fields[2:]):
                account.sum_minor += amount_minor
                account.balances.setdefault(code, amount_minor)
        except _Unfit as unfit:
            yield self._refused(account, record.number, unfit.args[0] + 3, unfit.args[1])

    def _transaction(self, record: _Record) -> Iterator[Item]:
        account, group = self._account, self._group
        if account is None:
            yield _envelope(record.number, 1, "missing_account")
            return
        try:
            code, amount_minor = _type_and_amount(record.fields())
            bank_reference, customer_reference, value_on, texts = _details(record)
        except _Unfit as unfit:
            yield self._refused(account, record.number, *unfit.args)
            return
        account.sum_minor += amount_minor
        direction = self._types.direction(self._sender, code)
        if direction is None:
            yield SourceFault(record.line, "type code", "unknown_type", "not in the table of bank types")
        elif direction and group and group.day:
            account.totals.add(direction * amount_minor)
            yield Entry(
                statement=account.ordinal,
                statement_key=f"{group.originator} {group.day} {group.time}",
                account=account.name,
                bank_reference=bank_reference,
                amount_minor=direction * amount_minor,
                currency=account.currency or group.currency or self._default_currency,
                booked_on=group.day,
                value_on=value_on or group.day,
                type_code=code,
                customer_reference=customer_reference,
                texts=texts,
                meant=self._types.meant(self._sender, code),
            )

    def _close_account(self, record: _Record) -> Iterator[Item]:
        account, self._account = self._account, None
        if account is None:
            yield _envelope(record.number, 1, "missing_account")
            return
        declared_minor, _, records = _trailer(record, parts=False)
        if self._group:
            self._group.sum_minor += declared_minor or 0
            self._group.parts += 1
        for wrong, field, code in (
            (declared_minor != account.sum_minor, 2, "control_total"),
            (records != account.records, 3, "record_count"),
        ):
            if wrong:
                yield self._refused(account, record.number, field, code)
        named = {"opening_minor": _OPENING, "closing_minor": _CLOSING}
        yield account.totals.figures(**{n: account.balances[c] for n, c in named.items() if c in account.balances})

    def _close_group(self, record: _Record) -> Iterator[Item]:
        yield from self._lacking_trailers(self._account)
        group, self._group, self._account = self._group, None, None
        if self._file:
            self._file.sum_minor += _trailer(record)[0] or 0
            self._file.parts += 1
        yield from _compared(record, group)

    def _close_file(self, record: _Record) -> Iterator[Item]:
        yield from self._lacking_trailers(self._account, self._group)
        self._account = self._group = None
        self._ended = True
        yield from _compared(record, self._file)

    def _refused(self, account: _Account, number: int, field: int, code: str) -> SetAside:
        return SetAside(Quarantined(account.ordinal, number, field, code), whole=True)


def _group_fault(group: _Group | None) -> str:
    """Why the accounts of this group can't be booked, or nothing."""
    if group is None:
        return "missing_group"
    if group.day is None:
        return "as_of_date"
    return "" if group.status in _UPDATE else "group_status"


def _compared(record: _Record, level: _Level | None) -> Iterator[SetAside]:
    """What a group's or the file's trailer says that is not so."""
    if level is None:
        yield _envelope(record.number, 1, "missing_header")
        return
    found = (level.sum_minor, level.parts, level.records)
    for field, (said, is_so) in enumerate(zip(_trailer(record), found, strict=True), 2):
        if said != is_so:
            yield _envelope(record.number, field, ("control_total", "part_count", "record_count")[field - 2])


def _envelope(number: int, field: int, code: str) -> SetAside:
    return SetAside(Quarantined(ENVELOPE, number, field, code), whole=False)


def _trailer(record: _Record, parts: bool = True) -> tuple[int | None, int | None, int | None]:
    """The sum, the parts (an account's trailer names none) and the records that a trailer declares."""
    numbers = [int(field) if _AMOUNT.fullmatch(field) else None for field in record.fields()] + [None] * 3
    return (numbers[0], numbers[1], numbers[2]) if parts else (numbers[0], None, numbers[1])


def _summaries(fields: list[str]) -> Iterator[tuple[str, int]]:
    """Type codes and amounts of an account record: balances and totals, each with an item count and a funds type."""
    position = 0
    while position < len(fields):
        if not fields[position]:
            position += 1
            continue
        if not _TYPE.fullmatch(fields[position]):
            raise _Unfit(position, "type_code")
        code, amount = fields[position], fields[position + 1] if position + 1 < len(fields) else ""
        if amount and not _AMOUNT.fullmatch(amount):
            raise _Unfit(position + 1, "amount")
        yield code, int(amount or 0)
        position += 3 + _funds_fields(fields, position + 3)


def _funds_fields(fields: list[str], position: int) -> int:
    """How many fields the funds type at this position takes, with its distribution."""
    funds = fields[position] if position < len(fields) else ""
    if funds == "V":
        return 3
    if funds == "S":
        return 4
    if funds == "D":
        count = fields[position + 1] if position + 1 < len(fields) else ""
        return 2 + 2 * (int(count) if _COUNT.fullmatch(count) else 0)
    return 1


def _type_and_amount(fields: list[str]) -> tuple[str, int]:
    if not _TYPE.fullmatch(fields[0]):
        raise _Unfit(2, "type_code")
    amount = fields[1] if len(fields) > 1 else ""
    if amount and not _AMOUNT.fullmatch(amount):
        raise _Unfit(3, "amount")
    return fields[0], int(amount or 0)


def _details(record: _Record) -> tuple[str, str, date | None, tuple[str, ...]]:
    """References, value date and text lines of a transaction."""
    fields = record.fields()
    after_funds = 2 + _funds_fields(fields, 2)
    references = (fields[after_funds : after_funds + 2] + ["", ""])[:2]
    value_on = _day(fields[3]) if len(fields) > 3 and fields[2] == "V" else None
    fixed = after_funds + 2
    first = record.parts[0].split(",")
    is_whole = len(first) >= fixed
    texts = (",".join(first[fixed:]), *record.parts[1:]) if is_whole else (",".join(fields[fixed:]),)
    return references[0], references[1], value_on, tuple(text for text in texts if text)


def _day(text: str) -> date | None:
    """YYMMDD, or YYYYMMDD as some banks write it."""
    digits = f"20{text}" if len(text) == 6 else text
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) if len(digits) == 8 else None
    except ValueError:
        return None
