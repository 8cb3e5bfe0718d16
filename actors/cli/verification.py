"""Verifying a Penstock: everything derived anew from what came, compared both ways with books, archive and ERP.

Owns where each side is read and at which instant. The books are read in one transaction; each shard is derived up to
the position that it has in there, from the archive's steps and, after them, from the log. Shards are taken one after
another, so that only one is in memory. The derivation is the naive model of `simulation.auditor`, which shares with the
engine the event schema and the rule tables, and nothing else. Changes nothing, and needs nothing to be still.
"""

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec
import polars as pl

from adapters.archive.parquet import ParquetArchive
from adapters.books.instant import InstantBooks, Standing, StoredEntry, at_one_instant
from runtime.config import Config
from runtime.effects import OUTCOMES, empty
from runtime.errors import ConfigError, ErpError, LogError
from runtime.event_rules import identity
from runtime.ledger.journal import entry_key
from runtime.ledger.rules import Rulebook
from runtime.ports import (
    CORRECTIONS,
    START,
    ArchivedStep,
    CommitMark,
    ErpGateway,
    JournalEntry,
    LogReader,
    position_key,
)
from simulation.auditor.books import Auditor
from simulation.auditor.proof import Aligned, Difference, ShardProof, postings_by_commit

PAGE_SETS = 5_000
KEYS_MAX = 5_000  # posted entries looked up at the ERP, the newest; the trial balance tells of the rest
GC_ALLOCATIONS = 200_000  # what is derived stays and makes no cycles: to look for some takes a sixth of the time
UNDER_WAY = ("in_flight", "unknown", "parked")  # entries that the ERP may hold, which the books do not know yet


class Sources(NamedTuple):
    """What everything is derived from and compared with. `log` is None when it does not run."""

    config: Config
    rulebook: Rulebook
    books_url: str
    archive: ParquetArchive
    log: LogReader | None


class Verification(msgspec.Struct, kw_only=True):
    """What was compared, up to where, what differs, and what could not be covered and why."""

    differences: list[Difference] = []
    counts: dict[str, int] = {}
    positions: dict[int, str] = {}
    uncovered: list[str] = []

    @property
    def right(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


Progressed = Callable[[int], None]  # told how many more rows are done


def verify(sources: Sources, erp: ErpGateway | None, progress: Progressed = lambda _rows: None) -> Verification:
    """Compare everything. Raises BooksUnavailable."""
    with at_one_instant(sources.books_url) as books, _collecting_seldom():
        run = _Run(sources, books, progress)
        run.shards()
        run.entries()
        if erp:
            run.erp(erp)
        else:
            run.found.uncovered.append("the ERP was not asked")
        return run.finished()


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(GC_ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def rows_to_do(books_url: str) -> int:
    """How many rows were ever committed: what progress counts up to."""
    with at_one_instant(books_url) as books:
        return books.shard_rows()["rows_total"].sum()


class _Run:
    def __init__(self, sources: Sources, books: InstantBooks, progress: Progressed) -> None:
        self._sources, self._books, self._progress = sources, books, progress
        self._archive, self._log = sources.archive, sources.log
        self._opens_on = {name: entity.opens_on for name, entity in sources.config.entities.items()}
        self._items_max = sources.config.bounds().open_items_max
        self._counts: Counter[str] = Counter()
        self._balances: Counter[tuple] = Counter()
        self._corrected: Counter[tuple] = Counter()  # what corrections of entries move
        self._exceptions: Counter[tuple] = Counter()
        self.found = Verification()

    def finished(self) -> Verification:
        """All that was found."""
        self.found.counts = dict(self._counts)
        return self.found

    # ── events ──

    def shards(self) -> None:
        """Every shard, one after another; then what only all of them together say."""
        standings = self._books.standings()
        pages = postings_by_commit(self._of_shards(self._books.posting_pages(PAGE_SETS)))
        held = groupby(pages, key=lambda one: one[0])
        waiting = next(held, None)
        whole = True
        for shard in sorted(standings):
            mine = iter(())
            if waiting and waiting[0] == shard:
                mine = ((commit.position, commit) for _, commit in waiting[1])
            whole &= self._shard(shard, standings[shard], Aligned(mine))
            waiting = next(held, None) if waiting and waiting[0] == shard else waiting
        for _ in pages:  # to the end, for what no shard asked for
            pass
        if whole:
            self._compare_sums()

    def _of_shards(self, pages: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Postings that follow from events. What corrects entries is no shard's, and only moves what the sums must be;
        so does what a replaced entry keeps."""
        for page in pages:
            corrects, replaced = page["shard"] == CORRECTIONS, page["entry_state"] == "replaced"
            self._corrected.update(_sums(page.filter(corrects & ~replaced)))
            self._corrected.subtract(_sums(page.filter(~corrects & replaced)))
            yield page.filter(~corrects)

    def _shard(self, shard: int, standing: Standing, postings: Aligned) -> bool:
        """Follow one shard as far as it is recorded; whether that was to the end."""
        proof = ShardProof(shard, self._sources.rulebook, self._opens_on, self._items_max)
        outcomes = Aligned(self._archive.outcomes_of(shard))
        ends = Aligned((position, rows) for _, position, rows in self._books.commit_ends(shard))
        for step in self._steps(shard, standing.position):
            _, missed = ends.at(step.position)
            if missed:
                self._uncover(shard, f"the archive lacks the entries that the commit at {missed[0]} took")
                return False
            commit, strange = postings.at(step.position)
            self._strange(shard, strange)
            archived, _ = outcomes.at(step.position)
            if archived is None and position_key(step.position) <= position_key(standing.checkpoint or START):
                archived = empty(OUTCOMES)
            proof.take(step, commit, archived)
            if step.position == standing.checkpoint:
                self._compare_snapshot(proof, standing)
            self._progress(sum(record.rows for record in step.records))
        self._counts += proof.counts
        self.found.positions[shard] = proof.position
        if proof.position != standing.position:
            self._uncover(shard, f"the entries after {proof.position} are neither in the archive nor in the log")
            self.found.differences += proof.differences
            return False
        self._strange(shard, postings.rest())
        proof.finish(self._books.shard_totals(shard))
        self.found.differences += proof.differences
        self._balances += proof.balances()
        self._exceptions += self._auditor().exceptions([proof.model], self._books)[0]
        return True

    def _auditor(self) -> Auditor:
        return Auditor(self._sources.rulebook, self._opens_on, self._items_max, 0)

    def _steps(self, shard: int, to: str) -> Iterator[ArchivedStep]:
        """The shard's steps up to a position: what the archive holds, then what the log still does.

        A checkpoint may move steps from the log to the archive meanwhile: then the archive is read on.
        """
        last, marks = START, self._books.commits(shard, START)
        while True:
            before = last
            for source in (self._archive.steps(shard, after=last), self._logged(shard, marks)):
                for step in source:
                    if position_key(last) < position_key(step.position) <= position_key(to):
                        last = step.position
                        yield step
            if last in (before, to):
                return

    def _logged(self, shard: int, marks: Sequence[CommitMark]) -> Iterator[ArchivedStep]:
        """Committed steps that the log still holds whole."""
        for mark in marks if self._log else ():
            try:
                records = self._log.read_range(shard, mark.after, mark.position)
            except LogError:
                return
            whole = records and records[-1].position == mark.position
            if whole and sum(record.rows for record in records) == mark.rows:
                yield ArchivedStep(tuple(records))

    def _compare_snapshot(self, proof: ShardProof, standing: Standing) -> None:
        try:
            snapshot = self._archive.get_snapshot(standing.snapshot)
            proof.compare_snapshot(snapshot, lambda name: self._archive.get_run(proof.shard, name))
        except FileNotFoundError:  # a newer checkpoint has taken its place meanwhile
            self._uncover(proof.shard, "its snapshot was replaced while it was verified: waiting rows not compared")

    def _strange(self, shard: int, positions: Sequence[str]) -> None:
        for position in positions:
            self._differ("posting sets", f"commit {position}", "none", "some", shard=shard, position=position)

    def _uncover(self, shard: int, why: str) -> None:
        self.found.uncovered.append(f"shard {shard}: {why}")

    def _differ(self, what: str, key: str, expected: object, found: object, **place: object) -> None:
        one = Difference(what=what, key=key, expected=str(expected), found=str(found), **place)
        self.found.differences.append(one)

    def _compare_sums(self) -> None:
        """Balances and open exceptions of all shards."""
        balances: Counter[tuple] = Counter()
        for row in self._books.balances().iter_rows(named=True):
            key = (row["entity"], row["currency"], row["account_code"])
            balances[(*key, "D")], balances[(*key, "C")] = row["debit_minor"], row["credit_minor"]
        expected = Counter(self._balances)
        expected.update(self._corrected)
        for key in _differing(expected, balances):
            self._differ("balance", " ".join(key), expected[key], balances[key])
        _, held = self._auditor().exceptions([], self._books)
        self._counts["open exceptions"] += held.total()
        for key in _differing(self._exceptions, held):
            first = self._archive.find([identity(key[1], key[2])]).head(1) if key[2] else pl.DataFrame()
            place = first.select("shard", "position").row(0, named=True) if first.height else {}
            event = f"{key[1]} {key[2]}".strip()
            self._differ(
                "open exception", " ".join(map(str, key)), self._exceptions[key], held[key], event=event, **place
            )

    # ── entries ──

    def entries(self) -> None:
        """Each journal entry against the posting sets that it names, and every stamped set against an entry."""
        named = 0
        for page in self._books.entry_pages():
            kept = [one.entry for one in page if one.state != "replaced"]
            named += sum(len(entry.sets) for entry in kept)
            lines = self._books.lines_of(kept)
            by_entry = {key: rows for (key,), rows in lines.partition_by("entry_key", as_dict=True).items()}
            for entry in kept:
                self._compare_entry(entry, by_entry.pop(entry.key, lines.clear()))
            for key in by_entry:
                self._differ("claimed sets", key or "unclaimed", "in the entries that name them", "elsewhere")
            self._counts["journal entries"] += len(page)
        if named != (stamped := self._books.claimed_sets()):
            self._differ("claimed sets", "all", named, stamped)

    def _compare_entry(self, entry: JournalEntry, lines: pl.DataFrame) -> None:
        """An entry's lines are the sum of its sets, and balance."""
        told: Counter[tuple] = Counter()
        for line in entry.lines:
            kind = line.text.partition(",")[0]
            dimensions = (line.facility, line.department, line.variance)
            told[line.account_code, line.side, *dimensions, kind] += line.amount_minor
        claimed = Counter({row[1:-1]: row[-1] for row in lines.iter_rows()})
        shard, position, _ = entry.sets[0] if entry.sets else (-1, "", 0)
        for key in _differing(claimed, told):
            where = {"shard": shard, "position": position}
            self._differ(f"line of {entry.key}", " ".join(key), claimed[key], told[key], **where)
        signed = sum(line.amount_minor if line.side == "D" else -line.amount_minor for line in entry.lines)
        if signed:
            self._differ("entry", entry.key, 0, signed, shard=shard, position=position)

    # ── the ERP ──

    def erp(self, erp: ErpGateway) -> None:
        """Both ways: every account's turnover, and each posted entry by its key.

        Books and ERP can't be read at one instant. Turnover only grows, so what the ERP shows must lie between what was
        posted at the instant of the books and what is posted or under way just after the ERP was read.
        """
        try:
            shown = {tuple(account[:3]): account[3:] for account in erp.trial_balance()}
            self._compare_turnover(shown)
            self._compare_keys(erp)
        except (ErpError, ConfigError) as error:
            self.found.uncovered.append(f"the ERP could not be read: {type(error).__name__}")

    def _compare_turnover(self, shown: dict[tuple, tuple[int, int]]) -> None:
        least = _posted(self._books)
        with at_one_instant(self._sources.books_url) as later:
            most = _posted(later)
            entities = self._sources.config.erp_entities()
            for entry in later.entries_in(entities, UNDER_WAY, PAGE_SETS):
                for line in entry.lines:
                    most[entry.entity, entry.currency, line.account_code, line.side] += line.amount_minor
        found = Counter({(*key, side): amounts[at] for key, amounts in shown.items() for at, side in enumerate("DC")})
        for key in sorted(least.keys() | most.keys() | found.keys()):
            if not least[key] <= found[key] <= most[key]:
                self._differ("ERP turnover", " ".join(key), _span(least[key], most[key]), found[key])
        self._counts["ERP accounts"] += len(shown)

    def _compare_keys(self, erp: ErpGateway) -> None:
        """Look posted entries up by their keys: each is there, under the number that the books hold."""
        terms = erp.terms()
        if not terms.lookup:
            self.found.uncovered.append("this ERP can't look an entry up by its key")
            return
        posted = [one for page in self._books.entry_pages() for one in page if one.state == "posted"]
        if len(posted) > KEYS_MAX:
            self.found.uncovered.append(f"{len(posted) - KEYS_MAX} older entries were not looked up one by one")
        self._look_beyond(erp, terms.lookup_keys_max)
        newest = posted[-KEYS_MAX:]
        for start in range(0, len(newest), terms.lookup_keys_max):
            asked = newest[start : start + terms.lookup_keys_max]
            answers = erp.lookup([one.entry.key for one in asked])
            if answers is None:
                self.found.uncovered.append(f"the ERP stopped answering after {start} of {len(newest)} keys")
                return
            for one in asked:
                self._compare_key(one, answers.get(one.entry.key))
            self._counts["ERP documents"] += len(asked)

    def _look_beyond(self, erp: ErpGateway, keys_max: int) -> None:
        """After a restore: entries that the ERP was sent later than the copy was made, under numbers that followed."""
        entities, given = self._sources.config.erp_entities(), self._books.restored_entry_no()
        page = max(1, keys_max // len(entities))
        while given:
            numbers = range(given + 1, given + 1 + page)
            answers = erp.lookup([entry_key(entity, number) for entity in entities for number in numbers])
            for key, answer in (answers or {}).items():
                self._differ("ERP document of a lost future: reverse it", key, "none", answer.erp_ref)
            given = numbers[-1] if answers else 0

    def _compare_key(self, one: StoredEntry, answer: object) -> None:
        shard, position, _ = one.entry.sets[0] if one.entry.sets else (-1, "", 0)
        if answer is None:
            self._differ("ERP document", one.entry.key, one.erp_ref, "none", shard=shard, position=position)
        elif answer.erp_ref and one.erp_ref and answer.erp_ref != one.erp_ref:
            self._differ("ERP document", one.entry.key, one.erp_ref, answer.erp_ref, shard=shard, position=position)


def _posted(books: InstantBooks) -> Counter[tuple]:
    posted: Counter[tuple] = Counter()
    for row in books.balances().iter_rows(named=True):
        key = (row["entity"], row["currency"], row["account_code"])
        posted[(*key, "D")], posted[(*key, "C")] = row["posted_debit_minor"], row["posted_credit_minor"]
    return posted


def _sums(lines: pl.DataFrame) -> Counter[tuple]:
    """Minor units by entity, currency, account and side."""
    key = ("entity", "currency", "account_code", "side")
    return Counter({tuple(row[:-1]): row[-1] for row in lines.group_by(key).agg(pl.col("amount_minor").sum()).rows()})


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _differing(expected: Counter, found: Counter) -> list:
    return sorted((key for key in expected.keys() | found.keys() if expected[key] != found[key]), key=str)
