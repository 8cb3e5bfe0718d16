"""Steps as Parquet: the log's entries as they came, grouped by the commit that took them.

Owns the columns: one row an entry, `commit` the position of its step's last entry. Never decodes a body. Row groups are
small in bytes, so that reading a long history takes little memory.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.ports import ArchivedStep, LogRecord

GROUP_BYTES = 8 * 2**20  # of bodies in one row group
BATCH_ENTRIES = 64
_SCHEMA = pa.schema(
    [
        ("commit", pa.string()),
        ("position", pa.string()),
        ("type", pa.string()),
        ("rows", pa.int32()),
        ("body", pa.binary()),
    ]
)


def write(steps: Iterable[ArchivedStep], path: Path) -> None:
    """All entries of these steps, in order."""
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["commit", "type"]}
    with pq.ParquetWriter(path, _SCHEMA, **options) as writer:
        for group in _groups(steps):
            writer.write_table(pa.Table.from_pylist(group, _SCHEMA))


def _groups(steps: Iterable[ArchivedStep]) -> Iterator[list[dict]]:
    group: list[dict] = []
    size = 0
    for step in steps:
        for record in step.records:
            group.append(record._asdict() | {"commit": step.position})
            size += len(record.body)
            if size >= GROUP_BYTES:
                yield group
                group, size = [], 0
    if group:
        yield group


def read(path: Path) -> Iterator[ArchivedStep]:
    """The steps of a file, oldest first."""
    commit, taken = "", []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ENTRIES):
            for row in batch.to_pylist():
                if row["commit"] != commit and taken:
                    yield ArchivedStep(tuple(taken))
                    taken = []
                commit = row.pop("commit")
                taken.append(LogRecord(**row))
    if taken:
        yield ArchivedStep(tuple(taken))
