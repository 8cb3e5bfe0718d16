"""What every source gives: canonical frames, a control total, and the rows it could not read.

Owns the counting. Never decides whether an event is valid (the gateway does) and never keeps more than one chunk.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl

from runtime import limits
from runtime.schema import COLUMNS

DEFAULT_ROWS_MAX = 50_000

TotalKey = tuple[str, str, str]  # entity, currency, kind


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader is told besides the path. Readers use what they need.

    `payees`: entity and facility ("" for none) of whom a number (NPI or TIN) is that payers pay to; what is paid to
    others belongs to `entity`.
    """

    entity: str = "synthea"
    currency: str = "USD"
    token_key: bytes = b""
    rows_max: int = DEFAULT_ROWS_MAX
    payees: Mapping[str, tuple[str, str]] = {}


class SourceFault(NamedTuple):
    """A row that is no event: where it lies and what is wrong there, never what it holds."""

    line: int
    column: str
    code: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}, column {self.column}" if self.column else f"line {self.line}"
        return f"{place}: {self.code}: {self.message}"


class KindTotal(NamedTuple):
    """How many events, the sum of their signed amounts, and of their sizes (what both sides of the books turn over)."""

    events: int = 0
    amount_minor: int = 0
    turnover_minor: int = 0

    def plus(self, more: "KindTotal") -> "KindTotal":
        """This total and another one."""
        return KindTotal(*(ours + theirs for ours, theirs in zip(self, more, strict=True)))


class Quarantined(NamedTuple):
    """A part of a file that is set aside whole: which transaction (counted from 1), where in it, and why. No value."""

    transaction: int
    segment: int
    element: int
    code: str


class Findings:
    """What is set aside: the first finding of every part, which its exception is made of, and of further ones as many
    as an answer may hold."""

    def __init__(self) -> None:
        self.kept: list[Quarantined] = []
        self._parts: set[int] = set()

    def add(self, findings: Iterable[Quarantined]) -> None:
        """Take what was found next in the file."""
        for finding in findings:
            if finding.transaction not in self._parts or len(self.kept) < limits.REJECTS_REPORTED_MAX:
                self._parts.add(finding.transaction)
                self.kept.append(finding)


class ControlTotal(NamedTuple):
    """The source's own count. rows = events + rejected; `sums` is by entity, currency and kind.

    `figures` are the format's own counts and sums over all that could be read, quarantined or not.
    """

    rows: int
    events: int
    rejected: int
    sums: Mapping[TotalKey, KindTotal]
    figures: Mapping[str, int] = {}

    def by_kind(self) -> dict[str, KindTotal]:
        """Sums over entities, for a source of one currency."""
        kinds: dict[str, KindTotal] = {}
        for (_, _, kind), total in self.sums.items():
            kinds[kind] = kinds.get(kind, KindTotal()).plus(total)
        return kinds


class Chunk(NamedTuple):
    """A part of a source: its events in canonical columns, the rows that are none, what is set aside, and figures."""

    frame: pl.DataFrame
    faults: list[SourceFault]
    quarantined: Sequence[Quarantined] = ()
    figures: Mapping[str, int] = {}


Reader = Callable[[Path, SourceSettings], Iterator[Chunk]]


class Tally:
    """Adds up what a source hands out."""

    def __init__(self) -> None:
        self._rejected = 0
        self._sums: dict[TotalKey, KindTotal] = {}
        self._figures: dict[str, int] = {}

    def add(self, frame: pl.DataFrame, rejected: int = 0) -> None:
        """Count a frame of events, and rows that were refused beside it."""
        self._rejected += rejected
        amount = pl.col("amount_minor")
        summed = frame.group_by("entity", "currency", "kind").agg(
            pl.len(), amount.sum().alias("sum"), amount.abs().sum().alias("turnover")
        )
        for *key, events, amount_minor, turnover_minor in summed.iter_rows():
            self.add_sum(tuple(key), KindTotal(events, amount_minor, turnover_minor))

    def add_sum(self, key: TotalKey, more: KindTotal) -> None:
        """Add to one sum."""
        self._sums[key] = self._sums.get(key, KindTotal()).plus(more)

    def add_figures(self, figures: Mapping[str, int]) -> None:
        """Add a format's own counts and sums."""
        for name, figure in figures.items():
            self._figures[name] = self._figures.get(name, 0) + figure

    def total(self) -> ControlTotal:
        """The count so far."""
        events = sum(kind.events for kind in self._sums.values())
        return ControlTotal(events + self._rejected, events, self._rejected, dict(self._sums), dict(self._figures))


class Source:
    """One input, read as often as `frames` is called. `faults`, `quarantined`, `total` tell of the newest reading."""

    def __init__(self, path: Path, read: Reader, settings: SourceSettings, format: str = "") -> None:
        self._path, self._read, self._settings = path, read, settings
        self.format = format
        self._tally = Tally()
        self.faults: list[SourceFault] = []
        self._findings = Findings()

    @property
    def quarantined(self) -> list[Quarantined]:
        """What the newest reading has set aside."""
        return self._findings.kept

    def frames(self) -> Iterator[pl.DataFrame]:
        """Canonical frames of at most `rows_max` rows, none of them empty. Raises FrameError."""
        self._tally, self.faults, self._findings = Tally(), [], Findings()
        for frame, faults, quarantined, figures in self._read(self._path, self._settings):
            self._tally.add(frame, len(faults))
            self._tally.add_figures(figures)
            self.faults += faults[: limits.REJECTS_REPORTED_MAX - len(self.faults)]
            self._findings.add(quarantined)
            if not frame.is_empty():
                yield frame

    def total(self) -> ControlTotal:
        """The control total of what has been read; whole once `frames` has ended."""
        return self._tally.total()


class RowTest(NamedTuple):
    """`fails` is true for a row with this fault; `column` names the place in the source's own words."""

    fails: pl.Expr
    column: str
    code: str
    message: str


def divide(rows: pl.DataFrame, tests: list[RowTest]) -> tuple[pl.DataFrame, list[SourceFault]]:
    """Part the good rows from the faults; a row's first failing test names its fault. Needs a column `line`."""
    first = pl.coalesce([pl.when(test.fails).then(pl.lit(i, pl.Int16())) for i, test in enumerate(tests)])
    tested = rows.with_columns(first.alias("_test"))
    bad = tested.filter(pl.col("_test").is_not_null()).select("line", "_test")
    faults = [SourceFault(line, *tests[number][1:]) for line, number in bad.iter_rows()]
    return tested.filter(pl.col("_test").is_null()).drop("_test"), faults


def canonical(frame: pl.DataFrame, **columns: pl.Expr) -> pl.DataFrame:
    """Select the canonical columns by name; those not given are null."""
    empty = {name: pl.lit(None) for name in COLUMNS if name not in columns}
    return frame.select((columns | empty)[name].cast(dtype).alias(name) for name, dtype in COLUMNS.items())
