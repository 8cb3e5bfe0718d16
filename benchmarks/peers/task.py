"""The work that every peer does, and how it is timed. Needs only the standard library, as every peer imports it.

1. **Dedupe**: the first event of a (source, event_id) counts. Another one of the same content is a repeat, one of other
   content a conflict; neither changes anything.
2. **Card match**: a capture waits until its authorisation has come (`reference` = its `document`), a settlement until
   its capture has (the same `document`). What finds no counterpart is held; what finds it later goes on then.
3. **Aggregate**: amounts of what is neither repeat, conflict nor held, by account, entity, facility, department, period
   and kind. Each kind debits one account and credits another (ACCOUNTS), or posts nothing.

The clock of each peer covers reading and decoding the file of events, in the form that suits it best, up to the last
result. Not counted: imports, a pass over `warm`, and what a job costs that has next to nothing to do (`small`).
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

# kind -> (debit, credit); None: the event is accepted and matched, and posts nothing
ACCOUNTS: dict[str, tuple[str, str] | None] = {
    "charge_posted": ("1200", "4000"),
    "charge_reversed": ("4000", "1200"),
    "adjustment_posted": ("4110", "1200"),
    "payment_received": ("1000", "1200"),
    "responsibility_transferred": ("1210", "1200"),
    "card_authorised": None,
    "card_captured": None,
    "card_settled": ("1050", "1210"),
    "card_fee_charged": ("6300", "1050"),
    "refund_requested": None,
    "refund_approved": ("2100", "2110"),
    "refund_paid": ("2110", "1050"),
    "payout_paid": None,
    "deposit_received": ("1000", "1050"),
}


class Link(NamedTuple):
    """What a kind waits for and what it opens for others: (item, the column that names it)."""

    waits: tuple[str, str] | None = None
    opens: tuple[str, str] | None = None


LINKS = {
    "card_authorised": Link(opens=("authorisation", "document")),
    "card_captured": Link(waits=("authorisation", "reference"), opens=("capture", "document")),
    "card_settled": Link(waits=("capture", "document")),
}

# What events are summed by; the account follows from the kind, so it is added once for each sum.
DIMENSIONS = ("entity", "facility", "department", "period", "kind")
Sums = dict[tuple[str, ...], int]


class Outcome(NamedTuple):
    """What a peer found. Events are named `source/event_id`; each key of `sums` is DIMENSIONS, "" for what is not."""

    repeats: int
    conflicts: list[str]
    held: list[str]
    sums: Sums


def name_of(source: str, event_id: str) -> str:
    """How an outcome names an event."""
    return f"{source}/{event_id}"


def period_of(effective_on: str) -> str:
    """The period of an ISO date."""
    return effective_on[:7]


def by_account(sums: Sums) -> dict[str, int]:
    """Signed amounts (debits positive) by account and DIMENSIONS."""
    lines: dict[str, int] = {}
    for key, amount in sums.items():
        accounts = ACCOUNTS[key[-1]]
        for account, signed in zip(accounts or (), (amount, -amount), strict=False):
            lines["|".join((account, *key))] = signed
    return lines


def in_batches(items: Iterable, size: int) -> Iterable[list]:
    """Lists of so many items; the last one holds what is left."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def measure(run: Callable[[Path], Outcome]) -> None:
    """Time `run` over the events in `argv[1]/full`, write what it found beside them, print the seconds."""

    def timed(folder: Path) -> tuple[float, Outcome]:
        began = time.perf_counter()
        outcome = run(folder)
        return time.perf_counter() - began, outcome

    measure_timed(timed)


def measure_timed(run: Callable[[Path], tuple[float, Outcome]]) -> None:
    """The same for a peer whose own clock leaves out starting and stopping its servers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started is ended
    root = Path(sys.argv[1])
    run(root / "warm")
    small_s, _ = run(root / "small")
    seconds, outcome = run(root / "full")
    found = {
        "repeats": outcome.repeats,
        "conflicts": sorted(outcome.conflicts),
        "held": sorted(outcome.held),
        "lines": by_account(outcome.sums),
    }
    (root / "outcome.json").write_text(json.dumps(found))
    print(json.dumps({"seconds": seconds, "small_s": small_s}), flush=True)
