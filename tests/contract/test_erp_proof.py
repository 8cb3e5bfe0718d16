"""The proof of delivery, vendor by vendor: 2,000 entries through a double that misbehaves, with the real poster.

Waiting is virtual, HTTP and threads are real. Each entry has a total of its own, so that the double's books say of each
how often it was booked.
"""

from collections import Counter
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from erp_vendors import VENDORS, ErpBench, Vendor

from actors.erp_calls import ThreadCallers
from actors.poster import Poster
from adapters.books.memory import MemoryBooks
from adapters.erp.doubles.limits import CONCURRENCY
from adapters.erp.doubles.trouble import FAULTS, Fault, Trouble
from runtime.config import ErpLimitsSection
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.limits import Limits
from runtime.ports import START, NoMetrics

ENTRIES = 2_000
COMMIT_ENTRIES = 200
CALL_ENTRIES = 20  # small calls, so that there are many for trouble to strike
DWELL_S = 0.002
TROUBLE_SHARE = 0.12  # of the write requests, over all faults
STEPS_MAX = 60_000
SETTLING_LEAP_S = 10.0
RATES: dict[Fault, float] = {fault: TROUBLE_SHARE / (len(FAULTS) - 1) for fault in FAULTS if fault != "none"}
FIRST_TOTAL = 10_000


class Delivery:
    """Books with 2,000 immediate postings, and a poster that brings them to a double."""

    def __init__(self, vendor: Vendor, folder: Path, seed: int) -> None:
        self.erp = ErpBench(vendor, folder, Trouble(seed, RATES), running=True)
        self.erp.trouble(*RATES)  # each once for certain, then by chance
        self.erp.double.dwell_s = DWELL_S
        self.books = MemoryBooks(self.erp.clock.now_ms)
        self._epoch = self.books.take_epoch("shard:0", "test").epoch
        for at in range(0, ENTRIES, COMMIT_ENTRIES):
            self._commit(range(at, at + COMMIT_ENTRIES))
        self.erp.double.limits.reduce(vendor.quota_share)
        terms = self.erp.gateway.terms()
        limits = ErpLimitsSection(
            entries_max=min(CALL_ENTRIES, terms.entries_max), per_minute=round(terms.per_minute * vendor.quota_share)
        )
        section = self.erp.section.model_copy(update={"calls_per_minute": 60_000.0, "limits": limits})
        self.poster = Poster(
            self.books,
            ThreadCallers(lambda: self.erp.connect(section)),
            clock=self.erp.clock,
            limits=Limits(),
            erp_section=section,
            entities=["north"],
            holder="test",
            metrics=NoMetrics(),
        )

    def drain(self) -> None:
        """Post everything; what a closed period refused is released again, as a person would, once it is open."""
        self.poster.start()
        for _ in range(STEPS_MAX):
            idle_s = self.poster.step()
            if idle_s and self._drained():
                return
            self.erp.clock.sleep(self._leap_s(idle_s))
        raise AssertionError(f"not drained: {self.books.entry_counts()}, {self.erp.double.trouble.met}")

    def close(self) -> None:
        """Let go of everything."""
        self.poster.close()
        self.erp.close()

    def _leap_s(self, idle_s: float) -> float:
        """While all that is left waits for its settling, nothing is missed by waiting longer."""
        settling = idle_s and set(self.books.entry_counts()) <= {"posted", "unknown", "rejected"}
        return max(idle_s, SETTLING_LEAP_S) if settling else idle_s

    def _drained(self) -> bool:
        counts = self.books.entry_counts()
        if set(counts) == {"posted", "rejected"}:
            for held in self.books.deliveries(["north"], ["rejected"], ENTRIES):
                self.books.release_entry(held.entry.key, "accountant")
            return False
        return set(counts) == {"posted"} and not self.books.unclaimed_count(["north"])

    def _commit(self, totals: range) -> None:
        rows = [row for n in totals for row in _set_rows(n - totals.start, FIRST_TOTAL + n)]
        deltas = pl.DataFrame(rows, schema=DELTAS, orient="row")
        effects = Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
        after = f"{totals.start}-0" if totals.start else START
        self.books.commit(0, self._epoch, after, f"{totals.stop}-0", len(totals), effects)


def _set_rows(set_no: int, total: int) -> list[tuple]:
    head = ("north", "USD", "2026-03", date(2026, 3, 5), "immediate", 0, "refund_approved", f"R-{total}", "f1", "", "")
    legs = enumerate([("AR", "1200", "D"), ("GROSS_REV", "4000", "C")])
    return [(set_no, i, *head, role, code, 1, side, total, 1) for i, (role, code, side) in legs]


PROVEN = [vendor for vendor in VENDORS if vendor.proven]


@pytest.mark.parametrize("vendor", PROVEN, ids=[vendor.name for vendor in PROVEN])
def test_proof_two_thousand_entries_through_a_misbehaving_erp_are_each_booked_once(
    vendor: Vendor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whatever an ERP does to its answers, each entry is in its books once, and none of its limits was exceeded."""
    seed = 20_261_122
    delivery = Delivery(vendor, tmp_path, seed)
    request.addfinalizer(delivery.close)
    delivery.drain()
    double = delivery.erp.double
    assert delivery.erp.booked() == Counter({FIRST_TOTAL + n: 1 for n in range(ENTRIES)}), f"seed {seed}"
    assert set(double.trouble.met) == set(FAULTS)
    assert double.limits.refused == Counter(), f"seed {seed}: {double.limits.refused}"
    assert double.limits.peaks[CONCURRENCY] <= delivery.erp.gateway.terms().concurrency
