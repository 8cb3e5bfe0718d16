"""The books as hledger's plain text: what is written, and that the same books always give the same bytes."""

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from actors.cli import app
from adapters.books.frames import POSTING_PAGE
from adapters.books.memory import MemoryBooks
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.export.hledger import Journal, decimal_text, plain
from runtime.currencies import currency_digits
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.ports import START, Books, JournalEntry, Outcome

CONFIG = """
[runtime]
data_dir = "{folder}"
[entities.mercy]
name = "Mercy"
opens_on = 2026-07-01
"""
WRITTEN = """\
; The books of Penstock, a posting set a transaction. Accounts: entity:account:role.

decimal-mark .

2026-10-03 * (0/1-0/0) charge_posted  ; period:2026-10, mode:summary, events:7, entry:PS-1, state:posted, erp:GL/17
    mercy:1200:AR_INS                                      12.05 USD  ; facility:north, department:lab, mapping:3
    mercy:4000:GROSS_REV                                  -12.05 USD  ; facility:north, department:lab, mapping:3

2026-10-03 ! (0/1-0/1) card_settled  ; period:2026-10, mode:summary, document:po%2C1, events:7, entry:PS-2, state:sealed
    mercy:1200:AR_INS                                        500 JPY  ; mapping:3
    mercy:4000:GROSS_REV                                    -500 JPY  ; mapping:3

2026-10-03 (0/1-0/2) charge_posted  ; period:2026-10, mode:summary, events:7
    mercy:1200:AR_INS                                      0.001 KWD  ; facility:north, department:lab, mapping:3
    mercy:4000:GROSS_REV                                  -0.001 KWD  ; facility:north, department:lab, mapping:3

commodity 1000. JPY
commodity 1000.000 KWD
commodity 1000.00 USD

account mercy:1200:AR_INS
account mercy:4000:GROSS_REV

; posting sets: 3
"""


def posting(set_no: int, currency: str, amount_minor: int, **changed: object) -> pl.DataFrame:
    """A set of one debit and one credit."""
    line = dict.fromkeys(DELTAS) | {
        "set_no": set_no,
        "entity": "mercy",
        "currency": currency,
        "period": "2026-10",
        "posted_on": date(2026, 10, 3),
        "mode": "summary",
        "lane": 3,
        "kind": "charge_posted",
        "facility": "north",
        "department": "lab",
        "mapping_version": 3,
        "amount_minor": amount_minor,
        "events": 7,
    }
    debit = {"line_no": 0, "role": "AR_INS", "account_code": "1200", "side": "D"}
    credit = {"line_no": 1, "role": "GROSS_REV", "account_code": "4000", "side": "C"}
    return pl.DataFrame([line | changed | debit, line | changed | credit], schema=DELTAS)


def filled(books: Books) -> Books:
    """The same books in any implementation: a set that is posted, one that is sealed, one that waits."""
    card = {"kind": "card_settled", "document": "po,1", "facility": None, "department": None}
    sets = [posting(0, "USD", 1205), posting(1, "JPY", 500, **card), posting(2, "KWD", 1)]
    effects = Effects(pl.concat(sets), empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
    books.commit(0, books.take_epoch("shard:0", "worker").epoch, START, "1-0", 21, effects)
    epoch = books.take_epoch("erp:main", "poster").epoch
    books.seal("erp:main", epoch, [entry("PS-1", "USD", 0), entry("PS-2", "JPY", 1)])
    books.record_outcomes("erp:main", epoch, [Outcome("PS-1", "posted", "GL/17")])
    return books


def entry(key: str, currency: str, set_no: int) -> JournalEntry:
    """An entry that claims one set."""
    return JournalEntry(
        key=key,
        digest="",
        entity="mercy",
        currency=currency,
        period="2026-10",
        posted_on=date(2026, 10, 3),
        mode="summary",
        lane=3,
        document="",
        lines=(),
        sets=((0, "1-0", set_no),),
    )


def written(pages: Iterable[pl.DataFrame]) -> str:
    """The whole journal of these pages."""
    journal = Journal(currency_digits)
    return "".join([journal.opening(), *map(journal.page, pages), journal.closing()])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose data folder has no books yet."""
    path = tmp_path / "penstock.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def test_journal_of_sets_in_every_state_is_written_to_the_letter():
    """Date, status, place, kind, tags, exact amounts and declarations stand as hledger reads them."""
    assert written(filled(MemoryBooks()).posting_pages(10)) == WRITTEN


@pytest.mark.parametrize("sets_max", [1, 2, 3])
def test_journal_in_other_pages_is_the_same(sets_max):
    """Where a page ends does not show in the journal."""
    assert written(filled(MemoryBooks()).posting_pages(sets_max)) == WRITTEN


def test_journal_of_empty_books_declares_nothing():
    """Books without a posting give a journal without a transaction."""
    assert written([]).splitlines()[-1] == "; posting sets: 0"
    assert written([pl.DataFrame(schema=POSTING_PAGE)]) == written([])


@pytest.mark.parametrize(
    ("minor", "places", "text"),
    [
        (1205, 2, "12.05"),
        (-5, 2, "-0.05"),
        (500, 0, "500"),
        (-1, 3, "-0.001"),
        (1, 4, "0.0001"),
        (2**63 - 1, 2, "92233720368547758.07"),
        (10**18, 0, "1000000000000000000"),
    ],
)
def test_decimal_text_of_any_size_is_exact(minor, places, text):
    """Amounts have all their decimals and no exponent, up to the largest that the books hold."""
    assert decimal_text(minor, places) == text


@given(st.text())
def test_plain_text_of_any_name_can_be_read_back(name):
    """A name becomes ASCII without a sign that hledger knows, and stays another name than every other."""
    assert re.fullmatch(r"[\w.~/%-]*", plain(name), re.ASCII)
    assert unquote(plain(name)) == name


@pytest.mark.parametrize("to", ["-", "books.journal"])
def test_export_of_a_data_folder_writes_the_books(config, to):
    """The command writes the journal of the books that the configuration names, to stdout or to a file."""
    url = f"sqlite:///{config.parent / 'books.sqlite'}"
    upgrade(url)
    filled(SqlBooks(url)).close()
    path = to if to == "-" else str(config.parent / to)

    done = CliRunner().invoke(app, ["export", "--format", "hledger", "--out", path, "--config", str(config)])

    assert done.exit_code == 0
    assert (done.stdout if to == "-" else Path(path).read_text()) == WRITTEN
    assert done.stderr == "3 posting sets written\n"


def test_export_without_books_fails_and_makes_none(config):
    """Where there are no books yet the command says so, and leaves no empty database behind."""
    done = CliRunner().invoke(app, ["export", "--config", str(config)])

    assert done.exit_code == 2
    assert "no books" in done.stderr
    assert [path.name for path in config.parent.iterdir()] == ["penstock.toml"]
