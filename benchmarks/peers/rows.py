"""The events as files: made once from the benchmarks' workload, in each form that a peer asks for.

Owns the forms. A peer's file is a prefix of the same events, so that slow peers do the same work on less of it.
"""

from pathlib import Path

import polars as pl

from benchmarks import workload
from benchmarks.peers.task import ACCOUNTS
from runtime.schema import COLUMNS

MIX = "billing_and_cards"
SPARE = 1.1  # the workload is larger than the prefix, so that some card rows stay without their counterpart
FRAME_ROWS = 65_536
WARM, SMALL = 20_000, 1_000
EVENTS_MIN = 2 * SMALL


def events(count: int, seed: int) -> pl.DataFrame:
    """So many events in the order of arrival."""
    rows = workload.month_end(round(count * SPARE), seed, MIX).rows.head(count)
    strange = set(rows["kind"].unique()) - set(ACCOUNTS)
    assert not strange, f"kinds that the task does not know: {strange}"
    return rows


def write(rows: pl.DataFrame, root: Path, form: str) -> None:
    """The folders `full`, `small` and `warm` under `root`, each with the events in this form."""
    for name, count in {"full": len(rows), "small": SMALL, "warm": min(WARM, len(rows) // 5)}.items():
        folder = root / name
        folder.mkdir(parents=True)
        _FORMS[form](rows.head(count), folder)


def plain(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as text formats hold them: dates as ISO texts, moments as milliseconds."""
    return rows.with_columns(pl.col("occurred_at").dt.epoch("ms"), pl.col("effective_on").cast(pl.String()))


def _jsonl(rows: pl.DataFrame, folder: Path) -> None:
    plain(rows).write_ndjson(folder / "rows.jsonl")


def _csv(rows: pl.DataFrame, folder: Path) -> None:
    """With the place of each row as `seq`, for engines that keep no order."""
    plain(rows).with_row_index("seq").write_csv(folder / "rows.csv")


def _csv_bare(rows: pl.DataFrame, folder: Path) -> None:
    """The same without a header, in a folder of its own."""
    (folder / "rows").mkdir()
    plain(rows).with_row_index("seq").write_csv(folder / "rows" / "rows.csv", include_header=False)


def _frames(rows: pl.DataFrame, folder: Path) -> None:
    """Arrow streams of FRAME_ROWS rows, as producers send them."""
    for number, part in enumerate(rows.select(*COLUMNS).iter_slices(FRAME_ROWS)):
        part.write_ipc_stream(folder / f"{number:05d}.arrow")


_FORMS = {"jsonl": _jsonl, "csv": _csv, "csv_bare": _csv_bare, "frames": _frames}
