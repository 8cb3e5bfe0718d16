"""A patient ledger through the whole way into Tryton and back: counts, cents, periods, the way of one event."""

import csv
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from installed import Installed

from actors.wiring import open_erp
from runtime.ledger.journal import counted

SAMPLE = Path(str(files("adapters.sources") / "samples" / "claims_transactions.csv"))
SHARED = "synthea/claims_transactions.csv"
ENTITY, OPENING_PERIOD, OPENS_ON, CLEARING = "synthea", "2026-01", "2026-01-01", "1190"
TRANSFERS = ("responsibility_transferred_in", "responsibility_transferred_out")
KNOWN = {  # rows -> charges and payments, events and cents
    40: ((12, 147_854), (16, 115_600)),
    5_228: ((1_545, 109_240_273), (1_843, 110_350_395)),
}
Sums = dict[str, tuple[int, int]]  # kind -> events, cents


class Sent(NamedTuple):
    """A ledger that was submitted: its rows, the answer, and what books and Tryton came to hold by it."""

    rows: list[dict[str, str]]
    answer: dict
    books: Sums
    erp: Sums


def in_books(installed: Installed) -> Counter:
    """Booked events and cents of each kind, by the control totals."""
    with installed.books() as books:
        booked = books.totals().filter((pl.col("entity") == ENTITY) & (pl.col("state") == "booked"))
    sums = booked.group_by("kind").agg(pl.col("events").sum(), pl.col("amount_minor").sum())
    return Counter({(kind, unit): n for kind, *both in sums.iter_rows() for unit, n in enumerate(both)})


def in_erp(installed: Installed) -> Counter:
    """Events and cents of each kind, read back from the texts and amounts of Tryton's posted debit lines."""
    erp, sums = open_erp(installed.wiring()), Counter()
    try:
        for line in erp.move_lines(ENTITY):
            if line.side == "D":
                kind, events = counted(line.text)
                sums.update({(kind, 0): events, (kind, 1): line.amount_minor})
    finally:
        erp.close()
    return sums


def by_kind(more: Counter) -> Sums:
    """Sums by kind."""
    return {kind: (more[kind, 0], more[kind, 1]) for kind in sorted({kind for kind, _ in more})}


@pytest.fixture(scope="module", params=[SAMPLE, SHARED], ids=["sample", "shared"])
def ledger(request: pytest.FixtureRequest) -> Path:
    """A ledger file: the project's own small one, and the larger one where it is there."""
    return request.param if request.param == SAMPLE else request.getfixturevalue("shared_data")(request.param)


@pytest.fixture(scope="module")
def sent(installed: Installed, drained, ledger: Path) -> Iterator[Sent]:
    """The ledger, submitted and posted."""
    with ledger.open(newline="") as file:
        rows = list(csv.DictReader(file))
    books, erp = in_books(installed), in_erp(installed)
    answer = installed.json("submit", ledger, "--format", "synthea")
    drained()
    yield Sent(rows, answer, by_kind(in_books(installed) - books), by_kind(in_erp(installed) - erp))


def by_hand(rows: list[dict[str, str]]) -> Sums:
    """The ledger added up row by row."""
    columns = {"CHARGE": "AMOUNT", "PAYMENT": "PAYMENTS", "TRANSFERIN": "AMOUNT", "TRANSFEROUT": "TRANSFERS"}
    kinds = {"CHARGE": "charge_posted", "PAYMENT": "payment_received"}
    kinds |= {"TRANSFERIN": "responsibility_transferred_in", "TRANSFEROUT": "responsibility_transferred_out"}
    sums = Counter()
    for row in rows:
        cents = int(Decimal(row[columns[row["TYPE"]]]) * 100)
        sums.update({(kinds[row["TYPE"]], 0): 1, (kinds[row["TYPE"]], 1): cents})
    return by_kind(sums)


def test_synthea_ledger_submitted_is_in_books_and_erp_to_the_cent(sent):
    """Each kind's count and sum, added up by hand from the file, stand in the books and in Tryton's own lines."""
    assert sent.answer["accepted"] == len(sent.rows) and sent.answer["rejected"] == 0
    assert sent.answer["durability"] == "fsync_always"
    assert by_hand(sent.rows) == sent.books == sent.erp


def test_synthea_ledger_posted_shows_its_known_figures(sent):
    """The shared ledger is 1,545 charges of 1,092,402.73 and 1,843 payments of 1,103,503.95, in Tryton too."""
    for side in (sent.books, sent.erp):
        assert (side["charge_posted"], side["payment_received"]) == KNOWN[len(sent.rows)]


def test_synthea_transfers_in_the_erp_net_to_zero(sent, installed):
    """Transfers move balances between payers and patient: both halves came, and their clearing account is at zero."""
    assert sent.erp[TRANSFERS[0]] == sent.erp[TRANSFERS[1]]
    erp = open_erp(installed.wiring())
    try:
        (clearing,) = (at for at in erp.trial_balance() if (at.entity, at.account_code) == (ENTITY, CLEARING))
    finally:
        erp.close()
    assert clearing.debit_minor == clearing.credit_minor > 0


def test_synthea_event_older_than_the_fiscal_year_posts_into_the_opening_period(sent, installed):
    """An old event's posting lies in the opening period and names Tryton's document; the event keeps its own date."""
    oldest = min(sent.rows, key=lambda row: (row["FROMDATE"], row["ID"]))
    (step,) = installed.json("trace", oldest["ID"])
    assert oldest["FROMDATE"] < OPENS_ON and step["effective_on"] == oldest["FROMDATE"][:10]
    assert step["state"] == "booked" and step["position"] and step["postings"]
    for line in step["postings"]:
        assert (line["period"], line["posted_on"]) == (OPENING_PERIOD, OPENS_ON)
        assert line["entry_state"] == "posted" and line["entry_key"].startswith(f"PS-{ENTITY}-") and line["erp_ref"]


def test_synthea_ledger_submitted_again_changes_nothing(sent, installed, drained, ledger):
    """The same file a second time is all duplicates, and neither books nor Tryton move by a cent."""
    before = in_books(installed), in_erp(installed)
    answer = installed.json("submit", ledger, "--format", "synthea")
    drained()
    assert (answer["accepted"], answer["duplicate"]) == (0, len(sent.rows))
    assert (in_books(installed), in_erp(installed)) == before


def test_synthea_ledger_posted_reconciles(sent, installed):
    """`penstock reconcile` finds source, books and Tryton equal, and says so by its exit status."""
    result = installed.json("reconcile")
    assert result["balanced"] is True and result["breaks"] == []
    assert ENTITY in {row["entity"] for row in result["totals"]}
