"""A thin client: sends events as requests (`penstock.packing`), several at once, and repeats what was not answered.

Owns retries. They are safe, because an event counts once by (source, event_id), however often it is sent. Never drops
an event: one that could not be handed over is in the error that `submit` raises.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penstock.packing import Events, Piece, SubmitError, pieces
from penstock.v1 import events_pb2 as v1
from penstock.v1.events_pb2_grpc import EventServiceStub

REQUESTS_UNDER_WAY = 4
ANSWER_TIMEOUT_S = 30.0
BACKOFF_S, BACKOFF_S_MAX = 0.05, 5.0

# A server that has more calls than it can begin cancels some.
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)

Progress = Callable[[int], None]


class SubmitTimeout(TimeoutError):
    """The deadline passed. `summary` tells what was answered; submitting everything again is safe."""

    def __init__(self, message: str, summary: "SubmitSummary") -> None:
        super().__init__(message)
        self.summary = summary


class SubmitFailed(RuntimeError):
    """The gateway answered with a status that repeating does not mend, such as an internal fault. `code` names it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class NoAnswer(TimeoutError):
    """No gateway answered in time."""


class Rejected(NamedTuple):
    """One event that was not taken, `row` counted over the whole submission."""

    row: int
    event_id: str
    code: str
    column: str
    message: str


@dataclass
class SubmitSummary:
    """What became of a submission.

    `results` holds rejected events only; `results_truncated` says that there were more than the answers could hold.
    `durability` is the weakest level reached, empty when nothing was new. `positions`: (shard, position, rows).
    """

    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    results: list[Rejected] = field(default_factory=list)
    results_truncated: bool = False
    durability: str = ""
    positions: list[tuple[int, str, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Events answered."""
        return self.accepted + self.duplicate + self.rejected


class _UnderWay(NamedTuple):
    piece: Piece
    call: grpc.Future


class Client:
    """One connection to a gateway. Not thread-safe. Without credentials the connection is not encrypted."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        rows_per_request: int | None = None,
        requests_under_way: int = REQUESTS_UNDER_WAY,
        deadline_s: float = 120.0,
    ) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )
        self._stub = EventServiceStub(self._channel)
        self._rows_per_request, self._under_way_max = rows_per_request, requests_under_way
        self._deadline_s = deadline_s

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def submit(self, events: Events, progress: Progress | None = None) -> SubmitSummary:
        """Hand over all events; return when each is answered. `progress` is told how many are, after every answer.

        `events`: dictionaries by column name, FinancialEvent messages, a Polars frame or an Arrow table.
        Raises SubmitError, SubmitTimeout, or SubmitFailed for what no repeating can mend.
        """
        summary, until_s = SubmitSummary(), time.monotonic() + self._deadline_s
        under_way: deque[_UnderWay] = deque()
        try:
            for piece in pieces(events, self._rows_per_request):
                if len(under_way) >= self._under_way_max:
                    self._settle(under_way.popleft(), until_s, summary, progress)
                under_way.append(self._send(piece, until_s))
            while under_way:
                self._settle(under_way.popleft(), until_s, summary, progress)
        finally:
            for left in under_way:
                left.call.cancel()
        return summary

    def status(self, timeout_s: float = ANSWER_TIMEOUT_S) -> v1.StatusResponse:
        """How far the shards have come, and whether the gateway takes events. Raises NoAnswer."""
        try:
            return self._stub.Status(v1.StatusRequest(), timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            raise NoAnswer(f"no gateway has answered within {timeout_s:g} s ({error.code().name.lower()})") from None

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def _send(self, piece: Piece, until_s: float) -> _UnderWay:
        timeout_s = max(min(ANSWER_TIMEOUT_S, until_s - time.monotonic()), 0.001)
        return _UnderWay(piece, self._stub.Submit.future(piece.request, timeout=timeout_s))

    def _settle(self, sent: _UnderWay, until_s: float, summary: SubmitSummary, progress: Progress | None) -> None:
        attempt = 0
        while True:
            try:
                response = sent.call.result()
                break
            except grpc.RpcError as error:
                delay_s, why = _delay_s(error, sent.piece, attempt), f"{error.code().name.lower()}: {error.details()}"
            if time.monotonic() + delay_s >= until_s:
                unanswered = f"row {sent.piece.start} and later ones were not answered in time"
                raise SubmitTimeout(f"{unanswered}; the last try ended with {why}", summary)
            time.sleep(delay_s)
            attempt += 1
            sent = self._send(sent.piece, until_s)
        _add(summary, sent.piece, response)
        if progress:
            progress(summary.rows)


def _delay_s(error: grpc.RpcError, piece: Piece, attempt: int) -> float:
    """How long to wait before sending again; raises what is not worth repeating."""
    details = _details(error)
    asked_s = details.retry.retry_delay.ToMilliseconds() / 1000 if details.retry else 0.0
    if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
        raise _as_submit_error(error, details, piece) from None
    # Without a delay a full resource is gRPC's own: a message that is too large today is so tomorrow.
    full = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and details.retry
    if not full and error.code() not in _PASSING:
        raise SubmitFailed(error.code().name.lower(), error.details() or "") from None
    return asked_s + random.uniform(0, min(BACKOFF_S * 2**attempt, BACKOFF_S_MAX))


class _Details(NamedTuple):
    retry: error_details_pb2.RetryInfo | None
    violation: error_details_pb2.BadRequest.FieldViolation | None


def _details(error: grpc.RpcError) -> _Details:
    status = rpc_status.from_call(error)
    retry, bad = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    given = status.details if status else []
    retries = [detail for detail in given if detail.Unpack(retry)]
    violations = [bad.field_violations[0] for detail in given if detail.Unpack(bad)]
    return _Details(retry if retries else None, violations[0] if violations else None)


def _as_submit_error(error: grpc.RpcError, details: _Details, piece: Piece) -> SubmitError:
    if details.violation is None:
        return SubmitError(None, "", error.details())
    place = f"rows {piece.start} to {piece.start + piece.rows - 1}"
    message = f"{details.violation.description} ({place})"
    return SubmitError(None, details.violation.field, message, details.violation.reason)


def _add(summary: SubmitSummary, piece: Piece, response: v1.SubmitResponse) -> None:
    summary.accepted += response.accepted
    summary.duplicate += response.duplicate
    summary.rejected += response.rejected
    summary.results_truncated |= response.results_truncated
    if response.rejected:
        summary.results += [
            Rejected(piece.start + given.row, given.event_id, given.code, given.column, given.message)
            for given in response.results
            if given.status == v1.EVENT_STATUS_REJECTED
        ]
    if response.HasField("durability"):
        summary.durability = _weaker(summary.durability, response.durability.level)
        summary.positions += [(at.shard, at.position, at.rows) for at in response.durability.positions]


_LEVEL_PREFIX = "DURABILITY_LEVEL_"


def _weaker(known: str, level: int) -> str:
    levels = [level, v1.DurabilityLevel.Value(_LEVEL_PREFIX + known.upper())] if known else [level]
    return v1.DurabilityLevel.Name(min(levels)).removeprefix(_LEVEL_PREFIX).lower()
