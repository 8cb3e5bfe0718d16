"""A hospital's day as a folder of files, and what must come of them.

Owns reading `expected.toml` beside the files, which is worked out by hand from the rules of accounting. Never asks the
engine, and never sends.
"""

import tomllib
from importlib.resources import files
from pathlib import Path

import msgspec

from runtime.ledger.reconciliation import Side

FOLDER = Path(str(files("adapters.sources") / "samples" / "hospital_day"))


class Booking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A debit that a file causes: the entity, the account's role, and the rule or figure that it comes from."""

    entity: str
    debit: str
    amount_minor: int
    why: str


class DayFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file, the entity that it is submitted for, and all the debits that it causes."""

    name: str
    title: str
    entity: str
    books: tuple[Booking, ...]

    @property
    def path(self) -> Path:
        """Where it lies."""
        return FOLDER / self.name


class DayException(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exceptions of a type that the files cause; `lasts`: they still stand after the last file."""

    type: str
    count: int
    lasts: bool


class HospitalDay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The day. Its last file comes late, when somebody already waits for it."""

    currency: str
    file: tuple[DayFile, ...]
    exception: tuple[DayException, ...]

    def turnover(self, file: DayFile) -> dict[Side, int]:
        """The debits of a file by entity and currency."""
        sums: dict[Side, int] = {}
        for booking in file.books:
            side = (booking.entity, self.currency)
            sums[side] = sums.get(side, 0) + booking.amount_minor
        return sums


def hospital_day() -> HospitalDay:
    """The day as it was worked out."""
    return msgspec.convert(tomllib.loads((FOLDER / "expected.toml").read_text(encoding="utf-8")), HospitalDay)
