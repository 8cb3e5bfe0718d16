"""One suite for every implementation of the books: memory, SQLite, PostgreSQL."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from books_builders import (
    ERP,
    NOW_MS,
    RAISED_AT,
    Data,
    commit_sets,
    effects,
    entry,
    places,
    posting,
    raised,
    sealed,
    total,
)
from polars.testing import assert_frame_equal
from sqlalchemy import Connection, select, text

from adapters.books import queries, tables
from adapters.books.database import Database
from adapters.books.frames import UNCLAIMED
from adapters.books.migrations import upgrade
from adapters.books.outcomes import exception_id
from adapters.books.sql import SqlBooks
from runtime.effects import DELTAS, EXCEPTIONS, TOTALS
from runtime.errors import BooksUnavailable, ConfigError, Fenced
from runtime.ports import START, TWICE, Books, Checkpoint, CommitMark, Outcome
from runtime.schema import UTC_MS

# ── leases, fencing, commits ──


def test_take_epoch_first_starts_before_the_log(books: Books) -> None:
    """A shard that nobody has owned starts at epoch 1, before the first entry, without a checkpoint."""
    assert books.take_epoch("shard:3", "w1") == (1, START, 0, None)


def test_take_epoch_again_returns_what_was_committed(books: Books) -> None:
    """The next owner gets a higher epoch, the newest position and all rows ever committed."""
    first = books.take_epoch("shard:3", "w1")
    books.commit(3, first.epoch, START, "5-1", 10, effects())
    books.commit(3, first.epoch, "5-1", "5-12", 32, effects())

    assert books.take_epoch("shard:3", "w2") == (2, "5-12", 42, None)
    assert books.shard_rows().select("shard", "epoch", "holder", "position", "rows_total").rows() == [
        (3, 2, "w2", "5-12", 42)
    ]


def test_take_epoch_again_after_another_holder_is_fenced_and_changes_nothing(books: Books) -> None:
    """Who was the owner gets a newer epoch only as long as nobody else has become it."""
    books.take_epoch("shard:3", "w1")
    assert books.take_epoch("shard:3", "w1", again=True).epoch == 2
    books.take_epoch("shard:3", "w2")
    with pytest.raises(Fenced):
        books.take_epoch("shard:3", "w1", again=True)
    assert books.shard_rows().select("epoch", "holder").rows() == [(3, "w2")]


def test_place_tells_where_a_shard_is_to_be_and_changes_no_owner(books: Books) -> None:
    """The newest placement counts; a shard that nobody ever owned has none."""
    books.take_epoch("shard:3", "w1")
    books.take_epoch("erp:main", "poster")
    assert books.placements() == {}
    for worker in ("w2", "w4"):
        books.place(3, worker)
    books.place(7, "w4")
    assert books.placements() == {3: "w4"}
    assert books.shard_rows().select("shard", "epoch", "holder").rows() == [(3, 1, "w1")]


def test_commit_of_an_old_epoch_is_fenced_and_stores_nothing(books: Books) -> None:
    """After a newer epoch was taken the old owner's commit is refused and leaves no trace."""
    old = books.take_epoch("shard:0", "w1")
    new = books.take_epoch("shard:0", "w2")

    with pytest.raises(Fenced):
        books.commit(0, old.epoch, START, "1-0", 10, effects(posting(), totals=total("booked", 1, 100)))

    assert_nothing_stored(books)
    assert books.take_epoch("shard:0", "w3") == (new.epoch + 1, START, 0, None)


@pytest.mark.parametrize("after", ["2-0", "1-1", START])
def test_commit_after_another_position_is_fenced_and_stores_nothing(books: Books, after: str) -> None:
    """A commit that does not begin where the shard stands is refused, even by the owner."""
    lease = books.take_epoch("shard:0", "w1")
    books.commit(0, lease.epoch, START, "1-0", 10, effects())

    with pytest.raises(Fenced):
        books.commit(0, lease.epoch, after, "3-0", 10, effects(posting(), exceptions=raised("a" * 16)))

    assert_nothing_stored(books)
    assert [mark.position for mark in books.commits(0, START)] == ["1-0"]


def test_commit_without_an_owner_is_fenced(books: Books) -> None:
    """Nobody commits to a shard that nobody has taken."""
    with pytest.raises(Fenced):
        books.commit(0, 1, START, "1-0", 10, effects(posting()))


@pytest.mark.parametrize(
    "spoiled",
    [
        pl.concat([posting(), posting()]),
        posting().with_columns(account_code=pl.lit(None, pl.String())),
        posting().with_columns(entity=pl.Series(["north", "south"])),
    ],
    ids=["line twice", "no account", "two entities in a set"],
)
def test_commit_that_fails_inside_stores_nothing(books: Books, spoiled: pl.DataFrame) -> None:
    """Lines that the books can't hold undo the whole commit, position included."""
    lease = books.take_epoch("shard:0", "w1")
    totals, good = total("booked", 1, 100), posting(set_no=9)

    with pytest.raises(ValueError, match="(?i)constraint|posting"):
        books.commit(0, lease.epoch, START, "1-0", 10, effects(good, spoiled, totals=totals))

    assert_nothing_stored(books)
    books.commit(0, lease.epoch, START, "1-0", 10, effects(good))
    assert books.unclaimed_count(["north"]) == 1


def assert_nothing_stored(books: Books) -> None:
    assert books.unclaimed_count(["north", "south"]) == 0
    assert books.balances().is_empty()
    assert books.totals().is_empty()
    assert books.exceptions(state="").is_empty()


def test_texts_of_lines_come_back_as_they_are(books: Books) -> None:
    """Whatever a line's texts hold, the line is read as it was posted."""
    lease = books.take_epoch("shard:0", "w1")
    odd = posting(facility='a "b" \\ c\n', department="[0,1],", variance="\x00é☃", account_code="\t4'0").select(*DELTAS)
    plain = posting(set_no=1)

    books.commit(0, lease.epoch, START, "1-0", 1, effects(odd, plain))

    assert_frame_equal(books.posting_of(0, "1-0", 0).select(*DELTAS), odd)
    assert_frame_equal(books.unclaimed(["north"], 9).select(*DELTAS), pl.concat([odd, plain]))


def test_totals_are_the_same_before_and_after_a_checkpoint(data: Data) -> None:
    """What commits changed of the totals counts at once, and once, whatever checkpoints drop of their marks."""
    books = data.open()
    lease = books.take_epoch("shard:0", "w1")
    stands = START
    for position in ("1-0", "2-0", "3-0"):
        books.commit(0, lease.epoch, stands, position, 1, effects(totals=total("booked", 2, 100)))
        stands = position
    expected = total("booked", 6, 300)

    assert_frame_equal(data.open().totals(), expected)
    for position in ("2-0", "2-0", "3-0"):
        books.record_checkpoint(0, lease.epoch, Checkpoint(position, "snapshot"))
        assert_frame_equal(data.open().totals(), expected)
    assert books.commits(0, START) == []


def test_commits_are_listed_in_the_order_of_numbers(books: Books) -> None:
    """Commit marks come after the position asked for, ordered as numbers and not as text."""
    lease = books.take_epoch("shard:0", "w1")
    steps = [(START, "9-0"), ("9-0", "9-2"), ("9-2", "9-11"), ("9-11", "10-0")]
    for after, position in steps:
        books.commit(0, lease.epoch, after, position, 3, effects(posting()))

    digest = effects(posting()).digest()
    assert books.commits(0, "9-1") == [CommitMark(after, position, 3, digest) for after, position in steps[1:]]
    assert books.commits(1, START) == []


def test_checkpoint_is_returned_and_forgets_older_marks(books: Books) -> None:
    """A new owner recovers from the newest checkpoint; the commits up to it are no longer listed."""
    lease = books.take_epoch("shard:0", "w1")
    for after, position in [(START, "1-0"), ("1-0", "2-0"), ("2-0", "3-0")]:
        books.commit(0, lease.epoch, after, position, 1, effects())

    books.record_checkpoint(0, lease.epoch, Checkpoint("2-0", "snapshot-2"))

    assert [mark.position for mark in books.commits(0, START)] == ["3-0"]
    assert books.take_epoch("shard:0", "w2").checkpoint == Checkpoint("2-0", "snapshot-2")


def test_checkpoint_of_an_old_epoch_is_fenced(books: Books) -> None:
    """A zombie can't set the place to recover from."""
    old = books.take_epoch("shard:0", "w1")
    books.take_epoch("shard:0", "w2")

    with pytest.raises(Fenced):
        books.record_checkpoint(0, old.epoch, Checkpoint(START, "zombie"))

    assert books.take_epoch("shard:0", "w3").checkpoint is None


# ── totals, balances ──


def test_totals_add_up_over_commits_and_shards(books: Books) -> None:
    """Totals are the sum of all signed changes of all shards; a missing facility is an empty one."""
    for shard in (0, 1):
        lease = books.take_epoch(f"shard:{shard}", "w1")
        books.commit(shard, lease.epoch, START, "1-0", 10, effects(totals=total("pending", 5, 500)))
        changes = pl.concat([total("pending", -2, -200), total("booked", 2, 200), total("booked", 1, 9, None)])
        books.commit(shard, lease.epoch, "1-0", "2-0", 10, effects(totals=changes))

    key = ("ehr", "north")
    assert_frame_equal(
        books.totals(),
        pl.DataFrame(
            [
                (*key, "", "USD", "charge_posted", "booked", 2, 18),
                (*key, "F1", "USD", "charge_posted", "booked", 4, 400),
                (*key, "F1", "USD", "charge_posted", "pending", 6, 600),
            ],
            schema=TOTALS,
            orient="row",
        ),
    )


def test_balances_tell_posted_from_all(books: Books) -> None:
    """Balances sum every delta, and beside that only those whose entry is posted at the ERP."""
    position = commit_sets(books, posting(0, 100), posting(1, 30), posting(2, 5))
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0)), entry("J2", (0, position, 1))])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "ERP-1")])

    assert books.balances().rows() == [
        ("north", "USD", "1100", 135, 0, 100, 0),
        ("north", "USD", "4000", 0, 135, 0, 100),
    ]


# ── exceptions ──


def test_exception_raised_twice_is_one_and_resolves(books: Books) -> None:
    """The same exception from two steps is one row, and a step that ends it ends it."""
    lease = books.take_epoch("shard:0", "w1")
    a, b = "a" * 16, "b" * 16
    books.commit(0, lease.epoch, START, "1-0", 1, effects(exceptions=raised(a, b)))
    books.commit(0, lease.epoch, "1-0", "2-0", 1, effects(exceptions=raised(a)))
    assert books.exception_counts() == {"mapping_missing": 2}

    books.commit(0, lease.epoch, "2-0", "3-0", 1, effects(resolved=(a, "f" * 16)))

    assert_frame_equal(books.exceptions().select(list(EXCEPTIONS)), raised(b))
    ended = books.exceptions(state="resolved").row(0, named=True)
    assert (ended["exception_id"], ended["state"]) == (a, "resolved")
    assert ended["resolved_at"].timestamp() * 1000 > NOW_MS


def test_exceptions_from_elsewhere_are_raised_and_resolved(books: Books) -> None:
    """Exceptions that come from no step behave alike; ending an unknown or ended one is nothing."""
    a, b = "a" * 16, "b" * 16
    books.raise_exceptions(raised(a, a, type="feed_malformed"))
    books.raise_exceptions(raised(b))
    books.resolve_exceptions([a, "f" * 16])
    books.resolve_exceptions([a])

    assert books.exception_counts() == {"mapping_missing": 1}
    assert books.exceptions(state="", types=["feed_malformed"])["state"].to_list() == ["resolved"]


def test_exception_raised_after_its_end_is_open_again(books: Books) -> None:
    """What happens again after it was ended is not silently dropped."""
    books.raise_exceptions(raised("a" * 16))
    books.resolve_exceptions(["a" * 16])
    books.raise_exceptions(raised("a" * 16))

    assert books.exceptions(state="").select("state", "resolved_at").rows() == [("open", None)]


def test_exceptions_come_oldest_first_up_to_a_limit(books: Books) -> None:
    """The list starts with what has waited longest."""
    later = raised("a" * 16).with_columns(raised_at=pl.col("raised_at").dt.offset_by("1h"))
    books.raise_exceptions(pl.concat([later, raised("b" * 16), raised("c" * 16)]))

    assert [id[0] for id in books.exceptions()["exception_id"]] == ["b", "c", "a"]
    assert [id[0] for id in books.exceptions(limit=1)["exception_id"]] == ["b"]


# ── mapping versions ──


def test_mapping_versions_count_up_and_stay(data: Data) -> None:
    """Versions are 1, 2, 3 whoever adds them, and come back in that order."""
    versions = [data.open().add_mapping(f'[{{"n":{n}}}]', "controller") for n in range(3)]

    assert versions == [1, 2, 3]
    assert data.open().mapping_versions() == [(n + 1, f'[{{"n":{n}}}]', "controller", "") for n in range(3)]


# ── claiming ──


def test_unclaimed_returns_what_was_committed(books: Books) -> None:
    """A set comes back with every column as it was, and with its place and time."""
    deltas = posting(document="PO-1", facility=None, department=None)
    position = commit_sets(books, deltas, shard=2)

    waiting = books.unclaimed(["north"], 10)

    assert waiting.schema == pl.Schema(UNCLAIMED)
    filled = deltas.with_columns(pl.col("facility", "department").fill_null(""))
    assert_frame_equal(waiting.select(list(DELTAS)), filled)
    assert places(waiting) == [(2, position, 0)]
    assert waiting["committed_at"].unique().dt.epoch("ms").item() > NOW_MS


@pytest.mark.parametrize("document", [r"\N", '"', 'a "b", c', "\\", "'", "%s", "ñ 药", "NULL"])
def test_texts_that_mean_something_elsewhere_are_texts(books: Books, document: str) -> None:
    """Marks, quotes and signs of SQL or CSV are kept as they came, wherever a text may lie."""
    lease = books.take_epoch("shard:0", "w1")
    found = raised("a" * 16).with_columns(detail=pl.lit(document), entity=pl.lit(document))
    totals = total("booked", 1, 100, document)
    books.commit(0, lease.epoch, START, "1-0", 1, effects(posting(document=document), totals=totals, exceptions=found))

    assert set(books.unclaimed(["north"], 10)["document"]) == {document}
    assert books.totals()["facility"].to_list() == [document]
    assert books.exceptions(entities=[document])["detail"].to_list() == [document]
    assert books.exception_history("a" * 16)["note"].to_list() == [document]


def test_unclaimed_orders_by_lane_then_age_and_keeps_sets_whole(books: Books) -> None:
    """Lowest lane first, then oldest commit; the limit counts sets and never cuts one."""
    first = commit_sets(books, posting(0), posting(1, lane=0), shard=5)
    second = commit_sets(books, posting(0, lane=0), posting(1), posting(2, entity="south"), shard=1)

    order = [(5, first, 1), (1, second, 0), (5, first, 0), (1, second, 1)]
    assert places(books.unclaimed(["north"], 10)) == order
    assert places(books.unclaimed(["north", "south"], 10)) == [*order, (1, second, 2)]
    cut = books.unclaimed(["north"], 3)
    assert places(cut) == order[:3]
    assert cut["line_no"].to_list() == [0, 1] * 3


def test_unclaimed_without_entities_is_empty(books: Books) -> None:
    """An ERP that serves no entity finds nothing to claim."""
    commit_sets(books, posting())

    assert books.unclaimed([], 10).is_empty()
    assert books.unclaimed_count([]) == 0


def test_seal_claims_sets_and_posting_of_shows_it(books: Books) -> None:
    """A claimed set waits no longer, and knows its entry."""
    position = commit_sets(books, posting(0), posting(1))
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0))])

    assert places(books.unclaimed(["north"], 10)) == [(0, position, 1)]
    assert books.unclaimed_count(["north"]) == 1
    claimed = books.posting_of(0, position, 0)
    assert_frame_equal(claimed.select(list(DELTAS)), posting(0))
    assert claimed.select("entry_key", "entry_state", "erp_ref").unique().rows() == [("J1", "sealed", "")]
    assert books.posting_of(0, position, 1)["entry_key"].unique().to_list() == [""]
    assert books.posting_of(0, position, 8).is_empty()


def test_seal_refuses_a_claimed_set_and_stores_nothing(books: Books) -> None:
    """One set that is claimed already undoes the whole sealing."""
    position = commit_sets(books, posting(0), posting(1))
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0))])

    with pytest.raises(ValueError, match="claimed already"):
        books.seal(ERP, epoch, [entry("J2", (0, position, 1)), entry("J3", (0, position, 0))])

    assert books.entry_counts() == {"sealed": 1}
    assert places(books.unclaimed(["north"], 10)) == [(0, position, 1)]


@pytest.mark.parametrize("sets", [[(0, "1-0", 7)], [(0, "1-0", 0), (0, "1-0", 0)]], ids=["unknown", "twice"])
def test_seal_refuses_sets_that_it_cannot_claim_once(books: Books, sets: list) -> None:
    """A set that does not exist or is named twice is refused."""
    commit_sets(books, posting(0))
    epoch = books.take_epoch(ERP, "poster").epoch

    with pytest.raises(ValueError, match="claimed already"):
        books.seal(ERP, epoch, [entry("J1", *sets)])

    assert books.entry_counts() == {}


def test_seal_refuses_a_known_key(books: Books) -> None:
    """A key is sealed once."""
    epoch = sealed(books, "J1")

    with pytest.raises(ValueError, match="sealed already"):
        books.seal(ERP, epoch, [entry("J2"), entry("J1")])

    assert books.entry_counts() == {"sealed": 1}


def test_delivery_of_an_old_epoch_is_fenced(books: Books) -> None:
    """A poster that was replaced can neither number, seal, send nor record."""
    old = sealed(books, "J1")
    books.take_epoch(ERP, "poster 2")
    attempts = [
        lambda: books.next_entry_no(ERP, old, 1),
        lambda: books.seal(ERP, old, [entry("J2")]),
        lambda: books.mark_in_flight(ERP, old, ["J1"]),
        lambda: books.record_outcomes(ERP, old, [Outcome("J1", "posted")]),
    ]

    for attempt in attempts:
        with pytest.raises(Fenced):
            attempt()

    assert books.entry_counts() == {"sealed": 1}


def test_entry_numbers_never_repeat(data: Data) -> None:
    """Numbers run on over openings, epochs and owners."""
    one, other = data.open(), data.open()
    epoch = one.take_epoch(ERP, "poster").epoch
    numbers = [one.next_entry_no(ERP, epoch, 3), other.next_entry_no(ERP, epoch, 1)]
    epoch = other.take_epoch(ERP, "poster 2").epoch
    second = one.take_epoch("erp:second", "poster").epoch
    numbers += [other.next_entry_no(ERP, epoch, 2), one.next_entry_no("erp:second", second, 1)]

    assert numbers == [1, 4, 5, 7]


# ── entries ──


def test_entries_come_back_as_sealed_by_lane_then_age(books: Books) -> None:
    """An entry is read as it was sealed; urgent lanes come first, then the older ones."""
    position = commit_sets(books, posting(0))
    epoch = books.take_epoch(ERP, "poster").epoch
    entries = [entry("J9", (0, position, 0)), entry("J1"), entry("J5", lane=0), entry("J2", entity="south")]
    books.seal(ERP, epoch, entries[:2])
    books.seal(ERP, epoch, entries[2:])

    assert books.entries_in(["north"], ["sealed"], 10) == [entries[2], entries[0], entries[1]]
    assert books.entries_in(["north"], ["sealed"], 1) == [entries[2]]
    assert books.entries_in(["north"], ["posted", "unknown"], 10) == []


@pytest.mark.parametrize(
    ("code", "state", "exception"),
    [
        ("posted", "posted", None),
        ("rejected", "rejected", "erp_rejected"),
        ("throttled", "sealed", None),
        ("unavailable", "sealed", None),
        ("unknown", "unknown", "erp_unknown_outcome"),
        ("unauthorised", "sealed", "erp_unauthorised"),
    ],
)
def test_outcome_moves_the_entry_and_raises_what_needs_a_person(
    books: Books, code: str, state: str, exception: str | None
) -> None:
    """Each outcome leads to its state, and raises the exception that belongs to it."""
    epoch = sealed(books, "J1")
    books.mark_in_flight(ERP, epoch, ["J1"])
    assert books.entry_counts() == {"in_flight": 1}

    books.record_outcomes(ERP, epoch, [Outcome("J1", code, detail="reason")])

    assert books.entry_counts() == {state: 1}
    assert books.exceptions()["type"].to_list() == ([exception] if exception else [])


def test_entry_that_stands_twice_at_the_erp_is_posted_and_told(books: Books) -> None:
    """Nothing is wrong with the entry here, but somebody must reverse what is too much there."""
    epoch = sealed(books, "J1")
    books.record_outcomes(ERP, epoch, [Outcome("J1", "unknown")])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "7", TWICE)])

    found = books.exceptions().select("type", "event_id", "entity", "amount_minor", "detail").rows()
    assert found == [("reconciliation_break", "J1", "north", 100, TWICE)]
    assert books.entry_counts() == {"posted": 1}


def test_rejected_exception_names_the_entry_and_cuts_the_reason(books: Books) -> None:
    """A rejection is found by the entry's key, with entity and amount, and its reason has a limit."""
    epoch = sealed(books, "J1")
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected", detail="x" * 300)])

    found = books.exceptions().row(0, named=True)
    assert found["exception_id"] == exception_id("erp_rejected", "J1")
    assert len(found["exception_id"]) == 16
    assert (found["source"], found["event_id"], found["entity"]) == (ERP, "J1", "north")
    assert (found["currency"], found["amount_minor"], found["detail"]) == ("USD", 100, "x" * 256)


def test_posting_ends_what_was_raised_for_its_key_and_owner(books: Books) -> None:
    """A posted entry ends its own exceptions and the owner's login trouble, not those of other entries."""
    epoch = sealed(books, "J1", "J2", "J3")
    books.record_outcomes(ERP, epoch, [Outcome("J1", "unknown"), Outcome("J2", "rejected")])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "unauthorised"), Outcome("J3", "unauthorised")])
    assert books.exception_counts() == {"erp_unknown_outcome": 1, "erp_rejected": 1, "erp_unauthorised": 1}

    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "ERP-7")])
    assert books.exception_counts() == {"erp_rejected": 1}

    books.record_outcomes(ERP, epoch, [Outcome("J3", "unauthorised")])
    assert books.exception_counts() == {"erp_rejected": 1, "erp_unauthorised": 1}


def test_rejection_ends_the_doubt_about_an_entry(books: Books) -> None:
    """An unknown outcome that turns out as rejected is one exception, not two."""
    epoch = sealed(books, "J1")
    books.record_outcomes(ERP, epoch, [Outcome("J1", "unknown")])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected", detail="period closed")])

    assert books.exception_counts() == {"erp_rejected": 1}


def test_posted_entry_stays_posted(books: Books) -> None:
    """A late answer does not move a posted entry, and it can't be sent again."""
    position = commit_sets(books, posting(0))
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0)), entry("J2")])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "ERP-7")])

    books.record_outcomes(ERP, epoch, [Outcome("J1", "unknown"), Outcome("J1", "unauthorised")])
    with pytest.raises(ValueError, match="posted"):
        books.mark_in_flight(ERP, epoch, ["J1", "J2"])

    assert books.entry_counts() == {"posted": 1, "sealed": 1}
    assert books.exceptions().is_empty()
    assert books.posting_of(0, position, 0)["erp_ref"].to_list() == ["ERP-7", "ERP-7"]


def test_outcome_of_an_unknown_entry_is_refused(books: Books) -> None:
    """An outcome for a key that was never sealed changes nothing, also not for the others."""
    epoch = sealed(books, "J1")

    with pytest.raises(ValueError, match="never sealed"):
        books.record_outcomes(ERP, epoch, [Outcome("J1", "posted"), Outcome("J8", "posted")])

    assert books.entry_counts() == {"sealed": 1}


# ── long reads ──


def three_commits(books: Books) -> None:
    """Sets of two shards, one of them at positions that numbers and texts put in another order."""
    first, second = books.take_epoch("shard:1", "w1").epoch, books.take_epoch("shard:0", "w1").epoch
    books.commit(1, first, START, "5-9", 10, effects(posting(0), posting(1)))
    books.commit(1, first, "5-9", "5-10", 10, effects(posting(0, facility=None)))
    books.commit(0, second, START, "7-0", 10, effects(posting(3)))


@pytest.mark.parametrize("sets_max", [1, 2, 3, 4, 100])
def test_posting_pages_hold_all_sets_whole_and_in_order(books: Books, sets_max: int) -> None:
    """Every line comes once, no set is cut by a page, and positions are ordered as numbers."""
    three_commits(books)

    pages = list(books.posting_pages(sets_max))

    of_pages = [page.select("shard", "position", "set_no").unique(maintain_order=True).rows() for page in pages]
    assert sum(of_pages, []) == [(0, "7-0", 3), (1, "5-9", 0), (1, "5-9", 1), (1, "5-10", 0)]
    assert [len(sets) for sets in of_pages] == [min(sets_max, 4 - n) for n in range(0, 4, sets_max)]
    assert pl.concat(pages)["line_no"].to_list() == [0, 1] * 4


def test_posting_pages_tell_of_each_set_what_posting_of_tells(books: Books) -> None:
    """A page has the columns of posting_of and the place; entry, its state and the ERP's number among them."""
    three_commits(books)
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (1, "5-9", 0), (0, "7-0", 3)), entry("J2", (1, "5-9", 1))])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "ERP-7")])

    [page] = books.posting_pages(100)

    for shard, position, set_no in places(page):
        here = (pl.col("shard") == shard) & (pl.col("position") == position) & (pl.col("set_no") == set_no)
        of_set = page.filter(here)
        assert_frame_equal(of_set.drop("shard", "position"), books.posting_of(shard, position, set_no))
    fates = page.filter(pl.col("line_no") == 0).select("entry_key", "entry_state", "erp_ref").rows()
    assert fates == [("J1", "posted", "ERP-7"), ("J1", "posted", "ERP-7"), ("J2", "sealed", ""), ("", "", "")]


def test_posting_pages_show_the_books_at_the_instant_of_the_first(data: Data) -> None:
    """What others commit, seal or post while the pages are read is in none of them."""
    reader, writer = data.open(), data.open()
    three_commits(writer)
    epoch = writer.take_epoch(ERP, "poster").epoch
    pages = reader.posting_pages(1)

    first = next(pages)
    writer.seal(ERP, epoch, [entry("J1", (1, "5-9", 0))])
    position = commit_sets(writer, posting(0), shard=2)
    rest = list(pages)

    assert places(first) == [(0, "7-0", 3)]
    assert [places(page) for page in rest] == [[(1, "5-9", 0)], [(1, "5-9", 1)], [(1, "5-10", 0)]]
    assert set(pl.concat(rest)["entry_key"]) == {""}
    assert places(list(reader.posting_pages(1))[-1]) == [(2, position, 0)]


def test_posting_pages_given_up_hold_nothing(data: Data) -> None:
    """A reader that closes the pages early can read and write on; books without a posting have no page."""
    books = data.open()
    assert list(books.posting_pages(10)) == []
    three_commits(books)
    pages = books.posting_pages(1)
    next(pages)

    pages.close()

    assert commit_sets(books, posting(0), shard=2) == "1-0"
    assert len(list(books.posting_pages(1))) == 5


# ── what only a database can show ──


def committed_by(url: str, shard: int, commits: int) -> int:
    """Commit many small steps to one shard, as a worker process does; the rows committed."""
    books = SqlBooks(url)
    epoch, after = books.take_epoch(f"shard:{shard}", "w1").epoch, START
    step = effects(*(posting(n) for n in range(20)), totals=total("booked", 1, 100), exceptions=raised("a" * 16))
    for n in range(1, commits + 1):
        books.commit(shard, epoch, after, f"{n}-0", 1, step)
        after = f"{n}-0"
    rows_total = books.take_epoch(f"shard:{shard}", "w2").rows_total
    books.close()
    return rows_total


def test_four_processes_commit_side_by_side(sql_data: Data) -> None:
    """Four workers commit to one database at once without an error, and nothing gets lost."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(committed_by, [sql_data.url] * 4, range(4), [25] * 4))

    assert rows == [25] * 4
    books = sql_data.open()
    assert books.totals().select("events", "amount_minor").rows() == [(100, 10_000)]
    assert books.unclaimed_count(["north"]) == 4 * 25 * 20
    assert books.exception_counts() == {"mapping_missing": 1}


def test_data_survives_closing(sql_data: Data) -> None:
    """What was committed is there for whoever opens the database next."""
    books = sql_data.open()
    position = commit_sets(books, posting(0))
    sealed(books, "J1")
    before = books.unclaimed(["north"], 10)
    books.close()

    again = sql_data.open()

    assert_frame_equal(again.unclaimed(["north"], 10), before)
    assert again.take_epoch("shard:0", "w2").position == position
    assert again.entries_in(["north"], ["sealed"], 10) == [entry("J1")]


def test_attempts_are_counted(sql_data: Data) -> None:
    """Every intent to send counts, and the reason of the newest outcome is kept."""
    books = sql_data.open()
    epoch = sealed(books, "J1")
    for _ in range(2):
        books.mark_in_flight(ERP, epoch, ["J1"])
        books.record_outcomes(ERP, epoch, [Outcome("J1", "throttled", detail="429")])

    stored = read(sql_data.url, select(tables.entries.c.attempts, tables.entries.c.state, tables.entries.c.detail))
    assert stored == [(2, "sealed", "429")]


def test_exception_raised_with_another_amount_tells_it_and_keeps_its_age(books: Books) -> None:
    """What is still missing of a payment is less when a part has come; the exception is as old as before."""
    lease = books.take_epoch("shard:0", "w1")
    later = RAISED_AT + timedelta(days=3)
    told = {"amount_minor": pl.lit(70, pl.Int64()), "detail": pl.lit("less"), "raised_at": pl.lit(later, UTC_MS)}
    books.commit(0, lease.epoch, START, "1-0", 1, effects(exceptions=raised("a" * 16)))
    for after, position in (("1-0", "2-0"), ("2-0", "3-0")):
        books.commit(0, lease.epoch, after, position, 1, effects(exceptions=raised("a" * 16).with_columns(**told)))
    named = ("state", "amount_minor", "detail", "raised_at")
    assert books.exceptions().select(named).rows() == [("open", 70, "less", RAISED_AT)]
    assert books.exception_history("a" * 16)["change"].to_list() == ["raised", "changed"]

    books.resolve_exceptions(["a" * 16])
    books.raise_exceptions(raised("a" * 16).with_columns(raised_at=pl.lit(later, UTC_MS)))
    assert books.exceptions().select(named).rows() == [("open", 500, "role AR_SELF", later)]


def test_exception_history_holds_every_change(books: Books) -> None:
    """Raising, ending and raising again are three rows; raising an open one is none."""
    lease = books.take_epoch("shard:0", "w1")
    books.commit(0, lease.epoch, START, "1-0", 1, effects(exceptions=raised("a" * 16)))
    books.commit(0, lease.epoch, "1-0", "2-0", 1, effects(exceptions=raised("a" * 16)))
    books.resolve_exceptions(["a" * 16])
    books.resolve_exceptions(["a" * 16])
    books.raise_exceptions(raised("a" * 16))

    assert books.exception_history("a" * 16).select("change", "changed_by", "note").rows() == [
        ("raised", "shard:0", "role AR_SELF"),
        ("resolved", "", ""),
        ("raised", "", "role AR_SELF"),
    ]


def read(url: str, query: object) -> list[tuple]:
    database = Database(url)
    with database.reading() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    database.close()
    return rows


def test_unclaimed_is_found_by_its_index(open_url: Callable[[str], str]) -> None:
    """What waits is read from the partial index, in order, however long the history is."""
    url = open_url("sqlite")
    database = Database(url)
    query = queries.unclaimed(["north"], 10).compile(database.engine, compile_kwargs={"literal_binds": True})
    plan = " ".join(row[-1] for row in read(url, text(f"EXPLAIN QUERY PLAN {query}")))
    database.close()

    assert "USING INDEX ix_posting_sets_unclaimed" in plan


def test_posting_page_is_found_by_its_key(open_url: Callable[[str], str]) -> None:
    """A page begins where the last one ended, without reading what came before and without sorting what comes."""
    url = open_url("sqlite")
    database = Database(url)
    query = queries.posting_page((3, 5, 0, 7), 10).compile(database.engine, compile_kwargs={"literal_binds": True})
    plan = " ".join(row[-1] for row in read(url, text(f"EXPLAIN QUERY PLAN {query}")))
    database.close()

    assert "SEARCH posting_sets USING PRIMARY KEY ((shard,position_ms,position_seq,set_no)>" in plan


def test_books_that_do_not_answer_are_unavailable(tmp_path: Path) -> None:
    """A database that can't be reached is told apart from a refusal."""
    for url in (f"sqlite:///{tmp_path}/missing/books.db", f"postgresql://nobody@/none?host={tmp_path}"):
        books = SqlBooks(url)
        with pytest.raises(BooksUnavailable):
            books.take_epoch("shard:0", "w1")
        books.close()


def test_lost_connection_is_unavailable_and_then_restored(open_url: Callable[[str], str]) -> None:
    """When the server ends a connection one call fails without effect; the next one works."""
    url = open_url("postgresql")
    books = SqlBooks(url)
    lease = books.take_epoch("shard:0", "w1")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    read(url, text(f"{others} AND pid <> pg_backend_pid()"))

    with pytest.raises(BooksUnavailable):
        books.commit(0, lease.epoch, START, "1-0", 1, effects(posting()))
    books.commit(0, lease.epoch, START, "1-0", 1, effects(posting()))

    assert books.unclaimed_count(["north"]) == 1
    books.close()


def test_error_texts_hold_no_values(sql_data: Data) -> None:
    """A refused commit says which constraint it broke, without the statement's parameters."""
    books = sql_data.open()
    lease = books.take_epoch("shard:0", "w1")
    secret = posting(document="TOP-SECRET", kind=None)

    with pytest.raises(ValueError, match="(?i)constraint") as refused:
        books.commit(0, lease.epoch, START, "1-0", 1, effects(secret))

    assert "TOP-SECRET" not in str(refused.value)


def test_other_databases_are_refused() -> None:
    """A URL of a database that was never tried is refused by name."""
    with pytest.raises(ConfigError, match="mysql"):
        SqlBooks("mysql://localhost/books")


# ── migrations ──


def shape(connection: Connection) -> list[tuple]:
    """Everything that the database says of its tables (SQLite) or indexes (PostgreSQL)."""
    catalogues = {
        "sqlite": "SELECT name, REPLACE(sql, '\"', '') FROM sqlite_master ORDER BY name",
        "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
    }
    rows = connection.execute(text(catalogues[connection.dialect.name]))
    return [tuple(row) for row in rows if not row[0].startswith("alembic_version")]


def test_migrations_and_tables_agree(sql_data: Data) -> None:
    """The migrations build exactly the tables and indexes that the code declares."""
    database = Database(sql_data.url)
    with database.writing() as connection:
        migrated = shape(connection)
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        tables.metadata.drop_all(connection)
        tables.metadata.create_all(connection)
        assert shape(connection) == migrated
    database.close()


def test_upgrade_twice_keeps_the_data(sql_data: Data) -> None:
    """Upgrading what is up to date changes nothing."""
    commit_sets(sql_data.open(), posting(0))

    upgrade(sql_data.url)

    assert sql_data.open().unclaimed_count(["north"]) == 1
