"""The relay over the real things: SQLite books, Valkey's log and a consumer's stream."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from valkey_fixture import Valkey, running_valkey

from actors.bootstrap import BlockingLog
from actors.consumer import Consumer
from actors.relay import Relay
from adapters.books.migrations import upgrade
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.log import redis_streams
from adapters.outlets.redis_outlet import RedisOutlet
from runtime.effects import DELTAS, EXCEPTIONS, OUTCOMES, STATUSES, TOTALS, Effects, StepCounts, empty
from runtime.flow import frames
from runtime.limits import Limits
from runtime.ports import START, NoMetrics
from runtime.routing import shard_of, splitter
from runtime.schema import UTC_MS, EntityTerms, KindTerms, Vocabulary, conform

SHARDS, NOW_MS = 2, 1_790_000_000_000
VOCABULARY = Vocabulary(
    kinds={"share_received": KindTerms(requires=(), sign="positive")},
    entities={"mercy": EntityTerms(currencies=frozenset(["USD"]))},
)


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        redis_streams.create(valkey.url, SHARDS)
        yield valkey


def effects(*names: str) -> Effects:
    """A derived event and a status for each name."""
    events = [
        {"event_id": name, "source": "penstock", "kind": "share_received", "entity": "mercy", "facility": name}
        | {"amount_minor": 100, "currency": "USD", "occurred_at": NOW_MS, "schema_version": 1}
        for name in names
    ]
    derived = conform(pl.DataFrame(events).with_columns(pl.col("occurred_at").cast(UTC_MS)))
    told = [
        dict.fromkeys(STATUSES, "")
        | {"status_id": name, "flow": "card", "status": "paid", "document": name, "amount_minor": 1}
        | {"occurred_at": NOW_MS}
        for name in names
    ]
    rest = (empty(DELTAS), empty(TOTALS), empty(EXCEPTIONS), (), empty(OUTCOMES), StepCounts())
    return Effects(*rest, derived=derived, statuses=pl.DataFrame(told, schema=STATUSES))


def relay(books_url: str, server: Valkey, consumers: tuple[str, ...]) -> Relay:
    """A relay as it is built for real."""
    books, clock, calls = SqlBooks(books_url), WallClock(), ThreadPoolExecutor(2)
    told = [
        Consumer(
            name,
            [],
            RedisOutlet(server.url, f"status:{name}", 100),
            calls=calls,
            books=books,
            clock=clock,
            metrics=NoMetrics(),
        )
        for name in consumers
    ]
    made = Relay(
        books,
        BlockingLog(redis_streams.RedisLogWriter(server.url), SHARDS),
        told,
        vocabulary=VOCABULARY,
        split=splitter({"share_received": "facility"}, SHARDS),
        clock=clock,
        limits=Limits(),
        holder="test",
        metrics=NoMetrics(),
    )
    made.start()
    return made


def logged(server: Valkey, shard: int) -> list[str]:
    """Event ids of a shard's log."""
    reader = redis_streams.RedisLogReader(server.url)
    try:
        records = reader.read_range(shard, START, "+")
        return [id for record in records for id in frames.decode_sealed(record.body)["event_id"].to_list()]
    finally:
        reader.close()


def test_relay_over_real_parts_brings_everything_out_once(server: Valkey, tmp_path: Path) -> None:
    """Two relays one after another: events lie in their shards' logs, statuses in each consumer's stream, once."""
    books_url = f"sqlite:///{tmp_path / 'books.sqlite'}"
    upgrade(books_url)
    books = SqlBooks(books_url)
    epoch = books.take_epoch("shard:0", "test").epoch
    facilities = ["north", "south", "east"]
    for n, name in enumerate(facilities):
        books.commit(0, epoch, f"{n}-0" if n else START, f"{n + 1}-0", 1, effects(name))
        made = relay(books_url, server, ("one", "two")[: n + 1])
        while made.step() != pytest.approx(0.2):
            pass
        made.close()
    books.close()
    for shard in range(SHARDS):
        assert logged(server, shard) == [f for f in facilities if shard_of("mercy", f, SHARDS) == shard]
    with server.client() as client:
        for name in ("one", "two"):
            entries = client.xrange(f"status:{name}")
            assert [id for id, _ in entries] == [b"1-0", b"2-0", b"3-0"]
            assert [json.loads(fields[b"status"])["document"] for _, fields in entries] == facilities
    assert asyncio.run(_lag(server)) == 3


async def _lag(server: Valkey) -> int:
    """Rows that wait in all shards."""
    writer = redis_streams.RedisLogWriter(server.url)
    try:
        return sum(lag.waiting for lag in (await writer.lag()).values())
    finally:
        await writer.close()
