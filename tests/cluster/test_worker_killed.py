"""Workers and a gateway killed with SIGKILL under load: what was acknowledged is in the books, once."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import polars as pl
import pytest
from installed import Installed, short_folder, until
from penstock import Client, SubmitSummary

from runtime.routing import shard_of

pytestmark = pytest.mark.cluster

SHARDS = 4
FACILITIES = [  # two of each shard
    name
    for shard in range(SHARDS)
    for name in [f"clinic-{n}" for n in range(99) if shard_of("mercy", f"clinic-{n}", SHARDS) == shard][:2]
]
FRAME_ROWS, PAUSE_S = 300, 0.02
RECOVERY_S_MAX = 30.0
CONFIG = """
[runtime]
data_dir = "{data_dir}"
shards = 4
workers = 2
dashboard_port = 0
metrics_port = 0

[gateway]
port = 0

[erp]
kind = "none"

[limits]
checkpoint_commits_max = 20
checkpoint_age_s_max = 2.0

[entities.mercy]
name = "Mercy"
opens_on = 2026-01-01

[[mapping]]
role = "AR_SELF"
account = "1120"
[[mapping]]
role = "GROSS_REV"
account = "4010"
[[mapping]]
role = "CASH"
account = "1010"
"""


class Load(threading.Thread):
    """Frames of charges and payments through the public client, one after another, until it is told to stop."""

    def __init__(self, gateway: str) -> None:
        super().__init__(daemon=True)
        self._gateway, self._enough = gateway, threading.Event()
        self.answered = SubmitSummary()
        self.sent, self.sent_minor = Counter(), Counter()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Send; whatever ends it early is kept for the test."""
        try:
            with Client(self._gateway) as client:
                while not self._enough.wait(PAUSE_S):
                    self._take(client.submit(self._frame(sum(self.sent.values()))))
        except BaseException as error:
            self.failure = error

    def _frame(self, first: int) -> pl.DataFrame:
        numbers = range(first, first + FRAME_ROWS)
        frame = pl.DataFrame(
            {
                "event_id": [f"e{number}" for number in numbers],
                "source": "load",
                "kind": ["payment_received" if number % 3 == 0 else "charge_posted" for number in numbers],
                "entity": "mercy",
                "facility": [FACILITIES[number % len(FACILITIES)] for number in numbers],
                "account": "token-1",
                "amount_minor": [100 + number % 977 for number in numbers],
                "currency": "USD",
                "occurred_at": pl.Series([1_790_000_000_000] * FRAME_ROWS, dtype=pl.Int64()),
            }
        )
        for kind, count, minor in frame.group_by("kind").agg(pl.len(), pl.col("amount_minor").sum()).iter_rows():
            self.sent[kind] += count
            self.sent_minor[kind] += minor
        return frame

    def _take(self, summary: SubmitSummary) -> None:
        self.answered.accepted += summary.accepted
        self.answered.duplicate += summary.duplicate
        self.answered.rejected += summary.rejected

    def finish(self) -> None:
        """Stop after the frame in hand; every one that was begun is answered."""
        self._enough.set()
        self.join(timeout=60)
        assert not self.is_alive() and self.failure is None, repr(self.failure)


@pytest.fixture
def installed() -> Iterator[Installed]:
    """A Penstock without an ERP."""
    with short_folder() as folder:
        penstock = Installed(folder, "one", CONFIG)
        try:
            penstock.run("up")
            yield penstock
        finally:
            penstock.end()


def held_by(installed: Installed, holder: str) -> dict[int, tuple[int, int]]:
    """Epoch and committed rows of each shard whose newest holder is this worker."""
    with installed.books() as books:
        rows = books.shard_rows().iter_rows(named=True)
        return {
            row["shard"]: (row["epoch"], row["rows_total"]) for row in rows if row["holder"].startswith(f"{holder}/")
        }


def kill_worker(installed: Installed, name: str, pid: int) -> float:
    """Kill a worker; the seconds until each of its shards has a new epoch and a commit in it."""
    before = held_by(installed, name)
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()

    def gone_on() -> bool:
        now = held_by(installed, name)
        return all(now[shard][0] > epoch and now[shard][1] > rows for shard, (epoch, rows) in before.items())

    until(gone_on, RECOVERY_S_MAX, f"the shards of {name} go on")
    return time.monotonic() - began


def kill_gateway(load: Load, pid: int) -> float:
    """Kill the gateway; the seconds until the load's client is answered again."""
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    time.sleep(0.2)  # an answer that was on its way is none of the new gateway
    answered = load.answered.rows
    until(lambda: load.answered.rows > answered + FRAME_ROWS, RECOVERY_S_MAX, "the gateway answers")
    return time.monotonic() - began


def accepted(installed: Installed) -> int:
    """Events that the books have accepted."""
    with installed.books() as books:
        return books.totals().filter(pl.col("state") == "accepted")["events"].sum()


def test_events_acknowledged_while_processes_are_killed_are_booked_once(installed, say):
    """Two workers and the gateway die under load; every acknowledged event is in the books once, to the cent."""
    load, pids = Load(installed.record().gateway), installed.pids()
    load.start()
    until(lambda: load.answered.rows > 10 * FRAME_ROWS, 20, "the load runs")
    seconds = {
        "worker-0": kill_worker(installed, "worker-0", pids["worker-0"]),
        "gateway-0": kill_gateway(load, pids["gateway-0"]),
        "worker-1": kill_worker(installed, "worker-1", pids["worker-1"]),
    }
    load.finish()
    sent = sum(load.sent.values())
    until(lambda: accepted(installed) >= sent, 30, "everything is committed")
    told = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    say(f"killed under load, {sent:,} events: {told}")
    assert load.answered.rejected == 0 and load.answered.rows == sent
    with installed.books() as books:
        counted = books.totals().group_by("kind", "state").agg(pl.col("events").sum(), pl.col("amount_minor").sum())
        balances = {row["account_code"]: row for row in books.balances().iter_rows(named=True)}
    in_books = {(kind, state): (events, minor) for kind, state, events, minor in counted.iter_rows()}
    for kind, events in load.sent.items():
        assert in_books[kind, "accepted"] == in_books[kind, "booked"] == (events, load.sent_minor[kind])
    charged, paid = load.sent_minor["charge_posted"], load.sent_minor["payment_received"]
    assert (balances["1120"]["debit_minor"], balances["1120"]["credit_minor"]) == (charged, paid)
    assert (balances["4010"]["credit_minor"], balances["1010"]["debit_minor"]) == (charged, paid)
