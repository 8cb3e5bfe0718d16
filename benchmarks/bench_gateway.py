"""One gateway process: Arrow frames over gRPC, validated, split by shard, appended to a log with fsync on every write.

The client runs beside it and shares the cores. The limit is the slower one of a gRPC echo of the same requests and a
bare append of the same rows to the log.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import psutil
import uvloop

from benchmarks import parts, prepared, raw, workload
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.producer import UNDER_WAY, Producer, Sent
from benchmarks.watching import cpu_s

EVENTS = 600_000
FRAME_ROWS = (4_096, 16_384, 65_536)
WARM_UP_S = 1.0
CORES = 4
Send = Callable[[Producer, Iterator[bytes], float], Awaitable[Sent]]

PROCESSES = {
    "benchmarks.serve": "gateway",
    "benchmarks.echo": "echo",
    "valkey": "log",
    "redis": "log",
}  # by what their command line holds


class Measured(NamedTuple):
    """What was answered, and the CPU time that each kind of process spent on it."""

    sent: Sent
    cpu_s: dict[str, float]

    def cpu_ns(self) -> dict[str, int]:
        """CPU time an event."""
        return {name: round(seconds / max(self.sent.events, 1) * 1e9) for name, seconds in self.cpu_s.items()}


def results(options: Options) -> Iterator[Result]:
    """One result for each frame size."""
    load, config = workload.month_end(EVENTS, options.seed), workload.configuration()
    rows = prepared.stamped(load.rows, config)
    for frame_rows in FRAME_ROWS:
        seconds = options.seconds / len(FRAME_ROWS)
        requests = prepared.arrow_requests(load, frame_rows)
        measured = through_gateway(requests, Producer.send, seconds)
        bodies = [record.body for record in prepared.records(rows, frame_rows)]
        echoed = raw.grpc_echo(requests, frame_rows, seconds / 2)
        appended, _ = raw.log_append_and_read(bodies, frame_rows, seconds / 2)
        limit = raw.slowest([echoed, appended])
        yield Result(
            name="gateway",
            case="Arrow frames",
            events_per_s=round(measured.sent.events / measured.sent.seconds),
            **percentiles_ms(measured.sent.latencies_s),
            frame_rows=frame_rows,
            fsync=parts.FSYNC,
            cores=CORES,
            limit=limit.name,
            limit_events_per_s=limit.events_per_s,
            figures=raw.figures([echoed, appended]),
            ns_per_event=measured.cpu_ns(),
            note=f"{round(sum(map(len, requests)) / len(requests) / frame_rows)} bytes an event on the wire, "
            f"{UNDER_WAY} calls under way; ns an event are CPU time",
            composition=load.composition,
        )


def through_gateway(requests: list[bytes], send: Send, seconds: float) -> Measured:
    """What one gateway process answers to these requests, sent in rounds, after a warm-up."""
    with parts.gateway() as (target, _):
        return uvloop.run(through(target, requests, send, seconds))


async def through(target: str, requests: list[bytes], send: Send, seconds: float) -> Measured:
    """The same of a server that runs there."""
    rounds = prepared.in_rounds(requests)
    for duration in (WARM_UP_S, seconds):
        producer, began = Producer(target), _cpu_s()
        sent = await send(producer, rounds, duration)
        used = _cpu_s()
        await producer.close()
    return Measured(sent, {name: total - began.get(name, 0.0) for name, total in used.items()})


def _cpu_s() -> dict[str, float]:
    return cpu_s(psutil.Process().children(recursive=True), PROCESSES, "other")
