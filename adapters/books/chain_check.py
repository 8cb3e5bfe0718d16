"""Checks the audit trail: every chain from its first row, and every row that a chain tells of against its table.

Owns the comparison. Reads in one transaction, a page at a time; keeps one short record for each journal entry, mapping
version, change and closed period. Never changes anything.

Found are rows that were changed, removed or put in, of the chains and of what they tell: posting sets and lines, which
entry each set is in, journal entries and their ends, mapping versions, changes and their approvals, closed periods. Not
found is a whole consistent end that was cut off or written anew by whoever may write to the database, nor a row that is
passed off as older than the chains: for that, compare with a report that was kept elsewhere (`kept`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Connection, Select, Table, func, select

from adapters.books import chain, pages, tables
from adapters.books.database import Database
from runtime.ports import CORRECTIONS, JournalEntry, position_key

PAGE_ROWS = 10_000

_commits, _audit, _counters = tables.commit_chain.c, tables.audit_chain.c, tables.counters.c
_sets = tables.posting_sets.c
_PLACE = ("shard", "position_ms", "position_seq", "set_no")
_OPEN = ("sealed", "in_flight", "unknown")  # states of an entry that no end is told of


class ChainBreak(NamedTuple):
    """Something that is not as it was written: the table, which row, and what was done to it."""

    ledger: str
    table: str
    row: str
    what: str


class ChainReport(msgspec.Struct, kw_only=True):
    """What was checked, and what was found. `heads`: the newest hash of each ledger and how many rows lead to it."""

    rows: int = 0
    posting_sets: int = 0
    heads: dict[str, tuple[int, str]] = {}
    breaks: list[ChainBreak] = []
    unchained: dict[str, int] = {}  # rows by table that are older than the chains

    @property
    def whole(self) -> bool:
        """Whether nothing was found."""
        return not self.breaks


class Kept(msgspec.Struct, frozen=True):
    """What of an earlier report was kept elsewhere: its heads must be there yet, and no more rows be older than the
    chains."""

    heads: dict[str, tuple[int, str]]
    unchained: dict[str, int] = {}


def check(url: str, kept: Kept | None = None) -> ChainReport:
    """Check every chain, against what was kept of an earlier report, too. Raises BooksUnavailable."""
    database = Database(url)
    try:
        with database.snapshot() as connection:
            return _Check(connection, kept).run()
    finally:
        database.close()


class _Check:
    def __init__(self, connection: Connection, kept: Kept | None) -> None:
        self._connection, self._kept = connection, kept
        self._known = dict(kept.heads) if kept else {}
        self._claims: Counter[str] = Counter()  # entry key -> the sum of the hashes of its posting sets' places
        self._report = ChainReport()
        self._after = {name.partition(":")[2]: value for name, value in self._rows(_begun())}
        self._acts: dict[str, dict[str, str]] = {}  # act -> ref -> content; the last one of each
        self._last: dict[str, str] = {}  # entry key -> its newest act

    def run(self) -> ChainReport:
        self._check_commits()
        self._check_audit()
        self._check_entries()
        for act, (name, columns, key) in chain.GOVERNED.items():
            self._check_governed(act, name, columns, key)
        for ledger in self._known:
            self._break(ledger, "chain", f"{ledger} {self._known[ledger][0]}", "is no longer there")
        for table, rows in self._report.unchained.items() if self._kept else ():
            if (older := self._kept.unchained.get(table, 0)) < rows:
                self._break("", table, f"{rows} older than the chains", f"inserted: there were {older}")
        return self._report

    def _break(self, ledger: str, table: str, row: str, what: str) -> None:
        self._report.breaks.append(ChainBreak(ledger, table, row, what))

    def _rows(self, query: Select) -> Iterator:
        return iter(self._connection.execution_options(yield_per=PAGE_ROWS).execute(query))

    # ── commits ──

    def _check_commits(self) -> None:
        """Walk each shard's chain beside its posting sets, which lie in the same order."""
        ordered = select(tables.commit_chain).order_by(_commits.shard, _commits.position_ms, _commits.position_seq)
        rows = groupby(self._rows(ordered), key=lambda row: row.shard)
        postings = groupby(_postings_by_commit(self._connection, self._claims), key=lambda held: held.place[0])
        for shard in self._rows(_shards_of_nobody()):
            self._break(f"shard:{shard[0]}", "posting_sets", "all", "inserted: there is no such shard")
        stands = {int(name.removeprefix("shard:")): (ms, seq) for name, ms, seq in self._rows(_owners())}
        if corrections := self._connection.scalar(_corrections()):
            stands[CORRECTIONS] = (corrections, 0)
        for shard, links, sets in _side_by_side(rows, postings):
            self._check_reached(shard, self._check_shard(shard, links, sets), stands.pop(shard, None))
        for shard, stand in stands.items():  # of which nothing is left at all
            self._check_reached(shard, self._begin(shard), stand)

    def _check_reached(self, shard: int, place: tuple[int, int, int], stand: tuple[int, int] | None) -> None:
        """The chain must reach as far as its shard does."""
        if stand and stand != place[1:]:
            what = f"removed: the shard stands at {stand[0]}-{stand[1]}"
            self._break(f"shard:{shard}", "commit_chain", f"after {_place(place)}", what)

    def _begin(self, shard: int) -> tuple[int, int, int]:
        """Where a shard stood when its chain began."""
        ms, seq = (self._after.get(f"shard:{shard}/{part}", 0) for part in ("ms", "seq"))
        return shard, ms, seq

    def _check_shard(self, shard: int, links: Iterator, postings: Iterator) -> tuple[int, int, int]:
        """One shard; the place that its chain reaches."""
        ledger, last = f"shard:{shard}", chain.BEGIN
        place = begin = self._begin(shard)
        held = next(postings, None)
        for count, row in enumerate(links, 1):
            at, after = (shard, row.position_ms, row.position_seq), (shard, row.after_ms, row.after_seq)
            self._check_link(ledger, _place(at), row._mapping, last, chain.commit_hash(row._mapping))
            if after != place:
                self._break(ledger, "commit_chain", f"{_place(place)} to {_place(after)}", "removed")
            while held and held.place < at:
                self._check_unlinked(ledger, held, begin)
                held = next(postings, None)
            found = held if held and held.place == at else None
            self._check_postings(ledger, at, row.postings_digest, found)
            held = next(postings, None) if found else held
            last, place = row.hash, at
            self._see_head(ledger, count, last)
        while held:
            self._check_unlinked(ledger, held, begin)
            held = next(postings, None)
        return place

    def _check_postings(self, ledger: str, at: tuple, digest: str, found: "_Postings | None") -> None:
        self._report.posting_sets += found.sets if found else 0
        if digest and not found:
            self._break(ledger, "posting_sets", _place(at), "removed")
        elif found and not digest:
            self._break(ledger, "posting_sets", _place(at), "inserted")
        elif found and chain.digest_like(digest, found.stored) != digest:
            self._break(ledger, "posting_sets", _place(at), "changed")

    def _check_unlinked(self, ledger: str, held: "_Postings", begin: tuple) -> None:
        """Postings of no commit: older than the chain, or put in."""
        self._report.posting_sets += held.sets
        if (begin[0], 0, 0) < held.place <= begin:
            self._count_unchained("posting_sets", held.sets)
        else:
            self._break(ledger, "posting_sets", _place(held.place), "inserted: no commit made it")

    def _count_unchained(self, table: str, rows: int = 1) -> None:
        self._report.unchained[table] = self._report.unchained.get(table, 0) + rows

    # ── acts ──

    def _check_audit(self) -> None:
        links = self._rows(select(tables.audit_chain).order_by(_audit.ledger, _audit.number))
        for ledger, rows in groupby(links, key=lambda row: row.ledger):
            last, number = chain.BEGIN, 0
            for row in rows:
                if row.number != number + 1:
                    self._break(ledger, "audit_chain", f"{number + 1} to {row.number - 1}", "removed")
                else:
                    self._check_link(ledger, str(row.number), row._mapping, last, chain.act_hash(row._mapping))
                self._acts.setdefault(row.act, {})[row.ref] = row.content
                if row.act in ("sealed", "released", *chain.ENDED):
                    self._last[row.ref] = row.act
                last, number = row.hash, row.number
                self._see_head(ledger, number, last)
            counted = self._connection.scalar(select(_counters.value).where(_counters.name == f"chain:{ledger}"))
            if counted != number:
                self._break(ledger, "audit_chain", f"{number + 1} to {counted}", "removed")

    def _check_link(self, ledger: str, row: str, stored: Mapping, previous: str, expected: str) -> None:
        self._report.rows += 1
        table = "commit_chain" if "shard" in stored else "audit_chain"
        if stored["hash"] != expected:
            self._break(ledger, table, row, "changed")
        elif stored["previous"] != previous:
            self._break(ledger, table, row, "does not follow from the row before it: one of the two was put in")

    def _see_head(self, ledger: str, count: int, head: str) -> None:
        self._report.heads[ledger] = (count, head)
        if self._known.get(ledger) == (count, head):
            del self._known[ledger]

    def _check_entries(self) -> None:
        """Each entry as it was sealed, and in the state that its newest act led to."""
        sealed, chained_after = dict(self._acts.get("sealed", {})), self._after.get("entries", 0)
        for row in self._rows(select(tables.entries)):
            told = sealed.pop(row.key, None)
            if told is None and 0 < row.sealed_no <= chained_after:
                self._count_unchained("entries")
            elif told is None:
                self._break("", "entries", row.key, "inserted: nobody sealed it")
            elif told != chain.content(row, chain.SEALED):
                self._break("", "entries", row.key, "changed")
            else:
                self._check_end(row)
                self._check_claims(row)
        for key in sealed:
            self._break("", "entries", key, "removed")

    def _check_claims(self, row: NamedTuple) -> None:
        """The posting sets that an entry names are those that are stamped with it. Those of one that was replaced may
        all have gone over to the entry that stands in its place."""
        named = set(msgspec.json.decode(row.body, type=JournalEntry).sets)
        claimed = self._claims[row.key]
        if claimed == sum(map(hash, named)) or (row.state == "replaced" and not claimed):
            return
        stamped = {(shard, f"{ms}-{seq}", number) for shard, ms, seq, number in self._rows(_stamped(row.key))}
        for shard, position, number in sorted(named ^ stamped):
            self._break(f"shard:{shard}", "posting_sets", f"{position} {number}", f"changed: is it in {row.key}?")

    def _check_end(self, row: NamedTuple) -> None:
        newest = self._last[row.key]
        if newest in chain.ENDED:
            as_told = row.state == newest and self._acts[newest][row.key] == chain.content(row, chain.ANSWERED)
        else:
            as_told = row.state in _OPEN
        if not as_told:
            self._break("", "entries", row.key, f"changed: {row.state}, while {newest} is the newest that is told")

    def _check_governed(self, act: str, name: str, columns: Sequence[str], key: Sequence[str]) -> None:
        """Each row that people made against the act that tells of it."""
        table, told = tables.metadata.tables[name], dict(self._acts.get(act, {}))
        ordering = {"changes": "change_no", "mapping_versions": "version", "period_closes": "number"}[name]
        for row in self._rows(_made(table, act)):
            ref = f"{name}:{'/'.join(str(row._mapping[column]) for column in key)}"
            known = told.pop(ref, None)
            if known is None and 0 < row._mapping[ordering] <= self._after.get(name, 0):
                self._count_unchained(name)
            elif known is None:
                self._break(chain.GOVERNANCE, name, ref.partition(":")[2], "inserted: nobody did that")
            elif known != chain.content(row, columns):
                self._break(chain.GOVERNANCE, name, ref.partition(":")[2], "changed")
        for ref in told:
            self._break(chain.GOVERNANCE, name, ref.partition(":")[2], "removed, or its decision undone")


def _made(table: Table, act: str) -> Select:
    """The rows that an act of this sort must tell of."""
    if act == "decided":
        return select(table).where(table.c.state != "proposed")
    return select(table).where(table.c.state == "declared") if act == "closed" else select(table)


def _begun() -> Select:
    return select(_counters.name, _counters.value).where(_counters.name.like("chained_after:%"))


def _owners() -> Select:
    columns = tables.owners.c
    wanted = select(columns.owner, columns.position_ms, columns.position_seq)
    return wanted.where(columns.owner.like("shard:%"), func.coalesce(columns.committed_at_ms, 0) > 0)


def _corrections() -> Select:
    """How many corrections were ever made."""
    return select(_counters.value).where(_counters.name == "correction")


class _Postings(NamedTuple):
    """What the table holds of one commit: (shard, position), and its sets as they are stored (STORED_SETS)."""

    place: tuple[int, int, int]
    stored: pl.DataFrame

    @property
    def sets(self) -> int:
        """How many."""
        return len(self.stored)


def _stamped(key: str) -> Select:
    """The places of the posting sets that are in an entry."""
    return select(*(_sets[name] for name in _PLACE)).where(_sets.entry_key == key)


def _shards_of_nobody() -> Select:
    return select(_sets.shard).where(_sets.shard < CORRECTIONS).distinct()


def _postings_by_commit(connection: Connection, claims: Counter[str]) -> Iterator[_Postings]:
    """Commits that have postings, in the order of the chain; `claims` takes note of the entries that they are in. A
    page may end within a commit."""
    carried: pl.DataFrame | None = None
    for page in pages.set_pages(connection, PAGE_ROWS):
        sets = page.filter(pl.col("entry_key") != "").select("entry_key", "shard", "position", "set_no")
        for key, *place in sets.iter_rows():
            claims[key] += hash(tuple(place))
        whole = page if carried is None else pl.concat([carried, page])
        *commits, carried = whole.partition_by("shard", "position", maintain_order=True)
        yield from map(_of_commit, commits)
    if carried is not None:
        yield _of_commit(carried)


def _of_commit(sets: pl.DataFrame) -> _Postings:
    shard, position = sets.select("shard", "position").row(0)
    return _Postings((shard, *position_key(position)), sets)


def _side_by_side(links: Iterator, postings: Iterator) -> Iterator[tuple[int, Iterator, Iterator]]:
    """Each shard's links and postings; a shard may have only the one or the other."""
    link, posting = next(links, None), next(postings, None)
    while link or posting:
        shard = min(one[0] for one in (link, posting) if one)
        has_link, has_posting = bool(link) and link[0] == shard, bool(posting) and posting[0] == shard
        yield shard, link[1] if has_link else iter(()), posting[1] if has_posting else iter(())
        link = next(links, None) if has_link else link
        posting = next(postings, None) if has_posting else posting


def _place(at: tuple[int, int, int]) -> str:
    return f"{at[1]}-{at[2]}"
