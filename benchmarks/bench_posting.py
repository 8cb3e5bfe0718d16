"""Posting to a real Tryton: the poster with its durable books, beside one writer that does nothing but call it.

Both post the same number of entries in calls of the same size, by turns on one Tryton, so that what else the machine
does concerns both. The lone writer keeps nothing and asks for nothing; the poster seals, records each intent and each
outcome on disk. The share that it reaches is the figure; entries a second say more of the machine.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import polars as pl

from actors.erp_calls import ThreadCallers
from actors.poster import Poster
from adapters import embedded
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.registry import open_gateway_of
from adapters.erp.tryton_setup import CompanySpec
from benchmarks.measure import Options, Result
from runtime.config import ErpSection
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.ledger.journal import Draft, numbered
from runtime.limits import Limits
from runtime.ports import START, ErpGateway, JournalEntry, JournalLine, NoMetrics

ENTRIES, ROUNDS = 1_000, 5
COMMIT_SETS = 250
FIRST_LONE_NO = 10**8  # far from the numbers that the books give
ENTITY, CURRENCY, PERIOD, DAY = "north", "USD", "2026-03", date(2026, 3, 5)
SPEC = CompanySpec(
    entity=ENTITY,
    name="Northern Clinics",
    currency=CURRENCY,
    opens_on=date(2026, 1, 1),
    years=(2026,),
    accounts=(("AR", "1200"), ("GROSS_REV", "4000")),
)


def results(options: Options) -> Iterator[Result]:
    """With our module, and with Tryton as it is."""
    for external_ref in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            yield _measured(Path(folder), external_ref)


def _measured(folder: Path, external_ref: bool) -> Result:
    part = embedded.start_tryton(folder / "erp", [SPEC], folder / "cache", external_ref=external_ref)
    try:
        section = ErpSection(
            url=part.url,
            password_file=str(embedded.tryton_password_file(folder / "erp")),
            calls_per_minute=60_000,
            settings={"external_ref": external_ref},
        )
        side = _Side(folder, section)
        lone, ours = [], []
        for turn in range(ROUNDS):
            lone.append(side.lone(turn))
            ours.append(side.poster(turn))
        busy_share = side.busy_s / sum(ours)
        side.close()
    finally:
        embedded.stop(part)
    shares = [alone / with_books for alone, with_books in zip(lone, ours, strict=True)]
    return Result(
        name="posting",
        case="external_ref" if external_ref else "stock",
        events_per_s=round(ENTRIES / statistics.median(ours), 1),
        limit="a lone writer",
        limit_events_per_s=round(ENTRIES / statistics.median(lone), 1),
        figures={
            "share_least": round(min(shares), 3),
            "share_median": round(statistics.median(shares), 3),
            "busy_share": round(busy_share, 3),
        },
        note=f"{ROUNDS} turns of {ENTRIES:,} entries of 2 lines each",
    )


class _Side:
    """Both sides of the comparison, on one Tryton."""

    def __init__(self, folder: Path, section: ErpSection) -> None:
        self._section, self._clock = section, WallClock()
        url = f"sqlite:///{folder / 'books.sqlite'}"
        upgrade(url)
        self._books = SqlBooks(url, self._clock.now_ms)
        self._epoch = self._books.take_epoch("shard:0", "bench").epoch
        self._gateway = self._open()
        self._busy_s = 0.0  # the time of the poster's calls
        self._callers = _Timed(self._open, self._spent)
        self._poster = Poster(
            self._books,
            self._callers,
            clock=self._clock,
            limits=Limits(),
            erp_section=section,
            entities=[ENTITY],
            holder="bench",
            metrics=NoMetrics(),
        )
        self._poster.start()

    def _open(self) -> ErpGateway:
        return open_gateway_of(ErpConnection(self._section, (ENTITY,), self._clock))

    def _spent(self, seconds: float) -> None:
        self._busy_s += seconds

    @property
    def busy_s(self) -> float:
        """How long the poster's calls took so far, all together."""
        return self._busy_s

    def lone(self, turn: int) -> float:
        """Seconds for one turn of a writer that only calls."""
        first = FIRST_LONE_NO + turn * ENTRIES
        entries = [_entry(first + n) for n in range(ENTRIES)]
        size = min(Limits().call_entries_max, self._gateway.terms().entries_max)
        began = time.perf_counter()
        for start in range(0, ENTRIES, size):
            outcomes = self._gateway.post(entries[start : start + size])
            if any(outcome.code != "posted" for outcome in outcomes):
                raise RuntimeError(f"the lone writer was answered {outcomes[0]}")
        return time.perf_counter() - began

    def poster(self, turn: int) -> float:
        """Seconds until the poster has recorded one turn's entries as posted."""
        parts = ENTRIES // COMMIT_SETS
        for part in range(turn * parts, (turn + 1) * parts):
            deltas = pl.DataFrame(
                [line for n in range(COMMIT_SETS) for line in _set(part, n)], schema=DELTAS, orient="row"
            )
            effects = Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
            self._books.commit(0, self._epoch, f"{part}-0" if part else START, f"{part + 1}-0", COMMIT_SETS, effects)
        wanted, began = (turn + 1) * ENTRIES, time.perf_counter()
        while True:
            pause_s = self._poster.step()
            if pause_s and self._books.entry_counts() == {"posted": wanted}:
                return time.perf_counter() - began
            self._clock.sleep(min(pause_s, 0.01))

    def close(self) -> None:
        """Let go of everything."""
        self._poster.close()
        self._gateway.close()


class _Timed(ThreadCallers):
    """Callers that tell how long each call took. The ERP's concurrency is one, so calls never overlap."""

    def __init__(self, open_gateway: Callable[[], ErpGateway], spent: Callable[[float], None]) -> None:
        super().__init__(open_gateway)
        self._spent = spent

    def start(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        """See Callers."""

        def timed(gateway: ErpGateway) -> object:
            began = time.perf_counter()
            try:
                return call(gateway)
            finally:
                self._spent(time.perf_counter() - began)

        super().start(ticket, timed)


def _set(part: int, set_no: int) -> Iterator[tuple]:
    head = {"entity": ENTITY, "currency": CURRENCY, "period": PERIOD, "posted_on": DAY, "mode": "immediate", "lane": 0}
    told = head | {"kind": "refund_approved", "document": f"R-{part}-{set_no}", "facility": "f1", "events": 1}
    for line_no, (role, account, side) in enumerate((("AR", "1200", "D"), ("GROSS_REV", "4000", "C"))):
        line = {"set_no": set_no, "line_no": line_no, "role": role, "account_code": account, "side": side}
        row = told | line | {"amount_minor": 12_345, "mapping_version": 1}
        yield tuple(row.get(name, "") for name in DELTAS)


def _entry(number: int) -> JournalEntry:
    lines = tuple(JournalLine(a, s, 12_345, "f1", "", "refund_approved, 1 events") for a, s in _LEGS)
    draft = Draft(ENTITY, CURRENCY, PERIOD, DAY, "immediate", 0, f"L-{number}", lines, (), 0)
    return numbered(draft, number)


_LEGS = (("1200", "D"), ("4000", "C"))
