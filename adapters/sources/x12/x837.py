"""X12 837P, 837I and 837D: claims as they were sent to a payer.

Owns how a submitted claim becomes an event. Patients, diagnoses, procedures and lines are not read; claim numbers
leave as tokens.
"""

from adapters.sources.source import SourceSettings
from adapters.sources.x12.hierarchy import Hierarchy
from adapters.sources.x12.segments import COMPONENT
from adapters.sources.x12.sets import CLAIM, PAYER_CLAIM, Header
from adapters.sources.x12.values import clipped, element, identity_of, is_code, text

_PATIENT = "23"  # HL03: below a subscriber, whose payer stays
_ORIGINAL_NUMBER = "F8"


class ClaimBatch(Hierarchy):
    """One 837. Its events answer to GS06/ST02, as an acknowledgement names the batch."""

    source = "837"

    def __init__(self, header: Header, settings: SourceSettings) -> None:
        super().__init__(header, settings)
        self.figures.update(claims=0, charged_minor=0)
        self.reference = clipped(text(header.batch))
        self._claim: list[str] = []
        self._claim_position = 0
        self._original: str | None = None
        self._is_heading = False  # a claim's own REFs come before its lines and other payers' loops
        self.handlers |= {
            "HL": self._on_level,
            "NM1": self._on_name,
            "CLM": self._on_claim,
            "REF": self._on_reference,
            "SBR": self._on_detail,
            "LX": self._on_detail,
        }

    def identity(self, body: str) -> str:
        """Batch and content: a batch that is sent anew under other numbers is answered under them."""
        return identity_of(self.header.batch, body)

    def close(self, body: str) -> None:
        """Add the last claim."""
        self._end_claim()
        super().close(body)

    def _on_level(self, elements: list[str], position: int) -> None:
        self._end_claim()
        if element(elements, 3).strip() != _PATIENT:
            self.counterparty = None

    def _on_name(self, elements: list[str], position: int) -> None:
        # Within a claim, NM1*PR names another payer, with whom the claim is to be coordinated.
        if not self._claim:
            payer = self.payer_of(elements)
            self.counterparty = self.counterparty if payer is None else payer or None

    def _on_claim(self, elements: list[str], position: int) -> None:
        self._end_claim()
        self._claim, self._claim_position, self._is_heading = elements, position, True

    def _on_reference(self, elements: list[str], position: int) -> None:
        if self._is_heading and element(elements, 1).strip() == _ORIGINAL_NUMBER:
            self._original = self.token_of(element(elements, 2), PAYER_CLAIM)

    def _on_detail(self, elements: list[str], position: int) -> None:
        self._is_heading = False

    def _end_claim(self) -> None:
        if not self._claim:
            return
        elements, position, original = self._claim, self._claim_position, self._original
        self._claim, self._original, self._is_heading = [], None, False
        charged_minor = self.amount(elements, 2, position)
        self.figures["claims"] += 1
        self.figures["charged_minor"] += charged_minor
        document = self.token_of(element(elements, 1), CLAIM)
        if document is None:
            self.find(position, 1, "missing_element")
        place = f"{self.figures['claims']}:submitted:0"
        frequency = self._frequency(elements, position)
        self.add("claim_submitted", place, document, frequency, charged_minor, correlation_id=original)

    def _frequency(self, elements: list[str], position: int) -> str | None:
        """CLM05-3: original, replacement, void. Some senders leave it out."""
        code = "".join(element(elements, 5).split(COMPONENT)[2:3]).strip()
        if code and not is_code(code):
            self.find(position, 5, "bad_code")
        return code or None
