"""Protobuf rows: to one gateway process, ready made and through the public client, which sends them by columns.

The limit is a gRPC echo of the same requests; for the public client it is the gateway with ready-made requests.
"""

import time
from collections.abc import Iterator

import penstock

from benchmarks import parts, prepared, raw, workload
from benchmarks.bench_gateway import CORES, through_gateway
from benchmarks.measure import Options, Result, percentiles_ms
from benchmarks.producer import Producer

ROWS_PER_REQUEST = 2_000


def results(options: Options) -> Iterator[Result]:
    """The gateway, then the client."""
    load = workload.month_end(prepared.ROWS_OF_MESSAGES * 2, options.seed)
    requests = prepared.row_requests(load, ROWS_PER_REQUEST)
    measured = through_gateway(requests, Producer.send, options.seconds / 2)
    limit = raw.grpc_echo(requests, ROWS_PER_REQUEST, options.seconds / 4)
    sent = measured.sent
    ready_made = round(sent.events / sent.seconds)
    common = {"name": "rows", "frame_rows": ROWS_PER_REQUEST, "fsync": parts.FSYNC, "cores": CORES}
    common["composition"] = load.composition
    yield Result(
        case="ready-made requests",
        events_per_s=ready_made,
        **percentiles_ms(sent.latencies_s),
        limit=limit.name,
        limit_events_per_s=limit.events_per_s,
        ns_per_event=measured.cpu_ns(),
        **common,
    )
    yield Result(
        case="public client, one thread",
        events_per_s=round(_through_client(load, options.seconds / 2)),
        limit="ready-made requests",
        limit_events_per_s=ready_made,
        **common,
    )


def _through_client(load: workload.Workload, seconds: float) -> float:
    """Events a second through `penstock.Client` from messages that are made already; new ids are not its time."""
    events = prepared.messages(load)
    with parts.gateway() as (target, _), penstock.Client(target) as client:
        client.submit(events[:ROWS_PER_REQUEST])
        spent_s, taken, number = 0.0, 0, 0
        while spent_s < seconds:
            number += 1
            renamed, began = _renamed(events, number), time.monotonic()
            taken += client.submit(renamed).rows
            spent_s += time.monotonic() - began
        return taken / spent_s


def _renamed(events: list, number: int) -> list:
    for event in events:
        event.event_id = f"~{number:03d}~{event.event_id[len(workload.MARK) :]}"
    return events
