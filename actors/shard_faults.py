"""Why a shard can't go on: a log that lacks what a replay needs, or what came after the newest commit; or any error.

Owns how a log is found not to be whole, and what is said of it and of its shard. Changes nothing: the worker does.
"""

import polars as pl

from runtime.effects import of_the_runtime
from runtime.errors import LogIncomplete, PenstockError
from runtime.limits import TEXT_CHARS_MAX
from runtime.ports import CommitMark, Lease, LogReader, LogRecord

REMEDY = "put the log back as it was, or make all anew from a backup: penstock restore"


def taken(log: LogReader, shard: int, mark: CommitMark) -> list[LogRecord]:
    """What a commit took from the log. LogIncomplete when some of it is gone."""
    records = log.read_range(shard, mark.after, mark.position)
    found = sum(record.rows for record in records)
    if not records or records[-1].position != mark.position or found != mark.rows:
        lacks = f"{found} of {mark.rows} rows up to {mark.position}, which are booked and in no checkpoint"
        raise LogIncomplete(f"the log holds {lacks}; {REMEDY}")
    return records


def check_next(log: LogReader, shard: int, lease: Lease) -> None:
    """LogIncomplete when the log lacks what came after the newest commit. One that knows less than the books, as its
    newest entries were lost, lacks nothing that is still to be taken."""
    missing = log.rows_through(shard, lease.position) - lease.rows_total
    if missing > 0:
        raise LogIncomplete(f"the log lacks the {missing} rows that came after {lease.position}; {REMEDY}")


def cut_short(shard: int, epoch: int, lost: int, now_ms: int) -> pl.DataFrame:
    """The exception under which a log stands that came back without its newest entries: one, however often it shows."""
    what = (
        f"the log of shard {shard} has lost at least {lost} booked rows; what was acknowledged last must be sent again"
    )
    return of_the_runtime([("log_cut_short", f"{shard} {epoch}", what)], "penstock", now_ms)


def stopped(shard: int, error: BaseException | None, now_ms: int) -> pl.DataFrame:
    """The exception under which a shard stands that can't go on; an error of ours holds no payload, and says why."""
    why = f"{type(error).__name__}: {error}" if isinstance(error, PenstockError) else type(error).__name__
    told = f"shard {shard} can't go on, see the worker's log: {why}"
    return of_the_runtime([("shard_stopped", str(shard), told[:TEXT_CHARS_MAX])], "penstock", now_ms)


def stopped_ids(shard: int) -> list[str]:
    """The exceptions that end when the shard goes on."""
    return stopped(shard, None, 0)["exception_id"].to_list()
