"""The door for events: validate, split by shard, append, answer; and the gRPC server in front of it.

Owns the order "durable before acknowledged", and how requests of many callers share one validation and one append.
Never decides what an event means, and answers nobody before the log has.
"""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Protocol

import grpc
import numpy as np
import polars as pl
import structlog
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from penstock.v1 import events_pb2 as v1

from actors import answers
from actors.answers import Receipt, Stored
from actors.coalescer import Coalescer
from runtime.errors import FrameError, LogError, LogUnavailable, Pressure
from runtime.flow import frames
from runtime.flow.admission import Admission
from runtime.flow.recent_ids import RecentIds
from runtime.limits import Limits
from runtime.ports import Clock, LogEntry, LogWriter, Metrics, NoMetrics, ShardLag
from runtime.schema import REJECT_COLUMNS, STAMPED, Parsed, Validated, Vocabulary, conform, validate

LAG_EVERY_S = 0.1
LAG_TIMEOUT_S = 2.0
DOUBT_READS = 50  # readings of the lag for which a refused append counts against this gateway's health
STREAM_WAIT_S_MAX = 5.0  # how long a stream waits for a lagging shard before it ends
STOP_GRACE_S = 5.0
MESSAGE_HEADROOM_BYTES = 2**20  # so that a request slightly too large is answered by us, with the limit named
REQUEST_BYTES_MIN = 1024  # what a request costs at least while it is under way
THREAD_SWITCH_S = 0.0005  # frames are worked on in threads, each of which asks the loop for its turn dozens of times
CHECKS_AT_ONCE, APPENDS_AT_ONCE, ROW_GROUPS_AT_ONCE = 2, 2, 2

_log = structlog.get_logger()
Split = Callable[[pl.DataFrame], dict[int, pl.DataFrame]]


# ── the gateway ────────────────────────────────────────────────────────────────────────────────────────────────────


class Gateway:
    """Takes frames, answers with receipts. Everything runs in one event loop; `close` ends its background reading."""

    def __init__(
        self,
        log: LogWriter,
        *,
        vocabulary: Vocabulary,
        split: Split,
        limits: Limits,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self._log, self._vocabulary, self._split = log, vocabulary, split
        self.limits, self._clock, self._metrics = limits, clock, metrics or NoMetrics()
        self._admission = Admission(limits)
        self._recent = RecentIds(limits.gateway_recent_ids_max)
        self._checking = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._appends = Coalescer(self._append, limits.frame_rows_max, APPENDS_AT_ONCE)
        self._watching: asyncio.Task | None = None
        self._lag_was_read = asyncio.Event()
        self._doubt = 0
        self.inflight_bytes = 0

    async def start(self) -> None:
        """Begin to follow the shards' lag. Called again it does nothing; the first request calls it, too."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch_lag())
        await self._lag_was_read.wait()

    async def close(self) -> None:
        """Stop following the lag, close the log."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._log.close()

    async def submit(self, frame: pl.DataFrame) -> Receipt:
        """Take one frame of any columns that conform. Raises FrameError, Pressure, LogRefused, LogUnavailable."""
        async with self.hold(frame.estimated_size()):
            return await self.store(numbered(conform(frame)))

    @contextlib.asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """Reserve room for a request until it is answered, or raise Pressure. Whoever calls `store` holds room."""
        await self.start()
        size_bytes = max(size_bytes, REQUEST_BYTES_MIN)
        refusal = self._admission.refusal(self.inflight_bytes + size_bytes)
        if refusal:
            self._metrics.count("gateway_refused")
            raise refusal
        self._hold(size_bytes)
        try:
            yield
        finally:
            self._hold(-size_bytes)

    def _hold(self, size_bytes: int) -> None:
        self.inflight_bytes += size_bytes
        self._metrics.gauge("gateway_inflight_bytes", self.inflight_bytes)

    async def store(self, parsed: Parsed) -> Receipt:
        """Validate, and append what is new; the receipt comes when it is durable. Raises like `submit`."""
        self._metrics.count("events_in", parsed.frame.height + len(parsed.faults))
        if parsed.frame.height > self.limits.frame_rows_max:
            raise FrameError("too_many_rows", "", f"at most {self.limits.frame_rows_max} events in one frame")
        async with self._checking:
            accepted, rejected = await asyncio.to_thread(self._check, parsed)
        rows, ids, digests = (accepted[name].to_numpy() for name in ("row", "id_hash", "digest"))
        known = self._recent.known(ids, digests)
        fresh = accepted.filter(~known) if known.any() else accepted
        stored = await self._appends.submit(fresh, fresh.height) if fresh.height else None
        self._recent.remember(ids[~known], digests[~known])
        self._metrics.count("events_duplicate", int(known.sum()))
        self._metrics.count("events_rejected", rejected.height)
        hint_s = self._admission.hint_s(stored.shards) if stored else 0.0
        return Receipt(rows[~known], rows[known], rejected, stored, hint_s)

    def _check(self, parsed: Parsed) -> Validated:
        """Validated, with the rows' numbers in the request, and unreadable rows among the rejected."""
        if not parsed.faults:
            return validate(parsed.frame.drop("row"), self._vocabulary, self._clock.now_ms())
        faults = [(row, "", *why) for row, *why in parsed.faults]
        unread = pl.DataFrame(faults, schema=REJECT_COLUMNS, orient="row")
        if parsed.frame.is_empty():
            return Validated(pl.DataFrame(schema={"row": pl.Int64(), **STAMPED}), unread)
        checked = validate(parsed.frame.drop("row"), self._vocabulary, self._clock.now_ms())
        accepted, rejected = (part.with_columns(parsed.frame["row"].gather(part["row"])) for part in checked)
        return Validated(accepted, pl.concat([rejected, unread]).sort("row"))

    async def _append(self, parts: list[pl.DataFrame]) -> list[Stored | Pressure]:
        """Append what several callers bring; a caller that touches a paused shard is left out as a whole."""
        refusals = [None] * len(parts)
        if self._admission.paused:
            refusals = await asyncio.to_thread(self._refusals, parts)
        admitted = [part for part, refusal in zip(parts, refusals, strict=True) if refusal is None]
        stored = iter(await self._append_together(admitted) if admitted else ())
        self._metrics.count("gateway_refused", len(parts) - len(admitted))
        return [next(stored) if refusal is None else refusal for refusal in refusals]

    def _refusals(self, parts: list[pl.DataFrame]) -> list[Pressure | None]:
        return [self._admission.refusal_for(self._split(part)) for part in parts]

    async def _append_together(self, parts: list[pl.DataFrame]) -> list[Stored]:
        entries, entry_of_row = await asyncio.to_thread(self._entries, parts)
        try:
            appended = await self._log.append(entries)
        except LogError as error:
            self._doubt = DOUBT_READS
            if isinstance(error, LogUnavailable):
                self._admission.observe(None)
            raise
        self._doubt = 0
        shards = tuple(entry.shard for entry in entries)
        bounds = np.cumsum([0, *map(len, parts)]).tolist()
        return [Stored(appended, shards, entry_of_row[start:end]) for start, end in pairwise(bounds)]

    def _entries(self, parts: list[pl.DataFrame]) -> tuple[list[LogEntry], np.ndarray]:
        """One entry a shard, and for each row the index of its entry."""
        whole = parts[0] if len(parts) == 1 else pl.concat(parts)
        owned = self._split(whole.with_columns(pl.int_range(pl.len()).alias("row")))
        entry_of_row = np.empty(whole.height, np.intp)
        for number, part in enumerate(owned.values()):
            entry_of_row[part["row"].to_numpy()] = number
        entries = [
            LogEntry(shard, "events", part.height, frames.encode(part.drop("row"))) for shard, part in owned.items()
        ]
        return entries, entry_of_row

    async def _watch_lag(self) -> None:
        while True:
            await self._read_lag()
            self._lag_was_read.set()
            await asyncio.sleep(LAG_EVERY_S)

    async def _read_lag(self) -> None:
        """Whatever keeps the lag from being read closes the door: better refuse than overrun a shard unseen."""
        try:
            async with asyncio.timeout(LAG_TIMEOUT_S):
                self._admission.observe(await self._log.lag())
            self._doubt = max(self._doubt - 1, 0)
        except (LogError, TimeoutError) as error:
            self._admission.observe(None)
            _log.warning("lag_unknown", error_type=type(error).__name__)

    @property
    def able(self) -> bool:
        """Whether appends succeed, as far as is known. Doubt ends by itself: somebody must try again."""
        return self._admission.lag is not None and not self._doubt

    @property
    def lag(self) -> dict[int, ShardLag] | None:
        """Every shard's lag; None when it can't be read, and nothing can be taken."""
        return None if self._admission.lag is None else dict(self._admission.lag)

    @property
    def paused(self) -> frozenset[int]:
        """Shards that take nothing at present."""
        return self._admission.paused

    def refusal(self) -> Pressure | None:
        """Why even a small request would be refused now."""
        return self._admission.refusal(self.inflight_bytes + REQUEST_BYTES_MIN)


def numbered(frame: pl.DataFrame) -> Parsed:
    """A conformed frame as the form that `store` takes."""
    return Parsed(frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64()).alias("row")), [])


# ── gRPC ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SERVICE = v1.DESCRIPTOR.services_by_name["EventService"].full_name


class Wire(Protocol):
    """What reads requests: `adapters.wire`."""

    def from_rows(self, events: Sequence[v1.FinancialEvent], limits: Limits) -> Parsed: ...

    def from_arrow(self, data: bytes, limits: Limits) -> pl.DataFrame: ...


class EventServicer:
    """EventService over a gateway. Requests that are no protobuf arrive here as None."""

    def __init__(self, gateway: Gateway, wire: Wire) -> None:
        self._gateway, self._wire, self._limits = gateway, wire, gateway.limits
        self._rows = Coalescer(self._store_rows, gateway.limits.frame_rows_max, ROW_GROUPS_AT_ONCE)

    async def submit(self, request: v1.SubmitRequest | None, context: grpc.aio.ServicerContext) -> v1.SubmitResponse:
        """Answer one request."""
        return await self._or_abort(self._answer(request), context)

    async def submit_stream(
        self, requests: AsyncIterator[v1.SubmitRequest | None], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[v1.SubmitResponse]:
        """Answer requests one by one. While one waits for a lagging shard the next is not read, so that HTTP/2 flow
        control holds the producer back."""
        async for request in requests:
            yield await self._or_abort(self._answer_patiently(request), context)

    async def status(self, _request: v1.StatusRequest | None, _context: grpc.aio.ServicerContext) -> v1.StatusResponse:
        """The present state."""
        gateway = self._gateway
        await gateway.start()
        lag = answers.shard_states(gateway.lag or {}, gateway.paused)
        refusal = gateway.refusal()
        return answers.status_response(lag, refusal.reason if refusal else "", gateway.inflight_bytes)

    async def _or_abort(
        self, answer: Awaitable[v1.SubmitResponse], context: grpc.aio.ServicerContext
    ) -> v1.SubmitResponse:
        try:
            return await answer
        except (Exception, pl.exceptions.PanicException) as error:
            problem = rpc_status.to_status(self._problem(error))
        return await context.abort(problem.code, problem.details, problem.trailing_metadata)

    def _problem(self, error: BaseException) -> status_pb2.Status:
        known = answers.problem(error, self._limits.retry_after_s)
        if known is not None:
            return known
        number = secrets.token_hex(4)
        _log.error("submit_failed", incident=number, exc_info=error)
        return answers.incident(number)

    async def _answer_patiently(self, request: v1.SubmitRequest | None) -> v1.SubmitResponse:
        waited_s = 0.0
        while True:
            try:
                return await self._answer(request)
            except Pressure as pressure:
                if waited_s >= STREAM_WAIT_S_MAX:
                    raise
                await asyncio.sleep(pressure.retry_after_s)
                waited_s += pressure.retry_after_s

    async def _answer(self, request: v1.SubmitRequest | None) -> v1.SubmitResponse:
        if request is None:
            raise FrameError("malformed_request", "", "not a SubmitRequest")
        size_bytes = len(request.arrow_frame) or request.ByteSize()
        if size_bytes > self._limits.frame_bytes_max:
            raise FrameError("too_large", "", f"at most {self._limits.frame_bytes_max} bytes in one request")
        async with self._gateway.hold(size_bytes):
            if request.WhichOneof("events") == "arrow_frame":
                return await self._take_arrow(request)
            return await self._take_rows(request)

    async def _take_arrow(self, request: v1.SubmitRequest) -> v1.SubmitResponse:
        frame = await asyncio.to_thread(self._wire.from_arrow, request.arrow_frame, self._limits)
        receipt = await self._gateway.store(numbered(frame))
        return answers.arrow_response(request.request_id, frame["event_id"], receipt)

    async def _take_rows(self, request: v1.SubmitRequest) -> v1.SubmitResponse:
        events = request.rows.events
        if not events:
            raise FrameError("empty_frame", "", "a request needs at least one event")
        return answers.rows_response(request.request_id, events, await self._rows.submit(events, len(events)))

    async def _store_rows(self, parts: list[Sequence[v1.FinancialEvent]]) -> list[Receipt | BaseException]:
        """Store all callers' rows as one frame: a frame of few rows costs as much as one of hundreds."""
        if self._gateway.paused and len(parts) > 1:  # a caller is not refused for the shards that others touch
            apart = await asyncio.gather(*(self._store_rows([part]) for part in parts), return_exceptions=True)
            return [receipt if isinstance(receipt, BaseException) else receipt[0] for receipt in apart]
        events = list(chain.from_iterable(parts))
        receipt = await self._gateway.store(await asyncio.to_thread(self._wire.from_rows, events, self._limits))
        bounds = accumulate(map(len, parts), initial=0)
        return [receipt.part(start, end) for start, end in pairwise(bounds)]


class GatewayServer:
    """The gRPC server of one gateway. Several share a port, each in a process of its own."""

    def __init__(self, gateway: Gateway, wire: Wire, *, host: str, port: int) -> None:
        self._gateway, self._servicer = gateway, EventServicer(gateway, wire)
        self._host, self._port = host, port
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._reporting: asyncio.Task | None = None

    async def start(self) -> int:
        """Serve; the port that was bound (another one than asked for when that was 0)."""
        sys.setswitchinterval(THREAD_SWITCH_S)
        await self._gateway.start()
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", self._gateway.limits.frame_bytes_max + MESSAGE_HEADROOM_BYTES),
                ("grpc.max_send_message_length", -1),
            ]
        )
        self._server.add_generic_rpc_handlers((_handler(self._servicer),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        port = self._server.add_insecure_port(f"{self._host}:{self._port}")
        await self._report_health()
        self._reporting = asyncio.create_task(self._keep_reporting())
        await self._server.start()
        return port

    async def run(self) -> None:
        """Return when the server has ended."""
        await self._server.wait_for_termination()

    async def close(self) -> None:
        """Take no more requests, answer those under way, end."""
        await self._health.enter_graceful_shutdown()
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
        await self._gateway.close()

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(LAG_EVERY_S)
            await self._report_health()

    async def _report_health(self) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if self._gateway.able else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in (health.OVERALL_HEALTH, SERVICE):
            await self._health.set(service, status)


def _handler(servicer: EventServicer) -> grpc.GenericRpcHandler:
    """The service's methods. The generated registration would answer bytes that are no message with INTERNAL."""
    answer = v1.SubmitResponse.SerializeToString
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    methods = {
        "Submit": unary(servicer.submit, _decoder(v1.SubmitRequest), answer),
        "SubmitStream": stream(servicer.submit_stream, _decoder(v1.SubmitRequest), answer),
        "Status": unary(servicer.status, _decoder(v1.StatusRequest), v1.StatusResponse.SerializeToString),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _decoder(message: type[Message]) -> Callable[[bytes], Message | None]:
    def decode(data: bytes) -> Message | None:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return decode
