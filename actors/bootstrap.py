"""The composition root: which real part stands behind each port, and how each actor's inside is built.

Owns the table of parts. The only place, with the CLI, that imports both `actors` and `adapters`. Builders run inside
the actors' own processes and get nothing but a `Wiring`, which is plain data.
"""

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from actors.consumer import Consumer
from actors.erp_calls import ThreadCallers
from actors.event_service import GatewayServer
from actors.feed_reader import FeedReader
from actors.gateway import Gateway
from actors.mender import Mender
from actors.metrics import RayMetrics
from actors.parts import AsyncShell, ThreadShell
from actors.poster import Poster
from actors.ray_stage import PartSpec, RayStage
from actors.relay import Relay
from actors.shard_worker import ShardWorker
from actors.supervisor import Supervisor
from actors.wiring import SUPERVISOR, Wiring, open_erp
from adapters import telemetry, wire
from adapters.archive.parquet import ParquetArchive
from adapters.books.sql import SqlBooks
from adapters.clock import WallClock
from adapters.feeds.redis_feed import RedisFeed
from adapters.log.redis_streams import RedisLogReader, RedisLogWriter
from adapters.outlets.redis_outlet import RedisOutlet
from adapters.tls import server_credentials
from runtime.config import Config
from runtime.ports import LogEntry, ShardLag
from runtime.routing import splitter
from runtime.schema import Vocabulary
from runtime.shard import ShardEngine
from runtime.topology import hosts


def log_writer(wiring: Wiring) -> RedisLogWriter:
    """A writer that waits for as many replicas as are configured."""
    return RedisLogWriter(wiring.log_url, replicas_min=wiring.config.log.replicas_min)


class BlockingLog:
    """A log writer for a part that has a thread and no event loop of its own."""

    def __init__(self, writer: RedisLogWriter, shards: int) -> None:
        self.shards = shards
        self._runner = asyncio.Runner()
        self._writer = writer

    def append(self, entries: list[LogEntry]) -> None:
        self._runner.run(self._writer.append(entries))

    def lag(self) -> dict[int, ShardLag]:
        return self._runner.run(self._writer.lag())

    def close(self) -> None:
        self._runner.run(self._writer.close())
        self._runner.close()


# ── parts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def part_specs(wiring: Wiring) -> Mapping[str, PartSpec]:
    """Every actor of this Penstock by name, the supervisor last."""
    config = wiring.config
    workers = {
        name: PartSpec(ThreadShell, partial(build_worker, wiring, i), "shard")
        for i, name in enumerate(worker_names(config))
    }
    gateways = {
        f"gateway-{i}": PartSpec(AsyncShell, partial(build_gateway, wiring, i), "ingress")
        for i in range(config.gateway.count)
    }
    feeds = {
        f"feed-{feed.name}": PartSpec(AsyncShell, partial(build_feed_reader, wiring, feed.name), "ingress")
        for feed in config.feeds
    }
    poster = (
        {"poster": PartSpec(ThreadShell, partial(build_poster, wiring), "control")} if config.erp.kind != "none" else {}
    )
    relay = {"relay": PartSpec(ThreadShell, partial(build_relay, wiring), "control")}
    supervisor = {SUPERVISOR: PartSpec(ThreadShell, partial(build_supervisor, wiring), "control")}
    return {**workers, **gateways, **feeds, **poster, **relay, **supervisor}


def worker_names(config: Config) -> list[str]:
    """The workers, which shards are placed with by name."""
    return [f"worker-{i}" for i in range(config.runtime.workers)]


def _begin(wiring: Wiring, name: str) -> str:
    """Set up this process for a part; the part's name as a holder of epochs."""
    telemetry.configure(name, wiring.logs_folder)
    return f"{name}/{os.getpid()}"


def build_worker(wiring: Wiring, index: int) -> ShardWorker:
    """A worker with its share of the shards."""
    config, rulebook = wiring.config, wiring.rulebook()
    opens_on = config.opens_on()
    name, books = worker_names(config)[index], SqlBooks(wiring.books_url)
    return ShardWorker(
        lambda: hosts(books.placements(), worker_names(config), config.runtime.shards)[name],
        holder=_begin(wiring, name),
        engine=lambda: ShardEngine(rulebook, opens_on, config.bounds().open_items_max),
        log=RedisLogReader(wiring.log_url),
        books=books,
        archive=ParquetArchive(wiring.archive_root),
        clock=WallClock(),
        limits=config.bounds(),
        metrics=RayMetrics(),
    )


def build_poster(wiring: Wiring) -> Poster:
    """The poster of the ERP connection."""
    config = wiring.config
    holder, entities = _begin(wiring, "poster"), config.erp_entities()
    return Poster(
        SqlBooks(wiring.books_url, told_kinds=wiring.rulebook().told_kinds()),
        ThreadCallers(partial(open_erp, wiring)),
        clock=WallClock(),
        limits=config.bounds(),
        erp_section=config.erp,
        entities=entities,
        holder=holder,
        metrics=RayMetrics(),
    )


def build_relay(wiring: Wiring) -> Relay:
    """The relay of derived events and of what consumers outside are told."""
    config, rulebook = wiring.config, wiring.rulebook()
    holder, books, clock, metrics = _begin(wiring, "relay"), SqlBooks(wiring.books_url), WallClock(), RayMetrics()
    calls = ThreadPoolExecutor(max(1, len(config.consumer)), "consumer")
    consumers = [
        Consumer(
            one.name,
            one.flows,
            RedisOutlet(one.url or wiring.log_url, one.stream_name(), one.length_max),
            calls=calls,
            books=books,
            clock=clock,
            metrics=metrics,
        )
        for one in config.consumer
    ]
    return Relay(
        books,
        BlockingLog(log_writer(wiring), config.runtime.shards),
        consumers,
        vocabulary=_vocabulary(wiring, derived=True),
        split=splitter(rulebook.scopes(), config.runtime.shards),
        clock=clock,
        limits=config.bounds(),
        holder=holder,
        metrics=metrics,
    )


def build_supervisor(wiring: Wiring) -> Supervisor:
    """The supervisor of every other part."""
    from adapters.embedded import dead_parts  # the supervisor alone needs it, and all that it needs

    _begin(wiring, SUPERVISOR)
    specs = {name: spec for name, spec in part_specs(wiring).items() if name != SUPERVISOR}
    return Supervisor(
        list(specs),
        workers=worker_names(wiring.config),
        stage=RayStage(specs),
        log=BlockingLog(log_writer(wiring), wiring.config.runtime.shards),
        books=SqlBooks(wiring.books_url),
        clock=WallClock(),
        metrics=RayMetrics(),
        silence_s=wiring.config.bounds().ping_timeout_s,
        tick_s=wiring.config.runtime.tick_s,
        mend=Mender(wiring.run_folder, partial(dead_parts, Path(wiring.run_folder) / "run.json")),
    )


async def build_gateway(wiring: Wiring, index: int) -> GatewayServer:
    """A gateway and its gRPC server."""
    _begin(wiring, f"gateway-{index}")
    section = wiring.config.gateway
    credentials = server_credentials(section.tls)
    return GatewayServer(_gateway(wiring), wire, host=section.host, port=wiring.gateway_port, credentials=credentials)


async def build_feed_reader(wiring: Wiring, name: str) -> FeedReader:
    """A feed reader with a gateway of its own, so that both doors check and append alike."""
    _begin(wiring, f"feed-{name}")
    section = next(feed for feed in wiring.config.feeds if feed.name == name)
    gateway, books = _gateway(wiring), SqlBooks(wiring.books_url)
    return FeedReader(
        RedisFeed(section.url or wiring.log_url, section.stream, section.group, f"{name}-{os.getpid()}"),
        gateway.submit,
        books,
        clock=WallClock(),
        limits=wiring.config.bounds(),
        name=name,
        parse=wire.from_redis,
        metrics=RayMetrics(),
        own=(gateway.close, partial(asyncio.to_thread, books.close)),
    )


def _gateway(wiring: Wiring) -> Gateway:
    config, rulebook = wiring.config, wiring.rulebook()
    return Gateway(
        log_writer(wiring),
        vocabulary=_vocabulary(wiring),
        split=splitter(rulebook.scopes(), config.runtime.shards),
        limits=config.bounds(),
        clock=WallClock(),
        metrics=RayMetrics(),
    )


def _vocabulary(wiring: Wiring, *, derived: bool = False) -> Vocabulary:
    """What may pass: at the doors what sources send, at the relay (`derived`) also what only the runtime does."""
    return Vocabulary(kinds=wiring.rulebook().kind_terms(derived=derived), entities=wiring.config.entity_terms())
