"""One event a call, offered at a fixed rate to one gateway process: how long an acknowledgement takes.

Latency counts from the moment at which a call was meant to start, so a slow answer can't hide behind a late call.
Beside it, at the same rate: a gRPC server that answers at once, and appends of one event each to the log.
"""

import asyncio
import time
from collections.abc import Iterator

import uvloop

from adapters.log.redis_streams import RedisLogWriter
from benchmarks import parts, prepared, workload
from benchmarks.bench_gateway import CORES, WARM_UP_S, Measured, through, through_gateway
from benchmarks.echo import echo
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.producer import Producer, Sent
from runtime.ports import LogEntry

OFFERED_PER_S = 1_000
CASE = f"{OFFERED_PER_S:,} calls/s offered"


def results(options: Options) -> Iterator[Result]:
    """At the offered rate: the gateway, gRPC alone, the log alone."""
    load = workload.month_end(prepared.ROWS_OF_MESSAGES * 2, options.seed)
    requests = prepared.row_requests(load, 1)
    yield _result(CASE, through_gateway(requests, _offer, options.seconds), load, parts.FSYNC)
    yield _result(f"{CASE}, gRPC alone", _through_echo(requests, options.seconds / 2), load, "none")
    entries = prepared.entries(prepared.stamped(load.rows.head(OFFERED_PER_S), workload.configuration()), 1)
    with parts.log() as url:
        latencies = uvloop.run(_append(url, entries, options.seconds / 2))
    appended = Measured(Sent(len(latencies), 0, 0, latencies, 0, options.seconds / 2), {})
    yield _result(f"{CASE}, log alone", appended, load, parts.FSYNC)


def _result(case: str, measured: Measured, load: workload.Workload, fsync: str) -> Result:
    return Result(
        name="single",
        case=case,
        events_per_s=round(measured.sent.events / measured.sent.seconds),
        **percentiles_ms(measured.sent.latencies_s),
        frame_rows=1,
        fsync=fsync,
        cores=CORES,
        ns_per_event=measured.cpu_ns(),
        composition=load.composition,
    )


async def _offer(producer: Producer, rounds: Iterator[bytes], seconds: float) -> Sent:
    return await producer.offer(rounds, OFFERED_PER_S, seconds)


def _through_echo(requests: list[bytes], seconds: float) -> Measured:
    with echo() as target:
        return uvloop.run(through(target, requests, _offer, seconds))


async def _append(url: str, entries: list[LogEntry], seconds: float) -> list[float]:
    writer, latencies = RedisLogWriter(url), []

    async def append(number: int, due: float) -> None:
        await writer.append([entries[number % len(entries)]])
        latencies.append(time.monotonic() - due)

    for duration in (WARM_UP_S, seconds):
        latencies.clear()
        began, appends = time.monotonic(), []
        for number in range(int(OFFERED_PER_S * duration)):
            due = began + number / OFFERED_PER_S
            await asyncio.sleep(max(due - time.monotonic(), 0))
            appends.append(asyncio.create_task(append(number, due)))
        await asyncio.gather(*appends)
    await writer.close()
    return latencies
