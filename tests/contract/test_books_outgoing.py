"""What leaves the books: derived events on their way to other shards, and statuses for consumers outside."""

from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl
import pytest
from books_builders import ERP, TOLD_KINDS, Data, commit_sets, effects, entry, posting
from polars.testing import assert_frame_equal
from sqlalchemy import Select, text

from adapters.books import queries
from adapters.books.database import Database
from runtime.effects import STATUSES
from runtime.errors import Fenced
from runtime.flow.frames import decode_sealed
from runtime.ports import START, Books, Outcome
from runtime.schema import COLUMNS

RELAY = "relay:main"
TOLD_AT = datetime(2026, 10, 3, 9, tzinfo=UTC)


def derived(*ids: str) -> pl.DataFrame:
    blank = dict.fromkeys(COLUMNS)
    return pl.DataFrame([blank | {"event_id": id, "amount_minor": 5} for id in ids], schema=COLUMNS)


def told(*ids: str, **changed: object) -> pl.DataFrame:
    row = dict.fromkeys(STATUSES, "") | {"status": "received", "document": "INV-1", "amount_minor": 5}
    return pl.DataFrame([row | {"status_id": id, "occurred_at": TOLD_AT} | changed for id in ids], schema=STATUSES)


def commit(books: Books, position: str, shard: int = 0, **changed: object) -> None:
    """Commit as a new owner."""
    lease = books.take_epoch(f"shard:{shard}", "w1")
    books.commit(shard, lease.epoch, lease.position, position, 1, effects(**changed))


def numbered(books: Books, after: int = 0, limit: int = 100) -> list[tuple[int, str]]:
    return books.statuses(after, limit).select("status_no", "status_id").rows()


def number_all(books: Books, limit: int = 100) -> int:
    return books.number_statuses(RELAY, books.take_epoch(RELAY, "r").epoch, limit)


# ── outbox ──


def test_derived_events_wait_until_they_are_relayed(data: Data) -> None:
    """A commit's derived events are one frame; a commit without any has none; what is relayed is gone."""
    books = data.open()
    commit(books, "1-0", derived=derived("d1", "d2"))
    commit(books, "2-0")
    commit(books, "3-0", derived=derived("d3"))

    first, second = data.open().outbox(10)
    assert_frame_equal(decode_sealed(first.body), derived("d1", "d2"))
    assert decode_sealed(second.body)["event_id"].to_list() == ["d3"]
    assert books.outbox(1) == [first]
    assert books.outbox(10, first.number) == [second]

    for _ in range(2):
        books.mark_relayed([first.number])
    assert books.outbox(10) == [second]
    books.mark_relayed([])
    assert books.outbox(10) == [second]


def test_commit_that_is_repeated_derives_once(books: Books) -> None:
    """A commit that was done already is fenced, and its events are not stored again, relayed or not."""
    lease = books.take_epoch("shard:0", "w1")
    step = effects(derived=derived("d1"), statuses=told("s1"))
    books.commit(0, lease.epoch, START, "1-0", 1, step)
    for _ in range(2):
        with pytest.raises(Fenced):
            books.commit(0, lease.epoch, START, "1-0", 1, step)
        assert len(books.outbox(10)) <= 1
        books.mark_relayed([frame.number for frame in books.outbox(10)])

    assert books.outbox(10) == []
    assert number_all(books) == 1


def test_refused_commit_leaves_nothing_to_relay(books: Books) -> None:
    """Derived events and statuses are of the same transaction as the postings."""
    lease = books.take_epoch("shard:0", "w1")
    spoiled = effects(
        posting().with_columns(account_code=pl.lit(None, pl.String())), derived=derived("d1"), statuses=told("s1")
    )
    with pytest.raises(ValueError, match="(?i)constraint|posting"):
        books.commit(0, lease.epoch, START, "1-0", 1, spoiled)

    assert books.outbox(10) == []
    assert number_all(books) == 0


def test_number_of_a_relayed_frame_is_never_given_again(books: Books) -> None:
    """A relay that is late forgets what it relayed, not what came after it."""
    commit(books, "1-0", derived=derived("d1"))
    [late] = books.outbox(10)
    books.mark_relayed([late.number])
    commit(books, "2-0", derived=derived("d2"))

    books.mark_relayed([late.number])

    assert [decode_sealed(frame.body)["event_id"][0] for frame in books.outbox(10)] == ["d2"]


# ── statuses ──


def test_statuses_are_told_in_the_order_of_their_numbers(books: Books) -> None:
    """Statuses have no number until they are given one: 1, 2, 3, oldest first, up to a limit."""
    commit(books, "1-0", shard=3, statuses=told("s9", "s1"))
    commit(books, "1-0", shard=1, statuses=told("s5"))
    assert numbered(books) == []

    assert [number_all(books, 2) for _ in range(3)] == [2, 1, 0]

    assert numbered(books) == [(1, "s9"), (2, "s1"), (3, "s5")]
    assert numbered(books, after=1, limit=1) == [(2, "s1")]
    assert numbered(books, after=3) == []


def test_status_told_twice_is_one(books: Books) -> None:
    """An id that is known is nothing new, in the same step or later, numbered or not."""
    commit(books, "1-0", statuses=pl.concat([told("s1"), told("s1", "s2")]))
    number_all(books)
    commit(books, "2-0", statuses=told("s2", "s3"))
    number_all(books)

    assert numbered(books) == [(1, "s1"), (2, "s2"), (3, "s3")]


def test_status_comes_back_as_it_was_told(books: Books) -> None:
    """Every column is kept; an absent text is an empty one."""
    whole = {name: f"the {name}" for name, dtype in STATUSES.items() if dtype == pl.String()}
    commit(books, "1-0", statuses=told("s1", **whole | {"counterparty": None, "status_id": "s1"}))
    number_all(books)

    expected = told("s1", **whole | {"counterparty": "", "status_id": "s1"})
    assert_frame_equal(books.statuses(0, 10).drop("status_no"), expected)
    assert books.statuses(0, 10)["status_no"].to_list() == [1]


def test_only_the_newest_owner_numbers(books: Books) -> None:
    """A former owner gives no numbers."""
    commit(books, "1-0", statuses=told("s1"))
    old = books.take_epoch(RELAY, "r1").epoch
    books.take_epoch(RELAY, "r2")

    with pytest.raises(Fenced):
        books.number_statuses(RELAY, old, 10)

    assert numbered(books) == []


# ── what a delivery tells ──


def delivered(books: Books, *outcomes: tuple[str, str], **changed: object) -> list[dict]:
    """Seal one immediate set as J1, record outcomes one after the other; what is told then."""
    given = {"kind": "invoice_received", "document": "INV-1", "mode": "immediate"} | changed
    position = commit_sets(books, posting(0, 250, **given))
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0), mode=given["mode"])])
    for code, answer in outcomes:
        reference, detail = (answer, "") if code == "posted" else ("", answer)
        books.record_outcomes(ERP, epoch, [Outcome("J1", code, reference, detail)])
    number_all(books)
    return books.statuses(0, 10).to_dicts()


def test_posted_document_is_told(books: Books) -> None:
    """A posted entry tells its document, with kind, flow, amount and the ERP's number; told again it is one status."""
    [status] = delivered(books, ("posted", "ERP-7"), ("posted", "ERP-7"))

    assert len(status.pop("status_id")) == 16
    assert status.pop("occurred_at").year == 2026
    assert status == {
        "status_no": 1,
        "flow": TOLD_KINDS["invoice_received"],
        "status": "posted",
        "kind": "invoice_received",
        "entity": "north",
        "document": "INV-1",
        "counterparty": "",
        "amount_minor": 250,
        "currency": "USD",
        "source": ERP,
        "event_id": "",
        "detail": "ERP-7",
    }


def test_rejected_document_is_told_and_then_posted(books: Books) -> None:
    """A rejection is told with its reason, however often it is rejected; the later posting is told too."""
    told_ = delivered(books, ("rejected", "period closed"), ("rejected", "period closed"), ("posted", "ERP-7"))

    assert [(status["status"], status["detail"]) for status in told_] == [
        ("rejected", "period closed"),
        ("posted", "ERP-7"),
    ]


def test_document_of_an_entry_that_a_person_has_seen_at_the_erp_is_told(books: Books) -> None:
    """Who waits for a document's posting hears of it the same, whether the ERP said so or somebody who looked."""
    assert delivered(books, ("parked", "no answer")) == []
    books.settle_entry("J1", " ERP-7 ", "ana")
    number_all(books)
    told_ = books.statuses(0, 10).select("status", "document", "amount_minor", "source", "detail").rows()
    assert told_ == [("posted", "INV-1", 250, ERP, "ERP-7")]


@pytest.mark.parametrize(
    "changed",
    [{"kind": "charge_posted"}, {"document": ""}, {"mode": "summary"}],
    ids=["kind", "no document", "summary"],
)
def test_what_nobody_asked_for_is_not_told(books: Books, changed: dict) -> None:
    """Only told kinds, in immediate entries, with a document, are told."""
    assert delivered(books, ("posted", "ERP-7"), **changed) == []


@pytest.mark.parametrize("code", ["throttled", "unavailable", "unknown", "unauthorised", "accepted"])
def test_undecided_outcomes_tell_nothing(books: Books, code: str) -> None:
    """What is not known is not told."""
    assert delivered(books, (code, "")) == []


def test_every_set_of_an_entry_is_told(books: Books) -> None:
    """An entry over many documents tells each, more than one statement can ask for."""
    count = 1_203
    many = [posting(n, kind="invoice_received", document=f"INV-{n:04}", mode="immediate") for n in range(count)]
    position = commit_sets(books, *many)
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", *((0, position, n) for n in range(count)), mode="immediate")])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "ERP-7")])

    assert number_all(books, 10_000) == count
    assert books.statuses(0, 10_000)["document"].to_list() == [f"INV-{n:04}" for n in range(count)]


# ── what only a database can show ──


def plan_of(url: str, query: Select) -> str:
    """How SQLite would answer a query."""
    database = Database(url)
    compiled = query.compile(database.engine, compile_kwargs={"literal_binds": True})
    plan = database.rows(text(f"EXPLAIN QUERY PLAN {compiled}"))
    database.close()
    return " ".join(row[-1] for row in plan)


def test_sets_of_an_entry_are_found_by_their_keys(open_url: Callable[[str], str]) -> None:
    """What a delivery tells is read set by set, however long the history of postings is."""
    plan = plan_of(open_url("sqlite"), queries.told_sets([(0, 1, 0, 0), (0, 1, 0, 1)], TOLD_KINDS))
    assert "SEARCH posting_sets USING PRIMARY KEY" in plan
    assert "SCAN posting" not in plan
