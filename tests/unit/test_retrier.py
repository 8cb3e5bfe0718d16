"""Second tries: what an ERP has rejected goes on by itself when a mapping or a period was mended."""

import msgspec
from unit.poster_bench import Bench

from actors.poster import Poster
from adapters.erp.memory import MemoryCompany
from runtime.flow.retrying import FIRST_S, LONGEST_S, TRIED_FOR_S
from runtime.ledger.crosswalk import CrosswalkRow

DAY_S = 86_400


def company(*accounts: str, periods: tuple[str, ...] = ("2026-10",)) -> MemoryCompany:
    return MemoryCompany(currency="USD", accounts=frozenset(accounts), periods=frozenset(periods))


def bench_of(known: MemoryCompany) -> tuple[Bench, dict[str, MemoryCompany]]:
    """A bench whose ERP takes what a company takes, and the company, to be changed."""
    companies = {"mercy": known}
    bench = Bench(companies=companies)
    rows = [CrosswalkRow(role="AR", account="1100"), CrosswalkRow(role="GROSS_REV", account="4000")]
    bench.books.add_mapping(msgspec.json.encode(rows).decode(), "installation")
    return bench, companies


def mend(bench: Bench, **accounts: str) -> None:
    """One person maps roles anew, another one approves."""
    rows = [CrosswalkRow(role=role, account=account, entity="mercy") for role, account in accounts.items()]
    number = bench.books.propose_change("mapping", msgspec.json.encode(rows).decode(), "ana")
    bench.books.approve_change(number, "bea")


def refused(known: MemoryCompany, *events: str) -> tuple[Bench, Poster, dict[str, MemoryCompany]]:
    """A bench, with the poster at work, whose company has rejected the entries of these events."""
    bench, companies = bench_of(known)
    bench.commit(*events)
    poster = bench.poster()
    bench.run(poster, until=lambda: bench.books.entry_counts() == {"rejected": len(events)})
    return bench, poster, companies


def pass_time(bench: Bench, poster: Poster, seconds: float) -> None:
    """Let the poster work for so long, looking every 100 s."""
    for _ in range(round(seconds / 100)):
        bench.clock.sleep(100)
        for _ in range(40):
            if poster.step():
                break


def test_entry_under_a_wrong_account_goes_on_when_the_mapping_is_mended() -> None:
    """The rejected entry is replaced by new postings under the approved mapping, once; the books then hold what the
    ERP holds, and the exception has ended."""
    bench, poster, _ = refused(company("1100", "4010"), "R-1")
    mend(bench, GROSS_REV="4010")
    pass_time(bench, poster, 200)
    assert bench.books.entry_counts() == {"replaced": 1, "posted": 1}
    assert bench.booked_once()
    assert bench.books.exception_counts() == {}
    assert bench.metrics.counts["entries_restated",] == 1


def test_mapping_that_is_wrong_again_is_tried_once() -> None:
    """A version is one try: what it leads to is rejected, and waits for the next version that changes its accounts."""
    bench, poster, _ = refused(company("1100", "4010"), "R-1")
    mend(bench, GROSS_REV="4099")
    pass_time(bench, poster, 400)
    mend(bench, AR="1100")  # says nothing new
    pass_time(bench, poster, 300)
    assert bench.books.entry_counts() == {"replaced": 1, "rejected": 1}
    assert len(bench.erp.calls) == 2
    mend(bench, GROSS_REV="4010")
    pass_time(bench, poster, 200)
    assert bench.books.entry_counts() == {"replaced": 2, "posted": 1}
    assert bench.booked_once()


def test_successor_goes_on_where_a_dead_poster_stood() -> None:
    """Which version an entry was tried under is in the books, so a restart neither forgets nor repeats it."""
    bench, _, _ = refused(company("1100", "4010"), "R-1")
    mend(bench, GROSS_REV="4010")
    for _ in range(3):
        pass_time(bench, bench.poster(), 100)
    assert bench.books.entry_counts() == {"replaced": 1, "posted": 1}
    assert bench.metrics.counts["entries_restated",] == 1


def test_reopened_period_is_noticed_with_one_entry_and_the_others_follow() -> None:
    """While the period is closed one entry of many asks now and then; once it is open, all are posted."""
    bench, poster, companies = refused(company("1100", "4000", periods=()), *(f"R-{n}" for n in range(20)))
    before = len(bench.erp.calls)
    pass_time(bench, poster, DAY_S)
    asked = len(bench.erp.calls) - before
    assert 1 < asked < 12
    companies["mercy"] = company("1100", "4000")
    pass_time(bench, poster, LONGEST_S + FIRST_S)
    assert bench.books.entry_counts() == {"posted": 20}
    assert set(bench.keys_at_erp().values()) == {1}


def test_what_is_never_mended_is_given_up() -> None:
    """The tries of one reason are few, and end; the entry stays with whoever has to look."""
    bench, poster, _ = refused(company("1100", "4000", periods=()), "R-1", "R-2")
    pass_time(bench, poster, TRIED_FOR_S + 2 * LONGEST_S)
    asked = len(bench.erp.calls)
    assert asked < 60
    pass_time(bench, poster, 5 * LONGEST_S)
    assert len(bench.erp.calls) == asked
    assert bench.books.entry_counts() == {"rejected": 2}
