"""Every vendor's adapter with its double, and what the two ERP suites share: a clock, entries, books compared.

A vendor is one line in `VENDORS`; the guide's example is one of them. Documents are told apart by their totals, which
are all different, so the suites need not know what an adapter calls a key.
"""

import importlib.util
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from adapters.erp.doubles.catalog import doubles, section_to
from adapters.erp.doubles.ledger import Company, Document, Ledger
from adapters.erp.doubles.rest import BATCH_SETTINGS, CSV_SETTINGS
from adapters.erp.doubles.server import SECRETS, DoubleServer
from adapters.erp.doubles.trouble import Fault, Trouble
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.registry import open_gateway_of
from runtime.config import ErpSection
from runtime.ports import ErpGateway, JournalEntry, JournalLine, Outcome

OPENS_ON = date(2026, 2, 1)
POSTED_ON = date(2026, 3, 5)
CURRENCIES = {"north": "USD", "south": "EUR"}
ACCOUNTS = frozenset({"1010", "1200", "2100", "4000"})
JOB_WAIT_S = 600.0


class Vendor(NamedTuple):
    """One adapter with one way of setting it up. `settings` go over what the double's section says. `proven`: the long
    proof runs with it; other ways of setting up the same adapter keep the contract alone. `quota_share`: how much of
    the vendor's windows the proof's account has, so that they bite; enough for a few calls. `open_gateway`: how the
    adapter is opened, if not by its kind."""

    name: str
    double: str
    settings: Mapping[str, Any] = {}
    proven: bool = True
    quota_share: float = 0.05
    open_gateway: Callable[[ErpConnection], ErpGateway] = open_gateway_of


GUIDE = Path(__file__).parents[2] / "docs" / "writing-an-erp-adapter.md"
EXAMPLE = GUIDE.with_name("example_erp.py")


def _example(connection: ErpConnection) -> ErpGateway:
    """The guide's adapter, which nothing else imports."""
    spec = importlib.util.spec_from_file_location("example_erp", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The double's section describes it for the adapter `rest`; the example has no settings.
    return module.open_gateway(connection._replace(section=connection.section.model_copy(update={"settings": {}})))


VENDORS = (
    Vendor("netsuite", "netsuite"),
    Vendor("netsuite-suiteql", "netsuite", {"lookup": "suiteql"}, proven=False),
    Vendor("netsuite-single", "netsuite", {"mode": "single"}, proven=False),
    Vendor("business_central", "business_central", quota_share=0.01),
    Vendor("quickbooks", "quickbooks", quota_share=0.2),
    Vendor("quickbooks-single", "quickbooks", {"mode": "single"}, proven=False),
    Vendor("fusion", "fusion"),
    Vendor("xero", "xero"),
    Vendor("rest", "rest", proven=False),
    Vendor("rest-batch", "rest", BATCH_SETTINGS),
    Vendor("rest-csv", "rest", CSV_SETTINGS),
    Vendor("guide", "rest", open_gateway=_example),
)


class MovableClock:
    """Time that the test moves; the poster, the adapter and the double share it. `running`: it also passes by itself,
    so that calls of several threads overlap."""

    def __init__(self, running: bool = False) -> None:
        self._now_ms, self._running = 1_800_000_000_000, running
        self._began_s = time.monotonic()
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """The present."""
        passed_s = time.monotonic() - self._began_s if self._running else 0.0
        return self._now_ms + round(passed_s * 1000)

    def sleep(self, seconds: float) -> None:
        """Move on."""
        with self._lock:
            self._now_ms += round(seconds * 1000)


class ErpBench:
    """A double that is served, and the adapter that is connected to it."""

    def __init__(self, vendor: Vendor, folder: Path, trouble: Trouble | None = None, running: bool = False) -> None:
        self.clock, self._vendor = MovableClock(running), vendor
        companies = {f"c-{entity}": Company(currency, ACCOUNTS, OPENS_ON) for entity, currency in CURRENCIES.items()}
        self.ledger = Ledger(companies)
        self.double = doubles()[vendor.double](self.ledger, clock=self.clock, trouble=trouble)
        self.server = DoubleServer(self.double)
        os.environ.update(SECRETS)
        self.section = self._section(vendor, folder)
        self.gateway = self.connect()

    def connect(self, section: ErpSection | None = None) -> ErpGateway:
        """A gateway that remembers nothing of others."""
        connection = ErpConnection(section or self.section, tuple(CURRENCIES), self.clock, CURRENCIES)
        return self._vendor.open_gateway(connection)

    def post(self, *entries: JournalEntry) -> list[Outcome]:
        """The outcomes of one call, or of as many as it takes; of jobs, when they have ended."""
        size = self.gateway.terms().entries_max
        calls = [entries[at : at + size] for at in range(0, len(entries), size)]
        return [outcome for call in calls for outcome in self.ended(self.gateway.post(call))]

    def ended(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The same outcomes, with the end of each job in the place of its acceptance."""
        jobs = {outcome.erp_ref for outcome in outcomes if outcome.code == "accepted"}
        known: dict[str, Outcome] = {}
        for _ in range(60 if jobs else 0):
            known = {outcome.key: outcome for outcome in self.gateway.progress(sorted(jobs)) if outcome.key}
            if len(known) >= len([outcome for outcome in outcomes if outcome.code == "accepted"]):
                break
            self.clock.sleep(JOB_WAIT_S / 60)
        return [known.get(outcome.key, outcome) for outcome in outcomes]

    def trouble(self, *faults: Fault) -> None:
        """What the next write requests meet."""
        self.double.trouble.plan(*faults)

    def settle(self) -> None:
        """Let as much time pass as the adapter states."""
        self.clock.sleep(self.gateway.terms().settle_s)

    def booked(self) -> Counter[int]:
        """How often the double has booked each total, in minor units."""
        return Counter(total_minor(document) for document in self.ledger.documents)

    def close(self) -> None:
        """Let go of both sides."""
        self.gateway.close()
        self.server.close()

    def _section(self, vendor: Vendor, folder: Path) -> ErpSection:
        given = section_to(self.double, self.server.url, folder)
        settings = {**given.get("settings", {}), **vendor.settings}
        companies = {entity: f"c-{entity}" for entity in CURRENCIES}
        return ErpSection.model_validate({**given, "settings": settings, "companies": companies})


def total_minor(document: Document) -> int:
    """The sum of a document's debits, in minor units of two decimals."""
    return int(sum((line.debit for line in document.lines), Decimal(0)).scaleb(2))


def entry(
    key: str,
    amounts: tuple[int, ...] = (10_001, -10_001),
    entity: str = "north",
    posted_on: date = POSTED_ON,
    codes: tuple[str, ...] = ("1200", "4000"),
) -> JournalEntry:
    """An entry whose lines are debits where the amount is positive."""
    lines = tuple(
        JournalLine(codes[i % len(codes)], "D" if amount > 0 else "C", abs(amount), "f1", "lab", f"charges ({i})")
        for i, amount in enumerate(amounts)
    )
    return JournalEntry(
        key=key,
        digest=f"digest of {key}",
        entity=entity,
        currency=CURRENCIES[entity],
        period=posted_on.strftime("%Y-%m"),
        posted_on=posted_on,
        mode="summary",
        lane=3,
        document="",
        lines=lines,
        sets=(),
    )


def of_total(total: int, entity: str = "north") -> JournalEntry:
    """An entry under a key like the runtime's, of this total."""
    return entry(f"PS-{entity}-{total:010d}", (total, -total), entity)


def codes_of(outcomes: Sequence[Outcome]) -> list[str]:
    """The outcomes' codes."""
    return [outcome.code for outcome in outcomes]
