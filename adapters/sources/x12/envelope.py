"""The envelope of X12: interchanges and groups, their counts and numbers.

Owns what is wrong with ISA, GS, GE and IEA. None of it holds a transaction set back: the sets count themselves.
GS01 is not judged, for ST01 says what a set is, and an 835 in a group of claims is common.
"""

from collections.abc import Callable

from adapters.sources.x12.sets import Handler
from adapters.sources.x12.values import element, number

_ISA_CHARS = 106  # with the terminator, which is no part of the segment any more

Find = Callable[[int, int, str], None]


class Envelope:
    """Where in the envelope a reading is. `find` is told the position, the element and the code of what is wrong."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self.group: tuple[str, ...] = ()
        self._interchange: list[str] = []
        self._is_inside = self._is_grouped = False
        self._groups = self._sets = 0
        self.handlers: dict[str, Handler] = {
            "ISA": self._on_interchange,
            "GS": self._on_group,
            "GE": self._on_group_end,
            "IEA": self._on_interchange_end,
        }

    def count_set(self, position: int) -> None:
        """A set begins."""
        self._sets += 1
        if not self._is_grouped:
            self._enter(position)
            self._is_grouped = True
            self._find(position, 0, "missing_gs")

    def end(self, position: int) -> None:
        """The file ends."""
        self._leave_interchange(position)

    def _enter(self, position: int) -> None:
        if not self._is_inside:
            self._is_inside, self._interchange = True, []
            self._find(position, 0, "missing_isa")

    def _on_interchange(self, elements: list[str], position: int) -> None:
        self._leave_interchange(position)
        self._is_inside, self._interchange, self._groups = True, elements, 0
        if sum(map(len, elements)) + len(elements) != _ISA_CHARS:
            self._find(position, 0, "isa_length")

    def _on_group(self, elements: list[str], position: int) -> None:
        self._leave_group(position)
        self._enter(position)
        self._groups += 1
        self._sets, self._is_grouped, self.group = 0, True, tuple(elements)

    def _on_group_end(self, elements: list[str], position: int) -> None:
        if number(element(elements, 1)) != self._sets:
            self._find(position, 1, "wrong_set_count")
        if not _same_number(element(elements, 2), element(self.group, 6)):
            self._find(position, 2, "wrong_group_number")
        self._is_grouped, self.group = False, ()

    def _on_interchange_end(self, elements: list[str], position: int) -> None:
        self._leave_group(position)
        if number(element(elements, 1)) != self._groups:
            self._find(position, 1, "wrong_group_count")
        if self._interchange and not _same_number(element(elements, 2), element(self._interchange, 13)):
            self._find(position, 2, "wrong_interchange_number")
        self._is_inside, self._interchange, self._groups = False, [], 0

    def _leave_group(self, position: int) -> None:
        if self.group:
            self._find(position, 0, "missing_ge")
        self._is_grouped, self.group = False, ()

    def _leave_interchange(self, position: int) -> None:
        self._leave_group(position)
        if self._interchange:
            self._find(position, 0, "missing_iea")
        self._is_inside, self._interchange = False, []


def _same_number(one: str, other: str) -> bool:
    """Control numbers may be padded with zeros on one side only."""
    return one.strip().lstrip("0") == other.strip().lstrip("0")
