"""`penstock lineage` on an archive and a database of its own: which events it finds, and what it says of each."""

import json
from pathlib import Path

import polars as pl
import pytest
from books_builders import ERP, entry
from small_log import NOW_MS, RULEBOOK
from typer.testing import CliRunner
from unit.engine.builders import OPENS_ON, event, events, mapping, relayed

from actors.cli import app
from adapters.archive.parquet import ParquetArchive
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from runtime.ports import START, ArchivedStep, Outcome
from runtime.shard import ShardEngine

CONFIG = """
[runtime]
data_dir = "{folder}"
shards = 2
[entities.mercy]
name = "Mercy"
opens_on = 2026-07-01
"""
DAY_MS = 86_400_000
SHARD = 1  # of two: what came must be looked for in both


def order(document: str, amount_minor: int, quantity: int, kind: str = "po_line_approved", **columns: object) -> dict:
    """A line that is ordered, of an implant or of a test."""
    return event(
        f"o:{document}", kind, amount_minor, document=document, quantity=quantity, counterparty="acme", **columns
    )


def answer(id: str, kind: str, document: str, reference: str, amount_minor: int = 0, **columns: object) -> dict:
    """What answers another document."""
    return event(id, kind, amount_minor, document=document, reference=reference, **columns)


def bill(number: str, *lines: tuple[str, str, int], kind: str = "invoice_line_billed") -> list[dict]:
    """A bill and its lines: id, order's line, amount."""
    head = event(f"i:{number}", "invoice_received", sum(line[2] for line in lines), document=number)
    head |= {"counterparty": "acme", "attributes": '{"person": "Ann"}'}
    named = {"correlation_id": number, "counterparty": "acme", "quantity": 1000}
    return [head, *(answer(id, kind, f"{number}/{id}", of, minor, **named) for id, of, minor in lines)]


DAYS = [
    [order("PO9/1", 50_000, 1000), order("PO8/1", 7_000, 1000)],
    [order("acc-1/80053", 1_200, 1000, "lab_ordered"), order("acc-2/80053", 1_200, 1000, "lab_ordered")],
    [answer("d1", "despatch_announced", "D1", "PO9/1", quantity=1000)],
    [answer("r1", "goods_received", "R1", "PO9/1", quantity=1000)],
    [answer("r2", "goods_received", "R1", "PO8/1", quantity=1000)],
    [answer("u1", "implant_used", "case-1/9", "PO9/1", quantity=1000)],
    [answer("g1", "implant_charged", "ch-1", "case-1/9", 90_000, quantity=1000)],
    [answer("g2", "lab_charged", "ch-2", "acc-1/80053", 4_000, quantity=1000)],
    bill("acme/1", ("l1", "PO9/1", 50_000), ("l2", "PO8/1", 7_000)),
    bill("acme/2", ("l3", "acc-1/80053", 1_200), kind="lab_line_billed"),
    [event("a1", "invoice_approved", document="acme/1", person="Bob")],
    [event("a2", "invoice_approved", document="acme/2", person="Bob")],
    [answer("p1", "payment_released", "PAY1", "acme/1", 57_000)],
    [answer("p2", "payment_released", "PAY1", "acme/2", 1_200)],
    [answer("c1", "payment_cleared", "st-1", "PAY1", 1)],
    [event("ch", "charge_posted", 100, document="PO9/1"), answer("x1", "payment_released", "PAY9", "acme/9", 5)],
]
IMPLANT = ["o:PO9/1", "d1", "r1", "u1", "g1", "i:acme/1", "l1", "a1", "p1", "c1"]
OTHER = ["o:PO8/1", "r2", "l2"]
LAB = ["o:acc-1/80053", "g2", "i:acme/2", "l3", "a2", "p2", "c1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a shard leaves behind: an archive and books, and the receipt's entry in the ERP."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "penstock.toml").write_text(CONFIG.format(folder=folder))
    url = f"sqlite:///{folder / 'books.sqlite'}"
    upgrade(url)
    books, archive, engine = SqlBooks(url), ParquetArchive(folder / "archive"), ShardEngine(RULEBOOK, OPENS_ON, 1000)
    lease, before, outcomes, steps, derived = books.take_epoch(f"shard:{SHARD}", "w1"), START, [], [], []
    came = [mapping(1), *(events(*rows, at_ms=NOW_MS + day * DAY_MS) for day, rows in enumerate(DAYS))]
    for number, record in enumerate([*came, None], 1):
        placed = (record or relayed(*derived))._replace(position=f"{number}-0")
        done = engine.step([placed])
        books.commit(SHARD, lease.epoch, before, placed.position, placed.rows, done)
        before, derived = placed.position, derived + done.derived.to_dicts()
        outcomes.append(done.outcomes)
        steps.append(ArchivedStep((placed,)))
    archive.put_segment(SHARD, START, before, pl.concat(outcomes), steps)
    epoch = books.take_epoch(ERP, "poster").epoch
    sets = books.unclaimed(["mercy"], 99)
    [receipt] = sets.filter(document="R1").select("shard", "position", "set_no").unique().sort("position").rows()[:1]
    books.seal(ERP, epoch, [entry("PS-1", receipt, entity="mercy")])
    books.record_outcomes(ERP, epoch, [Outcome("PS-1", "posted", "2026/6")])
    books.close()
    return folder


def asked(folder: Path, *words: str, status: int = 0) -> str:
    """What the command answers."""
    result = CliRunner().invoke(app, ["lineage", *words, "--config", str(folder / "penstock.toml")])
    assert result.exit_code == status, result.output
    return result.output


def found(folder: Path, name: str) -> list[dict]:
    """What the command answers to a machine."""
    return json.loads(asked(folder, name, "--json"))


CASES = {
    "order's line": ("PO9/1", [*IMPLANT, "ch"]),
    "whole order": ("PO9", [*IMPLANT, "ch"]),
    "event": ("r1", IMPLANT),
    "use": ("case-1/9", IMPLANT),
    "case": ("case-1", IMPLANT),
    "charge": ("ch-1", IMPLANT),
    "bill's line": ("acme/1/l1", IMPLANT),
    "receipt of two orders": ("R1", [*IMPLANT, *OTHER]),
    "bill of two orders": ("acme/1", [*IMPLANT, *OTHER]),
    "test": ("acc-1/80053", LAB),
    "accession": ("acc-1", LAB),
    "test's charge": ("ch-2", LAB),
    "test's bill": ("acme/2", LAB),
    "test that was only ordered": ("acc-2", ["o:acc-2/80053"]),
    "payment of two bills": ("PAY1", [*IMPLANT, *OTHER, *LAB]),
    "bill that has not come": ("acme/9", ["x1"]),
}


@pytest.mark.parametrize(("name", "expected"), CASES.values(), ids=CASES)
def test_lineage_of_any_document_of_a_chain_is_the_chain(folder: Path, name: str, expected: list[str]) -> None:
    """From wherever it is asked, a chain is the same, and without what other documents of its bill belong to. An
    account's charge that happens to bear an order's number comes where that is asked for, and leads nowhere."""
    rows = [row["event_id"] for row in found(folder, name)]
    assert sorted(rows) == sorted(set(expected))


def test_lineage_tells_of_each_event_what_became_of_it(folder: Path) -> None:
    """Kind, documents, date, amount, state, journal entry and the ERP's number, oldest first."""
    rows = {row["event_id"]: row for row in found(folder, "ch-1")}
    assert list(rows)[:3] == ["o:PO9/1", "d1", "r1"]
    receipt, ordered, line = rows["r1"], rows["o:PO9/1"], rows["l1"]
    assert (receipt["kind"], receipt["document"], receipt["reference"]) == ("goods_received", "R1", "PO9/1")
    assert (receipt["state"], receipt["entry_key"]) == ("booked", "PS-1")
    assert (receipt["entry_state"], receipt["erp_ref"]) == ("posted", "2026/6")
    assert (ordered["state"], ordered["entry_key"], ordered["quantity"]) == ("excluded", "", 1000)
    assert (line["state"], line["amount_minor"], line["entry_key"]) == ("booked", 50_000, "")
    assert {"on", "currency", "source", "entity"} <= set(receipt)
    assert rows["c1"]["state"] == "booked"


def test_lineage_as_a_table_shows_the_chain_to_people(folder: Path) -> None:
    """Amounts as money and quantities as units, each with the ERP's number where there is one."""
    told = asked(folder, "PO9/1")
    assert all(word in told for word in ("lineage of PO9/1", "invoice_line_billed", "500.00", "PS-1", "2026/6"))


@pytest.mark.parametrize("name", ["PO7", "acme", "PO9/", "1"])
def test_lineage_of_nothing_says_so(folder: Path, name: str) -> None:
    """What no event bears is a sentence and status 1; a supplier is no document."""
    assert "no accepted event" in asked(folder, name, status=1)
    assert json.loads(asked(folder, name, "--json", status=1)) == []


def test_lineage_before_there_are_books_names_the_way(tmp_path: Path) -> None:
    """Without books it can't be carried out, and makes none."""
    (tmp_path / "penstock.toml").write_text(CONFIG.format(folder=tmp_path))
    asked(tmp_path, "PO9", status=2)
    assert not list(tmp_path.glob("*.sqlite"))
