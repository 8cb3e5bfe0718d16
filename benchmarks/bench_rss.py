"""Whether a Penstock grows while it works: the whole way at a modest rate, for many minutes.

Actors on real Ray, the log, and an ERP double that keeps up, which is not looked at. What each process holds (RSS) is
read again and again; the first part of the time does not count, as caches and allocators fill then. A straight line
through the rest says how much it grows. What a worker remembers for ever (ids and their digests) is growth by design
and has a goal of its own, so growth is told by the event. Draws benchmarks/out/rss.png. Needs the extra `bench`.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import psutil

from actors.cli.installation import Installation
from benchmarks import measure, parts, prepared, workload
from benchmarks.bench_end_to_end import drain
from benchmarks.bench_memory import GOALS
from benchmarks.erp_double import erp_double
from benchmarks.measure import Options, Result
from benchmarks.plots import Panel, Span, write
from benchmarks.producer import Producer, Sent
from benchmarks.watching import Watch, pids

PLOT = measure.ROOT / "benchmarks" / "out" / "rss"
ERP = "xero"
EVENTS, FRAME_ROWS, EVENTS_PER_S = 400_000, 1_000, 2_000
SETTLING_PART, EDGE_PART = 0.25, 0.1  # of the time: what does not count; what begin and end are the medians of
SAMPLES, SAMPLE_S_MIN = 900, 0.5
ALL = "all processes"


class Samples:
    """What processes held at some moments: bytes by name, seconds since the first."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._began = time.monotonic()
        self.at_s: list[float] = []
        self.bytes: dict[str, list[int]] = {name: [] for name in processes}

    async def follow(self, every_s: float) -> None:
        """Read again and again, until cancelled. psutil.NoSuchProcess when one has ended."""
        while True:
            read = {name: process.memory_info().rss for name, process in self._processes.items()}
            self.at_s.append(time.monotonic() - self._began)
            for name, held in read.items():
                self.bytes[name].append(held)
            await asyncio.sleep(every_s)


def results(options: Options) -> Iterator[Result]:
    """All processes together, then each of them."""
    load, seconds = workload.month_end(EVENTS, options.seed, options.mix), options.minutes * 60
    requests = prepared.arrow_requests(load, FRAME_ROWS)
    with (
        erp_double(ERP) as erp,
        parts.penstock(options.workers, options.gateways, options.shards, erp=erp.section) as installation,
    ):
        samples = Samples(pids(installation))
        sent = asyncio.run(_measure(installation, samples, requests, seconds))
    held = {name: np.array(values) for name, values in samples.bytes.items()}
    held = {ALL: np.sum(list(held.values()), axis=0), **held}
    _draw(np.array(samples.at_s) / 60, held, SETTLING_PART * options.minutes)
    common = {
        "name": "rss",
        "events_per_s": round(sent.events / sent.seconds),
        "frame_rows": FRAME_ROWS,
        "fsync": parts.FSYNC,
        "cores": os.cpu_count() or 1,
        "composition": load.composition,
    }
    for name, values in held.items():
        figures = _figures(np.array(samples.at_s), values, sent.events / sent.seconds)
        yield Result(case=name, figures=figures, note=_note(name, figures, options, sent), **common)


async def _measure(installation: Installation, samples: Samples, requests: list[bytes], seconds: float) -> Sent:
    producer, watch = Producer(installation.record().gateway, installation.config.gateway.count), Watch(installation)
    following = asyncio.create_task(samples.follow(max(seconds / SAMPLES, SAMPLE_S_MIN)))
    try:
        sent = await producer.offer(prepared.in_rounds(requests), EVENTS_PER_S / FRAME_ROWS, seconds)
        if following.done():
            following.result()
        await drain(watch, sent.accepted)
        return sent
    finally:
        following.cancel()
        await producer.close()
        await watch.close()


def _figures(at_s: np.ndarray, held: np.ndarray, events_per_s: float) -> dict[str, float]:
    """Begin and end in MiB, and the slope of a straight line, by the hour and by the event."""
    counted = at_s >= SETTLING_PART * at_s[-1]
    at_s, held = at_s[counted], held[counted]
    edge = max(round(len(held) * EDGE_PART), 1)
    slope = float(np.polyfit(at_s, held, 1)[0])
    return {
        "mib_begin": round(float(np.median(held[:edge])) / 2**20, 1),
        "mib_end": round(float(np.median(held[-edge:])) / 2**20, 1),
        "mib_an_hour": round(slope * 3600 / 2**20, 1),
        "bytes_an_event": round(slope / events_per_s, 1),
    }


def _note(name: str, figures: Mapping[str, float], options: Options, sent: Sent) -> str:
    if name != ALL:
        return ""
    most = GOALS["event id"]
    flat = "flat but for the ids" if figures["bytes_an_event"] <= most else "grows"
    return (
        f"{flat}: an event's id may take {most} bytes; {sent.events:,} events in {options.minutes:g} minutes, of which "
        f"the first {SETTLING_PART:.0%} do not count"
    )


def _draw(minutes: np.ndarray, held: Mapping[str, np.ndarray], settled: float) -> None:
    def panel(title: str, names: Sequence[str]) -> Panel:
        return Panel(title, {name: (minutes, held[name] / 2**20) for name in names}, "MiB")

    panels = [panel("resident memory", [ALL]), panel("of each process", [name for name in held if name != ALL])]
    write(PLOT, panels, "minutes", spans=[Span(0, settled, "settling")])
