"""What the reports conclude from what parts say of themselves."""

import msgspec
import polars as pl
import pytest
from small_log import event, events
from unit.poster_bench import Bench

from actors.cli.reports import erp_state, events_of, healthy
from adapters.archive.memory import MemoryArchive
from adapters.erp.memory import TERMS
from runtime.effects import OUTCOMES
from runtime.flow import frames
from runtime.ports import ArchivedStep, LogRecord


def part(state: str = "running", *shards: tuple[int, str]) -> dict:
    """A part's health as plain data; one with shards is a worker."""
    detail = [{"shard": shard, "state": its} for shard, its in shards] if shards else None
    return {"name": "part", "state": state, "detail": detail}


WORKER = part("running", (0, "running"), (1, "running"))
CASES = {
    "all run": ([WORKER, part()], True),
    "a part fails": ([WORKER, part("failed")], False),
    "a part is silent": ([WORKER, part("silent")], False),
    "a shard recovers": ([part("running", (0, "running"), (1, "recovering")), part()], False),
    "a shard is nowhere": ([part("running", (0, "running")), part()], False),
    "a shard moved": ([part("running", (0, "running")), part("running", (0, "lost"), (1, "running"))], True),
    "a worker is silent": ([part("silent"), part()], False),
}


@pytest.mark.parametrize(("parts", "expected"), CASES.values(), ids=CASES)
def test_status_of_parts_and_shards_is_healthy_only_when_all_run(parts, expected):
    """A shard that no worker runs makes Penstock unhealthy, though every part answers."""
    assert healthy(parts, shards=2) is expected


def test_erp_state_is_the_posters_word_in_one_row() -> None:
    """Status shows how the ERP connection fares, and nothing while no poster answers."""
    bench = Bench("throttle", calls_per_minute=60, terms=msgspec.structs.replace(TERMS, per_day=400))
    bench.commit("R-1")
    poster = bench.poster()
    poster.step()
    shown = erp_state(msgspec.to_builtins(poster.health()))
    assert (shown["health"], shown["calls_per_minute"]) == ("backing_off", 42)
    assert shown["calls_left"] == "59 a minute, 399 a day"
    assert (shown["calls_under_way"], shown["unknown"], shown["closing"]) == (0, 0, "")
    assert erp_state(None) == {}


def test_trace_finds_what_each_content_of_an_event_said():
    """An event and a conflicting one of the same id are read from the steps that they came with, in whatever shard."""
    archive, rows = MemoryArchive(), []
    for shard, position, minor in ((0, "3-0", 100), (0, "5-0", 999), (1, "4-0", 100)):
        entry = events(shard, event("other", "charge_posted", 1), event("e1", "charge_posted", minor))
        stamped = frames.decode_sealed(entry.body).row(1, named=True)
        rows.append((stamped["id_hash"], stamped["digest"], "booked", position, 0))
        outcomes = pl.DataFrame(rows[-1:], schema=OUTCOMES, orient="row")
        step = ArchivedStep((LogRecord(position, "events", 2, entry.body), LogRecord(position, "control", 0, b"{}")))
        archive.put_segment(shard, f"{int(position[0]) - 1}-0", position, outcomes, [step])

    found = events_of(archive, archive.find([rows[0][0]]))

    assert {key: row["amount_minor"] for key, row in found.items()} == {rows[0][:2]: 100, rows[1][:2]: 999}
    assert {row["event_id"] for row in found.values()} == {"e1"}
