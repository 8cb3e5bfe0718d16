"""The edges of the core: what it needs from a log, books, an archive, a feed, an ERP and a clock.

Each protocol states its whole contract; implementations in `adapters` (the real one and its memory twin) pass the
same contract suite and say only how they differ. Methods block unless they are `async`; none is thread-safe.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import date
from typing import Literal, NamedTuple, Protocol

import msgspec
import polars as pl

from runtime.effects import Effects

START = "0-0"  # the position before the first entry
Buffer = bytes | memoryview


def position_key(position: str) -> tuple[int, int]:
    """Order of positions: they are `milliseconds-sequence`, compared as numbers."""
    ms, _, sequence = position.partition("-")
    return int(ms), int(sequence or 0)


# ── log ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class LogEntry(NamedTuple):
    """One thing to append: a frame of events (`rows` of them) or a control message (0 rows)."""

    shard: int
    type: Literal["events", "control"]
    rows: int
    body: bytes


class LogRecord(NamedTuple):
    """One thing read back."""

    position: str
    type: Literal["events", "control"]
    rows: int
    body: bytes


class Appended(NamedTuple):
    """Where entries lie (in the order given), and how durable they are."""

    positions: tuple[str, ...]
    durability: Literal["memory", "fsync_everysec", "fsync_always"]
    replicas: int  # replicas that confirmed


class ShardLag(NamedTuple):
    """Rows appended, rows committed, rows the stream still holds (committed ones are kept until a checkpoint)."""

    appended: int
    committed: int
    held: int

    @property
    def waiting(self) -> int:
        return self.appended - self.committed


class LogWriter(Protocol):
    """Appends to shards' streams. Safe for many writers; each append is atomic over its entries."""

    async def append(self, entries: Sequence[LogEntry]) -> Appended:
        """Append all entries or none, return when the stated durability is reached.

        Raises LogRefused when the log can't store them (nothing was), LogUnavailable when nothing is known: the same
        events may then be sent again, as dedupe makes a second append harmless.
        """
        ...

    async def lag(self) -> dict[int, ShardLag]:
        """Every shard's lag. Raises LogUnavailable."""
        ...

    async def close(self) -> None: ...


class LogReader(Protocol):
    """Reads shards' streams in order. A shard's owner is its only reader."""

    def shards(self) -> int:
        """S, fixed when the log was created."""
        ...

    def read(self, after: dict[int, str], rows_max: int, wait_ms: int) -> dict[int, list[LogRecord]]:
        """Entries after each shard's position, oldest first, at least one entry and then up to rows_max rows a shard.

        Waits up to wait_ms when none of the shards has any; an empty dict then. Raises LogUnavailable.
        """
        ...

    def read_range(self, shard: int, after: str, to: str) -> list[LogRecord]:
        """All entries in (after, to]. Raises LogUnavailable."""
        ...

    def rows_through(self, shard: int, position: str) -> int:
        """How many rows this log has ever been given up to this position, also of entries that are trimmed."""
        ...

    def mark_committed(self, shard: int, rows_total: int) -> int:
        """Tell writers how many rows of this shard have ever been committed (an absolute number, from the books). A
        smaller number than was told before changes nothing: it is a former owner's, come late.

        Returns how many of these rows the log does not know of: a server that came back without its newest entries.
        They count as appended and trimmed from here on, so that lags stay right."""
        ...

    def trim(self, shard: int, through: str) -> None:
        """Forget entries up to and including this position; only after a checkpoint made them needless. Does nothing
        while the log is held."""
        ...

    def is_held(self) -> bool:
        """Whether somebody copies log and archive just now: then nothing is trimmed, and nothing of the archive may be
        forgotten or merged. A hold ends by itself when its holder does not renew it."""
        ...

    def close(self) -> None: ...


# ── books ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Checkpoint(NamedTuple):
    """A snapshot and archive made durable together, valid after `position`."""

    position: str
    snapshot: str  # the archive's name for it


class Lease(NamedTuple):
    """What a shard's new owner starts from."""

    epoch: int
    position: str  # of the newest commit
    rows_total: int  # rows ever committed
    checkpoint: Checkpoint | None


class CopiedShard(NamedTuple):
    """Where a shard stands in a copy of the books: its newest commit and its newest checkpoint ("0-0" and "" for none),
    and the rows ever taken up to each."""

    shard: int
    position: str
    checkpoint: str
    snapshot: str
    rows_checkpointed: int
    rows_committed: int


class CommitMark(NamedTuple):
    """Where one commit began and ended in its shard's stream, and the digest of its effects."""

    after: str
    position: str
    rows: int
    digest: str


class OutboxFrame(NamedTuple):
    """Derived events of one commit, as `runtime.flow.frames` encodes them, until they are in other shards' logs."""

    number: int
    body: bytes


class MappingVersion(NamedTuple):
    """A mapping in force: its rows as JSON, who made it and who approved it ("" for what the installation brings)."""

    version: int
    rows_json: str
    author: str
    approved_by: str = ""


ChangeType = Literal["mapping", "decision", "reversal"]
ChangeState = Literal["proposed", "approved", "refused"]
DecisionAction = Literal["retry", "release", "exclude"]


class Decision(NamedTuple):
    """What a person decided on exceptions, as it goes through the log. `approved_by` is "" where nobody had to."""

    number: int
    action: DecisionAction
    exceptions: tuple[str, ...]
    by: str
    approved_by: str


class JournalLine(msgspec.Struct, frozen=True, array_like=True):
    """One debit or credit. `text` says what it sums, never whose it is."""

    account_code: str
    side: Literal["D", "C"]
    amount_minor: int
    facility: str
    department: str
    text: str
    variance: str = ""


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A balanced set of lines, as an ERP receives it. `key` is its identity, `digest` the hash of its content."""

    key: str
    digest: str
    entity: str
    currency: str
    period: str
    posted_on: date
    mode: str
    lane: int
    document: str
    lines: tuple[JournalLine, ...]
    sets: tuple[tuple[int, str, int], ...]  # (shard, position, set_no) of the posting sets folded into it


CORRECTIONS = -1  # the shard of posting sets that correct an entry: no log stands behind them
CORRECTED_KINDS = ("entry_reversed", "entry_restated")  # of those sets

EntryState = Literal["sealed", "in_flight", "posted", "rejected", "unknown", "parked", "replaced"]
OutcomeCode = Literal["posted", "accepted", "rejected", "throttled", "unavailable", "unknown", "unauthorised", "parked"]


class Outcome(NamedTuple):
    """What is known of one entry's delivery. `erp_ref`: the ERP's document number; `detail`: its reason.

    `accepted`: the ERP has taken it into a job, whose id is in `erp_ref`; it is not posted yet. `parked` is no answer
    of an ERP but delivery's own: nothing can prove what became of the call, so a person must.
    """

    key: str
    code: OutcomeCode
    erp_ref: str = ""
    detail: str = ""
    retry_after_s: float = 0.0


TWICE = "duplicate key in ERP"  # the detail of a posted entry that an ERP holds more than once


class Delivery(NamedTuple):
    """Where the delivery of one entry stands. Instants are milliseconds UTC, 0 where there was none."""

    entry: JournalEntry
    state: EntryState
    attempts: int
    erp_ref: str  # the ERP's number of a posted entry; of one in flight, the job that has accepted it
    first_sent_ms: int  # the first intent to send it
    sent_ms: int  # the newest one; the entries of one call share it
    detail: str = ""  # what the ERP said of it last


class PeriodClose(NamedTuple):
    """A close that was ordered: everything of this entity's period is to be posted by then.

    Once it is `cut_off`, what reaches a shard later posts from `opens_on` on; once every shard has come so far and
    nothing of the period is left, it may be `declared`, and its `number` orders it among all declared ones.
    """

    entity: str
    period: str
    due_ms: int
    ordered_by: str
    state: Literal["ordered", "cut_off", "declared"] = "ordered"
    number: int = 0
    opens_on: date | None = None
    declared_by: str = ""


class PeriodLeft(NamedTuple):
    """What of an entity's period is not posted: posting sets in no entry, entries by their state, and how many lines
    those sets have together with the entries that move by themselves."""

    sets: int
    entries: dict[str, int]
    lines: int = 0

    @property
    def nothing(self) -> bool:
        return not self.sets and not self.entries


class ConservationBreak(NamedTuple):
    """Something in the books that contradicts the rest: what tells it from others, and a sentence without payload."""

    cause: str
    detail: str


class Books(Protocol):
    """One SQL database: postings, totals, exceptions, journal entries, and who owns what.

    Every method is one transaction. Raises BooksUnavailable when the database does not answer (the transaction may or
    may not have happened; read before repeating), Fenced when the caller's epoch is not the newest.
    """

    def take_epoch(self, owner: str, holder: str, *, again: bool = False) -> Lease:
        """Make `holder` the owner of "shard:3" or "erp:main"; every earlier epoch is fenced from now on.

        `again`: it was the owner before. Raises Fenced when somebody else has become it since: whoever was overtaken
        must not take over again.
        """
        ...

    def place(self, shard: int, worker: str) -> None:
        """This worker is to host the shard from now on. A shard that nobody ever owned stays where it is."""
        ...

    def placements(self) -> dict[int, str]:
        """The worker of each shard that was placed."""
        ...

    def commit(self, shard: int, epoch: int, after: str, position: str, rows: int, effects: Effects) -> None:
        """Store one step's effects and move the shard from `after` to `position`, all or nothing.

        Derived events go to the outbox, statuses wait for their numbers; how far the shard has `opened` entities is
        kept for closing periods. Raises Fenced when the epoch is old or the shard does not stand at `after`.
        Exceptions raised twice stay one, and so do statuses told twice.
        """
        ...

    def commits(self, shard: int, after: str) -> list[CommitMark]:
        """Commits after that position, oldest first."""
        ...

    def record_checkpoint(self, shard: int, epoch: int, checkpoint: Checkpoint) -> None:
        """Make this checkpoint the one to recover from, and forget the commit marks before it."""
        ...

    # events for other shards, and statuses for consumers outside

    def outbox(self, limit: int, after: int = 0) -> list[OutboxFrame]:
        """Derived events that are not yet relayed, oldest first, of frames with higher numbers than `after`. One read
        twice is relayed twice, which is harmless."""
        ...

    def mark_relayed(self, numbers: Sequence[int]) -> None:
        """Forget these frames, once they are in the log. Harmless twice: a number is never given again."""
        ...

    def number_statuses(self, owner: str, epoch: int, limit: int) -> int:
        """Give the next consecutive numbers to up to `limit` statuses that have none, oldest first; how many got one.

        Apart from inserting them, because concurrent transactions become visible out of order. Raises Fenced.
        """
        ...

    def statuses(self, after: int, limit: int) -> pl.DataFrame:
        """Statuses numbered above `after`, in order: columns status_no (1, 2, 3 ...) and STATUSES."""
        ...

    def newest_status_no(self) -> int:
        """The highest number that a status was given, or that restored books pass over, as it may have been given
        after their copy was made; 0 before the first."""
        ...

    # what people change: prepared by one person, approved by another

    def mapping_versions(self) -> list[MappingVersion]:
        """Every mapping in force, oldest first. Versions are never altered."""
        ...

    def add_mapping(self, rows_json: str, author: str) -> int:
        """Store what the installation itself maps, return its version. What people map is proposed and approved."""
        ...

    def propose_change(
        self, type: ChangeType, body_json: str, by: str, note: str = "", needs_approval: bool = True
    ) -> int:
        """Store a prepared change, return its number. One that needs no approval is in force at once.

        The body is crosswalk rows (a JSON list) or a decision (a JSON object of action and exceptions), checked by
        `runtime.ledger.governance` before, or a journal entry's key to reverse (a JSON text). Raises GovernanceError
        for an empty name.
        """
        ...

    def approve_change(self, change_no: int, by: str) -> int:
        """Put a proposed change in force; the number of the mapping version or of the decision that it became.

        Raises SameSigner when `by` prepared it, GovernanceError when it is not open or the name is empty.
        """
        ...

    def refuse_change(self, change_no: int, by: str, note: str = "") -> None:
        """End a proposed change without effect; who prepared it may do so too. Raises GovernanceError."""
        ...

    def changes(self, state: ChangeState | Literal[""] = "") -> pl.DataFrame:
        """Changes in that state ("" for any), oldest first: change_no, type, body_json, note, prepared_by, prepared_at,
        state, decided_by, decided_at, decided_note, effect_no (the version or decision it became), logged_at."""
        ...

    def unlogged_decisions(self, limit: int) -> list[Decision]:
        """Decisions in force that are not yet known to be in the log, by number."""
        ...

    def mark_logged(self, numbers: Sequence[int]) -> None:
        """These decisions are in every shard's log. Harmless twice."""
        ...

    def unclaimed(self, erp_entities: Sequence[str], sets_max: int, period: str = "") -> pl.DataFrame:
        """Delta lines of whole posting sets that no entry has claimed: columns DELTAS plus shard, position,
        committed_at. Lowest lane first, then oldest commit. `period` "" means any."""
        ...

    def unclaimed_lane(self, erp_entities: Sequence[str], period: str = "") -> int | None:
        """The lowest lane of the posting sets that no entry has claimed, None when there are none. Costs the same
        however many wait."""
        ...

    def unclaimed_count(self, erp_entities: Sequence[str]) -> int:
        """How many posting sets wait to be claimed."""
        ...

    def next_entry_no(self, owner: str, epoch: int, count: int) -> int:
        """Reserve `count` consecutive entry numbers, return the first. Numbers are never given twice."""
        ...

    def seal(self, owner: str, epoch: int, entries: Sequence[JournalEntry]) -> None:
        """Insert the entries with their lines in state sealed, and stamp their posting sets as claimed.

        Raises Fenced; refuses (ValueError) a set that is claimed already.
        """
        ...

    def entries_in(self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int) -> list[JournalEntry]:
        """Entries in those states, lowest lane first, then oldest."""
        ...

    def deliveries(
        self, erp_entities: Sequence[str], states: Sequence[EntryState], limit: int, period: str = ""
    ) -> list[Delivery]:
        """Entries in those states with their delivery, lowest lane first, then oldest. `period` "" means any."""
        ...

    def delivery_of(self, key: str) -> Delivery | None:
        """One entry with its delivery; None when there is none of that key."""
        ...

    def mark_in_flight(self, owner: str, epoch: int, keys: Sequence[str], governor: str | None = None) -> None:
        """Record the intent to send, before the call, and with it the owner's governor. Counts an attempt."""
        ...

    def record_outcomes(self, owner: str, epoch: int, outcomes: Sequence[Outcome]) -> None:
        """Move entries by their outcome: posted, rejected and unknown as named; accepted stays in flight; throttled,
        unavailable and unauthorised back to sealed, as nothing was applied. Raises erp_rejected, erp_unknown_outcome
        and erp_unauthorised, and ends them when the entry (for the last: any one of its entity) is posted; raises
        reconciliation_break of one that the ERP holds more than once (TWICE). Tells
        "posted" or "rejected" of each document of an immediate entry whose kind these books tell of. Recording the
        same outcomes again is harmless."""
        ...

    def release_entry(self, key: str, by: str, not_there: bool = False) -> None:
        """Send a rejected or parked entry back to sealed, to be sent again unchanged; `not_there`: or one in doubt, as
        somebody has seen that the ERP does not hold it. Raises GovernanceError when it is in another state or not
        known, or the name is empty."""
        ...

    def settle_entry(self, key: str, erp_ref: str, by: str) -> None:
        """Take an entry in doubt or parked as posted under this number of the ERP, as somebody has seen it there. Ends
        its erp_unknown_outcome, and tells "posted" as `record_outcomes` does. Raises GovernanceError when it is in
        another state or not known, or a name or the number is empty."""
        ...

    def replace_entry(self, key: str, replacement: JournalEntry, by: str) -> str:
        """Put a new, sealed entry in the place of a rejected one, which stays as it is in state replaced: the posting
        sets go over to the new one. It gets a fresh key, whatever key it comes with, which is returned. Ends
        erp_rejected of the old one. Raises GovernanceError when that is in another state or unknown, or the name is
        empty, ValueError when the sets are not the old entry's."""
        ...

    def retry_rejected(self, owner: str, epoch: int, keys: Sequence[str]) -> int:
        """Send those of these entries that are rejected still back to sealed, unchanged; how many. Raises Fenced."""
        ...

    def release_rejected(self, keys: Sequence[str], by: str) -> list[str]:
        """The same by somebody's order, whoever sends; their keys. Raises GovernanceError for an empty name."""
        ...

    def postings_of(self, entry: JournalEntry) -> pl.DataFrame:
        """The lines of all posting sets that an entry names: columns DELTAS plus shard, position, in that order."""
        ...

    def correct_entry(self, key: str, deltas: pl.DataFrame, by: str, change_no: int = 0) -> None:
        """Add posting sets (columns DELTAS, of the shard CORRECTIONS) that put an entry right, to be claimed like any.

        Of a posted entry: its reversal, and what stands instead, if anything does; they are counted in the control
        totals. Of a rejected one: what stands instead, no reversal; the entry ends as replaced and keeps its sets,
        which no balance counts any more. With `change_no`, `by` approves that change with it, all or nothing. Raises
        GovernanceError when the entry is in another state or unknown, when it was corrected before, or the name is
        empty, and what `approve_change` raises.
        """
        ...

    def governor(self, owner: str) -> str:
        """What was saved of this owner's governor last, by whichever epoch; empty when nothing was."""
        ...

    def save_governor(self, owner: str, epoch: int, governor: str) -> None:
        """Keep the governor's state, so that its successor goes on where it stopped. Raises Fenced."""
        ...

    def order_close(self, entity: str, period: str, due_ms: int, by: str) -> None:
        """Ask for everything of this period to be posted by then; again with another time moves it. ValueError when
        it is declared."""
        ...

    def cut_off(self, entity: str, period: str, opens_on: date, by: str) -> None:
        """Let an ordered period end: what shards are told of it, and commit, makes their later postings fall on
        `opens_on` at the earliest. ValueError when it was not ordered, when `opens_on` is not after it, or while
        anything of it is unposted. Of one that is cut off or declared it changes nothing."""
        ...

    def declare_closed(self, entity: str, period: str, shards: int) -> int:
        """Close a period that is cut off, return the close's number. ValueError when it is not cut off, while one of
        so many shards may still post into it (it has not yet committed that the entity has `opened` later), or while
        anything of it is unposted. Declaring it again gives the first number again."""
        ...

    def closes(self) -> list[PeriodClose]:
        """Every close that was ever ordered, earliest due first."""
        ...

    def period_left(self, entity: str, period: str) -> PeriodLeft:
        """What of the period is not posted."""
        ...

    def role_balances(self, entity: str, role: str, through: str) -> dict[tuple[str, str], int]:
        """What the entity's postings to a role come to at a period's end: debits less credits by account and currency,
        but for those of zero. Sets that a replaced entry keeps do not count."""
        ...

    def raise_exceptions(self, exceptions: pl.DataFrame) -> None:
        """Raise exceptions (columns EXCEPTIONS) that do not come from a step. One that is open keeps its age, and takes
        the amount and the detail that are told now."""
        ...

    def resolve_exceptions(self, ids: Sequence[str], by: str = "", note: str = "") -> None:
        """End exceptions; `by` and `note` go into their history. Unknown or ended ids are ignored."""
        ...

    def note_exceptions(self, ids: Sequence[str], by: str, note: str) -> None:
        """Write a note into the history of these exceptions, open or not. Unknown ids are ignored."""
        ...

    def conservation_breaks(self, sets_max: int) -> list[ConservationBreak]:
        """Where the books contradict themselves: control totals that do not add up, of each shard's posting sets the
        first that does not balance, of journal entries the first that is not the sum of its sets. Looks at up to
        sets_max sets a shard, from where the last call found all right; so a break comes again until it has ended."""
        ...

    # what people and reports read: frames with named columns, never changed by the caller

    def totals(self) -> pl.DataFrame:
        """Columns TOTALS, summed over shards."""
        ...

    def balances(self) -> pl.DataFrame:
        """entity, currency, account_code, debit_minor, credit_minor, posted_debit_minor, posted_credit_minor: all
        posting deltas but those that a replaced entry keeps, and those whose entry is posted."""
        ...

    def exceptions(
        self,
        state: str = "open",
        types: Sequence[str] = (),
        limit: int = 1000,
        *,
        entities: Sequence[str] = (),
        ids: Sequence[str] = (),
        raised_before_ms: int | None = None,
    ) -> pl.DataFrame:
        """EXCEPTIONS columns plus state, resolved_at, oldest first. What is left empty means any."""
        ...

    def exception_history(self, exception_id: str) -> pl.DataFrame:
        """exception_id, change, changed_by, changed_at, note, oldest first. `change`: raised, changed (its amount or
        detail), resolved, noted, or an action and what became of it ("release proposed"); `changed_by`: a person, or
        an owner like "shard:3"."""
        ...

    def exception_ages(self, edges_ms: Sequence[int]) -> pl.DataFrame:
        """Open exceptions by age: type, currency, bucket, exceptions (how many), amount_minor. `bucket` is how many of
        the edges (instants) an exception is as old as or older than."""
        ...

    def exception_counts(self) -> dict[str, int]:
        """Open exceptions by type."""
        ...

    def entry_counts(self) -> dict[str, int]:
        """Journal entries by state."""
        ...

    def shard_rows(self) -> pl.DataFrame:
        """shard, epoch, holder, position, rows_total, committed_at."""
        ...

    def posting_of(self, shard: int, position: str, set_no: int) -> pl.DataFrame:
        """The lines of one posting set with entry_key, entry_state, erp_ref (empty when unclaimed)."""
        ...

    def posting_pages(self, sets_max: int) -> Generator[pl.DataFrame, None, None]:
        """The lines of all posting sets, up to sets_max whole sets a page, by shard, position, set_no, line_no:
        columns as posting_of gives, plus shard, position. All pages show the books at the instant of the first; its
        transaction lasts until the last page is read or the generator is closed."""
        ...

    def close(self) -> None: ...


# ── archive ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ArchivedStep(NamedTuple):
    """The log entries of one commit as they came, repeats and control messages too; the last one's position is its."""

    records: tuple[LogRecord, ...]

    @property
    def position(self) -> str:
        return self.records[-1].position


class Archive(Protocol):
    """The full record under one root: segments of what came (steps) and of what became of it (outcomes), and the
    snapshots of shards with their runs. What is named is complete: writes are atomic. A shard's owner writes from one
    thread at a time."""

    def put_segment(
        self, shard: int, after: str, position: str, outcomes: pl.DataFrame, steps: Sequence[ArchivedStep] = ()
    ) -> str:
        """Write the steps and OUTCOMES of (after, position], which come in commit order; durable on return; its name.
        The same range again replaces itself, a longer one from the same `after` replaces it, a shorter one changes
        nothing that is read."""
        ...

    def steps(self, shard: int, after: str = START) -> Generator[ArchivedStep, None, None]:
        """Every step of the shard after that position, oldest first, a few at a time in memory."""
        ...

    def step_at(self, shard: int, position: str) -> ArchivedStep | None:
        """The step that ended there, None when the archive does not hold it (yet)."""
        ...

    def compact(self, shard: int, through: str) -> None:
        """Merge small neighbouring segments that end at or before `through`, a recorded checkpoint. What is read stays
        the same, at every moment and after a crash; each call does a bounded piece of work."""
        ...

    def put_run(self, shard: int, name: str, parts: Sequence[Buffer]) -> None:
        """Write a part of the shard's state that never changes, durable on return. Its name is `run_name`'s, and so
        nobody else's."""
        ...

    def get_run(self, shard: int, name: str) -> Buffer:
        """A run's bytes, read when they are looked at. FileNotFoundError when it was forgotten."""
        ...

    def put_snapshot(self, shard: int, position: str, epoch: int, snapshot: bytes, runs: Sequence[str] = ()) -> str:
        """Write a snapshot that goes with these runs, which are there; durable on return; its name."""
        ...

    def get_snapshot(self, name: str) -> bytes:
        """A snapshot by its name. FileNotFoundError when it was forgotten."""
        ...

    def forget_snapshots(self, shard: int, keep: str) -> None:
        """Drop this shard's snapshots before the one named (a later one is a successor's), and the runs from before it
        that it does not go with."""
        ...

    def find(self, id_hashes: Sequence[int]) -> pl.DataFrame:
        """Every outcome row of these identities over all shards, with a `shard` column, in commit order."""
        ...

    def scan(self) -> pl.LazyFrame:
        """All outcome rows of all shards, with `shard`."""
        ...


def run_name(position: str, epoch: int, number: int) -> str:
    """The name of a run that this owner makes at that position: no other owner gives the same one."""
    return f"{position}_{epoch}-{number}"


# ── feeds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class FeedMessage(NamedTuple):
    """One entry of a feed: its id and its fields."""

    id: str
    fields: dict[bytes, bytes]


class Feed(Protocol):
    """A consumer group on a stream. A message is delivered again until it is acknowledged or dead-lettered.

    Every method raises LogUnavailable when there is no answer, LogRefused when the server refuses. A message whose
    content was trimmed away before it was acknowledged comes with empty fields.
    """

    async def poll(self, rows_max: int, wait_ms: int) -> list[FeedMessage]:
        """This reader's unacknowledged messages first (once after start), then new ones."""
        ...

    async def acknowledge(self, ids: Sequence[str]) -> None: ...

    async def dead_letter(self, message: FeedMessage, code: str, column: str, reason: str) -> None:
        """Move a message to the dead-letter stream with the reason, and acknowledge it, in one transaction."""
        ...

    async def close(self) -> None: ...


# ── outlets ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Told(NamedTuple):
    """One status on its way out: its number in the books, and its content as JSON."""

    status_no: int
    body: bytes


class Outlet(Protocol):
    """One consumer's stream of statuses, each under its own number. Numbers only rise, so nothing is told twice.

    Every method raises LogUnavailable when there is no answer (what was asked may have happened), LogRefused when the
    server refuses (it has not).
    """

    def newest(self) -> int:
        """The highest number that the stream has ever held, trimmed away or not; 0 for a stream that is not there.

        Raises LogRefused for a stream whose newest entry has no such number: somebody else writes there.
        """
        ...

    def publish(self, after: int, told: Sequence[Told]) -> int:
        """Append all of these, in the order of their numbers, if `after` is still the newest number; nothing otherwise.

        Answers with the number that is the newest then. Where it is not the last one given, the stream is not where
        the caller thought: it goes on from there. So a repeat after a lost answer appends nothing, and a stream that
        was lost or put back is noticed. The stream keeps at most its configured length, newest last.
        """
        ...

    def close(self) -> None: ...


# ── payloads ───────────────────────────────────────────────────────────────────────────────────────────────────────


class PayloadAct(msgspec.Struct, frozen=True):
    """What was done with a payload, when and by whom."""

    what: Literal["kept", "forgotten"]
    at_ms: int
    by: str


class PayloadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence of a payload: stays when the payload itself is forgotten. `control_total` is JSON, "" if unknown."""

    payload_id: str
    digest: str  # BLAKE2b of the plain bytes, 256 bits, in hexadecimal digits; the id is its first half
    size: int  # plain bytes
    control_total: str
    acts: tuple[PayloadAct, ...]

    @property
    def is_kept(self) -> bool:
        """Whether the payload is there, by this record."""
        return self.acts[-1].what == "kept"


class PayloadStore(Protocol):
    """Raw files as they came, encrypted, beside the evidence of each. Found by an id that follows from the content."""

    def keep(self, chunks: Iterable[bytes], at_ms: int, by: str) -> PayloadRecord:
        """Store a file's bytes, durable on return. What is kept already is not stored again, and stays as it is."""
        ...

    def note_total(self, payload_id: str, control_total: str) -> PayloadRecord:
        """Add the control total, a JSON text, to the evidence. Raises PayloadUnknown."""
        ...

    def chunks(self, payload_id: str) -> Iterator[bytes]:
        """The plain bytes, in order, each part proven before it is given.

        Raises PayloadUnknown, PayloadForgotten, PayloadKeyWrong; PayloadDamaged, also after some parts, when bytes
        were changed, moved or cut off.
        """
        ...

    def forget(self, payload_id: str, at_ms: int, by: str) -> PayloadRecord:
        """Delete the payload for good and keep the evidence; again changes nothing. Raises PayloadUnknown."""
        ...

    def records(self) -> list[PayloadRecord]:
        """The evidence of every payload, in the order of their first keeping."""
        ...


# ── ERP ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ErpTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter declares of its ERP; delivery is driven by this alone. A limit of 0 means that none is stated."""

    native_key: Literal["permanent", "windowed", "none"]  # whether, and how long, the ERP itself refuses a key it knows
    key_life_s: float = 0.0  # of a windowed key, from its first use
    lookup: bool = True  # whether an entry can be found by its key
    lookup_keys_max: int = 50
    settle_s: float  # how long after a lost answer a negative lookup proves nothing
    begins_s: float = 5.0  # how long after a call began a request of it may begin that books something
    atomicity: Literal["all_or_nothing", "per_item", "job"]  # "job": accepted first, its report comes later
    lines_max: int  # lines of one call
    entries_max: int  # entries of one call
    bytes_max: int = 0  # of one call's body
    concurrency: int
    log_ins_apart: bool = False  # whether each company has a log-in and limits of its own: one may be refused alone
    requests_max: int = 1  # requests that one call to post, lookup or progress may count as in the limits below
    per_second: int = 0
    per_minute: int = 0
    per_day: int = 0


class ErpAccount(NamedTuple):
    """One line of the ERP's trial balance, posted entries only."""

    entity: str
    currency: str
    account_code: str
    debit_minor: int
    credit_minor: int


class ErpGateway(Protocol):
    """One ERP connection. Posting never raises for what an ERP or a network can do: it answers with outcomes."""

    unasked: Outcome  # why the last lookup was not answered, with an empty key

    def terms(self) -> ErpTerms: ...

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        """Create and post entries in one call; one outcome an entry, in order.

        `throttled`, `unavailable` and `unauthorised` promise that nothing was applied. `unknown` promises nothing.
        Where calls are all-or-nothing, one bad entry makes all `rejected` with the same detail: the caller isolates
        it. Where a call makes a job, its entries are `accepted` with the job's id in erp_ref: ask `progress` for them.
        An entry whose key the ERP refuses because it holds it already (`native_key`) is `posted`, with its number.
        No request that may book something begins later than `begins_s` after the call did, whatever came before it
        (a log-in, another company's part): whoever took over looks up after that, and sends again what is not there.
        """
        ...

    def progress(self, jobs: Sequence[str]) -> list[Outcome]:
        """Outcomes of the entries of those jobs that have ended, nothing of the others; empty where none are made.

        When it can't be asked now, one outcome with an empty key may tell why (throttled, unavailable, unauthorised).
        """
        ...

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        """What the ERP holds under these keys: found and posted ones (posted). None when it can't be asked now; then
        `unasked` tells why, and how long the ERP wants to be left alone.

        A draft left by a call that died between creating and posting is posted by this call, or left out if it can't;
        it is `unknown` once more when the answer to that is lost.
        """
        ...

    def shown(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        """What `lookup` would find posted already. Changes nothing at the ERP: for whoever only compares."""
        ...

    def trial_balance(self) -> list[ErpAccount]:
        """Turnover of every account that has any. Raises ErpError."""
        ...

    def close(self) -> None: ...


class Clock(Protocol):
    """Wall time for shells; the core gets times as arguments."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC. Goes on evenly while a process lives: differences are time that elapsed."""
        ...

    def sleep(self, seconds: float) -> None: ...


# ── metrics ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Metrics(Protocol):
    """Where shells count what they do. Names and tags are declared in one table; values are never payloads."""

    def count(self, name: str, value: float = 1, **tags: object) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: str, value: float, **tags: object) -> None:
        """Set a level."""
        ...

    def observe(self, name: str, value: float, **tags: object) -> None:
        """Add one measurement to a distribution."""
        ...


class NoMetrics:
    """Metrics for whoever needs none."""

    def count(self, name: str, value: float = 1, **tags: object) -> None:
        """Count nothing."""

    def gauge(self, name: str, value: float, **tags: object) -> None:
        """Set nothing."""

    def observe(self, name: str, value: float, **tags: object) -> None:
        """Measure nothing."""
