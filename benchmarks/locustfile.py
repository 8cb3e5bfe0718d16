"""A month end for Locust: users that submit Arrow frames over gRPC, and the shape of their number over time.

Each user offers one frame a second, so that the number of users is the offered rate. `python -m benchmarks.load` runs
it against a Penstock of its own and proves the books afterwards; by itself it runs against any gateway that knows the
mix: `locust -f benchmarks/locustfile.py --host HOST:PORT`.

Owns the offered load and the client's own record (requests sent, answered, refused with the delay asked for). A refused
or broken call is repeated with the same bytes until it is answered, as producers must.
"""

import os
import time
from itertools import count
from pathlib import Path

import gevent
import grpc
import grpc.experimental.gevent
import msgspec
from gevent.pool import Group
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from locust import LoadTestShape, User, constant_throughput, events, task
from locust.env import Environment
from penstock.v1 import events_pb2 as v1

grpc.experimental.gevent.init_gevent()

from benchmarks import prepared, workload  # noqa: E402  gRPC must know gevent before it makes a channel
from benchmarks.load_record import Answered, Asked, Begun, Noted  # noqa: E402

SECONDS = float(os.environ.get("PENSTOCK_LOAD_SECONDS", "600"))
EVENTS_PER_S = float(os.environ.get("PENSTOCK_LOAD_EVENTS_PER_S", "5000"))  # of an ordinary day
RECORD = os.environ.get("PENSTOCK_LOAD_RECORD", "")  # where the client's own record is written
ORDINARY_USERS = 5
FRAME_ROWS = max(int(EVENTS_PER_S / ORDINARY_USERS), 1)
EVENTS = max(200_000, FRAME_ROWS * 20)
SEED = 11
# name, where it ends (of the whole time), how many times an ordinary day
STAGES = (("ordinary day", 0.15, 1), ("Monday peak", 0.30, 3), ("month end", 0.80, 10), ("evening", 1.0, 1))
METHOD = "/penstock.v1.EventService/Submit"
CALL_TIMEOUT_S, BROKEN_PAUSE_S, NOTE_EVERY_S = 120.0, 1.0, 0.5
REPEATABLE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Client:
    """What all users share: the requests, their numbers, the record."""

    def __init__(self) -> None:
        self.requests = prepared.arrow_requests(workload.month_end(EVENTS, SEED), FRAME_ROWS)
        self.numbers = count()
        self.under_way = Group()
        self.noted = Noted(0.0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0)
        self.file = Path(RECORD or os.devnull).open("wb")  # noqa: SIM115  open as long as the process lives
        self.write(Begun(EVENTS, SEED, FRAME_ROWS))

    def request(self, number: int) -> bytes:
        """The request of this number: each round of them has its own ids."""
        turn, index = divmod(number, len(self.requests))
        mark = workload.MARK.encode()
        return self.requests[index].replace(mark, b"~%0*d~" % (len(mark) - 2, turn))

    def note(self, environment: Environment) -> None:
        """Write the record again and again."""
        while True:
            self.noted.at_s, self.noted.users = time.time(), environment.runner.user_count if environment.runner else 0
            self.write(self.noted)
            gevent.sleep(NOTE_EVERY_S)

    def write(self, what: object) -> None:
        """One line of the record, on its way at once."""
        self.file.write(msgspec.json.encode(what) + b"\n")
        self.file.flush()


_client: Client | None = None


@events.init.add_listener
def _begin(environment: Environment, **_: object) -> None:
    global _client
    _client = Client()
    gevent.spawn(_client.note, environment)


@events.quitting.add_listener
def _end(**_: object) -> None:
    """What is under way is answered first: otherwise nobody would know what became of it."""
    _client.under_way.join(timeout=CALL_TIMEOUT_S)
    _client.noted.at_s = time.time()
    _client.write(_client.noted)


class Producer(User):
    """Offers one frame a second."""

    wait_time = constant_throughput(1)

    def on_start(self) -> None:
        """A connection of its own, so that users reach all gateways that share a port."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(self.host.removeprefix("http://"), options)
        self.submit = self.channel.unary_unary(METHOD, response_deserializer=v1.SubmitResponse.FromString)

    @task
    def frame(self) -> None:
        """Submit the next request until it is answered, also when the user is ended meanwhile."""
        _client.under_way.spawn(self._frame).get()

    def _frame(self) -> None:
        client = _client
        number = next(client.numbers)
        client.write(Asked(number))
        client.noted.offered += FRAME_ROWS
        client.noted.under_way += 1
        began = time.perf_counter()
        answer = self._answered(client.request(number))
        client.noted.under_way -= 1
        client.noted.accepted += answer.accepted
        client.noted.duplicate += answer.duplicate
        client.noted.rejected += answer.rejected
        client.write(Answered(number, answer.accepted, answer.duplicate))
        self._tell("submit", time.perf_counter() - began, answer.ByteSize())

    def _answered(self, request: bytes) -> v1.SubmitResponse:
        while True:
            began = time.perf_counter()
            try:
                return self.submit(request, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() not in REPEATABLE:
                    raise
                refused = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                pause_s = _asked_s(error) if refused else BROKEN_PAUSE_S
                _client.noted.refused_calls += refused
                _client.noted.asked_s += pause_s if refused else 0.0
                _client.noted.broken_calls += not refused
                self._tell("refused" if refused else "broken", time.perf_counter() - began, 0)
                gevent.sleep(pause_s)

    def _tell(self, name: str, seconds: float, size: int) -> None:
        given = {"request_type": "grpc", "name": name, "response_time": seconds * 1000, "response_length": size}
        self.environment.events.request.fire(**given, exception=None, context={})


def _asked_s(error: grpc.RpcError) -> float:
    """The delay that a refusal asks for."""
    status, retry = rpc_status.from_call(error), error_details_pb2.RetryInfo()
    asked = [retry.retry_delay.ToMilliseconds() / 1000 for detail in status.details if detail.Unpack(retry)]
    return max(asked, default=BROKEN_PAUSE_S)


class MonthEnd(LoadTestShape):
    """An ordinary day, a Monday peak, a month end at ten times the ordinary, and the evening after it."""

    use_common_options = False

    def tick(self) -> tuple[int, float] | None:
        """(users, users started a second) now; None when it is over."""
        share = self.get_run_time() / SECONDS
        times = next((times for _, end, times in STAGES if share < end), None)
        return None if times is None else (ORDINARY_USERS * times, 100.0)
