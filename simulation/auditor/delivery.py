"""What journal entries and the ERP must hold: every posting set in one entry, every entry once at the ERP, unchanged.

Owns the comparison of books and ERP line by line.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from runtime.ports import JournalEntry
from simulation.auditor.books import PAGE_SETS, differences

STATES = ("sealed", "in_flight", "posted", "rejected", "unknown", "parked")
ENTRIES_MAX = 10**6
ENDED = {"posted", "rejected", "parked"}


def entries_by_state(books: Any, entities: Sequence[str]) -> dict[str, dict[str, JournalEntry]]:
    """Every entry, by state and key."""
    return {state: {e.key: e for e in books.entries_in(entities, [state], ENTRIES_MAX)} for state in STATES}


def delivery_differences(books: Any, moves: Sequence[tuple[str, JournalEntry]], entities: Sequence[str]) -> Iterator:
    """What must hold at any moment, whatever is still under way."""
    entries = {key: entry for held in entries_by_state(books, entities).values() for key, entry in held.items()}
    yield from _sets_in_entries(books, entries)
    for key, count in Counter(entry.key for _, entry in moves).items():
        if count > 1:
            yield f"entry {key}: {count} times in the ERP"
    for _, entry in moves:
        if entry.key not in entries:
            yield f"entry {entry.key}: in the ERP, unknown to the books"
        elif entry.digest != entries[entry.key].digest or entry.lines != entries[entry.key].lines:
            yield f"entry {entry.key}: the ERP holds other content than the books"


def _sets_in_entries(books: Any, entries: dict[str, JournalEntry]) -> Iterator[str]:
    """Each posting set is claimed by the entry that names it, and an entry's lines are the sum of its sets."""
    lines: dict[str, Counter] = defaultdict(Counter)
    claims: dict[tuple, str] = {}
    for page in books.posting_pages(PAGE_SETS):
        claimed = page.filter(pl.col("entry_key") != "", pl.col("entry_state") != "replaced")
        for row in claimed.iter_rows(named=True):
            claims[row["shard"], row["position"], row["set_no"]] = row["entry_key"]
            place = tuple(row[name] for name in ("account_code", "side", "facility", "department", "variance", "kind"))
            lines[row["entry_key"]][place] += row["amount_minor"]
    named = {place: key for key, entry in entries.items() for place in entry.sets}
    if claims != named:
        yield f"{len(claims.items() ^ named.items())} posting sets are not with the entry that names them"
    for key, entry in entries.items():
        told: Counter = Counter()
        for line in entry.lines:
            kind = line.text.partition(",")[0]
            place = (line.account_code, line.side, line.facility, line.department, line.variance, kind)
            told[place] += line.amount_minor
        yield from differences(f"line of {key}", lines[key], told)
        signed = sum(line.amount_minor if line.side == "D" else -line.amount_minor for line in entry.lines)
        if signed:
            yield f"entry {key}: debits and credits differ by {signed}"


def delivered_differences(books: Any, erp: Any, entities: Sequence[str]) -> Iterator[str]:
    """What must hold when all has drained: every entry at the ERP, but those that it refused; those that somebody must
    tell the books of, as they can't be asked for, only there."""
    by_state = entries_by_state(books, entities)
    moves = [entry.key for _, entry in erp.twin.moves]
    if under_way := sorted(key for state, held in by_state.items() if state not in ENDED for key in held):
        yield f"entries neither posted nor rejected: {under_way[:4]}"
    there = Counter((key,) for state in ("posted", "parked") for key in by_state[state])
    yield from differences("posted entry", there, Counter((key,) for key in moves))
    numbers = Counter((entry.key, number) for number, entry in erp.twin.moves if entry.key in by_state["posted"])
    yield from differences("document", numbers, Counter((k, books.delivery_of(k).erp_ref) for k in by_state["posted"]))
    if by_state["parked"] and erp.terms().lookup:
        yield f"entries are parked that a lookup could find: {sorted(by_state['parked'])[:4]}"
    if unrefused := sorted(by_state["rejected"].keys() - erp.refused):
        yield f"entries are rejected that the ERP never refused: {unrefused[:4]}"
    exceptions = books.exceptions(state="open", limit=ENTRIES_MAX)
    raised = Counter((row["type"], row["event_id"]) for row in exceptions.iter_rows(named=True) if row["event_id"])
    raised = Counter({key: count for key, count in raised.items() if key[0].startswith("erp_")})
    yield from differences("ERP exception", _exceptions(books, by_state), raised)
    posted: Counter = Counter()
    for row in books.balances().iter_rows(named=True):
        key = (row["entity"], row["currency"], row["account_code"])
        posted[(*key, "D")], posted[(*key, "C")] = row["posted_debit_minor"], row["posted_credit_minor"]
    for entry in by_state["parked"].values():
        for line in entry.lines:
            posted[entry.entity, entry.currency, line.account_code, line.side] += line.amount_minor
    balance: Counter = Counter()
    for account in erp.trial_balance():
        key = (account.entity, account.currency, account.account_code)
        balance[(*key, "D")], balance[(*key, "C")] = account.debit_minor, account.credit_minor
    yield from differences("ERP balance", posted, balance)


def _exceptions(books: Any, by_state: dict[str, dict[str, JournalEntry]]) -> Counter:
    """What entries stand under: a refusal until they are posted, a doubt until somebody knows."""
    refused = by_state["rejected"].keys() | (by_state["parked"].keys() & books.refused)
    return Counter(
        [*(("erp_rejected", key) for key in refused), *(("erp_unknown_outcome", k) for k in by_state["parked"])]
    )
