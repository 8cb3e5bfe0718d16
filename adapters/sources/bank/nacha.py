"""NACHA (ACH) files as a bank delivers them: entries for us, with what payers add to them.

Owns the fixed record layout and the control sums: a batch whose own control record does not tie (entry and addenda
count, entry hash, debits, credits) is set aside whole; a file control that does not tie is a fault of the envelope.
Names and account numbers are not handed out.

A credit is money for us. A return (addenda 99) has the direction of its transaction code: a credit that we had sent
comes back as bank_credit_received, a debit that we had drawn is taken back as bank_debit_made; the reason is the return
code, the reference the original trace number. A notification of change (addenda 98), a prenote and a zero-dollar entry
move no money and are only counted.

Own reading: the libraries kept for Python write files; the one that also reads (nacha3 0.0.2) refuses 10 of the 15
sample files for a blank date or a trimmed line, checks no control sum, reads 16,000 records a second, and its errors
quote the record.
"""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

from adapters.sources.bank.entries import ENVELOPE, Entry, Item, SetAside, Totals
from adapters.sources.source import Quarantined, SourceFault, SourceSettings
from runtime.errors import FrameError

RECORD_CHARS = 94
ADDENDA_MAX = 10_000  # of one entry; the format allows 9,999
_READ_CHARS = RECORD_CHARS * 100
_HASH_MODULUS = 10**10
_CURRENCY = "USD"  # every amount of an ACH entry is in dollars, of an international one too
_CORPORATE = ("CCD", "CTX")  # entry classes whose identification number is a company's, not a person's
_INTERNATIONAL = "IAT"
_OTHER_LAYOUT = "ADV"
_FILLER = "9" * RECORD_CHARS
_RECORDS = re.compile("[156789]")


class _Fields(NamedTuple):
    """Where things stand in a record, from 0."""

    effective_on: slice = slice(69, 75)
    entry_class: slice = slice(50, 53)
    description: slice = slice(53, 63)
    company_id: slice = slice(40, 50)
    company_name: slice = slice(4, 20)
    originating_bank: slice = slice(79, 87)
    batch_number: slice = slice(87, 94)
    transaction_code: slice = slice(1, 3)
    receiving_bank: slice = slice(3, 11)
    account: slice = slice(12, 29)
    international_account: slice = slice(39, 74)
    amount: slice = slice(29, 39)
    identification: slice = slice(39, 54)
    trace: slice = slice(79, 94)
    addenda_type: slice = slice(1, 3)
    payment_information: slice = slice(3, 83)
    return_code: slice = slice(3, 6)
    original_trace: slice = slice(6, 21)


_AT = _Fields()
# (name, place in the batch control record, place in the file control record)
_CONTROLS = (
    ("entry_count", slice(4, 10), slice(13, 21)),
    ("entry_hash", slice(10, 20), slice(21, 31)),
    ("debit_total", slice(20, 32), slice(31, 43)),
    ("credit_total", slice(32, 44), slice(43, 55)),
)
_BATCH_COUNT = slice(1, 7)


def scan(path: Path, settings: SourceSettings) -> Iterator[Item]:
    """Entries and verdicts in file order. Raises FrameError for what does not begin as a NACHA record."""
    file = _File()
    for line, record in _records(path):
        yield from file.take(line, record)
    yield from file.end()


def _records(path: Path) -> Iterator[tuple[int, str]]:
    """Records padded to their length, whether they stand on lines or in one block; filler is left out."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        number = 0
        while line := file.readline(_READ_CHARS):
            text = line.rstrip("\r\n")
            for start in range(0, len(text), RECORD_CHARS):
                number += 1
                record = text[start : start + RECORD_CHARS].ljust(RECORD_CHARS)
                if record != _FILLER and not record.isspace():
                    yield number, record


class _Sums:
    """What a control record must say."""

    def __init__(self) -> None:
        self.entry_count = self.entry_hash = self.debit_total = self.credit_total = 0

    def add_entry(self, receiving_bank: int, amount_minor: int, is_credit: bool) -> None:
        """Count an entry record."""
        self.entry_count += 1
        self.entry_hash = (self.entry_hash + receiving_bank) % _HASH_MODULUS
        self.credit_total += amount_minor if is_credit else 0
        self.debit_total += 0 if is_credit else amount_minor

    def add_declared(self, record: str) -> None:
        """Count a whole batch, by what its control record says."""
        for name, place, _ in _CONTROLS:
            setattr(self, name, getattr(self, name) + _number(record[place]))
        self.entry_hash %= _HASH_MODULUS

    def differing(self, record: str, of_file: bool) -> Iterator[tuple[str, int]]:
        """What the control record says that is not so: a code and the place's first column, counted from 1."""
        for name, in_batch, in_file in _CONTROLS:
            place = in_file if of_file else in_batch
            if _number(record[place]) != getattr(self, name):
                yield name, place.start + 1


class _Batch:
    """One batch, from its header to its control record."""

    def __init__(self, ordinal: int, header: str, created_on: date | None) -> None:
        self.ordinal, self.header = ordinal, header
        self.entry_class = header[_AT.entry_class]
        self.effective_on = _day(header[_AT.effective_on]) or created_on
        self.sums, self.totals = _Sums(), Totals()
        self.zero_amounts = self.notifications = 0

    @property
    def key(self) -> str:
        """What names this batch in whatever file it comes."""
        return f"{self.header[_AT.originating_bank]} {self.header[_AT.company_id]} {self.effective_on}"


class _Open(NamedTuple):
    """An entry whose addenda may still follow."""

    record: str
    addenda: list[str]


class _File:
    """The records of one file in order."""

    def __init__(self) -> None:
        self._begun = self._headed = self._controlled = False
        self._created_on: date | None = None
        self._batches = 0
        self._sums = _Sums()
        self._batch: _Batch | None = None
        self._open: _Open | None = None
        self._line = 0
        self._take = {
            "1": self._take_header,
            "5": self._open_batch,
            "6": self._take_entry,
            "7": self._take_addenda,
            "8": self._close_batch,
            "9": self._take_control,
        }

    def take(self, line: int, record: str) -> Iterator[Item]:
        """One record."""
        known = bool(_RECORDS.match(record))
        if not self._begun and not known:
            raise FrameError("malformed", "", f"line {line}: not a NACHA record")
        self._begun, self._line = True, line
        if not known:
            yield SourceFault(line, "record type", "unknown_record", "expected 1, 5, 6, 7, 8 or 9")
            return
        if record[0] != "7":
            yield from self._entry_ends()
        yield from self._take[record[0]](record)

    def end(self) -> Iterator[Item]:
        """After the last record."""
        if not self._begun:
            raise FrameError("malformed", "", "not a NACHA record")
        yield from self._entry_ends()
        yield from self._lacking_control()
        if not self._headed:
            yield self._envelope(1, "missing_header")
        if not self._controlled:
            yield self._envelope(1, "missing_control")

    def _take_header(self, record: str) -> Iterator[Item]:
        self._headed = True
        self._created_on = _day(record[23:29])
        yield from ()

    def _open_batch(self, record: str) -> Iterator[Item]:
        yield from self._lacking_control()
        self._batches += 1
        self._batch = batch = _Batch(self._batches, record, self._created_on)
        if batch.entry_class == _OTHER_LAYOUT:
            yield self._refused(_AT.entry_class.start + 1, "unsupported_entry_class")
        elif batch.effective_on is None:
            yield self._refused(_AT.effective_on.start + 1, "effective_date")

    def _lacking_control(self) -> Iterator[Item]:
        if self._batch:
            yield self._refused(1, "missing_control")
            self._batch = None

    def _take_entry(self, record: str) -> Iterator[Item]:
        if self._batch is None:
            yield self._envelope(1, "missing_batch_header")
            return
        bank, amount, code = record[_AT.receiving_bank], record[_AT.amount], record[_AT.transaction_code]
        if not (bank.isdecimal() and amount.isdecimal() and code.isdecimal()):
            yield self._refused(_AT.amount.start + 1, "amount")
            return
        self._batch.sums.add_entry(int(bank), int(amount), _is_credit(record))
        self._open = _Open(record, [])

    def _take_addenda(self, record: str) -> Iterator[Item]:
        if self._batch is None:
            yield self._envelope(1, "missing_batch_header")
        elif self._open is None:
            yield self._refused(1, "missing_entry")
        else:
            self._batch.sums.entry_count += 1
            if len(self._open.addenda) < ADDENDA_MAX:
                self._open.addenda.append(record)

    def _entry_ends(self) -> Iterator[Item]:
        """All its addenda have come."""
        batch, opened, self._open = self._batch, self._open, None
        if batch is None or opened is None:
            return
        amount_minor = int(opened.record[_AT.amount])
        if any(addenda[_AT.addenda_type] == "98" for addenda in opened.addenda):
            batch.notifications += 1
        elif not amount_minor:
            batch.zero_amounts += 1
        elif batch.effective_on:
            signed_minor = amount_minor if _is_credit(opened.record) else -amount_minor
            batch.totals.add(signed_minor)
            yield _entry(batch, opened, signed_minor, batch.effective_on)

    def _close_batch(self, record: str) -> Iterator[Item]:
        batch = self._batch
        if batch is None:
            yield self._envelope(1, "missing_batch_header")
            return
        for code, column in batch.sums.differing(record, of_file=False):
            yield self._refused(column, code)
        self._sums.add_declared(record)
        self._batch = None
        yield batch.totals.figures(zero_amounts=batch.zero_amounts, notifications=batch.notifications)

    def _take_control(self, record: str) -> Iterator[Item]:
        yield from self._lacking_control()
        self._controlled = True
        if _number(record[_BATCH_COUNT]) != self._batches:
            yield self._envelope(_BATCH_COUNT.start + 1, "batch_count")
        for code, column in self._sums.differing(record, of_file=True):
            yield self._envelope(column, code)

    def _refused(self, column: int, code: str) -> SetAside:
        return SetAside(Quarantined(self._batches, self._line, column, code), whole=True)

    def _envelope(self, column: int, code: str) -> SetAside:
        return SetAside(Quarantined(ENVELOPE, self._line, column, code), whole=False)


def _entry(batch: _Batch, opened: _Open, amount_minor: int, effective_on: date) -> Entry:
    header, record = batch.header, opened.record
    returned = next((addenda for addenda in opened.addenda if addenda[_AT.addenda_type] == "99"), None)
    account = record[_AT.international_account if batch.entry_class == _INTERNATIONAL else _AT.account]
    identification = record[_AT.identification].strip() if batch.entry_class in _CORPORATE else ""
    code = record[_AT.transaction_code]
    return Entry(
        statement=batch.ordinal,
        statement_key=batch.key,
        account=account.strip(),
        bank_reference=record[_AT.trace].strip(),
        amount_minor=amount_minor,
        currency=_CURRENCY,
        booked_on=effective_on,
        value_on=effective_on,
        type_code=returned[_AT.return_code] if returned else f"{batch.entry_class}-{code}",
        customer_reference=returned[_AT.original_trace].strip() if returned else identification,
        originator=header[_AT.company_id].strip(),
        texts=_texts(header, identification, opened.addenda),
        returned=returned is not None,
    )


def _texts(header: str, identification: str, addenda: list[str]) -> tuple[str, ...]:
    """What patterns search: who sends and why, then the payment information of all addenda."""
    sender = f"{header[_AT.company_name].strip()} {header[_AT.description].strip()} {identification}"
    paid_for = (record[_AT.payment_information] for record in addenda if record[_AT.addenda_type] == "05")
    return (sender, *(information.rstrip() for information in paid_for))


def _is_credit(record: str) -> bool:
    """The code's second digit: 1 to 4 for credits, 6 to 9 for debits."""
    return record[2] < "5"


def _number(text: str) -> int:
    digits = text.strip()
    return int(digits) if digits.isdecimal() else -1


def _day(text: str) -> date | None:
    """YYMMDD."""
    try:
        return date(2000 + int(text[:2]), int(text[2:4]), int(text[4:6]))
    except ValueError:
        return None
