"""One event a call, offered at a fixed rate to one gateway process: how long an acknowledgement takes.

Latency counts from the moment at which a call was meant to start, so a slow answer can't hide behind a late call.
"""

import asyncio
from collections.abc import Iterator

from benchmarks import parts, prepared, workload
from benchmarks.bench_gateway import CORES, WARM_UP_S
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.producer import Producer, Sent

OFFERED_PER_S = 1_000


def results(options: Options) -> Iterator[Result]:
    """At the offered rate."""
    load = workload.month_end(prepared.ROWS_OF_MESSAGES * 2, options.seed)
    with parts.gateway() as (target, _):
        sent = asyncio.run(_offer(target, prepared.row_requests(load, 1), options.seconds))
    yield Result(
        name="single",
        case=f"{OFFERED_PER_S:,} calls/s offered",
        events_per_s=round(sent.events / sent.seconds),
        **percentiles_ms(sent.latencies_s),
        frame_rows=1,
        fsync=parts.FSYNC,
        cores=CORES,
        composition=load.composition,
    )


async def _offer(target: str, requests: list[bytes], seconds: float) -> Sent:
    rounds = prepared.in_rounds(requests)
    for duration in (WARM_UP_S, seconds):
        producer = Producer(target)
        sent = await producer.offer(rounds, OFFERED_PER_S, duration)
        await producer.close()
    return sent
