"""What people do with journal entries that were wrong, as plain calls: date anew, book under other accounts, reverse.

Owns the checks before the books store a correction, and its day. Never prints. What is corrected here is a posting set
that waits: the poster brings it to the ERP.
"""

from collections.abc import Mapping, Sequence
from datetime import date

import msgspec
import polars as pl

from actors.retrier import remapping_of
from adapters.books.governed import check_releasable
from runtime.config import Config
from runtime.errors import GovernanceError
from runtime.ledger.compensation import is_restated, redated, remapped, restatement, reversal
from runtime.ledger.journal import numbered
from runtime.ledger.remapping import Ambiguous
from runtime.ports import Books, Delivery, EntryState

OpensOn = Mapping[str, date]  # each entity's first open day


def opened_of(books: Books, config: Config) -> OpensOn:
    """The first day on which each entity may be posted to, by the configuration and the periods closed since."""
    opened = config.opens_on()
    for close in books.closes():
        if close.opens_on and close.entity in opened:
            opened[close.entity] = max(opened[close.entity], close.opens_on)
    return opened


def release(books: Books, keys: Sequence[str], by: str, not_there: bool) -> None:
    """Send these back to be delivered again, all or none. GovernanceError names the first that can't be."""
    for key in keys:
        delivery = books.delivery_of(key)
        check_releasable(key, delivery and delivery.state, not_there)
    for key in keys:
        books.release_entry(key, by, not_there)


def redate(books: Books, key: str, opens_on: date, by: str) -> str:
    """Replace a rejected entry by one of the open period; the new one's key. GovernanceError."""
    delivery = _standing(books, key, "rejected")
    try:
        draft = redated(delivery.entry, opens_on)
    except ValueError as error:
        raise GovernanceError(str(error)) from None
    return books.replace_entry(key, numbered(draft, 0), by)


def restate(books: Books, key: str, opens_on: OpensOn, by: str) -> str:
    """Book a posted or rejected entry anew under the mapping of now; what was done. GovernanceError when that gives the
    same accounts, or can't tell which."""
    delivery = _standing(books, key, "posted", "rejected")
    entry, postings = delivery.entry, books.postings_of(delivery.entry)
    try:
        now = remapped(postings, remapping_of(books.mapping_versions()))
    except Ambiguous as error:
        raise GovernanceError(f"{key}: {error}; map the role more exactly, or reverse the entry") from None
    if not is_restated(postings, now):
        raise GovernanceError(f"{key}: the mapping of now gives it the same accounts; mend that first")
    on = opens_on[entry.entity]
    instead = restatement(entry, now, on)
    if delivery.state == "posted":
        books.correct_entry(key, pl.concat([reversal(entry, postings, on), instead]), by)
        return "will be reversed and booked anew"
    books.correct_entry(key, instead, by)
    return "is replaced and will be booked anew"


def propose_reversal(books: Books, key: str, by: str, note: str) -> int:
    """Ask for a posted entry's reversal; the number of the change. GovernanceError."""
    _standing(books, key, "posted")
    return books.propose_change("reversal", msgspec.json.encode(key).decode(), by, note)


def reverse(books: Books, change_no: int, opens_on: OpensOn, by: str) -> str:
    """Carry out a proposed reversal; the entry's key. GovernanceError, SameSigner."""
    found = books.changes("proposed").filter(pl.col("type") == "reversal", pl.col("change_no") == change_no)
    if found.is_empty():
        raise GovernanceError(f"change {change_no}: is no proposed reversal")
    delivery = _standing(books, msgspec.json.decode(found["body_json"][0], type=str), "posted")
    entry, on = delivery.entry, opens_on[delivery.entry.entity]
    books.correct_entry(entry.key, reversal(entry, books.postings_of(entry), on), by, change_no)
    return entry.key


def _standing(books: Books, key: str, *states: EntryState) -> Delivery:
    delivery = books.delivery_of(key)
    if delivery is None or delivery.state not in states:
        state = delivery.state if delivery else "unknown"
        raise GovernanceError(f"entry {key}: is {state}; it must be {' or '.join(states)}")
    return delivery
