"""What 837 and 277 share: BHT dates the set, HL opens its levels, NM1 names the payer of what follows.

Owns these three. Never says what a claim is.
"""

from adapters.sources.source import SourceSettings
from adapters.sources.x12.sets import Header, TransactionSet
from adapters.sources.x12.values import DAY_MS, clipped, clock_ms, day, element, text

_PAYER = "PR"
_PERSON = "1"
_PAYER_QUALIFIERS = ("PI", "XV", "FI", "24", "46", "XX", "NI", "AD")


class Hierarchy(TransactionSet):
    """A set with BHT and HL."""

    def __init__(self, header: Header, settings: SourceSettings) -> None:
        super().__init__(header, settings)
        self._is_dated = False
        self.handlers = {"BHT": self._on_start}

    def close(self, body: str) -> None:
        """Without BHT there is no date."""
        if not self._is_dated:
            self.find(self.header.segment, 0, "missing_bht")

    def _on_start(self, elements: list[str], position: int) -> None:
        if self._is_dated:
            return self.find(position, 0, "repeated_segment")
        self._is_dated = True
        made_on = day(element(elements, 4))
        if made_on is None:
            return self.find(position, 4, "missing_date")
        self.effective_day, self.occurred_ms = made_on, made_on * DAY_MS + clock_ms(element(elements, 5))
        return None

    def payer_of(self, elements: list[str]) -> str | None:
        """The number of the payer that an NM1 names, empty if that is a person; None when it names somebody else."""
        if element(elements, 1).strip() != _PAYER:
            return None
        is_number = element(elements, 8).strip() in _PAYER_QUALIFIERS and element(elements, 2).strip() != _PERSON
        return (clipped(text(element(elements, 9))) if is_number else None) or ""
