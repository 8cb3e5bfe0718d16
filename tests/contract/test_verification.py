"""Verification finds everything in order where it is, and names where a difference starts where it is not."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl
import pytest
from books_builders import Data, change
from recorded import Recorded, filled
from small_log import NOW_MS, control, event, events

from actors.cli.shard_proofs import ShardTask, proved
from actors.cli.verification import Verification, verify
from adapters.books.instant import Standing
from adapters.erp.http.fault import NoTrialBalance
from adapters.erp.memory import MemoryErp
from runtime.errors import BooksUnavailable
from runtime.ledger.journal import entry_key
from runtime.ports import ErpAccount, Outcome


@pytest.fixture
def recorded(sql_data: Data, tmp_path: Path) -> Recorded:
    return filled(sql_data.url, tmp_path / "archive")


def tamper(recorded: Recorded, *statements: str) -> Verification:
    """Change the books behind everybody's back, then verify."""
    change(recorded.url, *statements)
    return verify(recorded.sources(), recorded.erp)


def found(verification: Verification, what: str) -> list[tuple[str, str]]:
    """Place and event of the differences of one sort."""
    return [(one.position, one.event) for one in verification.differences if one.what == what]


def test_verification_of_untouched_books_agrees_and_covers_all(recorded: Recorded) -> None:
    """Every event, posting, waiting row, entry and ERP document is compared; nothing differs, nothing is left out."""
    result = verify(recorded.sources(), recorded.erp)

    assert result.differences == [] and result.uncovered == []
    counts = result.counts
    assert counts["events"] == 27 and counts["outcomes"] > 20 and counts["posting sets"] > 5 and counts["steps"] > 8
    assert counts["journal entries"] == counts["ERP documents"] > 0
    assert counts["events in ERP documents"] == 14
    assert counts["open exceptions"] == 2 and counts["open items"] > 0 and counts["waiting rows"] == 2


def test_verification_without_a_checkpoint_goes_on_in_the_log(recorded: Recorded) -> None:
    """What no archive holds yet is taken from the log, up to where the books stand."""
    recorded.append(events(0, event("late", "charge_posted", 11)), control(1, {"type": "tick", "now_ms": NOW_MS}))
    recorded.work(checkpoint=False)
    recorded.append(events(0, event("not yet", "charge_posted", 12)))

    result = verify(recorded.sources(), recorded.erp)

    assert result.differences == [] and result.uncovered == []
    assert result.counts["events"] == 28


def test_verification_without_the_log_says_what_it_does_not_cover(recorded: Recorded) -> None:
    """Entries that neither the archive nor a log gives are named, and nothing is called wrong."""
    recorded.append(events(0, event("late", "charge_posted", 11)))
    recorded.work(checkpoint=False)

    result = verify(recorded.sources()._replace(open_log=None), None)

    assert [one.split(":")[0] for one in result.uncovered] == ["shard 0", "the ERP was not asked"]
    assert result.right


def test_verification_compares_a_snapshot_that_a_checkpoint_replaces_meanwhile(recorded: Recorded) -> None:
    """The snapshot of a shard under way is held; that of one whose turn is to come is named as not compared."""
    waiting = [
        events(0, event("late", "charge_posted", 11)),
        events(1, event("far", "charge_posted", 1, facility="west")),
    ]

    def checkpointed(_rows: int) -> None:
        while waiting:
            recorded.append(waiting.pop())
            recorded.work()

    result = verify(recorded.sources(), recorded.erp, progress=checkpointed)

    assert result.right and result.counts["waiting rows"] > 0
    assert result.uncovered == ["shard 1: its snapshot was replaced before it was verified: waiting rows not compared"]


TAMPERED = {
    "posting": (
        """UPDATE posting_sets SET lines = REPLACE(lines, '"D",', '"D",1') WHERE shard = 0 AND mode = 'summary'""",
    ),
    "balance": ("UPDATE posting_sets SET lines = REPLACE(lines, 'GL-CASH', 'GL-X') WHERE shard = 1",),
    "control total": ("UPDATE totals SET events = events + 1 WHERE kind = 'charge_posted' AND state = 'booked'",),
    "open exception": ("UPDATE exceptions SET state = 'resolved' WHERE type = 'event_conflict'",),
    "claimed sets": ("UPDATE posting_sets SET entry_key = NULL WHERE shard = 1",),
    "posting sets": ("UPDATE posting_sets SET position_seq = 5 WHERE shard = 1",),
    "events of a posting set": ("UPDATE posting_sets SET events = events + 1 WHERE shard = 1",),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_verification_of_changed_books_finds_it(recorded: Recorded, what: str) -> None:
    """Whatever of the books is changed, that sort of difference is found."""
    assert found(tamper(recorded, *TAMPERED[what]), what)


@pytest.mark.parametrize("what", ["nothing", "posting", "open exception"])
def test_verification_finds_the_same_with_shards_side_by_side(recorded: Recorded, what: str) -> None:
    """Shards in processes of their own come to the same, counts and differences, and all of their rows are told."""
    change(recorded.url, *TAMPERED.get(what, ()))
    sources, told = recorded.sources()._replace(open_log=None), []

    alone = verify(sources, recorded.erp)
    result = verify(sources, recorded.erp, 2, told.append)

    assert result == alone and result.right == (what == "nothing")
    assert sum(told) == result.counts["events"] == 27


def test_verification_in_processes_names_books_that_can_not_be_read(recorded: Recorded) -> None:
    """What stops a shard in its process is told as it is told without one."""
    tasks = [ShardTask(shard, Standing("5-0", "", ""), pl.DataFrame()) for shard in range(2)]
    gone = recorded.sources()._replace(open_log=None, books_url="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(BooksUnavailable):
        proved(gone, tasks, 2, lambda rows: None)


def test_verification_names_the_event_where_a_difference_starts(recorded: Recorded) -> None:
    """A posting that is not what its event says is named by that event and its entry in the log."""
    result = tamper(
        recorded, "UPDATE posting_sets SET lines = REPLACE(lines, '\"D\",20]', '\"D\",21]') WHERE shard = 1"
    )

    assert found(result, "posting") == [("3-0", "ehr w9")]
    assert not result.right


def test_verification_of_changed_control_total_names_its_first_event(recorded: Recorded) -> None:
    """A control total is traced to the step and the event that it began with."""
    result = tamper(
        recorded, "UPDATE totals SET amount_minor = 0 WHERE kind = 'payment_received' AND state = 'accepted'"
    )

    assert [event for _, event in found(result, "control total")] == ["ehr w9"]


def test_verification_of_an_erp_that_lost_an_entry_names_the_document(recorded: Recorded) -> None:
    """What the books call posted and the ERP does not hold is found by its key and by the turnover of its accounts."""
    kept, (number, lost) = MemoryErp(), recorded.erp.moves[-1]
    for _, entry in recorded.erp.moves[:-1]:
        kept.post([entry])

    result = verify(recorded.sources(), kept)

    assert [one.expected for one in result.differences if one.what == "ERP document"] == [number]
    assert {one.what for one in result.differences} == {"ERP document", "ERP turnover"}
    assert lost.key in [one.key for one in result.differences]


class WithoutTrialBalance(MemoryErp):
    """An ERP that shows no turnover."""

    def trial_balance(self) -> list[ErpAccount]:
        raise NoTrialBalance


def test_verification_of_an_erp_without_a_trial_balance_still_looks_keys_up(recorded: Recorded) -> None:
    """What one ERP can't show is named as not covered, and everything else is compared."""
    kept, (number, lost) = WithoutTrialBalance(), recorded.erp.moves[-1]
    kept.post([entry for _, entry in recorded.erp.moves[:-1]])

    result = verify(recorded.sources(), kept)

    [difference] = result.differences
    assert (difference.what, difference.key, difference.expected) == ("ERP document", lost.key, number)
    assert result.uncovered == ["this adapter reads no trial balance"]


def test_verification_of_an_erp_that_holds_a_key_twice_names_it(recorded: Recorded) -> None:
    """An entry that stands twice in an ERP without a trial balance is told by its key."""
    kept, (number, twice) = WithoutTrialBalance(), recorded.erp.moves[0]
    kept.post([entry for _, entry in recorded.erp.moves])
    kept.post([twice])

    result = verify(recorded.sources(), kept)

    assert [(one.key, one.expected, one.found) for one in result.differences] == [
        (twice.key, number, "duplicate key in ERP")
    ]


def test_verification_after_a_restore_names_documents_behind_numbers_that_were_never_posted(recorded: Recorded) -> None:
    """An entry of a lost future is found behind others that were refused, however few keys one lookup takes."""
    change(recorded.url, "INSERT INTO counters (name, value) VALUES ('restored_entry_no', 1000)")
    later = msgspec.structs.replace(recorded.erp.moves[0][1], key=entry_key("mercy", 1017))
    recorded.erp.post([later])
    recorded.erp._terms = msgspec.structs.replace(recorded.erp.terms(), lookup_keys_max=1)

    result = verify(recorded.sources(), recorded.erp)

    told = [one.key for one in result.differences if "lost future" in one.what]
    assert told == [later.key]


def test_verification_leaves_the_drafts_of_an_erp_as_they_are(recorded: Recorded) -> None:
    """What a sender has left between creating and posting is a lookup's to post, never a comparison's."""
    change(recorded.url, "INSERT INTO counters (name, value) VALUES ('restored_entry_no', 1000)")
    later = msgspec.structs.replace(recorded.erp.moves[0][1], key=entry_key("mercy", 1001))
    recorded.erp.plan("lose_answer_after_draft")
    recorded.erp.post([later])

    assert verify(recorded.sources(), recorded.erp).differences == []
    assert later.key not in [entry.key for _, entry in recorded.erp.moves]
    assert recorded.erp.lookup([later.key])[later.key].code == "posted"


class WithALockedCompany(MemoryErp):
    """An ERP that can ask all companies but one: what it does not find may be there."""

    def shown(self, keys: Sequence[str]) -> dict[str, Outcome]:
        return {key: Outcome(key, "unknown", detail="no log-in") for key in keys} | super().shown(keys)


def test_verification_beside_a_company_that_can_not_be_asked_says_so_and_ends(recorded: Recorded) -> None:
    """A key of which nothing is known is neither missing nor of a lost future."""
    change(recorded.url, "INSERT INTO counters (name, value) VALUES ('restored_entry_no', 1000)")
    kept = WithALockedCompany()
    kept.post([entry for _, entry in recorded.erp.moves[:-1]])

    result = verify(recorded.sources(), kept)

    assert {one.what for one in result.differences} <= {"ERP turnover"}
    assert result.uncovered == ["a company could not be asked for keys: no log-in"]


def test_verification_of_an_erp_with_an_entry_too_many_finds_its_turnover(recorded: Recorded) -> None:
    """An entry that only the ERP knows shows as turnover that the books do not have."""
    strange = msgspec.structs.replace(recorded.erp.moves[0][1], key="mercy-strange")
    recorded.erp.post([strange])

    result = verify(recorded.sources(), recorded.erp)

    assert {one.what for one in result.differences} == {"ERP turnover"}


def test_verification_of_an_archive_that_lacks_steps_says_so(recorded: Recorded, tmp_path: Path) -> None:
    """A segment that is gone makes the shard impossible to derive: it is named, and the other shard is verified."""
    first = min((tmp_path / "archive/steps/shard=0000").iterdir(), key=lambda path: int(path.name.split("-")[0]))
    first.unlink()

    result = verify(recorded.sources(), recorded.erp)

    assert any(one.startswith("shard 0: the archive lacks") for one in result.uncovered)
    assert result.positions.keys() == {1}


def test_verification_of_wrong_postings_that_balance_names_the_first_event(recorded: Recorded) -> None:
    """Postings that are all ten times as large balance in every sum: the first event is named, before what follows."""
    result = tamper(
        recorded, "UPDATE posting_sets SET lines = REPLACE(REPLACE(lines, '],', '0],'), ']]', '0]]') WHERE shard = 0"
    )

    first = result.differences[0]
    assert (first.what, first.shard, first.event) == ("posting", 0, "ehr c0")
