"""X12 999 and 997, and TA1: whether a batch or an interchange was taken at all.

Owns how an acknowledged set becomes an event. What was wrong in it (IK3, IK4, CTX) is not read: it can repeat claim
numbers.
"""

from collections import Counter

from adapters.sources.source import SourceSettings
from adapters.sources.x12.sets import Header, TransactionSet
from adapters.sources.x12.values import DAY_MS, clipped, clock_ms, day, element, identity_of, is_code, text

_EVENT = "batch_acknowledged"
_WHOLE_GROUP = "*"  # stands for ST02 where a group is answered without naming its sets
_MEANINGS = dict.fromkeys("AE", "accepted") | dict.fromkeys("RMWX", "rejected") | {"P": "partly_accepted"}


class Acknowledgement(TransactionSet):
    """One 999 or 997. It bears no date of its own: its group's counts."""

    source = "999"

    def __init__(self, header: Header, settings: SourceSettings) -> None:
        super().__init__(header, settings)
        self.figures.update(dict.fromkeys(("accepted", "rejected", "partly_accepted"), 0))
        self.figures.update(dict.fromkeys(("groups_accepted", "groups_rejected", "groups_partly_accepted"), 0))
        self.counterparty = clipped(text(header.group(2)))
        self._group: str | None = None
        self._answered = 0
        self._unanswered: dict[str, int] = {}
        made_on = day(header.group(4))
        if made_on is None:
            self.find(header.segment, 0, "missing_date")
        else:
            self.effective_day, self.occurred_ms = made_on, made_on * DAY_MS + clock_ms(header.group(5))
        self.handlers = {
            "AK1": self._on_group,
            "AK2": self._on_set,
            "AK5": self._on_set_verdict,
            "IK5": self._on_set_verdict,
            "AK9": self._on_group_verdict,
        }

    def identity(self, body: str) -> str:
        """Content and group: sets that answer different days' batches can be alike to the last letter."""
        return identity_of(*map(self.header.group, (2, 3, 4, 5)), body)

    def close(self, body: str) -> None:
        """Every set that was named must have been answered."""
        if self._group is None:
            self.find(self.header.segment, 0, "missing_ak1")
        for position in self._unanswered.values():
            self.find(position, 0, "missing_status")

    def _on_group(self, elements: list[str], position: int) -> None:
        if self._group is not None:
            return self.find(position, 0, "repeated_segment")
        self._group = text(element(elements, 2)).lstrip("0") or "0"
        return None

    def _on_set(self, elements: list[str], position: int) -> None:
        control = text(element(elements, 2))
        if self._group is None:
            self.find(position, 0, "orphan_segment")
        elif not control:
            self.find(position, 2, "missing_element")
        else:
            self._unanswered[control] = position

    def _on_set_verdict(self, elements: list[str], position: int) -> None:
        verdict = self._verdict(elements, position)
        self.figures[_MEANINGS.get(verdict, "unread_verdicts")] += 1
        if not self._unanswered:
            return self.find(position, 0, "orphan_segment")
        control, _ = self._unanswered.popitem()
        self._answer(control, verdict)
        return None

    def _on_group_verdict(self, elements: list[str], position: int) -> None:
        """AK9 answers for the sets that have no verdict of their own, and for a group of which no set was named."""
        verdict = self._verdict(elements, position)
        self.figures[f"groups_{_MEANINGS.get(verdict, 'unread_verdicts')}"] += 1
        if not self._answered and not self._unanswered:
            self._unanswered[_WHOLE_GROUP] = position
        while self._unanswered:
            self._answer(self._unanswered.popitem()[0], verdict)

    def _verdict(self, elements: list[str], position: int) -> str:
        verdict = element(elements, 1).strip()
        if verdict in _MEANINGS:
            return verdict
        self.find(position, 1, "bad_code")
        return ""

    def _answer(self, control: str, verdict: str) -> None:
        self._answered += 1
        self.add(_EVENT, f"{self._answered}:acknowledged:0", clipped(f"{self._group}/{control}"), verdict, 0)


class InterchangeAcknowledgement(TransactionSet):
    """One TA1, which stands outside every set; its findings are about the envelope."""

    source = "999"

    def __init__(self, header: Header, settings: SourceSettings) -> None:
        super().__init__(header, settings)
        self.figures.clear()
        self._content: list[str] = []

    def read(self, elements: list[str], position: int) -> None:
        """Take its only segment."""
        self._content = elements
        verdict, note = element(elements, 4).strip(), element(elements, 5).strip()
        sent_on = day(element(elements, 2))
        if verdict not in _MEANINGS:
            return self.find(position, 4, "bad_code")
        if sent_on is None:
            return self.find(position, 2, "missing_date")
        self.figures[f"interchanges_{_MEANINGS[verdict]}"] += 1
        self.effective_day, self.occurred_ms = sent_on, sent_on * DAY_MS + clock_ms(element(elements, 3))
        more = {"attributes": f'{{"note":"{note}"}}'} if is_code(note) else {}
        return self.add(_EVENT, "0:interchange:0", clipped(f"TA1/{text(element(elements, 1))}"), verdict, 0, **more)

    def totals(self) -> Counter[str]:
        """It is no transaction set."""
        return self.figures

    def identity(self, body: str) -> str:
        """Its whole content."""
        return identity_of(*self._content)
