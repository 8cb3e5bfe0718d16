"""Ray as it is often used: one actor with the state, one remote call for each event.

Tuned: 1,000 calls under way at a time, answered in one `ray.get`; task events off; events go as the bytes of their
line. Not durable.
"""

from collections import Counter
from pathlib import Path

import ray

from benchmarks.peers import rows_in_python
from benchmarks.peers.task import Outcome, in_batches, measure

UNDER_WAY = 1_000


@ray.remote(num_cpus=1, enable_task_events=False)
class Books:
    """All state."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], int] = {}
        self.matcher = rows_in_python.Matcher()
        self.repeats, self.conflicts, self.sums = 0, [], Counter()

    def take(self, line: bytes) -> None:
        """One event."""
        row, content = rows_in_python.decode(line), hash(line)
        known = self.seen.setdefault((row.source, row.event_id), content)
        if known is not content:
            if known == content:
                self.repeats += 1
            else:
                self.conflicts.append(row.name)
            return
        for ready in self.matcher.take(row):
            self.sums[ready.key] += ready.amount_minor

    def outcome(self) -> Outcome:
        """What was found."""
        return Outcome(self.repeats, self.conflicts, self.matcher.held(), dict(self.sums))


def run(folder: Path) -> Outcome:
    """The task over a folder of events."""
    books = Books.remote()
    with (folder / "rows.jsonl").open("rb") as file:
        for lines in in_batches(file, UNDER_WAY):
            ray.get([books.take.remote(line) for line in lines])
    outcome = ray.get(books.outcome.remote())
    ray.kill(books)
    return outcome


def main() -> None:
    """Measure on a Ray of its own, on the loopback interface."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        measure(run)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
