"""A producer that is never the bottleneck: sends requests that are serialised already, several at once.

Owns how calls are kept under way, repeated when refused, and timed. Never looks into a request.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import NamedTuple

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from penstock.v1 import events_pb2 as v1

METHOD = "/penstock.v1.EventService/Submit"
UNDER_WAY = 8
REFUSED_PAUSE_S = 0.05
# What a server says that can't take a call now; one with more calls than it can begin cancels some.
PASSING = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # channels to one address would share a connection
]
ANSWER = v1.SubmitResponse.FromString


class Sent(NamedTuple):
    """What was answered: events by their fate, the latency of each call, how often a call was refused."""

    accepted: int
    duplicate: int
    rejected: int
    latencies_s: list[float]
    refused: int
    seconds: float

    @property
    def events(self) -> int:
        return self.accepted + self.duplicate + self.rejected


def _asked_s(error: grpc.aio.AioRpcError) -> float:
    """The delay that a refusal asks for."""
    status = rpc_status.from_call(error)
    retry = error_details_pb2.RetryInfo()
    details = status.details if status else ()
    asked = [retry.retry_delay.ToMilliseconds() / 1000 for detail in details if detail.Unpack(retry)]
    return max(asked, default=REFUSED_PAUSE_S)


class Producer:
    """Keeps calls under way until a moment, or until it is told to stop."""

    def __init__(self, target: str, connections: int = 1) -> None:
        """Several connections reach several gateways that share a port."""
        self._channels = [grpc.aio.insecure_channel(target, OPTIONS) for _ in range(connections)]
        submits = [channel.unary_unary(METHOD, response_deserializer=ANSWER) for channel in self._channels]
        self._submits = cycle(submits)
        self._counts = [0, 0, 0]
        self._latencies: list[float] = []
        self._refused = 0
        self.may_send = asyncio.Event()  # cleared by who wants the producer to hold back
        self.may_send.set()
        self._stopped = False
        self.on_answer: Callable[[v1.SubmitResponse, float], None] | None = None  # told the moment it was due, too

    @property
    def answered(self) -> int:
        """Events answered until now."""
        return sum(self._counts)

    async def send(self, requests: Iterator[bytes], seconds: float, under_way: int = UNDER_WAY) -> Sent:
        """Send as fast as answers come."""
        began = time.monotonic()
        await asyncio.gather(*(self._keep_sending(requests, began + seconds) for _ in range(under_way)))
        return self._sent(time.monotonic() - began)

    async def offer(self, requests: Iterator[bytes], per_s: float, seconds: float) -> Sent:
        """Send at fixed moments, however long answers take; latency counts from the moment that was meant."""
        began, calls = time.monotonic(), []
        for number in range(int(per_s * seconds)):
            due = began + number / per_s
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            calls.append(asyncio.create_task(self._call(next(requests), due)))
        await asyncio.gather(*calls)
        return self._sent(time.monotonic() - began)

    def stop(self) -> None:
        """Begin no more calls, whatever time was given; nobody waits to begin one."""
        self._stopped = True
        self.may_send.set()

    async def close(self) -> None:
        """End the connection."""
        for channel in self._channels:
            await channel.close()

    async def _keep_sending(self, requests: Iterator[bytes], until: float) -> None:
        while time.monotonic() < until and not self._stopped:
            await self.may_send.wait()
            await self._call(next(requests), time.monotonic())

    async def _call(self, request: bytes, due: float) -> None:
        submit = next(self._submits)
        while True:
            try:
                answer = await submit(request)
                break
            except grpc.aio.AioRpcError as error:
                if error.code() not in PASSING:
                    raise
                self._refused += 1
                await asyncio.sleep(_asked_s(error))
        self._latencies.append(time.monotonic() - due)
        if self.on_answer:
            self.on_answer(answer, due)
        for i, count in enumerate((answer.accepted, answer.duplicate, answer.rejected)):
            self._counts[i] += count

    def _sent(self, seconds: float) -> Sent:
        return Sent(*self._counts, self._latencies, self._refused, seconds)
