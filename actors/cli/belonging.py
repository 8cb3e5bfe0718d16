"""Whether log, archive and books belong together, looked at before anything starts on them.

Owns what is said when they don't: a log that was emptied, cut short or swapped, books that are not the log's. Changes
nothing, unless it is told to go on without what a log has lost.
"""

from contextlib import closing
from pathlib import Path

from actors.shard_faults import REMEDY
from adapters.books import copying as books_copying
from adapters.log import copying as log_copying
from adapters.log.redis_streams import RedisLogReader
from runtime.errors import ConfigError
from runtime.ports import START, CopiedShard

RESTORING = "restoring"  # the file that stands in the data folder until a restore has ended


def check_restored(data: Path) -> None:
    """ConfigError when a restore into this folder was cut short: what is there is not all of it."""
    if (data / RESTORING).exists():
        remedy = "run penstock down, empty it, and archive, log and books elsewhere, then restore again"
        raise ConfigError(f"runtime.data_dir: a restore into {data} was cut short; {remedy}")


def check(log_url: str, books_url: str, archive: Path, shards: int, *, accept_loss: bool = False) -> None:
    """ConfigError when the log is not the one that these books go on from, or the archive is of other books.

    With `accept_loss` a log that has lost what is booked goes on where the books stand, if they need nothing of it.
    """
    stands = {stand.shard: stand for stand in books_copying.stands(books_url)}
    if not stands and any(archive.glob("steps/shard=*/*.parquet")):
        raise ConfigError("books.url: these books are empty, and the archive is not: they don't belong together")
    with closing(RedisLogReader(log_url)) as log:
        for shard in range(shards):
            stand = stands.get(shard) or CopiedShard(shard, START, START, "", 0, 0)
            _check_next(log, stand)
            if log.rows_appended(shard) < stand.rows_committed:
                _lost(log_url, log.rows_appended(shard), stand, accept_loss)


def _check_next(log: RedisLogReader, stand: CopiedShard) -> None:
    missing = log.rows_through(stand.shard, stand.position) - stand.rows_committed
    if missing > 0:
        lacks = f"shard {stand.shard}: the log no longer has {missing} rows that the books have not taken"
        raise ConfigError(f"log.url, books.url: {lacks}: these books are older, or another Penstock's; {REMEDY}")


def _lost(log_url: str, known: int, stand: CopiedShard, accept_loss: bool) -> None:
    """Go on behind what the books have, if that was accepted and is possible."""
    lost = f"log.url: shard {stand.shard}: the log knows of {known} rows, the books took {stand.rows_committed} from it"
    if stand.checkpoint != stand.position:
        raise ConfigError(f"{lost}, the last ones since its checkpoint; {REMEDY}")
    if not accept_loss:
        going_on = "to go on without what it held and was not booked: penstock up --accept-loss"
        raise ConfigError(f"{lost}: it was emptied, cut short or is another one; {REMEDY}; {going_on}")
    log_copying.reserve(log_url, stand.shard, stand.position)
