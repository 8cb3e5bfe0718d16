"""What a gateway answers: receipts, and how they and errors are said in protobuf.

Owns the words. Never decides what becomes of an event, and never repeats a value that a producer sent, but its id.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from penstock.v1 import events_pb2 as v1

from runtime.errors import FrameError, LogRefused, LogUnavailable, Pressure
from runtime.ports import Appended

_LEVELS = {
    "memory": v1.DURABILITY_LEVEL_MEMORY,
    "fsync_everysec": v1.DURABILITY_LEVEL_FSYNC_EVERYSEC,
    "fsync_always": v1.DURABILITY_LEVEL_FSYNC_ALWAYS,
}


class Stored(NamedTuple):
    """Where one caller's events lie: (shard, position, rows)."""

    appended: Appended
    positions: tuple[tuple[int, str, int], ...]


class Receipt(NamedTuple):
    """What became of one caller's events. `rejected` has REJECT_COLUMNS, `duplicates` the rows known already.

    `stored` is None when nothing was new. `retry_after_s` > 0 asks the caller to slow down.
    """

    accepted: int
    duplicates: np.ndarray
    rejected: pl.DataFrame
    stored: Stored | None
    retry_after_s: float


def response(request_id: str, receipt: Receipt) -> v1.SubmitResponse:
    """The answer but for its results."""
    answer = v1.SubmitResponse(
        request_id=request_id,
        accepted=receipt.accepted,
        duplicate=len(receipt.duplicates),
        rejected=receipt.rejected.height,
    )
    if receipt.stored:
        appended, positions = receipt.stored
        answer.durability.level, answer.durability.replicas = _LEVELS[appended.durability], appended.replicas
        for shard, position, rows in positions:
            answer.durability.positions.add(shard=shard, position=position, rows=rows)
    if receipt.retry_after_s:
        answer.retry_after.CopyFrom(_duration(receipt.retry_after_s))
    return answer


def other_results(duplicates: dict[int, str], rejected: pl.DataFrame) -> dict[int, v1.EventResult]:
    """Results of the events that were not accepted, by row."""
    known = {
        row: v1.EventResult(row=row, event_id=event_id, status=v1.EVENT_STATUS_DUPLICATE)
        for row, event_id in duplicates.items()
    }
    refused = {
        given["row"]: v1.EventResult(status=v1.EVENT_STATUS_REJECTED, **given)
        for given in rejected.iter_rows(named=True)
    }
    return known | refused


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def problem(error: BaseException, retry_after_s: float) -> status_pb2.Status | None:
    """What a deliberate error is to a client; None for any other."""
    retry = error_details_pb2.RetryInfo(retry_delay=_duration(getattr(error, "retry_after_s", retry_after_s)))
    match error:
        case FrameError(code=code, column=column, message=message):
            violation = error_details_pb2.BadRequest.FieldViolation(field=column, description=message, reason=code)
            return _status(
                code_pb2.INVALID_ARGUMENT, str(error), error_details_pb2.BadRequest(field_violations=[violation])
            )
        case Pressure() | LogRefused():
            return _status(code_pb2.RESOURCE_EXHAUSTED, f"nothing was stored: {error}", retry)
        case LogUnavailable():
            return _status(code_pb2.UNAVAILABLE, f"may be stored, retry with the same ids: {error}", retry)
    return None


def _status(code: int, text: str, *details: Message) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=text)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def incident(number: str) -> status_pb2.Status:
    """What any other error is to a client."""
    return _status(code_pb2.INTERNAL, f"a fault of Penstock, incident {number}")
