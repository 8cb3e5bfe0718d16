"""The books in plain dicts and lists, for tests and simulations: the same contract as `SqlBooks`, without durability.

Every method checks all that it could refuse before it changes anything, so a refusal leaves nothing behind. One object
is one database: share it to share the data.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import msgspec
import polars as pl

from adapters.books import frames
from adapters.books.conserved import totals_breaks
from adapters.books.governed import check_releasable, check_replaceable
from adapters.books.memory_changes import MemoryChanges
from adapters.books.memory_corrections import MemoryCorrections
from adapters.books.memory_deliveries import MemoryDeliveries
from adapters.books.memory_exceptions import MemoryExceptions
from adapters.books.memory_outgoing import MemoryOutgoing
from adapters.books.outcomes import DONE, STATE_AFTER, EntryFacts, debit_minor, exception_id, raised_by, resolved_by
from adapters.books.told import ToldSet, statuses_of, told_outcomes
from adapters.clock import utc_now_ms
from runtime.effects import DELTAS, TOTALS, Effects
from runtime.errors import Fenced
from runtime.ledger.compensation import replaced_by
from runtime.ledger.governance import signer
from runtime.ledger.journal import entry_key
from runtime.limits import TEXT_CHARS_MAX
from runtime.ports import (
    START,
    Checkpoint,
    CommitMark,
    ConservationBreak,
    EntryState,
    JournalEntry,
    Lease,
    Outcome,
    position_key,
)

SetKey = tuple[int, tuple[int, int], int]  # shard, position as numbers, set_no

_AT = {name: i for i, name in enumerate(DELTAS)}


@dataclass
class _Owner:
    epoch: int = 0
    holder: str = ""
    position: str = START
    rows_total: int = 0
    committed_at_ms: int | None = None
    checkpoint: Checkpoint | None = None
    placed: str = ""
    marks: list[CommitMark] = field(default_factory=list)


@dataclass(frozen=True)
class _PostingSet:
    shard: int
    position: str
    committed_at_ms: int
    lines: list[tuple]  # rows of DELTAS

    def get(self, column: str) -> object:
        """A column that is the same on each line."""
        return self.lines[0][_AT[column]]


@dataclass
class _Entry:
    entry: JournalEntry
    owner: str
    state: EntryState = "sealed"
    attempts: int = 0
    erp_ref: str = ""
    detail: str = ""
    first_sent_ms: int = 0
    sent_ms: int = 0


class MemoryBooks(MemoryExceptions, MemoryCorrections, MemoryChanges, MemoryOutgoing, MemoryDeliveries):
    """Books that end with the process. `told_kinds`: see `SqlBooks`."""

    def __init__(self, now_ms: Callable[[], int] = utc_now_ms, told_kinds: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._now_ms = now_ms
        self._told_kinds = told_kinds or {}
        self._owners: dict[str, _Owner] = {}
        self._sets: dict[SetKey, _PostingSet] = {}
        self._unclaimed: set[SetKey] = set()
        self._claims: dict[SetKey, str] = {}
        self._totals: dict[tuple, Counter] = {}
        self._entries: dict[str, _Entry] = {}
        self._entry_nos = 0

    # ── owners ──

    def take_epoch(self, owner: str, holder: str, *, again: bool = False) -> Lease:
        """See Books."""
        known = self._owners.setdefault(owner, _Owner())
        if again and known.holder != holder:
            raise Fenced(f"{owner}: {known.holder} has taken over")
        known.epoch, known.holder = known.epoch + 1, holder
        return Lease(known.epoch, known.position, known.rows_total, known.checkpoint)

    def place(self, shard: int, worker: str) -> None:
        """See Books."""
        if owner := self._owners.get(f"shard:{shard}"):
            owner.placed = worker

    def placements(self) -> dict[int, str]:
        """See Books."""
        placed = {name: owner.placed for name, owner in self._owners.items() if owner.placed}
        return {int(name.removeprefix("shard:")): worker for name, worker in placed.items()}

    def commit(self, shard: int, epoch: int, after: str, position: str, rows: int, effects: Effects) -> None:
        """See Books."""
        owner = self._held(f"shard:{shard}", epoch)
        if position_key(owner.position) != position_key(after):
            raise Fenced(f"shard:{shard}: the shard does not stand there")
        now_ms = self._now_ms()
        self._add_sets(effects.deltas, shard, position)
        owner.marks.append(CommitMark(after, position, rows, effects.digest()))
        owner.position, owner.rows_total, owner.committed_at_ms = position, owner.rows_total + rows, now_ms
        self._add_totals(effects.totals)
        self._raise(effects.exceptions, f"shard:{shard}")
        self._resolve(effects.resolved, f"shard:{shard}")
        self._put_out(effects.derived)
        self._tell(effects.statuses)
        self._note_openings(shard, effects.opened)

    def commits(self, shard: int, after: str) -> list[CommitMark]:
        """See Books."""
        marks = self._owners.get(f"shard:{shard}", _Owner()).marks
        return [mark for mark in marks if position_key(mark.position) > position_key(after)]

    def record_checkpoint(self, shard: int, epoch: int, checkpoint: Checkpoint) -> None:
        """See Books."""
        owner = self._held(f"shard:{shard}", epoch)
        owner.checkpoint = checkpoint
        owner.marks = self.commits(shard, checkpoint.position)

    # ── journal entries ──

    def unclaimed(self, erp_entities: Sequence[str], sets_max: int, period: str = "") -> pl.DataFrame:
        """See Books."""
        waiting = [key for key in self._waiting(erp_entities) if period in ("", self._sets[key].get("period"))]
        first = sorted(waiting, key=self._claim_order)[:sets_max]
        rows = [
            (*line, posting.shard, posting.position, posting.committed_at_ms)
            for posting in map(self._sets.__getitem__, first)
            for line in posting.lines
        ]
        return frames.frame_of(rows, frames.UNCLAIMED)

    def unclaimed_lane(self, erp_entities: Sequence[str], period: str = "") -> int | None:
        """See Books."""
        waiting = (self._sets[key] for key in self._waiting(erp_entities))
        return min((held.get("lane") for held in waiting if period in ("", held.get("period"))), default=None)

    def unclaimed_count(self, erp_entities: Sequence[str]) -> int:
        """See Books."""
        return len(self._waiting(erp_entities))

    def next_entry_no(self, owner: str, epoch: int, count: int) -> int:
        """See Books. The numbers are of the whole books, not of one owner."""
        self._held(owner, epoch)
        self._entry_nos += count
        return self._entry_nos - count + 1

    def seal(self, owner: str, epoch: int, entries: Sequence[JournalEntry]) -> None:
        """See Books."""
        self._held(owner, epoch)
        keys = [entry.key for entry in entries]
        if len(set(keys)) < len(keys) or not self._entries.keys().isdisjoint(keys):
            raise ValueError(f"{owner}: an entry with one of these keys is sealed already")
        claims = [(_set_key(*place), entry.key) for entry in entries for place in entry.sets]
        if len(dict(claims)) < len(claims) or not dict(claims).keys() <= self._unclaimed:
            raise ValueError(f"{owner}: a posting set is claimed already or does not exist")
        self._claims.update(claims)
        self._unclaimed.difference_update(dict(claims))
        self._entries.update((entry.key, _Entry(entry, owner)) for entry in entries)

    def entries_in(self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int) -> list[JournalEntry]:
        """See Books."""
        chosen = [
            held.entry for held in self._entries.values() if held.state in states and held.entry.entity in erp_entities
        ]
        return sorted(chosen, key=lambda entry: entry.lane)[:limit]

    def mark_in_flight(self, owner: str, epoch: int, keys: Sequence[str], governor: str | None = None) -> None:
        """See Books. An entry that is posted or was never sealed is refused (ValueError)."""
        self._held(owner, epoch)
        sent = [self._entries.get(key) for key in set(keys)]
        if any(held is None or held.state == "posted" for held in sent):
            raise ValueError(f"{owner}: an entry to send is posted or was never sealed")
        for held in sent:
            held.state, held.attempts, held.sent_ms = "in_flight", held.attempts + 1, self._now_ms()
            held.first_sent_ms = held.first_sent_ms or held.sent_ms
        if governor is not None:
            self._governors[owner] = governor

    def record_outcomes(self, owner: str, epoch: int, outcomes: Sequence[Outcome]) -> None:
        """See Books. What is posted or replaced stays so, whatever a late answer says."""
        self._held(owner, epoch)
        if any(outcome.key not in self._entries for outcome in outcomes):
            raise ValueError("an outcome is of an entry that was never sealed")
        fresh = [outcome for outcome in outcomes if self._entries[outcome.key].state not in DONE]
        for outcome in fresh:
            held = self._entries[outcome.key]
            held.state, held.erp_ref = STATE_AFTER[outcome.code], outcome.erp_ref
            held.detail = outcome.detail[:TEXT_CHARS_MAX]
        facts = {outcome.key: _facts(self._entries[outcome.key].entry) for outcome in fresh}
        self._resolve(resolved_by(owner, fresh, facts), owner)
        self._raise(raised_by(owner, fresh, facts, self._now_ms()), owner)
        self._tell_of(owner, fresh)

    def release_entry(self, key: str, by: str, not_there: bool = False) -> None:
        """See Books."""
        released, held = signer(by), self._entries.get(key)
        check_releasable(key, held and held.state, not_there)
        held.state = "sealed"
        stood_under = [exception_id(type, key) for type in ("erp_rejected", "erp_unknown_outcome")]
        self._remember(stood_under, "entry released", released, "")

    def replace_entry(self, key: str, replacement: JournalEntry, by: str) -> str:
        """See Books."""
        replacer, held = signer(by), self._entries.get(key)
        check_replaceable(key, held and held.state)
        self._refuse_closed([(replacement.entity, replacement.period)])
        places = [_set_key(*place) for place in replacement.sets]
        if any(self._claims.get(place) != key for place in places):
            raise ValueError(f"{key}: a posting set is claimed already or does not exist")
        self._entry_nos += 1
        entry = msgspec.structs.replace(replacement, key=entry_key(replacement.entity, self._entry_nos))
        self._entries[entry.key] = _Entry(entry, held.owner)
        self._claims.update(dict.fromkeys(places, entry.key))
        held.state, held.detail = "replaced", f"replaced by {entry.key}"
        self._resolve([exception_id("erp_rejected", key)], replacer, held.detail)
        return entry.key

    def conservation_breaks(self, sets_max: int) -> list[ConservationBreak]:
        """See Books. Nothing is marked: all is looked at each time."""
        unbalanced = [key for key in sorted(self._sets) if self._signed([key])][:1]
        summed = [entry.entry for entry in self._entries.values() if entry.state != "replaced"]
        wrong = [entry.key for entry in summed if entry.sets and debit_minor(entry) != self._debits(entry)][:1]
        return [
            *totals_breaks(self.totals()),
            *(ConservationBreak(f"posting_set:{key}", f"posting set {key} does not balance") for key in unbalanced),
            *(ConservationBreak(f"entry:{key}", f"journal entry {key} is not the sum of its sets") for key in wrong),
        ]

    # ── reports ──

    def totals(self) -> pl.DataFrame:
        """See Books."""
        rows = [(*key, sums["events"], sums["amount_minor"]) for key, sums in sorted(self._totals.items())]
        return frames.frame_of(rows, TOTALS)

    def balances(self) -> pl.DataFrame:
        """See Books."""
        sums: dict[tuple, Counter] = {}
        for set_key, posting in self._sets.items():
            state = self._fate(set_key)[1]
            if state == "replaced":
                continue
            posted = state == "posted"
            for line in posting.lines:
                account = sums.setdefault(
                    tuple(line[_AT[name]] for name in ("entity", "currency", "account_code")), Counter()
                )
                side, amount = line[_AT["side"]], line[_AT["amount_minor"]]
                account[side] += amount
                account["posted", side] += amount if posted else 0
        columns = ("D", "C", ("posted", "D"), ("posted", "C"))
        rows = [(*key, *(account[name] for name in columns)) for key, account in sorted(sums.items())]
        return frames.frame_of(rows, frames.BALANCES)

    def entry_counts(self) -> dict[str, int]:
        """See Books."""
        return dict(Counter(held.state for held in self._entries.values()))

    def shard_rows(self) -> pl.DataFrame:
        """See Books."""
        rows = [
            (int(name.removeprefix("shard:")), o.epoch, o.holder, o.position, o.rows_total, o.committed_at_ms)
            for name, o in self._owners.items()
            if name.startswith("shard:")
        ]
        return frames.frame_of(sorted(rows), frames.SHARD_ROWS)

    def posting_of(self, shard: int, position: str, set_no: int) -> pl.DataFrame:
        """See Books."""
        set_key = _set_key(shard, position, set_no)
        lines = self._sets[set_key].lines if set_key in self._sets else []
        return frames.frame_of([(*line, *self._fate(set_key)) for line in lines], frames.POSTING)

    def posting_pages(self, sets_max: int) -> Generator[pl.DataFrame, None, None]:
        """See Books."""
        sets = [
            [(*line, *self._fate(key), posting.shard, posting.position) for line in posting.lines]
            for key, posting in sorted(self._sets.items())
        ]
        for first in range(0, len(sets), sets_max):
            yield frames.frame_of(chain.from_iterable(sets[first : first + sets_max]), frames.POSTING_PAGE)

    def close(self) -> None:
        """Nothing to give back: the data stays with the object."""

    # ── parts ──

    def _signed(self, places: Iterable[SetKey]) -> int:
        """Debits less credits of these sets."""
        lines = chain.from_iterable(self._sets[place].lines for place in places)
        signs = {"D": 1, "C": -1}
        return sum(signs[line[_AT["side"]]] * line[_AT["amount_minor"]] for line in lines)

    def _debits(self, entry: JournalEntry) -> int:
        """Debits of the sets that an entry names."""
        places = ((shard, position_key(position), set_no) for shard, position, set_no in entry.sets)
        lines = chain.from_iterable(self._sets[place].lines for place in places)
        return sum(line[_AT["amount_minor"]] for line in lines if line[_AT["side"]] == "D")

    def _held(self, owner: str, epoch: int) -> _Owner:
        known = self._owners.get(owner)
        if known is None or known.epoch != epoch:
            raise Fenced(f"{owner}: epoch {epoch} is not the newest")
        return known

    def _waiting(self, erp_entities: Sequence[str]) -> list[SetKey]:
        return [key for key in self._unclaimed if self._sets[key].get("entity") in erp_entities]

    def _claim_order(self, set_key: SetKey) -> tuple:
        posting = self._sets[set_key]
        return posting.get("lane"), posting.committed_at_ms, set_key

    def _fate(self, set_key: SetKey) -> tuple[str, str, str]:
        """Entry key, its state, the ERP's number."""
        key = self._claims.get(set_key, "")
        return (key, self._entries[key].state, self._entries[key].erp_ref) if key else ("", "", "")

    def _add_sets(self, deltas: pl.DataFrame, shard: int, position: str) -> None:
        """Post what waits for an entry from now on."""
        sets = _posting_sets(deltas, _PostingSet(shard, position, self._now_ms(), []))
        self._sets.update(sets)
        self._unclaimed.update(sets)

    def _add_totals(self, totals: pl.DataFrame) -> None:
        for *key, events, amount_minor in frames.keyed_totals(totals).iter_rows():
            sums = self._totals.setdefault(tuple(key), Counter())
            sums["events"] += events
            sums["amount_minor"] += amount_minor

    def _tell_of(self, owner: str, outcomes: Sequence[Outcome]) -> None:
        sets = {outcome.key: self._told_sets(outcome.key) for outcome in told_outcomes(outcomes, self._told_kinds)}
        self._tell(statuses_of(owner, outcomes, sets, self._told_kinds, self._now_ms()))

    def _told_sets(self, key: str) -> list[ToldSet]:
        """The posting sets of an immediate entry, as statuses speak of them."""
        entry = self._entries[key].entry
        while (old := self._entries.get(replaced_by(entry.document))) and old.state == "replaced":
            entry = old.entry
        places = entry.sets if entry.mode == "immediate" else ()
        return [self._told_set(self._sets[_set_key(*place)]) for place in places]

    def _told_set(self, posting: _PostingSet) -> ToldSet:
        place = (posting.shard, posting.position, posting.get("set_no"))
        debits = sum(line[_AT["amount_minor"]] for line in posting.lines if line[_AT["side"]] == "D")
        return ToldSet(*place, *(posting.get(name) for name in ("kind", "entity", "document", "currency")), debits)


def _set_key(shard: int, position: str, set_no: int) -> SetKey:
    return shard, position_key(position), set_no


def _facts(entry: JournalEntry) -> EntryFacts:
    return EntryFacts(entry.entity, entry.currency, debit_minor(entry))


def _posting_sets(deltas: pl.DataFrame, bare: _PostingSet) -> dict[SetKey, _PostingSet]:
    """The frame's sets, each a copy of `bare` with its lines; ValueError where a database would refuse them."""
    filled = frames.without_gaps(deltas).sort("set_no", "line_no")
    if sum(filled.null_count().row(0)):
        raise ValueError("a posting line lacks a value")
    if filled.select("set_no", "line_no").is_duplicated().any():
        raise ValueError("a posting set has two lines of one number")
    if filled.select(frames.SET_COLUMNS).unique().height != filled["set_no"].n_unique():
        raise ValueError("the lines of a posting set contradict each other")
    return {
        _set_key(bare.shard, bare.position, set_no): replace(bare, lines=lines) for set_no, lines in _by_set(filled)
    }


def _by_set(filled: pl.DataFrame) -> Iterable[tuple[int, list[tuple]]]:
    for (set_no,), lines in filled.group_by("set_no", maintain_order=True):
        yield set_no, lines.rows()
