"""The gRPC service in front of a gateway: reads requests, answers with receipts or typed errors.

Owns the server, its health and reflection services, and how patiently a stream waits. Never decides what becomes of an
event; the gateway does.
"""

import asyncio
import gc
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Generic, NamedTuple, Protocol, TypeVar

import grpc
import polars as pl
import pyarrow as pa
import structlog
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from penstock.v1 import events_pb2 as v1

from actors import answers
from actors.answers import Receipt
from actors.coalescer import Apart, Coalescer
from actors.gateway import LAG_EVERY_S, LARGE_BYTES, ROWS_IN_LOOP_MAX, Gateway, numbered
from runtime.errors import FrameError, Pressure
from runtime.limits import Limits
from runtime.schema import Few, Incoming

STREAM_WAIT_S_MAX = 5.0  # how long a stream waits for a lagging shard before it ends
STOP_GRACE_S = 5.0
MESSAGE_HEADROOM_BYTES = 2**20  # so that a request slightly too large is answered by us, with the limit named
THREAD_SWITCH_S = 0.0005  # frames are worked on in threads, each of which asks the loop for its turn dozens of times
ROW_GROUPS_AT_ONCE, ROWS_APART = 2, Apart(least_s=0.015, most_s=0.03, weight_max=ROWS_IN_LOOP_MAX)
FEW_ROWS_MAX = 128  # one by one they take the loop 2 ms, less than a frame of them costs

_log = structlog.get_logger()

SERVICE = v1.DESCRIPTOR.services_by_name["EventService"].full_name


Request = TypeVar("Request", bound=Message)


class Wire(Protocol):
    """What reads requests: `adapters.wire`."""

    def from_rows(self, events: Sequence[v1.FinancialEvent], limits: Limits) -> Incoming: ...

    def from_few_rows(self, events: Sequence[v1.FinancialEvent]) -> Few: ...

    def from_arrow(self, data: bytes, limits: Limits) -> pa.RecordBatch: ...


class Received(NamedTuple, Generic[Request]):
    """A request, and how many bytes it was on the wire: protobuf takes as long to count them as to read them."""

    message: Request
    size_bytes: int


Submission = Received[v1.SubmitRequest] | None


class EventServicer:
    """EventService over a gateway. Requests that are no protobuf arrive here as None."""

    def __init__(self, gateway: Gateway, wire: Wire) -> None:
        self._gateway, self._wire, self._limits = gateway, wire, gateway.limits
        self._rows = Coalescer(self._store_rows, gateway.limits.frame_rows_max, ROW_GROUPS_AT_ONCE, ROWS_APART)

    async def submit(self, request: Submission, context: grpc.aio.ServicerContext) -> v1.SubmitResponse:
        """Answer one request."""
        return await self._or_abort(self._answer(request), context)

    async def submit_stream(
        self, requests: AsyncIterator[Submission], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[v1.SubmitResponse]:
        """Answer requests one by one. While one waits for a lagging shard the next is not read, so that HTTP/2 flow
        control holds the producer back."""
        async for request in requests:
            yield await self._or_abort(self._answer_patiently(request), context)

    async def status(self, _request: object, _context: grpc.aio.ServicerContext) -> v1.StatusResponse:
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

    async def _answer_patiently(self, request: Submission) -> v1.SubmitResponse:
        waited_s = 0.0
        while True:
            try:
                return await self._answer(request)
            except Pressure as pressure:
                if waited_s >= STREAM_WAIT_S_MAX:
                    raise
                await asyncio.sleep(pressure.retry_after_s)
                waited_s += pressure.retry_after_s

    async def _answer(self, request: Submission) -> v1.SubmitResponse:
        if request is None:
            raise FrameError("malformed_request", "", "not a SubmitRequest")
        message, frame = request.message, request.message.arrow_frame
        size_bytes = len(frame) or request.size_bytes
        if size_bytes > self._limits.frame_bytes_max:
            raise FrameError("too_large", "", f"at most {self._limits.frame_bytes_max} bytes in one request")
        async with self._gateway.hold(size_bytes):
            if message.WhichOneof("events") == "arrow_frame":
                return await self._take_arrow(message.request_id, frame)
            return await self._take_rows(message)

    async def _take_arrow(self, request_id: str, frame: bytes) -> v1.SubmitResponse:
        events = await self._gateway.off_loop(len(frame) >= LARGE_BYTES, self._wire.from_arrow, frame, self._limits)
        receipt = await self._gateway.store(numbered(events))
        return answers.arrow_response(request_id, events.column("event_id"), receipt)

    async def _take_rows(self, request: v1.SubmitRequest) -> v1.SubmitResponse:
        events = request.rows.events
        if not events:
            raise FrameError("empty_frame", "", "a request needs at least one event")
        few = len(events) <= min(FEW_ROWS_MAX, self._limits.frame_rows_max)
        receipt = await (self._take_few(events) if few else self._rows.submit(events, len(events)))
        return answers.rows_response(request.request_id, events, receipt)

    async def _take_few(self, events: Sequence[v1.FinancialEvent]) -> Receipt:
        return await self._gateway.store_few(self._wire.from_few_rows(events))

    async def _store_rows(self, parts: list[Sequence[v1.FinancialEvent]]) -> list[Receipt | BaseException]:
        """Store all callers' rows as one frame: a frame of few rows costs as much as one of hundreds."""
        if self._gateway.paused and len(parts) > 1:  # a caller is not refused for the shards that others touch
            apart = await asyncio.gather(*(self._store_rows([part]) for part in parts), return_exceptions=True)
            return [receipt if isinstance(receipt, BaseException) else receipt[0] for receipt in apart]
        events = list(chain.from_iterable(parts))
        read = await self._gateway.off_loop_if_many(len(events), self._wire.from_rows, events, self._limits)
        receipt = await self._gateway.store(read)
        bounds = accumulate(map(len, parts), initial=0)
        return [receipt.part(start, end) for start, end in pairwise(bounds)]


class GatewayServer:
    """The gRPC server of one gateway. Several share a port, each in a process of its own. Without credentials nothing
    is encrypted."""

    def __init__(
        self, gateway: Gateway, wire: Wire, *, host: str, port: int, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self._gateway, self._servicer = gateway, EventServicer(gateway, wire)
        self._address, self._credentials = f"{host}:{port}", credentials
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
        port = self._bind(self._server)
        await self._report_health()
        self._reporting = asyncio.create_task(self._keep_reporting())
        await self._server.start()
        gc.freeze()  # what was imported stays: looking through it again and again would hold up every answer
        return port

    def _bind(self, server: grpc.aio.Server) -> int:
        if self._credentials is None:
            return server.add_insecure_port(self._address)
        return server.add_secure_port(self._address, self._credentials)

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


def _decoder(message: type[Request]) -> Callable[[bytes], Received[Request] | None]:
    def decode(data: bytes) -> Received[Request] | None:
        try:
            return Received(message.FromString(data), len(data))
        except DecodeError:
            return None

    return decode
