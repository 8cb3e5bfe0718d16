"""What the books must hold, at the position that each shard was committed up to: totals, postings, exceptions, states.

Owns the comparison of the naive shards with the books and the archive, to the cent and to the key.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import polars as pl

from runtime.ledger.rules import Rulebook
from runtime.ports import CORRECTIONS, LogRecord, position_key
from simulation.auditor.corrections import correction_differences, moved, sets_of
from simulation.auditor.shard import TOTAL_KEYS, AuditedShard

PAGE_SETS = 10_000
EXCEPTIONS_MAX = 10**6
POSTING_KEYS = (
    "entity",
    "currency",
    "period",
    "mode",
    "lane",
    "kind",
    "document",
    "facility",
    "department",
    "variance",
    "role",
    "account_code",
    "side",
)
_EXCEPTION_KEYS = ("type", "source", "event_id", "entity", "facility", "currency", "amount_minor")
_IDENTITY = ("id_hash", "digest")
OF_THE_RUNTIME = (
    "feed_malformed",
    "feed_rejected",
    "erp_rejected",
    "erp_unauthorised",
    "erp_timeout",
    "erp_unknown_outcome",
    "shard_stopped",
    "log_cut_short",
    "consumer_stopped",
    "derived_rejected",
    "conservation_break",
    "reconciliation_break",
)
SHOWN_MAX = 4  # differences of one sort


class Auditor:
    """All shards, followed as far as the books are."""

    def __init__(self, rulebook: Rulebook, opens_on: dict[str, date], items_max: int, shards: int) -> None:
        self.shards = [AuditedShard(rulebook, opens_on, items_max) for _ in range(shards)]
        self._taken, self._commits = [0] * shards, [0] * shards
        self._nameless = {terms.overdrawn for terms in rulebook.register.values() if hasattr(terms, "overdrawn")}
        self._routes: dict[tuple, int] = {}
        self._scopes = rulebook.scopes()

    def follow(self, kept: list[list[LogRecord]], cuts: list[list[str]]) -> None:
        """Take every commit's entries, up to where each shard stands. `cuts`: the ends of all commits."""
        for number, shard in enumerate(self.shards):
            for through in cuts[number][self._commits[number] :]:
                records = kept[number][self._taken[number] :]
                taken = [record for record in records if position_key(record.position) <= position_key(through)]
                shard.take(taken)
                self._taken[number] += len(taken)
                self._commits[number] += 1

    def booked(self) -> Counter[tuple]:
        """Minor units by posting key."""
        return sum((shard.booked for shard in self.shards), Counter())

    def books_differences(self, books: Any) -> Iterator[str]:
        """Where the books hold something else."""
        totals = sum((shard.totals() for shard in self.shards), Counter())
        yield from differences("control total", totals, totals_of(books.totals()))
        sets = sets_of(books)
        yield from differences("posting", self.booked(), _postings_of(sets))
        expected = self._balances()
        expected.update(moved(sets))
        yield from differences("balance", expected, _balances_of(books.balances()))
        yield from correction_differences(sets, books)
        yield from differences("open exception", self.expected_exceptions(self.shards), self.open_exceptions(books))
        yield from self._misrouted()
        yield from self._closed_too_early(books)

    def expected_exceptions(self, shards: Sequence[AuditedShard]) -> Counter[tuple]:
        """Open exceptions that come from events, as these shards say."""
        return Counter(self._stable(row) for shard in shards for row in shard.open_exceptions())

    def open_exceptions(self, books: Any) -> Counter[tuple]:
        """Open exceptions that come from events, as the books hold; those of the runtime itself are looked at
        elsewhere."""
        found = books.exceptions(state="open", limit=EXCEPTIONS_MAX)
        rows = found.filter(~pl.col("type").is_in(OF_THE_RUNTIME)).select(_EXCEPTION_KEYS)
        return Counter(self._stable(row) for row in rows.iter_rows())

    def archive_differences(self, archive: Any) -> Iterator[str]:
        """Where the archive's last word on an event is another; for archives that are whole."""
        expected: Counter[tuple] = Counter()
        for shard in self.shards:
            expected.update(
                (row["id_hash"], row["digest"], state) for row, state in zip(shard.rows, shard.states, strict=True)
            )
        last = {row[:2]: row for row in archive.scan().select(*_IDENTITY, "state").collect().iter_rows()}
        yield from differences("archived state", expected, Counter(last.values()))

    def _balances(self) -> Counter[tuple]:
        balances: Counter[tuple] = Counter()
        for key, amount in self.booked().items():
            given = dict(zip(POSTING_KEYS, key, strict=True))
            balances[given["entity"], given["currency"], given["account_code"], given["side"]] += amount
        return balances

    def _stable(self, row: tuple) -> tuple:
        """An exception without what is not laid down of it: of an account, which event it names."""
        return (row[0], "", "", *row[3:]) if row[0] in self._nameless else row

    def _misrouted(self) -> Iterator[str]:
        """Rows of one scope must all lie in one shard."""
        for number, shard in enumerate(self.shards):
            for row in shard.rows:
                scope = (row["entity"], row["facility"] if self._scopes[row["kind"]] == "facility" else "*")
                if self._routes.setdefault(scope, number) != number:
                    yield f"{row['event_id']}: shard {number}, others of {scope} in {self._routes[scope]}"

    def _closed_too_early(self, books: Any) -> Iterator[str]:
        """No shard may still book into a period that is declared closed."""
        for close in books.closes():
            if close.state != "declared":
                continue
            opened = [shard.opens_on[close.entity] for shard in self.shards]
            if behind := [number for number, opens_on in enumerate(opened) if opens_on < close.opens_on]:
                yield f"{close.entity} {close.period}: declared closed, and shards {behind} may book into it"


def differences(what: str, expected: Counter, found: Counter) -> Iterator[str]:
    """What is there too much or too little, a few of each sort."""
    wrong = sorted((key for key in expected.keys() | found.keys() if expected[key] != found[key]), key=str)
    for key in wrong[:SHOWN_MAX]:
        yield f"{what} {' '.join(map(str, key))}: expected {expected[key]}, found {found[key]}"
    if len(wrong) > SHOWN_MAX:
        yield f"{what}: {len(wrong) - SHOWN_MAX} more differ"


def totals_of(totals: pl.DataFrame) -> Counter[tuple]:
    found: Counter[tuple] = Counter()
    for row in totals.iter_rows(named=True):
        for unit in ("events", "amount_minor"):
            found[(*(row[name] for name in TOTAL_KEYS), row["state"], unit)] += row[unit]
    return found


def _postings_of(sets: dict[tuple[int, str, int], list[dict]]) -> Counter[tuple]:
    """What follows from events, by posting key."""
    found: Counter[tuple] = Counter()
    for row in (row for (shard, *_), rows in sets.items() if shard != CORRECTIONS for row in rows):
        found[tuple(row[name] for name in POSTING_KEYS)] += row["amount_minor"]
    return found


def _balances_of(balances: pl.DataFrame) -> Counter[tuple]:
    found: Counter[tuple] = Counter()
    for row in balances.iter_rows(named=True):
        key = (row["entity"], row["currency"], row["account_code"])
        found[(*key, "D")] += row["debit_minor"]
        found[(*key, "C")] += row["credit_minor"]
    return found
