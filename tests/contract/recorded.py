"""A small Penstock in one process over a real database and a real archive: what verification and backups are tried on.

Owns a history with everything in it: two shards, repeats, a conflict, rows that wait, rows that are held until a
mapping comes, ticks, journal entries at an ERP twin.
"""

import asyncio
from datetime import date
from pathlib import Path

from small_log import NOW_MS, ROLES, RULEBOOK, VirtualClock, control, event, events, mapping

from actors.cli.shard_proofs import Sources
from actors.erp_calls import InlineCallers
from actors.poster import Poster
from actors.shard_worker import ShardWorker
from adapters.archive.parquet import ParquetArchive
from adapters.books.sql import SqlBooks
from adapters.erp.memory import MemoryErp
from adapters.log.memory import MemoryLog
from runtime.config import ErpSection, parse
from runtime.limits import Limits
from runtime.ports import LogEntry, NoMetrics
from runtime.shard import ShardEngine

CONFIG = parse({"entities": {"mercy": {"name": "Mercy", "opens_on": date(2026, 7, 1)}}})
LIMITS = Limits(frame_rows_max=4, step_rows_max=4, checkpoint_commits_max=3)


def history() -> list[LogEntry]:
    """All that shards can meet. A charge of shard 1 stays held, a card of shard 0 stays open."""
    charges = [event(f"c{i}", "charge_posted", 100 + i) for i in range(6)]
    return [
        mapping(0, 1, *ROLES),
        mapping(1, 1, *ROLES),
        events(0, *charges[:3]),
        events(1, *(event(f"w{i}", "charge_posted", 7, facility="west", counterparty="plan") for i in range(5))),
        events(0, event("a1", "adjustment_posted", 30, reason="CO-45"), *charges[2:4]),
        events(0, event("s1", "card_settled", 50, document="ca-1", reference="po-1")),
        events(0, event("c1", "charge_posted", 999), *charges[4:]),
        events(0, event("k1", "card_captured", 50, document="ca-1", reference="au-1")),
        events(0, event("p1", "payout_paid", 50, document="po-1", facility=None)),
        control(0, {"type": "tick", "now_ms": NOW_MS + 60_000}),
        events(1, event("w9", "payment_received", 20, facility="west")),
        events(
            0, event("t1", "card_authorised", 80, document="au-1"), event("t2", "card_authorised", 9, document="au-2")
        ),
        mapping(0, 2, "CONTRACTUAL"),
        events(1, event("a2", "adjustment_posted", 5, facility="west", reason="CO-45")),
        events(0, *charges),
    ]


class Recorded:
    """Log, books, archive and ERP, with a worker and a poster that have done their work."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.clock, self.log = url, VirtualClock(), MemoryLog(2)
        self.archive, self.erp = ParquetArchive(folder), MemoryErp()

    def append(self, *entries: LogEntry) -> None:
        """Add to the log."""
        asyncio.run(self._append(entries))

    async def _append(self, entries: tuple[LogEntry, ...]) -> None:
        await self.log.append(entries)

    def worker(self) -> ShardWorker:
        """A worker of both shards."""
        opens_on = CONFIG.opens_on()
        return ShardWorker(
            lambda: (0, 1),
            holder="test",
            engine=lambda: ShardEngine(RULEBOOK, opens_on, LIMITS.open_items_max),
            log=self.log,
            books=SqlBooks(self.url, self.clock.now_ms),
            archive=self.archive,
            clock=self.clock,
            limits=LIMITS,
            metrics=NoMetrics(),
        )

    def work(self, *, checkpoint: bool = True, steps: int = 12) -> None:
        """Take all that is in the log, in small steps; `checkpoint` at the end."""
        worker = self.worker()
        for _ in range(steps):
            worker.step()
            self.clock.sleep(0.05)
        if checkpoint:
            worker.checkpoint_now()

    def post(self) -> None:
        """Seal and deliver what is booked."""
        poster = Poster(
            SqlBooks(self.url, self.clock.now_ms),
            InlineCallers(self.erp),
            clock=self.clock,
            limits=Limits(),
            erp_section=ErpSection(calls_per_minute=6000, seal_age_s=0.0),
            entities=["mercy"],
            holder="test",
            metrics=NoMetrics(),
        )
        poster.start()
        for _ in range(40):
            self.clock.sleep(max(poster.step(), 0.5))

    def sources(self) -> Sources:
        """What verification reads."""
        return Sources(CONFIG, RULEBOOK, self.url, self.archive, lambda: self.log)


def filled(url: str, folder: Path) -> Recorded:
    """The whole history, worked and posted."""
    recorded = Recorded(url, folder)
    for entry in history():
        recorded.append(entry)
    recorded.work()
    recorded.post()
    return recorded
