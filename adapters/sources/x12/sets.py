"""What every transaction set has in common, and how accepted ones become frames.

Owns the row that a set's events are collected in, a set's findings and figures. Never reads an envelope.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import polars as pl

from adapters.sources.source import Quarantined, SourceSettings, canonical
from adapters.sources.tokens import token
from adapters.sources.x12.findings import FINDINGS_PER_SET_MAX, STRUCTURE_CODES
from adapters.sources.x12.values import element, is_code, minor_units, text
from runtime.schema import COLUMNS, SCHEMA_VERSION, UTC_MS

CLAIM, PAYER_CLAIM = "claim", "payer_claim"  # token domains: the provider's number of a claim, and the payer's

Handler = Callable[[list[str], int], None]

_ROW = {
    "kind": pl.String(),
    "event_id": pl.String(),
    "document": pl.String(),
    "reference": pl.String(),
    "counterparty": pl.String(),
    "reason": pl.String(),
    "amount_minor": pl.Int64(),
    "correlation_id": pl.String(),
    "attributes": pl.String(),
    "occurred_at": pl.Int64(),
    "effective_on": pl.Int32(),
}
# A row is a plain tuple in the order of _ROW: millions are made, and zip turns them into columns.
Row = tuple[str, str, str | None, str | None, str | None, str | None, int, str | None, str | None, int, int]


class Header(NamedTuple):
    """Where a set lies and what its envelope says of it."""

    ordinal: int  # in the file, from 1
    segment: int  # of its ST in the file, from 1
    st: tuple[str, ...]
    gs: tuple[str, ...]

    @property
    def code(self) -> str:
        """ST01."""
        return self.st[1].strip() if len(self.st) > 1 else ""

    @property
    def control(self) -> str:
        """ST02."""
        return self.st[2].strip() if len(self.st) > 2 else ""

    @property
    def version(self) -> str:
        """ST03, or GS08 in older ones."""
        return (self.st[3] if len(self.st) > 3 else self.group(8)).strip()

    @property
    def batch(self) -> str:
        """GS06/ST02, as an acknowledgement names a set."""
        return f"{self.group(6).lstrip('0') or '0'}/{self.control}"

    def group(self, index: int) -> str:
        """An element of the group's header; empty without one."""
        return self.gs[index].strip() if index < len(self.gs) else ""


class TransactionSet:
    """One set being read: `handlers` take its segments, `close` makes the last checks, `rows` are its events."""

    source = ""

    def __init__(self, header: Header, settings: SourceSettings) -> None:
        self.header, self.settings = header, settings
        self.currency = settings.currency
        self.rows: list[Row] = []
        self.findings: list[Quarantined] = []
        self.figures: Counter[str] = Counter(transactions=1)
        self.handlers: dict[str, Handler] = {}
        self.has_unread_amount = False  # sums that would hold it are not judged
        # What events of the set bear unless they say otherwise.
        self.reference: str | None = None
        self.counterparty: str | None = None
        self.occurred_ms = self.effective_day = 0
        self._is_wrong_in_form = False

    def close(self, body: str) -> None:
        """All segments have come; `body` is the keyed hash of them."""

    def identity(self, body: str) -> str:
        """What the ids of this set's events start with: the same however often it is sent."""
        return body[:16]

    def add(self, kind: str, place: str, document: str | None, reason: str, amount_minor: int, **more: Any) -> None:
        """Add an event; `place` is where in the set it stands. `more` are columns that differ from the set's own."""
        get = more.get
        reference, counterparty = get("reference", self.reference), get("counterparty", self.counterparty)
        row = (kind, place, document, reference, counterparty, reason, amount_minor)
        row += (get("correlation_id"), get("attributes"), get("occurred_ms", self.occurred_ms), self.effective_day)
        self.rows.append(row)

    def find(self, position: int, index: int, code: str) -> None:
        """Note what is wrong at an element of a segment, by its position in the file."""
        self._is_wrong_in_form |= code in STRUCTURE_CODES
        if len(self.findings) < FINDINGS_PER_SET_MAX:
            place = position - self.header.segment + 1
            self.findings.append(Quarantined(self.header.ordinal, place, index, code))

    def totals(self) -> Counter[str]:
        """The set's figures with what is said of it as a whole."""
        self.figures["transactions_quarantined"] = int(bool(self.findings))
        self.figures["structurally_wrong"] = int(self._is_wrong_in_form)
        return self.figures

    def amount(self, elements: list[str], index: int, position: int) -> int:
        """A required amount; 0 and a finding when it can't be read."""
        amount = minor_units(element(elements, index))
        if amount is None:
            self.has_unread_amount = True
            self.find(position, index, "bad_amount")
            return 0
        return amount

    def optional_amount(self, elements: list[str], index: int, position: int) -> int:
        """An amount that may be left out, which is 0."""
        return self.amount(elements, index, position) if element(elements, index).strip() else 0

    def code(self, elements: list[str], index: int, position: int) -> str:
        """A required code; empty and a finding when it has no code's form."""
        code = element(elements, index).strip()
        if is_code(code):
            return code
        self.find(position, index, "bad_code")
        return ""

    def token_of(self, raw: str, domain: str) -> str | None:
        """An identifier of a person's claim as it may leave; None when empty."""
        value = text(raw)
        return token(value, self.settings.token_key, domain) if value else None


class Accepted:
    """Rows of accepted sets until they leave as frames."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings
        self._rows: list[Row] = []
        self._sources: list[str] = []
        self._currencies: list[str] = []

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, transaction: TransactionSet, identity: str) -> None:
        """Add a set's rows, with ids that start with its identity."""
        rows = transaction.rows
        self._rows += [(row[0], f"{identity}:{row[1]}", *row[2:]) for row in rows]
        self._sources += [transaction.source] * len(rows)
        self._currencies += [transaction.currency] * len(rows)
        transaction.rows = []

    def frame(self) -> pl.DataFrame:
        """All rows as canonical events; none are left behind."""
        columns = dict(zip(_ROW, zip(*self._rows, strict=True), strict=True)) if self._rows else dict.fromkeys(_ROW, ())
        columns |= {"source": self._sources, "currency": self._currencies}
        frame = pl.DataFrame(columns, schema=_ROW | {"source": pl.String(), "currency": pl.String()})
        self._rows, self._sources, self._currencies = [], [], []
        return canonical(
            frame,
            **{name: pl.col(name) for name in (*_ROW, "source", "currency") if name != "occurred_at"},
            entity=pl.lit(self._settings.entity),
            occurred_at=pl.col("occurred_at").cast(UTC_MS),
            schema_version=pl.lit(SCHEMA_VERSION),
        )


assert set(_ROW) <= set(COLUMNS)
