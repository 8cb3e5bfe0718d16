"""X12 277CA (X214) and 277 (X212): what a payer says of claims before it pays.

Owns how a claim's status becomes an event: accepted or rejected in an acknowledgement, reported in an answer. The
statuses of whole batches and of single lines are only counted. Patients, texts and dates of service are not read;
claim numbers leave as tokens.
"""

from typing import NamedTuple

from adapters.sources.source import SourceSettings
from adapters.sources.x12.hierarchy import Hierarchy
from adapters.sources.x12.segments import COMPONENT
from adapters.sources.x12.sets import CLAIM, PAYER_CLAIM, Header
from adapters.sources.x12.values import DAY_MS, clipped, day, element, is_code, text

_ACKNOWLEDGEMENT = "X214"
_RECEIVER, _PROVIDER = "21", "19"  # HL03; the levels below are claims'
_ABOVE_CLAIMS = ("20", _RECEIVER, _PROVIDER)
_ACCEPTED = ("A2",)
_REJECTED = ("A3", "A4", "A6", "A7", "A8")
_KINDS = {"accepted": "claim_accepted", "rejected": "claim_rejected", "reported": "claim_status_reported"}
_FIGURES = ("claims", *_KINDS, "batch_statuses", "line_statuses")
_STATUSES_MAX = 99  # of one claim that go along
_COMPOSITES = (1, 10, 11)  # STC01, STC10, STC11
_ACCOUNT, _PAYER_NUMBER = "EJ", "1K"


class _Claim(NamedTuple):
    """A claim whose statuses are being read: where it begins, and its trace number."""

    position: int
    trace: str


class _Status(NamedTuple):
    """One STC: its codes, the claim's amount and day as it gives them, and where it stands."""

    codes: list[str]
    elements: list[str]
    position: int


class ClaimStatuses(Hierarchy):
    """One 277."""

    def __init__(self, header: Header, settings: SourceSettings) -> None:
        super().__init__(header, settings)
        self.figures.update(dict.fromkeys(_FIGURES, 0))
        self._is_acknowledgement = _ACKNOWLEDGEMENT in header.version
        self.source = "277ca" if self._is_acknowledgement else "277"
        self._level = ""
        self._claim: _Claim | None = None
        self._statuses: list[_Status] = []
        self._numbers: dict[str, str] = {}
        self._is_in_line = False
        self.handlers |= {
            "HL": self._on_level,
            "NM1": self._on_name,
            "TRN": self._on_trace,
            "STC": self._on_status,
            "REF": self._on_number,
            "SVC": self._on_line,
        }

    def close(self, body: str) -> None:
        """Add the last claim."""
        self._end_claim()
        super().close(body)

    def _on_level(self, elements: list[str], position: int) -> None:
        self._end_claim()
        self._level = element(elements, 3).strip()
        if self._level == _RECEIVER:
            self.reference = None

    def _on_name(self, elements: list[str], position: int) -> None:
        payer = self.payer_of(elements)
        self.counterparty = self.counterparty if payer is None else payer or None

    def _on_trace(self, elements: list[str], position: int) -> None:
        if self._level not in _ABOVE_CLAIMS:
            self._end_claim()
            self._claim = _Claim(position, element(elements, 2))
        elif self._level == _RECEIVER and self.reference is None:
            self.reference = clipped(text(element(elements, 2)))

    def _on_number(self, elements: list[str], position: int) -> None:
        if not self._is_in_line:
            self._numbers[element(elements, 1).strip()] = element(elements, 2)

    def _on_line(self, elements: list[str], position: int) -> None:
        self._is_in_line = True

    def _on_status(self, elements: list[str], position: int) -> None:
        if self._is_in_line:
            self.figures["line_statuses"] += 1
        elif not self._claim and self._level in _ABOVE_CLAIMS:
            self.figures["batch_statuses"] += 1
        elif not self._claim:
            self.find(position, 0, "orphan_segment")
        else:
            codes = [self._code(elements, index, position) for index in _COMPOSITES if element(elements, index).strip()]
            self._statuses.append(_Status(codes or [""], elements, position))

    def _code(self, elements: list[str], index: int, position: int) -> str:
        """Category and code, such as A3:21. What follows them names an entity type and is left out."""
        category, _, rest = elements[index].strip().partition(COMPONENT)
        code = rest.partition(COMPONENT)[0]
        if not is_code(category) or (code and not is_code(code)):
            self.find(position, index, "bad_code")
            return ""
        return f"{category}:{code}"

    def _end_claim(self) -> None:
        claim, statuses, numbers = self._claim, self._statuses, self._numbers
        self._claim, self._statuses, self._numbers, self._is_in_line = None, [], {}, False
        if not claim:
            return
        self.figures["claims"] += 1
        if statuses:
            self._add_claim(claim, statuses, numbers)
        else:
            self.find(claim.position, 0, "missing_status")

    def _add_claim(self, claim: _Claim, statuses: list[_Status], numbers: dict[str, str]) -> None:
        """One event a claim. A rejection among its statuses decides; the others go along."""
        told = {code: status for status in statuses for code in status.codes}
        reason = next((code for code in told if self._meaning(code) == "rejected"), next(iter(told)))
        meaning, status = self._meaning(reason), told[reason]
        self.figures[meaning] += 1
        # An answer (X212) bears the inquirer's own trace number; the provider's number of the claim is a REF there.
        trace = claim.trace if self._is_acknowledgement else numbers.get(_ACCOUNT, claim.trace)
        document = self.token_of(trace, CLAIM)
        if document is None:
            self.find(claim.position, 2, "missing_element")
        others = ",".join(f'"{code}"' for code in list(told)[:_STATUSES_MAX] if code != reason)
        more = {
            "correlation_id": self.token_of(numbers.get(_PAYER_NUMBER, ""), PAYER_CLAIM),
            "occurred_ms": self._occurred_ms(status),
            "attributes": f'{{"statuses":[{others}]}}' if others else None,
        }
        amount_minor = self.optional_amount(status.elements, 4, status.position)
        self.add(_KINDS[meaning], f"{self.figures['claims']}:status:0", document, reason, amount_minor, **more)

    def _meaning(self, code: str) -> str:
        category = code.partition(":")[0]
        if not self._is_acknowledgement:
            return "reported"
        return "accepted" if category in _ACCEPTED else "rejected" if category in _REJECTED else "reported"

    def _occurred_ms(self, status: _Status) -> int:
        known = day(element(status.elements, 2))
        return self.occurred_ms if known is None else known * DAY_MS
