"""A call to an ERP that did not succeed, as an outcome.

Owns the way from a failure to the outcomes of a call's entries. Never holds a payload value or a secret.
"""

import re
from collections.abc import Iterable

from runtime.errors import ErpError
from runtime.ports import JournalEntry, Outcome, OutcomeCode

DETAIL_CHARS_MAX = 300


class ErpFault(ErpError):
    """Why a call failed, and what that says of it: applied, not applied, or not known."""

    def __init__(self, code: OutcomeCode, detail: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.retry_after_s = code, detail, retry_after_s

    def nothing_applied(self) -> "ErpFault":
        """The same for a call that only reads: an answer that is lost means the ERP can't be asked."""
        return ErpFault("unavailable", self.detail, self.retry_after_s) if self.code == "unknown" else self

    def outcomes(self, entries: Iterable[JournalEntry]) -> list[Outcome]:
        """This fault as the outcome of each of these entries."""
        return [self.outcome(entry.key) for entry in entries]

    def outcome(self, key: str) -> Outcome:
        """This fault as the outcome of the entry of this key."""
        return Outcome(key, self.code, "", self.detail, self.retry_after_s)

    def mentions(self, pattern: str) -> bool:
        """Whether the ERP's text matches, whatever its case."""
        return re.search(pattern, self.detail, re.IGNORECASE) is not None


class NoTrialBalance(ErpFault):
    """This ERP, or this adapter of it, has no trial balance to read."""

    def __init__(self) -> None:
        super().__init__("unavailable", "this adapter reads no trial balance")


def shortened(text: str) -> str:
    """A vendor's text on one line, at most DETAIL_CHARS_MAX characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= DETAIL_CHARS_MAX else folded[: DETAIL_CHARS_MAX - 1] + "…"
