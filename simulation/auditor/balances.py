"""What accounts owe, one number each, and which of them have stood in credit for too long."""

from collections import Counter
from typing import Any

Row = dict[str, Any]
DAY_MS = 24 * 60 * 60 * 1000
Account = tuple[str, str, str]  # entity, currency, account


class Balances:
    """All accounts of one shard. They are looked through once a day."""

    def __init__(self, terms: Any) -> None:
        self._terms = terms
        self._owed: Counter[Account] = Counter()
        self._since: dict[Account, int] = {}  # seen in credit, and when first
        self._looked_day = 0
        self.flagged: dict[Account, int] = {}  # by how much it was in credit when it was looked at last

    def add(self, changes: Counter[Account], now_ms: int) -> None:
        """What one settling has changed."""
        for account, change in changes.items():
            self._owed[account] += change
            if self._owed[account] < 0:
                self._since.setdefault(account, now_ms)

    def age(self, now_ms: int) -> None:
        """Once a day: name what stands in credit for too long, forget what does not."""
        if now_ms // DAY_MS <= self._looked_day or not self._since:
            return
        self._looked_day = now_ms // DAY_MS
        for account, since_ms in list(self._since.items()):
            if self._owed[account] >= 0:
                del self._since[account]
                self.flagged.pop(account, None)
            elif now_ms - since_ms > self._terms.wait_days * DAY_MS:
                self.flagged[account] = -self._owed[account]

    def open_exceptions(self) -> list[tuple]:
        """One of each account; which event it names is not laid down."""
        told = self.flagged.items()
        return [(self._terms.overdrawn, "", "", entity, "", currency, credit) for (entity, currency, _), credit in told]
