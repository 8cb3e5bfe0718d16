"""What a gateway answers: receipts, and how they and errors are said in protobuf.

Owns the words. Never decides what becomes of an event, and never repeats a value that a producer sent, but its id.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from penstock.v1 import events_pb2 as v1

from runtime.errors import FrameError, LogRefused, LogUnavailable, Pressure
from runtime.limits import EVENT_ID_CHARS_MAX, REJECTS_REPORTED_MAX
from runtime.ports import Appended, ShardLag

_LEVELS = {
    "memory": v1.DURABILITY_LEVEL_MEMORY,
    "fsync_everysec": v1.DURABILITY_LEVEL_FSYNC_EVERYSEC,
    "fsync_always": v1.DURABILITY_LEVEL_FSYNC_ALWAYS,
}


class Stored(NamedTuple):
    """Where events lie: the append that holds them, its entries' shards, and for each event the index of its entry."""

    appended: Appended
    shards: tuple[int, ...]
    entry_of_row: np.ndarray

    def positions(self) -> list[tuple[int, str, int]]:
        """(shard, position, rows) of each entry that holds some of the events."""
        rows = np.bincount(self.entry_of_row, minlength=len(self.shards)).tolist()
        return [at for at in zip(self.shards, self.appended.positions, rows, strict=True) if at[2]]


class Receipt(NamedTuple):
    """What became of events, by their row numbers: stored now, known already, and refused (REJECT_COLUMNS).

    `stored` says where the accepted ones lie, in their order, and is None when there are none. `retry_after_s` > 0 asks
    the caller to slow down.
    """

    accepted: np.ndarray
    duplicates: np.ndarray
    rejected: pl.DataFrame
    stored: Stored | None
    retry_after_s: float

    def part(self, start: int, end: int) -> "Receipt":
        """The receipt for rows [start, end) alone, numbered from 0."""
        low, high = np.searchsorted(self.accepted, (start, end)).tolist()
        first, last = np.searchsorted(self.duplicates, (start, end)).tolist()
        stored = self.stored._replace(entry_of_row=self.stored.entry_of_row[low:high]) if high > low else None
        rejected = self.rejected
        if rejected.height:
            rejected = rejected.filter(pl.col("row").is_between(start, end - 1)).with_columns(pl.col("row") - start)
        accepted, duplicates = self.accepted[low:high] - start, self.duplicates[first:last] - start
        return Receipt(accepted, duplicates, rejected, stored, self.retry_after_s if stored else 0.0)


def arrow_response(request_id: str, event_ids: pa.Array, receipt: Receipt) -> v1.SubmitResponse:
    """The answer to a frame: results of what was not accepted, up to a limit."""
    answer = _response(request_id, receipt)
    duplicates = receipt.duplicates[:REJECTS_REPORTED_MAX]
    known = dict(zip(duplicates.tolist(), event_ids.take(pa.array(duplicates)).to_pylist(), strict=True))
    others = _others(known, receipt.rejected.head(REJECTS_REPORTED_MAX))
    answer.results.extend(others[row] for row in sorted(others)[:REJECTS_REPORTED_MAX])
    answer.results_truncated = len(answer.results) < answer.duplicate + answer.rejected
    return answer


def rows_response(request_id: str, events: Sequence[v1.FinancialEvent], receipt: Receipt) -> v1.SubmitResponse:
    """The answer to rows: a result for each."""
    answer = _response(request_id, receipt)
    others = _others({row: events[row].event_id for row in receipt.duplicates.tolist()}, receipt.rejected)
    add = answer.results.add
    for row, event in enumerate(events):
        result = add()  # setting fields one by one takes half as long as naming them all here
        if row in others:
            result.CopyFrom(others[row])
            result.event_id = event.event_id[:EVENT_ID_CHARS_MAX]
        else:
            result.row, result.event_id, result.status = row, event.event_id, v1.EVENT_STATUS_ACCEPTED
    return answer


def _response(request_id: str, receipt: Receipt) -> v1.SubmitResponse:
    answer = v1.SubmitResponse(
        request_id=request_id,
        accepted=len(receipt.accepted),
        duplicate=len(receipt.duplicates),
        rejected=receipt.rejected.height,
    )
    if receipt.stored:
        appended = receipt.stored.appended
        answer.durability.level, answer.durability.replicas = _LEVELS[appended.durability], appended.replicas
        for shard, position, rows in receipt.stored.positions():
            answer.durability.positions.add(shard=shard, position=position, rows=rows)
    if receipt.retry_after_s:
        answer.retry_after.CopyFrom(_duration(receipt.retry_after_s))
    return answer


def _others(duplicates: dict[int, str], rejected: pl.DataFrame) -> dict[int, v1.EventResult]:
    """Results of the events that were not accepted, by row."""
    known = {
        row: v1.EventResult(row=row, event_id=event_id, status=v1.EVENT_STATUS_DUPLICATE)
        for row, event_id in duplicates.items()
    }
    if rejected.is_empty():  # as nearly always: iterating costs more than the answer
        return known
    refused = {
        given["row"]: v1.EventResult(status=v1.EVENT_STATUS_REJECTED, **given)
        for given in rejected.iter_rows(named=True)
    }
    return known | refused


def shard_states(lag: Mapping[int, ShardLag], paused: frozenset[int]) -> list[v1.ShardStatus]:
    """How far each shard has come."""
    return [
        v1.ShardStatus(
            shard=shard,
            appended=given.appended,
            committed=given.committed,
            waiting=given.waiting,
            held=given.held,
            paused=shard in paused,
        )
        for shard, given in sorted(lag.items())
    ]


def status_response(shards: list[v1.ShardStatus], refusal: str, inflight_bytes: int) -> v1.StatusResponse:
    """The present state. A single paused shard refuses the requests that touch it."""
    reason = refusal or ("a shard lags behind" if any(shard.paused for shard in shards) else "")
    return v1.StatusResponse(
        shards=shards,
        inflight_bytes=inflight_bytes,
        refusing=bool(reason),
        reason=reason,
        version=version("penstock"),
    )


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
