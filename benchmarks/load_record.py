"""The client's own record of a load: what it sent, what was answered, what was refused, line by line as JSON.

Owns its form and reading it. Never sends and never compares.
"""

from pathlib import Path
from typing import NamedTuple

import msgspec


class Noted(msgspec.Struct):
    """What the client had counted at one moment: rows, calls, seconds."""

    at_s: float
    users: int
    offered: int
    accepted: int
    duplicate: int
    rejected: int
    refused_calls: int
    asked_s: float
    broken_calls: int
    under_way: int


class Begun(msgspec.Struct):
    """What the client sends: the workload by which each request's rows are known."""

    events: int
    seed: int
    frame_rows: int


class Asked(msgspec.Struct):
    """A request that is sent."""

    asked: int


class Answered(msgspec.Struct):
    """A request that was answered."""

    answered: int
    accepted: int
    duplicate: int


class Client(NamedTuple):
    """The client's own record."""

    begun: Begun | None
    noted: list[Noted]
    asked: list[Asked]
    answered: list[Answered]


def read(record: Path) -> Client:
    """The record as far as it is written; a last line that is not whole is left out."""
    begun, noted, asked, answered = None, [], [], []
    *lines, _ = record.read_bytes().split(b"\n")
    for line in lines:
        if line.startswith(b'{"answered"'):
            answered.append(msgspec.json.decode(line, type=Answered))
        elif line.startswith(b'{"asked":'):
            asked.append(msgspec.json.decode(line, type=Asked))
        elif line.startswith(b'{"events"'):
            begun = msgspec.json.decode(line, type=Begun)
        else:
            noted.append(msgspec.json.decode(line, type=Noted))
    return Client(begun, noted, asked, answered)
