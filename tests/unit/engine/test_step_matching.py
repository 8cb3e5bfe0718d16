"""Matching a step's rows at once: the end of taking them one by one, for each reason why a row may be odd."""

from collections.abc import Sequence
from random import Random

import numpy as np
import polars as pl
import pytest
import xxhash
from unit.engine.builders import NOW_MS, RULEBOOK

from runtime.ledger.open_items import OpenItems, residuals
from runtime.ledger.step_matching import MATCHED
from runtime.schema import STAMPED

PAYMENTS = 40
USD = "USD"


def row(kind: str, amount_minor: int, document: str, reference: str = "", **given: object) -> dict:
    """One event."""
    name = f"{kind}-{document}-{reference}-{amount_minor}"
    named = {"event_id": name, "source": "ehr", "kind": kind, "entity": "mercy", "currency": USD}
    return {**named, "amount_minor": amount_minor, "document": document, "reference": reference or None, **given}


def sale(number: int, payout: str = "p") -> list[dict]:
    """A payment's events."""
    return [
        row("card_authorised", 1000, f"a{number}"),
        row("card_captured", 1000, f"c{number}", f"a{number}"),
        row("card_settled", 1000, f"c{number}", payout),
        row("card_fee_charged", 30, f"f{number}", payout),
    ]


def settled(payout: str, count: int) -> list[dict]:
    """The payout of so many payments, and its money."""
    net_minor = 970 * count
    return [row("payout_paid", net_minor, payout), row("deposit_received", net_minor, f"b{payout}", payout)]


SALES = [one for number in range(PAYMENTS) for one in sale(number)] + settled("p", PAYMENTS)
HISTORIES = {
    "sales": SALES,
    "no payout": SALES[:-2],
    "no authorisations": [one for one in SALES if one["kind"] != "card_authorised"],
    "opened twice": [*SALES, row("card_authorised", 1000, "a1", event_id="again")],
    "more than was authorised": [*SALES, row("card_captured", 1, "c-more", "a1")],
    "two parts": [
        *SALES,
        row("card_authorised", 50, "ax"),
        row("card_captured", 20, "cx", "ax"),
        row("card_captured", 30, "cy", "ax"),
    ],
    "taken back in part": [*SALES, row("card_settled", -10, "c1", "p2"), row("payout_paid", -10, "p2")],
    "two deposits": [*SALES, row("deposit_received", 970 * PAYMENTS, "b-more", "p")],
    "another currency": [*SALES, row("card_captured", 1, "c-yen", "a1", currency="JPY")],
    "after the payout": [*SALES, row("card_fee_charged", 5, "late", "p"), row("card_fee_charged", -5, "back", "p")],
    "refund by one person": [
        *SALES,
        row("refund_requested", 10, "r", attributes='{"person":"Ann"}'),
        row("refund_approved", 10, "r", attributes='{"person":"ann"}'),
        row("refund_paid", 10, "r", "p"),
    ],
    "dispute": [*SALES, row("chargeback_opened", 10, "d", "p"), row("chargeback_won", 10, "d", "p")],
    "traces of several payers": [
        *SALES,
        row("remittance_received", 10, "r1", "t", counterparty="blue"),
        row("remittance_received", 7, "r2", "t", counterparty="aetna"),
        row("eft_received", 10, "e1", "t", counterparty="blue"),
        row("eft_received", 7, "e2", "t"),
        row("eft_received", 8, "e3", "t", counterparty="cigna"),
    ],
    "orders": [
        *SALES,
        row("po_line_approved", 10, "o"),
        row("goods_received", 0, "g", "o"),
        row("goods_received", 0, "h", "none"),
        row("invoice_received", 5, "i", attributes='{"tax_minor":1}'),
        row("invoice_line_billed", 4, "l", "o", correlation_id="i"),
        row("invoice_line_billed", 4, "m", correlation_id="other"),
    ],
}


def frame(rows: Sequence[dict]) -> pl.DataFrame:
    """Rows as matching sees them."""
    schema = {name: STAMPED[name] for name in MATCHED}
    numbered = [{"id_hash": xxhash.xxh64_intdigest(one["event_id"].encode()), **one} for one in rows]
    return pl.DataFrame(numbered, schema=schema)


def end(steps: Sequence[Sequence[dict]], rows_min: int, items_max: int = 1000) -> tuple:
    """What the last change of each row was, in which order these came, and what waits, after these steps."""
    items, said, turns = OpenItems(RULEBOOK, items_max), {}, []
    items.rows_min = rows_min
    for step in steps:
        rows = frame(step)
        taken = items.take_all(rows, np.full(len(rows), NOW_MS))
        said |= dict.fromkeys(rows["id_hash"].gather(taken.ready), ("ready", ""))
        said |= {id: (change.state, change.fault) for id, change in taken.changes.items()}
        ready = [id for id, change in taken.changes.items() if change.state == "ready"]
        at = [taken.before.get(id, 0) for id in ready]
        turns.append(np.insert(rows["id_hash"].gather(taken.ready).to_numpy(), at, np.array(ready, np.uint64)).tolist())
        turns.append([id for id, change in taken.changes.items() if change.state != "ready"])
    flags = sorted(items.take_flags())
    return said, turns, residuals(items.dump()), items.waiters, items.groups, items.terms, flags


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("steps", [1, 3])
def test_step_matching_ends_as_one_by_one(history, steps):
    """In many orders and cuts, rows taken at once come to what they come to one by one."""
    for seed in range(8):
        rows = list(history)
        if seed:
            Random(seed).shuffle(rows)
        parts = [rows[number::steps] for number in range(steps)] if seed % 2 else _cut(rows, steps)
        assert end(parts, rows_min=0) == end(parts, rows_min=10_000)


def _cut(rows: list[dict], parts: int) -> list[list[dict]]:
    size = -(-len(rows) // parts)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def test_step_matching_at_the_limit_refuses_what_one_by_one_refuses():
    """Where there is no room for all items of a step, the first that come get it."""
    disputed = [*SALES, row("chargeback_opened", 10, "d", "p"), *sale(PAYMENTS)]
    for items_max in (50, 2 * PAYMENTS + 3):
        assert end([disputed], 0, items_max) == end([disputed], 10_000, items_max)


def test_step_matching_puts_an_opener_before_what_it_let_go_on():
    """A row that came before the one who opens its item is ready after that one, and before what comes later."""
    captured, authorised = row("card_captured", 1, "c", "a"), row("card_authorised", 1, "a")
    rows = frame([captured, row("card_fee_charged", 0, "f", "p"), authorised, row("card_authorised", 1, "b")])
    items = OpenItems(RULEBOOK, 100)
    items.rows_min = 0
    taken = items.take_all(rows, np.full(len(rows), NOW_MS))
    assert taken.ready.tolist() == [2, 0, 3]


def test_step_matching_counts_what_became_ready_before_one_that_had_waited():
    """Rows of earlier steps have their turn among those of this one, when the item or the rest of the group comes."""
    captured, fee, payout = (
        row("card_captured", 1, "c", "a"),
        row("card_fee_charged", 3, "f", "p"),
        row("payout_paid", -3, "p"),
    )
    items = OpenItems(RULEBOOK, 100)
    items.rows_min = 0
    first = frame([captured, fee])
    items.take_all(first, np.full(2, NOW_MS))
    rows = frame(
        [row("card_authorised", 1, "b"), payout, row("card_authorised", 1, "a"), row("card_authorised", 1, "d")]
    )
    taken = items.take_all(rows, np.full(len(rows), NOW_MS))
    assert taken.ready.tolist() == [0, 1, 2, 3]
    assert list(taken.before.items()) == [(first["id_hash"][1], 1), (first["id_hash"][0], 3)]
