"""`penstock close` and `penstock erp retry` on a database of their own: what they show, store and refuse."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from books_builders import ERP, commit_openings, commit_sets, entry, posting, suspended
from typer.testing import CliRunner

from actors.cli import app
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from runtime.ports import Books, Outcome

CONFIG = """
[runtime]
data_dir = "{folder}"
[erp]
calls_per_minute = 6
[entities.north]
name = "North"
opens_on = 2026-07-01
"""
CLOSE = ("close", "--entity", "north", "--period", "2026-10")


class Commands:
    """Runs commands on one installation's books."""

    def __init__(self, folder: Path) -> None:
        self._config = folder / "penstock.toml"
        self._config.write_text(CONFIG.format(folder=folder))

    def run(self, *words: str, status: int = 0) -> str:
        """What a command says; its exit status is checked."""
        result = CliRunner().invoke(app, [*words, "--config", str(self._config)])
        assert result.exit_code == status, result.output
        return result.output

    def json(self, *words: str, status: int = 0) -> dict:
        """What a command answers to a machine."""
        return json.loads(self.run(*words, "--json", status=status))


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """Books with one entry that its ERP rejected, and one posting set that waits."""
    url = f"sqlite:///{tmp_path / 'books.sqlite'}"
    upgrade(url)
    opened = SqlBooks(url)
    position = commit_sets(opened, posting(0), posting(1))
    epoch = opened.take_epoch(ERP, "poster").epoch
    opened.seal(ERP, epoch, [entry("J1", (0, position, 0))])
    opened.mark_in_flight(ERP, epoch, ["J1"])
    opened.record_outcomes(ERP, epoch, [Outcome("J1", "rejected", detail="period closed")])
    yield opened
    opened.close()


def test_close_shows_the_forecast_and_what_is_in_the_way(commands: Commands, books: Books) -> None:
    """Without an order it only shows, at the configured pace when nothing runs, and fails as it won't be in time."""
    shown = commands.json(*CLOSE, status=1)
    assert (shown["sets_unclaimed"], shown["entries_stuck"], shown["calls_left"]) == (1, 1, 1)
    assert (shown["calls_per_minute"], shown["pace_known"], shown["drain_s"]) == (6, False, 10)
    assert {"what": "entries rejected", "count": 1, "refuses": True} in shown["blockers"]
    assert {"what": "exceptions: erp_rejected", "count": 1, "refuses": False} in shown["blockers"]
    told = commands.run(*CLOSE, status=1)
    assert "in the way" in told and "not ordered" in told and "due" not in told
    assert books.closes() == []


def test_close_shows_what_is_left_in_suspense_at_the_periods_end(commands: Commands, books: Books) -> None:
    """What came until then and was solved later is in the way; what comes later is not."""
    commit_sets(books, suspended(0, 5000, "2026-09"), suspended(1, -5000, "2026-11"))
    suspense = {"what": "SUSPENSE 2910: 50.00 USD", "count": 1, "refuses": False}
    assert suspense in commands.json(*CLOSE, status=1)["blockers"]
    assert "SUSPENSE 2910: 50.00 USD" in commands.run(*CLOSE, status=1)
    assert suspense not in commands.json("close", "--entity", "north", "--period", "2026-11", status=1)["blockers"]


def test_close_by_a_time_is_ordered_and_not_declared_before_all_is_posted(commands: Commands, books: Books) -> None:
    """The order lasts; declaring says why it is refused, and changes nothing."""
    commands.run(*CLOSE, "--by", "17:00", "--who", "ana", status=1)
    [order] = books.closes()
    assert (order.entity, order.period, order.ordered_by, order.state) == ("north", "2026-10", "ana", "ordered")
    refused = commands.json(*CLOSE, "--done", "--who", "ben", status=1)
    assert "1 posting sets unclaimed" in refused["refused"]
    assert books.closes() == [order]


def test_close_of_a_drained_period_is_declared(commands: Commands, books: Books) -> None:
    """With everything posted it is cut off, and closed when every shard posts from the next month's first day on."""
    [position] = books.unclaimed(["north"], 9)["position"].unique().to_list()
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, [entry("J2", (0, position, 1))])
    books.record_outcomes(ERP, epoch, [Outcome(key, "posted", key) for key in ("J1", "J2")])
    commands.run(*CLOSE, "--by", "2099-01-01T00:00")
    cut_off = commands.json(*CLOSE, "--done", "--who", "ben", status=1)
    assert cut_off["state"] == "cut_off" and "shard 0, 1, 2, 3 has not booked yet" in cut_off["refused"]
    commit_openings(books, date(2026, 11, 1), shards=4)
    closed = commands.json(*CLOSE, "--done", "--who", "eve")
    assert (closed["state"], closed["done"], closed["refused"]) == ("declared", True, "")
    [close] = books.closes()
    assert (f"{close.opens_on}", close.declared_by, close.number) == ("2026-11-01", "ben", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("close", "--entity", "south", "--period", "2026-10"), "--entity"),
        (("close", "--entity", "north", "--period", "Q4"), "--period"),
        (("close", "--entity", "north", "--period", "2026-9"), "--period"),
        (("close", "--entity", "north", "--period", "2026-9", "--opens-on", "2026-10-01"), "--period"),
        ((*CLOSE, "--by", "teatime"), "--by"),
        ((*CLOSE, "--opens-on", "soon"), "--opens-on"),
    ],
)
def test_close_names_the_option_that_is_wrong(commands: Commands, books: Books, words: tuple, said: str) -> None:
    """A wrong word is a sentence and status 2, and nothing is stored."""
    assert said in commands.run(*words, status=2)
    assert books.closes() == []


def test_retry_sends_rejected_entries_again(commands: Commands, books: Books) -> None:
    """Once what was wrong is mended, the entry is sealed again, unchanged; what is sealed can't be released."""
    before = books.deliveries(["north"], ["rejected"], 9)[0].entry
    assert commands.json("erp", "retry", "--rejected", "--period", "2026-09", "--by", "ana") == {"released": []}
    assert commands.json("erp", "retry", "--rejected", "--period", "2026-10", "--by", "ana") == {"released": ["J1"]}
    assert [d.entry for d in books.deliveries(["north"], ["sealed"], 9)] == [before]
    commands.run("erp", "retry", "J1", "--by", "ana", status=2)


def test_retry_of_several_releases_all_or_none(commands: Commands, books: Books) -> None:
    """A key that can't be released is named, and the others wait as they did."""
    assert "entry J9" in commands.run("erp", "retry", "J1", "J9", "--by", "ana", status=2)
    assert books.delivery_of("J1").state == "rejected"
    assert commands.json("erp", "retry", "J1", "J1", "--by", "ana") == {"released": ["J1"]}


def test_entry_in_doubt_is_ended_by_a_person(commands: Commands, books: Books) -> None:
    """Who has looked at the ERP says that it is not there, or under which number it is."""
    epoch = books.take_epoch(ERP, "poster").epoch
    books.record_outcomes(ERP, epoch, [Outcome("J1", "unknown")])
    assert "must say so" in " ".join(commands.run("erp", "retry", "J1", "--by", "ana", status=2).split())
    commands.run("erp", "retry", "J1", "--not-there", "--by", "ana")
    assert books.delivery_of("J1").state == "sealed"
    books.record_outcomes(ERP, epoch, [Outcome("J1", "unknown")])
    assert commands.json("erp", "settle", "J1", "77", "--by", "ana") == {"settled": {"J1": "77"}}
    assert books.delivery_of("J1").state == "posted"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--rejected"),
        (("--rejected", "--entity", "nroth"), "known are north"),
        (("--rejected", "--period", "2026-9"), "--period"),
    ],
)
def test_retry_names_what_is_wrong(commands: Commands, books: Books, words: tuple, said: str) -> None:
    """Whoever names no entry, or none that can be, is told so and not that 0 entries will be sent."""
    assert said in " ".join(commands.run("erp", "retry", *words, "--by", "ana", status=2).split())


def test_repost_moves_a_rejected_entry_into_the_open_period(commands: Commands, books: Books) -> None:
    """The new entry has the same lines on the first open day; a second time there is nothing left to replace."""
    [old] = [d.entry for d in books.deliveries(["north"], ["rejected"], 9)]
    repost = ("erp", "repost", "J1", "--by", "ana", "--opens-on")
    commands.run(*repost, "2026-10-01", status=2)
    new_key = commands.json(*repost, "2026-11-01")["replaced"]["J1"]
    [new] = [d.entry for d in books.deliveries(["north"], ["sealed"], 9)]
    assert (new.key, new.period, f"{new.posted_on}", new.sets) == (new_key, "2026-11", "2026-11-01", old.sets)
    assert new.lines == old.lines
    commands.run(*repost, "2026-12-01", status=2)


def test_what_was_done_is_told_though_a_later_key_can_not_be(commands: Commands, books: Books) -> None:
    """Each key stands by itself: whoever named several learns which were replaced, and which one stopped it."""
    told = commands.run("erp", "repost", "J1", "J9", "--by", "ana", "--opens-on", "2026-11-01", status=2)
    [new] = books.deliveries(["north"], ["sealed"], 9)
    assert f"J1: {new.entry.key}" in told and "entry J9" in told


def test_repost_under_a_mended_mapping_and_reversal_by_two(commands: Commands, books: Books) -> None:
    """A rejected entry is replaced once the mapping gives it another account, not before; a posted one is reversed when
    a second person approves, and only then."""
    commands.run("erp", "repost", "J1", "--by", "ana", status=2)
    books.add_mapping('[{"role": "GROSS_REV", "account": "4000"}, {"role": "AR_SELF", "account": "1100"}]', "north")
    commands.run("erp", "repost", "J1", "--by", "ana", status=2)
    number = books.propose_change("mapping", '[{"role": "GROSS_REV", "account": "4010"}]', "ana")
    books.approve_change(number, "ben")
    assert commands.json("erp", "repost", "J1", "--by", "ana") == {
        "replaced": {"J1": "is replaced and will be booked anew"}
    }
    waiting = books.unclaimed(["north"], 9).filter(pl.col("document") == "instead of J1")
    assert waiting["account_code"].to_list() == ["1100", "4010"]

    commands.run("erp", "reverse", "J1", "--by", "ana", status=2)
    epoch = books.take_epoch(ERP, "poster").epoch
    place = waiting.select("shard", "position", "set_no").row(0)
    books.seal(ERP, epoch, [entry("J2", place)])
    books.mark_in_flight(ERP, epoch, ["J2"])
    books.record_outcomes(ERP, epoch, [Outcome("J2", "posted")])
    change = commands.json("erp", "reverse", "J2", "--by", "ana", "--note", "cancelled")["changes"]["J2"]
    commands.run("erp", "approve", f"{change}", "--by", "ana", status=2)
    assert books.unclaimed_count(["north"]) == 1
    assert commands.json("erp", "approve", f"{change}", "--by", "ben") == {"change": change, "reversed": "J2"}
    back = books.unclaimed(["north"], 9).filter(pl.col("document") == "reversal of J2")
    assert back.select("account_code", "side").rows() == [("1100", "C"), ("4010", "D")]
    commands.run("erp", "refuse", f"{change}", "--by", "ben", status=2)
