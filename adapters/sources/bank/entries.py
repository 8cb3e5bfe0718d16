"""Bank entries as events: what all bank formats share.

A format scans its file into entries and verdicts. Its file is read twice: first to see which statements tie, then to
hand out the entries of those that do, so that memory does not grow with a statement. Owns the choice of an event's kind
and its id. Never decides what a statement's arithmetic is: the formats do.

An entry's identity is the bank's reference with account, day, amount and type; so the same entry in a notification and
in the statement after it is one event. Without a reference it is its place in the statement that names it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl
import xxhash

from adapters.sources.bank.patterns import CHECK_PAID, LOCKBOX, PATTERNS, Patterns
from adapters.sources.bank.references import reference, trimmed
from adapters.sources.occurrences import Occurrences, key_hash
from adapters.sources.source import Chunk, Findings, Quarantined, Reader, SourceFault, SourceSettings, canonical
from adapters.sources.tokens import checked_key, token
from runtime import limits
from runtime.schema import COLUMNS, SCHEMA_VERSION, UTC_MS

ENVELOPE = 0  # the transaction number of a fault that lies in the file's envelope, around the statements


UNTRACED = "untraced_eft_received"  # claim money whose trace was dropped on the way
SIGNED = frozenset({"deposit_received", "eft_received"})  # kinds whose amount is negative where money went out


class Entry(NamedTuple):
    """One movement of money on a bank account, credits positive. Of `texts` only what patterns name leaves."""

    statement: int  # counted from 1
    statement_key: str  # what names the statement wherever it is sent again
    account: str
    bank_reference: str
    amount_minor: int
    currency: str
    booked_on: date
    value_on: date
    type_code: str
    customer_reference: str = ""
    originator: str = ""
    texts: tuple[str, ...] = ()
    part: int = 0  # of a batch entry, counted from 1
    returned: bool = False  # it takes back an earlier entry
    meant: str = ""  # what the bank's type code alone says: LOCKBOX, CHECK_PAID or nothing


class SetAside(NamedTuple):
    """A part of the file that does not tie. `whole` sets aside all entries of its statement."""

    place: Quarantined
    whole: bool


class Figures(NamedTuple):
    """A statement's own counts and sums."""

    sums: Mapping[str, int]


Item = Entry | SetAside | SourceFault | Figures
Scan = Callable[[Path, SourceSettings], Iterator[Item]]


class Totals:
    """What moved on one statement."""

    def __init__(self) -> None:
        self.transactions = self.credits_minor = self.debits_minor = 0

    def add(self, amount_minor: int) -> None:
        """Count one entry."""
        self.transactions += 1
        self.credits_minor += max(amount_minor, 0)
        self.debits_minor -= min(amount_minor, 0)

    def figures(self, **more: int) -> Figures:
        """As figures of one statement; `more` are figures that only this format has."""
        moved = {name: getattr(self, name) for name in ("transactions", "credits_minor", "debits_minor")}
        return Figures({"statements": 1, **moved, **more})


def reader(source: str, scan: Scan) -> Reader:
    """The reader of a bank format. `source` becomes the events' source."""

    def read(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
        checked_key(settings.token_key)
        survey = _Survey(settings.rows_max)
        for item in scan(path, settings):
            survey.note(item)
        survey.occurrences.close()
        yield Chunk(pl.DataFrame(schema=COLUMNS), [], survey.findings.kept, survey.figures)
        events = _Events(source, settings, survey.occurrences)
        items = (item for item in survey.kept or scan(path, settings) if survey.admits(item))
        while part := list(islice(items, settings.rows_max)):
            faults = [item for item in part if isinstance(item, SourceFault)]
            yield Chunk(events.frame([item for item in part if isinstance(item, Entry)]), faults)

    return read


class _Survey:
    """What the first reading finds: statements that do not tie, equal entries, figures.

    It keeps the items of a file that is no longer than one frame, which then need not be read again.
    """

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self.kept: list[Item] | None = []
        self.findings = Findings()
        self.figures: Counter[str] = Counter()
        self.occurrences = Occurrences()
        self._refused: set[int] = set()

    def note(self, item: Item) -> None:
        if self.kept is not None:
            self.kept.append(item)
            self.kept = self.kept if len(self.kept) <= self._kept_max else None
        if isinstance(item, Entry):
            self.occurrences.note(_twin_key(item))
            if abs(item.amount_minor) > limits.AMOUNT_MINOR_MAX:
                self._set_aside(SetAside(Quarantined(item.statement, 0, 0, "amount_limit"), whole=True))
        elif isinstance(item, Figures):
            self.figures.update(item.sums)
        elif isinstance(item, SetAside):
            self._set_aside(item)

    def _set_aside(self, item: SetAside) -> None:
        self.findings.add([item.place])
        if item.whole:
            self._refused.add(item.place.transaction)

    def admits(self, item: Item) -> bool:
        return isinstance(item, SourceFault) or (isinstance(item, Entry) and item.statement not in self._refused)


def _identity(entry: Entry) -> tuple:
    owner = (entry.bank_reference,) if _is_named(entry) else ("", entry.statement_key, entry.customer_reference)
    moved = (entry.amount_minor, entry.currency, entry.booked_on, entry.type_code, entry.part)
    return (entry.account, *owner, *moved)


def _twin_key(entry: Entry) -> int:
    """A bank's reference may come again in another statement of the file; it is the same entry then."""
    return key_hash(entry.statement if _is_named(entry) else "", *_identity(entry))


def _is_named(entry: Entry) -> bool:
    """Whether the bank has given it a reference, and not a word that says that there is none."""
    return bool(trimmed(entry.bank_reference))


class _Row(NamedTuple):
    event_id: str
    kind: str
    document: str
    reference: str
    counterparty: str
    reason: str
    amount_minor: int
    currency: str
    booked_on: date
    effective_on: date
    attributes: str


_ROW_SCHEMA = {
    **{name: COLUMNS.get(name, pl.Date()) for name in _Row._fields},
    "booked_on": pl.Date(),
}


class _Events:
    """Makes events of entries, in the second reading."""

    def __init__(self, source: str, settings: SourceSettings, occurrences: Occurrences) -> None:
        self._source, self._settings, self._occurrences = source, settings, occurrences
        self._patterns: Patterns = PATTERNS
        self._attributes: dict[tuple[str, bool], str] = {}

    def frame(self, entries: list[Entry]) -> pl.DataFrame:
        """Canonical columns of these entries."""
        rows = [self._row(entry) for entry in entries]
        frame = pl.DataFrame(rows, schema=_ROW_SCHEMA, orient="row")
        texts = [pl.col(name).replace("", None) for name in ("reference", "counterparty", "reason")]
        columns = {name: pl.col(name) for name in _Row._fields if name != "booked_on"}
        return canonical(
            frame.with_columns(texts),
            **columns,
            source=pl.lit(self._source),
            entity=pl.lit(self._settings.entity),
            occurred_at=pl.col("booked_on").cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").cast(UTC_MS),
            schema_version=pl.lit(SCHEMA_VERSION),
        )

    def _row(self, entry: Entry) -> _Row:
        key = self._settings.token_key
        event_id = self._event_id(entry)
        kind, answered, counterparty = self._meaning(entry)
        return _Row(
            event_id=event_id,
            kind=kind,
            document=(answered if kind == "lockbox_deposited" else reference(entry.bank_reference, key)) or event_id,
            reference=answered,
            counterparty=reference(counterparty, key),
            reason=reference(entry.type_code, key),
            amount_minor=entry.amount_minor if kind in SIGNED else abs(entry.amount_minor),
            currency=entry.currency,
            booked_on=entry.booked_on,
            effective_on=entry.value_on,
            attributes=self._attributes_of(entry),
        )

    def _event_id(self, entry: Entry) -> str:
        number = self._occurrences.number(_twin_key(entry))
        digest = xxhash.xxh3_128_hexdigest("\x1f".join(map(str, _identity(entry))).encode())
        return digest if number == 1 else f"{digest}#{number}"

    def _meaning(self, entry: Entry) -> tuple[str, str, str]:
        """Kind, reference and counterparty. A debit with a trace is a payer's, of a remittance that takes money back. A
        traced payment's counterparty is TRN03 or nothing: the sender's number may be another one than the payer's in
        the remittance, and would tell apart what belongs together."""
        patterns, texts = self._patterns, entry.texts
        if payout := patterns.payout(texts):
            return "deposit_received", trimmed(payout), entry.originator
        trace = patterns.trace(texts)
        company = (trace and trace.payer) or entry.originator or patterns.company(texts)
        comes_in = entry.amount_minor >= 0
        if trace and not entry.returned:
            return "eft_received", trimmed(trace.reference), trace.payer
        if comes_in and not entry.returned and patterns.is_claim_payment(texts):
            return UNTRACED, "", company
        answered = trimmed(trace.reference) if trace else reference(entry.customer_reference, self._settings.token_key)
        return _untraced_kind(entry, numbered=bool(answered.strip("0"))), answered, company

    def _attributes_of(self, entry: Entry) -> str:
        """The account as a token, as it may be a person's; and whether the entry takes back an earlier one."""
        known = (entry.account, entry.returned)
        if known not in self._attributes:
            named = {"bank_account": token(entry.account, self._settings.token_key, "bank-account")}
            content = named | ({"returned": True} if entry.returned else {})
            self._attributes[known] = msgspec.json.encode(content).decode()
        return self._attributes[known]


def _untraced_kind(entry: Entry, *, numbered: bool) -> str:
    """The kind of an entry that is no claim's and no payout's money. A lockbox and a check are known by a number."""
    comes_in = entry.amount_minor >= 0
    if numbered and not entry.returned:
        if entry.meant == LOCKBOX and comes_in:
            return "lockbox_deposited"
        if entry.meant == CHECK_PAID and not comes_in:
            return "payment_cleared"
    return "bank_credit_received" if comes_in else "bank_debit_made"
