"""Entries that were wrong: sent again by themselves, booked anew under other accounts, reversed by two people."""

import json
from datetime import date

import polars as pl
import pytest
from books_builders import ERP, NOW_MS, Data, change, commit_openings, commit_sets, entry, posting

from adapters.books.chain_check import check
from runtime.effects import DELTAS, empty
from runtime.errors import Fenced, GovernanceError, SameSigner
from runtime.ledger.compensation import restatement, reversal
from runtime.ports import CORRECTIONS, Books, JournalLine, Outcome

OCTOBER, NOVEMBER = date(2026, 10, 3), date(2026, 11, 1)
COUNTED = ["account_code", "debit_minor", "credit_minor", "posted_debit_minor", "posted_credit_minor"]


def ended(books: Books, key: str, code: str) -> int:
    """An entry of one posting set that its ERP answered so; the epoch of the ERP's owner."""
    position = commit_sets(books, posting(0))
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry(key, (0, position, 0))])
    books.mark_in_flight(ERP, epoch, [key])
    books.record_outcomes(ERP, epoch, [Outcome(key, code, detail="the period is closed")])
    return epoch


def corrected(books: Books, key: str, account: str, *, back: bool) -> pl.DataFrame:
    """What puts an entry right whose revenue belongs to another account."""
    held = books.delivery_of(key).entry
    postings = books.postings_of(held)
    mended = postings.with_columns(pl.col("account_code").replace({"4000": account}))
    instead = restatement(held, mended, OCTOBER)
    return pl.concat([reversal(held, postings, OCTOBER), instead]) if back else instead


def post_all(books: Books, epoch: int) -> None:
    """Seal every set that waits as an entry of its own, and have the ERP take it."""
    waiting = books.unclaimed(["north"], 100)
    for number, (place, lines) in enumerate(waiting.group_by("shard", "position", "set_no", maintain_order=True)):
        told = tuple(
            JournalLine(row["account_code"], row["side"], row["amount_minor"], "F1", "D1", f"{row['kind']}, 7 events")
            for row in lines.iter_rows(named=True)
        )
        key = f"C{place[1]}-{number}"
        books.seal(ERP, epoch, [entry(key, place, lines=told, mode="immediate", document=lines["document"][0])])
        books.record_outcomes(ERP, epoch, [Outcome(key, "posted")])


def test_rejected_entries_are_sent_again_and_others_are_left_alone(books: Books) -> None:
    """Only what is rejected still goes back to sealed, with its history told; a former owner sends nothing again."""
    epoch = ended(books, "J1", "rejected")
    assert books.delivery_of("J1").detail == "the period is closed"
    assert books.retry_rejected(ERP, epoch, ["J1", "J2"]) == 1
    assert books.entry_counts() == {"sealed": 1}
    assert books.retry_rejected(ERP, epoch, ["J1"]) == 0
    books.take_epoch(ERP, "another")
    with pytest.raises(Fenced):
        books.retry_rejected(ERP, epoch, ["J1"])
    assert books.delivery_of("J9") is None


def test_rejected_entries_are_released_by_a_person_in_one_transaction(books: Books) -> None:
    """What the poster has tried meanwhile is left out; the history and the audit trail name the person."""
    ended(books, "J1", "rejected")
    assert books.release_rejected(["J1", "J2"], "ana") == ["J1"]
    assert books.release_rejected(["J1"], "ana") == []
    history = books.exception_history(books.exceptions()["exception_id"][0])
    assert history.select("change", "changed_by").row(-1) == ("entry released", "ana")
    with pytest.raises(GovernanceError):
        books.release_rejected(["J1"], " ")


def test_entry_in_doubt_is_released_by_who_has_looked(books: Books) -> None:
    """Only a person who says that the ERP does not hold it sends an entry in doubt back; its exception ends with it."""
    epoch = ended(books, "J1", "unknown")
    with pytest.raises(GovernanceError, match="in doubt"):
        books.release_entry("J1", "ana")
    books.release_entry("J1", "ana", not_there=True)
    assert books.entry_counts() == {"sealed": 1}
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "1")])
    assert books.exception_counts() == {}


def test_rejected_entry_is_replaced_and_what_it_kept_counts_no_longer(books: Books) -> None:
    """The account that the ERP refused is gone from every balance, the new one stands there once; nothing is reversed,
    and control totals stay as they are."""
    epoch = ended(books, "J1", "rejected")
    before = books.totals()
    books.correct_entry("J1", corrected(books, "J1", "4010", back=False), "erp:main")
    assert books.delivery_of("J1").state == "replaced"
    assert books.exception_counts() == {}
    post_all(books, epoch)
    rows = books.balances().select(COUNTED).rows()
    assert rows == [("1100", 100, 0, 100, 0), ("4010", 0, 100, 0, 100)]
    assert books.totals().equals(before)
    assert books.conservation_breaks(100) == []
    with pytest.raises(GovernanceError, match="is replaced"):
        books.correct_entry("J1", empty(DELTAS), "ana")


def test_posted_entry_is_reversed_and_booked_anew(books: Books) -> None:
    """The old entry stays; reversal and new postings are each to be claimed, and the books come to the right account.
    A second correction of the same entry is refused."""
    epoch = ended(books, "J1", "posted")
    books.correct_entry("J1", corrected(books, "J1", "4010", back=True), "ana")
    assert books.delivery_of("J1").state == "posted"
    waiting = books.unclaimed(["north"], 100)
    assert set(waiting.select("shard", "mode", "document").rows()) == {
        (CORRECTIONS, "immediate", "reversal of J1"),
        (CORRECTIONS, "immediate", "instead of J1"),
    }
    post_all(books, epoch)
    signed = {row[0]: row[1] - row[2] for row in books.balances().select(COUNTED).rows()}
    assert signed == {"1100": 100, "4000": 0, "4010": -100}
    assert books.conservation_breaks(100) == []
    accepted = books.totals().filter(pl.col("state") == "accepted")
    assert sorted(accepted.select("kind", "amount_minor").rows()) == [("entry_restated", 100), ("entry_reversed", 100)]
    with pytest.raises(GovernanceError, match="corrected before"):
        books.correct_entry("J1", corrected(books, "J1", "4020", back=True), "ana")


def test_reversal_is_approved_by_another_and_carried_out_at_once(books: Books) -> None:
    """Who proposed can't approve; the approval and the reversal are one transaction, whatever of it is refused."""
    ended(books, "J1", "posted")
    number = books.propose_change("reversal", json.dumps("J1"), "ana")
    held = books.delivery_of("J1").entry
    back = reversal(held, books.postings_of(held), NOVEMBER)
    with pytest.raises(SameSigner):
        books.correct_entry("J1", back, "Ana", number)
    assert books.unclaimed_count(["north"]) == 0
    books.correct_entry("J1", back, "bea", number)
    assert books.changes("approved").select("decided_by", "effect_no").rows() == [("bea", 1)]
    assert books.period_left("north", "2026-11").sets == 1
    with pytest.raises(GovernanceError):
        books.correct_entry("J1", back, "bea", number)


@pytest.mark.parametrize("state", ["sealed", "unknown", "in_flight"])
def test_entry_of_unknown_fate_is_not_corrected(books: Books, state: str) -> None:
    """What may still be booked, or may be there already, must be settled first."""
    epoch = ended(books, "J1", "rejected")
    books.retry_rejected(ERP, epoch, ["J1"])
    if state != "sealed":
        books.mark_in_flight(ERP, epoch, ["J1"])
    if state == "unknown":
        books.record_outcomes(ERP, epoch, [Outcome("J1", "unknown")])
    with pytest.raises(GovernanceError, match=f"is {state}"):
        books.correct_entry("J1", corrected(books, "J1", "4010", back=False), "ana")


def test_close_that_is_declared_takes_no_correction_of_an_entry(books: Books) -> None:
    """The reversal of a posted entry may not fall into a closed period; into an open one it may."""
    ended(books, "J1", "posted")
    held = books.delivery_of("J1").entry
    books.order_close("north", held.period, NOW_MS, "ana")
    books.cut_off("north", held.period, NOVEMBER, "ana")
    commit_openings(books, NOVEMBER)
    books.declare_closed("north", held.period, 1)
    with pytest.raises(GovernanceError, match=f"{held.period}: closed"):
        books.correct_entry("J1", reversal(held, books.postings_of(held), OCTOBER), "ben")
    assert books.unclaimed_count(["north"]) == 0
    books.correct_entry("J1", reversal(held, books.postings_of(held), NOVEMBER), "ben")
    assert books.unclaimed_count(["north"]) == 1


def test_corrections_are_in_the_audit_trail(data: Data) -> None:
    """What was added to correct an entry is chained like a commit; a line of it that is changed is found."""
    if not data.url:
        pytest.skip("the books in memory keep no chains")
    books = data.open()
    epoch = ended(books, "J1", "rejected")
    books.correct_entry("J1", corrected(books, "J1", "4010", back=False), "ana")
    post_all(books, epoch)
    assert check(data.url).breaks == []
    other = """REPLACE(lines, '"4010"', '"4020"')"""
    change(data.url, f"UPDATE posting_sets SET lines = {other} WHERE shard = {CORRECTIONS}")
    assert [(one.ledger, one.what) for one in check(data.url).breaks] == [(f"shard:{CORRECTIONS}", "changed")]


def test_document_of_a_restated_entry_is_told_to_be_posted(books: Books) -> None:
    """Who was told that a document's entry was rejected is told that it is posted, when what stands instead is."""
    set_of_document = posting(0, mode="immediate", kind="invoice_received", document="INV-1")
    position = commit_sets(books, set_of_document)
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0), mode="immediate", document="INV-1")])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected")])
    books.correct_entry("J1", corrected(books, "J1", "4010", back=False), "ana")
    post_all(books, epoch)
    books.take_epoch("relay", "relay")
    books.number_statuses("relay", 1, 10)
    told = books.statuses(0, 10).select("status", "document").rows()
    assert told == [("rejected", "INV-1"), ("posted", "INV-1")]


@pytest.mark.parametrize("code", ["unknown", "parked"])
def test_entry_in_doubt_is_settled_by_who_has_seen_it(books: Books, code: str) -> None:
    """A person's word ends the doubt: the entry is posted under the ERP's number, and nobody sends it again."""
    epoch = ended(books, "J1", "unavailable")
    with pytest.raises(GovernanceError, match="only one in doubt or parked"):
        books.settle_entry("J1", "77", "ana")
    books.record_outcomes(ERP, epoch, [Outcome("J1", code)])
    with pytest.raises(GovernanceError, match="name the number"):
        books.settle_entry("J1", " ", "ana")
    books.settle_entry("J1", "77", "ana")
    held = books.delivery_of("J1")
    assert (held.state, held.erp_ref) == ("posted", "77")
    assert books.exception_counts() == {}
    assert books.balances()["posted_debit_minor"].sum() == 100
