"""The audit trail's chains: whole after everything that books do, and broken at the row that somebody touched."""

from datetime import date

import msgspec
import pytest
from books_builders import ERP, Data, commit_openings, commit_sets, effects, entry, posting, sealed
from sqlalchemy import text

from adapters.books.chain_check import ChainReport, Kept, check
from adapters.books.database import Database
from runtime.ledger.compensation import reversal
from runtime.ports import Books, Outcome

LAST = "2-0"


@pytest.fixture
def history(sql_data: Data) -> Data:
    """Books with commits of two shards, with and without postings, entries in every end, and governed changes."""
    books = sql_data.open()
    first = commit_sets(books, posting(0), posting(1, 250, kind="payment_received"))
    commit_sets(books, posting(0), shard=1)
    lease = books.take_epoch("shard:0", "w2")
    books.commit(0, lease.epoch, first, LAST, 3, effects())
    commit_sets(books, posting(0, 75))
    epoch = sealed(books, "north-1", "north-2", "north-3", "north-4")
    books.seal(ERP, epoch, [entry("north-5", (0, first, 1))])
    keys = ["north-1", "north-2", "north-3"]
    books.mark_in_flight(ERP, epoch, keys)
    ends = [Outcome("north-1", "posted", "GL/7"), Outcome("north-2", "rejected", detail="no such account")]
    books.record_outcomes(ERP, epoch, [*ends, Outcome("north-3", "throttled")])
    books.record_outcomes(ERP, epoch, ends)
    books.replace_entry("north-2", entry("any"), "bea")
    govern(books)
    return sql_data


def govern(books: Books) -> None:
    """A mapping of the installation, one approved, one refused, one that still waits, and a closed period."""
    books.add_mapping('[{"role": "CASH"}]', "installation")
    approved, refused, _ = (books.propose_change("mapping", f"[{n}]", "ada", f"note {n}") for n in range(3))
    books.approve_change(approved, "bea")
    books.refuse_change(refused, "cyd", "not so")
    books.order_close("south", "2026-09", 1, "ada")
    books.cut_off("south", "2026-09", date(2026, 10, 1), "ada")
    commit_openings(books, date(2026, 10, 1), entity="south")
    books.declare_closed("south", "2026-09", 1)


def run(data: Data, *statements: str) -> ChainReport:
    """Tamper, then check."""
    database = Database(data.url)
    with database.writing() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0
    database.close()
    return check(data.url)


def test_chain_of_untouched_books_is_whole(history: Data) -> None:
    """Every commit, entry, end of an entry and governed change is told of, and nothing is found."""
    report = check(history.url)

    assert report.breaks == [] and report.whole and report.unchained == {}
    assert report.posting_sets == 4
    assert {name: count for name, (count, _) in report.heads.items()} == {
        "shard:0": 4,
        "shard:1": 1,
        "erp:main": 10,
        "governance": 8,
    }


SETS = "shard, position_ms, position_seq, set_no"
INSERTED_SET = (
    f"INSERT INTO posting_sets ({SETS}, entity, currency, period, posted_on, mode, lane, kind, document, events, "
    "committed_at_ms, lines) SELECT shard, 9, 0, set_no, entity, currency, period, posted_on, mode, lane, kind, "
    "document, events, committed_at_ms, lines FROM posting_sets WHERE shard = 1"
)
INSERTED_ENTRY = (
    "INSERT INTO entries SELECT 'north-x', 99, digest, entity, currency, period, lane, debit_minor, body, "
    "state, attempts, erp_ref, detail, sealed_at_ms, updated_at_ms FROM entries WHERE key = 'north-4'"
)
FIRST_LINE = """[[0,"F1","D1","","AR_SELF","1100",1,"D",100]]"""
NOT_MADE = "shard = 0 AND position_ms = 1"
TAMPERED = {
    "posting line changed": (
        [f"UPDATE posting_sets SET lines = REPLACE(lines, ',250]', ',1]') WHERE {NOT_MADE} AND set_no = 1"],
        ("shard:0", "posting_sets", "1-0", "changed"),
    ),
    "posting set changed": (
        [f"UPDATE posting_sets SET period = '2026-11' WHERE {NOT_MADE}"],
        ("shard:0", "posting_sets", "1-0", "changed"),
    ),
    "posting line removed": (
        [f"UPDATE posting_sets SET lines = '{FIRST_LINE}' WHERE {NOT_MADE} AND set_no = 0"],
        ("shard:0", "posting_sets", "1-0", "changed"),
    ),
    "posting lines made unreadable": (
        [f"UPDATE posting_sets SET lines = 'gone' WHERE {NOT_MADE} AND set_no = 0"],
        ("shard:0", "posting_sets", "1-0", "changed"),
    ),
    "posting set removed": (
        ["DELETE FROM posting_sets WHERE shard = 1"],
        ("shard:1", "posting_sets", "1-0", "removed"),
    ),
    "posting set inserted": (
        [INSERTED_SET],
        ("shard:1", "posting_sets", "9-0", "inserted: no commit made it"),
    ),
    "commit changed": (
        ["UPDATE commit_chain SET row_count = 4 WHERE shard = 0 AND position_ms = 2"],
        ("shard:0", "commit_chain", "2-0", "changed"),
    ),
    "commit removed": (
        ["DELETE FROM commit_chain WHERE shard = 0 AND position_ms = 2"],
        ("shard:0", "commit_chain", "1-0 to 2-0", "removed"),
    ),
    "first commit removed": (
        ["DELETE FROM commit_chain WHERE shard = 0 AND position_ms = 1"],
        ("shard:0", "commit_chain", "0-0 to 1-0", "removed"),
    ),
    "last commit removed": (
        ["DELETE FROM commit_chain WHERE shard = 1"],
        ("shard:1", "commit_chain", "after 0-0", "removed: the shard stands at 1-0"),
    ),
    "all of a shard removed": (
        [f"DELETE FROM {table} WHERE shard = 1" for table in ("posting_sets", "commit_chain")],
        ("shard:1", "commit_chain", "after 0-0", "removed: the shard stands at 1-0"),
    ),
    "commit inserted": (
        [
            "INSERT INTO commit_chain SELECT shard, 2, 5, 2, 0, row_count, digest, '', previous, hash "
            "FROM commit_chain WHERE shard = 0 AND position_ms = 2"
        ],
        ("shard:0", "commit_chain", "2-5", "changed"),
    ),
    "act changed": (
        ["UPDATE audit_chain SET content = 'x' WHERE ledger = 'erp:main' AND number = 2"],
        ("erp:main", "audit_chain", "2", "changed"),
    ),
    "act removed": (
        ["DELETE FROM audit_chain WHERE ledger = 'governance' AND number = 2"],
        ("governance", "audit_chain", "2 to 2", "removed"),
    ),
    "last act removed": (
        ["DELETE FROM audit_chain WHERE ledger = 'governance' AND number = 8"],
        ("governance", "audit_chain", "8 to 8", "removed"),
    ),
    "act inserted": (
        [
            "INSERT INTO audit_chain SELECT ledger, 11, act, 'north-9', content, at_ms, previous, hash "
            "FROM audit_chain WHERE ledger = 'erp:main' AND number = 1"
        ],
        ("erp:main", "audit_chain", "11", "changed"),
    ),
    "entry's lines changed": (
        ["UPDATE entries SET body = REPLACE(body, '1100', '1101') WHERE key = 'north-1'"],
        ("", "entries", "north-1", "changed"),
    ),
    "entry's document changed": (
        ["UPDATE entries SET erp_ref = 'GL/8' WHERE key = 'north-1'"],
        ("", "entries", "north-1", "changed: posted, while posted is the newest that is told"),
    ),
    "entry's end undone": (
        ["UPDATE entries SET state = 'sealed' WHERE key = 'north-1'"],
        ("", "entries", "north-1", "changed: sealed, while posted is the newest that is told"),
    ),
    "entry's end made up": (
        ["UPDATE entries SET state = 'posted' WHERE key = 'north-4'"],
        ("", "entries", "north-4", "changed: posted, while sealed is the newest that is told"),
    ),
    "entry removed": (["DELETE FROM entries WHERE key = 'north-3'"], ("", "entries", "north-3", "removed")),
    "last entry removed": (
        [
            "DELETE FROM posting_sets",
            "DELETE FROM entries WHERE sealed_no = (SELECT MAX(sealed_no) FROM entries)",
        ],
        ("", "entries", "PS-north-0000000001", "removed"),
    ),
    "entry inserted": (
        [INSERTED_ENTRY],
        ("", "entries", "north-x", "inserted: nobody sealed it"),
    ),
    "entry inserted under a number that is none": (
        [INSERTED_ENTRY.replace("99", "0").replace("state", "'replaced'")],
        ("", "entries", "north-x", "inserted: nobody sealed it"),
    ),
    "claim of a set undone": (
        ["UPDATE posting_sets SET entry_key = NULL WHERE shard = 0 AND position_ms = 1 AND set_no = 1"],
        ("shard:0", "posting_sets", "1-0 1", "changed: is it in north-5?"),
    ),
    "posting set inserted into no shard": (
        [INSERTED_SET.replace("SELECT shard, 9", "SELECT -2, 9")],
        ("shard:-2", "posting_sets", "all", "inserted: there is no such shard"),
    ),
    "mapping changed": (
        ["UPDATE mapping_versions SET rows_json = '[]' WHERE version = 1"],
        ("governance", "mapping_versions", "1", "changed"),
    ),
    "mapping removed": (
        ["DELETE FROM mapping_versions WHERE version = 2"],
        ("governance", "mapping_versions", "2", "removed, or its decision undone"),
    ),
    "mapping inserted": (
        [
            "INSERT INTO mapping_versions SELECT 7, rows_json, author, added_at_ms FROM mapping_versions "
            "WHERE version = 1"
        ],
        ("governance", "mapping_versions", "7", "inserted: nobody did that"),
    ),
    "approver changed": (
        ["UPDATE changes SET decided_by = 'dan' WHERE change_no = 1"],
        ("governance", "changes", "1", "changed"),
    ),
    "proposal changed": (
        ["UPDATE changes SET body_json = '[9]' WHERE change_no = 3"],
        ("governance", "changes", "3", "changed"),
    ),
    "approval made up": (
        ["UPDATE changes SET state = 'approved', decided_by = 'ada' WHERE change_no = 3"],
        ("governance", "changes", "3", "inserted: nobody did that"),
    ),
    "change removed": (
        ["DELETE FROM changes WHERE change_no = 2"],
        ("governance", "changes", "2", "removed, or its decision undone"),
    ),
    "last change removed": (
        ["DELETE FROM changes WHERE change_no = 3"],
        ("governance", "changes", "3", "removed, or its decision undone"),
    ),
    "change inserted": (
        [
            "INSERT INTO changes SELECT 9, type, body_json, note, prepared_by, prepared_at_ms, state, decided_by, "
            "decided_at_ms, decided_note, effect_no, logged_at_ms FROM changes WHERE change_no = 3"
        ],
        ("governance", "changes", "9", "inserted: nobody did that"),
    ),
    "close changed": (
        ["UPDATE period_closes SET declared_by = 'dan'"],
        ("governance", "period_closes", "south/2026-09", "changed"),
    ),
    "close removed": (
        ["DELETE FROM period_closes"],
        ("governance", "period_closes", "south/2026-09", "removed, or its decision undone"),
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_chain_of_tampered_books_names_the_row(history: Data, what: str) -> None:
    """A row that was changed, removed or put in, in any table, is found and named."""
    statements, found = TAMPERED[what]

    report = run(history, *statements)

    assert found in [tuple(one) for one in report.breaks]
    assert not report.whole


def test_chain_misses_the_last_correction_of_an_entry(history: Data) -> None:
    """Corrections have a chain of their own, which must reach as far as their count; whole it is right."""
    books = history.open()
    corrected = books.delivery_of("north-1").entry
    books.correct_entry("north-1", reversal(corrected, books.postings_of(corrected), corrected.posted_on), "bea")
    assert check(history.url).breaks == []

    report = run(history, "DELETE FROM commit_chain WHERE shard = -1")

    found = ("shard:-1", "commit_chain", "after 0-0", "removed: the shard stands at 1-0")
    assert [tuple(one) for one in report.breaks] == [found]


def test_chain_with_a_kept_head_finds_an_end_cut_off(history: Data) -> None:
    """A head that was printed earlier must still be there: a consistent end that somebody cut off is missed."""
    heads = check(history.url).heads
    assert check(history.url, Kept(heads)).whole

    commit_sets(history.open(), posting(0), shard=1)
    assert check(history.url, Kept(heads)).whole

    kept = Kept({**heads, "shard:1": (1, "0" * 64)})
    assert [one.what for one in check(history.url, kept).breaks] == ["is no longer there"]


def test_chain_with_a_kept_report_finds_what_is_passed_off_as_older(history: Data) -> None:
    """A row put in with the claim that it was there before the chains began is found by who kept a report."""
    kept = msgspec.convert(msgspec.to_builtins(check(history.url)), Kept)
    passed_off = (
        "UPDATE counters SET value = 7 WHERE name = 'chained_after:mapping_versions'",
        "INSERT INTO mapping_versions SELECT 7, rows_json, author, added_at_ms FROM mapping_versions WHERE version = 1",
    )
    report = run(history, *passed_off)

    assert report.whole and report.unchained == {"mapping_versions": 1}
    (found,) = check(history.url, kept).breaks
    assert found == ("", "mapping_versions", "1 older than the chains", "inserted: there were 0")
