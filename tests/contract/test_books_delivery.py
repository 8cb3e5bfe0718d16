"""Delivery and period close in every implementation of the books."""

from datetime import date

import msgspec
import polars as pl
import pytest
from books_builders import ERP, NOW_MS, commit_openings, commit_sets, entry, posting, sealed, suspended

from runtime.errors import Fenced, GovernanceError
from runtime.ports import Books, Outcome, PeriodClose, PeriodLeft

PERIOD = "2026-10"
OPENS_ON = date(2026, 11, 1)


@pytest.mark.parametrize(
    ("code", "state", "exceptions"),
    [("accepted", "in_flight", {}), ("parked", "parked", {"erp_unknown_outcome": 1})],
)
def test_outcomes_of_delivery_itself_move_the_entry(
    books: Books, code: str, state: str, exceptions: dict[str, int]
) -> None:
    """What a job has accepted stays in flight; what nothing can prove is parked for a person."""
    epoch = sealed(books, "J1")
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", code, "job-7")])
    assert books.entry_counts() == {state: 1}
    assert books.exception_counts() == exceptions


def test_deliveries_tell_attempts_instants_and_the_job(books: Books) -> None:
    """A successor finds when an entry was sent first and last, and which job has it."""
    epoch = sealed(books, "J1")
    [fresh] = books.deliveries(["north"], ["sealed"], 10)
    assert (fresh.entry.key, fresh.attempts, fresh.first_sent_ms, fresh.sent_ms, fresh.erp_ref) == ("J1", 0, 0, 0, "")
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "throttled")])
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "accepted", "job-7")])
    [sent] = books.deliveries(["north"], ["in_flight"], 10)
    assert (sent.state, sent.attempts, sent.erp_ref) == ("in_flight", 2, "job-7")
    assert NOW_MS <= sent.first_sent_ms < sent.sent_ms


def test_deliveries_are_of_a_period_when_one_is_named(books: Books) -> None:
    """Entries of a period that is to be closed are found without reading the others."""
    sealed(books, "J1")
    assert [d.entry.key for d in books.deliveries(["north"], ["sealed"], 10, PERIOD)] == ["J1"]
    assert books.deliveries(["north"], ["sealed"], 10, "2026-09") == []
    assert books.deliveries(["south"], ["sealed"], 10) == []


def test_unclaimed_is_of_a_period_when_one_is_named(books: Books) -> None:
    """So are posting sets."""
    commit_sets(books, posting(0))
    assert books.unclaimed(["north"], 10, PERIOD).height == books.unclaimed(["north"], 10).height > 0
    assert books.unclaimed(["north"], 10, "2026-09").is_empty()


def test_governor_is_kept_by_its_owner_and_with_an_intent(books: Books) -> None:
    """What is saved last is what a successor gets, and only the newest epoch saves."""
    assert books.governor(ERP) == ""
    old = sealed(books, "J1")
    books.save_governor(ERP, old, "first")
    books.mark_in_flight(ERP, old, ["J1"], "second")
    assert books.governor(ERP) == "second"
    new = books.take_epoch(ERP, "poster 2").epoch
    with pytest.raises(Fenced):
        books.save_governor(ERP, old, "zombie")
    with pytest.raises(Fenced):
        books.mark_in_flight(ERP, old, ["J1"], "zombie")
    assert books.governor(ERP) == "second"
    books.save_governor(ERP, new, "third")
    assert books.governor(ERP) == "third"


def test_role_balances_are_those_at_a_periods_end(books: Books) -> None:
    """By account and currency, of one entity and role alone; what comes to nothing is left out."""
    commit_sets(books, posting(0), suspended(1, 5000, "2026-09"), suspended(2, -2000, PERIOD))
    commit_sets(books, suspended(0, -3000, "2026-11"), suspended(1, 7, PERIOD).with_columns(entity=pl.lit("south")))
    nets = [books.role_balances("north", "SUSPENSE", period) for period in ("2026-08", "2026-09", PERIOD, "2026-11")]
    assert nets == [{}, {("2910", "USD"): 5000}, {("2910", "USD"): 3000}, {}]
    assert books.role_balances("south", "SUSPENSE", PERIOD) == {("2910", "USD"): 7}
    assert books.role_balances("north", "SUSPENS_", PERIOD) == {}


def test_close_is_refused_until_everything_is_posted(books: Books) -> None:
    """An unclaimed set, a sealed entry and a rejected one each refuse; with all posted it is cut off."""
    position = commit_sets(books, posting(0))
    books.order_close("north", PERIOD, NOW_MS, "ana")
    assert books.period_left("north", PERIOD) == PeriodLeft(1, {}, lines=2)
    refuse(books, "1 posting sets unclaimed")
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0))])
    assert books.period_left("north", PERIOD) == PeriodLeft(0, {"sealed": 1}, lines=2)
    refuse(books, "1 entries sealed")
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected")])
    assert books.period_left("north", PERIOD) == PeriodLeft(0, {"rejected": 1})
    refuse(books, "1 entries rejected")
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "JE-1")])
    books.cut_off("north", PERIOD, OPENS_ON, "ben")
    assert books.closes() == [PeriodClose("north", PERIOD, NOW_MS, "ana", "cut_off", 0, OPENS_ON, "ben")]
    books.cut_off("north", PERIOD, date(2027, 1, 1), "eve")
    books.order_close("north", PERIOD, NOW_MS + 1, "eve")
    assert books.closes() == [PeriodClose("north", PERIOD, NOW_MS + 1, "eve", "cut_off", 0, OPENS_ON, "ben")]


def test_close_is_declared_once_every_shard_has_left_the_period_behind(books: Books) -> None:
    """A shard that was not told, and one that was told of an earlier day, may still post into it."""
    books.order_close("north", PERIOD, NOW_MS, "ana")
    with pytest.raises(ValueError, match="not cut off"):
        books.declare_closed("north", PERIOD, 2)
    books.cut_off("north", PERIOD, OPENS_ON, "ben")
    commit_openings(books, date(2026, 10, 1), shards=2)
    commit_openings(books, OPENS_ON, entity="south", shards=2)
    commit_openings(books, OPENS_ON, shards=1)
    with pytest.raises(ValueError, match="shard 1 has not booked"):
        books.declare_closed("north", PERIOD, 2)
    commit_openings(books, OPENS_ON, shards=2)
    assert books.declare_closed("north", PERIOD, 2) == 1
    assert books.closes() == [PeriodClose("north", PERIOD, NOW_MS, "ana", "declared", 1, OPENS_ON, "ben")]


def test_close_is_not_declared_while_something_is_left_that_came_before_its_end(books: Books) -> None:
    """What a shard commits after the cut-off, before it knows of it, belongs to the period and must be posted."""
    books.order_close("north", PERIOD, NOW_MS, "ana")
    books.cut_off("north", PERIOD, OPENS_ON, "ben")
    position = commit_sets(books, posting(0))
    commit_openings(books, OPENS_ON)
    with pytest.raises(ValueError, match="1 posting sets unclaimed"):
        books.declare_closed("north", PERIOD, 1)
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J1", (0, position, 0))])
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "posted", "JE-1")])
    assert books.declare_closed("north", PERIOD, 1) == 1


def test_replaced_entry_stays_so_when_an_outcome_is_recorded_again(books: Books) -> None:
    """A sender that was not told whether its outcomes were stored repeats them: what people replaced meanwhile could
    else be sent again, beside what stands in its place."""
    epoch = sealed(books, "J1")
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected")])
    books.replace_entry("J1", entry("any"), "ben")

    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected")])

    assert books.delivery_of("J1").state == "replaced"
    assert books.exception_counts() == {}
    with pytest.raises(GovernanceError):
        books.release_entry("J1", "ben")


def test_close_that_is_declared_takes_no_replacement_of_an_entry(books: Books) -> None:
    """What people let post instead of a rejected entry may not fall into a closed period."""
    books.order_close("north", "2026-09", NOW_MS, "ana")
    books.cut_off("north", "2026-09", OPENS_ON, "ana")
    commit_openings(books, OPENS_ON)
    books.declare_closed("north", "2026-09", 1)
    epoch = sealed(books, "J1")
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected")])
    with pytest.raises(GovernanceError, match="2026-09: closed; let it post on 2026-11-01 or later"):
        books.replace_entry("J1", entry("any", period="2026-09", posted_on=date(2026, 9, 30)), "ben")
    books.replace_entry("J1", entry("any"), "ben")
    assert books.period_left("north", "2026-09").nothing


def refuse(books: Books, why: str) -> None:
    """The period can't be cut off, for this reason."""
    with pytest.raises(ValueError, match=why):
        books.cut_off("north", PERIOD, OPENS_ON, "ben")


def test_close_needs_an_order_and_a_later_opening(books: Books) -> None:
    """Nobody closes what was not ordered, and late events never post into the closed period itself."""
    refuse(books, "no close was ordered")
    books.order_close("north", PERIOD, NOW_MS, "ana")
    with pytest.raises(ValueError, match="not after the period"):
        books.cut_off("north", PERIOD, date(2026, 10, 31), "ben")


def test_close_ordered_again_moves_its_time_until_it_is_declared(books: Books) -> None:
    """The newest order counts; a declared close stays as it is and keeps its number."""
    books.order_close("north", PERIOD, NOW_MS, "ana")
    books.order_close("north", PERIOD, NOW_MS + 1, "ben")
    books.order_close("north", "2026-09", NOW_MS, "ana")
    assert [(c.period, c.due_ms, c.ordered_by) for c in books.closes()] == [
        ("2026-09", NOW_MS, "ana"),
        (PERIOD, NOW_MS + 1, "ben"),
    ]
    commit_openings(books, OPENS_ON)
    for period in (PERIOD, "2026-09"):
        books.cut_off("north", period, OPENS_ON, "ben")
    assert [books.declare_closed("north", period, 1) for period in (PERIOD, "2026-09", PERIOD)] == [1, 2, 1]
    with pytest.raises(ValueError, match="declared closed already"):
        books.order_close("north", PERIOD, NOW_MS, "ana")


def test_replaced_entry_stays_and_its_sets_go_over_to_the_new_one(books: Books) -> None:
    """The old entry is history, never sent again and in nobody's way; the new one has a fresh key and is sealed."""
    position = commit_sets(books, posting(0))
    epoch = books.take_epoch(ERP, "poster").epoch
    old = entry("J1", (0, position, 0))
    books.seal(ERP, epoch, [old])
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected", detail="period closed")])
    moved = msgspec.structs.replace(old, key="any", period="2026-11", posted_on=date(2026, 11, 1))

    key = books.replace_entry("J1", moved, "ana")

    assert books.entry_counts() == {"replaced": 1, "sealed": 1}
    assert books.deliveries(["north"], ["sealed"], 9)[0].entry == msgspec.structs.replace(moved, key=key)
    assert set(books.posting_of(0, position, 0)["entry_key"]) == {key} != {"J1"}
    assert books.period_left("north", PERIOD).nothing
    assert books.exception_counts() == {}
    with pytest.raises(GovernanceError, match="is replaced"):
        books.replace_entry("J1", moved, "ana")


def test_replacement_of_sets_that_are_not_the_old_entrys_is_refused(books: Books) -> None:
    """A posting set is never in two entries, and a refusal leaves nothing behind."""
    epoch = sealed(books, "J1")
    position = commit_sets(books, posting(0))
    books.mark_in_flight(ERP, epoch, ["J1"])
    books.record_outcomes(ERP, epoch, [Outcome("J1", "rejected")])
    with pytest.raises(ValueError, match="claimed already or does not exist"):
        books.replace_entry("J1", entry("any", (0, position, 0)), "ana")
    assert books.entry_counts() == {"rejected": 1}
    assert books.unclaimed_count(["north"]) == 1
