"""Governed changes in every implementation of the books: who may put what in force, and what stays of it."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from books_builders import ERP, Data, emptied, entry, raised, sealed
from sqlalchemy import event, text

from adapters.books.database import Database
from adapters.books.migrations import upgrade
from adapters.books.outcomes import exception_id
from runtime.errors import GovernanceError, SameSigner
from runtime.ports import Books, Outcome

A, B = "a" * 16, "b" * 16


def decision(action: str = "release", *ids: str) -> str:
    return msgspec.json.encode({"action": action, "exceptions": ids or (A,)}).decode()


def states(books: Books) -> list[tuple]:
    return books.changes().select("change_no", "state", "prepared_by", "decided_by", "effect_no").rows()


# ── two persons ──


def test_approved_mapping_becomes_a_version_with_both_names(data: Data) -> None:
    """A proposal changes nothing; approved by somebody else it is the next version and keeps both names."""
    books = data.open()
    books.add_mapping("[1]", "configuration")
    change_no = books.propose_change("mapping", "[2]", " Ada  Byron ", "new clinic")
    assert books.mapping_versions() == [(1, "[1]", "configuration", "")]

    assert data.open().approve_change(change_no, "Grace") == 2

    assert books.mapping_versions() == [(1, "[1]", "configuration", ""), (2, "[2]", "Ada Byron", "Grace")]
    assert states(books) == [(change_no, "approved", "Ada Byron", "Grace", 2)]
    row = books.changes("approved").row(0, named=True)
    assert (row["type"], row["body_json"], row["note"]) == ("mapping", "[2]", "new clinic")
    assert row["decided_at"] > row["prepared_at"]


@pytest.mark.parametrize("same", ["Ada Byron", "ada byron", "  ADA   BYRON ", "Ａda Byron"])
def test_preparer_can_not_approve(books: Books, same: str) -> None:
    """However the name is written, who prepared a change does not put it in force."""
    change_no = books.propose_change("mapping", "[]", "Ada Byron")

    with pytest.raises(SameSigner, match=f"change {change_no}"):
        books.approve_change(change_no, same)

    assert books.mapping_versions() == []
    assert states(books) == [(change_no, "proposed", "Ada Byron", "", None)]


@pytest.mark.parametrize("name", ["", "  ", "x" * 65])
def test_nobody_signs_without_a_name(books: Books, name: str) -> None:
    """Proposing, approving, refusing and releasing need a name of a readable length, and change nothing without."""
    sealed(books, "J1")
    change_no = books.propose_change("mapping", "[]", "ada")

    for act in (
        lambda: books.propose_change("mapping", "[]", name),
        lambda: books.approve_change(change_no, name),
        lambda: books.refuse_change(change_no, name),
        lambda: books.release_entry("J1", name),
    ):
        with pytest.raises(GovernanceError, match="by:"):
            act()

    assert states(books) == [(change_no, "proposed", "ada", "", None)]


def test_change_is_decided_once(books: Books) -> None:
    """What is approved or refused can't be approved or refused again, and what is unknown not at all."""
    refused, approved = books.propose_change("mapping", "[]", "ada"), books.propose_change("mapping", "[]", "ada")
    books.refuse_change(refused, "ada", "typing error")
    books.approve_change(approved, "grace")

    for change_no, message in (
        (refused, "is refused already"),
        (approved, "is approved already"),
        (99, "there is none"),
    ):
        with pytest.raises(GovernanceError, match=message):
            books.approve_change(change_no, "edsger")
        with pytest.raises(GovernanceError, match=message):
            books.refuse_change(change_no, "edsger")

    assert [version.version for version in books.mapping_versions()] == [1]
    assert books.changes("refused").select("decided_by", "decided_note", "effect_no").rows() == [
        ("ada", "typing error", None)
    ]
    assert books.changes("proposed").is_empty()


# ── decisions ──


def test_decision_in_force_waits_for_the_log(books: Books) -> None:
    """Approved decisions are numbered in the order of their approval and listed until they are in the log."""
    first = books.propose_change("decision", decision("release", A, B), "ada")
    second = books.propose_change("decision", decision("exclude", B), "ada")
    assert books.unlogged_decisions(10) == []
    assert (books.approve_change(second, "grace"), books.approve_change(first, "edsger")) == (1, 2)

    assert books.unlogged_decisions(10) == [
        (1, "exclude", (B,), "ada", "grace"),
        (2, "release", (A, B), "ada", "edsger"),
    ]
    assert [decided.number for decided in books.unlogged_decisions(1)] == [1]
    for _ in range(2):
        books.mark_logged([1])
    assert [decided.number for decided in books.unlogged_decisions(10)] == [2]
    assert books.mapping_versions() == []


def test_decision_that_needs_no_approval_is_in_force_at_once(books: Books) -> None:
    """One name is enough where nobody has to approve, and nobody's name stands for the approver's."""
    change_no = books.propose_change("decision", decision("retry"), "ada", needs_approval=False)

    assert books.unlogged_decisions(10) == [(1, "retry", (A,), "ada", "")]
    with pytest.raises(GovernanceError, match="is approved already"):
        books.approve_change(change_no, "grace")


def test_history_tells_who_did_what_to_an_exception(books: Books) -> None:
    """Raising, what was proposed and decided, notes and the end are rows in order, with names."""
    books.raise_exceptions(raised(A))
    first = books.propose_change("decision", decision("exclude", A, B), "ada", "sent twice")
    books.refuse_change(first, "grace", "look again")
    books.note_exceptions([A, B], "ada", "asked the payer")
    second = books.propose_change("decision", decision("release"), "ada")
    books.approve_change(second, "grace")
    books.propose_change("decision", decision("retry"), "edsger", needs_approval=False)
    books.resolve_exceptions([A], "ada", "settled")

    assert books.exception_history(A).select("change", "changed_by", "note").rows() == [
        ("raised", "", "role AR_SELF"),
        ("exclude proposed", "ada", "sent twice"),
        ("exclude refused", "grace", "look again"),
        ("noted", "ada", "asked the payer"),
        ("release proposed", "ada", ""),
        ("release approved", "grace", ""),
        ("retry decided", "edsger", ""),
        ("resolved", "ada", "settled"),
    ]
    times = books.exception_history(A)["changed_at"].to_list()
    assert times == sorted(times) and times[0] < times[-1]
    assert books.exception_history(B).is_empty()


# ── entries ──


@pytest.mark.parametrize("code", ["rejected", "parked"])
def test_entry_released_by_somebody_is_sent_again(books: Books, code: str) -> None:
    """A rejected or parked entry goes back to sealed, unchanged, and its exception ends when it is posted."""
    epoch = sealed(books, "J1", "J2")
    books.record_outcomes(ERP, epoch, [Outcome("J1", code, detail="period closed")])
    assert books.entry_counts() == {code: 1, "sealed": 1}

    books.release_entry("J1", "ada")

    assert books.entry_counts() == {"sealed": 2}
    assert books.entries_in(["north"], ["sealed"], 10) == [entry("J1"), entry("J2")]
    for key in ("J1", "J2", "J9"):
        with pytest.raises(GovernanceError, match=f"entry {key}"):
            books.release_entry(key, "ada")
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "ERP-1")])
    assert books.exception_counts() == {}


def test_release_of_a_rejected_entry_is_in_the_history(books: Books) -> None:
    """Who released an entry is told by its exception."""
    epoch = sealed(books, "J1")
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected", detail="period closed")])
    books.release_entry("J1", "ada")

    history = books.exception_history(exception_id("erp_rejected", "J1"))
    assert history.select("change", "changed_by", "note").rows() == [
        ("raised", ERP, "period closed"),
        ("entry released", "ada", ""),
    ]


# ── reading exceptions ──


def test_exceptions_are_found_by_type_entity_id_and_age(books: Books) -> None:
    """Filters choose together; what is left empty chooses all."""
    books.raise_exceptions(raised(A, B, type="denial"))
    books.raise_exceptions(raised("c" * 16, type="mapping_missing"))
    raised_ms = books.exceptions()["raised_at"][0].timestamp() * 1000

    def found(**filters: object) -> str:
        return "".join(id[0] for id in books.exceptions(**filters)["exception_id"])

    assert found() == "abc"
    assert found(types=["denial", "unheard"]) == "ab"
    assert found(types=["denial"], ids=[B, "c" * 16]) == "b"
    assert found(entities=["north"], ids=[A]) == "a"
    assert found(entities=["south"]) == ""
    assert found(raised_before_ms=int(raised_ms)) == ""
    assert found(raised_before_ms=int(raised_ms) + 1) == "abc"


def test_exception_ages_count_the_open_ones_by_edges(books: Books) -> None:
    """An exception is in the bucket of the edges that it is as old as; amounts are summed by currency."""
    books.raise_exceptions(raised(A, B, type="denial"))
    books.raise_exceptions(raised("c" * 16, type="denial"))
    books.resolve_exceptions(["c" * 16])
    at_ms = int(books.exceptions()["raised_at"][0].timestamp() * 1000)

    assert books.exception_ages([at_ms - 1]).rows() == [("denial", "USD", 0, 2, 1_000)]
    assert books.exception_ages([at_ms, at_ms - 1]).rows() == [("denial", "USD", 1, 2, 1_000)]
    assert books.exception_ages([at_ms + 1, at_ms]).rows() == [("denial", "USD", 2, 2, 1_000)]
    assert books.exception_ages([]).rows() == [("denial", "USD", 0, 2, 1_000)]


# ── what only a database can show ──


def test_history_of_earlier_books_is_kept(sql_data: Data) -> None:
    """Books whose history told states instead of changes are upgraded with all their rows."""
    emptied(sql_data.url, "0001")
    database = Database(sql_data.url)
    with database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO exception_history (exception_id, changed_at_ms, state, changed_by, note) "
                f"VALUES ('{A}', 1, 'open', 'shard:0', ''), ('{A}', 2, 'resolved', 'shard:0', '')"
            )
        )
    database.close()

    upgrade(sql_data.url)

    assert sql_data.open().exception_history(A)["change"].to_list() == ["raised", "resolved"]


def test_exceptions_are_looked_up_by_their_ids(sql_data: Data) -> None:
    """A commit that raises or ends some does not read all that are open, however many these are."""
    database, asked = Database(sql_data.url), []
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL chooses by what it has counted")
    books = sql_data.open()
    event.listen(books._database.engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    books.raise_exceptions(raised(A))
    books.resolve_exceptions([A])
    plans = []
    for statement, given in asked:
        if "json_each" in statement:
            with database.reading() as connection:
                plans += [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]
    database.close()
    assert sum("exceptions USING" in step and "(exception_id=?)" in step for step in plans) == 2
    assert not any("ix_exceptions_state" in step for step in plans)


def test_change_approved_by_many_at_once_is_approved_once(sql_data: Data) -> None:
    """Of several people who approve the same changes at the same time one succeeds with each, and no number is lost."""
    opened = [sql_data.open() for _ in range(4)]
    changes = [opened[0].propose_change("mapping", f"[{n}]", "ada") for n in range(5)]

    def approved(books: Books) -> int:
        return sum(approves(books, change_no) for change_no in changes)

    with ThreadPoolExecutor(len(opened)) as pool:
        assert sum(pool.map(approved, opened)) == len(changes)

    assert sorted(version.version for version in opened[0].mapping_versions()) == [1, 2, 3, 4, 5]
    assert {version.rows_json for version in opened[0].mapping_versions()} == {f"[{n}]" for n in range(5)}


def approves(books: Books, change_no: int) -> bool:
    """Whether this approval was the one that counted."""
    try:
        books.approve_change(change_no, "grace")
    except GovernanceError:
        return False
    return True
