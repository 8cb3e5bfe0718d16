"""The books and hledger, an accounting program that shares no code with Penstock: both must come to the same sums.

Needs the program (Debian's package hledger). The books are those of the golden histories, one a shard, with entries in
every state, and of a shard whose names and amounts are as awkward as they may be.
"""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest
from golden.test_golden import FOLDER, HISTORIES, record_of
from unit.engine.builders import NOW_MS, Run

from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.export.hledger import Journal
from runtime.currencies import currency_digits
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.ledger.journal import numbered
from runtime.ledger.sealing import SealPolicy, plan_entries
from runtime.ports import START, Outcome

HLEDGER = shutil.which("hledger")
needs_hledger = pytest.mark.skipif(HLEDGER is None, reason="hledger is not installed (a Debian package of that name)")

ERP = "erp:main"
ACCOUNT = ("entity", "currency", "account_code")
AWKWARD = ("1: 2;  (3)", "a,b:c", "=*!|", "[2026-01-01]", "Kasse %3A ä", "\u2003date:1", '"', "-5 USD")
OUTCOMES_IN_TURN = ("posted", "rejected", "posted", "unknown", "throttled")


# ── books to export ──


def commit_history(books: SqlBooks, shard: int, name: str) -> None:
    """Run the engine over a golden history, and commit what each of its steps does."""
    run, after, epoch = Run(mapped=False), START, books.take_epoch(f"shard:{shard}", "worker").epoch
    derived: list[dict] = []
    for n, line in enumerate((FOLDER / f"{name}.jsonl").read_text().splitlines(), start=1):
        step = json.loads(line)
        record = record_of(step, derived)
        effects = run.step(record)
        derived = [*([] if "relay" in step else derived), *effects.derived.to_dicts()]
        books.commit(shard, epoch, after, f"{n}-0", record.rows, effects)
        after = f"{n}-0"


def commit_awkward(books: SqlBooks, shard: int) -> None:
    """One set for each awkward name in each kind of currency, from one minor unit to the largest amount."""
    cases = [(name, currency) for name in AWKWARD for currency in ("JPY", "USD", "KWD", "CLF")]
    lines = [line for n, (name, currency) in enumerate(cases) for line in awkward_lines(n, name, currency)]
    deltas = pl.DataFrame(lines, schema=DELTAS)
    effects = Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
    books.commit(shard, books.take_epoch(f"shard:{shard}", "worker").epoch, START, "1-0", len(cases), effects)


def awkward_lines(set_no: int, name: str, currency: str) -> Iterator[dict]:
    """A debit and a credit that say the name wherever a text may stand."""
    texts = dict.fromkeys(("entity", "kind", "document", "facility", "department", "role"), name)
    numbers = {"set_no": set_no, "lane": 0, "mapping_version": 1, "events": 1, "amount_minor": 10 ** (set_no % 13)}
    month = {"period": "2026-10", "posted_on": date(2026, 10, 3), "mode": "immediate", "currency": currency}
    for line_no, side in enumerate("DC"):
        yield texts | numbers | month | {"line_no": line_no, "side": side, "account_code": f"{name}{side}"}


def deliver_half(books: SqlBooks) -> None:
    """Seal every second entry that could be made, and give those all outcomes in turn; the rest stays unclaimed."""
    entities = books.balances()["entity"].unique().to_list()
    drafts = plan_entries(books.unclaimed(entities, 10_000), NOW_MS, SealPolicy(200, 0.0), 10_000)[::2]
    entries = [numbered(draft, n) for n, draft in enumerate(drafts)]
    epoch = books.take_epoch(ERP, "poster").epoch
    books.seal(ERP, epoch, entries)
    codes = [OUTCOMES_IN_TURN[n % len(OUTCOMES_IN_TURN)] for n in range(len(entries))]
    told = zip(entries, codes, strict=True)
    books.record_outcomes(ERP, epoch, [Outcome(entry.key, code, f"GL {entry.key}, draft") for entry, code in told])


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlBooks]:
    url = f"sqlite:///{tmp_path_factory.mktemp('hledger') / 'books.sqlite'}"
    upgrade(url)
    opened = SqlBooks(url, lambda: NOW_MS)
    for shard, name in enumerate(HISTORIES):
        commit_history(opened, shard, name)
    commit_awkward(opened, len(HISTORIES))
    deliver_half(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def journal(books: SqlBooks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, text = tmp_path_factory.mktemp("hledger") / "books.journal", Journal(currency_digits)
    path.write_text("".join([text.opening(), *map(text.page, books.posting_pages(7)), text.closing()]))
    return path


# ── what hledger says of them ──


def hledger(journal: Path, *command: str) -> subprocess.CompletedProcess:
    """Run hledger in the poorest locale, without anybody's settings."""
    return subprocess.run(
        [HLEDGER, "-f", journal, *command], capture_output=True, text=True, timeout=120, env={"LC_ALL": "C"}
    )


def told(journal: Path, *command: str) -> list:
    """The JSON that a command answers with."""
    done = hledger(journal, *command, "-O", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def minor(amount: dict) -> int:
    """An amount of hledger's JSON in minor units; its quantity is a whole number and its decimals, so this is exact."""
    quantity, places = amount["aquantity"], currency_digits(amount["acommodity"])
    assert quantity["decimalPlaces"] <= places
    return quantity["decimalMantissa"] * 10 ** (places - quantity["decimalPlaces"])


def parts(account: str) -> list[str]:
    """The names that an account of the journal is made of."""
    return [unquote(part) for part in account.split(":")]


def turnover(journal: Path, *query: str) -> dict[tuple, int]:
    """Each account's sum of the postings that a query finds."""
    rows, _ = told(journal, "balance", "--flat", "--depth", "2", *query)
    sums = Counter()
    for account, _, _, amounts in rows:
        entity, code = parts(account)
        sums.update({(entity, amount["acommodity"], code): minor(amount) for amount in amounts})
    return dict(sums)


def tags(pairs: list[list[str]]) -> dict[str, str]:
    """hledger's tags as they were before they were written."""
    return {name: unquote(value) for name, value in pairs}


def read_back(transaction: dict) -> Iterator[dict]:
    """The lines of one transaction, in the words of the books."""
    shard, position, set_no = transaction["tcode"].split("/")
    common = tags(transaction["ttags"])
    for posting in transaction["tpostings"]:
        [amount], own = posting["pamount"], tags(posting["ptags"])
        entity, code, role = parts(posting["paccount"])
        yield {
            "shard": int(shard),
            "position": position,
            "set_no": int(set_no),
            "posted_on": date.fromisoformat(transaction["tdate"]),
            "kind": unquote(transaction["tdescription"]),
            "period": common["period"],
            "mode": common["mode"],
            "document": common.get("document", ""),
            "events": int(common["events"]),
            "entry_key": common.get("entry", ""),
            "entry_state": common.get("state", ""),
            "erp_ref": common.get("erp", ""),
            "entity": entity,
            "account_code": code,
            "role": role,
            "currency": amount["acommodity"],
            "facility": own.get("facility", ""),
            "department": own.get("department", ""),
            "mapping_version": int(own["mapping"]),
            "side": "D" if minor(amount) > 0 else "C",
            "amount_minor": abs(minor(amount)),
        }


# ── claims ──


def test_books_of_the_histories_are_worth_checking(books):
    """The books hold several entities, currencies, kinds and every state that a posting set can be in."""
    lines = pl.concat(books.posting_pages(100))

    assert {"mercy", "grace"} <= set(lines["entity"])
    assert {"USD", "EUR", "JPY", "KWD"} <= set(lines["currency"])
    assert set(lines["entry_state"]) == {"", "posted", "sealed", "rejected", "unknown"}
    assert lines["kind"].n_unique() > 10


@needs_hledger
def test_journal_under_strict_checks_has_no_fault(journal):
    """hledger finds every transaction balanced, and every account and currency declared."""
    done = hledger(journal, "check", "--strict")

    assert (done.returncode, done.stderr) == (0, "")


@needs_hledger
def test_journal_cut_short_fails_the_strict_checks(journal, tmp_path):
    """An export that ended before its time can't pass as the books."""
    whole = journal.read_text()
    cut = tmp_path / "cut.journal"
    cut.write_text(whole[: whole.rindex("\n\n", 0, whole.index("commodity"))])

    assert hledger(cut, "check").returncode == 0
    assert hledger(cut, "check", "--strict").returncode != 0


@needs_hledger
@pytest.mark.parametrize(
    ("column", "sign", "query"),
    [
        ("debit_minor", 1, ["amt:>0"]),
        ("credit_minor", -1, ["amt:<0"]),
        ("posted_debit_minor", 1, ["amt:>0", "status:*"]),
        ("posted_credit_minor", -1, ["amt:<0", "status:*"]),
    ],
)
def test_turnover_of_every_account_agrees_to_the_cent(books, journal, column, sign, query):
    """hledger's debits and credits of each account, all and posted, are those of the books."""
    rows = books.balances().select(*ACCOUNT, column).iter_rows()

    ours = {tuple(key): amount for *key, amount in rows if amount}

    assert ours
    assert {key: sign * amount for key, amount in turnover(journal, *query).items()} == ours


@needs_hledger
def test_balance_of_every_account_agrees_to_the_cent(books, journal):
    """hledger's balance of each account is the books' debits less credits."""
    net = pl.col("debit_minor") - pl.col("credit_minor")
    rows = books.balances().select(*ACCOUNT, net).iter_rows()

    assert turnover(journal) == {tuple(key): amount for *key, amount in rows if amount}


@needs_hledger
def test_journal_read_by_hledger_gives_every_line_back(books, journal):
    """Each line comes back with its set's place, date, kind, entry and all its dimensions, whatever they are called."""
    found = [line for transaction in told(journal, "print") for line in read_back(transaction)]
    kept = books.posting_pages(1000)
    place = ("shard", "position", "set_no")

    ours = [line for page in kept for line in page.select(sorted(found[0])).iter_rows(named=True)]

    assert sorted(found, key=lambda line: [line[name] for name in place]) == sorted(
        ours, key=lambda line: [line[name] for name in place]
    )


@needs_hledger
def test_entry_of_the_journal_is_found_by_its_tag(books, journal):
    """The posting sets of an entry can be asked for by its key."""
    [entry, *_] = books.entries_in(["mercy"], ["posted"], 1)

    found = {transaction["tcode"] for transaction in told(journal, "print", f"tag:entry=^{entry.key}$")}

    assert found == {f"{shard}/{position}/{set_no}" for shard, position, set_no in entry.sets}
