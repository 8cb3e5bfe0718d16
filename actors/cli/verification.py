"""Verifying a Penstock: everything derived anew from what came, compared both ways with books, archive and ERP.

Owns the instant that is verified, and what only the whole can say: balances, open exceptions, journal entries, the ERP.
The books are read in one transaction; each shard is derived up to the position that it has in there (`shard_proofs`).
The derivation is the naive model of `simulation.auditor`, which shares with the engine the event schema and the rule
tables, and nothing else. Changes nothing, and needs nothing to be still.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import polars as pl

from actors.cli.shard_proofs import PAGE_SETS, Progressed, ShardFound, ShardTask, Sources, proved, suitable
from adapters.books.instant import InstantBooks, StoredEntry, at_one_instant
from adapters.erp.http.fault import NoTrialBalance
from runtime.errors import ConfigError, ErpError
from runtime.event_rules import identity
from runtime.ledger.journal import entry_key
from runtime.ports import CORRECTIONS, ErpGateway, JournalEntry, Outcome
from simulation.auditor.proof import Difference

KEYS_MAX = 5_000  # posted entries looked up at the ERP, the newest; the trial balance tells of the rest
BEYOND_NUMBERS = 50  # looked up at a time; so many that the ERP never had end the search
UNDER_WAY = ("in_flight", "unknown", "parked")  # entries that the ERP may hold, which the books do not know yet


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


def verify(
    sources: Sources, erp: ErpGateway | None, processes: int = 0, progress: Progressed = lambda _rows: None
) -> Verification:
    """Compare everything, in so many `processes` shards side by side (0: as it suits). Raises BooksUnavailable."""
    with at_one_instant(sources.books_url) as books:
        run = _Run(sources, books, progress)
        run.shards(processes)
        run.entries()
        if erp:
            run.erp(erp)
        else:
            run.found.uncovered.append("the ERP was not asked")
        return run.finished()


def rows_to_do(books_url: str) -> int:
    """How many rows were ever committed: what progress counts up to."""
    with at_one_instant(books_url) as books:
        return books.shard_rows()["rows_total"].sum()


class _Run:
    def __init__(self, sources: Sources, books: InstantBooks, progress: Progressed) -> None:
        self._sources, self._books, self._progress = sources, books, progress
        self._counts: Counter[str] = Counter()
        self.found = Verification()

    def finished(self) -> Verification:
        """All that was found."""
        self.found.counts = dict(self._counts)
        return self.found

    # ── shards ──

    def shards(self, processes: int) -> None:
        """Every shard, the largest first; then what only all of them together say."""
        standings, rows = self._books.standings(), dict(self._books.shard_rows().select("shard", "rows_total").rows())
        tasks = [ShardTask(shard, standings[shard], self._books.shard_totals(shard)) for shard in standings]
        tasks.sort(key=lambda task: (-rows[task.shard], task.shard))
        proofs = proved(self._sources, tasks, processes or suitable(sum(rows.values())), self._progress)
        found = sorted(proofs, key=lambda one: one.shard)
        for one in found:
            self._counts += one.counts
            self.found.positions |= {one.shard: one.position} if one.position else {}
            self.found.differences += one.differences
            self.found.uncovered += one.uncovered
        if all(one.whole for one in found):
            self._compare_balances(found)
            self._compare_exceptions(found)

    def _compare_balances(self, found: Sequence[ShardFound]) -> None:
        """What all shards have posted, and what was corrected since, is what the accounts show."""
        balances: Counter[tuple] = Counter()
        for row in self._books.balances().iter_rows(named=True):
            key = (row["entity"], row["currency"], row["account_code"])
            balances[(*key, "D")], balances[(*key, "C")] = row["debit_minor"], row["credit_minor"]
        expected = self._corrected()
        for one in found:
            expected.update(one.balances)
        for key in _differing(expected, balances):
            self._differ("balance", " ".join(key), expected[key], balances[key])

    def _corrected(self) -> Counter[tuple]:
        """What corrections of entries add to the accounts, less what the entries that they replaced keep of events."""
        corrected: Counter[tuple] = Counter()
        for page in self._books.postings_of(CORRECTIONS, PAGE_SETS):
            corrected.update(_sums(page.filter(pl.col("entry_state") != "replaced")))
        for page in self._books.replaced_pages(PAGE_SETS):
            corrected.subtract(_sums(page.filter(pl.col("shard") != CORRECTIONS)))
        return corrected

    def _compare_exceptions(self, found: Sequence[ShardFound]) -> None:
        """What all shards leave open is what the books show as open."""
        expected = sum((one.exceptions for one in found), Counter())
        held = self._sources.auditor().open_exceptions(self._books)
        self._counts["open exceptions"] += held.total()
        for key in _differing(expected, held):
            first = self._sources.archive.find([identity(key[1], key[2])]).head(1) if key[2] else pl.DataFrame()
            place = first.select("shard", "position").row(0, named=True) if first.height else {}
            event = f"{key[1]} {key[2]}".strip()
            self._differ("open exception", " ".join(map(str, key)), expected[key], held[key], event=event, **place)

    def _differ(self, what: str, key: str, expected: object, found: object, **place: object) -> None:
        one = Difference(what=what, key=key, expected=str(expected), found=str(found), **place)
        self.found.differences.append(one)

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
            self._compare_trial_balance(erp)
            self._compare_keys(erp)
        except (ErpError, ConfigError) as error:
            self.found.uncovered.append(f"the ERP could not be read: {type(error).__name__}")

    def _compare_trial_balance(self, erp: ErpGateway) -> None:
        try:
            shown = {tuple(account[:3]): account[3:] for account in erp.trial_balance()}
        except NoTrialBalance as none:
            self.found.uncovered.append(none.detail)
            return
        self._compare_turnover(shown)

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
            answers = erp.shown([one.entry.key for one in asked])
            if answers is None:
                self.found.uncovered.append(f"the ERP stopped answering after {start} of {len(newest)} keys")
                return
            self._told(answers)
            compared = [one for one in asked if one.entry.key not in answers or _is_there(answers[one.entry.key])]
            for one in compared:
                self._compare_key(one, answers.get(one.entry.key))
            self._counts["ERP documents"] += len(compared)

    def _told(self, answers: dict[str, Outcome]) -> None:
        """Of some keys one company of several may not tell, whatever the others do."""
        untold = [answer for answer in answers.values() if not _is_there(answer)]
        reason = f"a company could not be asked for keys: {untold[0].detail}" if untold else ""
        if reason and reason not in self.found.uncovered:
            self.found.uncovered.append(reason)

    def _look_beyond(self, erp: ErpGateway, keys_max: int) -> None:
        """After a restore: entries that the ERP was sent later than the copy was made, under numbers that followed."""
        entities, given = self._sources.config.erp_entities(), self._books.restored_entry_no()
        while given:
            numbers = range(given + 1, given + 1 + BEYOND_NUMBERS)
            keys = [entry_key(entity, number) for entity in entities for number in numbers]
            given = 0
            for start in range(0, len(keys), keys_max):
                answers = erp.shown(keys[start : start + keys_max])
                if answers is None:
                    self.found.uncovered.append(f"the ERP did not answer for keys from {keys[start]} on")
                    return
                self._told(answers)
                for key, answer in answers.items():
                    if _is_there(answer):
                        self._differ("ERP document of a lost future: reverse it", key, "none", answer.erp_ref)
                        given = numbers[-1]

    def _compare_key(self, one: StoredEntry, answer: Outcome | None) -> None:
        shard, position, _ = one.entry.sets[0] if one.entry.sets else (-1, "", 0)
        if answer is None:
            found = "none"
        elif answer.erp_ref and one.erp_ref and answer.erp_ref != one.erp_ref:
            found = answer.erp_ref
        else:
            found = answer.detail  # that there is more than one
        if found:
            self._differ("ERP document", one.entry.key, one.erp_ref, found, shard=shard, position=position)


def _is_there(answer: Outcome) -> bool:
    return answer.code == "posted"


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
