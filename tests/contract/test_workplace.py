"""The commands over governed changes and exceptions, on a database of their own: what they show, store and refuse."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from actors.cli import app, workplace
from actors.cli.configured import bring_mapping
from adapters import settings
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from runtime.config import Config
from runtime.effects import EXCEPTIONS
from runtime.ports import Books

CONFIG = """
[runtime]
data_dir = "{folder}"
[entities.mercy]
name = "Mercy"
opens_on = 2026-07-01
"""
HELD, NOTED, BROKEN = "a" * 16, "b" * 16, "c" * 16
DAY_MS = 86_400_000
NOW_MS = 1_790_172_800_000  # a Wednesday: two days before were days of work


class Commands:
    """Runs commands on one installation's books."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._config = folder / "penstock.toml"
        self._config.write_text(CONFIG.format(folder=folder))

    def run(self, *words: str, status: int = 0) -> str:
        """What a command says; its exit status is checked."""
        result = CliRunner().invoke(app, [*words, "--config", str(self._config)])
        assert result.exit_code == status, result.output
        return result.output

    def json(self, *words: str) -> object:
        """What a command answers to a machine."""
        return json.loads(self.run(*words, "--json"))


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


@pytest.fixture
def books(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """Books with a held event two days old, a denial five days old, and a break that is new."""
    url = f"sqlite:///{commands.folder / 'books.sqlite'}"
    upgrade(url)
    opened = SqlBooks(url)
    opened.raise_exceptions(exception(HELD, "mapping_missing", "e-1", 2))
    opened.raise_exceptions(exception(NOTED, "denial", "e-2", 5))
    opened.raise_exceptions(exception(BROKEN, "reconciliation_break", "", 0))
    monkeypatch.setattr(workplace, "now_ms", lambda: NOW_MS)
    yield opened
    opened.close()


def exception(id: str, type: str, event_id: str, age_days: int) -> pl.DataFrame:
    raised_at = datetime.fromtimestamp((NOW_MS - age_days * DAY_MS) / 1000, UTC)
    row = (id, type, "ehr", event_id, "mercy" if event_id else "", "", "USD", 12_345, "no account", raised_at)
    return pl.DataFrame([row], schema=EXCEPTIONS, orient="row")


def ids(found: object) -> list[str]:
    return [row["exception_id"] for row in found]


# ── exceptions ──


def test_list_tells_owner_age_and_standing(commands: Commands, books: Books) -> None:
    """Each exception comes with what its type asks for and how it stands now, oldest first."""
    found = commands.json("exceptions", "list")
    assert ids(found) == [NOTED, HELD, BROKEN]
    held = found[1]
    assert (held["owner"], held["severity"], held["age_h"], held["standing"]) == (
        "finance_operations",
        "high",
        48,
        "overdue",
    )
    assert found[2]["standing"] == "in time"
    assert "123.45" in commands.run("exceptions", "list")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--type", "denial"], [NOTED]),
        (["--entity", "mercy"], [NOTED, HELD]),
        (["--owner", "revenue_cycle"], [NOTED]),
        (["--owner", "finance_operations", "--type", "denial"], []),
        (["--owner", "integration_support"], []),
        (["--overdue"], [HELD]),
        (["--overdue", "--owner", "revenue_cycle"], []),
        (["--state", "resolved"], []),
        (["--limit", "1"], [NOTED]),
    ],
)
def test_list_can_be_narrowed(commands: Commands, books: Books, filters: list[str], expected: list[str]) -> None:
    """Filters choose together."""
    assert ids(commands.json("exceptions", "list", *filters)) == expected


@pytest.mark.parametrize(
    ("filters", "known"),
    [
        (["--type", "deniel"], "denial"),
        (["--owner", "nobody"], "revenue_cycle"),
        (["--entity", "merci"], "mercy"),
        (["--state", "opne"], "resolved"),
    ],
)
def test_list_refuses_a_word_that_nothing_has(commands: Commands, books: Books, filters: list[str], known: str) -> None:
    """A misspelt word is answered with the known ones, and not with "none"."""
    said = " ".join(commands.run("exceptions", "list", *filters, status=2).split())
    assert f"{filters[0]}: '{filters[1]}' is unknown" in said and known in said


def test_list_takes_words_that_only_exceptions_from_before_have(commands: Commands, books: Books) -> None:
    """A type or an entity that was taken out of the rules since is asked for as before."""
    former = exception("e" * 16, "former_type", "e-4", 1).with_columns(entity=pl.lit("former"))
    books.raise_exceptions(former)
    for filters in (["--type", "former_type"], ["--entity", "former"]):
        assert ids(commands.json("exceptions", "list", *filters)) == ["e" * 16]


@pytest.mark.parametrize("filters", [["--type", "deniel"], ["--type", "mapping_missing", "--entity", "merci"]])
def test_decision_on_a_word_that_nothing_has_is_refused(commands: Commands, books: Books, filters: list[str]) -> None:
    """What is decided on is spelt as it is known, too."""
    assert "is unknown" in commands.run("exceptions", "retry", *filters, "--by", "ada", status=2)


def test_exception_that_ended_in_time_was_not_overdue(commands: Commands, books: Books) -> None:
    """How an ended exception stood is told by when it ended."""
    books.raise_exceptions(exception("d" * 16, "mapping_missing", "e-3", -365))
    books.resolve_exceptions([HELD, "d" * 16])
    assert ids(commands.json("exceptions", "list", "--state", "resolved", "--overdue")) == [HELD]
    assert len(commands.json("exceptions", "list", "--state", "resolved")) == 2


def test_ageing_counts_by_type_and_bucket(commands: Commands, books: Books) -> None:
    """Each type is one row with a number for each bucket of days, and its sum."""
    rows = {row["type"]: row for row in commands.json("exceptions", "ageing")}
    assert rows["denial"]["4-7"] == 1 and rows["denial"]["0-3"] == 0
    assert rows["mapping_missing"]["0-3"] == rows["mapping_missing"]["open"] == 1
    assert rows["mapping_missing"]["amount_minor"] == 12_345


def test_retry_is_one_persons(commands: Commands, books: Books) -> None:
    """A retry of a free type is in force at once and goes to the log with that name."""
    decided = commands.json("exceptions", "retry", HELD, "--by", "ada", "--note", "mapped now")
    assert (decided["exceptions"], decided["needs_approval"]) == (1, False)
    assert books.unlogged_decisions(10) == [(1, "retry", (HELD,), "ada", "")]
    history = commands.json("exceptions", "show", HELD)["history"]
    assert [row["change"] for row in history] == ["raised", "retry decided"]


@pytest.mark.parametrize("action", ["release", "exclude"])
def test_release_and_exclude_are_two_persons(commands: Commands, books: Books, action: str) -> None:
    """They are proposals until somebody else approves; the preparer is refused with a sentence."""
    decided = commands.json("exceptions", action, "--type", "mapping_missing", "--entity", "mercy", "--by", "ada")
    (change,) = decided["changes"]
    assert decided["needs_approval"] and books.unlogged_decisions(10) == []
    assert [row["exceptions"] for row in commands.json("exceptions", "proposals")] == [[HELD]]

    commands.run("exceptions", "approve", str(change), "--by", "Ada", status=2)
    assert commands.json("exceptions", "approve", str(change), "--by", "grace") == {"change": change, "decision": 1}

    assert books.unlogged_decisions(10) == [(1, action, (HELD,), "ada", "grace")]
    assert commands.json("exceptions", "proposals") == []


def test_refused_decision_has_no_effect(commands: Commands, books: Books) -> None:
    """A refused proposal stays in the history and never reaches the log."""
    (change,) = commands.json("exceptions", "exclude", HELD, "--by", "ada")["changes"]
    commands.run("exceptions", "refuse", str(change), "--by", "grace", "--note", "wait for the payer")
    assert books.unlogged_decisions(10) == []
    history = commands.json("exceptions", "show", HELD)["history"]
    assert [(row["change"], row["note"]) for row in history[1:]] == [
        ("exclude proposed", ""),
        ("exclude refused", "wait for the payer"),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["retry", NOTED, "--by", "ada"],
        ["retry", HELD, "f" * 16, "--by", "ada"],
        ["retry", "--by", "ada"],
        ["retry", "--type", "denial", "--by", "ada"],
        ["retry", HELD, "--by", " "],
        ["close", HELD, "--by", "ada", "--note", "done"],
        ["close", NOTED, "--by", "ada", "--note", " "],
        ["note", NOTED, "--by", "ada", "--note", ""],
        ["approve", "7", "--by", "ada"],
        ["show", "f" * 16],
    ],
    ids=" ".join,
)
def test_what_can_not_be_done_is_refused_and_stores_nothing(commands: Commands, books: Books, words: list[str]) -> None:
    """A wrong id, a wrong sort of exception, no choice, no name, no reason: a sentence, and nothing is stored."""
    commands.run("exceptions", *words, status=2)
    assert books.changes().is_empty()
    assert books.exceptions()["exception_id"].len() == 3
    assert [len(books.exception_history(id)) for id in (HELD, NOTED, BROKEN)] == [1, 1, 1]


def test_texts_of_people_are_shown_as_they_are(commands: Commands, books: Books) -> None:
    """What looks like a mark of style is text, in tables and in errors."""
    commands.run("exceptions", "note", NOTED, "--by", "[/bold]", "--note", "see [red]file[/red]")
    shown = " ".join(commands.run("exceptions", "show", NOTED).split())
    assert "[/bold]" in shown and "see [red]file[/red]" in shown
    assert "[/x].csv" in commands.run("mapping", "propose", "[/x].csv", "--by", "ada", status=2)


def test_denial_that_was_worked_is_noted_and_closed(commands: Commands, books: Books) -> None:
    """What holds nothing ends by hand, with name and reason."""
    noted = commands.json("exceptions", "note", NOTED, "--by", "ada", "--note", "appeal sent")
    assert noted == {"exception_id": NOTED, "note": "appeal sent"}
    commands.run("exceptions", "close", NOTED, "--by", "ada", "--note", "payer paid")
    found = commands.json("exceptions", "show", NOTED)
    assert (found["state"], [row["note"] for row in found["history"]]) == (
        "resolved",
        ["no account", "appeal sent", "payer paid"],
    )
    assert ids(commands.json("exceptions", "list")) == [HELD, BROKEN]


# ── mapping ──


CSV = "entity,role,account,valid_from\nmercy,CASH,1010,2026-07-01\n,GROSS_REV,4000,\n"
JSON = '[{"entity": "mercy", "role": "CASH", "account": "1010", "valid_from": "2026-07-01"}, '
JSON += '{"role": "GROSS_REV", "account": "4000"}]'
TOML = '[[mapping]]\nentity = "mercy"\nrole = "CASH"\naccount = "1010"\nvalid_from = 2026-07-01\n'
TOML += '[[mapping]]\nrole = "GROSS_REV"\naccount = "4000"\n'


@pytest.mark.parametrize(("name", "text"), [("rows.csv", CSV), ("rows.json", JSON), ("rows.TOML", TOML)])
def test_mapping_of_any_form_is_proposed_and_approved(commands: Commands, books: Books, name: str, text: str) -> None:
    """The same rows in CSV, JSON or TOML become the same version, once somebody else approves."""
    (commands.folder / name).write_text(text)
    proposed = commands.json("mapping", "propose", str(commands.folder / name), "--by", "ada", "--note", "new")
    number = str(proposed["change"])
    assert proposed["rows"] == 2 and books.mapping_versions() == []
    (waiting,) = commands.json("mapping", "list")["proposed"]
    assert [row["account"] for row in waiting["rows"]] == ["1010", "4000"]

    commands.run("mapping", "approve", number, "--by", " ADA ", status=2)
    assert commands.json("mapping", "approve", number, "--by", "grace")["version"] == 1

    listed = commands.json("mapping", "list")
    (version,) = listed["versions"]
    assert (version["author"], version["approved_by"], listed["proposed"]) == ("ada", "grace", [])
    assert version["rows"][0] | {"entity": "mercy", "role": "CASH", "valid_from": "2026-07-01"} == version["rows"][0]
    assert version["rows"][1] | {"entity": "*", "role": "GROSS_REV", "valid_from": "1900-01-01"} == version["rows"][1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "entity,role,account\nmercy,CASH,1\nmercy,CASHH,2\n", "row 2: role"),
        ("rows.csv", "role,account\nCASH,1,2\n", "no column"),
        ("rows.csv", "", "1 to 10000 rows"),
        ("rows.json", "{}", "list of rows"),
        ("rows.json", "[", "not JSON"),
        ("rows.toml", "mapping = 1", "list of rows"),
        ("rows.toml", "[[mapping]]\nrole", "not TOML"),
        ("rows.xlsx", "", "ends in"),
    ],
)
def test_wrong_proposal_is_refused_with_its_place(
    commands: Commands, books: Books, name: str, text: str, message: str
) -> None:
    """A file that is no proposal is refused by name, a wrong row by its number and field, and nothing is stored."""
    (commands.folder / name).write_text(text)
    said = commands.run("mapping", "propose", str(commands.folder / name), "--by", "ada", status=2)
    assert message in " ".join(said.split())
    assert books.changes().is_empty()


def test_missing_file_is_refused(commands: Commands, books: Books) -> None:
    """A file that is not there is a sentence, no traceback."""
    assert "error:" in commands.run("mapping", "propose", str(commands.folder / "no.csv"), "--by", "ada", status=2)


def test_refused_mapping_makes_no_version(commands: Commands, books: Books) -> None:
    """A refused proposal is no longer open and changes nothing."""
    (commands.folder / "rows.csv").write_text(CSV)
    number = str(commands.json("mapping", "propose", str(commands.folder / "rows.csv"), "--by", "ada")["change"])
    commands.run("mapping", "refuse", number, "--by", "grace")
    assert commands.json("mapping", "list") == {"versions": [], "proposed": []}
    assert "is refused already" in commands.run("mapping", "approve", number, "--by", "grace", status=2)


def test_change_is_approved_where_it_is_listed(commands: Commands, books: Books) -> None:
    """A decision is not approved among mappings, nor a mapping among decisions: nobody would have seen it."""
    (change,) = commands.json("exceptions", "exclude", HELD, "--by", "ada")["changes"]
    assert "penstock exceptions" in commands.run("mapping", "approve", str(change), "--by", "grace", status=2)
    assert books.unlogged_decisions(10) == []


def test_changed_configuration_is_proposed_once(books: Books) -> None:
    """What the file maps at first is a version; what it maps later waits for a person, and is not proposed twice."""

    def configured(account: str) -> Config:
        text = CONFIG.format(folder="x") + f'[[mapping]]\nrole = "CASH"\naccount = "{account}"\n'
        return settings.parse_text(text)

    assert [bring_mapping(books, configured("1010")) for _ in range(2)] == [0, 0]
    assert [(v.version, v.author, v.approved_by) for v in books.mapping_versions()] == [(1, "configuration", "")]

    assert [bring_mapping(books, configured("1020")) for _ in range(2)] == [1, 0]
    assert len(books.mapping_versions()) == 1
    books.refuse_change(1, "grace")
    assert bring_mapping(books, configured("1020")) == 0
    assert bring_mapping(books, configured("1030")) == 2
    books.approve_change(2, "grace")
    assert bring_mapping(books, configured("1030")) == 0
    assert [(v.version, v.author, v.approved_by) for v in books.mapping_versions()] == [
        (1, "configuration", ""),
        (2, "configuration", "grace"),
    ]


def test_commands_without_books_say_so(commands: Commands) -> None:
    """Before the first start there are no books, and no empty ones are made by asking."""
    assert "penstock up" in " ".join(commands.run("exceptions", "list", status=2).split())
    assert not (commands.folder / "books.sqlite").exists()
