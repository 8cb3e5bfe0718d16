"""Copying a log while it runs, and filling a new one with what was copied.

Owns the hold, which keeps every shard's entries in place while they are copied, and the counters of a log that is put
back. A hold expires by itself: a copy whose process died stops nobody for longer than HOLD_MS.
"""

import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import redis

from adapters.log.redis_streams import Keys, RedisLogReader, connect, create, failure
from runtime.errors import ConfigError, LogUnavailable
from runtime.ports import START, CopiedShard, LogRecord, position_key

HOLD_MS = 60_000
RENEW_S = 15.0
PAGE_ROWS = 65_536

# KEYS: hold. ARGV: whose it is. Only its holder lets go of it.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_CODES = {"events": "e", "control": "c"}


@contextmanager
def held(url: str, prefix: str = "penstock") -> Iterator[None]:
    """Nothing is trimmed from this log while the block runs. ConfigError when somebody else holds it, LogUnavailable at
    the end when the hold was lost meanwhile: what was copied may then lack entries."""
    client, key, mine = connect(url), Keys(prefix).hold, secrets.token_hex(8)
    done = threading.Event()
    renewer = threading.Thread(target=_renew, args=(client, key, done), name="log-hold", daemon=True)
    try:
        if not client.set(key, mine, nx=True, px=HOLD_MS):
            raise ConfigError("a backup of this log is under way; wait for it, or a minute if it died")
        renewer.start()
        try:
            yield
        finally:
            done.set()
            renewer.join()
            kept = client.eval(_RELEASE, 1, key, mine)
        if not kept:
            raise LogUnavailable("the log could not be held while it was copied; make the copy again")
    except redis.RedisError as error:
        raise failure(error) from None
    finally:
        client.close()


def _renew(client: redis.Redis, key: str, done: threading.Event) -> None:
    while not done.wait(RENEW_S):
        try:
            client.pexpire(key, HOLD_MS)
        except redis.RedisError:  # the copy itself notices a log that is away
            return


def ends(url: str, shards: int, prefix: str = "penstock") -> dict[int, str]:
    """The newest position of each shard's stream."""
    client, keys = connect(url), Keys(prefix)
    try:
        newest = {shard: client.xrevrange(keys.stream(shard), count=1) for shard in range(shards)}
    except redis.RedisError as error:
        raise failure(error) from None
    finally:
        client.close()
    return {shard: found[0][0].decode() if found else START for shard, found in newest.items()}


def copied(reader: RedisLogReader, shard: int, after: str, to: str) -> Iterator[list[LogRecord]]:
    """All entries in (after, to], a page at a time."""
    while position_key(after) < position_key(to):
        page = reader.read({shard: after}, PAGE_ROWS, 0).get(shard, [])
        wanted = [record for record in page if position_key(record.position) <= position_key(to)]
        if not wanted:
            return
        yield wanted
        after = wanted[-1].position


class LogFiller:
    """Fills an empty log, shard by shard. Positions and counters become what they were."""

    def __init__(self, url: str, shards: int, prefix: str = "penstock") -> None:
        """ConfigError when anything was ever appended, or the log has another number of shards."""
        create(url, shards, prefix)
        self._redis, self._keys = connect(url), Keys(prefix)
        if any(self._redis.exists(self._keys.stream(shard)) for shard in range(shards)):
            raise ConfigError("log.url: this log holds entries; restore into an empty one")

    def fill(self, copied: CopiedShard, pages: Iterable[Sequence[LogRecord]]) -> int:
        """Append a shard's entries after its checkpoint; how many rows."""
        stream, total, last = self._keys.stream(copied.shard), copied.rows_checkpointed, START
        for page in pages:
            pipeline = self._redis.pipeline(transaction=False)
            for record in page:
                total += record.rows
                fields = ("t", _CODES[record.type], "n", record.rows, "c", total, "b", record.body)
                pipeline.execute_command("XADD", stream, record.position, *fields)
            pipeline.execute()
            last = page[-1].position
        if position_key(last) < position_key(copied.position):
            _reserve(self._redis, stream, copied.position)
        counters = {"appended": total, "committed": copied.rows_committed, "trimmed": copied.rows_checkpointed}
        self._redis.hset(self._keys.meta, mapping={f"{name}:{copied.shard}": n for name, n in counters.items()})
        return total - copied.rows_checkpointed

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def reserve(url: str, shard: int, position: str, prefix: str = "penstock") -> None:
    """Let the next entry of a shard that has lost its newest ones come after this position."""
    client = connect(url)
    try:
        _reserve(client, Keys(prefix).stream(shard), position)
    except redis.ResponseError:  # it does so already
        return
    except redis.RedisError as error:
        raise failure(error) from None
    finally:
        client.close()


def _reserve(client: redis.Redis, stream: str, position: str) -> None:
    client.execute_command("XADD", stream, position, "t", "c", "n", 0, "c", 0, "b", b"")
    client.xdel(stream, position)
