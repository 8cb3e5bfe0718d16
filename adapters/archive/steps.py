"""Steps as Parquet: the log's entries as they came, grouped by the commit that took them.

Owns the columns: one row an entry, `commit` the position of its step's last entry. Never decodes a body. Row groups are
small in bytes, so that reading a long history, or one step of it, takes little memory. Bodies of many events come
compressed: they are written as they are, and merged segments are compressed once more.
"""

from collections.abc import Iterable, Iterator, Sequence
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
    options = {"compression": "none", "use_dictionary": ["commit", "type"], "write_statistics": ["commit"]}
    with pq.ParquetWriter(path, _SCHEMA, **options) as writer:
        for group in _groups(steps):
            writer.write_table(_table(group))


_Placed = tuple[str, LogRecord]  # the commit's position, and one entry that it took


def _table(group: Sequence[_Placed]) -> pa.Table:
    commits, records = zip(*group, strict=True)
    return pa.table([pa.array(column) for column in (commits, *zip(*records, strict=True))], schema=_SCHEMA)


def _groups(steps: Iterable[ArchivedStep]) -> Iterator[list[_Placed]]:
    group: list[_Placed] = []
    size = 0
    for step in steps:
        for record in step.records:
            group.append((step.position, record))
            size += len(record.body)
            if size >= GROUP_BYTES:
                yield group
                group, size = [], 0
    if group:
        yield group


def read_one(path: Path, position: str) -> ArchivedStep | None:
    """The step of a file that ends at this position, without reading much of the others."""
    found = pq.read_table(path, filters=[("commit", "==", position)]).drop_columns("commit").to_pylist()
    return ArchivedStep(tuple(LogRecord(**row) for row in found)) if found else None


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
