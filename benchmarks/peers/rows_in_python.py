"""What the peers that are Python loops share: a decoded event and the card match over dictionaries.

Owns neither dedupe nor sums: each peer keeps those in the state of its own tool.
"""

import msgspec

from benchmarks.peers.task import LINKS, name_of, period_of


class Row(msgspec.Struct, gc=False):
    """The columns that the task needs."""

    source: str
    event_id: str
    kind: str
    entity: str
    facility: str | None
    document: str | None
    reference: str | None
    department: str | None
    amount_minor: int
    effective_on: str

    @property
    def name(self) -> str:
        """How outcomes name it."""
        return name_of(self.source, self.event_id)

    @property
    def key(self) -> tuple[str, ...]:
        """What it is summed by."""
        return (self.entity, self.facility or "", self.department or "", period_of(self.effective_on), self.kind)


decode = msgspec.json.Decoder(Row).decode  # the typed decoder skips what the task does not need


class Matcher:
    """Rows that wait, and what they wait for. `take` gives the rows that are ready now: the new one, others by it."""

    def __init__(self) -> None:
        self._opened: set[tuple[str, str]] = set()
        self._waiting: dict[tuple[str, str], list[Row]] = {}

    def take(self, row: Row) -> list[Row]:
        """Enter a new row."""
        link = LINKS.get(row.kind)
        if link is None:
            return [row]
        ready = []
        if link.opens:
            opened = (link.opens[0], getattr(row, link.opens[1]))
            self._opened.add(opened)
            ready += self._waiting.pop(opened, ())
        if link.waits:
            needed = (link.waits[0], getattr(row, link.waits[1]))
            if needed not in self._opened:
                self._waiting.setdefault(needed, []).append(row)
                return ready
        return [row, *ready]

    def held(self) -> list[str]:
        """The names of rows that wait."""
        return [row.name for rows in self._waiting.values() for row in rows]
