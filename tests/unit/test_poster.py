"""The poster over a virtual clock: each entry reaches the ERP once, whatever fails and wherever it dies."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, count, repeat

import msgspec
import polars as pl
import pytest
from unit.poster_bench import Bench, VirtualCallers

from actors.erp_calls import InlineCallers
from actors.poster import IDLE_S, REST_S_MAX, Poster
from actors.sealer import COUNT_EVERY_S, LOOKS_MAX
from adapters.books.memory import MemoryBooks
from adapters.erp.memory import TERMS
from runtime.config import GatheringSection
from runtime.errors import BooksUnavailable, ErpError, Fenced
from runtime.flow.delivery import Desk, Send
from runtime.flow.governor import CIRCUIT_OPEN_S, UNANSWERED_MAX, UNAUTHORISED_PAUSE_S
from runtime.flow.outcomes import CALL_START_WITHIN_S
from runtime.ledger.journal import counted
from runtime.limits import Limits
from runtime.ports import JournalEntry, Outcome


class KilledError(Exception):
    """The process dies here."""


class Edges:
    """The edges of I/O, before and after each call; raises at one of them, by its number or by its name."""

    def __init__(self, fails_at: int | str, error: type[Exception]) -> None:
        self.fails_at, self.passed, self.failed, self._error = fails_at, 0, False, error

    def around(self, target: object) -> object:
        """The target, with an edge before and after each of its calls."""
        return _Edged(target, self)

    def cross(self, name: str) -> None:
        """Pass one edge, or fail at it; an edge fails once."""
        self.passed += 1
        if not self.failed and self.fails_at in (self.passed, name):
            self.failed = True
            raise self._error


class BooksEdges(Edges):
    """Edges around the books alone: an ERP never raises."""

    def around(self, target: object) -> object:
        """The target itself, unless it is the books."""
        return super().around(target) if isinstance(target, MemoryBooks) else target


class _Edged:
    def __init__(self, target: object, edges: Edges) -> None:
        self._target, self._edges = target, edges

    def __getattr__(self, name: str) -> Callable:
        def call(*given: object) -> object:
            self._edges.cross(f"before {name}")
            answer = getattr(self._target, name)(*given)
            self._edges.cross(f"after {name}")
            return answer

        return call


def edged(bench: Bench, edges: Edges) -> Poster:
    """A poster with edges around its books and its ERP."""
    return bench.poster(InlineCallers(edges.around(bench.erp)), edges.around(bench.books))


FIFTY = [f"R-{n}" for n in range(50)]


def test_step_posts_immediate_at_once_and_summary_after_its_age() -> None:
    """Immediate postings go with the first call, summary ones gather first; both arrive whole."""
    bench = Bench()
    bench.commit("R-1", "", "")
    poster = bench.poster()
    poster.step()
    assert [entry.document for _, entry in bench.erp.moves] == ["R-1"]
    bench.run(poster)
    assert len(bench.erp.moves) == 2
    assert bench.booked_once()


def test_step_when_idle_waits_without_calling_the_erp() -> None:
    """An idle poster costs two look-ups in the books and no call."""
    bench = Bench()
    assert bench.poster().step() == IDLE_S
    assert bench.metrics.counts == Counter()


def test_step_never_exceeds_the_configured_rate() -> None:
    """A backlog of hundreds of entries drains in whole calls, no faster than configured."""
    bench = Bench(calls_per_minute=60)
    bench.commit(*[f"R-{n}" for n in range(500)])
    began_ms = bench.clock.now_ms()
    bench.run(bench.poster())
    assert bench.metrics.counts["erp_calls", "posted"] == 10
    assert bench.clock.now_ms() - began_ms >= 9_000


def test_call_that_never_ends_is_left_and_its_entries_are_looked_up() -> None:
    """Somewhere a thread hangs: after hours the poster says so by falling over, and the next one goes on."""
    bench = Bench()
    bench.commit("R-1")
    poster = bench.poster(VirtualCallers(bench.erp, bench.clock, repeat(1e9)))
    with pytest.raises(ErpError, match="does not end"):
        bench.run(poster, lambda: bench.clock.sleep(10.0))
    bench.run(bench.poster())
    assert bench.booked_once() and bench.books.entry_counts() == {"posted": 1}


def test_throttled_slows_and_still_posts_everything_once() -> None:
    """Throttling costs time and rate, never an entry."""
    bench = Bench("throttle", "unavailable", "throttle")
    bench.commit(*FIFTY)
    bench.run(bench.poster())
    assert bench.booked_once()
    assert bench.metrics.counts["erp_calls", "throttled"] == 2
    assert min(bench.metrics.levels["governor_rate_per_minute"]) < 600 * 0.4
    assert max(bench.metrics.levels["governor_paused_s"]) > 0


def test_longer_backlog_folds_more_sets_into_each_entry() -> None:
    """What waits is looked at in so many parts, not in parts of one size, as far as a look may be that large."""
    entries = {}
    for waiting, most in ((LOOKS_MAX * 4, 1_000), (LOOKS_MAX * 20, 1_000), (LOOKS_MAX * 20, 4)):
        bench = Bench()
        bench.commit(*[""] * waiting)
        bench.clock.sleep(2.0)
        bench.run(bench.poster(limits=Limits(seal_sets_max=2, seal_backlog_sets_max=most)))
        entries[waiting, most] = len(bench.erp.moves)
        assert bench.booked_once()
    short, long, bounded = entries.values()
    assert long < 2 * short < bounded  # five times the backlog


def test_backlog_is_sealed_for_several_calls_at_once() -> None:
    """To look at very much takes longer than a call: where more waits than that, entries are made for calls to come."""
    looks = []

    class Counting(MemoryBooks):
        def unclaimed(self, erp_entities: Sequence[str], sets_max: int, period: str = "") -> pl.DataFrame:
            looks.append(sets_max)
            return super().unclaimed(erp_entities, sets_max, period)

    bench = Bench(books=Counting)
    for month in range(1, 11):
        bench.commit(*[""] * 3, period=f"2026-{month:02}")
    bench.clock.sleep(2.0)
    limits = Limits(call_entries_max=1, seal_sets_max=29, seal_backlog_sets_max=29)
    bench.run(bench.poster(limits=limits), lambda: len(bench.erp.moves) == 9)
    assert looks.count(29) == 1


def test_slow_erp_folds_more_sets_into_each_entry() -> None:
    """Backpressure becomes aggregation: what gathers while the ERP is away becomes one entry."""
    bench = Bench()
    poster = bench.poster()
    bench.erp.state = "stopped"
    bench.commit("R-1")
    for _ in range(100):
        bench.commit("", events=3)
        bench.clock.sleep(poster.step())
    bench.erp.state = "up"
    bench.run(poster)
    summaries = [entry for _, entry in bench.erp.moves if entry.mode == "summary"]
    assert len(summaries) <= 10
    assert sum(counted(entry.lines[0].text)[1] for entry in summaries) == 300


@pytest.mark.parametrize("fault", ["lose_request", "lose_answer_after_commit", "lose_answer_after_draft"])
def test_lost_answer_is_looked_up_after_settling_and_never_doubled(fault: str) -> None:
    """Whatever happened to a call without an answer, each entry is at the ERP once, and nothing was sent too soon."""
    bench = Bench(fault)
    bench.commit(*FIFTY)
    poster = bench.poster()
    poster.step()
    assert bench.books.entry_counts() == {"unknown": 50}
    assert bench.books.exception_counts() == {"erp_unknown_outcome": 50}
    lost_ms = bench.clock.now_ms()
    bench.run(poster)
    assert bench.clock.now_ms() - lost_ms >= TERMS.settle_s * 1000
    assert bench.booked_once()
    assert bench.books.exception_counts() == {}


@pytest.mark.parametrize("native_key", ["none", "permanent"])
def test_entry_that_breaks_the_erp_each_time_holds_up_nobody_else(native_key: str) -> None:
    """A call that is lost again and again, and never applied, may hold one entry that the ERP falls over: its entries
    are tried apart, and all others are posted."""
    bench = Bench(terms=msgspec.structs.replace(TERMS, native_key=native_key))
    bench.commit(*FIFTY)
    whole = bench.erp.post

    def falls_over(entries: Sequence[JournalEntry]) -> list[Outcome]:
        broken = any(entry.document == "R-7" for entry in entries)
        return [Outcome(entry.key, "unknown", detail="HTTP 500") for entry in entries] if broken else whole(entries)

    bench.erp.post = falls_over
    bench.run(bench.poster(), lambda: bench.books.entry_counts().get("posted") == 49)
    assert set(bench.keys_at_erp().values()) == {1}
    bench.erp.post = whole
    bench.run(bench.poster())
    assert bench.booked_once()


def test_lookup_that_never_succeeds_holds_up_nobody_else() -> None:
    """An ERP that books but can't be asked keeps what is in doubt unknown, under its exception; all else goes on."""
    bench = Bench("lose_answer_after_commit")
    bench.erp.lookup = lambda keys: None
    bench.commit("R-0")
    poster = bench.poster()
    bench.run(poster, lambda: bench.metrics.counts["erp_calls", "unavailable"] > 2)
    bench.commit(*FIFTY)
    bench.run(poster, lambda: bench.books.entry_counts() == {"unknown": 1, "posted": 50})
    assert bench.books.exception_counts() == {"erp_unknown_outcome": 1}


def test_lookup_that_is_throttled_keeps_the_delay_that_the_erp_asks_for() -> None:
    """An ERP's own delay holds for whatever it was asked, and no call is made before it is over."""
    bench = Bench("lose_answer_after_commit")
    bench.commit("R-0")
    poster, whole, asked_ms = bench.poster(), bench.erp.lookup, []

    def throttled(keys: Sequence[str]) -> dict[str, Outcome] | None:
        asked_ms.append(bench.clock.now_ms())
        return None if len(asked_ms) == 1 else whole(keys)

    bench.erp.lookup, bench.erp.unasked = throttled, Outcome("", "throttled", retry_after_s=900.0)
    bench.run(poster)
    assert bench.booked_once()
    assert asked_ms[1] - asked_ms[0] >= 900_000


def test_lookup_that_leaves_a_doubt_is_recorded_as_one_and_made_again() -> None:
    """What a lookup found counts at once; of what it left in doubt the books say so, and the ERP counts as troubled."""
    bench = Bench("lose_answer_after_commit")
    bench.commit("R-1", "R-2")
    poster = bench.poster()
    poster.step()
    whole, asked = bench.erp.lookup, []

    def half_answered(keys: Sequence[str]) -> dict[str, Outcome]:
        found = whole(keys)
        asked.append(keys)
        return found if len(asked) > 1 else found | {keys[-1]: Outcome(keys[-1], "unknown", detail="lost")}

    bench.erp.lookup = half_answered
    bench.clock.sleep(TERMS.settle_s)
    poster.step()
    assert bench.books.entry_counts() == {"posted": 1, "unknown": 1}
    assert poster.health().governor.health == "backing_off"
    bench.run(poster)
    assert [len(keys) for keys in asked] == [2, 1]
    assert bench.booked_once()


def test_call_that_commits_late_is_not_sent_again() -> None:
    """A call still running when the answer was lost has ended by the time of the lookup."""
    bench = Bench("commit_late")
    bench.commit(*FIFTY)
    poster = bench.poster()
    poster.step()
    bench.clock.sleep(TERMS.settle_s / 2)
    poster.step()
    bench.erp.settle()
    bench.run(poster)
    assert bench.booked_once()


def test_unknown_outcome_does_not_hold_up_others() -> None:
    """While some entries settle, the others go on."""
    bench = Bench("lose_answer_after_commit")
    bench.commit("R-1")
    poster = bench.poster()
    poster.step()
    bench.commit("R-2")
    bench.run(poster, until=lambda: bench.books.entry_counts() == {"unknown": 1, "posted": 1})
    assert bench.keys_at_erp().total() == 2


def test_poison_among_fifty_is_parked_and_the_others_are_posted() -> None:
    """One entry that the ERP refuses becomes one exception; the other 49 are posted, at the usual pace."""
    bench = Bench("reject:PS-mercy-0000000025")
    bench.commit(*FIFTY)
    bench.run(bench.poster())
    assert bench.books.entry_counts() == {"posted": 49, "rejected": 1}
    assert bench.books.exceptions()["type"].to_list() == ["erp_rejected"]
    assert bench.books.exceptions()["event_id"].to_list() == ["PS-mercy-0000000025"]
    assert set(bench.keys_at_erp().values()) == {1}
    assert set(bench.metrics.levels["governor_rate_per_minute"]) == {600}


def test_poison_does_not_hold_up_what_comes_after() -> None:
    """New urgent entries pass while a refused call is taken apart."""
    bench = Bench("reject:PS-mercy-0000000001")
    bench.commit("")
    bench.clock.sleep(2)
    poster = bench.poster()
    poster.step()
    bench.commit("R-1")
    bench.run(poster)
    assert bench.books.entry_counts() == {"posted": 1, "rejected": 1}


def test_unauthorised_pauses_raises_an_exception_and_goes_on_when_mended() -> None:
    """A refused login is one exception and a long pause; once mended, all is posted and the exception ends."""
    bench = Bench()
    bench.erp.state = "locked"
    bench.commit(*FIFTY)
    poster = bench.poster()
    poster.step()
    assert bench.rests_s(poster) == UNAUTHORISED_PAUSE_S
    assert poster.health().governor.health == "unauthorised"
    assert bench.books.exception_counts() == {"erp_unauthorised": 1}
    bench.erp.state = "up"
    bench.run(poster)
    assert bench.booked_once()
    assert bench.books.exception_counts() == {}


def test_erp_that_does_not_answer_for_four_hours_is_an_exception_until_it_does() -> None:
    """Calls go on all the time; the exception survives a new poster, and ends with the first answer."""
    bench = Bench()
    bench.erp.state = "stopped"
    bench.commit(*FIFTY)
    began_ms = bench.clock.now_ms()
    four_hours_ms = 4 * 3_600_000
    bench.run(bench.poster(), until=lambda: bench.clock.now_ms() - began_ms > four_hours_ms - 120_000)
    assert bench.books.exception_counts() == {}
    poster = bench.poster()
    bench.run(poster, until=lambda: bench.clock.now_ms() - began_ms > four_hours_ms + 120_000)
    assert bench.books.exception_counts() == {"erp_timeout": 1}
    successor = bench.poster()
    bench.run(successor, until=lambda: bench.clock.now_ms() - began_ms > four_hours_ms + 240_000)
    assert bench.books.exception_counts() == {"erp_timeout": 1}
    bench.erp.state = "up"
    bench.run(successor)
    successor.step()
    assert bench.booked_once()
    assert bench.books.exception_counts() == {}


def test_erp_that_cannot_be_asked_leaves_doubts_in_doubt() -> None:
    """An unanswered lookup proves nothing; the entries stay unknown until one is answered."""
    bench = Bench("lose_answer_after_commit")
    bench.commit("R-1")
    poster = bench.poster()
    poster.step()
    bench.erp.state = "stopped"
    bench.run(poster, until=lambda: bench.metrics.counts["erp_calls", "unavailable"] >= 3)
    assert bench.books.entry_counts() == {"unknown": 1}
    bench.erp.state = "up"
    bench.run(poster)
    assert bench.booked_once()


def test_independent_items_are_judged_one_by_one() -> None:
    """Where the ERP judges each entry by itself, nothing is sent twice to find the bad one."""
    bench = Bench("reject:PS-mercy-0000000025", terms=msgspec.structs.replace(TERMS, atomicity="per_item"))
    bench.commit(*FIFTY)
    bench.run(bench.poster())
    assert bench.books.entry_counts() == {"posted": 49, "rejected": 1}
    assert bench.metrics.counts["erp_calls", "rejected"] == 1


def test_second_poster_fences_the_first() -> None:
    """A poster that was replaced stops at its next durable step and sends nothing."""
    bench = Bench()
    bench.commit("R-1")
    zombie = bench.poster()
    bench.poster()
    with pytest.raises(Fenced):
        zombie.step()
    assert bench.erp.moves == []


@pytest.mark.parametrize(("edge", "at_erp"), [("before post", 0), ("after post", 50), ("before record_outcomes", 50)])
def test_death_around_the_call_is_taken_as_unknown(edge: str, at_erp: int) -> None:
    """Between intent and outcome nobody knows: the successor waits, looks up, and only then sends what is not there."""
    bench = Bench()
    bench.commit(*FIFTY)
    with pytest.raises(KilledError):
        bench.run(edged(bench, Edges(edge, KilledError)))
    assert bench.books.entry_counts() == {"in_flight": 50}
    died_ms, successor = bench.clock.now_ms(), bench.poster()
    assert bench.books.entry_counts() == {"unknown": 50}
    bench.run(successor, until=lambda: bench.clock.now_ms() - died_ms >= TERMS.settle_s * 1000)
    assert len(bench.erp.moves) == at_erp
    bench.run(successor)
    assert bench.booked_once()


def test_more_doubts_than_are_taken_over_at_once_are_all_resolved(monkeypatch) -> None:
    """Restored books may hold more in doubt than a poster takes in hand: it takes the rest when it is done with those,
    and sends nothing new before."""
    monkeypatch.setattr("actors.poster.HELD_MAX", 20)
    bench = Bench("lose_answer_after_commit")
    bench.commit(*FIFTY)
    with pytest.raises(KilledError):
        bench.run(edged(bench, Edges("after post", KilledError)))
    bench.commit("R-later")
    bench.run(bench.poster())
    assert bench.booked_once()
    assert [entry.document for _, entry in bench.erp.moves][-1] == "R-later"


def test_death_at_any_edge_leaves_everything_to_be_posted_once() -> None:
    """Killed before or after any call to the books or the ERP, a successor brings the same end about."""
    for edge in count(1):
        bench, edges = troubled_bench(), Edges(edge, KilledError)
        with suppress(KilledError):
            bench.run(edged(bench, edges))
        bench.run(bench.poster())
        assert at_its_right_end(bench), f"died at edge {edge}"
        if not edges.failed:
            break
    assert edge > 40


def test_books_unavailable_at_any_edge_is_waited_out() -> None:
    """Whether or not the silent transaction happened, the same poster goes on and posts everything once."""
    for edge in count(1):
        bench, edges = troubled_bench(), BooksEdges(0, BooksUnavailable)
        poster = edged(bench, edges)
        edges.fails_at = edges.passed + edge
        bench.run(poster)
        assert at_its_right_end(bench), f"no answer at edge {edge}"
        if not edges.failed:
            break
    assert edge > 40


def troubled_bench() -> Bench:
    """Four entries, one of them poisonous, and an ERP that throttles and loses an answer."""
    bench = Bench("none", "throttle", "lose_answer_after_commit")
    bench.erp.plan("reject:PS-mercy-0000000002")
    bench.commit("R-1", "R-2", "R-3", "")
    return bench


def at_its_right_end(bench: Bench) -> bool:
    """Whether the poisonous entry is rejected, and each of the others is posted and at the ERP once."""
    posted = [entry.key for entry in bench.books.entries_in(["mercy"], ["posted"], 100)]
    return bench.settled() and len(posted) >= 3 and bench.keys_at_erp() == Counter(posted)


def test_metrics_tell_calls_latency_and_what_waits() -> None:
    """Posting latency is measured from the oldest set's commit, and calls are counted by outcome."""
    bench = Bench("throttle")
    bench.commit("R-1")
    bench.clock.sleep(3)
    bench.run(bench.poster())
    assert bench.metrics.counts["erp_calls", "throttled"] == bench.metrics.counts["erp_calls", "posted"] == 1
    assert bench.metrics.counts["entries_sealed",] == 1
    assert bench.metrics.levels["deltas_waiting"][0] == 1
    [latency_s] = bench.metrics.measured["posting_latency_s"]
    assert latency_s >= 3


def test_metrics_tell_what_waits_while_the_erp_must_rest() -> None:
    """However long that is: it is then that somebody asks."""
    bench = Bench(calls_per_minute=1 / 60)
    bench.commit("R-1")
    poster = bench.poster()
    bench.run(poster)
    bench.commit("R-2", "R-3")
    bench.clock.sleep(COUNT_EVERY_S)
    levels = bench.metrics.levels["deltas_waiting"]
    for _ in range(20):
        told = len(levels)
        waited_s = poster.step()
        assert waited_s <= REST_S_MAX and levels[told:] == [2]
        bench.clock.sleep(waited_s)
    assert len(bench.erp.calls) == 1


# ── several calls at once, frozen senders, jobs ──


def virtual(bench: Bench, *delays_s: float) -> VirtualCallers:
    """Calls that take this long, the last one's time for ever."""
    return VirtualCallers(bench.erp, bench.clock, chain(delays_s, repeat(delays_s[-1])))


def test_several_calls_go_at_once_up_to_the_erps_concurrency() -> None:
    """Slow calls overlap as far as the ERP allows, and no entry is in two of them."""
    bench = Bench(terms=msgspec.structs.replace(TERMS, concurrency=3, entries_max=5), calls_per_minute=6_000)
    bench.commit(*FIFTY)
    callers, began_ms = virtual(bench, 2.0), bench.clock.now_ms()
    poster = bench.poster(callers)
    bench.run(poster)
    assert callers.most == 3
    assert poster.health().call_s == 2.0
    assert bench.clock.now_ms() - began_ms < 10_000
    assert bench.booked_once()


def test_erp_does_not_wait_for_what_was_posted_to_be_recorded() -> None:
    """The next call is under way before the outcomes of the one before are stored; a refused call is stored first."""
    order: list[str] = []

    class Noting(MemoryBooks):
        def mark_in_flight(self, owner, epoch, keys, governor=None):
            order.append("intend")
            super().mark_in_flight(owner, epoch, keys, governor)

        def record_outcomes(self, owner, epoch, outcomes):
            order.append(outcomes[0].code)
            super().record_outcomes(owner, epoch, outcomes)

    bench = Bench(books=Noting, calls_per_minute=6_000)
    bench.commit(*(f"R-{n}" for n in range(150)))
    callers = virtual(bench, 0.5)
    poster = bench.poster(callers)
    bench.run(poster)
    assert order == ["intend", "intend", "posted", "intend", "posted", "posted"]
    bench.erp.plan("throttle")
    order.clear()
    bench.commit("R-150")
    bench.run(poster)
    assert order == ["intend", "throttled", "intend", "posted"]


def test_send_whose_key_ends_while_it_is_chosen_is_not_begun(monkeypatch) -> None:
    """The life of a windowed key is judged when the call begins: a poster that was frozen since looks up first."""
    terms = msgspec.structs.replace(TERMS, native_key="windowed", key_life_s=60.0, settle_s=2.0)
    bench = Bench("lose_answer_after_commit", terms=terms)
    bench.commit("R-1")
    poster = bench.poster()
    poster.step()
    choose = Desk.due

    def frozen(self: Desk, now_ms: int) -> object:
        action = choose(self, now_ms)
        bench.clock.sleep(100 if isinstance(action, Send) else 0)
        return action

    monkeypatch.setattr(Desk, "due", frozen)
    bench.run(poster)
    assert bench.booked_once()
    assert bench.metrics.counts["erp_calls", "looked_up"] == 1


def test_call_of_a_frozen_sender_is_not_made_too_late() -> None:
    """A poster that was frozen between its intent and the call gives the call up: its successor may have looked up
    meanwhile, found nothing and sent again."""
    bench = Bench()
    bench.commit(*FIFTY)
    zombie_calls = virtual(bench, CALL_START_WITHIN_S + TERMS.settle_s + 5)
    bench.poster(zombie_calls).step()
    bench.run(bench.poster())
    assert bench.booked_once()
    bench.clock.sleep(60)
    assert zombie_calls.under_way == 0
    assert bench.booked_once()


def test_frozen_sender_that_is_still_in_charge_sends_later() -> None:
    """A call that was not made leaves its entries sealed, and teaches the governor nothing."""
    bench = Bench()
    bench.commit(*FIFTY)
    poster = bench.poster(virtual(bench, CALL_START_WITHIN_S + 1, 0.1))
    bench.run(poster)
    assert bench.booked_once()
    assert poster.health().governor.rate_per_minute == 600


def test_jobs_are_found_again_by_the_successor() -> None:
    """Entries that an ERP had accepted are not doubted after a restart: their job tells."""
    bench = Bench(terms=msgspec.structs.replace(TERMS, atomicity="job"))
    bench.commit(*FIFTY)
    poster = bench.poster()
    poster.step()
    assert poster.health().in_jobs == 50
    successor = bench.poster()
    assert bench.books.entry_counts() == {"in_flight": 50}
    bench.run(successor)
    assert bench.booked_once()
    assert bench.metrics.counts["erp_calls", "unknown"] == 0


def test_parked_entry_stays_for_a_person_and_holds_up_nobody() -> None:
    """Without key and lookup a lost answer is an exception that stands; everything else goes on."""
    bench = Bench("lose_answer_after_commit", terms=msgspec.structs.replace(TERMS, lookup=False))
    bench.commit("R-1")
    poster = bench.poster()
    bench.run(poster)
    bench.commit("R-2")
    bench.run(poster)
    assert bench.books.entry_counts() == {"parked": 1, "posted": 1}
    assert bench.books.exception_counts() == {"erp_unknown_outcome": 1}
    assert set(bench.keys_at_erp().values()) == {1}


# ── what the governor remembers ──


def test_limits_hold_across_restarts_by_the_erps_own_count() -> None:
    """Whatever the order of deaths, no call comes above the ERP's minute or day."""
    bench = Bench(terms=msgspec.structs.replace(TERMS, entries_max=1, per_minute=6, per_day=40))
    bench.commit(*FIFTY[:30])
    poster = bench.poster()
    for number in count():
        if bench.settled():
            break
        if number % 3 == 0:
            poster = bench.poster()
        bench.clock.sleep(poster.step())
    assert bench.erp.exceeded == 0
    assert bench.booked_once()


def test_pause_that_an_erp_asked_for_survives_a_restart() -> None:
    """Starting again is no way around an open circuit."""
    bench = Bench()
    bench.erp.state = "stopped"
    bench.commit("R-1")
    bench.run(poster := bench.poster(), until=lambda: len(bench.erp.calls) == UNANSWERED_MAX)
    assert poster.health().governor.health == "circuit_open"
    successor = bench.poster()
    successor.step()
    assert bench.rests_s(successor) >= CIRCUIT_OPEN_S - REST_S_MAX
    assert successor.health().governor.health == "circuit_open"


# ── what goes first ──


def test_period_that_is_to_be_closed_goes_first() -> None:
    """Its summaries wait for no age, and its entries are sent before others, even before immediate ones."""
    bench = Bench(terms=msgspec.structs.replace(TERMS, entries_max=1), calls_per_minute=60)
    bench.commit("R-1", "R-2", period="2026-11")
    bench.commit("", "R-3", period="2026-10")
    bench.books.order_close("mercy", "2026-10", bench.clock.now_ms() + 60_000, "ana")
    poster = bench.poster()
    bench.run(poster)
    assert [entry.period for _, entry in bench.erp.moves] == ["2026-10", "2026-10", "2026-11", "2026-11"]
    assert poster.health().closing == ["mercy 2026-10"]


def test_immediate_goes_at_once_while_summaries_gather_for_their_hour() -> None:
    """A kind's interval holds its summaries and nothing else."""
    bench = Bench()
    bench.section = bench.section.model_copy(update={"gathering": {"charge_posted": GatheringSection(every_s=3600)}})
    bench.commit("R-1", "")
    poster = bench.poster()
    bench.run(poster, until=lambda: len(bench.erp.moves) == 1)
    bench.clock.sleep(600)
    poster.step()
    assert [entry.document for _, entry in bench.erp.moves] == ["R-1"]
    bench.clock.sleep(3000)
    bench.run(poster)
    assert len(bench.erp.moves) == 2


def test_immediate_passes_a_backlog_of_folded_summaries() -> None:
    """However much waits while the ERP is slow, an immediate posting is in the next call."""
    bench = Bench(terms=msgspec.structs.replace(TERMS, entries_max=2), calls_per_minute=6)
    poster = bench.poster()
    for _ in range(30):
        bench.commit("", "", period="2026-09")
        bench.commit("", "", period="2026-10")
        bench.clock.sleep(max(1.0, poster.step()))
    bench.commit("R-1")
    calls = len(bench.erp.calls)
    bench.run(poster, until=lambda: any(entry.document == "R-1" for _, entry in bench.erp.moves))
    assert len(bench.erp.calls) <= calls + 1


def test_close_hears_the_calls_under_way() -> None:
    """A poster that is stopped leaves nothing in doubt that would have been answered soon."""
    bench = Bench()
    bench.commit(*FIFTY)
    poster = bench.poster(virtual(bench, 2.0))
    poster.step()
    poster.close()
    assert bench.books.entry_counts() == {"posted": 50}
    assert bench.poster().step() == IDLE_S
