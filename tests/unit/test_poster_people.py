"""The poster beside people who look at the ERP themselves, where it can't be asked for what is in doubt."""

from itertools import chain, repeat

import msgspec
import pytest
from unit.poster_bench import Bench, VirtualCallers

from adapters.erp.memory import TERMS
from runtime.errors import GovernanceError


def doubting(*faults: str) -> Bench:
    """An ERP that loses calls so, and can never be asked for a key."""
    bench = Bench(*faults)
    bench.erp.lookup = lambda keys: None
    return bench


def test_people_end_doubts_that_no_lookup_can() -> None:
    """What a person has seen at the ERP is posted, what is not there is sent once more, and nothing is in hand then."""
    bench = doubting("lose_answer_after_commit", "lose_request")
    poster = bench.poster()
    for lost, document in enumerate(("R-1", "R-2"), 1):
        bench.commit(document)
        bench.run(poster, lambda n=lost: bench.books.entry_counts() == {"unknown": n})
    for _ in range(20):
        bench.clock.sleep(poster.step())
    assert bench.books.entry_counts() == {"unknown": 2}
    [(number, there)] = bench.erp.moves
    absent, *_ = bench.states().keys() - {there.key}
    with pytest.raises(GovernanceError, match="in doubt"):
        bench.books.release_entry(absent, "ana")
    bench.books.settle_entry(there.key, number, "ana")
    bench.books.release_entry(absent, "ana", not_there=True)
    bench.run(poster)
    bench.run(poster, lambda: not poster.health().unknown)
    assert bench.books.entry_counts() == {"posted": 2} and bench.books.exception_counts() == {}
    assert bench.booked_once()


def test_person_who_looks_while_a_lookup_is_under_way_is_heard_after_it() -> None:
    """What a person releases meanwhile is not sent before that lookup has ended, and once then."""
    bench = Bench("lose_request", terms=msgspec.structs.replace(TERMS, concurrency=2))
    callers = VirtualCallers(bench.erp, bench.clock, chain([0.1, 30.0], repeat(0.1)))
    poster = bench.poster(callers)
    bench.commit("R-1")
    bench.run(poster, lambda: callers.under_way == 1 and bench.books.entry_counts() == {"unknown": 1})
    [key] = bench.states()
    bench.books.release_entry(key, "ana", not_there=True)
    bench.commit("R-2")
    bench.run(poster, lambda: bench.states()[key] == "posted")
    assert callers.under_way == 0 and bench.booked_once()


def test_doubts_that_nobody_has_ended_stay() -> None:
    """To look whether people have ended doubts takes nothing away from those that they have not."""
    bench = doubting(*["lose_request"] * 3)
    poster = bench.poster()
    bench.commit("R-1")
    for _ in range(50):
        bench.clock.sleep(max(1.0, poster.step()))
    assert poster.health().unknown == 1 and set(bench.states().values()) == {"unknown"}
