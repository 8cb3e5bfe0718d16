"""The poster where each company has a log-in of its own: one that is refused holds up nobody else's entries."""

from collections.abc import Sequence

import msgspec
import polars as pl
import pytest
from unit.poster_bench import Bench, _set_rows

from actors.erp_calls import InlineCallers
from actors.poster import Poster
from adapters.erp.memory import TERMS
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, TOTALS, Effects, StepCounts, empty
from runtime.flow.governor import UNAUTHORISED_PAUSE_S
from runtime.limits import Limits
from runtime.ports import JournalEntry, Outcome

ENTITIES = ("lakeside", "mercy")
EACH = msgspec.structs.replace(TERMS, atomicity="per_item", log_ins_apart=True)


class Realms(Bench):
    """Two entities, each with a log-in of its own; those in `locked` are refused, with this code and delay."""

    def __init__(
        self, *locked: str, terms: object = EACH, code: str = "unauthorised", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(terms=terms)
        self.locked = set(locked)
        self._refusal = Outcome("", code, detail="no", retry_after_s=retry_after_s)
        self.asked: list[int] = []  # when a locked one was asked
        self._whole = self.erp.post
        self.erp.post = self._post

    def commit_of(self, entity: str, *documents: str) -> None:
        """One posting set a document."""
        rows = [line for n, document in enumerate(documents) for line in _set_rows(n, document, 700, 1, "2026-10")]
        deltas = pl.DataFrame(rows, schema=DELTAS, orient="row").with_columns(pl.lit(entity).alias("entity"))
        self._commit(Effects(deltas, empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts()))

    def both(self) -> Poster:
        """A poster for both."""
        poster = Poster(
            self.books,
            InlineCallers(self.erp),
            clock=self.clock,
            limits=Limits(),
            erp_section=self.section,
            entities=ENTITIES,
            holder="test",
            metrics=self.metrics,
        )
        poster.start()
        return poster

    def posted(self, entity: str) -> int:
        """How many entries the ERP holds of an entity."""
        return len([entry for _, entry in self.erp.moves if entry.entity == entity])

    def _post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        if any(entry.entity in self.locked for entry in entries):
            self.asked.append(self.clock.now_ms())
        taken = {o.key: o for o in self._whole([entry for entry in entries if entry.entity not in self.locked])}
        return [taken.get(entry.key) or self._refusal._replace(key=entry.key) for entry in entries]


@pytest.mark.parametrize("before", [1, 60])
def test_log_in_that_is_refused_alone_holds_up_no_other_entity(before: int) -> None:
    """However many entries of the refused one wait first, the other's are posted at once; its own wait under one
    exception, are tried every five minutes, and go when its log-in is mended."""
    bench = Realms("lakeside")
    bench.commit_of("lakeside", *(f"L-{n}" for n in range(before)))
    poster, began_ms = bench.both(), bench.clock.now_ms()
    for round_ in range(20):
        bench.commit_of("mercy", *(f"M-{round_}-{n}" for n in range(5)))
        bench.run(poster, lambda n=round_: bench.posted("mercy") == 5 * (n + 1))
    assert bench.clock.now_ms() - began_ms < UNAUTHORISED_PAUSE_S * 1000
    assert bench.books.exceptions()["entity"].to_list() == ["lakeside"]
    for _ in range(100):
        bench.clock.sleep(max(10.0, poster.step()))
    assert 3 <= len(bench.asked) <= 5
    assert all(b - a >= UNAUTHORISED_PAUSE_S * 1000 for a, b in zip(bench.asked, bench.asked[1:], strict=False))
    bench.locked.clear()
    bench.run(poster, lambda: bench.posted("lakeside") == before)
    assert bench.books.exception_counts() == {} and set(bench.keys_at_erp().values()) == {1}


def test_log_in_that_is_refused_to_all_pauses_everything() -> None:
    """When nobody is let in, one call in five minutes asks again, as for an ERP with one log-in."""
    bench = Realms(*ENTITIES)
    for entity in ENTITIES:
        bench.commit_of(entity, "A", "B")
    poster = bench.both()
    bench.run(poster, lambda: len(bench.asked) == 4)
    assert bench.asked[-1] - bench.asked[1] >= UNAUTHORISED_PAUSE_S * 1000
    assert poster.health().governor.health == "unauthorised"
    assert bench.books.exception_counts() == {"erp_unauthorised": 2}
    bench.locked.clear()
    bench.run(poster, lambda: bench.posted("mercy") == bench.posted("lakeside") == 2)
    assert bench.books.exception_counts() == {}


def test_log_in_of_one_company_where_all_share_it_pauses_everything() -> None:
    """Where one log-in serves all, a refusal is everybody's, and asked about once in five minutes."""
    bench = Realms("lakeside", terms=msgspec.structs.replace(EACH, log_ins_apart=False))
    bench.commit_of("lakeside", "L")
    bench.commit_of("mercy", "M")
    poster = bench.both()
    poster.step()
    paused_ms = poster.health().governor.paused_until_ms - bench.clock.now_ms()
    assert paused_ms == UNAUTHORISED_PAUSE_S * 1000


@pytest.mark.parametrize(("code", "retry_after_s"), [("throttled", 0.0), ("throttled", 80_000.0), ("unavailable", 0.0)])
def test_company_that_is_throttled_or_away_alone_holds_up_no_other(code: str, retry_after_s: float) -> None:
    """However many of its entries wait first, and however long it wants to rest, the other's are posted; its own
    follow when it serves again, after its own delay."""
    bench = Realms("lakeside", code=code, retry_after_s=retry_after_s)
    bench.commit_of("lakeside", *(f"L-{n}" for n in range(60)))
    poster, began_ms = bench.both(), bench.clock.now_ms()
    for round_ in range(20):
        bench.commit_of("mercy", *(f"M-{round_}-{n}" for n in range(5)))
        bench.run(poster, lambda n=round_: bench.posted("mercy") == 5 * (n + 1))
    assert bench.clock.now_ms() - began_ms < UNAUTHORISED_PAUSE_S * 1000
    bench.locked.clear()
    for _ in range(200):
        bench.clock.sleep(max(retry_after_s / 100, poster.step()))
    assert bench.posted("lakeside") == 60 and set(bench.keys_at_erp().values()) == {1}
    assert all(b - a >= retry_after_s * 1000 for a, b in zip(bench.asked, bench.asked[1:], strict=False))


def test_companies_that_are_all_throttled_rest_as_long_as_they_ask() -> None:
    """What each of them says holds for the whole ERP: nobody is asked before, and silence is told."""
    bench = Realms(*ENTITIES, code="throttled", retry_after_s=20_000.0)
    for entity in ENTITIES:
        bench.commit_of(entity, *(f"{entity}-{n}" for n in range(60)))
    poster = bench.both()
    for _ in range(200):
        bench.clock.sleep(max(100.0, poster.step()))
    assert len(bench.asked) <= 4
    assert bench.books.exception_counts() == {"erp_timeout": 1}
