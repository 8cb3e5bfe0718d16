"""X12 files for tests, invented: transaction sets with their counts, and envelopes round them in any separators."""

from pathlib import Path

import polars as pl

from adapters.sources import x12
from adapters.sources.source import Source, SourceSettings
from adapters.sources.tokens import token
from runtime.schema import COLUMNS

KEY = b"a key for the tests"
SETTINGS = SourceSettings(entity="north", token_key=KEY)
SEPARATORS = "*:~"
_GROUPS = {"835": "HP", "837": "HC", "277": "HN", "999": "FA"}


def transaction(code: str, *segments: str, control: str = "0001", count: int | None = None) -> str:
    """One set with its ST and SE; `count` is a wrong SE01."""
    body = "".join(f"{segment}~" for segment in segments)
    return f"ST*{code}*{control}~{body}SE*{len(segments) + 2 if count is None else count}*{control}~"


def interchange(*sets: str, number: int = 1, version: str = "005010X221A1", separators: str = SEPARATORS) -> str:
    """One interchange with one group. `number` is its control number and its group's."""
    code = _GROUPS.get(sets[0].split("*")[1], "XX") if sets else "HP"
    isa = (
        f"ISA*00*          *00*          *ZZ*PAYER          *ZZ*PROVIDER       *240105*0900*^*00501*{number:09}*0*P*:~"
    )
    gs = f"GS*{code}*PAYER*PROVIDER*20240105*0900*{number}*X*{version}~"
    text = f"{isa}{gs}{''.join(sets)}GE*{len(sets)}*{number}~IEA*1*{number:09}~"
    return text.translate(str.maketrans(SEPARATORS, separators))


def remittance(
    paid: str, *segments: str, trace: str = "TRACE1", control: str = "0001", paid_on: str = "20240105"
) -> str:
    """One 835 that pays `paid`; zero is a notice without payment."""
    handling, method = ("H", "NON") if paid == "0" else ("I", "ACH")
    return transaction(
        "835",
        f"BPR*{handling}*{paid}*C*{method}*CCP*01*111000025*DA*99*1512345678**01*222000111*DA*88*{paid_on}",
        f"TRN*1*{trace}*1512345678",
        "DTM*405*20240104",
        "N1*PR*HEALTH PLAN",
        "N1*PE*GENERAL HOSPITAL*XX*1234567893",
        "LX*1",
        *segments,
        control=control,
    )


def claim(number: str, status: str, amounts: str, *adjustments: str) -> list[str]:
    """A claim without lines; `amounts` are CLP03 to CLP05."""
    return [
        f"CLP*{number}*{status}*{amounts}*12*ICN-{number}*11*1",
        *(f"CAS*{adjustment}" for adjustment in adjustments),
    ]


def write(folder: Path, text: str | bytes, name: str = "file.x12") -> Path:
    """A file with this content."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(path: Path, settings: SourceSettings = SETTINGS) -> tuple[pl.DataFrame, Source]:
    """All events of a file in the format that its head shows, and the source that gave them."""
    name = x12.recognise(path.read_bytes()[:4096])
    source = Source(path, x12.FORMATS[name], settings)
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()]), source


def found(source: Source) -> list[tuple[int, int, int, str]]:
    """What was set aside, as plain tuples."""
    return [tuple(place) for place in source.quarantined]


def of_kind(events: pl.DataFrame, kind: str) -> list[dict]:
    """The events of a kind as rows, in order."""
    return events.filter(kind=kind).to_dicts()


def claim_token(number: str) -> str:
    """What a provider's claim number leaves as."""
    return token(number, KEY, "claim")


def payer_claim_token(number: str) -> str:
    """What a payer's claim number leaves as."""
    return token(number, KEY, "payer_claim")
