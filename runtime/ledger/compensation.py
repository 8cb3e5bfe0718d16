"""How an entry that was wrong is put right: a reversal and a new entry, never an edit.

Owns the plan: which entries take an old one's place, with which accounts and on which day. Stores and sends nothing.
Where an ERP never took the old entry, there is nothing to reverse; where nobody knows, nothing may be planned.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from typing import NamedTuple

import msgspec

from runtime.ledger.journal import Draft, counted, line_text
from runtime.ports import EntryState, JournalEntry, JournalLine

_OTHER_SIDE = {"D": "C", "C": "D"}


class Mending(NamedTuple):
    """What was wrong: accounts that stand for others now, and the first day that the ERP still has open."""

    opens_on: date
    accounts: Mapping[str, str] = {}


class Compensation(NamedTuple):
    """What takes an entry's place. `reversal` is None where the ERP never held the old one."""

    reversal: Draft | None
    replacement: Draft


def compensation(entry: JournalEntry, state: EntryState, mending: Mending) -> Compensation:
    """The plan for an entry that an ERP has posted or rejected, dated into an open period.

    ValueError when what became of the entry is not known yet, and when the mending changes nothing of one that was
    rejected: then it is sent again as it is.
    """
    if state not in ("posted", "rejected"):
        raise ValueError(f"{entry.key}: it is {state}; only a posted or rejected entry can be replaced")
    posted_on = max(entry.posted_on, mending.opens_on)
    lines = _merged(
        msgspec.structs.replace(line, account_code=mending.accounts.get(line.account_code, line.account_code))
        for line in entry.lines
    )
    if lines == _merged(entry.lines) and posted_on == entry.posted_on:
        raise ValueError(f"{entry.key}: nothing was mended; it would be the same entry again")
    replacement = _draft(entry, posted_on, lines, entry.sets)
    if state == "rejected":
        return Compensation(None, replacement)
    swapped = (msgspec.structs.replace(line, side=_OTHER_SIDE[line.side]) for line in entry.lines)
    return Compensation(_draft(entry, posted_on, _merged(swapped), ()), replacement)


def _draft(
    entry: JournalEntry, posted_on: date, lines: tuple[JournalLine, ...], sets: tuple[tuple[int, str, int], ...]
) -> Draft:
    return Draft(
        entity=entry.entity,
        currency=entry.currency,
        period=f"{posted_on:%Y-%m}",
        posted_on=posted_on,
        mode=entry.mode,
        lane=entry.lane,
        document=entry.document,
        lines=lines,
        sets=sets,
        committed_ms=0,
    )


def _merged(lines: Iterable[JournalLine]) -> tuple[JournalLine, ...]:
    """Lines of one account, side, place and kind as one, in the order in which entries have them."""
    amounts: Counter[tuple] = Counter()
    events: Counter[tuple] = Counter()
    for line in lines:
        kind, count = counted(line.text)
        key = (line.account_code, line.side, line.facility, line.department, kind)
        amounts[key] += line.amount_minor
        events[key] += count
    return tuple(
        JournalLine(account, side, amounts[key], facility, department, line_text(kind, events[key]))
        for key in sorted(amounts)
        for account, side, facility, department, kind in [key]
    )
