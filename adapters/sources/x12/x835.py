"""X12 835: what a payer paid, and what it kept or added beside the claims.

Owns the remittance as a whole: its payment, its identity, the PLB amounts, and that all of it ties exactly; the claims
are in `x835_claim`. A positive PLB amount reduces the payment. The payee's number (N1*PE: NPI or TIN, else REF*TJ)
says whose the remittance is, where the settings know it. Names and addresses are not read.
"""

import msgspec

from adapters.sources.source import SourceSettings
from adapters.sources.x12.segments import COMPONENT
from adapters.sources.x12.sets import PAYER_CLAIM, Handler, Header, TransactionSet
from adapters.sources.x12.values import DAY_MS, clipped, day, element, identity_of, is_code, party_number, text
from adapters.sources.x12.x835_claim import Claim

_PAIRS = range(3, 15, 2)  # PLB03, 05 .. 13: reason and reference, each followed by its amount
_HEADER_TAGS = ("CUR", "DTM", "N1", "REF")  # they come again under the claims, where they mean other things
_DIRECTIONS = {"C": 1, "D": -1}
_PAYEE_TIN = "TJ"
_SHAPES, _SHAPE_BASE = 2**61 - 1, 1_000_003  # one number for how many adjustments each claim has, in order
_FIGURES = (
    "claims", "lines", "paid_minor", "charged_minor", "claims_paid_minor", "plb_minor", "unbalanced",
    "claims_unbalanced", "lines_unbalanced", "patient_responsibility_differs", "reversals", "denied", "zero_paid",
)  # fmt: skip


class Remittance(TransactionSet):
    """One 835. `number` is its identity: what payer, payee and bank know it by, whatever envelope it comes in."""

    source = "835"

    def __init__(self, header: Header, settings: SourceSettings) -> None:
        super().__init__(header, settings)
        self.figures.update(dict.fromkeys(_FIGURES, 0))
        self.number = ""
        self._payment: list[str] = []
        self._payment_position = self._provider_amounts = self._shape = 0
        self._trace: list[str] = []
        self._payee = self._payee_number = self._payer_number = ""
        self._produced: int | None = None
        self._claim = Claim(self)
        self.handlers: dict[str, Handler] = {
            "BPR": self._on_payment,
            "TRN": self._on_trace,
            "CUR": self._on_currency,
            "DTM": self._on_date,
            "N1": self._on_party,
            "REF": self._on_reference,
            "CLP": self._on_claim,
            "PLB": self._on_provider,
            **self._claim.handlers,
        }

    def identity(self, body: str) -> str:
        """The remit's own number: clearing houses wrap anew, so neither envelope nor content names it."""
        return self.number

    def group(self) -> str:
        """Number and shape. Where another content comes under the same number, what is in both bears the same ids and
        is a conflict; what is only in the second answers a remittance that never ends, and is not booked either."""
        return identity_of(self.number, str(self._shape), str(self._provider_amounts))

    def count_claim(self, adjustments: int) -> None:
        """A claim with so many adjustments has ended."""
        self._shape = (self._shape * _SHAPE_BASE + adjustments + 1) % _SHAPES

    def place(self) -> tuple[str, str]:
        """Where the payee's number says, the entity of the settings where nobody knows it."""
        return self.settings.payees.get(self._payee_number, super().place())

    def close(self, body: str) -> None:
        """Check the whole, and add the remittance's own event."""
        self._claim.close()
        self._end_header()
        if self._payment:
            self._check_total()
            self._add_remittance(body)

    def _add_remittance(self, body: str) -> None:
        method, paid_minor = self.code(self._payment, 4, self._payment_position), self.figures["paid_minor"]
        attributes = {"body": body} | ({"payee": self._payee_number} if self._payee_number else {})
        more = {
            "reference": clipped(text(element(self._trace, 2))),
            "attributes": msgspec.json.encode(attributes).decode(),
        }
        self.add("remittance_received", "0:received:0", self.group(), method, paid_minor, **more)

    def _check_total(self) -> None:
        sums = self.figures
        if self.has_unread_amount or sums["paid_minor"] == sums["claims_paid_minor"] - sums["plb_minor"]:
            return
        sums["unbalanced"] = 1
        self.find(self._payment_position, 2, "transaction_unbalanced")

    # ── header ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_payment(self, elements: list[str], position: int) -> None:
        if self._payment:
            return self.find(position, 0, "repeated_segment")
        self._payment, self._payment_position = elements, position
        return None

    def _read_payment(self) -> None:
        """BPR02 and its direction, when CUR has said in which currency."""
        size = self.amount(self._payment, 2, self._payment_position)
        sign = _DIRECTIONS.get(element(self._payment, 3).strip(), 0)
        if size < 0:
            self.find(self._payment_position, 2, "negative_payment")
        if not sign:
            self.find(self._payment_position, 3, "bad_code")
        self.figures["paid_minor"] = size * (sign or 1)

    def _on_trace(self, elements: list[str], position: int) -> None:
        if self._trace:
            self.find(position, 0, "repeated_segment")
        elif not element(elements, 2).strip():
            self.find(position, 2, "missing_element")
        self._trace = self._trace or elements

    def _on_currency(self, elements: list[str], position: int) -> None:
        self.use_currency(self.code(elements, 2, position))

    def _on_date(self, elements: list[str], position: int) -> None:
        if element(elements, 1) == "405":
            self._produced = day(element(elements, 2))

    def _on_party(self, elements: list[str], position: int) -> None:
        role = element(elements, 1)
        if role == "PE":
            self._payee = text(element(elements, 4))
            self._payee_number = party_number(self._payee)
        elif role == "PR":
            self._payer_number = text(element(elements, 4))

    def _on_reference(self, elements: list[str], position: int) -> None:
        """REF*TJ: the payee's TIN, which counts where N1 gives no number."""
        if element(elements, 1) == _PAYEE_TIN:
            self._payee_number = self._payee_number or party_number(element(elements, 2))

    def _end_header(self) -> None:
        """Fix what all events of the set bear, once: at the first claim or PLB, or at the end. A BPR or TRN that comes
        later can't be in their ids any more."""
        if self.number:
            return
        for tag in _HEADER_TAGS:
            del self.handlers[tag]
        if self._payment:
            self._read_payment()
        else:
            self.find(self.header.segment, 0, "missing_bpr")
        if not self._trace:
            self.find(self.header.segment, 0, "missing_trn")
        effective = text(element(self._payment, 16))
        self._set_days(day(effective), self._produced)
        payer = text(element(self._trace, 3)) or text(element(self._payment, 10)) or self._payer_number
        self.counterparty = clipped(payer)
        trace, paid = text(element(self._trace, 2)), str(self.figures["paid_minor"])
        self.number = identity_of(payer, trace, self._payee, effective, paid)

    def _set_days(self, effective: int | None, produced: int | None) -> None:
        """BPR16 is missing or no date in real files that are whole otherwise: the production date stands in for it."""
        days = [known for known in (effective, produced) if known is not None]
        if days:
            self.effective_day, self.occurred_ms = days[0], days[-1] * DAY_MS
        elif self._payment:
            self.find(self._payment_position, 16, "missing_date")

    # ── claims, and amounts beside them ─────────────────────────────────────────────────────────────────────────

    def _on_claim(self, elements: list[str], position: int) -> None:
        self._claim.close()
        self._end_header()
        self.figures["claims"] += 1
        self._claim.open(elements, position)

    def _on_provider(self, elements: list[str], position: int) -> None:
        self._claim.close()
        self._end_header()
        for index in _PAIRS:
            if element(elements, index).strip() or element(elements, index + 1).strip():
                self._add_provider_amount(elements, index, position)

    def _add_provider_amount(self, elements: list[str], index: int, position: int) -> None:
        amount_minor = self.amount(elements, index + 1, position)
        self.figures["plb_minor"] += amount_minor
        self._provider_amounts += 1
        reason, _, reference = element(elements, index).partition(COMPONENT)
        if not is_code(reason.strip()):
            self.find(position, index, "bad_code")
        document = self.token_of(reference.partition(COMPONENT)[0], PAYER_CLAIM)
        self.add("provider_adjusted", f"0:provider:{self._provider_amounts}", document, reason.strip(), amount_minor)
