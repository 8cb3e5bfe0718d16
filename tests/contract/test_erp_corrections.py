"""Corrections brought to an ERP by the real poster from SQL books: every vendor's double, and Tryton with and without
our module.

What people do is done by the commands themselves; what was wrong is mended at the ERP or in the mapping. Each ERP is
asked whether its earlier documents stand as they were, and what its accounts come to. Waiting is virtual.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import msgspec
import polars as pl
import pytest
from erp_vendors import OPENS_ON, POSTED_ON, VENDORS, ErpBench, MovableClock, Vendor
from typer.testing import CliRunner

from actors.cli import app
from actors.erp_calls import InlineCallers
from actors.poster import Poster
from adapters import embedded
from adapters.books.sql import SqlBooks
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.registry import open_gateway_of
from adapters.erp.tryton import TrytonGateway
from adapters.erp.tryton_rpc import Credentials, TrytonSession
from adapters.erp.tryton_setup import CompanySpec
from runtime.config import ErpSection
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.ledger.crosswalk import CrosswalkRow
from runtime.limits import Limits
from runtime.ports import ErpGateway, NoMetrics

PERIOD, NEXT_PERIOD = f"{POSTED_ON:%Y-%m}", date(2026, 4, 1)
COMPANIES = ("north", "east", "south", "west", "centre")  # of a Tryton: each test has one to itself
RECEIVABLE, WRONG, RIGHT, UNKNOWN = "1200", "2100", "4000", "9999"
STEPS_MAX = 2_000
LEAP_S = 60.0  # while nothing but a waiting time is left
SPECS = tuple(
    CompanySpec(
        entity=entity,
        name=entity,
        currency="USD",
        opens_on=OPENS_ON,
        years=(2026,),
        accounts=(("AR", RECEIVABLE), ("GROSS_REV", RIGHT), ("REFUND_PAYABLE", WRONG)),
    )
    for entity in COMPANIES
)
CONFIGURATION = """
[runtime]
data_dir = "{folder}"
[entities.{entity}]
name = "One"
opens_on = {opens_on}
"""

# ── ERPs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Erp(Protocol):
    """An ERP whose periods can be closed, and whose books can be read."""

    section: ErpSection
    clock: MovableClock
    entity: str

    def connect(self) -> ErpGateway: ...
    def close_period(self) -> None: ...
    def reopen_period(self) -> None: ...

    def documents(self) -> list[Any]:
        """All that is booked, in the order of booking, as values that compare."""
        ...

    def balances(self) -> dict[str, int]:
        """Debits less credits of each account, in minor units, as the ERP itself says."""
        ...

    def close(self) -> None: ...


class DoubleErp:
    """A vendor's double and its own ledger."""

    entity = "north"
    _company = "c-north"

    def __init__(self, vendor: Vendor, folder: Path) -> None:
        self._bench = ErpBench(vendor, folder)
        self.section, self.clock = self._bench.section, self._bench.clock

    def connect(self) -> ErpGateway:
        return self._bench.connect()

    def close_period(self) -> None:
        self._open_from(NEXT_PERIOD)

    def reopen_period(self) -> None:
        self._open_from(OPENS_ON)

    def documents(self) -> list[Any]:
        return list(self._bench.ledger.documents)

    def balances(self) -> dict[str, int]:
        turnover = self._bench.ledger.turnover(self._company)
        return {account: int((debit - credit).scaleb(2)) for account, (debit, credit) in turnover.items()}

    def close(self) -> None:
        self._bench.close()

    def _open_from(self, day: date) -> None:
        companies = self._bench.ledger.companies
        companies[self._company] = companies[self._company]._replace(opens_on=day)


class RealTryton:
    """One company of a real Tryton."""

    def __init__(self, url: str, folder: Path, external_ref: bool, entity: str) -> None:
        self.clock, self.entity = MovableClock(), entity
        self.section = ErpSection(
            url=url,
            password_file=str(embedded.tryton_password_file(folder)),
            settings={"external_ref": external_ref},
        )
        password = embedded.tryton_password(folder)
        self._session = TrytonSession(Credentials(url, embedded.TRYTON_DATABASE, embedded.TRYTON_USER, password))
        self._reader = self.connect()

    def connect(self) -> TrytonGateway:
        return open_gateway_of(ErpConnection(self.section, (self.entity,), self.clock))

    def close_period(self) -> None:
        self._session.call("model.account.period.close", self._period())

    def reopen_period(self) -> None:
        self._session.call("model.account.period.reopen", self._period())

    def documents(self) -> list[Any]:
        return self._reader.move_lines(self.entity)

    def balances(self) -> dict[str, int]:
        return {one.account_code: one.debit_minor - one.credit_minor for one in self._reader.trial_balance()}

    def close(self) -> None:
        self._reader.close()
        self._session.close()

    def _period(self) -> list[int]:
        domain = [
            ["fiscalyear.company.party.identifiers.code", "=", f"penstock:{self.entity}"],
            ["start_date", "<=", POSTED_ON],
            ["end_date", ">=", POSTED_ON],
        ]
        return self._session.read("model.account.period.search", domain, 0, None, None)


@pytest.fixture(scope="module", params=[False, True], ids=["tryton", "tryton-external_ref"])
def trytons(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Erp]]:
    """Companies of one Tryton, each for one test: keys are of an entity, and the ERP outlives the test."""
    folder = tmp_path_factory.mktemp("tryton")
    cache = Path(request.config.cache.mkdir("tryton"))
    part = embedded.start_tryton(folder, SPECS, cache, external_ref=request.param)
    try:
        yield (RealTryton(part.url, folder, request.param, entity) for entity in COMPANIES)
    finally:
        embedded.stop(part)


@pytest.fixture
def tryton(trytons: Iterator[Erp]) -> Iterator[Erp]:
    erp = next(trytons)
    yield erp
    erp.close()


@pytest.fixture(params=VENDORS, ids=[vendor.name for vendor in VENDORS])
def double(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Erp]:
    erp = DoubleErp(request.param, tmp_path)
    yield erp
    erp.close()


# ── Penstock ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Installation:
    """SQL books, a poster that brings them to the ERP, and the commands of who works there."""

    def __init__(self, erp: Erp, folder: Path) -> None:
        self.erp, self._clock = erp, erp.clock
        self.books = SqlBooks(f"sqlite:///{folder / 'books.sqlite'}", self._clock.now_ms)
        self._config = folder / "penstock.toml"
        self._config.write_text(CONFIGURATION.format(folder=folder, entity=erp.entity, opens_on=OPENS_ON))
        self._position = 0
        self.map_revenue_to(WRONG)
        section = erp.section.model_copy(update={"calls_per_minute": 60_000.0})
        self._poster = Poster(
            self.books,
            InlineCallers(erp.connect()),
            clock=self._clock,
            limits=Limits(),
            erp_section=section,
            entities=[erp.entity],
            holder="test",
            metrics=NoMetrics(),
        )
        self._poster.start()

    def map_revenue_to(self, account: str) -> None:
        """Put a mapping version in force."""
        rows = [CrosswalkRow(role="AR", account=RECEIVABLE), CrosswalkRow(role="GROSS_REV", account=account)]
        self.books.add_mapping(msgspec.json.encode(rows).decode(), "ana")

    def commit(self, *totals: int, account: str = WRONG) -> None:
        """Postings of these amounts, one document each, under the mapping of now."""
        version = self.books.mapping_versions()[-1].version
        rows = [row for n, total in enumerate(totals) for row in self._set_rows(n, total, account, version)]
        deltas = pl.DataFrame(rows, schema=DELTAS, orient="row")
        effects = Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
        lease = self.books.take_epoch("shard:0", "test")
        self._position += 1
        self.books.commit(0, lease.epoch, lease.position, f"{self._position}-0", len(totals), effects)

    def run(self, until: Callable[[], bool]) -> None:
        """Post until it is so, and until nothing is left to do at once."""
        for _ in range(STEPS_MAX):
            idle_s = self._poster.step()
            if idle_s and until():
                return
            self._clock.sleep(LEAP_S if idle_s and self._waits() else idle_s)
        raise AssertionError(f"it never came to that: {self.books.entry_counts()}")

    def counts(self) -> dict[str, int]:
        """Entries by state, with what waits to become one."""
        waiting = self.books.unclaimed_count([self.erp.entity])
        return {**self.books.entry_counts(), **({"unclaimed": waiting} if waiting else {})}

    def keys(self, state: str) -> list[str]:
        """Of entries in this state."""
        return [held.entry.key for held in self.books.deliveries([self.erp.entity], [state], 100)]

    def command(self, *words: str) -> dict:
        """What `penstock erp` answers to a machine."""
        result = CliRunner().invoke(app, ["erp", *words, "--config", str(self._config), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    def close(self) -> None:
        """Let go of the books; the ERP is closed by who opened it."""
        self._poster.close()

    def _waits(self) -> bool:
        return set(self.counts()) <= {"posted", "rejected", "replaced", "in_flight"}

    def _set_rows(self, set_no: int, total: int, account: str, version: int) -> list[tuple]:
        place, document = (self.erp.entity, "USD", PERIOD, POSTED_ON), f"R-{total}"
        head = (*place, "immediate", 0, "refund_approved", document, "F1", "", "")
        legs = enumerate([("AR", RECEIVABLE, "D"), ("GROSS_REV", account, "C")])
        return [(set_no, i, *head, role, code, version, side, total, 1) for i, (role, code, side) in legs]


Open = Callable[[Erp], Installation]


@pytest.fixture
def opened(sqlite_template: Path, tmp_path: Path) -> Iterator[Open]:
    """Opens an installation before an ERP."""
    installations: list[Installation] = []
    shutil.copy(sqlite_template, tmp_path / "books.sqlite")

    def open_(erp: Erp) -> Installation:
        installations.append(Installation(erp, tmp_path))
        return installations[-1]

    yield open_
    for each in installations:
        each.close()


# ── what must be so, whatever the ERP ──────────────────────────────────────────────────────────────────────────────


def _goes_on_after_the_period_was_reopened(site: Installation) -> None:
    site.erp.close_period()
    try:
        site.commit(100, 23, 4)
        site.run(lambda: site.counts() == {"rejected": 3})
        assert site.erp.documents() == []
        assert site.books.exception_counts() == {"erp_rejected": 3}
    finally:
        site.erp.reopen_period()
    refused = site.keys("rejected")
    site.run(lambda: site.counts() == {"posted": 3})
    assert site.keys("posted") == refused
    assert site.erp.balances() == {RECEIVABLE: 127, WRONG: -127}
    assert site.books.exception_counts() == {}
    assert site.books.conservation_breaks(100) == []


def _is_dated_into_the_open_period(site: Installation) -> None:
    site.erp.close_period()
    try:
        site.commit(100, 23)
        site.run(lambda: site.counts() == {"rejected": 2})
        [first, second] = site.keys("rejected")
        site.command("repost", first, second, "--opens-on", f"{NEXT_PERIOD}", "--by", "ana")
        site.run(lambda: site.counts() == {"replaced": 2, "posted": 2})
    finally:
        site.erp.reopen_period()
    posted = [site.books.delivery_of(key).entry for key in site.keys("posted")]
    assert {(entry.posted_on, entry.period) for entry in posted} == {(NEXT_PERIOD, f"{NEXT_PERIOD:%Y-%m}")}
    assert site.erp.balances() == {RECEIVABLE: 123, WRONG: -123}
    assert site.books.exception_counts() == {}


def _goes_on_after_the_mapping_was_mended(site: Installation) -> None:
    site.map_revenue_to(UNKNOWN)
    site.commit(100, 23, account=UNKNOWN)
    site.run(lambda: site.counts() == {"rejected": 2})
    site.map_revenue_to(RIGHT)
    site.run(lambda: site.counts() == {"replaced": 2, "posted": 2})
    assert site.erp.balances() == {RECEIVABLE: 123, RIGHT: -123}
    assert site.books.exception_counts() == {}


def _is_reposted_under_the_mapping_of_now(site: Installation) -> None:
    site.commit(100, 23)
    site.run(lambda: site.counts() == {"posted": 2})
    before, [first, second] = site.erp.documents(), site.keys("posted")
    site.map_revenue_to(RIGHT)
    site.command("repost", first, second, "--by", "ana")
    site.run(lambda: site.counts() == {"posted": 6})
    after = site.erp.documents()
    assert after[: len(before)] == before  # what stood, stands
    assert len(after) == 3 * len(before)
    assert site.erp.balances() == {RECEIVABLE: 123, WRONG: 0, RIGHT: -123}
    assert _turnover_of(site, WRONG) == (123, 123)
    assert site.books.conservation_breaks(100) == []


def _is_reversed_by_two_people(site: Installation) -> None:
    site.commit(100, 23)
    site.run(lambda: site.counts() == {"posted": 2})
    before, [cancelled, _] = site.erp.documents(), site.keys("posted")
    number = site.command("reverse", cancelled, "--by", "ana", "--note", "cancelled")["changes"][cancelled]
    site.run(lambda: site.counts() == {"posted": 2})
    assert site.erp.documents() == before  # one person alone changes nothing
    assert site.command("approve", str(number), "--by", "bea")["reversed"] == cancelled
    site.run(lambda: site.counts() == {"posted": 3})
    assert site.erp.documents()[: len(before)] == before
    left = site.books.delivery_of(site.keys("posted")[-1]).entry
    assert left.document == f"reversal of {cancelled}"
    kept = 123 - sum(line.amount_minor for line in left.lines if line.side == "D")
    assert site.erp.balances() == {RECEIVABLE: kept, WRONG: -kept}
    assert kept in (23, 100)


def _turnover_of(site: Installation, account: str) -> tuple[int, int]:
    """What the books say was posted to an account: debits and credits."""
    rows = site.books.balances().filter(pl.col("account_code") == account)
    return int(rows["posted_debit_minor"].sum()), int(rows["posted_credit_minor"].sum())


CASES = [
    pytest.param(_goes_on_after_the_period_was_reopened, id="period"),
    pytest.param(_is_dated_into_the_open_period, id="redate"),
    pytest.param(_goes_on_after_the_mapping_was_mended, id="mapping"),
    pytest.param(_is_reposted_under_the_mapping_of_now, id="repost"),
    pytest.param(_is_reversed_by_two_people, id="reverse"),
]


@pytest.mark.parametrize("case", CASES)
def test_correction_at_a_vendors_double(double: Erp, opened: Open, case: Callable[[Installation], None]) -> None:
    """An entry that was wrong is put right at every vendor by new documents alone.

    A refused one goes on by itself once its period or its mapping is mended, or is dated into the open period; a posted
    one is reversed, and booked anew where it belongs elsewhere.
    """
    case(opened(double))


@pytest.mark.parametrize("case", CASES)
def test_correction_at_a_real_tryton(tryton: Erp, opened: Open, case: Callable[[Installation], None]) -> None:
    """The same holds at a real Tryton, with our module and without."""
    case(opened(tryton))
