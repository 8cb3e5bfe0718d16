"""X12 835 files: how fast a file is read into canonical events on one core, and that memory does not grow with it.

A small file and a large one, made for this and removed. Reading is all that is timed: what a gateway makes of the
events is measured elsewhere. The limit is splitting the same bytes at their segment terminators.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from adapters.sources import open_source
from benchmarks import parts
from benchmarks.measure import Options, Result, percentiles_ms

CLAIMS_PER_REMITTANCE = 100
SMALL_BYTES, LARGE_BYTES = 16 * 2**20, 2**30
SHORT_S = 5.0  # asked for less than this, the large file is a sixteenth: a trial, not a measurement
TOKEN_KEY = b"key of a benchmark"
_NUMBER = "0000000"  # stands in a remittance for its own number
_HEAD = (
    "ISA*00*          *00*          *ZZ*PAYER          *ZZ*PROVIDER       *261030*1200*^*00501*000000001*0*P*:~\n"
    "GS*HP*PAYER*PROVIDER*20261030*1200*1*X*005010X221A1~\n"
)
_CLAIM = (
    "CLP*C{remit}{claim:03}*1*400*240*40*12*K{remit}{claim:03}*11*1~\n"
    "NM1*QC*1*PATIENT*A****MI*M{claim:03}~\n"
    "DTM*232*20261020~\n"
    "SVC*HC:99213*200*120**1~\nDTM*472*20261020~\nCAS*CO*45*60~\nCAS*PR*1*20~\n"
    "SVC*HC:99214*200*120**1~\nDTM*472*20261020~\nCAS*CO*45*60~\nCAS*PR*2*20~\n"
)


class Reading(NamedTuple):
    """What reading a file took: seconds and bytes resident after each frame, and what came out."""

    seconds: float
    frames_s: list[float]
    resident_bytes: list[int]
    claims: int
    events: int
    faults: int


def results(options: Options) -> Iterator[Result]:
    """The small file, then the large one."""
    large = LARGE_BYTES if options.seconds >= SHORT_S else LARGE_BYTES // 16
    for size in (SMALL_BYTES, large):
        with parts.folder() as place:
            path = place / "remittances.835"
            _make(path, size)
            limit_s = _split_s(path)
            yield _result(size, _read(path), limit_s)


def _result(size: int, read: Reading, limit_s: float) -> Result:
    assert not read.faults, f"{read.faults} rows of a sound file could not be read"
    resident = np.array(read.resident_bytes) / 2**20
    early = resident[: max(len(resident) // 10, 1)].max()
    return Result(
        name="files",
        case=f"835, {size / 2**20:,.0f} MiB",
        events_per_s=round(read.events / read.seconds),
        **percentiles_ms(read.frames_s),
        frame_rows=round(read.events / len(read.frames_s)),
        fsync="none",
        cores=1,
        limit="split the bytes into segments",
        limit_events_per_s=round(read.events / limit_s),
        figures={
            "claims_per_s": round(read.claims / read.seconds),
            "resident_mib_max": round(resident.max()),
            "resident_mib_after_a_tenth": round(early),
        },
        note=f"{read.claims:,} claims, {read.events:,} events, in {read.seconds:.1f} s",
    )


def _make(path: Path, size: int) -> None:
    """A file of about this size: balanced remittances that differ in their numbers."""
    remittance = _remittance()
    count = max(size // len(remittance), 1)
    number = _NUMBER.encode()
    with path.open("wb") as file:
        file.write(_HEAD.encode())
        for i in range(count):
            file.write(remittance.replace(number, b"%07d" % (i + 1)))
        file.write(f"GE*{count}*1~\nIEA*1*000000001~\n".encode())


def _remittance() -> bytes:
    claims = "".join(_CLAIM.format(remit=_NUMBER, claim=i) for i in range(CLAIMS_PER_REMITTANCE))
    body = (
        f"ST*835*{_NUMBER}~\n"
        f"BPR*I*{240 * CLAIMS_PER_REMITTANCE}*C*ACH*CCP*01*111000025*DA*1*1999999999**01*111000025*DA*2*20261030~\n"
        f"TRN*1*T{_NUMBER}*1999999999~\nDTM*405*20261030~\n"
        "N1*PR*PAYER~\nN3*1 STREET~\nN4*TOWN*NC*27000~\nN1*PE*PROVIDER*XX*1234567893~\nLX*1~\n" + claims
    )
    return (body + f"SE*{body.count('~') + 1}*{_NUMBER}~\n").encode()


def _read(path: Path) -> Reading:
    source = open_source(path, "835", token_key=TOKEN_KEY)
    process, began = psutil.Process(), time.perf_counter()
    frames_s, resident, last = [], [], began
    for _ in source.frames():
        now = time.perf_counter()
        frames_s.append(now - last)
        resident.append(process.memory_info().rss)
        last = now
    total = source.total()
    set_aside = total.rejected + len(source.quarantined)
    return Reading(last - began, frames_s, resident, total.figures["claims"], total.events, set_aside)


def _split_s(path: Path) -> float:
    began, left = time.perf_counter(), b""
    with path.open("rb") as file:
        while block := file.read(2**20):
            *_, left = (left + block).split(b"~")
    return time.perf_counter() - began
