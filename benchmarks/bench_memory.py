"""What the memory of a shard costs: bytes for each event id, each account and each open item that it keeps.

Owns no workload: random ids, and events that differ in nothing else. What the process holds is asked of the system
after each part, so spare room of arrays and the allocator's own counts too.
"""

import gc
import time
from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import polars as pl
import psutil

from adapters.settings import standard_rulebook_text
from benchmarks.measure import Options, Result
from runtime import schema, validation
from runtime.flow import frames
from runtime.flow.dedupe import DedupeMemory
from runtime.ledger.account_balances import AccountBalances, AccountTerms
from runtime.ledger.cells import Cells
from runtime.ledger.rule_file import parse_rulebook
from runtime.ports import LogRecord
from runtime.shard import ShardEngine

IDS, ACCOUNTS, ITEMS = 10_000_000, 4_000_000, 1_000_000
FRAME_ROWS = 65_536
GOALS = {"event id": 40, "account": 150, "open item": 250}  # bytes
NOW_MS = 1_790_000_000_000


def results(options: Options) -> Iterator[Result]:
    """One result a thing that is remembered."""
    rng = np.random.default_rng(options.seed)
    yield _measured("event id", IDS, lambda: _ids(rng))
    yield _measured("account", ACCOUNTS, lambda: _accounts(rng))
    _items(FRAME_ROWS)  # what the engine's steps hold, whatever they leave behind, is no item's
    yield _measured("open item", ITEMS, lambda: _items(ITEMS))


def _measured(what: str, count: int, fill: Callable[[], object]) -> Result:
    """What the process has grown by, while it holds what was filled."""
    before, began = _resident(), time.perf_counter()
    kept = fill()
    seconds = time.perf_counter() - began
    each = (_resident() - before) / count
    assert kept is not None
    return Result(
        name="memory",
        case=what,
        events_per_s=round(count / seconds),
        frame_rows=FRAME_ROWS,
        fsync="none",
        figures={"bytes_each": round(each, 1), "bytes_each_goal": GOALS[what]},
        note=f"{count:,} kept; events/s is how fast they were put in",
    )


def _resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def _ids(rng: np.random.Generator) -> DedupeMemory:
    memory = DedupeMemory()
    for start in range(0, IDS, FRAME_ROWS):
        rows = min(FRAME_ROWS, IDS - start)
        memory.judge(rng.integers(0, 2**63, rows, np.uint64), rng.integers(0, 2**63, rows, np.uint64))
    assert len(memory) == IDS
    return memory


def _accounts(rng: np.random.Generator) -> AccountBalances:
    balances = AccountBalances(AccountTerms(overdrawn="account_overdrawn", wait_days=30), {"charge_posted": 1})
    for start in range(0, ACCOUNTS, FRAME_ROWS):
        numbers = rng.permutation(np.arange(start, min(start + FRAME_ROWS, ACCOUNTS)))
        rows = pl.DataFrame({"account": numbers}).select(
            pl.format("account-{}", "account").alias("account"),
            pl.lit("charge_posted").alias("kind"),
            pl.lit("mercy").alias("entity"),
            pl.lit("USD").alias("currency"),
            pl.lit("ehr").alias("source"),
            pl.format("e{}", "account").alias("event_id"),
            pl.lit(100, pl.Int64()).alias("amount_minor"),
        )
        cells = Cells(rows.head(1), np.zeros(rows.height, np.int32))
        balances.add(rows, cells, pl.Series([True]), NOW_MS)
    assert len(balances) >= ACCOUNTS
    return balances


def _items(count: int) -> ShardEngine:
    """Authorised cards, each of which opens an item. Their ids are remembered, too: 16 bytes more of each."""
    rulebook = parse_rulebook(standard_rulebook_text())
    entities = {"mercy": schema.EntityTerms(currencies=frozenset(["USD"]))}
    vocabulary = schema.Vocabulary(kinds=rulebook.kind_terms(), entities=entities)
    engine = ShardEngine(rulebook, {"mercy": date(2026, 7, 1)}, 2 * count)
    for start in range(0, count, FRAME_ROWS):
        numbers = pl.DataFrame({"n": range(start, min(start + FRAME_ROWS, count))})
        rows = numbers.select(
            pl.format("e{}", "n").alias("event_id"),
            pl.format("authorisation-{}", "n").alias("document"),
            pl.lit("card_authorised").alias("kind"),
            pl.lit("processor").alias("source"),
            pl.lit("mercy").alias("entity"),
            pl.lit("USD").alias("currency"),
            pl.lit(NOW_MS, pl.Int64()).alias("occurred_at"),
            pl.lit(100, pl.Int64()).alias("amount_minor"),
        )
        stamped = validation.validate(schema.conform(rows), vocabulary, NOW_MS).accepted.drop("row")
        assert stamped.height == rows.height
        record = LogRecord(f"{start + 1}-0", "events", rows.height, frames.encode(stamped))
        counts = engine.step([record]).counts
    assert counts.open_items == count
    return engine
