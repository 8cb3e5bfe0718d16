"""The workload in the forms that parts take: log records, gRPC requests, effects; all made before a clock starts.

Owns these forms and the engine that they are meant for. Never measures.
"""

import time
from collections.abc import Iterator, Sequence

import polars as pl
from penstock.packing import arrow_frame
from penstock.v1 import events_pb2 as v1

from adapters import settings
from benchmarks import workload
from runtime.config import Config
from runtime.flow import frames
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.ports import LogEntry, LogRecord
from runtime.routing import splitter
from runtime.schema import COLUMNS, Vocabulary, to_arrow, with_coded_words
from runtime.shard import ShardEngine
from runtime.validation import validate

SHARDS = 4
ROWS_OF_MESSAGES = 20_000  # protobuf rows are made one by one: so many serve for all requests


def rulebook(config: Config) -> Rulebook:
    """The rules in force."""
    return parse_rulebook(settings.load_rulebook_text(config))


def vocabulary(config: Config) -> Vocabulary:
    """What a gateway validates against."""
    return Vocabulary(kinds=rulebook(config).kind_terms(), entities=config.entity_terms())


def engine(config: Config) -> ShardEngine:
    """An engine that knows the mapping."""
    opens_on = config.opens_on()
    made = ShardEngine(rulebook(config), opens_on, config.bounds().open_items_max)
    rows = [row.model_dump(mode="json") for row in config.mapping]
    made.step([_control({"type": "mapping", "version": 1, "rows": rows})])
    return made


def _control(message: dict) -> LogRecord:
    return LogRecord("0-1", "control", 0, frames.encode_control(message))


def stamped(rows: pl.DataFrame, config: Config) -> pl.DataFrame:
    """Rows as a gateway puts them into the log."""
    validated = validate(rows, vocabulary(config), time.time_ns() // 1_000_000)
    assert validated.rejected.is_empty(), validated.rejected.head(3)
    return validated.accepted.drop("row")


def shard_rows(rows: pl.DataFrame, config: Config, shard: int | None) -> pl.DataFrame:
    """The stamped rows of one of SHARDS shards, or of all."""
    stamps = stamped(rows, config)
    return stamps if shard is None else splitter(rulebook(config).scopes(), SHARDS)(stamps)[shard]


def records(rows: pl.DataFrame, frame_rows: int) -> list[LogRecord]:
    """Stamped rows as log records of equal size, encoded as a gateway encodes them."""
    parts = [part for part in rows.iter_slices(frame_rows) if len(part) == frame_rows]
    return [_record(i, part) for i, part in enumerate(parts, 1)]


def shard_records(rows: pl.DataFrame, config: Config, frame_rows: int, shard: int) -> list[LogRecord]:
    """The entries that one of SHARDS shards gets of stamped rows which come to a gateway in frames of this size."""
    split = splitter(rulebook(config).scopes(), SHARDS)
    parts = (split(frame).get(shard) for frame in rows.iter_slices(frame_rows))
    return [_record(i, part) for i, part in enumerate(parts, 1) if part is not None]


def _record(number: int, rows: pl.DataFrame) -> LogRecord:
    return LogRecord(f"{number}-0", "events", len(rows), frames.encode_arrow(with_coded_words(to_arrow(rows))))


def in_steps(entries: Sequence[LogRecord], step_rows: int) -> list[list[LogRecord]]:
    """The entries as a worker reads them that is behind: as many at once as make up so many rows; whole steps only."""
    steps, step, rows = [], [], 0
    for entry in entries:
        if step and rows + entry.rows > step_rows:
            steps.append(step)
            step, rows = [], 0
        step.append(entry)
        rows += entry.rows
    return steps or [step]


def entries(rows: pl.DataFrame, frame_rows: int) -> list[LogEntry]:
    """The same as entries to append, shard by shard in turn."""
    return [LogEntry(i % SHARDS, "events", r.rows, r.body) for i, r in enumerate(records(rows, frame_rows))]


def arrow_requests(load: workload.Workload, frame_rows: int) -> list[bytes]:
    """Submit requests with an Arrow frame each, as the public client makes them, serialised."""
    # Texts lie whole in one buffer of these types, so that a later round can replace the mark in it.
    tables = (part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in load.frames(frame_rows))
    return [v1.SubmitRequest(arrow_frame=arrow_frame(table)).SerializeToString() for table in tables]


def messages(load: workload.Workload) -> list[v1.FinancialEvent]:
    """The first rows as protobuf messages."""
    rows = load.rows.head(ROWS_OF_MESSAGES).with_columns(
        pl.col("occurred_at").cast(pl.Int64()), pl.col("effective_on").cast(pl.String())
    )
    return [_message(dict(zip(COLUMNS, row, strict=True))) for row in rows.iter_rows()]


def _message(row: dict) -> v1.FinancialEvent:
    given = {name: value for name, value in row.items() if value is not None}
    given["occurred_at_ms"] = given.pop("occurred_at")
    return v1.FinancialEvent(**given)


def row_requests(load: workload.Workload, rows: int) -> list[bytes]:
    """Submit requests with so many protobuf rows each, serialised."""
    made = messages(load)
    parts = [made[start : start + rows] for start in range(0, len(made) - rows + 1, rows)]
    return [v1.SubmitRequest(rows=v1.EventRows(events=part)).SerializeToString() for part in parts]


def in_rounds(requests: list[bytes], first: int = 0) -> Iterator[bytes]:
    """The requests again and again, each time with other ids: new events of the same shape and size. `first`: the
    number of the first round, as rounds of one number have the same ids."""
    mark = workload.MARK.encode()
    for number in range(first, 10 ** (len(mark) - 2)):
        mine = b"~%0*d~" % (len(mark) - 2, number)
        for request in requests:
            yield request if number == 0 else request.replace(mark, mine)
