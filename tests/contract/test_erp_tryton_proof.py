"""The proof of delivery with a real Tryton: the real poster, and a proxy that loses answers after the commit.

The poster's waiting is virtual: what is lost is lost after Tryton has ended the call, so nothing there needs the time.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from erp_vendors import MovableClock
from loopback_proxy import LoopbackProxy

from actors.erp_calls import ThreadCallers
from actors.poster import Poster
from adapters import embedded
from adapters.books.memory import MemoryBooks
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.registry import open_gateway_of
from adapters.erp.tryton import TrytonGateway
from adapters.erp.tryton_setup import CompanySpec
from runtime.config import ErpLimitsSection, ErpSection
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.limits import Limits
from runtime.ports import START, NoMetrics

ENTRIES = 2_000
CALL_ENTRIES = 20  # small calls, so that there are many answers to lose
FIRST_TOTAL = 10_000
STEPS_MAX = 20_000
LOST_MIN = 10
# Whose answers are lost, and each which of them: with the module one call does all; without it there are several, and
# each that is lost costs a wait.
LOSSES = {
    True: (5, ("account.move.post_batch",)),
    False: (17, ("account.move.create", "account.move.post", "account.move.read")),
}
SPEC = CompanySpec(
    entity="north",
    name="Northern Clinics",
    currency="USD",
    opens_on=date(2026, 1, 1),
    years=(2026,),
    accounts=(("AR", "1200"), ("GROSS_REV", "4000")),
)


class Delivery:
    """Books with immediate postings, and a poster that brings them to a Tryton whose answers get lost."""

    def __init__(self, url: str, password_file: Path, external_ref: bool) -> None:
        self.proxy = LoopbackProxy(int(url.rpartition(":")[2]))
        self.proxy.lose_every(*LOSSES[external_ref])
        self._clock = MovableClock(running=True)
        self._section = ErpSection(
            url=self.proxy.url,
            password_file=str(password_file),
            calls_per_minute=60_000,
            limits=ErpLimitsSection(entries_max=CALL_ENTRIES),
            settings={"external_ref": external_ref},
        )
        self.books = MemoryBooks(self._clock.now_ms)
        epoch = self.books.take_epoch("shard:0", "test").epoch
        rows = [row for n in range(ENTRIES) for row in _set_rows(n, FIRST_TOTAL + n)]
        deltas = pl.DataFrame(rows, schema=DELTAS, orient="row")
        effects = Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
        self.books.commit(0, epoch, START, "1-0", ENTRIES, effects)
        self.poster = Poster(
            self.books,
            ThreadCallers(self.connect),
            clock=self._clock,
            limits=Limits(),
            erp_section=self._section,
            entities=["north"],
            holder="test",
            metrics=NoMetrics(),
        )

    def connect(self) -> TrytonGateway:
        """A gateway as the configuration opens it."""
        return open_gateway_of(ErpConnection(self._section, ("north",), self._clock))

    def drain(self) -> None:
        """Post everything, while answers get lost."""
        self.poster.start()
        for _ in range(STEPS_MAX):
            idle_s = self.poster.step()
            if idle_s and set(self.books.entry_counts()) == {"posted"}:
                return
            self._clock.sleep(idle_s)
        raise AssertionError(f"not drained: {self.books.entry_counts()}")

    def booked(self) -> Counter[tuple[str, int]]:
        """How often Tryton has booked each key with each total."""
        gateway = self.connect()
        lines = gateway.move_lines("north")
        gateway.close()
        return Counter((line.key, line.amount_minor) for line in lines if line.side == "D")

    def close(self) -> None:
        """Let go of everything."""
        self.poster.close()
        self.proxy.close()


def _set_rows(set_no: int, total: int) -> list[tuple]:
    head = ("north", "USD", "2026-03", date(2026, 3, 5), "immediate", 0, "refund_approved", f"R-{total}", "f1", "", "")
    legs = enumerate([("AR", "1200", "D"), ("GROSS_REV", "4000", "C")])
    return [(set_no, i, *head, role, code, 1, side, total, 1) for i, (role, code, side) in legs]


@pytest.fixture(params=[False, True], ids=["stock", "external_ref"])
def delivery(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Delivery]:
    cache = Path(request.config.cache.mkdir("tryton"))
    part = embedded.start_tryton(tmp_path, [SPEC], cache, external_ref=request.param)
    delivery = Delivery(part.url, embedded.tryton_password_file(tmp_path), request.param)
    try:
        yield delivery
    finally:
        delivery.close()
        embedded.stop(part)


def test_proof_real_tryton_that_loses_answers_has_each_entry_once(delivery: Delivery) -> None:
    """However many answers are lost after the commit, Tryton holds each entry once, and none is missing."""
    delivery.drain()
    booked = delivery.booked()
    assert delivery.proxy.lost >= LOST_MIN
    assert sorted(total for _, total in booked) == [FIRST_TOTAL + n for n in range(ENTRIES)]
    assert set(booked.values()) == {1}
    assert {key for key, _ in booked} == {
        d.entry.key for d in delivery.books.deliveries(["north"], ["posted"], ENTRIES)
    }
