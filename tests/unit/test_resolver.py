"""The resolver over every form of ERP: each entry is booked exactly once, or a person is told, whatever goes wrong."""

from itertools import chain, repeat

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.poster_bench import Bench, VirtualCallers

from adapters.books.memory import MemoryBooks
from adapters.erp.memory import TERMS
from runtime.flow.outcomes import MOVES
from runtime.ports import EntryState, ErpTerms, Outcome

DOCUMENTS = [f"R-{n}" for n in range(7)]
KEYS = [f"PS-mercy-{n:010d}" for n in range(1, 8)]
FAULTS = [
    "none",
    "throttle",
    "unavailable",
    "unauthorised",
    "lose_request",
    "lose_answer_after_commit",
    "lose_answer_after_draft",
    "lose_answer_after_half",
    "commit_late",
]
ROUNDS_MAX = 10_000


class WatchedBooks(MemoryBooks):
    """Books that check that every entry moves only as the resolver's table says."""

    def mark_in_flight(self, owner: str, epoch: int, keys: list[str], governor: str | None = None) -> None:
        """See Books."""
        for key in keys:
            self._check(key, "in_flight")
        super().mark_in_flight(owner, epoch, keys, governor)

    def record_outcomes(self, owner: str, epoch: int, outcomes: list[Outcome]) -> None:
        """See Books."""
        before = {outcome.key: self._entries[outcome.key].state for outcome in outcomes}
        super().record_outcomes(owner, epoch, outcomes)
        for key, state in before.items():
            after = self._entries[key].state
            assert after == state or after in MOVES[state], f"{key} went from {state} to {after}"

    def _check(self, key: str, after: EntryState) -> None:
        state = self._entries[key].state
        assert after in MOVES[state], f"{key} went from {state} to {after}"


every_terms = st.builds(
    lambda native_key, lookup, atomicity, concurrency, keys_max: msgspec.structs.replace(
        TERMS,
        native_key=native_key,
        key_life_s=60.0,
        lookup=lookup,
        atomicity=atomicity,
        concurrency=concurrency,
        entries_max=4,
        lookup_keys_max=keys_max,
    ),
    st.sampled_from(["permanent", "windowed", "none"]),
    st.booleans(),
    st.sampled_from(["all_or_nothing", "per_item", "job"]),
    st.integers(1, 3),
    st.integers(1, 5),
)


@settings(max_examples=150)
@given(
    terms=every_terms,
    faults=st.lists(st.sampled_from(FAULTS), max_size=10),
    poison=st.sets(st.sampled_from(KEYS), max_size=2),
    delays_s=st.lists(st.sampled_from([0.05, 0.4, 1.5, 4.0, 7.0]), max_size=12),
    restarts=st.sets(st.integers(0, 40), max_size=4),
    job_refuses_all=st.booleans(),
)
@example(
    terms=msgspec.structs.replace(TERMS, native_key="windowed", key_life_s=60.0, entries_max=4),
    faults=["lose_answer_after_commit", *["unavailable"] * 6],
    poison=set(),
    delays_s=[0.05],
    restarts=set(),
    job_refuses_all=False,
)
def test_each_entry_is_booked_once_or_a_person_is_told(
    terms: ErpTerms,
    faults: list[str],
    poison: set[str],
    delays_s: list[float],
    restarts: set[int],
    job_refuses_all: bool,
) -> None:
    """No double, none missing; poison is refused alone; only an ERP without a lookup ever leaves one to a person."""
    bench = Bench(
        *faults,
        *(f"reject:{key}" for key in sorted(poison)),
        terms=terms,
        job_s=0.5,
        job_refuses_all=job_refuses_all,
        books=WatchedBooks,
    )
    bench.commit(*DOCUMENTS)
    settle_all(bench, delays_s, restarts)
    at_erp, states = bench.keys_at_erp(), bench.states()
    assert set(at_erp.values()) <= {1}
    for key in KEYS:
        assert at_erp[key] <= (key not in poison)
        assert (states[key] == "posted") <= (at_erp[key] == 1)
        assert (states[key] == "rejected") <= (key in poison)
        if terms.lookup or (terms.native_key == "permanent" and key not in poison):
            assert states[key] == ("rejected" if key in poison else "posted")


def settle_all(bench: Bench, delays_s: list[float], restarts: set[int]) -> None:
    """Step until all has ended, replacing the poster at these rounds while its calls go on by themselves."""
    delays = chain(delays_s, repeat(0.05))
    poster = bench.poster(VirtualCallers(bench.erp, bench.clock, delays))
    for number in range(ROUNDS_MAX):
        if bench.settled():
            bench.clock.sleep(60)  # whatever is still on its way may come
            return
        if number in restarts:
            poster = bench.poster(VirtualCallers(bench.erp, bench.clock, delays))
        bench.clock.sleep(poster.step())
    raise AssertionError(f"did not end: {bench.books.entry_counts()}")
