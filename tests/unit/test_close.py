"""`penstock close` over books in memory: what it gathers, and what it lets the poster and the shards know."""

from datetime import date

import pytest
from unit.poster_bench import Bench

from actors.cli.close import issues, pace_of, standing
from runtime.effects import EXCEPTIONS, of_the_runtime
from runtime.flow.closing import Pace

OPENS_ON = date(2026, 11, 1)
PACE = Pace(calls_per_minute=60, call_entries_max=50)


def test_close_is_ordered_drained_declared() -> None:
    """The way of a close: refused while anything is unposted, then posted first, cut off, declared with its number."""
    bench = Bench()
    bench.commit("R-1", "")
    with pytest.raises(ValueError, match="no close was ordered"):
        bench.books.cut_off("mercy", "2026-10", OPENS_ON, "ana")
    bench.books.order_close("mercy", "2026-10", bench.clock.now_ms() + 60_000, "ana")
    before = standing(bench.books, "mercy", "2026-10", PACE, bench.clock.now_ms())
    assert (before.state, before.sets_unclaimed, before.in_time, before.done) == ("ordered", 2, True, False)
    with pytest.raises(ValueError, match="2 posting sets unclaimed"):
        bench.books.cut_off("mercy", "2026-10", OPENS_ON, "ana")
    bench.run(bench.poster())
    bench.books.cut_off("mercy", "2026-10", OPENS_ON, "ana")
    assert standing(bench.books, "mercy", "2026-10", PACE, bench.clock.now_ms()).state == "cut_off"
    bench.open_later(OPENS_ON)
    assert [bench.books.declare_closed("mercy", "2026-10", 1) for _ in range(2)] == [1, 1]
    after = standing(bench.books, "mercy", "2026-10", PACE, bench.clock.now_ms())
    assert after.state == "declared" and after.done


def test_standing_of_a_period_that_nobody_ordered_is_shown_all_the_same() -> None:
    """A forecast needs no order."""
    bench = Bench()
    bench.commit("R-1", "R-2")
    found = standing(bench.books, "mercy", "2026-10", PACE, bench.clock.now_ms())
    assert (found.state, found.sets_unclaimed, found.calls_left) == ("not ordered", 2, 1)


def test_issues_are_the_entitys_own() -> None:
    """Open exceptions are counted by type for the entity that is to be closed, and for no other."""
    bench = Bench()
    raised = of_the_runtime([("period_closed", "a", ""), ("period_closed", "b", ""), ("suspense", "c", "")], "s", 0)
    owned = raised.with_columns(entity=raised["type"].replace_strict({"period_closed": "mercy", "suspense": "north"}))
    bench.books.raise_exceptions(owned.select(list(EXCEPTIONS)))
    assert issues(bench.books, "mercy", "2026-10") == {"exceptions: period_closed": 2, "waiting events": 0}


def test_pace_is_the_posters_word_or_the_configured_one() -> None:
    """Without a poster that answers, the configured pace is shown, and that it is only that."""
    bench = Bench(calls_per_minute=120)
    bench.commit("R-1")
    poster = bench.poster()
    bench.run(poster)
    health = poster.health()
    governor = {"rate_per_minute": 84.0, "health": "slowed", "paused_until_ms": 7, "concurrency": 2}
    detail = {"governor": governor, "call_entries_max": 50, "call_s": 1.5, "settle_s": 20.0}
    detail["call_lines_max"] = 400
    assert health.governor.rate_per_minute == 120 and health.call_entries_max == 50
    assert pace_of(detail, PACE) == Pace(84.0, 50, "slowed", 7, True, 2, 1.5, 20.0, 400)
    assert pace_of(None, PACE) == PACE
