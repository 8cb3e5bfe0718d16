"""Many seeds, one after another or on all cores, until there are enough, or time is up, or somebody says stop.

Owns the summary over seeds: how many held, which did not, and how often each fault really happened.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import count, islice

import msgspec

from simulation import side_by_side
from simulation.simulator import Outcome, simulate

AHEAD = 2  # seeds handed to each process before it asks
FAILURES_MAX = 5  # then there is enough to look at


class Summary(msgspec.Struct):
    """What came of many seeds."""

    first_seed: int
    seeds: int = 0
    seconds: float = 0.0
    failures: list[Outcome] = []
    sometimes: Counter[str] = msgspec.field(default_factory=Counter)
    crossed: Counter[str] = msgspec.field(default_factory=Counter)  # edges

    @property
    def per_second(self) -> float:
        """Seeds a second."""
        return self.seeds / self.seconds if self.seconds else 0.0

    @property
    def survived(self) -> list[str]:
        """Edges that were crossed and at which no process ever died."""
        return sorted(edge for edge in self.crossed if not self.sometimes[f"crash {edge}"])


def soak(
    first_seed: int,
    events: int,
    *,
    seeds: int | None = None,
    seconds: float | None = None,
    processes: int = 1,
    show: Callable[[Summary, Outcome], object] = lambda _summary, _newest: None,
) -> Summary:
    """Run seeds from the first one on. Without a number and a time, until interrupted (KeyboardInterrupt)."""
    summary, began = Summary(first_seed), time.monotonic()
    numbers = islice(count(first_seed), seeds)
    outcomes = _here(numbers, events) if processes == 1 else _elsewhere(numbers, events, processes)
    try:
        for outcome in outcomes:
            summary.seeds += 1
            summary.seconds = time.monotonic() - began
            summary.sometimes.update(outcome.sometimes)
            summary.crossed.update(outcome.crossed)
            if outcome.finding:
                summary.failures.append(outcome)
            show(summary, outcome)
            if len(summary.failures) >= FAILURES_MAX or (seconds is not None and summary.seconds >= seconds):
                break
    except KeyboardInterrupt:
        pass
    finally:
        outcomes.close()
    return summary


def _here(numbers: Iterator[int], events: int) -> Iterator[Outcome]:
    for seed in numbers:
        yield simulate(seed, events)


def _elsewhere(numbers: Iterator[int], events: int, processes: int) -> Iterator[Outcome]:
    with side_by_side.pool(processes) as pool:
        running: set[Future] = {pool.submit(simulate, n, events) for n in islice(numbers, AHEAD * processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(simulate, n, events) for n in islice(numbers, len(done))}
            yield from (future.result() for future in done)
