"""X12 purchasing: 810 invoices, 850 orders, 855 confirmations, 856 despatches, 861 receipts.

Owns which X12 is purchasing, and the reading of a file set by set. What does not add up is set aside a set at a time;
a place's segment is counted from 1 at ST, or from the file's start for the envelope, which is transaction 0. Never
reads an address, a description or a person. The tokens come from the claims family's reader, and so do its reasons
for being our own code: the libraries that split segments refuse files that are in use.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from adapters.sources.purchasing import Document, Reading, Unfit, chunks
from adapters.sources.source import Chunk, Quarantined, Reader, SourceSettings
from adapters.sources.x12.segments import find_header
from adapters.sources.x12_procurement.invoice import LINE, invoice, stated_figures
from adapters.sources.x12_procurement.movements import (
    ITEM,
    ORDER_LINE,
    RECEIPT_LINE,
    confirmation,
    despatch,
    order,
    receipt,
)
from adapters.sources.x12_procurement.sets import TransactionSet, transaction_sets

_SETS: dict[str, tuple[str, Callable[[TransactionSet, str], Document | None]]] = {  # ST01: a line's tag, the reading
    "810": (LINE, invoice),
    "850": (ORDER_LINE, order),
    "855": (ORDER_LINE, confirmation),
    "856": (ITEM, despatch),
    "861": (RECEIPT_LINE, receipt),
}
_FIRST_SET = re.compile(rb"(?<![A-Za-z0-9])ST([^A-Za-z0-9\s])(\d{3})\1")


def recognise(head: bytes) -> str:
    """The format's name when a file that begins so is X12 of purchasing, else ""."""
    start = find_header(head)
    first = _FIRST_SET.search(head, start) if start >= 0 else None
    return "x12_procurement" if first and first[2].decode() in _SETS else ""


def read(path: Path, settings: SourceSettings) -> Iterator[Chunk]:
    """Read the file set by set. Raises FrameError for what is no X12 at all."""
    return chunks(_readings(path, settings.currency), "x12", settings)


def _readings(path: Path, currency: str) -> Iterator[Reading]:
    for found in transaction_sets(path):
        yield Reading(None, (found,)) if isinstance(found, Quarantined) else _reading(found, currency)


def _reading(transaction: TransactionSet, currency: str) -> Reading:
    if transaction.code not in _SETS:
        return Reading(None, Unfit("unread_set", 1, 1).aside(transaction.ordinal))
    figures = _figures(transaction, currency)
    try:
        return Reading(_document(transaction, currency), (), figures)
    except Unfit as unfit:
        return Reading(None, unfit.aside(transaction.ordinal), figures)


def _document(transaction: TransactionSet, currency: str) -> Document | None:
    if transaction.unfit:
        raise transaction.unfit
    return _SETS[transaction.code][1](transaction, currency)


def _figures(transaction: TransactionSet, currency: str) -> dict[str, int]:
    figures = {"documents": 1, "lines": len(transaction.all(_SETS[transaction.code][0]))}
    return figures | (stated_figures(transaction, currency) if transaction.code == "810" else {})


FORMATS: dict[str, Reader] = {"x12_procurement": read}
