"""One gateway process: Arrow frames over gRPC, validated, split by shard, appended to a log with fsync on every write.

The client runs beside it and shares the cores. The limit is the log's own append of the same rows.
"""

import asyncio
from collections.abc import Iterator

from benchmarks import bench_log, parts, prepared, workload
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.producer import UNDER_WAY, Producer, Sent

EVENTS = 600_000
FRAME_ROWS = (4_096, 16_384, 65_536)
WARM_UP_S = 1.0
CORES = 4


def results(options: Options) -> Iterator[Result]:
    """One result for each frame size."""
    load, config = workload.month_end(EVENTS, options.seed), workload.configuration()
    rows = prepared.stamped(load.rows, config)
    for frame_rows in FRAME_ROWS:
        seconds = options.seconds / len(FRAME_ROWS)
        requests = prepared.arrow_requests(load, frame_rows)
        sent = measured(requests, seconds)
        raw = next(bench_log.appends(prepared.entries(rows, frame_rows), seconds / 2, load))
        yield Result(
            name="gateway",
            case="Arrow frames",
            events_per_s=round(sent.events / sent.seconds),
            **percentiles_ms(sent.latencies_s),
            frame_rows=frame_rows,
            fsync=parts.FSYNC,
            cores=CORES,
            limit="log append",
            limit_events_per_s=raw.events_per_s,
            note=f"{round(sum(map(len, requests)) / len(requests) / frame_rows)} bytes an event on the wire, "
            f"{UNDER_WAY} calls under way",
            composition=load.composition,
        )


def measured(requests: list[bytes], seconds: float) -> Sent:
    """What one gateway answers to these requests, sent in rounds."""
    with parts.gateway() as (target, _):
        return asyncio.run(_send(target, requests, seconds))


async def _send(target: str, requests: list[bytes], seconds: float) -> Sent:
    rounds = prepared.in_rounds(requests)
    for duration in (WARM_UP_S, seconds):
        producer = Producer(target)
        sent = await producer.send(rounds, duration)
        await producer.close()
    return sent
