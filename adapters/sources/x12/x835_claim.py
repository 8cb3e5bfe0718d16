"""One claim of an 835: its CLP, adjustments and service lines.

Owns the claim's sums and the events it gives. Adjustments wait for the end of their level, claim or line, because
remark codes follow them. Procedures, names and dates of service are not read.
"""

from adapters.sources.x12.sets import CLAIM, PAYER_CLAIM, Handler, TransactionSet
from adapters.sources.x12.values import element, is_code

_REVERSAL, _DENIED, _PREDETERMINATION = "22", "4", "25"
_PATIENT = "PR"
_REMARKS_MAX = 99  # of one level, as the standard allows
_REMARK_LISTS = ("HE", "RX")
_INPATIENT_REMARKS = (5, 20, 21, 22, 23)
_OUTPATIENT_REMARKS = (3, 4, 5, 6, 7)


class Claim:
    """The claim that is open in the remittance `remit`, one after another."""

    def __init__(self, remit: TransactionSet) -> None:
        self._remit = remit
        self._is_open = False
        self._reversed: set[str | None] = set()
        self.handlers: dict[str, Handler] = {
            "SVC": self._on_line,
            "CAS": self._on_adjustment,
            "LQ": self._on_remark,
            "MIA": self._on_inpatient_remarks,
            "MOA": self._on_outpatient_remarks,
        }

    def open(self, elements: list[str], position: int) -> None:
        """CLP: a claim begins."""
        remit = self._remit
        self._is_open, self._position, self._ordinal = True, position, remit.figures["claims"]
        self._document = remit.token_of(element(elements, 1), CLAIM)
        self._status = remit.code(elements, 2, position)
        self._charged = remit.amount(elements, 3, position)
        self._paid = remit.amount(elements, 4, position)
        self._responsibility = remit.optional_amount(elements, 5, position)
        self._number = remit.token_of(element(elements, 7), PAYER_CLAIM)
        self._adjusted = self._patient = self._adjustments = self._lines_charged = 0
        self._line = self._line_position = self._line_left = 0
        self._level: list[tuple[str, int]] = []
        self._remarks: list[str] = []
        if self._document is None:
            remit.find(position, 1, "missing_element")

    def _on_adjustment(self, elements: list[str], position: int) -> None:
        """CAS: up to six reasons of one group; a quantity may trail, filled or not."""
        if not self._is_open:
            return self._remit.find(position, 0, "orphan_segment")
        group = self._remit.code(elements, 1, position)
        for index in range(2, len(elements), 3):
            reason = elements[index].strip()
            if not reason and not element(elements, index + 1).strip():
                continue
            if not is_code(reason):
                self._remit.find(position, index, "bad_code")
            amount_minor = self._remit.amount(elements, index + 1, position)
            self._adjusted += amount_minor
            self._line_left -= amount_minor
            self._patient += amount_minor if group == _PATIENT else 0
            self._level.append((f"{group}-{reason}", amount_minor))
        return None

    def _on_line(self, elements: list[str], position: int) -> None:
        """SVC: a line begins. Its adjustments must explain what of its charge was not paid."""
        if not self._is_open:
            return self._remit.find(position, 0, "orphan_segment")
        self._end_level()
        charged = self._remit.optional_amount(elements, 2, position)
        self._line += 1
        self._line_position = position
        self._lines_charged += charged
        self._line_left = charged - self._remit.optional_amount(elements, 3, position)
        return None

    def _on_remark(self, elements: list[str], position: int) -> None:
        """LQ: a remark code of the line."""
        if element(elements, 1).strip() in _REMARK_LISTS:
            self._remark(element(elements, 2).strip())

    def _on_inpatient_remarks(self, elements: list[str], position: int) -> None:
        """MIA: remark codes of the claim among Medicare's amounts."""
        for index in _INPATIENT_REMARKS:
            self._remark(element(elements, index).strip())

    def _on_outpatient_remarks(self, elements: list[str], position: int) -> None:
        """MOA: likewise."""
        for index in _OUTPATIENT_REMARKS:
            self._remark(element(elements, index).strip())

    def _remark(self, code: str) -> None:
        """Keep a remark. One without a code's form informs nobody and could be a text: it is counted and left out."""
        if self._is_open and is_code(code) and len(self._remarks) < _REMARKS_MAX:
            self._remarks.append(code)
        elif code:
            self._remit.figures["remarks_left_out"] += 1

    def close(self) -> None:
        """The claim, if one is open, ends: check it and add its events."""
        if not self._is_open:
            return
        self._end_level()
        self._check()
        self._count()
        self._add(self._adjudication(), "adjudicated:0", self._status, self._charged)
        if self._status != _PREDETERMINATION:
            self._add("claim_paid", "paid:0", self._status, self._paid)
        elif self._paid:
            self._remit.find(self._position, 4, "predetermination_paid")
        self._is_open = False

    def _adjudication(self) -> str:
        """A claim that comes again after its reversal in the same remittance is its correction."""
        if self._status == _REVERSAL:
            self._reversed.add(self._document)
        elif self._document in self._reversed:
            return "claim_corrected"
        return "claim_adjudicated"

    def _add(self, kind: str, place: str, reason: str, amount_minor: int, attributes: str | None = None) -> None:
        """Add an event of this claim. There are millions, so it is written as the tuple that `accepted.Row` is."""
        remit = self._remit
        row = (
            kind,
            f"{self._ordinal}:{place}",
            self._document,
            remit.reference,
            remit.counterparty,
            reason,
            amount_minor,
            self._number,
            attributes,
            remit.occurred_ms,
            remit.effective_day,
        )
        remit.rows.append(row)

    def _end_level(self) -> None:
        """The claim level or a line ends: its adjustments leave with its remarks."""
        if self._line and self._line_left and not self._remit.has_unread_amount:
            self._remit.figures["lines_unbalanced"] += 1
            self._remit.find(self._line_position, 3, "line_unbalanced")
        if self._level and self._status != _PREDETERMINATION:
            self._add_adjustments()
        self._level, self._remarks = [], []
        self._line_left = 0

    def _add_adjustments(self) -> None:
        remarks = ",".join(f'"{remark}"' for remark in self._remarks)
        attributes = f'{{"line":{self._line},"remarks":[{remarks}]}}'
        for reason, amount_minor in self._level:
            self._adjustments += 1
            self._add("claim_adjusted", f"adjusted:{self._adjustments}", reason, amount_minor, attributes)

    def _check(self) -> None:
        if self._remit.has_unread_amount:
            return
        if self._charged - self._adjusted != self._paid:
            self._remit.figures["claims_unbalanced"] += 1
            self._remit.find(self._position, 4, "claim_unbalanced")
        if self._line and self._lines_charged != self._charged:
            self._remit.find(self._position, 3, "lines_differ_from_claim")

    def _count(self) -> None:
        self._remit.count_claim(self._adjustments)
        figures = self._remit.figures
        figures["lines"] += self._line
        figures["charged_minor"] += self._charged
        figures["claims_paid_minor"] += self._paid
        figures["reversals"] += self._status == _REVERSAL
        figures["denied"] += self._status == _DENIED
        figures["zero_paid"] += not self._paid
        figures["patient_responsibility_differs"] += self._responsibility != self._patient
