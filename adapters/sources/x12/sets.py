"""What every transaction set has in common while it is read.

Owns a set's header, findings, figures and events. Never reads an envelope and never decides what becomes of a set.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from adapters.sources.source import Quarantined, SourceSettings
from adapters.sources.tokens import token
from adapters.sources.x12.accepted import Row
from adapters.sources.x12.findings import FINDINGS_PER_SET_MAX, STRUCTURE_CODES
from adapters.sources.x12.values import element, is_code, minor_units, text
from runtime.currencies import currency_digits

CLAIM, PAYER_CLAIM = "claim", "payer_claim"  # token domains: the provider's number of a claim, and the payer's

Handler = Callable[[list[str], int], None]


class Header(NamedTuple):
    """Where a set lies and what its envelope says of it."""

    ordinal: int  # in the file, from 1
    segment: int  # position of its ST in the file, from 1
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
        self.use_currency(settings.currency)
        self.rows: list[Row] = []
        self.findings: list[Quarantined] = []
        self.figures: Counter[str] = Counter(transactions=1)
        self.handlers: dict[str, Handler] = {}
        self.has_unread_amount = False  # sums that would hold it are not judged
        self._is_wrong_in_form = False
        # What events of the set bear unless they say otherwise.
        self.reference: str | None = None
        self.counterparty: str | None = None
        self.occurred_ms = self.effective_day = 0

    def use_currency(self, currency: str) -> None:
        """Amounts are read in this currency from now on."""
        self.currency, self._places = currency, currency_digits(currency)

    def close(self, body: str) -> None:
        """All segments have come; `body` is the keyed hash of them."""

    def identity(self, body: str) -> str:
        """What the ids of this set's events start with: the same however often it is sent."""
        return body[:16]

    def group(self) -> str | None:
        """What events of this set answer that name nothing themselves; None for nothing. Known when it has ended."""

    def place(self) -> tuple[str, str]:
        """The entity and the facility ("" for none) that its events belong to."""
        return self.settings.entity, ""

    def add(self, kind: str, place: str, document: str | None, reason: str | None, amount_minor: int, **more) -> None:
        """Add an event; `place` is where in the set it stands. `more` are columns that differ from the set's own."""
        columns = {"reference": self.reference, "counterparty": self.counterparty, "correlation_id": None}
        columns |= {"attributes": None, "occurred_ms": self.occurred_ms} | more
        reference, counterparty, correlation_id, attributes, occurred_ms = columns.values()
        row = (kind, place, document, reference, counterparty, reason, amount_minor, correlation_id, attributes)
        self.rows.append((*row, occurred_ms, self.effective_day))

    def find(self, position: int, index: int, code: str) -> None:
        """Note what is wrong at an element of a segment, given by its position in the file."""
        self._is_wrong_in_form |= code in STRUCTURE_CODES
        if len(self.findings) < FINDINGS_PER_SET_MAX:
            place = position - self.header.segment + 1
            self.findings.append(Quarantined(self.header.ordinal, place, index, code))

    def totals(self) -> Counter[str]:
        """The set's figures, with what is said of it as a whole."""
        self.figures["transactions_quarantined"] = int(bool(self.findings))
        self.figures["structurally_wrong"] = int(self._is_wrong_in_form)
        return self.figures

    def amount(self, elements: list[str], index: int, position: int) -> int:
        """A required amount; 0 and a finding when it can't be read."""
        amount = minor_units(elements[index] if index < len(elements) else "", self._places)
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
