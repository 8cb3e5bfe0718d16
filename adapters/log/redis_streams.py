"""The event log on Redis or Valkey streams, one stream a shard.

Owns these keys (`{prefix}` in braces is a hash tag: a Redis Cluster keeps them in one slot, so scripts stay atomic):

    {prefix}:log:N      stream, one entry for each LogEntry of shard N
                          t   "e" events, "c" control
                          n   rows in this entry
                          c   rows ever appended to this shard, this entry included
                          b   body
    {prefix}:log:meta   hash
                          shards        S, set once by `create`
                          appended:N    rows ever appended to shard N
                          committed:N   rows its owner has committed, as the books count them
                          trimmed:N     rows of entries that were trimmed away
    {prefix}:log:hold   there while somebody copies the log: nothing is trimmed then; it expires by itself

Never decodes a body, never routes. The server's own persistence decides the durability, which is read, not assumed.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from runtime.errors import ConfigError, LogError, LogRefused, LogUnavailable
from runtime.ports import Appended, LogEntry, LogRecord, ShardLag, position_key

Durability = Literal["memory", "fsync_everysec", "fsync_always"]

TIMEOUT_S = 10.0
REPLICA_WAIT_MS = 2_000
CONNECTIONS_MAX = 16  # appends under way at once; their fsyncs are shared by the server
READ_WAIT_MS_MAX = 5_000  # well inside TIMEOUT_S, so that a quiet log is not taken for a dead one
PAGE_ENTRIES_MAX = 64  # bounds what is fetched for nothing when entries suddenly get large

_TYPE_CODES = {"events": b"e", "control": b"c"}
_TYPE_NAMES = {b"e": "events", b"c": "control"}

# A script that starts with #!lua is refused as a whole, before it runs, when the server can't store: all or none.
# KEYS: meta, then each entry's stream. ARGV: for each entry its shard, type, rows and body.
_APPEND = """#!lua
local shards = tonumber(redis.call('HGET', KEYS[1], 'shards') or 0)
for i = 1, #ARGV, 4 do
  if tonumber(ARGV[i]) >= shards then return redis.error_reply('NOSHARD no such shard in this log') end
end
local positions = {}
for i = 1, #ARGV, 4 do
  local total = redis.call('HINCRBY', KEYS[1], 'appended:' .. ARGV[i], ARGV[i + 2])
  local stream = KEYS[#positions + 2]
  positions[#positions + 1] =
    redis.call('XADD', stream, '*', 't', ARGV[i + 1], 'n', ARGV[i + 2], 'c', total, 'b', ARGV[i + 3])
end
return positions
"""

# What frees memory, or leads to it, must run when memory is full.
# KEYS: meta, stream, hold. ARGV: shard, last position to forget, first position to keep.
_TRIM = """#!lua flags=allow-oom
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local last = redis.call('XREVRANGE', KEYS[2], ARGV[2], '-', 'COUNT', 1)[1]
if not last then return 0 end
redis.call('HSET', KEYS[1], 'trimmed:' .. ARGV[1], last[2][6])
return redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[3])
"""

# Only ever raises: a worker that was overtaken before it could tell must not hide what its successor has committed.
# Committed rows that were never appended are those that the server has lost. KEYS: meta. ARGV: shard, rows.
_MARK = """#!lua flags=allow-oom
local rows, field = tonumber(ARGV[2]), 'committed:' .. ARGV[1]
if rows <= tonumber(redis.call('HGET', KEYS[1], field) or 0) then return 0 end
redis.call('HSET', KEYS[1], field, ARGV[2])
local lost = rows - tonumber(redis.call('HGET', KEYS[1], 'appended:' .. ARGV[1]) or 0)
if lost <= 0 then return 0 end
redis.call('HINCRBY', KEYS[1], 'appended:' .. ARGV[1], lost)
redis.call('HINCRBY', KEYS[1], 'trimmed:' .. ARGV[1], lost)
return lost
"""


class Keys(NamedTuple):
    """The names of a log's keys."""

    prefix: str

    @property
    def meta(self) -> str:
        """The hash of counters."""
        return f"{{{self.prefix}}}:log:meta"

    @property
    def hold(self) -> str:
        """The key that stops trimming."""
        return f"{{{self.prefix}}}:log:hold"

    def stream(self, shard: int) -> str:
        """The stream of a shard."""
        return f"{{{self.prefix}}}:log:{shard}"


def create(url: str, shards: int, prefix: str = "penstock") -> None:
    """Create the log with S shards, or check that it has that many. ConfigError names what does not fit."""
    meta = Keys(prefix).meta
    client = connect(url)
    try:
        client.hsetnx(meta, "shards", shards)
        found = int(client.hget(meta, "shards"))
        policy = client.info("memory").get("maxmemory_policy", "noeviction")
    except RedisError as error:
        raise failure(error) from None
    finally:
        client.close()
    if found != shards:
        raise ConfigError(f"runtime.shards: the log was created with {found}, not {shards}; S can't change")
    if policy.startswith("allkeys"):
        raise ConfigError(f"log.url: maxmemory-policy {policy} would evict events; set it to noeviction")


def connect(url: str) -> redis.Redis:
    """A connection for what may be sent twice."""
    # Everything sent through it may be sent twice, so one stale connection is worth a second try.
    return redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 1), protocol=2)


def failure(error: Exception) -> LogError:
    """What a client error means for the log. A server's answer may quote arguments, so only its code is kept."""
    if not isinstance(error, ResponseError):
        return LogUnavailable(f"the log did not answer ({type(error).__name__})")
    code = getattr(error, "status_code", None) or str(error).split(" ", 1)[0]
    return LogRefused(f"the log refused to store ({code if code.isalpha() and code.isupper() else 'ERR'})")


class RedisLogWriter:
    """LogWriter over pooled connections. With `replicas_min`, an append waits until so many replicas hold it on disk.

    That needs WAITAOF (Valkey, or Redis >= 7.2). A minimum that is not reached in time is LogUnavailable: the entries
    stay where they are, and whoever sends them again sends repeats.
    """

    def __init__(self, url: str, prefix: str = "penstock", replicas_min: int = 0) -> None:
        self._keys = Keys(prefix)
        self._replicas_min = replicas_min
        self._durability: Durability = "memory"
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            retry=AsyncRetry(NoBackoff(), 0),
            redis_connect_func=self._on_connect,
            protocol=2,
        )
        self._redis = redis.asyncio.Redis.from_pool(pool)

    async def _on_connect(self, connection: redis.asyncio.Connection) -> None:
        await connection.on_connect()
        self._durability = await _durability(connection)

    async def append(self, entries: Sequence[LogEntry]) -> Appended:
        """Append all entries or none. See LogWriter."""
        if not entries:
            return Appended((), self._durability, 0)
        keys = [self._keys.meta, *(self._keys.stream(entry.shard) for entry in entries)]
        arguments = [part for e in entries for part in (e.shard, _TYPE_CODES[e.type], e.rows, e.body)]
        call = ("EVAL", _APPEND, len(keys), *keys, *arguments)
        try:
            positions, replicas = await self._store(call)
        except (RedisError, OSError) as error:
            raise failure(error) from None
        return Appended(tuple(position.decode() for position in positions), self._durability, replicas)

    async def _store(self, call: tuple) -> tuple[list[bytes], int]:
        if self._replicas_min == 0:
            return await self._redis.execute_command(*call), 0
        # WAITAOF counts what its own connection wrote, so both calls go down the same one.
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.execute_command(*call)
        pipeline.execute_command("WAITAOF", 0, self._replicas_min, REPLICA_WAIT_MS)
        positions, confirmed = await pipeline.execute(raise_on_error=False)
        if isinstance(positions, Exception):
            raise positions
        if isinstance(confirmed, ResponseError):
            raise LogUnavailable("log.replicas_min: the log's server knows no WAITAOF, so it can't wait")
        if isinstance(confirmed, Exception):
            raise confirmed
        if confirmed[1] < self._replicas_min:
            few = f"{confirmed[1]} of {self._replicas_min} replicas confirmed within {REPLICA_WAIT_MS} ms"
            raise LogUnavailable(f"log.replicas_min: {few}; sending again is harmless")
        return positions, confirmed[1]

    async def lag(self) -> dict[int, ShardLag]:
        """Every shard's lag. See LogWriter."""
        try:
            meta = await self._redis.hgetall(self._keys.meta)
        except (RedisError, OSError) as error:
            raise LogUnavailable(f"the log did not answer ({type(error).__name__})") from None
        return {shard: _lag_of(meta, shard) for shard in range(int(meta.get(b"shards", 0)))}

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


async def _durability(connection: redis.asyncio.Connection) -> Durability:
    """What an acknowledged write survives, by the server's configuration. One that hides it is trusted with nothing."""
    await connection.send_command("CONFIG", "GET", "append*")
    try:
        answer = await connection.read_response()
    except ResponseError:
        return "memory"
    settings = dict(zip(answer[::2], answer[1::2], strict=True))
    if settings.get(b"appendonly") != b"yes":
        return "memory"
    return {b"always": "fsync_always", b"everysec": "fsync_everysec"}.get(settings.get(b"appendfsync"), "memory")


_COUNTERS = (b"appended", b"committed", b"trimmed")


def _lag_of(meta: dict[bytes, bytes], shard: int) -> ShardLag:
    appended, committed, trimmed = (int(meta.get(b"%s:%d" % (name, shard), 0)) for name in _COUNTERS)
    return ShardLag(appended, committed, appended - trimmed)


class RedisLogReader:
    """LogReader over one connection. Remembers how large each shard's entries were, to fetch what it can use."""

    def __init__(self, url: str, prefix: str = "penstock") -> None:
        self._keys = Keys(prefix)
        self._redis = connect(url)
        self._rows_per_entry: dict[int, int] = {}

    def shards(self) -> int:
        """S. ConfigError when nobody has created the log."""
        found = self._ask("HGET", self._keys.meta, "shards")
        if found is None:
            raise ConfigError("log.url: no log has been created there")
        return int(found)

    def read(self, after: dict[int, str], rows_max: int, wait_ms: int) -> dict[int, list[LogRecord]]:
        """Entries after each position. See LogReader."""
        if not after:
            return {}
        count = min(self._page(shard, rows_max) for shard in after)
        found = self._read_first(after, count, wait_ms)
        for shard, records in found.items():
            if len(records) == count:
                self._read_on(shard, records, rows_max)
        return {shard: _within(records, rows_max) for shard, records in found.items()}

    def _page(self, shard: int, rows_wanted: int) -> int:
        """How many entries are likely to hold so many rows."""
        return max(1, min(PAGE_ENTRIES_MAX, rows_wanted // self._rows_per_entry.get(shard, rows_wanted)))

    def _read_first(self, after: dict[int, str], count: int, wait_ms: int) -> dict[int, list[LogRecord]]:
        shard_of = {self._keys.stream(shard).encode(): shard for shard in after}
        block = ("BLOCK", min(wait_ms, READ_WAIT_MS_MAX)) if wait_ms > 0 else ()
        answer = self._ask("XREAD", "COUNT", count, *block, "STREAMS", *shard_of, *after.values())
        return {shard_of[name]: self._records(shard_of[name], raw) for name, raw in answer or ()}

    def _read_on(self, shard: int, records: list[LogRecord], rows_max: int) -> None:
        """Add pages while the shard has more and they are likely to fit."""
        while (room := rows_max - _weight(records)) >= self._rows_per_entry[shard]:
            count = self._page(shard, room)
            raw = self._ask("XRANGE", self._keys.stream(shard), f"({records[-1].position}", "+", "COUNT", count)
            records += self._records(shard, raw)
            if len(raw) < count:
                return

    def _records(self, shard: int, raw: list) -> list[LogRecord]:
        records = [_record(position, fields) for position, fields in raw]
        if records:
            self._rows_per_entry[shard] = -(-_weight(records) // len(records))
        return records

    def read_range(self, shard: int, after: str, to: str) -> list[LogRecord]:
        """All entries in (after, to]. See LogReader."""
        records: list[LogRecord] = []
        while True:
            start = f"({records[-1].position if records else after}"
            raw = self._ask("XRANGE", self._keys.stream(shard), start, to, "COUNT", PAGE_ENTRIES_MAX)
            records += [_record(position, fields) for position, fields in raw]
            if len(raw) < PAGE_ENTRIES_MAX:
                return records

    def rows_through(self, shard: int, position: str) -> int:
        """Rows ever appended up to this position. See LogReader."""
        appended = self.rows_appended(shard)  # first: what comes next is later
        following = self._ask("XRANGE", self._keys.stream(shard), f"({position}", "+", "COUNT", 1)
        return int(following[0][1][b"c"]) - int(following[0][1][b"n"]) if following else appended

    def rows_appended(self, shard: int) -> int:
        """Rows ever appended."""
        return int(self._ask("HGET", self._keys.meta, f"appended:{shard}") or 0)

    def mark_committed(self, shard: int, rows_total: int) -> int:
        """Tell writers how far this shard is. See LogReader."""
        return int(self._ask("EVAL", _MARK, 1, self._keys.meta, shard, rows_total))

    def trim(self, shard: int, through: str) -> None:
        """Forget entries up to and including this position. See LogReader."""
        keys = (self._keys.meta, self._keys.stream(shard), self._keys.hold)
        self._ask("EVAL", _TRIM, len(keys), *keys, shard, through, _next_position(through))

    def is_held(self) -> bool:
        """Whether it is held. See LogReader."""
        return bool(self._ask("EXISTS", self._keys.hold))

    def _ask(self, *call: object) -> object:
        try:
            return self._redis.execute_command(*call)
        except (RedisError, OSError) as error:
            raise LogUnavailable(f"the log did not answer ({type(error).__name__})") from None

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def _record(position: bytes, fields: dict[bytes, bytes]) -> LogRecord:
    return LogRecord(position.decode(), _TYPE_NAMES[fields[b"t"]], int(fields[b"n"]), fields[b"b"])


def _weight(records: list[LogRecord]) -> int:
    """Rows to count against a limit; a control message has none but is not free either."""
    return sum(max(1, record.rows) for record in records)


def _within(records: list[LogRecord], rows_max: int) -> list[LogRecord]:
    """The first record, and those after it that fit."""
    total = 0
    for i, record in enumerate(records):
        total += max(1, record.rows)
        if total > rows_max and i > 0:
            return records[:i]
    return records


def _next_position(position: str) -> str:
    ms, sequence = position_key(position)
    return f"{ms}-{sequence + 1}"
