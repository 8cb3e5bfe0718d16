"""A backup made under load, everything lost, and a Penstock on an empty folder that goes on from it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from installed import Installed, short_folder, until
from penstock import Client

CONFIG = """
mapping = [
    { role = "AR_SELF", account = "1120" }, { role = "AR_INS", account = "1110" },
    { role = "GROSS_REV", account = "4010" }, { role = "CASH", account = "1010" },
]

[runtime]
data_dir = "{data_dir}"
shards = 2
workers = 2
dashboard_port = 0
metrics_port = 0

[gateway]
port = 0

[erp]
kind = "none"

[limits]
checkpoint_age_s_max = 2.0

[entities.mercy]
name = "Mercy"
opens_on = 2026-07-01
"""
ROWS = 200  # of one submitted batch
RTO_S_MAX = 120.0


def charge(number: int) -> dict:
    """One charge, of one of three facilities."""
    given = {"source": "ehr", "kind": "charge_posted", "entity": "mercy", "currency": "USD", "account": "token-1"}
    place = {"facility": f"mercy-{number % 3}", "occurred_at": 1_790_000_000_000}
    return given | place | {"event_id": f"e{number}", "amount_minor": 100 + number % 7}


class Load(threading.Thread):
    """Sends charges until told to stop; `acknowledged` counts those that it was answered for."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address, self._stop_asked = address, threading.Event()
        self.acknowledged = 0

    def run(self) -> None:
        """One batch after another."""
        with Client(self._address) as client:
            while not self._stop_asked.is_set():
                rows = [charge(self.acknowledged + n) for n in range(ROWS)]
                answer = client.submit(rows)
                assert answer.rejected == 0
                self.acknowledged += ROWS

    def end(self) -> None:
        """Stop after the batch under way."""
        self._stop_asked.set()
        self.join(30)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def lost(folder: Path) -> Iterator[tuple[Installed, int]]:
    """A Penstock that was backed up under load and then lost with all its processes; what was acknowledged before."""
    penstock = Installed(folder, "lost", CONFIG)
    try:
        penstock.run("up")
        load = Load(penstock.record().gateway)
        load.start()
        until(lambda: load.acknowledged >= 20 * ROWS, 60, "some load")
        before = load.acknowledged
        penstock.run("backup", folder / "copy")
        until(lambda: load.acknowledged >= before + 5 * ROWS, 60, "load goes on after the backup")
        load.end()
        yield penstock, before
    finally:
        penstock.marked.end()


def drained(penstock: Installed, rows: int) -> bool:
    """Whether so many rows, or more, are committed and none waits."""
    status = penstock.json("status", status=None)
    waiting = sum(shard["waiting"] for shard in status["log"]["shards"])
    return waiting == 0 and sum(shard["rows_total"] for shard in status["shards"]) >= rows


def test_penstock_restored_on_an_empty_folder_has_all_that_was_acknowledged(folder: Path, lost: tuple, say) -> None:
    """Nothing acknowledged before the backup is lost, nothing is booked twice, verify agrees, and it takes more."""
    old, acknowledged = lost
    assert old.json("verify", "--no-erp")["right"]
    old.marked.end()
    penstock = Installed(folder, "new", CONFIG)
    began = time.monotonic()
    try:
        penstock.run("restore", folder / "copy")
        penstock.run("up")
        until(lambda: drained(penstock, acknowledged), 60, "the log that was copied is booked")
        seconds = time.monotonic() - began
        with penstock.books() as books:
            totals = books.totals().group_by("state").agg(pl.col("events").sum())
            counts = {state: events for state, events in totals.iter_rows() if events}
        assert counts["accepted"] == counts["booked"] >= acknowledged
        verified = penstock.json("verify", "--no-erp", "--processes", "2")
        assert verified["right"] and verified["uncovered"] == ["the ERP was not asked"]
        assert verified["counts"]["events"] == counts["accepted"]
        assert penstock.json("verify", "--chain")["right"]
        with Client(penstock.record().gateway) as client:
            client.submit([charge(n) for n in range(ROWS)])  # all known
            client.submit([charge(10**6)])
        until(lambda: drained(penstock, acknowledged + ROWS + 1), 60, "more is booked")
        with penstock.books() as books:
            fresh = books.totals().filter(pl.col("state") == "booked")["events"].sum()
        assert fresh == counts["booked"] + 1
        say(f"backup: restored, started and drained in {seconds:.1f} s; {counts['accepted']} events")
        assert seconds < RTO_S_MAX
    finally:
        penstock.end()


def test_restore_of_a_damaged_backup_is_refused(folder: Path, lost: tuple) -> None:
    """A file that was changed since, and a backup that was not finished, are named before anything is made."""
    assert lost
    penstock = Installed(folder, "damaged", CONFIG)
    copy = folder / "copy"
    name = next(path for path in (copy / "log").iterdir())
    content = name.read_bytes()
    name.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    penstock.run("restore", copy, status=2)
    name.write_bytes(content)
    manifest = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").unlink()
    penstock.run("restore", copy, status=2)
    (copy / "manifest.json").write_bytes(manifest)
    assert not (folder / "damaged" / "books.sqlite").exists()
